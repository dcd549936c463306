//! What a well-behaved client and the server's memory feel of clients that are not.
//!
//! `cargo bench --bench hostile [-- --seconds N]`
//!
//! A server with its defaults, and one client that increments a key at a modest fixed rate, one request at a time; its
//! latencies count from the moment a request was due, so a stall is seen by every request that falls into it. They are taken
//! alone, and again while one kind of hostile client does its worst against the same store, from before it begins. After each
//! kind the server is started anew, so that its memory is only its own.
//!
//! Everything runs on one machine: what hostile clients cost in processor time by themselves is part of the figures.
//!
//! With `--test`, or when not run by `cargo bench`, everything is small and short, so that it cannot rot.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads clocks and starts processes"
)]

#[allow(dead_code, reason = "tests need more of it")]
#[path = "../tests/it/raw.rs"]
mod raw;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dkc::client::blocking::Connection;
use dkc::limits::REQUEST_BYTES_MAX;
use dkc::wire::client::Reply;
use dkc::wire::frame::{Kind, push_frame};
use hdrhistogram::Histogram;
use raw::{Raw, increment, top};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Requests a second of the well-behaved client: so few that one is answered before the next is due, and a delay is what a request
/// has felt, not what those before it have.
const RATE: u32 = 200;
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a hostile client is given: where to, how much, until when, and where to count what it has achieved.
struct Order<'a> {
    address: &'a str,
    size: u64,
    /// Set once it does its worst.
    ready: &'a AtomicBool,
    stop: &'a AtomicBool,
    done: &'a AtomicU64,
}

impl Order<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    fn count(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps its connections as they are until the end.
    fn hold(&self, connections: Vec<Raw>) {
        self.begin();
        while self.goes_on() {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(connections);
    }
}

/// Nobody waits for one that has failed.
impl Drop for Order<'_> {
    fn drop(&mut self) {
        self.begin();
    }
}

/// A kind of hostile client: its name, what it counts, its size, and what it does.
type Kinds = [(&'static str, &'static str, u64, fn(&Order<'_>)); 5];

const KINDS: Kinds = [
    ("slow readers", "connected, reading nothing", 100, slow_readers),
    ("half frames of 1 MiB", "sent", 1_000, half_frames),
    ("oversize frames in a loop", "refused", 1, oversize_frames),
    ("idle connections", "connected", 10_000, idle_connections),
    ("pipelined requests, again and again", "answered", 100_000, pipelined_requests),
];

/// Each asks for as many large answers as the server lets it, and reads none.
fn slow_readers(order: &Order<'_>) {
    let requests: Vec<u8> = (2..3_000).flat_map(|id| top(id, 10_000)).collect();
    let connections = (0..order.size).take_while(|_| order.goes_on()).map(|_| {
        let mut raw = Raw::greeted(order.address);
        raw.stream.set_nonblocking(true).expect("set");
        while raw.stream.write_all(&requests).is_ok() {}
        order.count();
        raw
    });
    order.hold(connections.collect());
}

/// Each sends a large frame but for its last byte.
fn half_frames(order: &Order<'_>) {
    let frame = increment(2, 1_000, 1_000);
    let connections = (0..order.size).take_while(|_| order.goes_on()).map(|_| {
        let mut raw = Raw::greeted(order.address);
        raw.send(&frame[..frame.len() - 1]);
        order.count();
        raw
    });
    order.hold(connections.collect());
}

/// Announces a frame that is too large, sends of it what it can, is refused, and comes again.
fn oversize_frames(order: &Order<'_>) {
    let mut frame = Vec::new();
    push_frame(&mut frame, Kind::Increment, 2, &vec![0; REQUEST_BYTES_MAX + 1]);
    order.begin();
    while order.goes_on() {
        let mut raw = Raw::greeted(order.address);
        match raw.stream.write_all(&frame) {
            Err(error) if ![ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => {
                panic!("{error}")
            }
            _ => order.count(),
        }
    }
}

fn idle_connections(order: &Order<'_>) {
    let connections = (0..order.size).take_while(|_| order.goes_on()).map(|_| {
        order.count();
        Raw::greeted(order.address)
    });
    order.hold(connections.collect());
}

/// Sends all requests without waiting for an answer, reads the answers beside, and begins again.
fn pipelined_requests(order: &Order<'_>) {
    let requests: Vec<u8> = (0..order.size).flat_map(|id| increment(id, 1, 16)).collect();
    let mut raw = Raw::greeted(order.address);
    order.begin();
    while order.goes_on() {
        let mut writer = raw.stream.try_clone().expect("a second handle");
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&requests).expect("the server takes all of them, in its time"));
            for _ in 0..order.size {
                assert!(matches!(raw.reply(), Some((_, Reply::Increment(_)))));
                order.count();
            }
        });
    }
}

