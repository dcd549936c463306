//! Opening a store: its shards as the newest checkpoints that check out hold them, and the log behind them.
//!
//! ```text
//! survey of the log ──► checkpoints it names ──► newest that is whole, else the one before, else nothing (if the log begins at its beginning)
//!                                                   └──► log replayed from A: entries passed over, applied, or kept for the next leader
//! ```
//!
//! What cannot be shown to be whole is refused by name. Nothing is changed before everything has been read.

use std::collections::{BTreeMap, VecDeque};

use super::{OpenError, StoreConfig, own_replica};
use crate::engine::checkpoint::envelope::Preamble;
use crate::engine::checkpoint::loader::{LoadError, Wanted, load};
use crate::engine::checkpoint::{CheckpointDir, CheckpointFile, Kept, Opening, Point, Reference, StoreDir};
use crate::engine::cluster::META_STORE;
use crate::engine::counters::Pool;
use crate::engine::machine::{Effects as Applied, Machine};
use crate::engine::prng::mix;
use crate::engine::raft::configuration::{Configuration, Member, Place};
use crate::engine::raft::{Entry, Group, Restored as State, Setup, Timing};
use crate::engine::replica::Replica;
use crate::engine::wal::{GroupState, Record, Recovered, Survey, WalIdentity};
use crate::ids::{CheckpointNumber, Index, KeyHash, Micros, ShardId};
use crate::limits::{APPEND_ENTRIES_MAX, REPLAY_PROGRESS_RECORDS};

/// What a store that was opened had found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// In its log.
    pub log: Recovered,
    /// By shard.
    pub shards: Vec<Restored>,
}

/// How a shard was brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Which.
    pub shard: ShardId,
    /// The checkpoint that it was started from.
    pub checkpoint: Option<Reference>,
    /// Checkpoints that are newer than that, or all that there are, and why they could not be used.
    pub rejected: Vec<(CheckpointFile, LoadError)>,
    /// Increments that replay passed over because a page was past them.
    pub passed_over: u64,
    /// Pages that were split before replay had passed the checkpoint's end.
    pub pages_split: u64,
}

/// A store's replicas as recovered.
pub(super) struct Recovery {
    pub(super) replicas: Vec<Replica>,
    pub(super) opened: Opened,
    /// The checkpoints of each shard that can be started from, and the files of those that cannot.
    pub(super) kept: Vec<(ShardId, Kept, Vec<CheckpointFile>)>,
    /// Files that nothing names.
    pub(super) leftovers: Vec<CheckpointFile>,
    /// The lowest number that no checkpoint ever had.
    pub(super) next_number: CheckpointNumber,
}

/// Reads everything.
pub(super) fn recover(
    config: &StoreConfig,
    pool: &Pool,
    dir: &mut dyn StoreDir,
    opened_before: bool,
    now: Micros,
    progress: &mut dyn FnMut(Opening),
) -> Result<Recovery, OpenError> {
    let identity = WalIdentity { cluster: config.cluster, node: config.node, store: config.store };
    let survey = Survey::read(dir.log(), identity, config.wal, opened_before)?;
    let files = dir.checkpoints().list().map_err(OpenError::Checkpoints)?;
    if survey.is_empty() && !files.is_empty() {
        return Err(OpenError::LogMissing);
    }
    let base = survey.base();
    let mut recovering = BTreeMap::new();
    for (shard, range) in own_shards(config) {
        let kept = survey.end().get(&shard).map_or(Kept::default(), |group| group.kept);
        let base = base.get(&shard).copied().unwrap_or_default();
        let setup = || Machine::setup(range, &config.map, config.secret, config.page_keys_max, pool);
        let wanted = Wanted { range, setup: (shard != ShardId::META).then(setup) };
        let replica = Recovering::begin(config, dir.checkpoints(), shard, wanted, kept, base, progress)?;
        recovering.insert(shard, replica);
    }
    let log = replay(config, dir, survey, &mut recovering, progress)?;
    let numbers = log.groups.values().flat_map(|group| group.kept.iter().map(|one| one.number).collect::<Vec<_>>());
    let next_number = files.iter().map(|file| file.number).chain(numbers).max().unwrap_or_default().next();
    let leftovers = unnamed(files, &log);
    let (mut replicas, mut kept, mut shards) = (Vec::new(), Vec::new(), Vec::new());
    for (shard, replica) in recovering {
        if replica.machine.contradicts(&config.map) {
            return Err(OpenError::OtherMap);
        }
        let state = log.groups.get(&shard).copied().unwrap_or_default();
        let unreadable: Vec<_> = replica.restored.rejected.iter().map(|(file, _)| *file).collect();
        kept.push((shard, usable(shard, state.kept, &unreadable), unreadable));
        let (replica, restored) = replica.finish(config, shard, state, now)?;
        replicas.push(replica);
        shards.push(restored);
    }
    Ok(Recovery { replicas, opened: Opened { log, shards }, kept, leftovers, next_number })
}

