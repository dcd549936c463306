//! A run: connect, let the loops run, gather what they measured.

use crate::distribution::Share;
use crate::generator::{Driven, Generator, Lateness};
use crate::lane::{Lane, Record};
use crate::link::{Control, Link};
use crate::owners::Owners;
use crate::plan::Plan;
use crate::protocol::Protocol;
use crate::tally::Tallies;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// What was measured on a number of connections.
pub(crate) struct Measured {
    /// From the end of the warm-up to the last answer.
    pub(crate) elapsed: Duration,
    pub(crate) tallies: Tallies,
    /// One for each connection.
    pub(crate) records: Vec<Record>,
    pub(crate) cost: Cost,
    /// In an open loop.
    pub(crate) lateness: Option<Lateness>,
}

impl Measured {
    /// Why connections failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &str> {
        self.records.iter().filter_map(|record| record.failure.as_deref())
    }
}

/// What the generator itself took, warm-up included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Of the processor, by all threads.
    pub(crate) busy: Duration,
    /// From start to end.
    pub(crate) elapsed: Duration,
    /// Sent.
    pub(crate) requests: u64,
}

/// A run against a server.
pub(crate) struct Outcome {
    /// Where the connections went, each address once.
    pub(crate) addresses: Vec<String>,
    pub(crate) measured: Measured,
    /// Outside of the load, for questions before and after it.
    pub(crate) control: Control,
}

/// Runs a plan, after completing it by what the server says.
///
/// # Errors
/// A connection could not be made; nothing was sent then. Connections that fail later are in the outcome.
pub(crate) fn run(plan: &mut Plan) -> anyhow::Result<Outcome> {
    let control = Control::connect(&plan.endpoints, plan.dial_timeout, plan.timeout)?;
    if plan.route {
        plan.owners = Some(Arc::new(Owners::of(&control.welcome)?));
    }
    let addresses = addresses(plan, &control);
    let measured = measure::<Link>(plan, &addresses)?;
    Ok(Outcome { addresses, measured, control })
}

/// Connects to addresses in turn and puts the plan's load on them.
///
/// # Errors
/// As [`run`].
pub(crate) fn measure<P: Protocol + Send>(plan: &Plan, addresses: &[String]) -> anyhow::Result<Measured> {
    allow_many_files();
    let mut lanes: Vec<Vec<Lane<P>>> = (0..plan.threads).map(|_| Vec::new()).collect();
    for number in 0..plan.connections {
        let opened = P::open(plan, &addresses[number % addresses.len()], Instant::now() + plan.dial_timeout)?;
        lanes[number % plan.threads].push(Lane::new(plan, number, opened));
    }
    let start = Instant::now();
    let driven: Vec<Driven> = thread::scope(|scope| {
        let drive = |(number, lanes)| {
            let share = Share { number: number as u64, of: plan.threads as u64 };
            let builder = thread::Builder::new().name(format!("generator-{number}"));
            builder.spawn_scoped(scope, move || Ok(Generator::new(plan, share, lanes, start)?.run()))
        };
        let threads: Vec<_> = lanes.into_iter().enumerate().map(drive).collect::<Result<_, _>>()?;
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("a panic ends the process");
        anyhow::Ok(threads.into_iter().map(join).collect::<Result<_, std::io::Error>>()?)
    })?;
    Ok(gather(plan, start, driven))
}

/// Raises the number of files, and so of connections, that this process may have to what an administrator allows. Where
/// that is refused or not enough, connecting says so.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn gather(plan: &Plan, start: Instant, driven: Vec<Driven>) -> Measured {
    let elapsed = start.elapsed();
    let (mut tallies, mut lateness, mut busy) = (Tallies::new(), None::<Lateness>, Duration::ZERO);
    let (mut last_answer, mut records) = (None, Vec::new());
    for thread in driven {
        tallies.merge(&thread.tallies);
        busy += thread.busy;
        last_answer = last_answer.max(thread.last_answer);
        records.extend(thread.records);
        match (&mut lateness, thread.lateness) {
            (Some(sum), Some(other)) => sum.merge(&other),
            (sum, other) => *sum = sum.take().or(other),
        }
    }
    records.sort_by_key(|&(number, _)| number);
    let records: Vec<Record> = records.into_iter().map(|(_, record)| record).collect();
    let cost = Cost { busy, elapsed, requests: records.iter().map(|record| record.sent).sum() };
    let measured_from = start + plan.warmup;
    let elapsed = last_answer.map_or(Duration::ZERO, |last| last.saturating_duration_since(measured_from));
    Measured { elapsed, tallies, records, cost, lateness }
}

