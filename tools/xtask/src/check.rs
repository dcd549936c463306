//! `cargo xtask check`: everything a change must pass.
//!
//! Every step runs, even after one has failed, so that one run tells all there is to fix.

use crate::process::{cargo, run as run_program};
use crate::{codegen, guards};
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Runs everything a change must pass: format, lints, guards, tests, documentation, licences.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Leaves out the tests, where they have run already.
    #[arg(long)]
    no_test: bool,
    /// Runs these steps only.
    #[arg(value_parser = STEPS.map(|(name, _)| name))]
    steps: Vec<String>,
}

/// How a step ended that did not fail.
pub(crate) enum Outcome {
    /// It found nothing wrong.
    Passed,
    /// It could not be done here, for the reason given.
    Skipped(String),
}

type Step = fn() -> Result<Outcome>;

/// In the order they run: what fails fast comes first.
const STEPS: [(&str, Step); 10] = [
    ("fmt", fmt),
    ("codegen", codegen::check),
    ("deny", deny),
    ("trees", guards::trees),
    ("clippy", clippy),
    ("features", features),
    ("tidy", tidy),
    ("test", test),
    ("benches", benches),
    ("docs", docs),
];

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let mut ended = Vec::new();
    for (name, step) in STEPS {
        let wanted = flags.steps.is_empty() || flags.steps.iter().any(|wanted| wanted == name);
        if !wanted || (flags.no_test && name == "test") {
            continue;
        }
        println!("\n== {name}");
        let start = Instant::now();
        let result = step();
        if let Err(error) = &result {
            println!("{error:#}");
        }
        ended.push((name, result, start.elapsed()));
    }
    summarize(&ended);
    let failed = ended.iter().filter(|(_, result, _)| result.is_err()).count();
    ensure!(failed == 0, "{failed} of {} steps failed", ended.len());
    Ok(())
}

fn summarize(ended: &[(&str, Result<Outcome>, Duration)]) {
    println!("\n{:<10} {:>8}  result", "step", "seconds");
    for (name, result, took) in ended {
        let text = match result {
            Ok(Outcome::Passed) => "passed".to_owned(),
            Ok(Outcome::Skipped(reason)) => format!("skipped: {reason}"),
            Err(error) => format!("FAILED: {error}"),
        };
        println!("{name:<10} {:>8.1}  {text}", took.as_secs_f64());
    }
}

fn fmt() -> Result<Outcome> {
    cargo(&["fmt", "--all", "--check"])?;
    // A workspace of its own.
    cargo(&["fmt", "--manifest-path", "tools/fuzz/libfuzzer/Cargo.toml", "--check"])?;
    Ok(Outcome::Passed)
}

fn clippy() -> Result<Outcome> {
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    Ok(Outcome::Passed)
}

/// Lints the library as its users build it. Of the whole workspace, clippy sees all features at once only, where
/// one that needs another goes unnoticed, and so does code that is dead without it.
fn features() -> Result<Outcome> {
    let package = ["clippy", "--package", "distributed-key-counter", "--lib"];
    let selections = [
        &["--bins"][..],
        &["--no-default-features"],
        &["--no-default-features", "--features", "sim"],
        &["--no-default-features", "--features", "tokio"],
    ];
    for features in selections {
        cargo(&[&package, features, &["--", "-D", "warnings"]].concat())?;
    }
    Ok(Outcome::Passed)
}

/// A part of the tests too; but it guards the code, so it runs even where those are left out.
fn tidy() -> Result<Outcome> {
    cargo(&["test", "--package", "distributed-key-counter", "--test", "tidy"])?;
    Ok(Outcome::Passed)
}

fn test() -> Result<Outcome> {
    cargo(&["test", "--workspace"])?;
    Ok(Outcome::Passed)
}

/// Runs each benchmark for a moment, so that none rots.
fn benches() -> Result<Outcome> {
    if !Path::new("benches").is_dir() {
        return Ok(Outcome::Skipped("there are none".to_owned()));
    }
    cargo(&["test", "--workspace", "--bench", "*", "--", "--test"])?;
    Ok(Outcome::Passed)
}

fn docs() -> Result<Outcome> {
    run_program("cargo", &["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    Ok(Outcome::Passed)
}

/// Licences, banned crates and sources. Not advisories: they need a database from the network.
fn deny() -> Result<Outcome> {
    let found = Command::new("cargo").args(["deny", "--version"]).output().map(|output| output.status);
    ensure!(
        found.as_ref().is_ok_and(ExitStatus::success),
        "cargo-deny not found; cargo install --locked cargo-deny --version 0.20.2"
    );
    cargo(&["deny", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"])?;
    Ok(Outcome::Passed)
}
