//! `cargo xtask kill`: the long forms of the tests that kill the server and look for what it acknowledged.

use crate::process;
use anyhow::Result;
use clap::Args;

/// Kills a loaded server with -9 again and again: everything acknowledged must be there, nothing unanswered twice.
#[derive(Args)]
pub(crate) struct Flags {
    /// How often [default: 50, or 20 during checkpoints].
    #[arg(long)]
    times: Option<u32>,
    /// Kills it while a checkpoint is being written, and says how many of the kills found one under way.
    #[arg(long)]
    during_checkpoints: bool,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let (tests, times) = if flags.during_checkpoints { ("killed_checkpoints::", 20) } else { ("kill::", 50) };
    let times = flags.times.unwrap_or(times).to_string();
    let test = ["test", "--release", "--test", "it", tests, "--", "--nocapture"];
    process::run("cargo", &test, &[("DKC_KILLS", &times)])
}
