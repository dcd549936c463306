//! The command line's arguments.

use crate::distribution::Distribution;
use crate::mix::{Mix, Operation};
use crate::schedule::Arrivals;
use clap::{Parser, Subcommand};
use dkc::limits::{BATCH_KEYS_MAX, CONNECTION_REQUESTS_MAX, KEY_BYTES_MAX, TOP_KEYS_MAX};
use std::path::PathBuf;
use std::time::Duration;

/// What the exit codes mean, as the help shows it.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the validation failed, a connection broke, or another failure
  2  wrong usage
  3  no server could be reached";

/// Load generator for a DistributedKeyCounter cluster.
#[derive(Debug, Parser)]
#[command(name = "dkc-bench", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send requests, and report rates and latencies
    ///
    /// In a closed loop, each connection keeps --depth requests in flight; latency is the time from when a request is
    /// handed to its connection until its reply is there. With --rate the loop is open: requests are due at moments
    /// that nothing moves, and latency counts from these moments, whenever a request could leave. Only answers count:
    /// what is refused is reported by its code, and neither sent again nor part of any latency.
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArgs>),
    /// Measure dkc, a Redis server and the machine itself side by side, in one run
    ///
    /// Slices of each take turns, in an order that rotates, and ratios are taken round by round, so that what else
    /// happens on the machine hits all of them alike. Three kinds of load: one increment at a time on one connection;
    /// one at a time on each of --connections; and batches of --batch increments, several in flight. For one at a time
    /// there is a floor: a durable write of 4 KiB in --dir, and an echo over TCP on loopback. The keys that are counted
    /// stay in the servers: give it servers of its own.
    #[command(after_help = EXIT_CODES)]
    Compare(CompareArgs),
}

/// Where servers are, and how long to wait for them.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// Servers to try, in this order
    #[arg(
        long,
        env = "DKC_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400"
    )]
    pub(crate) endpoints: Vec<String>,

    /// How long to wait for each connection, and for the server's welcome
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout, default_value = "5")]
    pub(crate) dial_timeout: Duration,

    /// How long a connection may go without an answer while it waits for some
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout, default_value = "15")]
    pub(crate) timeout: Duration,
}

#[derive(clap::Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,

    /// Connections
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) connections: u32,

    /// Threads that drive the connections, at most one each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) threads: u32,

    /// Connect to the endpoint only, instead of to every store in turn
    #[arg(long)]
    pub(crate) no_spread: bool,

    /// Each connection only asks for keys that its store owns, as a client does that has a connection to every store
    #[arg(long, conflicts_with = "no_spread")]
    pub(crate) route: bool,

    /// Requests in flight on each connection, at most [default: 8; with --rate: as many as servers take]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CONNECTION_REQUESTS_MAX as i64))]
    pub(crate) depth: Option<u32>,

    /// Keys of each increment or get request
    #[arg(
        long, value_name = "N", default_value_t = 1_024,
        value_parser = clap::value_parser!(u32).range(1..=BATCH_KEYS_MAX as i64)
    )]
    pub(crate) batch: u32,

    /// Distinct keys to choose from
    #[arg(
        long, value_name = "N", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000)
    )]
    pub(crate) keys: u64,

    /// Length of each key: the prefix, 8 bytes that name the key, and filling
    #[arg(
        long, value_name = "BYTES", default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(8..=KEY_BYTES_MAX as i64)
    )]
    pub(crate) key_bytes: u32,

    /// What every key begins with; give it again to meet the same keys again [default: 8 random hexadecimal digits]
    #[arg(long, value_name = "TEXT")]
    pub(crate) prefix: Option<String>,

    /// How keys are chosen
    ///
    /// - uniform: all alike
    /// - zipf:EXPONENT, such as zipf:0.99: the key of rank r has a share proportional to
    ///   r^-EXPONENT
    /// - hot:FRACTION:PROBABILITY, such as hot:0.01:0.9: a hundredth of the keys is met nine
    ///   times in ten
    /// - latest: one increment in 20 counts a new key beyond --keys, the others prefer new keys
    ///   to old ones, by Zipf's law with 0.99
    /// - sequential: each key once, and then the run is over: to load a server
    #[arg(long, value_name = "CHOICE", default_value = "uniform", verbatim_doc_comment)]
    pub(crate) distribution: Distribution,

    /// What all requests ask for
    #[arg(long, value_enum, default_value_t = Operation::Increment)]
    pub(crate) op: Operation,

    /// What requests ask for by weight, such as increment=90,get=9,top=1
    #[arg(long, value_name = "OPERATION=WEIGHT,...", conflicts_with = "op")]
    pub(crate) mix: Option<Mix>,

    /// Ask for the new counts, instead of acknowledgements only
    #[arg(long)]
    pub(crate) values: bool,

    /// Send increments without sessions, so that servers need not remember them to count them once
    #[arg(long)]
    pub(crate) no_sessions: bool,

    /// How many of the highest counts a top request asks for
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=TOP_KEYS_MAX as i64))]
    pub(crate) k: u32,

    /// Open loop: so many requests a second over all connections, however fast the server is
    ///
    /// What was due and could not leave in time leaves later; so with a server that is too slow for the rate, the run
    /// takes longer than it was told to, and latencies grow to the end.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,

    /// How the requests of an open loop follow each other
    #[arg(long, value_enum, default_value_t = Arrivals::Constant, requires = "rate")]
    pub(crate) arrivals: Arrivals,

    /// How long to measure [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, conflicts_with = "requests")]
    pub(crate) seconds: Option<Duration>,

    /// How many requests to measure, over all connections, instead of for how long
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests: Option<u64>,

    /// How long to send before measuring [default: 1; with --distribution sequential: 0]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) warmup: Option<Duration>,

    /// Where the choice of keys starts: equal seeds send equal keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Afterwards read every key, and compare its count with the acknowledged increments; needs keys that nobody
    /// has counted before
    #[arg(long)]
    pub(crate) validate: bool,

    /// Write the distribution of all latencies to a file that HdrHistogram's plotters read, in microseconds; with a
    /// mix, that of each operation as well, to files beside it that have its name before the extension
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,

    /// Print one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,

    /// The Redis server to measure beside dkc; for a fair comparison it runs with --appendonly yes and --appendfsync
    /// always
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) redis: Option<String>,

    /// Where to write for the floor: a folder on the disk that the servers log to
    #[arg(long, value_name = "PATH", default_value = ".")]
    pub(crate) dir: PathBuf,

    /// How long everything takes together
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout, default_value = "60")]
    pub(crate) seconds: Duration,

    /// How often each has its turn
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,

    /// Connections with one request each
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) connections: u32,

    /// Increments of each batch: of a request for dkc, of a pipeline for Redis
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) batch: u32,

    /// Connections that send batches
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) batch_connections: u32,

    /// Batches in flight on each of them
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=CONNECTION_REQUESTS_MAX as i64))]
    pub(crate) batch_depth: u32,

    /// Distinct keys, of 16 bytes, chosen uniformly
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(crate) keys: u64,

    /// Print one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_duration(text, 0.001)
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    parse_duration(text, 0.0)
}

