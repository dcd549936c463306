//! The command line of `dkc-sim`, as a library: the program reads it, and `tools/manual` describes it.

use clap::{CommandFactory, Parser};
use dkc::sim::Sabotage;

/// Runs simulated nodes, each from one seed, and checks every answer they give.
///
/// With a seed alone, runs it once and prints every event. With --runs or --minutes, runs seed after seed, from SEED (default
/// 0) on. The last line counts runs and violations; the exit code is 1 if there was any.
#[derive(Debug, Parser)]
#[command(name = "dkc-sim", version, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Another world than that of a node.
    #[command(subcommand)]
    pub world: Option<OtherWorld>,
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

/// The worlds beside that of a node.
#[derive(Debug, clap::Subcommand)]
pub enum OtherWorld {
    /// The Raft core alone: several replicas of several groups, hostile networks, disks and operators.
    Core(CoreArgs),
}

/// With a seed alone, runs it once and prints every event. With --runs or --minutes, runs seed after seed, from SEED (default 0) on.
#[derive(Debug, clap::Args)]
pub struct CoreArgs {
    /// Seed of the run, or of the first of many.
    #[arg(long)]
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
    /// Try every sequence of so many choices in a small world, instead of drawing some
    #[arg(long, value_name = "CHOICES", conflicts_with_all = ["seed", "runs", "minutes", "mutants"])]
    pub every: Option<usize>,
    /// Make a failing run small before it is printed.
    #[arg(long)]
    pub shrink: bool,
    /// Put each known bug of the core back in, one after another, and run seeds until it is caught: at most --runs of them each
    /// (needs a build with --features mutants)
    #[arg(long, conflicts_with = "minutes")]
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
