//! The server's log on standard error.
//!
//! Written by a thread of its own, so that a slow terminal never holds up a store; when the thread falls far behind,
//! lines are dropped and counted rather than waited for. Fields are structured. Keys are customers' data and are never
//! logged.

use std::io;

use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{EnvFilter, fmt};

use super::config::LogFormat;

/// Keeps the log's thread alive; what is still queued is written when it is dropped.
#[derive(Debug)]
pub struct Logs {
    _worker: WorkerGuard,
}

/// Starts logging for the whole process.
///
/// # Panics
/// If called twice.
#[must_use]
pub fn start(format: LogFormat, level: &str) -> Logs {
    let (writer, worker): (NonBlocking, _) = tracing_appender::non_blocking(io::stderr());
    tracing::subscriber::set_global_default(subscriber(format, level, writer)).expect("logging is started once");
    Logs { _worker: worker }
}

/// Logs why the process cannot go on, past all queues, and ends it at once with code 1: nothing is flushed, no
/// destructor runs. For when the next step, any step, might be wrong.
pub fn fatal(format: LogFormat, store: u16, reason: &str) -> ! {
    tracing::subscriber::with_default(subscriber(format, "error", io::stderr), || {
        tracing::error!(
            store,
            reason,
            "this store cannot go on; the server ends now, and a restart recovers what was acknowledged"
        );
    });
    signal_hook::low_level::exit(1)
}

fn subscriber<W>(format: LogFormat, level: &str, writer: W) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The level was checked when the command line was parsed.
    let filter = EnvFilter::new(level);
    match format {
        LogFormat::Text => Box::new(fmt().with_env_filter(filter).with_ansi(false).with_writer(writer).finish()),
        LogFormat::Json => Box::new(fmt().json().with_env_filter(filter).with_writer(writer).finish()),
    }
}
