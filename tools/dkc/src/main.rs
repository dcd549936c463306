//! `dkc`, the command line: increments, reads, bulk counting and status of a cluster.
//!
//! Results go to standard output and nothing else does; what people need to know goes to standard error. The exit
//! code says what kind of failure it was ([`args::EXIT_CODES`]). A reader that closes the pipe (`dkc top | head`)
//! has seen enough: that is no failure. Without a command, on a terminal, there is a prompt.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a tool reads files and clocks")]

mod count;
mod export;
mod import;
mod inspect;
mod keys;
mod output;
mod prompt;
mod split;
mod status;

use args::{Args, Command, Format, UsageError};
use clap::{CommandFactory, Parser};
use dkc::client::ClientError;
use dkc::client::blocking::Client;
use dkc::client::core::Config;
use dkc_cli::args;
use output::Row;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// Some input was skipped, or anything that has no code of its own.
const EXIT_OTHER: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_UNREACHABLE: u8 = 3;
const EXIT_REFUSED: u8 = 4;
const EXIT_UNKNOWN: u8 = 5;

fn main() -> ExitCode {
    let args = Args::parse();
    let mut client = Client::new(Config::new(&args.endpoints), args.timeout);
    let result = match &args.command {
        Some(command) => run(&mut client, args.output, command),
        None if io::stdin().is_terminal() && io::stdout().is_terminal() => prompt::run(&mut client, args.output),
        None => {
            let text = "a command is expected, or a terminal to ask for one";
            Args::command().error(clap::error::ErrorKind::MissingSubcommand, text).exit()
        }
    };
    ExitCode::from(code_of(result))
}

/// The exit code of what was done. Says what went wrong.
fn code_of(result: anyhow::Result<u8>) -> u8 {
    match result {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => 0,
        Err(error) => {
            warn(&format!("{error:#}"));
            if let Some(ClientError::Unknown { id: Some(id), .. }) = error.downcast_ref() {
                warn(&format!("what became of it: dkc resolve {id}"));
            }
            exit_code(&error)
        }
    }
}

fn run(client: &mut Client, format: Format, command: &Command) -> anyhow::Result<u8> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let parse = |keys: &[std::ffi::OsString], escaped: bool| -> Result<Vec<Vec<u8>>, UsageError> {
        keys.iter().map(|key| keys::from_argument(key, escaped)).collect()
    };
    match command {
        Command::Incr { key, delta, escaped } => {
            let key = keys::from_argument(key, *escaped)?;
            let count = client.increment(&key, *delta)?;
            output::write_one(&mut out, format, &Row { key: &key, count: Some(count) })?;
        }
        Command::Get { keys, escaped } => {
            let keys = parse(keys, *escaped)?;
            let counts = client.get(&keys)?;
            let rows: Vec<_> = keys.iter().zip(counts).map(|(key, count)| Row { key, count }).collect();
            match rows.as_slice() {
                [row] => output::write_one(&mut out, format, row)?,
                rows => output::write_many(&mut out, format, rows)?,
            }
        }
        Command::Top { k } => {
            let top = client.top_k(*k)?;
            let rows = top.keys.iter().zip(&top.counts).map(|(key, &count)| Row { key, count: Some(count) });
            output::write_many(&mut out, format, &rows.collect::<Vec<_>>())?;
        }
        Command::Resolve { id, keys, escaped } => {
            let resolved = client.resolve(*id, &parse(keys, *escaped)?)?;
            output::write_resolved(&mut out, format, id, &resolved)?;
        }
        Command::Count(input) => return Ok(count::run(client, input)),
        Command::Export(args) => {
            drop(out);
            return export::run(client, format, args);
        }
        Command::Import(args) => return import::run(client, args),
        Command::Inspect(what) => {
            drop(out);
            return inspect::run(format, what);
        }
        Command::Status => status::write(&mut out, format, &client.status()?)?,
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
