//! The command line of `dkc-sim`, as a library: the program reads it, and `tools/manual` describes it.

use clap::{CommandFactory, Parser};
use dkc::sim::Sabotage;

/// Runs simulated nodes, each from one seed, and checks every answer they give.
///
/// With a seed alone, runs it once and prints every event. With --runs or --minutes, runs seed after seed, from SEED (default
/// 0) on. The last line counts runs and violations; the exit code is 1 if there was any.
#[derive(Debug, Parser)]
#[command(name = "dkc-sim", version)]
pub struct Args {
    /// Seed of the run, or of the first of many.
    pub seed: Option<u64>,
    /// Run this many seeds.
    #[arg(long)]
    pub runs: Option<u64>,
    /// Run for this long.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Threads (default: one a core).
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Break a promise of the simulated shell on purpose: the checks must notice.
    #[arg(long, value_parser = sabotage)]
    pub sabotage: Option<Sabotage>,
    /// Put each known bug back in, one after another, and run seeds until it is caught: at most --runs of them each
    /// (needs a build with --features mutants)
    #[arg(long, conflicts_with_all = ["sabotage", "minutes"])]
    pub mutants: bool,
}

fn sabotage(name: &str) -> Result<Sabotage, String> {
    let known = Sabotage::ALL.iter().find(|sabotage| format!("{sabotage:?}") == name);
    known.copied().ok_or_else(|| format!("known are {:?}", Sabotage::ALL))
}

/// The definition of the command line.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}
