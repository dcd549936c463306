//! What a run shall do: the arguments, checked against each other and completed.

use crate::args::RunArgs;
use crate::distribution::Distribution;
use crate::mix::{Mix, Operation};
use crate::owners::Owners;
use crate::schedule::Arrivals;
use crate::stream::{KEY_NAME_BYTES, stream_seed};
use dkc::client::batch::Batch;
use dkc::limits::CONNECTION_REQUESTS_MAX;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// So long after the warm-up.
    Elapsed(Duration),
    /// With so many requests after the warm-up, over all connections.
    Requests(u64),
    /// When each key was sent.
    Exhausted,
}

/// What sends the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// An answer to an earlier one.
    Closed,
    /// The clock.
    Open {
        /// Requests a second, over all connections.
        rate: u64,
        arrivals: Arrivals,
    },
}

/// What a run shall do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) endpoints: Vec<String>,
    pub(crate) dial_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) connections: usize,
    /// At most one for each connection.
    pub(crate) threads: usize,
    /// Connect to every store in turn.
    pub(crate) spread: bool,
    /// Each connection only asks for keys that its store owns.
    pub(crate) route: bool,
    /// Which those are, once a server has said it.
    pub(crate) owners: Option<Arc<Owners>>,
    /// Requests in flight on each connection, at most.
    pub(crate) depth: usize,
    /// Keys of each increment or get request.
    pub(crate) batch: usize,
    /// Distinct keys.
    pub(crate) keys: u64,
    pub(crate) key_bytes: usize,
    pub(crate) prefix: String,
    pub(crate) distribution: Distribution,
    pub(crate) mix: Mix,
    pub(crate) want_values: bool,
    /// Whether increments belong to a session, and so would count once however often they were sent.
    pub(crate) sessions: bool,
    /// Keys a top request asks for.
    pub(crate) top_keys: u32,
    pub(crate) pace: Pace,
    pub(crate) until: Until,
    pub(crate) warmup: Duration,
    pub(crate) seed: u64,
    pub(crate) validate: bool,
    /// Where the distribution of latencies is written to.
    pub(crate) hgrm: Option<PathBuf>,
}

impl Plan {
    /// # Errors
    /// Why the arguments do not fit together.
    pub(crate) fn new(args: RunArgs) -> Result<Plan, String> {
        let sequential = args.distribution == Distribution::Sequential;
        let until = match (args.requests, args.seconds) {
            (None, None) if sequential => Until::Exhausted,
            _ if sequential => {
                return Err("--distribution sequential ends by itself, when each key was sent".to_owned());
            }
            (Some(requests), _) => Until::Requests(requests),
            (None, seconds) => Until::Elapsed(seconds.unwrap_or(Duration::from_secs(10))),
        };
        let pace = args.rate.map_or(Pace::Closed, |rate| Pace::Open { rate, arrivals: args.arrivals });
        let depth = args.depth.map(|depth| depth as usize);
        let plan = Plan {
            endpoints: args.server.endpoints,
            dial_timeout: args.server.dial_timeout,
            timeout: args.server.timeout,
            connections: args.connections as usize,
            threads: args.threads.min(args.connections) as usize,
            spread: !args.no_spread,
            route: args.route,
            owners: None,
            depth: depth.unwrap_or(if pace == Pace::Closed { 8 } else { CONNECTION_REQUESTS_MAX }),
            batch: args.batch as usize,
            keys: args.keys,
            key_bytes: args.key_bytes as usize,
            prefix: args.prefix.map_or_else(random_prefix, Ok)?,
            distribution: args.distribution,
            mix: args.mix.unwrap_or(Mix::only(args.op)),
            want_values: args.values,
            sessions: !args.no_sessions,
            top_keys: args.k,
            pace,
            until,
            warmup: args.warmup.unwrap_or(if sequential { Duration::ZERO } else { Duration::from_secs(1) }),
            seed: args.seed,
            validate: args.validate,
            hgrm: args.hgrm,
        };
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), String> {
        if !self.mix.has(Operation::Increment) && (self.validate || self.want_values) {
            return Err("--validate and --values are for runs with increments".to_owned());
        }
        if self.route && matches!(self.distribution, Distribution::Sequential | Distribution::Latest) {
            return Err("--route is for distributions that choose among keys that are there".to_owned());
        }
        if self.until == Until::Elapsed(Duration::ZERO) {
            return Err("--seconds 0 measures nothing".to_owned());
        }
        if self.until == Until::Exhausted && self.mix == Mix::only(Operation::Top) {
            return Err("top requests have no keys that could be sent in sequence".to_owned());
        }
        let key_bytes_min = self.prefix.len() + KEY_NAME_BYTES;
        if self.key_bytes < key_bytes_min {
            return Err(format!(
                "the prefix has {} bytes and a key's name {KEY_NAME_BYTES}, so --key-bytes has to be {key_bytes_min} \
                 or more, or --prefix shorter",
                self.prefix.len()
            ));
        }
        let (mut batch, key) = (Batch::new(), vec![0; self.key_bytes]);
        while batch.len() < self.batch {
            if batch.push(&key, 1).is_err() {
                return Err(format!("with --key-bytes {}, at most --batch {} fits", self.key_bytes, batch.len()));
            }
        }
        Ok(())
    }

