//! `dkc count`: every line or word of the input becomes an increment by one.
//!
//! The input streams through: memory is bounded by one chunk, one batch and a window of requests, however long the
//! input or a line of it is. Batches are pipelined and only acknowledged, without values.
//!
//! Nothing is sent twice. Counting stops at a broken connection and at the first refusal that further increments
//! would meet as well; the totals then tell apart what was acknowledged, refused and unknown.

use crate::args::CountArgs;
use crate::split::{Piece, Splitter, Unit};
use crate::{EXIT_OTHER, EXIT_REFUSED, EXIT_UNKNOWN, client_exit_code, warn};
use dkc::client::ClientError;
use dkc::client::batch::{Batch, BatchError};
use dkc::client::blocking::Connection;
use dkc::error::ErrorCode;
use dkc::limits::KEY_BYTES_MAX;
use dkc::wire::client::Reply;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Increments of one request.
const BATCH_KEYS: usize = 4_096;
/// Requests in flight.
const WINDOW: usize = 16;
/// Bytes of one read of the input.
const CHUNK_BYTES: usize = 256 << 10;

/// Why no more input is read. What happened is in the [`Bulk`].
struct Stopped;

/// Counts the input; returns the exit code.
pub(crate) fn run(connection: Connection, args: &CountArgs) -> u8 {
    let unit = if args.words { Unit::Words } else { Unit::Lines };
    let standard_input = [PathBuf::from("-")];
    let files = if args.files.is_empty() { standard_input.as_slice() } else { &args.files };
    let started = Instant::now();
    let mut input = Input { unit, progress: progress(files), bytes: 0, too_long: 0, unreadable: 0 };
    let mut bulk = Bulk::new(connection);
    let read_all = files.iter().try_for_each(|file| input.count_file(file, &mut bulk));
    let finished = read_all.and_then(|()| bulk.finish());
    if finished.is_err() {
        bulk.drain();
    }
    input.progress.finish_and_clear();
    report(&input, &bulk, finished.is_err(), started.elapsed())
}

/// A bar that shows how much of the input was read, if there is someone to see it.
fn progress(files: &[PathBuf]) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let length = |file: &PathBuf| file.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
    let (bar, template) = match files.iter().map(length).sum() {
        Some(bytes) => (ProgressBar::new(bytes), "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {bytes}, {bytes_per_sec}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("a valid template"))
}

/// What was read.
struct Input {
    unit: Unit,
    progress: ProgressBar,
    bytes: u64,
    /// Keys that were skipped.
    too_long: u64,
    /// Files that could not be read to their end.
    unreadable: u64,
}

impl Input {
    fn count_file(&mut self, path: &Path, bulk: &mut Bulk) -> Result<(), Stopped> {
        let source: io::Result<Box<dyn Read>> = if path == Path::new("-") {
            Ok(Box::new(io::stdin().lock()))
        } else {
            File::open(path).map(|file| Box::new(file) as Box<dyn Read>)
        };
        match source {
            Ok(source) => self.count_stream(path, source, bulk),
            Err(error) => {
                self.note_unreadable(path, &error);
                Ok(())
            }
        }
    }

    fn count_stream(&mut self, path: &Path, mut source: impl Read, bulk: &mut Bulk) -> Result<(), Stopped> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut splitter = Splitter::new(self.unit);
        loop {
            let count = match source.read(&mut chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.note_unreadable(path, &error);
                    0
                }
            };
            let sink = |piece: Piece<'_>| match piece {
                Piece::Key(key) => bulk.add(key),
                Piece::TooLong { line } => {
                    self.too_long += 1;
                    let text =
                        format!("{}, line {line}: a key of over {KEY_BYTES_MAX} bytes is skipped", path.display());
                    self.progress.suspend(|| warn(&text));
                    Ok(())
                }
            };
            if count == 0 {
                return splitter.finish(sink);
            }
            splitter.feed(&chunk[..count], sink)?;
            self.bytes += count as u64;
            self.progress.inc(count as u64);
        }
    }

    fn note_unreadable(&mut self, path: &Path, error: &io::Error) {
        self.unreadable += 1;
        self.progress.suspend(|| warn(&format!("{}: {error}", path.display())));
    }
}

/// Increments on their way, and what became of those that were answered.
struct Bulk {
    connection: Connection,
    batch: Batch,
    /// Increments of each request in flight.
    in_flight: BTreeMap<u64, usize>,
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    /// The first refusal or failure.
    error: Option<ClientError>,
}

impl Bulk {
    fn new(connection: Connection) -> Bulk {
        let (batch, in_flight) = (Batch::new(), BTreeMap::new());
        Bulk { connection, batch, in_flight, acknowledged: 0, refused: 0, unknown: 0, error: None }
    }

