//! `dkc-bench`, the load generator: drives a server as hard as it is told to, and says what came of it.
//!
//! Each connection is a thread in a closed loop: it keeps a fixed number of requests in flight, and sends the next one
//! when a reply arrives. A slow server therefore slows the load down with it: rates are what the server sustains, and
//! latencies are what clients see at that rate, not what they would see if requests came at a pace of their own.
//!
//! - [`args`] reads the command line into a [`plan::Plan`].
//! - [`distribution`] and [`stream`] decide which key comes next: seeded, so that any run can be made again, and
//!   what was sent can be computed instead of remembered.
//! - [`worker`] is the loop of one connection, [`tally`] what it measures, [`run`] starts and joins the loops.
//! - [`validate`] reads every count afterwards, and compares it with what was acknowledged.
//! - [`environment`] and [`report`] say what was measured, and on what.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a tool reads clocks and starts threads")]

mod environment;
mod plan;
mod report;
mod run;
mod stream;
mod tally;
mod validate;
mod worker;

use args::{Args, Command};
use clap::{CommandFactory, Parser, error::ErrorKind};
use dkc::client::ClientError;
use dkc_bench::{args, distribution};
use environment::Environment;
use plan::Plan;
use std::io::{self, Write};
use std::process::ExitCode;

/// The validation failed, a connection broke, or anything that has no code of its own.
const EXIT_OTHER: u8 = 1;
const EXIT_UNREACHABLE: u8 = 3;

fn main() -> ExitCode {
    let Command::Run(args) = Args::parse().command;
    let json = args.json;
    let plan = Plan::new(args).unwrap_or_else(|text| Args::command().error(ErrorKind::ValueValidation, text).exit());
    match execute(&plan, json) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_OTHER),
        Err(error) => {
            warn(&format!("{error:#}"));
            let unreachable = matches!(error.downcast_ref(), Some(ClientError::Unreachable { .. }));
            ExitCode::from(if unreachable { EXIT_UNREACHABLE } else { EXIT_OTHER })
        }
    }
}

/// Runs and reports; returns whether all went well.
fn execute(plan: &Plan, json: bool) -> anyhow::Result<bool> {
    let mut outcome = run::run(plan)?;
    let validation = plan.validate.then(|| validate::validate(plan, &mut outcome));
    // A validation that could not be made is a failure of the run, but its figures stand.
    let (validation, unread) = match validation {
        Some(Ok(validation)) => (Some(validation), None),
        Some(Err(error)) => (None, Some(format!("{error:#}"))),
        None => (None, None),
    };
    let environment = Environment::new(&outcome.server_version);
    let mut out = io::stdout().lock();
    if json {
        let report = report::json(plan, &outcome, validation.as_ref(), &environment);
        writeln!(out, "{report}")?;
    } else {
        report::text(&mut out, plan, &outcome, validation.as_ref(), &environment)?;
    }
    outcome.failures.iter().map(ToString::to_string).chain(unread.clone()).for_each(|text| warn(&text));
    let is_valid = unread.is_none() && validation.is_none_or(|validation| validation.is_ok());
    Ok(is_valid && outcome.failures.is_empty())
}

/// Tells people. If even standard error is closed, there is nobody to tell.
fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "dkc-bench: {text}");
}
