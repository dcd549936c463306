//! `cargo xtask kill`: the long form of the test that kills the server under load and looks for what it acknowledged.

use crate::process;
use anyhow::Result;
use clap::Args;

/// Kills a loaded server with -9 again and again: everything acknowledged must be there, nothing unanswered twice.
#[derive(Args)]
pub(crate) struct Flags {
    /// How often.
    #[arg(long, default_value_t = 50)]
    times: u32,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let times = flags.times.to_string();
    let test = ["test", "--release", "--test", "it", "kill::", "--", "--nocapture"];
    process::run("cargo", &test, &[("DKC_KILLS", &times)])
}
