//! What a run shall do: the arguments, checked against each other and completed.

use crate::args::{Operation, RunArgs};
use crate::distribution::Distribution;
use crate::stream::{KEY_NAME_BYTES, Keys};
use dkc::client::batch::Batch;
use std::time::Duration;

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// So long after the warm-up.
    Elapsed(Duration),
    /// With so many requests after the warm-up, over all connections.
    Requests(u64),
}

/// What a run shall do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) endpoints: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) connections: usize,
    /// Connect to every store in turn.
    pub(crate) spread: bool,
    /// Requests in flight on each connection.
    pub(crate) depth: usize,
    /// Keys of each request.
    pub(crate) batch: usize,
    /// Distinct keys.
    pub(crate) keys: u64,
    pub(crate) key_bytes: usize,
    pub(crate) prefix: String,
    pub(crate) distribution: Distribution,
    pub(crate) operation: Operation,
    pub(crate) want_values: bool,
    /// Keys a top request asks for.
    pub(crate) top_keys: u32,
    pub(crate) until: Until,
    pub(crate) warmup: Duration,
    pub(crate) seed: u64,
    pub(crate) validate: bool,
}

impl Plan {
    /// # Errors
    /// Why the arguments do not fit together.
    pub(crate) fn new(args: RunArgs) -> Result<Plan, String> {
        let (depth_default, batch_default) = if args.op == Operation::Top { (1, 1) } else { (8, 1_024) };
        let plan = Plan {
            endpoints: args.endpoints,
            timeout: args.timeout,
            connections: args.connections as usize,
            spread: !args.no_spread,
            depth: args.depth.unwrap_or(depth_default) as usize,
            batch: args.batch.unwrap_or(batch_default) as usize,
            keys: args.keys,
            key_bytes: args.key_bytes as usize,
            prefix: args.prefix.map_or_else(random_prefix, Ok)?,
            distribution: args.distribution,
            operation: args.op,
            want_values: args.values,
            top_keys: args.k,
            until: match args.requests {
                Some(requests) => Until::Requests(requests),
                None => Until::Elapsed(args.seconds.unwrap_or(Duration::from_secs(10))),
            },
            warmup: args.warmup,
            seed: args.seed,
            validate: args.validate,
        };
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), String> {
        if self.operation == Operation::Top && (self.depth, self.batch) != (1, 1) {
            return Err("top requests are sent one at a time: --depth and --batch have to be 1".to_owned());
        }
        if self.operation != Operation::Increment && (self.validate || self.want_values) {
            return Err("--validate and --values are for --op increment".to_owned());
        }
        if self.until == Until::Elapsed(Duration::ZERO) {
            return Err("--seconds 0 measures nothing".to_owned());
        }
        let key_bytes_min = self.prefix.len() + KEY_NAME_BYTES;
        if self.key_bytes < key_bytes_min {
            return Err(format!(
                "the prefix has {} bytes and a key's name {KEY_NAME_BYTES}, so --key-bytes has to be {key_bytes_min} \
                 or more, or --prefix shorter",
                self.prefix.len()
            ));
        }
        let (mut batch, mut keys) = (Batch::new(), Keys::new(self));
        while batch.len() < self.batch {
            if batch.push(keys.key(0), 1).is_err() {
                return Err(format!("with --key-bytes {}, at most --batch {} fits", self.key_bytes, batch.len()));
            }
        }
        Ok(())
    }
}

/// A prefix that no run before had.
fn random_prefix() -> Result<String, String> {
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
        let Command::Run(args) = args.map_err(|error| error.to_string())?.command;
        Plan::new(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_their_own_defaults() {
        let plan = Plan::parse(&[]).expect("valid");
        assert_eq!((plan.depth, plan.batch, plan.until), (8, 1_024, Until::Elapsed(Duration::from_secs(10))));
        assert_eq!(plan.prefix.len(), 8);
        let plan = Plan::parse(&["--op", "top", "--requests", "5"]).expect("valid");
        assert_eq!((plan.depth, plan.batch, plan.until), (1, 1, Until::Requests(5)));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        assert!(Plan::parse(&["--op", "top", "--depth", "2"]).is_err());
        assert!(Plan::parse(&["--op", "get", "--validate"]).is_err());
        assert!(Plan::parse(&["--seconds", "0"]).is_err());
        assert!(Plan::parse(&["--prefix", "too long", "--key-bytes", "15"]).is_err());
        assert!(Plan::parse(&["--prefix", "", "--key-bytes", "8"]).is_ok());
        assert!(Plan::parse(&["--batch", "1000", "--key-bytes", "1024"]).is_ok());
        let refusal = Plan::parse(&["--batch", "1024", "--key-bytes", "1024"]).expect_err("over a megabyte");
        assert!(refusal.contains("at most --batch 1011 fits"), "{refusal}");
    }
}