    /// Where the random numbers of a stream start.
    pub(crate) fn seed_of(&self, stream: u64) -> u64 {
        stream_seed(self.seed, stream)
    }
}

/// A prefix that no run before had.
pub(crate) fn random_prefix() -> Result<String, String> {
    let number = getrandom::u32().map_err(|error| format!("no random numbers for a prefix, give --prefix: {error}"))?;
    Ok(format!("{number:08x}"))
}

#[cfg(test)]
impl Plan {
    /// The plan of a command line.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Plan, String> {
        use crate::args::{Args, Command};
        use clap::Parser;
        let args = Args::try_parse_from(["dkc-bench", "run"].iter().chain(arguments));
        match args.map_err(|error| error.to_string())?.command {
            Command::Run(args) => Plan::new(*args),
            Command::Compare(_) => unreachable!("the command is run"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_follow_the_pace_and_the_choice_of_keys() {
        let plan = Plan::parse(&[]).expect("valid");
        assert_eq!((plan.depth, plan.batch, plan.until), (8, 1_024, Until::Elapsed(Duration::from_secs(10))));
        assert_eq!((plan.pace, plan.warmup, plan.prefix.len()), (Pace::Closed, Duration::from_secs(1), 8));
        let plan = Plan::parse(&["--rate", "9", "--requests", "5", "--threads", "9"]).expect("valid");
        assert_eq!((plan.depth, plan.threads, plan.until), (CONNECTION_REQUESTS_MAX, 4, Until::Requests(5)));
        assert_eq!(plan.pace, Pace::Open { rate: 9, arrivals: Arrivals::Constant });
        let plan = Plan::parse(&["--distribution", "sequential"]).expect("valid");
        assert_eq!((plan.until, plan.warmup), (Until::Exhausted, Duration::ZERO));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        assert!(Plan::parse(&["--op", "get", "--validate"]).is_err());
        assert!(Plan::parse(&["--mix", "get=1,top=1", "--values"]).is_err());
        assert!(Plan::parse(&["--mix", "get=1,increment=1", "--values", "--validate"]).is_ok());
        assert!(Plan::parse(&["--seconds", "0"]).is_err());
        assert!(Plan::parse(&["--distribution", "sequential", "--seconds", "1"]).is_err());
        assert!(Plan::parse(&["--distribution", "sequential", "--op", "top"]).is_err());
        assert!(Plan::parse(&["--prefix", "too long", "--key-bytes", "15"]).is_err());
        assert!(Plan::parse(&["--prefix", "", "--key-bytes", "8"]).is_ok());
        assert!(Plan::parse(&["--batch", "1000", "--key-bytes", "1024"]).is_ok());
        let refusal = Plan::parse(&["--batch", "1024", "--key-bytes", "1024"]).expect_err("over a megabyte");
        assert!(refusal.contains("at most --batch 1011 fits"), "{refusal}");
    }
}
