//! A run: connect, let every connection's loop run, gather what they measured.

use crate::plan::Plan;
use crate::tally::Tally;
use crate::worker::{Record, Worker};
use dkc::client::ClientError;
use dkc::client::blocking::Connection;
use std::thread;
use std::time::{Duration, Instant};

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) server_version: String,
    /// Where the connections went, each address once.
    pub(crate) addresses: Vec<String>,
    /// From the end of the warm-up to the last reply.
    pub(crate) elapsed: Duration,
    pub(crate) tally: Tally,
    /// One for each connection.
    pub(crate) records: Vec<Record>,
    /// Why connections failed.
    pub(crate) failures: Vec<ClientError>,
    /// Outside of the load, for questions before and after it.
    pub(crate) control: Connection,
}

/// Runs a plan.
///
/// # Errors
/// A connection could not be made; nothing was sent then. Connections that fail later are in the outcome.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let control = Connection::connect(&plan.endpoints, plan.timeout)?;
    let addresses = addresses(plan, &control);
    let connections = (0..plan.connections)
        .map(|number| Connection::connect(&addresses[number % addresses.len()..][..1], plan.timeout))
        .collect::<Result<Vec<_>, _>>()?;
    let measure_from = Instant::now() + plan.warmup;
    let records: Vec<Record> = thread::scope(|scope| {
        let start = |(number, connection)| {
            let worker = Worker::new(plan, number, connection, measure_from);
            thread::Builder::new().name(format!("connection-{number}")).spawn_scoped(scope, || worker.run())
        };
        let threads: Vec<_> = connections.into_iter().enumerate().map(start).collect::<Result<_, _>>()?;
        let join = |thread: thread::ScopedJoinHandle<'_, Record>| thread.join().expect("a panic ends the process");
        anyhow::Ok(threads.into_iter().map(join).collect())
    })?;
    let mut tally = Tally::new();
    records.iter().for_each(|record| tally.merge(&record.tally));
    let last_reply = records.iter().filter_map(|record| record.last_reply).max().unwrap_or(measure_from);
    Ok(Outcome {
        server_version: control.welcome().server_version.clone(),
        addresses,
        elapsed: last_reply.saturating_duration_since(measure_from),
        tally,
        failures: records.iter().filter_map(|record| record.failure.clone()).collect(),
        records,
        control,
    })
}

/// Where connections go, in turn.
fn addresses(plan: &Plan, control: &Connection) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    if plan.spread {
        addresses.extend(control.welcome().stores.iter().map(|store| store.address.clone()));
    }
    if addresses.is_empty() {
        addresses.push(control.endpoint().to_owned());
    }
    addresses.truncate(plan.connections);
    addresses
}
