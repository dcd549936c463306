//! The state machines behind the logs: what the entries of a shard change.
//!
//! A counting shard has its counters and the windows of the sessions that touched it; the meta shard has the cluster map and the
//! sessions' registry. Each changes by committed entries alone and decides everything from the entry and itself, so a replay of
//! the log decides the same.
//!
//! An entry of a counting shard is applied in two passes. The first goes through its parts in order: sessions decide whether
//! a part is applied, and increments run through the table in chunks that do not end with parts. The second remembers the outcomes of
//! single increments, and answers parts that repeat or ask about others, which may stand in the same entry. Sessions
//! never depend on counters, nor counters on sessions except for which parts are applied: that is what lets a checkpoint be taken page
//! by page.

use std::ops::Range;

use super::checkpoint::loader::{Loaded, LoadedCounters};
use super::cluster::ClusterMap;
use super::command::{self, Batch, Command, CommandError, MetaBatch, MetaPart, Part, Stamped};
use super::counters::image::AppliedUpTo;
use super::counters::{self, Counters, Increment, Outcome, Pool, Secret, Setup};
use super::prng::mix;
use super::raft::Entry;
use super::sessions::Stamp;
use super::sessions::registry::{Registered, Registry};
use super::sessions::window::{Attachment, Decision, Detail, Fate, Windows};
use crate::error::ErrorCode;
use crate::ids::{Index, KeyHash, ShardEpoch, ShardId};
use crate::limits::APPLY_CHUNK_KEYS;
use crate::mutant::mutant;

/// Why an entry could not be applied: the log holds what this version cannot read, or contradicts the configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApplyError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("the entry does not belong to this kind of shard")]
    WrongShard,
    #[error("{0}")]
    Map(&'static str),
}

/// What the entries of a shard change.
pub(super) enum Machine {
    /// A counting shard.
    Counters(Box<Shard>),
    /// The meta shard.
    Meta(Box<Meta>),
}

/// The state of a counting shard.
pub(super) struct Shard {
    pub(super) counters: Counters,
    pub(super) windows: Windows,
    pub(super) epoch: ShardEpoch,
    /// Between the entries that a checkpoint spans: what is still to be made up for.
    resuming: Option<Box<Resuming>>,
}

/// What a shard that was started from a checkpoint knows until it has applied the last entry that the checkpoint spans (B).
/// Until then nothing of it is shown to anybody.
struct Resuming {
    until: Index,
    /// Up to which entry the counters have been applied already.
    applied: AppliedUpTo,
    /// The sessions at B.
    windows: Windows,
    /// Increments that were passed over.
    passed_over: u64,
    /// Reused from chunk to chunk.
    outcomes: Vec<Outcome>,
}

/// The state of the meta shard.
#[derive(Debug, Default)]
pub(super) struct Meta {
    /// The map that the log holds, once it does.
    pub(super) map: Option<ClusterMap>,
    pub(super) registry: Registry,
}

/// What came of an entry. Kept from one to the next for its memory.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// One for each increment that was applied or overflowed.
    pub(super) outcomes: Vec<Outcome>,
    /// One for each part.
    pub(super) settled: Vec<Settled>,
}

/// What became of a part.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// Its increments were decided now: these outcomes, from this position of the entry on.
    Applied { outcomes: Range<usize>, first_position: u32 },
    /// They were decided before.
    Repeated { index: Index, first_position: u32, overflowed: Vec<u32>, values: Vec<i64> },
    /// Nothing was done.
    Refused(ErrorCode),
    /// Earlier holders of the session are refused from now on.
    Attached(Attachment),
    /// The number is settled.
    Resolved(Fate),
    /// The registry's word.
    Registered(Registered),
}

