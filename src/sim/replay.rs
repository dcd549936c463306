//! The log as a plain reader understands it: what each entry did, by rules written down once more and as simply as they can be.
//!
//! Nothing here is shared with the engine but the encoding of entries. Sessions are maps that never forget, so what the engine
//! may drop (outcomes under the floor, windows under the mark) is still known here, and a second application shows.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::command::{self, Batch, Command, MetaPart, Part};
use crate::engine::sessions::Stamp;
use crate::engine::wal::Record;
use crate::ids::{Index, Sequence, SessionEpoch, SessionId, ShardId};

/// A request of a session.
pub(super) type Number = (SessionId, Sequence);

/// An increment that an entry applied, or refused for overflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Its place in the entry.
    pub(super) position: u32,
    pub(super) key: Vec<u8>,
    pub(super) delta: i64,
    /// The request it belongs to, if that has a number.
    pub(super) number: Option<Number>,
}

/// What became of a number in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Applied { index: Index, first_position: u32, increments: u32 },
    Fenced,
}

/// One shard's log, understood.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// What each entry applied.
    pub(super) entries: Vec<(Index, Vec<Item>)>,
    /// What became of every number that was ever decided here.
    pub(super) fates: BTreeMap<Number, Fate>,
    /// Copies that were not applied because their number had been.
    pub(super) repeats: u64,
    /// Copies that were not applied because their session had expired.
    pub(super) expired: u64,
    mark: SessionId,
    epochs: BTreeMap<SessionId, SessionEpoch>,
    floors: BTreeMap<SessionId, Sequence>,
}

impl Replay {
    /// Whether a request of this holder is looked at; it may raise the floor.
    fn admits(&mut self, session: SessionId, epoch: SessionEpoch, low_water: Sequence) -> bool {
        if session <= self.mark {
            self.expired += 1;
            return false;
        }
        let newest = self.epochs.entry(session).or_default();
        if epoch < *newest {
            return false;
        }
        *newest = epoch;
        let floor = self.floors.entry(session).or_default();
        *floor = (*floor).max(low_water);
        true
    }

    fn applies(&mut self, stamp: &Stamp, fate: Fate) -> bool {
        let number = (stamp.session, stamp.sequence);
        if !self.admits(stamp.session, stamp.epoch, stamp.low_water) || stamp.sequence <= self.floors[&stamp.session] {
            return false;
        }
        if self.fates.contains_key(&number) {
            self.repeats += 1;
            return false;
        }
        self.fates.insert(number, fate);
        true
    }

    fn batch(&mut self, index: Index, mut batch: Batch<'_>) -> Result<(), String> {
        let mut items = Vec::new();
        let mut position = 0;
        let text = |error: command::CommandError| error.to_string();
        while let Some(part) = batch.next_part().map_err(text)? {
            match part {
                Part::Increments { count, stamped } => {
                    let fate = Fate::Applied { index, first_position: position, increments: count };
                    let applies = stamped.is_none_or(|stamped| self.applies(&stamped.stamp, fate));
                    let number = stamped.map(|stamped| (stamped.stamp.session, stamped.stamp.sequence));
                    for _ in 0..count {
                        let one = batch.next_increment(0).map_err(text)?;
                        if applies {
                            items.push(Item { position, key: one.key.to_vec(), delta: one.delta, number });
                        }
                        position += 1;
                    }
                }
                Part::Attach { session, epoch } => {
                    self.admits(session, epoch, Sequence(0));
                }
                Part::Resolve(stamp) => {
                    if self.admits(stamp.session, stamp.epoch, Sequence(0))
                        && stamp.sequence > self.floors[&stamp.session]
                    {
                        self.fates.entry((stamp.session, stamp.sequence)).or_insert(Fate::Fenced);
                    }
                }
            }
        }
        self.entries.push((index, items));
        Ok(())
    }
}

/// Understands the logs of all stores.
///
/// # Errors
/// An entry cannot be read, or the meta shard's log breaks a rule.
pub(super) fn read_log(records: &[Record]) -> Result<BTreeMap<ShardId, Replay>, String> {
    let mut found: BTreeMap<ShardId, Replay> = BTreeMap::new();
    let mut meta = Meta::default();
    for record in records {
        let Record::Entry { shard, index, payload, .. } = record else { continue };
        match command::decode(payload).map_err(|error| error.to_string())? {
            Command::Batch(batch) => found.entry(*shard).or_default().batch(*index, batch)?,
            Command::Expire(mark) => {
                let replay = found.entry(*shard).or_default();
                replay.mark = replay.mark.max(mark);
                replay.entries.push((*index, Vec::new()));
                meta.told.insert(mark);
            }
            Command::Meta(batch) => meta.batch(batch)?,
            Command::NoOp | Command::Configuration if *shard != ShardId::META => {
                found.entry(*shard).or_default().entries.push((*index, Vec::new()));
            }
            Command::NoOp | Command::Configuration | Command::Map(_) => {}
        }
    }
    meta.check()?;
    Ok(found)
}

/// What the meta shard's log says of sessions.
#[derive(Debug, Default)]
struct Meta {
    opened: u64,
    mark: SessionId,
    /// Marks that other shards heard of.
    told: BTreeSet<SessionId>,
}

impl Meta {
    fn batch(&mut self, mut batch: command::MetaBatch<'_>) -> Result<(), String> {
        while let Some(part) = batch.next_part().map_err(|error| error.to_string())? {
            match part {
                // At most as many sessions as openings: a name that is taken over mints none.
                MetaPart::Open(_) => self.opened += 1,
                MetaPart::Close { .. } => {}
                MetaPart::Expire(mark) => {
                    if mark < self.mark {
                        return Err(format!("the mark goes back from {} to {mark}", self.mark));
                    }
                    self.mark = mark;
                }
            }
        }
        Ok(())
    }

    /// A shard expires what the meta shard has expired, and nothing else.
    fn check(&self) -> Result<(), String> {
        match self.told.last() {
            Some(told) if *told > self.mark => {
                Err(format!("a shard expired sessions up to {told}, the meta shard to {}", self.mark))
            }
            _ if self.mark.0 > self.opened => Err(format!("session {} has expired and was never opened", self.mark)),
            _ => Ok(()),
        }
    }
}
