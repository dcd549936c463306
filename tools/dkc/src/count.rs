//! `dkc count`: every line or word of the input becomes an increment by one.
//!
//! The input streams through: memory is bounded by one chunk, some batches and a window of requests, however long the
//! input or a line of it is. Requests are pipelined and only acknowledged, without values, and counted exactly once however
//! often they have to be sent. Counting stops at the first request that ends otherwise than well; the totals then tell apart what was
//! acknowledged, refused and unknown.
//!
//! **Under a named session** the keys are cut into requests by nothing but the input: each has [`REQUEST_KEYS`] of them, or as many as
//! fit, in the order they come. So request n has the same content in every run over the same input, and the session's memory of what it has
//! seen tells a run where to go on, and counts once what an earlier run may have sent without having heard of it.

use crate::args::CountArgs;
use crate::split::{Piece, Splitter, Unit};
use crate::{EXIT_OTHER, EXIT_REFUSED, EXIT_UNKNOWN, client_exit_code, warn};
use dkc::client::ClientError;
use dkc::client::batch::{Batch, BatchError};
use dkc::client::blocking::{Client, Failed, Producer, Tally};
use dkc::client::core::{Answer, Delivery, Named, Op};
use dkc::error::ErrorCode;
use dkc::ids::Sequence;
use dkc::limits::KEY_BYTES_MAX;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Increments of one request. Under a named session this is part of what a request's number means: it never changes.
const REQUEST_KEYS: usize = 4_096;
/// Requests in flight.
const WINDOW: usize = 16;
/// Bytes of one read of the input.
const CHUNK_BYTES: usize = 256 << 10;

/// Why no more input is read. What happened is in the [`Outcome`].
pub(crate) struct Stopped;

/// What takes the keys.
pub(crate) trait Sink {
    /// Adds to a key.
    fn add(&mut self, key: &[u8], delta: i64) -> Result<(), Stopped>;
    /// Sends the rest and waits for all answers.
    fn finish(self, complete: bool) -> Outcome;
}

/// What became of the keys.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// Keys that the session says were counted by an earlier run.
    pub(crate) before: u64,
    /// The first refusal or failure.
    pub(crate) error: Option<ClientError>,
    /// What to do about it.
    pub(crate) advice: Option<String>,
}

impl Outcome {
    /// Whether there was nothing left to do.
    pub(crate) fn is_all_before(&self) -> bool {
        self.before > 0 && self.error.is_none() && self.tally == Tally::default()
    }
}

/// Counts the input; returns the exit code.
pub(crate) fn run(client: &mut Client, args: &CountArgs) -> u8 {
    let unit = if args.words { Unit::Words } else { Unit::Lines };
    let standard_input = [PathBuf::from("-")];
    let files = if args.files.is_empty() { standard_input.as_slice() } else { &args.files };
    let started = Instant::now();
    let strict = args.session.is_some();
    let mut input = Input::new(progress(files), strict);
    let result = match &args.session {
        None => client.call(Op::Connect).map(|_| {
            let trouble = Trouble::default();
            input.count(files, unit, Plain::new(client, &trouble))
        }),
        Some(name) => match client.open(name.as_bytes()) {
            Ok(named) => Ok(input.count(files, unit, Resumed::new(client, name, &named))),
            Err(error) => Err(error),
        },
    };
    input.finish();
    let (outcome, stopped) = result.unwrap_or_else(|error| {
        let advice = args.session.as_ref().and_then(|name| advice(name, 0, &error));
        (Outcome { error: Some(error), advice, ..Outcome::default() }, true)
    });
    report(&input, &outcome, stopped, started.elapsed())
}