fn replay(
    config: &StoreConfig,
    dir: &mut dyn StoreDir,
    survey: Survey,
    recovering: &mut BTreeMap<ShardId, Recovering>,
    progress: &mut dyn FnMut(Opening),
) -> Result<Recovered, OpenError> {
    let mut strange = None;
    let mut records = 0;
    let mut applied = Applied::default();
    let mut visit = |record: Record| {
        records += 1;
        if records % REPLAY_PROGRESS_RECORDS == 0 {
            progress(Opening::Replaying { records });
        }
        let shard = record.shard();
        let Some(replica) = recovering.get_mut(&shard) else {
            strange = Some(shard);
            return Err("a shard that does not live here".to_string());
        };
        replica.take(config.map.routing_seed, record, &mut applied)
    };
    let recovered = survey.replay(dir.log(), &mut visit);
    recovered.map_err(|error| strange.map_or(OpenError::Log(error), OpenError::StrangeShard))
}

/// The files of checkpoints that did not become whole, or that have been superseded.
fn unnamed(files: Vec<CheckpointFile>, log: &Recovered) -> Vec<CheckpointFile> {
    let named = |file: &CheckpointFile| {
        log.groups.get(&file.shard).is_some_and(|group| group.kept.iter().any(|one| one.number == file.number))
    };
    files.into_iter().filter(|file| !named(file)).collect()
}

/// Those of the checkpoints that the log names that can be read.
fn usable(shard: ShardId, kept: Kept, unreadable: &[CheckpointFile]) -> Kept {
    let mut readable = kept.iter().filter(|one| !unreadable.contains(&CheckpointFile { shard, number: one.number }));
    Kept { newest: readable.next(), older: readable.next() }
}

/// The shards that live in a store, with their ranges.
fn own_shards(config: &StoreConfig) -> BTreeMap<ShardId, (KeyHash, KeyHash)> {
    let mut shards = BTreeMap::new();
    if config.store == META_STORE {
        shards.insert(ShardId::META, (KeyHash(0), KeyHash(0)));
    }
    for (place, range) in config.map.shards.iter().enumerate() {
        if (range.node, range.store) == (config.node, config.store) {
            shards.insert(range.shard, config.map.range(place));
        }
    }
    shards
}

/// A replica while its log is being read.
struct Recovering {
    machine: Machine,
    range: (KeyHash, KeyHash),
    /// Read, but not yet known to be committed.
    entries: VecDeque<Entry>,
    commit: Index,
    /// Where the checkpoint begins and ends; zero without one.
    from: Point,
    to: Point,
    applied: Point,
    pages: u64,
    /// The checkpoint came from another replica.
    installed: bool,
    restored: Restored,
}

impl Recovering {
    /// A replica as its newest checkpoint that is whole has it, or as one that never did anything. `base` is its state before the
    /// oldest record of the log.
    fn begin(
        config: &StoreConfig,
        dir: &mut dyn CheckpointDir,
        shard: ShardId,
        wanted: Wanted,
        kept: Kept,
        base: GroupState,
        progress: &mut dyn FnMut(Opening),
    ) -> Result<Recovering, OpenError> {
        let store = WalIdentity { cluster: config.cluster, node: config.node, store: config.store };
        let range = wanted.range;
        let mut rejected = Vec::new();
        for reference in kept.iter() {
            let file = CheckpointFile { shard, number: reference.number };
            let read = reaches(file, &reference, base)
                .and_then(|()| load(dir, &Preamble { store, file }, &reference, &wanted, progress));
            match read {
                Ok(loaded) => {
                    let machine = Machine::of_checkpoint(loaded, reference.to.index);
                    return Ok(Recovering::started(machine, range, shard, Some(reference), rejected));
                }
                Err(error) => rejected.push((file, error)),
            }
        }
        if base.last_index > Index(0) {
            let why = rejected.iter().map(|(_, error)| format!("; {error}")).collect();
            return Err(OpenError::NoCheckpoint(shard, base.last_index, why));
        }
        Ok(Recovering::started(Machine::new(shard, wanted.setup), range, shard, None, rejected))
    }

