//! Single increments in bulk.

use super::Client;
use crate::client::ClientError;
use crate::client::batch::Batch;
use crate::client::core::{Answer, Delivery, Op, OpId};
use crate::client::gather::Gather;
use crate::error::ErrorCode;
use std::collections::BTreeMap;

/// Requests that a producer has under way when nothing else is configured.
const REQUESTS_DEFAULT: usize = 16;

/// What became of increments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Counted, exactly once.
    pub acknowledged: u64,
    /// Not counted.
    pub refused: u64,
    /// Counted once or not at all.
    pub unknown: u64,
}

/// An increment that was not acknowledged.
#[derive(Debug)]
pub struct Failed<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// What was to be added: the sum, if increments of one key are merged.
    pub delta: i64,
    /// Why, and with that whether it may have been counted.
    pub error: &'a ClientError,
}

/// Takes single increments and sends them in requests, many at a time, each to the shard it belongs to. Increments of one key keep
/// their order only within a request.
///
/// ```
/// # use dkc::client::blocking::Client;
/// # use std::time::Duration;
/// # let server = dkc::client::stand_in::Server::start();
/// # let mut client = Client::connect(&[server.endpoint()], Duration::from_secs(10))?;
/// let mut producer = client.producer(|failed| eprintln!("{:?}: {}", failed.key, failed.error));
/// for word in ["one", "two", "two"] {
///     producer.push(word.as_bytes(), 1)?;
/// }
/// assert_eq!(producer.finish().acknowledged, 3);
/// assert_eq!(client.get(&["two"])?, [Some(2)]);
/// # Ok::<(), dkc::client::ClientError>(())
/// ```
#[derive(Debug)]
pub struct Producer<'a, F> {
    client: &'a mut Client,
    gather: Gather,
    requests_max: usize,
    in_flight: BTreeMap<OpId, Batch>,
    tally: Tally,
    on_failure: F,
}

impl<'a, F: FnMut(Failed<'_>)> Producer<'a, F> {
    pub(super) fn new(client: &'a mut Client, on_failure: F) -> Producer<'a, F> {
        let (gather, in_flight) = (Gather::new(), BTreeMap::new());
        Producer { client, gather, requests_max: REQUESTS_DEFAULT, in_flight, tally: Tally::default(), on_failure }
    }

    /// Merges increments of one key that meet in a request: they count as one, are decided as one, and need less of everything.
    #[must_use]
    pub fn merging(mut self) -> Self {
        self.gather.set_merging(true);
        self
    }

    /// Increments of a request, and requests under way, at most.
    #[must_use]
    pub fn limits(mut self, request_keys_max: usize, requests_max: usize) -> Self {
        self.gather.set_keys_max(request_keys_max);
        self.requests_max = requests_max.max(1);
        self
    }

    /// Adds an increment. Waits while as many requests are under way as may be.
    ///
    /// # Errors
    /// The key breaks a limit.
    #[inline]
    pub fn push(&mut self, key: &[u8], delta: i64) -> Result<(), ClientError> {
        let shard = self.client.core.shard_of(key);
        if let Some(batch) = self.gather.push(shard, key, delta)? {
            self.send(batch);
        }
        Ok(())
    }

    /// Sends what was gathered. Waits only while as many requests are under way as may be.
    pub fn flush(&mut self) {
        let batches: Vec<Batch> = self.gather.drain().collect();
        batches.into_iter().for_each(|batch| self.send(batch));
    }

    /// Sends what was gathered, and waits until all is answered.
    pub fn finish(mut self) -> Tally {
        self.flush();
        while !self.in_flight.is_empty() {
            self.take_one();
        }
        self.tally
    }

    /// Waits until all that was sent is answered, and forgets what was not sent.
    pub fn abandon(mut self) -> Tally {
        while !self.in_flight.is_empty() {
            self.take_one();
        }
        self.tally
    }

    /// What became of the increments that were answered.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn send(&mut self, batch: Batch) {
        while self.in_flight.len() >= self.requests_max {
            self.take_one();
        }
        let copy = batch.clone();
        match self.client.submit(Op::Increment { batch, want_values: false, delivery: Delivery::ExactlyOnce }) {
            Ok(id) => {
                self.in_flight.insert(id, copy);
            }
            Err(error) => self.note(&copy, &Err(error)),
        }
    }

    fn take_one(&mut self) {
        match self.client.next_done() {
            None => self.in_flight.clear(),
            // What others submitted before is none of ours.
            Some((id, result)) => {
                if let Some(batch) = self.in_flight.remove(&id) {
                    self.note(&batch, &result);
                }
            }
        }
    }

    fn note(&mut self, batch: &Batch, result: &Result<Answer, ClientError>) {
        let increments = || batch.keys().iter().zip(batch.deltas());
        match result {
            Ok(Answer::Incremented(reply)) => {
                for (position, (key, &delta)) in increments().enumerate() {
                    let code = reply.outcome(position);
                    self.tally.acknowledged += u64::from(code == ErrorCode::Ok);
                    self.tally.refused += u64::from(code != ErrorCode::Ok);
                    if code != ErrorCode::Ok {
                        let error = ClientError::Refused { code, text: code.advice().to_owned() };
                        (self.on_failure)(Failed { key, delta, error: &error });
                    }
                }
            }
            Ok(_) => {}
            Err(error) => {
                let unknown = matches!(error, ClientError::Unknown { .. });
                let count = batch.len() as u64;
                *(if unknown { &mut self.tally.unknown } else { &mut self.tally.refused }) += count;
                increments().for_each(|(key, &delta)| (self.on_failure)(Failed { key, delta, error }));
            }
        }
    }
}
