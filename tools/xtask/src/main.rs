//! `cargo xtask`: the chores of this repository, one file a command.
//!
//! - [`check`]: everything a change must pass. The same on a developer's machine and in `.ci/run`.
//! - [`codegen`]: makes the committed Rust code from the schema.
//! - [`fuzz`]: runs the fuzzers.
//! - [`kill`]: kills a loaded server many times.
//! - [`manual`]: makes man pages and shell completions.
//! - [`mutants`]: puts known bugs back in, to see them noticed.
//!
//! All commands run other programs in the root of the repository and show what they run; [`process`] is how.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a tool that runs programs and edits files")]

mod check;
mod codegen;
mod fuzz;
mod guards;
mod kill;
mod manual;
mod mutants;
mod process;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;

/// The chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Flags),
    Codegen(codegen::Flags),
    Fuzz(fuzz::Flags),
    Kill(kill::Flags),
    Manual(manual::Flags),
    Mutants(mutants::Flags),
}

fn main() -> ExitCode {
    match run(Flags::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::set_current_dir(&root).with_context(|| format!("cannot work in {}", root.display()))?;
    match command {
        Command::Check(flags) => check::run(&flags),
        Command::Codegen(flags) => codegen::run(&flags),
        Command::Fuzz(flags) => fuzz::run(&flags),
        Command::Kill(flags) => kill::run(&flags),
        Command::Manual(flags) => manual::run(&flags),
        Command::Mutants(flags) => mutants::run(&flags),
    }
}
