//! `dkc`, the command line: increments, reads, bulk counting and status of a cluster.
//!
//! Results go to standard output and nothing else does; what people need to know goes to standard error. The exit
//! code says what kind of failure it was ([`args::EXIT_CODES`]). A reader that closes the pipe (`dkc top | head`)
//! has seen enough: that is no failure.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a tool reads files and clocks")]

mod count;
mod keys;
mod output;
mod split;
mod status;

use anyhow::Context;
use args::{Args, Command, UsageError};
use clap::Parser;
use dkc::client::ClientError;
use dkc::client::blocking::Connection;
use dkc::error::ErrorCode;
use dkc_cli::args;
use output::Row;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Some input was skipped, or anything that has no code of its own.
const EXIT_OTHER: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_UNREACHABLE: u8 = 3;
const EXIT_REFUSED: u8 = 4;
const EXIT_UNKNOWN: u8 = 5;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            warn(&format!("{error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(args: &Args) -> anyhow::Result<u8> {
    let connect = || Connection::connect(&args.endpoints, args.timeout);
    let mut out = io::BufWriter::new(io::stdout().lock());
    match &args.command {
        Command::Incr { key, delta, escaped } => {
            let key = keys::from_argument(key, *escaped)?;
            let reply = connect()?.increment(&[(&key, *delta)])?;
            let outcome = reply.outcome(0);
            if outcome != ErrorCode::Ok {
                return Err(ClientError::from_code(outcome, outcome.advice().to_owned(), 1).into());
            }
            let count = *reply.values.first().context("the server did not return the new count")?;
            output::write_one(&mut out, args.output, &Row { key: &key, count: Some(count) })?;
        }
        Command::Get { keys, escaped } => {
            let keys: Vec<_> = keys.iter().map(|key| keys::from_argument(key, *escaped)).collect::<Result<_, _>>()?;
            let counts = connect()?.get(&keys)?;
            let rows: Vec<_> = keys.iter().zip(counts).map(|(key, count)| Row { key, count }).collect();
            match rows.as_slice() {
                [row] => output::write_one(&mut out, args.output, row)?,
                rows => output::write_many(&mut out, args.output, rows)?,
            }
        }
        Command::Top { k } => {
            let top = connect()?.top_k(*k)?;
            let rows = top.keys.iter().zip(&top.counts).map(|(key, &count)| Row { key, count: Some(count) });
            output::write_many(&mut out, args.output, &rows.collect::<Vec<_>>())?;
        }
        Command::Count(input) => return Ok(count::run(connect()?, input)),
        Command::Status => status::write(&mut out, args.output, &connect()?.status()?)?,
    }
    out.flush()?;
    Ok(0)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() {
        return EXIT_USAGE;
    }
    error.downcast_ref().map_or(EXIT_OTHER, client_exit_code)
}

fn client_exit_code(error: &ClientError) -> u8 {
    match error {
        ClientError::Unreachable { .. } => EXIT_UNREACHABLE,
        ClientError::Refused { .. } => EXIT_REFUSED,
        ClientError::Unknown { .. } => EXIT_UNKNOWN,
        _ => EXIT_OTHER,
    }
}

/// Only standard output is written to with plain I/O, so a broken pipe is always its reader's.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Tells people. If even standard error is closed, there is nobody to tell.
fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "dkc: {text}");
}
