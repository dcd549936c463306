//! `dkc inspect`: what the files of a server hold, read without one, by the code that a server reads them with. Nothing is changed.
//!
//! | file | what it does |
//! |---|---|
//! | `folder` | which files are meant, and the doors through which the library reads them |
//! | `log` | segments and records of write-ahead logs |
//! | `checkpoint` | checkpoints |
//!
//! What is damaged is told with its place, and the exit code is 1 then. Files of a running server can be read too, but it goes on
//! writing: the end of its log may look torn, and files may vanish.

mod checkpoint;
mod folder;
mod log;

use crate::args::{Format, Inspect};
use std::io::{self, Write};

/// Prints what is asked for. Returns the exit code.
pub(crate) fn run(format: Format, what: &Inspect) -> anyhow::Result<u8> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let whole = match what {
        Inspect::Wal(args) => log::print(&mut out, format, args)?,
        Inspect::Checkpoint(args) => checkpoint::print(&mut out, format, args)?,
    };
    out.flush()?;
    Ok(if whole { 0 } else { crate::EXIT_OTHER })
}