    fn started(
        machine: Machine,
        range: (KeyHash, KeyHash),
        shard: ShardId,
        checkpoint: Option<Reference>,
        rejected: Vec<(CheckpointFile, LoadError)>,
    ) -> Recovering {
        let (from, to) = checkpoint.map_or_else(Default::default, |reference| (reference.from, reference.to));
        let (pages, _) = machine.pages_and_passed_over();
        let restored = Restored { shard, checkpoint, rejected, passed_over: 0, pages_split: 0 };
        // Its last entry was applied once, so it had been committed.
        let commit = to.index;
        Recovering {
            machine,
            range,
            entries: VecDeque::new(),
            commit,
            from,
            to,
            applied: from,
            pages,
            installed: false,
            restored,
        }
    }

    /// Takes a record. Entries are applied as soon as they are known to be committed, by a later record or a checkpoint, so that a long log
    /// never has to fit in memory; the rest waits for the next leader, as after any restart.
    fn take(&mut self, routing_seed: u64, record: Record, applied: &mut Applied) -> Result<(), String> {
        let known = match record {
            Record::HardState { commit, .. } => commit,
            Record::Checkpoint { .. } => return Ok(()),
            Record::Truncate { last, .. } => return self.truncate(last),
            Record::Install { kept, .. } => return self.install(kept),
            Record::Entry { term, index, commit, payload, .. } => {
                let point = Point { index, term };
                if [self.from, self.to].iter().any(|at| at.index == index && *at != point) {
                    return Err(format!("entry {index} is of term {term}, and of another one in the checkpoint"));
                }
                if index > self.from.index {
                    self.entries.push_back(Entry { term, index, payload });
                }
                commit
            }
        };
        self.commit = self.commit.max(known);
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= self.commit) {
            self.note_replay();
            let outcome = self.machine.apply(routing_seed, &entry, applied);
            outcome.map_err(|error| format!("entry {} cannot be applied: {error}", entry.index))?;
            self.applied = Point { index: entry.index, term: entry.term };
        }
        Ok(())
    }

    /// The log was cut behind an entry.
    fn truncate(&mut self, last: Point) -> Result<(), String> {
        if last.index < self.applied.index {
            return Err(format!("entries behind {} are taken back, and were applied", last.index));
        }
        while self.entries.pop_back_if(|entry| entry.index > last.index).is_some() {}
        Ok(())
    }

    /// The log gave way to a checkpoint. It is the one this was started from, or an earlier one.
    fn install(&mut self, kept: Kept) -> Result<(), String> {
        let Some(newest) = kept.newest else { return Err("no checkpoint is installed".into()) };
        if newest.from.index > self.from.index || self.applied != self.from {
            return Err(format!("the checkpoint of entry {} that was installed is not there", newest.from.index));
        }
        self.entries.clear();
        self.installed |= newest.from == self.from;
        Ok(())
    }

    /// Remembers what replay has done so far: the machine forgets it at the checkpoint's end.
    fn note_replay(&mut self) {
        if !self.machine.is_of_one_moment() {
            let (pages, passed_over) = self.machine.pages_and_passed_over();
            (self.restored.pages_split, self.restored.passed_over) = (pages - self.pages, passed_over);
        }
    }

    fn finish(
        self,
        config: &StoreConfig,
        shard: ShardId,
        state: GroupState,
        now: Micros,
    ) -> Result<(Replica, Restored), OpenError> {
        // What another replica has made may reach further than the log that has come since.
        if self.applied.index < self.to.index && !self.installed {
            return Err(OpenError::LogTooShort(shard, self.applied.index, self.to.index));
        }
        let me = own_replica(config.node);
        let place = Place { node: config.node, store: config.store };
        let alone = Configuration::new(vec![Member::voter(me, place)]).expect("one voter is a configuration");
        let state = State {
            term: state.term,
            vote: state.vote,
            commit: state.commit,
            applied: self.applied.index,
            whole_from: self.to.index,
            before: self.applied,
            configuration: (Index(0), alone),
            entries: self.entries,
        };
        // Only groups of several voters draw from it; two stores of a node and two lives of one should not draw alike.
        let seed = mix(now.0 ^ mix(me.0 ^ mix(u64::from(shard.0))));
        let (timing, batch_entries_max) = (Timing::default(), APPEND_ENTRIES_MAX);
        let setup = Setup { shard, replica: me, timing, batch_entries_max, seed };
        let group = Group::new(&setup, state, now);
        Ok((Replica::new(shard, group, self.machine, self.range.0, self.range.1), self.restored))
    }
}

