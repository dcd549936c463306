//! `cargo xtask mutants`: puts known bugs back in, one after another, and fails if the simulator does not notice one.
//!
//! The bugs are listed in `src/mutant.rs`. The default tests do the same with a smaller budget.

use crate::process::cargo;
use anyhow::Result;

/// Puts each known bug back in and simulates until it is noticed.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Runs of the simulator within which a bug must be noticed.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    runs: u64,
    /// Seed of the first run.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let (seed, runs) = (flags.seed.to_string(), flags.runs.to_string());
    let build = ["run", "--release", "--package", "dkc-sim", "--features", "mutants", "--"];
    cargo(&[&build[..], &[&seed, "--mutants", "--runs", &runs]].concat())
}
