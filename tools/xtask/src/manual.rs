//! `cargo xtask manual`: man pages and shell completions of all programs, made by `tools/manual`.

use crate::process::cargo;
use anyhow::Result;
use clap::Args;

/// Makes man pages and shell completions of all programs.
#[derive(Args)]
pub(crate) struct Flags {
    /// Where to.
    #[arg(default_value = "target/manual")]
    folder: String,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    cargo(&["run", "--quiet", "--package", "dkc-manual", "--", &flags.folder])?;
    println!("{0}/man1 and {0}/completions are made", flags.folder);
    Ok(())
}