/// A bar that shows how much of the input was read, if there is someone to see it.
pub(crate) fn progress(files: &[PathBuf]) -> ProgressBar {
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
pub(crate) struct Input {
    progress: ProgressBar,
    bytes: u64,
    /// Keys that were skipped.
    too_long: u64,
    /// Files that could not be read to their end.
    unreadable: u64,
    /// Whether to stop at the first of them, for what follows would not be the same input.
    strict: bool,
}

impl Input {
    /// Nothing was read yet. With `strict` the first file that cannot be read is the last.
    pub(crate) fn new(progress: ProgressBar, strict: bool) -> Input {
        Input { progress, bytes: 0, too_long: 0, unreadable: 0, strict }
    }

    /// So many bytes more were read.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.progress.inc(bytes as u64);
    }

    /// Says that something could not be read.
    pub(crate) fn note(&mut self, text: &str) {
        self.unreadable += 1;
        self.progress.suspend(|| warn(text));
    }

    /// All was read that will be.
    pub(crate) fn finish(&self) {
        self.progress.finish_and_clear();
    }

    /// Reads all files into a sink. Also says whether it stopped early.
    fn count(&mut self, files: &[PathBuf], unit: Unit, mut sink: impl Sink) -> (Outcome, bool) {
        let stopped = files.iter().try_for_each(|file| self.count_file(file, unit, &mut sink)).is_err();
        let outcome = sink.finish(!stopped);
        let stopped = stopped || outcome.error.as_ref().is_some_and(|error| !is_overflow(error));
        (outcome, stopped)
    }

    fn count_file(&mut self, path: &Path, unit: Unit, sink: &mut impl Sink) -> Result<(), Stopped> {
        let source: io::Result<Box<dyn Read>> = if path == Path::new("-") {
            Ok(Box::new(io::stdin().lock()))
        } else {
            File::open(path).map(|file| Box::new(file) as Box<dyn Read>)
        };
        match source {
            Ok(source) => self.count_stream(path, unit, source, sink),
            Err(error) => self.note_unreadable(path, &error),
        }
    }

    fn count_stream(
        &mut self,
        path: &Path,
        unit: Unit,
        mut source: impl Read,
        sink: &mut impl Sink,
    ) -> Result<(), Stopped> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut splitter = Splitter::new(unit);
        loop {
            let count = match source.read(&mut chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.note_unreadable(path, &error)?;
                    0
                }
            };
            let take = |piece: Piece<'_>| match piece {
                Piece::Key(key) => sink.add(key, 1),
                Piece::TooLong { line } => {
                    self.too_long += 1;
                    let text =
                        format!("{}, line {line}: a key of over {KEY_BYTES_MAX} bytes is skipped", path.display());
                    self.progress.suspend(|| warn(&text));
                    Ok(())
                }
            };
            if count == 0 {
                return splitter.finish(take);
            }
            splitter.feed(&chunk[..count], take)?;
            self.advance(count);
        }
    }

    fn note_unreadable(&mut self, path: &Path, error: &io::Error) -> Result<(), Stopped> {
        self.note(&format!("{}: {error}", path.display()));
        if self.strict { Err(Stopped) } else { Ok(()) }
    }
}

/// What went wrong, as the producer tells it.
#[derive(Default)]
struct Trouble {
    /// Whether further increments would fare no better.
    stop: Cell<bool>,
    first: RefCell<Option<ClientError>>,
}

impl Trouble {
    fn note(&self, failed: &Failed<'_>) {
        // An overflow is the fate of one key.
        self.stop.set(self.stop.get() || !is_overflow(failed.error));
        self.first.borrow_mut().get_or_insert_with(|| failed.error.clone());
    }
}

/// Counting under the client's own session, which ends with it.
struct Plain<'a, F> {
    producer: Producer<'a, F>,
    trouble: &'a Trouble,
}

impl<'a> Plain<'a, ()> {
    fn new(client: &'a mut Client, trouble: &'a Trouble) -> Plain<'a, impl FnMut(Failed<'_>) + 'a> {
        let producer = client.producer(|failed: Failed<'_>| trouble.note(&failed)).limits(REQUEST_KEYS, WINDOW);
        Plain { producer, trouble }
    }
}

impl<F: FnMut(Failed<'_>)> Sink for Plain<'_, F> {
    #[inline]
    fn add(&mut self, key: &[u8], delta: i64) -> Result<(), Stopped> {
        if let Err(error) = self.producer.push(key, delta) {
            self.trouble.first.borrow_mut().get_or_insert(error);
            return Err(Stopped);
        }
        if self.trouble.stop.get() { Err(Stopped) } else { Ok(()) }
    }

    fn finish(self, complete: bool) -> Outcome {
        let tally = if complete { self.producer.finish() } else { self.producer.abandon() };
        Outcome { tally, error: self.trouble.first.take(), ..Outcome::default() }
    }
}

/// Counting under a named session.
pub(crate) struct Resumed<'a> {
    client: &'a mut Client,
    name: &'a str,
    settled: Sequence,
    next: Sequence,
    batch: Batch,
    in_flight: usize,
    outcome: Outcome,
}

