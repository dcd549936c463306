//! The command line of `dkc`, as a library: the program reads it, and `tools/manual` describes it.

#![allow(missing_docs, reason = "what is shown as help says it")]

pub mod args;

/// The definition of the command line.
#[must_use]
pub fn command() -> clap::Command {
    <args::Args as clap::CommandFactory>::command()
}