/// Whether the log goes on where a checkpoint begins.
fn reaches(file: CheckpointFile, reference: &Reference, base: GroupState) -> Result<(), LoadError> {
    let refused = |what: String| Err(LoadError { file: file.name(), offset: 0, what });
    let begins = Point { index: base.last_index, term: base.last_term };
    if begins.index > reference.from.index {
        return refused(format!("the log begins after entry {}, behind where it begins", begins.index));
    }
    if [reference.from, reference.to].iter().any(|at| at.index == begins.index && *at != begins) {
        return refused(format!("entry {} is of another term in the log", begins.index));
    }
    Ok(())
}

/// Reads the checkpoints that a start names and has no need to read, because it found a newer one whole. Returns those that it could not
/// start from, and why. The counters of one at a time have their memory from `pool`.
pub fn unusable_spares(
    config: &StoreConfig,
    pool: &Pool,
    dir: &mut dyn CheckpointDir,
    found: &Opened,
) -> Vec<(CheckpointFile, LoadError)> {
    let store = WalIdentity { cluster: config.cluster, node: config.node, store: config.store };
    let ranges = own_shards(config);
    let mut unusable = Vec::new();
    for restored in &found.shards {
        let shard = restored.shard;
        let Some((used, range)) = restored.checkpoint.zip(ranges.get(&shard).copied()) else { continue };
        let kept = found.log.groups.get(&shard).map_or(Kept::default(), |group| group.kept);
        let base = found.log.base.get(&shard).copied().unwrap_or_default();
        for reference in kept.iter().filter(|one| one.number < used.number) {
            let file = CheckpointFile { shard, number: reference.number };
            let setup = || Machine::setup(range, &config.map, config.secret, config.page_keys_max, pool);
            let wanted = Wanted { range, setup: (shard != ShardId::META).then(setup) };
            let read = reaches(file, &reference, base)
                .and_then(|()| load(dir, &Preamble { store, file }, &reference, &wanted, &mut |_| {}));
            unusable.extend(read.err().map(|error| (file, error)));
        }
    }
    unusable
}

/// The digest of a counting shard's state, made by applying all its entries to nothing: what a checker compares a restored state
/// with. Shards need not live in the store of `config`.
///
/// # Errors
/// An entry cannot be applied.
#[cfg(any(test, feature = "sim"))]
pub fn digest_of_log<'a>(
    config: &StoreConfig,
    shard: ShardId,
    entries: impl Iterator<Item = &'a Record>,
) -> Result<u64, String> {
    let place = config.map.shards.iter().position(|range| range.shard == shard).ok_or("no such shard")?;
    let setup =
        Machine::setup(config.map.range(place), &config.map, config.secret, config.page_keys_max, &Pool::borrowed());
    let mut machine = Machine::new(shard, Some(setup));
    let mut effects = Applied::default();
    for record in entries {
        let Record::Entry { term, index, payload, .. } = record else { continue };
        let entry = Entry { term: *term, index: *index, payload: payload.clone() };
        machine.apply(config.map.routing_seed, &entry, &mut effects).map_err(|error| error.to_string())?;
    }
    match &machine {
        Machine::Counters(shard) => Ok(shard.digest()),
        Machine::Meta(_) => Err("the meta shard counts nothing".into()),
    }
}