/// What is left to do for a part (by its place in the entry) when all increments of the entry are through.
enum Second<'a> {
    /// Remember its outcomes.
    Remember(usize, Stamped<'a>),
    /// Give the original answer.
    Repeat(usize, Stamped<'a>),
    /// Say what became of a number.
    Resolve(usize, Stamp),
}

impl Machine {
    pub(super) fn new(shard: ShardId, setup: Option<Setup>) -> Machine {
        let Some(setup) = setup else {
            debug_assert_eq!(shard, ShardId::META, "a counting shard has counters");
            return Machine::Meta(Box::default());
        };
        Machine::Counters(Box::new(Shard {
            counters: Counters::new(setup),
            windows: Windows::default(),
            epoch: ShardEpoch(1),
            resuming: None,
        }))
    }

    /// The state that a checkpoint holds, which spans entries up to `until`.
    pub(super) fn of_checkpoint(loaded: Loaded, until: Index) -> Machine {
        match loaded {
            Loaded::Meta { registry, map } => Machine::Meta(Box::new(Meta { map: Some(map), registry })),
            Loaded::Counters(loaded) => {
                let LoadedCounters { counters, applied, windows, windows_at_end, epoch } = *loaded;
                let resuming = windows_at_end.map(|windows| {
                    Box::new(Resuming { until, applied, windows, passed_over: 0, outcomes: Vec::new() })
                });
                Machine::Counters(Box::new(Shard { counters, windows, epoch, resuming }))
            }
        }
    }

    /// What the counters of a shard are made with.
    pub(super) fn setup(
        (first, last): (KeyHash, KeyHash),
        map: &ClusterMap,
        secret: Secret,
        page_keys_max: usize,
        pool: &Pool,
    ) -> Setup {
        let candidates = counters::candidates_for(map.shards.len());
        Setup { secret, page_keys_max, pool: pool.clone(), ..Setup::new(first..=last, map.routing_seed, candidates) }
    }

    /// Applies one committed entry. What came of it replaces what is in `effects`.
    pub(super) fn apply(&mut self, routing_seed: u64, entry: &Entry, effects: &mut Effects) -> Result<(), ApplyError> {
        effects.outcomes.clear();
        effects.settled.clear();
        self.change(routing_seed, entry, effects)?;
        if let Machine::Counters(shard) = self {
            shard.reach(entry.index);
        }
        Ok(())
    }

    fn change(&mut self, routing_seed: u64, entry: &Entry, effects: &mut Effects) -> Result<(), ApplyError> {
        match (command::decode(&entry.payload)?, self) {
            (Command::NoOp | Command::Configuration, _) => Ok(()),
            (Command::Batch(batch), Machine::Counters(shard)) => shard.batch(routing_seed, entry.index, batch, effects),
            (Command::Expire(mark), Machine::Counters(shard)) => {
                shard.windows.expire(mark);
                Ok(())
            }
            (Command::Map(encoded), Machine::Meta(meta)) => {
                meta.map = Some(ClusterMap::decode(encoded).map_err(ApplyError::Map)?);
                Ok(())
            }
            (Command::Meta(batch), Machine::Meta(meta)) => meta.batch(batch, effects),
            (Command::Batch(_) | Command::Expire(_) | Command::Map(_) | Command::Meta(_), _) => {
                Err(ApplyError::WrongShard)
            }
        }
    }

    /// Bytes of memory in use, by the machine's own account.
    pub(super) fn memory_bytes(&self) -> u64 {
        match self {
            Machine::Counters(shard) => shard.counters.memory_bytes() + shard.windows.memory_bytes(),
            Machine::Meta(_) => 0,
        }
    }

    /// Pages of the table, and increments that replay has passed over so far, while it is under way.
    pub(super) fn pages_and_passed_over(&self) -> (u64, u64) {
        match self {
            Machine::Counters(shard) => {
                let passed_over = shard.resuming.as_ref().map_or(0, |resuming| resuming.passed_over);
                (shard.counters.page_count() as u64, passed_over)
            }
            Machine::Meta(_) => (0, 0),
        }
    }

    /// Whether the state is one of a single entry, and not yet between those that a checkpoint spans.
    pub(super) fn is_of_one_moment(&self) -> bool {
        matches!(self, Machine::Meta(_)) || matches!(self, Machine::Counters(shard) if shard.resuming.is_none())
    }

    /// Whether the meta shard's map is not yet in its log.
    pub(super) fn lacks_map(&self) -> bool {
        matches!(self, Machine::Meta(meta) if meta.map.is_none())
    }

    /// Whether the meta shard's log holds another map than this one.
    pub(super) fn contradicts(&self, map: &ClusterMap) -> bool {
        matches!(self, Machine::Meta(meta) if meta.map.as_ref().is_some_and(|logged| logged != map))
    }
}

impl Shard {
    /// A hash of the state, the same whatever order and layout it came to have.
    pub(super) fn digest(&self) -> u64 {
        debug_assert!(self.resuming.is_none(), "C3: what is of no single moment has no digest");
        mix(self.counters.digest() ^ mix(self.windows.digest() ^ self.epoch.0))
    }

    /// Notes that an entry has been applied. At B the sessions are replaced whole: what they say of increments that were passed over is
    /// in the copy only (rule C3).
    fn reach(&mut self, index: Index) {
        if let Some(resuming) = self.resuming.take_if(|resuming| resuming.until <= index)
            && !mutant!("sessions-at-the-end-ignored")
        {
            self.windows = resuming.windows;
        }
    }

    fn batch(
        &mut self,
        routing_seed: u64,
        index: Index,
        mut batch: Batch<'_>,
        effects: &mut Effects,
    ) -> Result<(), ApplyError> {
        // An entry of another epoch was routed by another range: nothing in it is decided, no number is taken.
        let fits = batch.epoch == self.epoch;
        self.counters.set_applying(index);
        let mut chunk = Chunk::new(index);
        let mut position = 0;
        let mut second = Vec::new();
        while let Some(part) = batch.next_part()? {
            let place = effects.settled.len();
            let settled = match part {
                Part::Increments { count, stamped } => {
                    let decision = match &stamped {
                        _ if !fits => Decision::Refuse(ErrorCode::WrongShard),
                        None => Decision::Apply,
                        Some(stamped) => self.windows.decide(&stamped.stamp, stamped.digest, index, position, count),
                    };
                    let first = chunk.taken;
                    if decision == Decision::Apply {
                        for _ in 0..count {
                            let increment = batch.next_increment(routing_seed)?;
                            chunk.push(
                                increment,
                                &mut self.counters,
                                self.resuming.as_deref_mut(),
                                &mut effects.outcomes,
                            );
                        }
                    } else {
                        batch.skip_increments(count)?;
                    }
                    let first_position = position;
                    position += count;
                    match (decision, stamped) {
                        (Decision::Apply, stamped) => {
                            second.extend(stamped.map(|stamped| Second::Remember(place, stamped)));
                            Settled::Applied { outcomes: first..chunk.taken, first_position }
                        }
                        (Decision::Repeat, stamped) => {
                            second.extend(stamped.map(|stamped| Second::Repeat(place, stamped)));
                            Settled::Refused(ErrorCode::Forgotten)
                        }
                        (Decision::Refuse(code), _) => Settled::Refused(code),
                    }
                }
                Part::Attach { .. } | Part::Resolve(_) if !fits => Settled::Refused(ErrorCode::WrongShard),
                Part::Attach { session, epoch } => match self.windows.attach(session, epoch) {
                    Ok(attachment) => Settled::Attached(attachment),
                    Err(code) => Settled::Refused(code),
                },
                Part::Resolve(stamp) => match self.windows.resolve(&stamp, index) {
                    Ok(()) => {
                        second.push(Second::Resolve(place, stamp));
                        Settled::Resolved(Fate::Forgotten)
                    }
                    Err(code) => Settled::Refused(code),
                },
            };
            effects.settled.push(settled);
        }
        chunk.flush(&mut self.counters, self.resuming.as_deref_mut(), &mut effects.outcomes);
        second.iter().try_for_each(|second| self.second_pass(second, index, effects))
    }

    /// Remembers or answers, now that every increment of the entry has its outcome. In the order of the parts.
    fn second_pass(&mut self, second: &Second<'_>, index: Index, effects: &mut Effects) -> Result<(), ApplyError> {
        match *second {
            Second::Remember(place, ref stamped) => {
                let Settled::Applied { outcomes, .. } = &effects.settled[place] else { return Ok(()) };
                let outcomes = &effects.outcomes[outcomes.clone()];
                let overflowed = overflowed(outcomes);
                if stamped.want_values || !overflowed.is_empty() {
                    let values = if stamped.want_values { values(outcomes).into() } else { Box::default() };
                    let detail = Detail { positions: stamped.places()?, overflowed: overflowed.into(), values };
                    self.windows.record(stamped.stamp.session, stamped.stamp.sequence, detail);
                }
            }
            Second::Repeat(place, ref stamped) => {
                // A later part of the entry may have raised the floor over it: then it stays forgotten.
                if let Some(applied) = self.windows.applied(stamped.stamp.session, stamped.stamp.sequence) {
                    let (overflowed, values) = applied.answer_to(stamped.places()?.as_deref());
                    let index = if mutant!("retry-answered-from-now") { index } else { applied.index };
                    let first_position = applied.first_position;
                    effects.settled[place] = Settled::Repeated { index, first_position, overflowed, values };
                }
            }
            Second::Resolve(place, stamp) => {
                effects.settled[place] = Settled::Resolved(self.windows.fate(stamp.session, stamp.sequence));
            }
        }
        Ok(())
    }
}

impl Meta {
    fn batch(&mut self, mut batch: MetaBatch<'_>, effects: &mut Effects) -> Result<(), ApplyError> {
        self.registry.advance(batch.elapsed_micros);
        while let Some(part) = batch.next_part()? {
            let registered = match part {
                MetaPart::Open(&[]) => self.registry.open(),
                MetaPart::Open(name) => self.registry.open_named(name),
                MetaPart::Close { session, epoch, progress } => self.registry.close(session, epoch, progress),
                MetaPart::Expire(mark) => {
                    self.registry.expire(mark);
                    continue;
                }
            };
            effects.settled.push(Settled::Registered(registered));
        }
        Ok(())
    }
}

const EMPTY: Increment<'_> = Increment { hash: KeyHash(0), key: &[], delta: 0 };

/// Increments that go to the table together.
struct Chunk<'a> {
    increments: [Increment<'a>; APPLY_CHUNK_KEYS],
    filled: usize,
    /// Increments of the entry so far.
    taken: usize,
    /// The entry.
    index: Index,
}

impl<'a> Chunk<'a> {
    fn new(index: Index) -> Chunk<'a> {
        Chunk { increments: [EMPTY; APPLY_CHUNK_KEYS], filled: 0, taken: 0, index }
    }

    #[inline]
    fn push(
        &mut self,
        increment: Increment<'a>,
        counters: &mut Counters,
        resuming: Option<&mut Resuming>,
        outcomes: &mut Vec<Outcome>,
    ) {
        self.increments[self.filled] = increment;
        self.filled += 1;
        self.taken += 1;
        if self.filled == APPLY_CHUNK_KEYS {
            self.flush(counters, resuming, outcomes);
        }
    }

    fn flush(&mut self, counters: &mut Counters, resuming: Option<&mut Resuming>, outcomes: &mut Vec<Outcome>) {
        let increments = &self.increments[..self.filled];
        self.filled = 0;
        let overflows = |one: &Increment<'_>| {
            counters.count(one.hash, one.key).is_some_and(|count| count.checked_add(one.delta).is_none())
        };
        if mutant!("overflow-refuses-others") && increments.iter().any(overflows) {
            return outcomes.extend(increments.iter().map(|_| Outcome::Overflow));
        }
        match resuming {
            None => counters.apply_batch(increments, outcomes),
            Some(resuming) => resuming.apply(increments, self.index, counters, outcomes),
        }
    }
}