/// A server of this build, on a free port of loopback.
struct Server {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_dkc-server"));
        command.arg("--data-dir").arg(folder.path()).args(["--listen", "127.0.0.1:0", "--log-level", "error"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server's binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("ready ").map(str::to_owned));
        let address = address.expect("the server says where it is ready, or why not");
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address, _folder: folder }
    }

    /// Bytes of its memory that are resident.
    fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was felt for some time.
struct Felt {
    micros: Histogram<u64>,
    /// Highest seen.
    resident_bytes: u64,
}

impl Felt {
    fn quantile(&self, quantile: f64) -> f64 {
        self.micros.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// Increments at the fixed rate, and looks at the server's memory now and then, from now on until so much time has passed
/// since `ready`.
fn feel(server: &Server, client: &mut Connection, time: Duration, ready: &AtomicBool) -> Felt {
    let micros = Histogram::new_with_max(TIMEOUT.as_micros() as u64, 3).expect("three digits of a minute fit");
    let mut felt = Felt { micros, resident_bytes: server.resident_bytes() };
    let start = Instant::now();
    let mut end = None;
    for request in 1.. {
        let due = start + Duration::from_secs(1) / RATE * request;
        if ready.load(Ordering::Relaxed) && due > *end.get_or_insert(due + time) {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        client.increment(&[("well-behaved", 1)]).expect("a well-behaved client is served");
        felt.micros.saturating_record(due.elapsed().as_micros() as u64);
        if request % (RATE / 20) == 0 {
            felt.resident_bytes = felt.resident_bytes.max(server.resident_bytes());
        }
    }
    felt
}

/// Thousands of connections are as many files, here as at the server, which raises its own limit.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("a process may do that");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let tiny = arguments.iter().any(|argument| argument == "--test") || !arguments.iter().any(|a| a == "--bench");
    let seconds = arguments.iter().position(|argument| argument == "--seconds").map(|place| {
        let seconds = arguments.get(place + 1).and_then(|seconds| seconds.parse().ok());
        seconds.expect("--seconds needs a number")
    });
    let time = Duration::from_secs_f64(seconds.unwrap_or(if tiny { 0.2 } else { 8.0 }));
    raise_file_limit();
    println!("{RATE} increments/s, milliseconds; resident memory of the server in MiB, highest seen");
    println!("{:<38} {:>17} {:>26} {:>8} {:>8}", "", "alone", "meanwhile", "memory", "");
    println!(
        "{:<38} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}  what was done",
        "hostile clients", "p50", "p99", "p50", "p99", "max", "alone", "mean."
    );
    for (name, achievement, size, act) in KINDS {
        let size = if tiny { size.div_ceil(100) } else { size };
        let server = Server::start();
        let mut client = Connection::connect(std::slice::from_ref(&server.address), TIMEOUT).expect("it serves");
        // Some large keys, so that there can be large answers.
        let mut raw = Raw::greeted(&server.address);
        raw.send(&increment(2, 1_000, 1_000));
        assert!(matches!(raw.reply(), Some((2, Reply::Increment(_)))));
        let alone = feel(&server, &mut client, time, &AtomicBool::new(true));
        let (ready, stop, done) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
        let meanwhile = std::thread::scope(|scope| {
            let order = Order { address: &server.address, size, ready: &ready, stop: &stop, done: &done };
            scope.spawn(move || act(&order));
            let felt = feel(&server, &mut client, time, &ready);
            stop.store(true, Ordering::Relaxed);
            felt
        });
        println!(
            "{name:<38} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8} {:>8}  {} {achievement}",
            alone.quantile(0.5),
            alone.quantile(0.99),
            meanwhile.quantile(0.5),
            meanwhile.quantile(0.99),
            meanwhile.quantile(1.0),
            alone.resident_bytes >> 20,
            meanwhile.resident_bytes >> 20,
            done.load(Ordering::Relaxed),
        );
    }
}
