//! `cargo xtask mutants`: puts known bugs back in, one after another, and fails if the simulator does not notice one.
//!
//! The bugs are listed in `src/mutant.rs`, by the world that has to notice them. The default tests do the same with a smaller budget.

use crate::process::cargo;
use anyhow::Result;

/// Puts each known bug back in and simulates until it is noticed.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Which bugs: those of a whole node, or those of the Raft core (default: both).
    #[arg(long, value_enum)]
    world: Option<World>,
    /// Runs of a node within which a bug must be noticed.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    runs: u64,
    /// Runs of the core, which are much shorter.
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    core_runs: u64,
    /// Seed of the first run.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Who has to notice a bug.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum World {
    Node,
    Core,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let (seed, runs, core_runs) = (flags.seed.to_string(), flags.runs.to_string(), flags.core_runs.to_string());
    let build = ["run", "--profile", "sim", "--package", "dkc-sim", "--features", "mutants", "--"];
    if flags.world != Some(World::Core) {
        cargo(&[&build[..], &[&seed, "--mutants", "--runs", &runs]].concat())?;
    }
    if flags.world != Some(World::Node) {
        cargo(&[&build[..], &["core", "--seed", &seed, "--mutants", "--runs", &core_runs]].concat())?;
    }
    Ok(())
}
