//! The command line's arguments.

use crate::distribution::Distribution;
use clap::{Parser, Subcommand, ValueEnum};
use dkc::limits::{BATCH_KEYS_MAX, CONNECTION_REQUESTS_MAX, KEY_BYTES_MAX, TOP_KEYS_MAX};
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
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send requests in a closed loop, and report rates and latencies
    ///
    /// Latency is the time from when a request is handed to its connection until its reply is there. Only answers
    /// count: what is refused is reported by its code, and neither sent again nor part of any latency.
    #[command(after_help = EXIT_CODES)]
    Run(RunArgs),
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    /// Add 1 to each key of a batch
    Increment,
    /// Read the count of each key of a batch
    Get,
    /// Read the highest counts
    Top,
}

#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// Servers to try, in this order
    #[arg(
        long,
        env = "DKC_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400"
    )]
    pub endpoints: Vec<String>,

    /// How long to wait for a connection, and for each answer
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout, default_value = "15")]
    pub timeout: Duration,

    /// Connections, a thread each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub connections: u32,

    /// Connect to the endpoint only, instead of to every store in turn
    #[arg(long)]
    pub no_spread: bool,

    /// Requests in flight on each connection [default: 8; top: always 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CONNECTION_REQUESTS_MAX as i64))]
    pub depth: Option<u32>,

    /// Keys of each request [default: 1024; top: always 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=BATCH_KEYS_MAX as i64))]
    pub batch: Option<u32>,

    /// Distinct keys to choose from
    #[arg(
        long, value_name = "N", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000)
    )]
    pub keys: u64,

    /// Length of each key: the prefix, 8 bytes that name the key, and filling
    #[arg(
        long, value_name = "BYTES", default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(8..=KEY_BYTES_MAX as i64)
    )]
    pub key_bytes: u32,

    /// What every key begins with; give it again to meet the same keys again [default: 8 random hexadecimal digits]
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,

    /// How keys are chosen: uniform, or zipf:EXPONENT such as zipf:0.99
    #[arg(long, value_name = "NAME", default_value = "uniform")]
    pub distribution: Distribution,

    /// What requests ask for
    #[arg(long, value_enum, default_value_t = Operation::Increment)]
    pub op: Operation,

    /// Ask for the new counts, instead of acknowledgements only
    #[arg(long)]
    pub values: bool,

    /// How many of the highest counts a top request asks for
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=TOP_KEYS_MAX as i64))]
    pub k: u32,

    /// How long to measure [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, conflicts_with = "requests")]
    pub seconds: Option<Duration>,

    /// How many requests to measure, over all connections, instead of for how long
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,

    /// How long to send before measuring
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "1")]
    pub warmup: Duration,

    /// Where the choice of keys starts: equal seeds send equal keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Afterwards read every key, and compare its count with the acknowledged increments; needs keys that nobody
    /// has counted before
    #[arg(long)]
    pub validate: bool,

    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
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
        let Command::Run(args) = Args::try_parse_from(["dkc-bench", "run"].iter().chain(arguments))?.command;
        Ok(args)
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn everything_has_a_default() {
        let args = parse(&[]).expect("valid");
        assert_eq!((args.connections, args.depth, args.batch, args.keys), (4, None, None, 1_000_000));
        assert_eq!((args.op, args.distribution), (Operation::Increment, Distribution::Uniform));
        assert_eq!((args.seconds, args.requests, args.warmup), (None, None, Duration::from_secs(1)));
    }

    #[test]
    fn options_are_checked() {
        let args = parse(&["--seconds", "2.5", "--distribution", "zipf:1.2", "--op", "get"]).expect("valid");
        assert_eq!(args.seconds, Some(Duration::from_millis(2_500)));
        assert_eq!((args.op, args.distribution), (Operation::Get, Distribution::Zipf { exponent: 1.2 }));
        for bad in [
            ["--batch", "16385"],
            ["--depth", "0"],
            ["--keys", "0"],
            ["--key-bytes", "1025"],
            ["--k", "10001"],
            ["--seconds", "-1"],
            ["--timeout", "0"],
            ["--distribution", "zipf:0"],
            ["--op", "put"],
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
        assert!(parse(&["--seconds", "1", "--requests", "1"]).is_err());
    }
}