    /// Adds one to a key.
    #[inline]
    fn add(&mut self, key: &[u8]) -> Result<(), Stopped> {
        match self.batch.push(key, 1) {
            Ok(()) if self.batch.len() < BATCH_KEYS => Ok(()),
            Ok(()) => self.send(),
            Err(BatchError::Full) => {
                self.send()?;
                self.add(key)
            }
            Err(error) => Err(self.stop(error.into())),
        }
    }

    fn send(&mut self) -> Result<(), Stopped> {
        while self.in_flight.len() >= WINDOW {
            self.receive()?;
        }
        let sent = self.connection.send_increment(&self.batch, false);
        let request_id = sent.map_err(|error| self.stop(error))?;
        self.in_flight.insert(request_id, self.batch.len());
        self.batch.clear();
        self.connection.flush().map_err(|error| self.stop(error))
    }

    /// Sends the rest and waits for all answers.
    fn finish(&mut self) -> Result<(), Stopped> {
        if !self.batch.is_empty() {
            self.send()?;
        }
        while !self.in_flight.is_empty() {
            self.receive()?;
        }
        Ok(())
    }

    /// After a stop: takes the answers that still come.
    fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            match self.connection.receive() {
                Ok((request_id, reply)) => {
                    self.note(request_id, &reply);
                }
                Err(error) => {
                    if let ClientError::Unknown { increments, .. } = error {
                        self.unknown += increments;
                    }
                    self.stop(error);
                    return;
                }
            }
        }
    }

    fn receive(&mut self) -> Result<(), Stopped> {
        let received = self.connection.receive();
        let (request_id, reply) = received.map_err(|error| self.stop(error))?;
        if self.note(request_id, &reply) { Ok(()) } else { Err(Stopped) }
    }

    /// Takes an answer into account; returns whether to go on.
    fn note(&mut self, request_id: u64, reply: &Reply) -> bool {
        let count = self.in_flight.remove(&request_id).unwrap_or(0);
        match reply {
            Reply::Increment(reply) if reply.outcomes.is_empty() => {
                self.acknowledged += count as u64;
                true
            }
            Reply::Increment(reply) => (0..count).fold(true, |go_on, place| {
                let code = reply.outcome(place);
                self.note_outcome(code, code.advice(), 1) && go_on
            }),
            Reply::Error { code, text } => self.note_outcome(*code, text, count as u64),
            _ => unreachable!("the connection lets only fitting replies through"),
        }
    }

    /// An overflow is the fate of one key; other refusals would meet what follows, too.
    fn note_outcome(&mut self, code: ErrorCode, text: &str, count: u64) -> bool {
        match code {
            ErrorCode::Ok => {
                self.acknowledged += count;
                return true;
            }
            ErrorCode::Unknown => self.unknown += count,
            _ => self.refused += count,
        }
        if self.error.is_none() {
            self.error = Some(ClientError::from_code(code, text.to_owned(), count));
        }
        code == ErrorCode::Overflow
    }

    fn stop(&mut self, error: ClientError) -> Stopped {
        self.error.get_or_insert(error);
        Stopped
    }
}

/// Prints the totals and chooses the exit code: the most serious of what happened.
fn report(input: &Input, bulk: &Bulk, stopped: bool, elapsed: Duration) -> u8 {
    let rate = bulk.acknowledged as f64 / elapsed.as_secs_f64().max(1e-6);
    warn(&format!(
        "{} keys counted, {} of input read, {:.2} s, {} keys/s",
        HumanCount(bulk.acknowledged),
        HumanBytes(input.bytes),
        elapsed.as_secs_f64(),
        HumanCount(rate as u64),
    ));
    let mut code = 0;
    if input.too_long > 0 {
        warn(&format!("{} keys of over {KEY_BYTES_MAX} bytes were skipped", HumanCount(input.too_long)));
    }
    if input.too_long + input.unreadable > 0 {
        code = EXIT_OTHER;
    }
    if let Some(error) = &bulk.error {
        match error {
            ClientError::Unknown { reason, .. } => warn(reason),
            error => warn(&error.to_string()),
        }
        code = client_exit_code(error);
    }
    if bulk.refused > 0 {
        warn(&format!("{} increments were refused and not applied", HumanCount(bulk.refused)));
        code = EXIT_REFUSED;
    }
    if bulk.unknown > 0 {
        warn(&format!(
            "{} increments are unknown: sent but not answered, each was applied once or not at all",
            HumanCount(bulk.unknown)
        ));
        code = EXIT_UNKNOWN;
    }
    if stopped {
        warn("counting stopped before the end of the input; what is not mentioned above was not sent");
    }
    code
}
