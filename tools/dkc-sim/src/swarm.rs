//! Seed after seed on several threads, until there have been enough or one has shown a violation.

use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much to run. What is not said has a default.
pub(crate) struct Span {
    /// The first seed.
    pub(crate) first: Option<u64>,
    /// Runs, at most.
    pub(crate) runs: Option<u64>,
    /// Minutes, at most.
    pub(crate) minutes: Option<f64>,
    /// Runs if neither is said.
    pub(crate) runs_else: u64,
    /// Threads; one a core if it is not said.
    pub(crate) jobs: Option<usize>,
}

/// What came of it.
pub(crate) struct Found<R, V> {
    pub(crate) runs: u64,
    pub(crate) report: R,
    pub(crate) violations: Vec<V>,
    pub(crate) seconds: f64,
    pub(crate) jobs: usize,
}

impl<R, V> Found<R, V> {
    fn nothing_yet(jobs: usize) -> Found<R, V>
    where
        R: Default,
    {
        Found { runs: 0, report: R::default(), violations: Vec::new(), seconds: 0.0, jobs }
    }
}

/// Runs the seeds of `span`, and prints violations as they come. `add` adds up reports.
pub(crate) fn swarm<R: Default + Send, V: Display + Send>(
    span: &Span,
    run: impl Fn(u64) -> Result<R, V> + Sync,
    add: impl Fn(&mut R, &R) + Sync,
) -> Found<R, V> {
    let started = Instant::now();
    let first = span.first.unwrap_or(0);
    let runs = span.runs.unwrap_or(if span.minutes.is_some() { u64::MAX } else { span.runs_else });
    let until = span.minutes.map(|minutes| started + Duration::from_secs_f64(minutes * 60.0));
    let jobs = span.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(Found::nothing_yet(jobs));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut mine = Found::nothing_yet(jobs);
                while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= runs {
                        break;
                    }
                    mine.runs += 1;
                    match run(first + number) {
                        Ok(report) => add(&mut mine.report, &report),
                        Err(violation) => {
                            println!("{violation}");
                            mine.violations.push(violation);
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
                let mut total = total.lock().expect("no thread panics while it holds the lock");
                total.runs += mine.runs;
                add(&mut total.report, &mine.report);
                total.violations.extend(mine.violations);
            });
        }
    });
    let total = total.into_inner().expect("no thread panics while it holds the lock");
    Found { seconds: started.elapsed().as_secs_f64(), ..total }
}

/// Prints what has been reached how often, and what never.
pub(crate) fn print_marks(marks: impl IntoIterator<Item = (&'static str, u64)>) {
    for (what, count) in marks {
        println!("{count:>14} {what}{}", if count == 0 { "  <- never reached" } else { "" });
    }
}
