//! `dkc-bench`, the load generator: drives a server as hard as it is told to, and says what came of it. A library, so that
//! `tools/manual` can describe its command line.
//!
//! - `args` reads the command line into a `plan::Plan`.
//! - `mix`, `distribution` and `stream` decide what is asked next and for which keys: seeded, so that any run can
//!   be made again, and what was sent can be computed instead of remembered. `schedule` decides when, in an open loop.
//! - `generator` is the loop of a thread, `lane` one of its connections, `socket` the bytes of one; `protocol`
//!   is all they know of the server, and `link` all that is known of this project's.
//! - `tally` is what they measure, `run` starts and joins the loops.
//! - `validate` reads every count afterwards, and compares it with what was acknowledged.
//! - `environment`, `report` and `hgrm` say what was measured, and on what.
//! - `compare` puts it beside Redis and beside what the machine itself can do.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a tool reads clocks and starts threads")]

mod args;
mod compare;
mod distribution;
mod environment;
mod generator;
mod hgrm;
mod lane;
mod link;
mod mix;
mod owners;
mod plan;
mod protocol;
mod report;
mod run;
mod schedule;
mod socket;
mod stream;
mod tally;
mod validate;

use args::{Args, Command};
use clap::{CommandFactory, Parser, error::ErrorKind};
use environment::Environment;
use plan::Plan;
use report::Report;
use socket::DialError;
use std::io::{self, Write};
use std::process::ExitCode;

/// The validation failed, a connection broke, or anything that has no code of its own.
const EXIT_OTHER: u8 = 1;
const EXIT_UNREACHABLE: u8 = 3;

/// The definition of the command line.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(args) => {
            let json = args.json;
            execute(Plan::new(*args).unwrap_or_else(|text| usage(text)), json)
        }
        Command::Compare(args) => compare::execute(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_OTHER),
        Err(error) => {
            warn(&format!("{error:#}"));
            let is_unreachable = error.downcast_ref::<DialError>().is_some_and(|error| error.is_unreachable);
            ExitCode::from(if is_unreachable { EXIT_UNREACHABLE } else { EXIT_OTHER })
        }
    }
}

/// Ends the program because its arguments do not fit together.
fn usage(text: String) -> ! {
    Args::command().error(ErrorKind::ValueValidation, text).exit()
}

/// Runs and reports; returns whether all went well.
fn execute(mut plan: Plan, json: bool) -> anyhow::Result<bool> {
    let mut outcome = run::run(&mut plan)?;
    let plan = &plan;
    let measured = &outcome.measured;
    // Whatever cannot be found out or written afterwards is a failure of the run, but its figures stand.
    let mut failures: Vec<String> = measured.failures().map(str::to_owned).collect();
    if !failures.is_empty() {
        // Where connections broke, this one may have. What cannot be asked then fails below.
        outcome.control = outcome.control.reconnect(&plan.endpoints, plan.dial_timeout).unwrap_or(outcome.control);
    }
    let mut note = |error: anyhow::Error| failures.push(format!("{error:#}"));
    let status = outcome.control.status().map_err(|error| note(error.context("the server's status"))).ok();
    hgrm::write_files(plan, &measured.tallies).unwrap_or_else(&mut note);
    let validate = || validate::validate(plan, &measured.records, &mut outcome.control);
    let validation = plan.validate.then(validate).and_then(|validation| validation.map_err(&mut note).ok());
    let environment = Environment::new(status.as_ref());
    let addresses = &outcome.addresses;
    let report = Report { plan, addresses, measured, validation: validation.as_ref(), environment: &environment };
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", report.json())?;
    } else {
        report.text(&mut out)?;
    }
    failures.iter().for_each(|text| warn(text));
    Ok(failures.is_empty() && validation.is_none_or(|validation| validation.is_ok()))
}

/// Tells people. If even standard error is closed, there is nobody to tell.
fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "dkc-bench: {text}");
}