impl Resuming {
    /// Applies the increments of an entry, but for those of pages that were taken after it. What came of these is not decided again: it may
    /// be anything here, since sessions are replaced before anybody asks.
    fn apply(
        &mut self,
        increments: &[Increment<'_>],
        index: Index,
        counters: &mut Counters,
        outcomes: &mut Vec<Outcome>,
    ) {
        let mut left = [EMPTY; APPLY_CHUNK_KEYS];
        let mut past = [false; APPLY_CHUNK_KEYS];
        let mut count = 0;
        for (increment, past) in increments.iter().zip(&mut past) {
            *past = counters.is_past(&self.applied, increment, index) && !mutant!("replay-over-newer-pages");
            if !*past {
                left[count] = *increment;
                count += 1;
            }
        }
        self.passed_over += (increments.len() - count) as u64;
        self.outcomes.clear();
        counters.apply_batch(&left[..count], &mut self.outcomes);
        let mut applied = self.outcomes.drain(..);
        outcomes.extend(past[..increments.len()].iter().map(|past| match past {
            true => Outcome::Applied(0),
            false => applied.next().expect("an outcome for each that was applied"),
        }));
    }
}

/// Places of the increments that were refused.
pub(super) fn overflowed(outcomes: &[Outcome]) -> Vec<u32> {
    let refused = outcomes.iter().enumerate().filter(|(_, outcome)| **outcome == Outcome::Overflow);
    refused.map(|(place, _)| place as u32).collect()
}

/// New counts; 0 where refused.
pub(super) fn values(outcomes: &[Outcome]) -> Vec<i64> {
    let value = |outcome: &Outcome| match *outcome {
        Outcome::Applied(value) => value,
        Outcome::Overflow => 0,
    };
    outcomes.iter().map(value).collect()
}