/// Where connections go, in turn.
pub(crate) fn addresses(plan: &Plan, control: &Control) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    if plan.spread {
        addresses.extend(control.store_addresses().map(str::to_owned));
    }
    if addresses.is_empty() {
        addresses.push(control.endpoint.clone());
    }
    addresses.truncate(plan.connections);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::redis::Redis;
    use crate::mix::Operation;
    use crate::socket::TOO_LATE;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    /// What an increment of a key of 16 bytes is in the protocol of Redis, which takes a server of a few lines.
    const COMMAND_BYTES: usize = "*3\r\n$6\r\nINCRBY\r\n$16\r\n0123456789abcdef\r\n$1\r\n1\r\n".len();

    /// Serves one connection after another: `answer` is called for each command with its number on the connection, and
    /// ends the connection by returning false.
    fn serve(answer: impl Fn(usize, &mut TcpStream) -> bool + Send + Sync + 'static) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = listener.local_addr().expect("bound").to_string();
        let answer = std::sync::Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.expect("a client"), answer.clone());
                thread::spawn(move || {
                    let mut number = 0;
                    while stream.read_exact(&mut [0; COMMAND_BYTES]).is_ok() && answer(number, &mut stream) {
                        number += 1;
                    }
                    // Closed with something unread, it would take back the answers that the client has not read.
                    let _ = stream.shutdown(Shutdown::Write).and_then(|()| stream.read_to_end(&mut Vec::new()));
                });
            }
        });
        vec![endpoint]
    }

    fn acknowledge(stream: &mut TcpStream) -> bool {
        stream.write_all(b":1\r\n").is_ok()
    }

    fn plan(arguments: &[&str]) -> Plan {
        Plan::parse(&[&["--warmup", "0"], arguments].concat()).expect("valid")
    }

    #[test]
    fn a_number_of_requests_is_kept_to_over_all_threads_and_connections() {
        let server = serve(|_, stream| acknowledge(stream));
        for pace in [&[][..], &["--rate", "10000"], &["--rate", "10000", "--arrivals", "poisson"]] {
            let shape = ["--requests", "101", "--connections", "5", "--threads", "2", "--depth", "3", "--batch", "7"];
            let measured = measure::<Redis>(&plan(&[&shape, pace].concat()), &server).expect("reachable");
            let tally = measured.tallies.of(Operation::Increment);
            assert_eq!((tally.requests, tally.keys, tally.latency.len()), (101, 707, 101));
            assert_eq!((measured.cost.requests, measured.failures().count()), (101, 0));
            assert_eq!(measured.lateness.map(|lateness| lateness.all.len()), (!pace.is_empty()).then_some(101));
        }
    }

    #[test]
    fn requests_that_a_server_holds_up_have_waited_since_they_were_due() {
        const HOLD: Duration = Duration::from_millis(300);
        let server = serve(|number, stream| {
            if number == 0 {
                thread::sleep(HOLD);
            }
            acknowledge(stream)
        });
        // One at a time, all of them due within 100 milliseconds: none can leave before the server lets go of the
        // first, 200 milliseconds after the last was due. A loop that starts its clock when it sends would see one
        // slow request.
        let plan = plan(&["--rate", "1000", "--requests", "100", "--connections", "1", "--depth", "1", "--batch", "1"]);
        let measured = measure::<Redis>(&plan, &server).expect("reachable");
        let (latency, lateness) =
            (&measured.tallies.of(Operation::Increment).latency, measured.lateness.expect("open"));
        let at_least = |micros: u128| micros >= (HOLD - Duration::from_millis(101)).as_micros();
        assert!(at_least(u128::from(latency.min() / 1_000)), "{} ns", latency.min());
        assert!(at_least(u128::from(lateness.all.value_at_percentile(50.0) / 1_000)));
        assert_eq!((latency.len(), lateness.own.len()), (100, 100));
    }

    #[test]
    fn what_is_in_flight_when_a_server_hangs_up_is_unknown() {
        let server = serve(|number, stream| number < 10 && acknowledge(stream));
        let shape = ["--connections", "3", "--depth", "4", "--batch", "5", "--validate"];
        let measured = measure::<Redis>(&plan(&shape), &server).expect("reachable");
        let tally = measured.tallies.of(Operation::Increment);
        assert_eq!((tally.requests, tally.unknown), (2 * 3, 3 * 4 * 5), "two answered and four in flight on each");
        assert!(measured.records.iter().all(|record| record.sent == 6 && record.exceptions.len() == 4));
        assert_eq!(measured.failures().count(), 3);
    }

    #[test]
    fn a_server_that_falls_silent_is_given_up() {
        let server = serve(|_, _| true);
        for pace in [&[][..], &["--rate", "10000"]] {
            let shape = ["--connections", "2", "--depth", "1", "--timeout", "0.05"];
            let measured = measure::<Redis>(&plan(&[&shape, pace].concat()), &server).expect("reachable");
            assert_eq!(measured.failures().collect::<Vec<_>>(), [TOO_LATE; 2]);
            assert_eq!(measured.tallies.of(Operation::Increment).unknown, 2 * 1_024);
        }
    }

    #[test]
    fn nobody_to_connect_to_is_an_error() {
        let gone = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").to_string();
        let error = measure::<Redis>(&plan(&[]), &[gone]).err().expect("nobody listens");
        assert!(error.downcast_ref::<crate::socket::DialError>().is_some_and(|error| error.is_unreachable));
    }
}
