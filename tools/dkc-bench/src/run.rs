//! A run: connect, let the loops run, gather what they measured.

use crate::distribution::Share;
use crate::generator::{Driven, Generator, Lateness};
use crate::lane::{Lane, Record};
use crate::link::{Control, Link};
use crate::plan::Plan;
use crate::protocol::Protocol;
use crate::tally::Tallies;
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

/// Runs a plan.
///
/// # Errors
/// A connection could not be made; nothing was sent then. Connections that fail later are in the outcome.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let control = Control::connect(&plan.endpoints, plan.dial_timeout, plan.timeout)?;
    let addresses = addresses(plan, &control);
    let measured = measure::<Link>(plan, &addresses)?;
    Ok(Outcome { addresses, measured, control })
}

/// Connects to addresses in turn and puts the plan's load on them.
///
/// # Errors
/// As [`run`].
pub(crate) fn measure<P: Protocol + Send>(plan: &Plan, addresses: &[String]) -> anyhow::Result<Measured> {
    let mut lanes: Vec<Vec<Lane<P>>> = (0..plan.threads).map(|_| Vec::new()).collect();
    for number in 0..plan.connections {
        let opened = P::open(&addresses[number % addresses.len()], Instant::now() + plan.dial_timeout)?;
        lanes[number % plan.threads].push(Lane::new(plan, number, opened));
    }
    let start = Instant::now();
    let driven: Vec<Driven> = thread::scope(|scope| {
        let drive = |(number, lanes)| {
            let share = Share { number: number as u64, of: plan.threads as u64 };
            let builder = thread::Builder::new().name(format!("generator-{number}"));
            builder.spawn_scoped(scope, move || Ok(Generator::new(plan, share, lanes, start)?.run(share)))
        };
        let threads: Vec<_> = lanes.into_iter().enumerate().map(drive).collect::<Result<_, _>>()?;
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("a panic ends the process");
        anyhow::Ok(threads.into_iter().map(join).collect::<Result<_, std::io::Error>>()?)
    })?;
    Ok(gather(plan, start, driven))
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