fn parse_duration(text: &str, seconds_min: f64) -> Result<Duration, String> {
    const SECONDS_MAX: f64 = 86_400.0;
    match text.parse() {
        Ok(seconds) if (seconds_min..=SECONDS_MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("a number of seconds from {seconds_min} to {SECONDS_MAX} is expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(arguments: &[&str]) -> Result<RunArgs, clap::Error> {
        match Args::try_parse_from(["dkc-bench", "run"].iter().chain(arguments))?.command {
            Command::Run(args) => Ok(*args),
            Command::Compare(_) => unreachable!("the command is run"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn everything_has_a_default() {
        let args = parse(&[]).expect("valid");
        assert_eq!((args.connections, args.depth, args.batch, args.keys), (4, None, 1_024, 1_000_000));
        assert_eq!((args.op, args.distribution), (Operation::Increment, Distribution::Uniform));
        assert_eq!((args.seconds, args.requests, args.warmup, args.rate), (None, None, None, None));
        assert!(Args::try_parse_from(["dkc-bench", "compare"]).is_ok());
    }

    #[test]
    fn options_are_checked() {
        let args = parse(&["--seconds", "2.5", "--distribution", "zipf:1.2", "--op", "get"]).expect("valid");
        assert_eq!(args.seconds, Some(Duration::from_millis(2_500)));
        assert_eq!((args.op, args.distribution), (Operation::Get, Distribution::Zipf { exponent: 1.2 }));
        assert!(parse(&["--rate", "1000", "--arrivals", "poisson", "--mix", "increment=9,get=1"]).is_ok());
        for bad in [
            ["--batch", "16385"],
            ["--depth", "0"],
            ["--keys", "0"],
            ["--key-bytes", "1025"],
            ["--k", "10001"],
            ["--seconds", "-1"],
            ["--timeout", "0"],
            ["--rate", "0"],
            ["--arrivals", "poisson"],
            ["--distribution", "zipf:0"],
            ["--op", "put"],
            ["--mix", "get"],
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
        assert!(parse(&["--seconds", "1", "--requests", "1"]).is_err());
        assert!(parse(&["--op", "get", "--mix", "get=1"]).is_err());
    }
}