impl<'a> Resumed<'a> {
    pub(crate) fn new(client: &'a mut Client, name: &'a str, named: &Named) -> Resumed<'a> {
        let (batch, outcome) = (Batch::new(), Outcome::default());
        Resumed { client, name, settled: named.settled, next: Sequence(1), batch, in_flight: 0, outcome }
    }

    /// Sends what was gathered under the next number, unless that is settled.
    fn send(&mut self) -> Result<(), Stopped> {
        let (number, batch) = (self.next, std::mem::take(&mut self.batch));
        self.next = number.next();
        if number <= self.settled {
            self.outcome.before += batch.len() as u64;
            return Ok(());
        }
        while self.in_flight >= WINDOW {
            self.receive()?;
        }
        let op = Op::Increment { batch, want_values: false, delivery: Delivery::Numbered(number) };
        match self.client.submit(op) {
            Ok(_) => self.in_flight += 1,
            Err(error) => return Err(self.stop(error)),
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Stopped> {
        let Some((_, result)) = self.client.next_done() else {
            self.in_flight = 0;
            return Ok(());
        };
        self.in_flight -= 1;
        match result {
            Ok(Answer::Incremented(reply)) => {
                let codes = (0..reply.len()).map(|place| reply.outcome(place));
                let refused: Vec<ErrorCode> = codes.filter(|code| *code != ErrorCode::Ok).collect();
                self.outcome.tally.acknowledged += (reply.len() - refused.len()) as u64;
                self.outcome.tally.refused += refused.len() as u64;
                let worst = refused.iter().find(|code| **code != ErrorCode::Overflow).or(refused.first());
                match worst.map(|&code| ClientError::from_code(code, code.advice().to_owned(), 1)) {
                    Some(error) if is_overflow(&error) => {
                        self.outcome.error.get_or_insert(error);
                        Ok(())
                    }
                    Some(error) => Err(self.stop(error)),
                    None => Ok(()),
                }
            }
            Ok(_) => Ok(()),
            Err(error) => {
                if let ClientError::Unknown { increments, .. } = &error {
                    self.outcome.tally.unknown += increments;
                }
                Err(self.stop(error))
            }
        }
    }

    fn stop(&mut self, error: ClientError) -> Stopped {
        if self.outcome.error.as_ref().is_none_or(is_overflow) {
            self.outcome.advice = advice(self.name, self.next.0, &error);
            self.outcome.error = Some(error);
        }
        Stopped
    }

    /// Sends the rest, waits, and leaves the session.
    fn close(&mut self) -> Result<(), Stopped> {
        if !self.batch.is_empty() {
            self.send()?;
        }
        while self.in_flight > 0 {
            self.receive()?;
        }
        if self.next <= self.settled {
            let text = format!(
                "session {} has counted {} requests of {REQUEST_KEYS} keys or less, and this input has only {}",
                self.name,
                self.settled,
                self.next.0 - 1
            );
            return Err(self.stop(ClientError::Refused { code: ErrorCode::OtherContent, text }));
        }
        self.client.close().map_err(|error| self.stop(error))
    }
}

impl Sink for Resumed<'_> {
    #[inline]
    fn add(&mut self, key: &[u8], delta: i64) -> Result<(), Stopped> {
        match self.batch.push(key, delta) {
            Ok(()) if self.batch.len() < REQUEST_KEYS => Ok(()),
            Ok(()) => self.send(),
            Err(BatchError::Full) => {
                self.send()?;
                self.add(key, delta)
            }
            Err(error) => Err(self.stop(error.into())),
        }
    }

    fn finish(mut self, complete: bool) -> Outcome {
        if !complete || self.close().is_err() {
            while self.in_flight > 0 {
                // What went wrong first is kept.
                let _ = self.receive();
            }
        }
        self.outcome
    }
}

fn is_overflow(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { code: ErrorCode::Overflow, .. })
}

/// What to do about an error under a named session.
pub(crate) fn advice(name: &str, number: u64, error: &ClientError) -> Option<String> {
    Some(match error.code() {
        Some(ErrorCode::OtherContent) => format!(
            "the input is not what it was when session {name} began; give it that input, or count this one under another name"
        ),
        Some(ErrorCode::SessionExpired) => format!(
            "session {name} expired before it was through: what its last requests did can no longer be known (request {number} \
             was next); look at the counts, and count the rest under another name"
        ),
        Some(ErrorCode::SessionTaken) => {
            format!("session {name} was opened again elsewhere; only one at a time can count under it")
        }
        _ => format!("run it again to go on: session {name} counts nothing twice"),
    })
}

/// Prints the totals and chooses the exit code: the most serious of what happened.
pub(crate) fn report(input: &Input, outcome: &Outcome, stopped: bool, elapsed: Duration) -> u8 {
    let Outcome { tally, before, error, advice } = outcome;
    let rate = tally.acknowledged as f64 / elapsed.as_secs_f64().max(1e-6);
    warn(&format!(
        "{} keys counted, {} of input read, {:.2} s, {} keys/s",
        HumanCount(tally.acknowledged),
        HumanBytes(input.bytes),
        elapsed.as_secs_f64(),
        HumanCount(rate as u64),
    ));
    if *before > 0 {
        warn(&format!("{} keys were counted before, by an earlier run of the session", HumanCount(*before)));
    }
    let mut code = 0;
    if input.too_long > 0 {
        warn(&format!("{} keys of over {KEY_BYTES_MAX} bytes were skipped", HumanCount(input.too_long)));
    }
    if input.too_long + input.unreadable > 0 {
        code = EXIT_OTHER;
    }
    if let Some(error) = error {
        warn(&error.to_string());
        if let ClientError::Unknown { id: Some(id), .. } = error {
            warn(&format!("what became of them: dkc resolve {id}"));
        }
        code = client_exit_code(error);
    }
    if tally.refused > 0 {
        warn(&format!("{} increments were refused and not applied", HumanCount(tally.refused)));
        code = code.max(EXIT_REFUSED);
    }
    if tally.unknown > 0 {
        warn(&format!(
            "{} increments are unknown: sent but not answered, each was applied once or not at all",
            HumanCount(tally.unknown)
        ));
        code = EXIT_UNKNOWN;
    }
    if stopped {
        warn("counting stopped before the end of the input; what is not mentioned above was not sent");
    }
    if let Some(advice) = advice {
        warn(advice);
    }
    code
}
