//! A simulated store's disk: what is durable of each of its replicas, and the log records that are not yet.
//!
//! A crash keeps any number of the records that were not durable, from the oldest on: the log cuts a torn tail, and may find more than
//! it had reported. Files of checkpoints are durable before a record names them, so they are simply there.

use std::collections::{BTreeMap, VecDeque};

use crate::engine::checkpoint::{Point, Reference};
use crate::engine::raft::configuration::Configuration;
use crate::engine::raft::{Entry, Restored};
use crate::engine::wal::Record;
use crate::ids::{CheckpointNumber, Index, ReplicaId, Term};

/// What a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) from: Point,
    pub(super) to: Point,
    /// The state at `from`.
    pub(super) state: u64,
    pub(super) configuration: (Index, Configuration),
}

/// A record of the store's log.
#[derive(Clone, Debug)]
pub(super) enum Logged {
    /// Of the group.
    Raft(Record),
    /// A replica of this id begins, and no earlier one ever again.
    Begin(ReplicaId),
}

/// What is durable of one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Durable {
    /// The highest id that ever lived here; 0 if none did.
    pub(super) replica: ReplicaId,
    pub(super) term: Term,
    pub(super) vote: ReplicaId,
    pub(super) commit: Index,
    /// The entry before the first.
    pub(super) base: Point,
    pub(super) entries: VecDeque<Entry>,
    pub(super) kept: Option<Reference>,
    /// What was in force before any entry.
    pub(super) initial: Configuration,
}

impl Durable {
    pub(super) fn last(&self) -> Point {
        self.entries.back().map_or(self.base, Entry::point)
    }

    /// Whether an entry is there, or in a checkpoint.
    pub(super) fn holds(&self, point: Point) -> bool {
        if point.index <= self.base.index {
            return point.index < self.base.index || point == self.base;
        }
        let place = (point.index.0 - self.base.index.0 - 1) as usize;
        self.entries.get(place).is_some_and(|entry| entry.term == point.term)
    }

    /// Takes a record, as recovery would.
    pub(super) fn fold(&mut self, logged: &Logged) -> Result<(), String> {
        let record = match logged {
            Logged::Raft(record) => record,
            Logged::Begin(replica) => {
                *self = Durable { replica: *replica, ..Durable::default() };
                return Ok(());
            }
        };
        match record {
            Record::HardState { term, vote, commit, .. } => {
                let vote_moves = *term == self.term && self.vote != ReplicaId::NONE && *vote != self.vote;
                if *term < self.term || vote_moves || *commit > self.last().index {
                    return Err("log: a term goes back, a vote changes, or a commit index is ahead".into());
                }
                (self.term, self.vote, self.commit) = (*term, *vote, self.commit.max(*commit));
            }
            Record::Entry { term, index, commit, payload, .. } => {
                let last = self.last();
                if *index != last.index.next() || *term < last.term || *term > self.term || *commit >= *index {
                    return Err(format!("log: entry {index} of term {term} does not follow {last:?}"));
                }
                self.entries.push_back(Entry { term: *term, index: *index, payload: payload.clone() });
                self.commit = self.commit.max(*commit);
            }
            Record::Truncate { last, .. } => {
                if last.index < self.commit || last.index >= self.last().index || !self.holds(*last) {
                    return Err(format!("log: it is cut at {last:?}, which is committed or not in it"));
                }
                self.entries.truncate((last.index.0 - self.base.index.0) as usize);
            }
            Record::Checkpoint { kept, .. } => {
                let newest = kept.newest.ok_or("log: a record of no checkpoint")?;
                if !self.holds(newest.to) || !self.holds(newest.from) {
                    return Err("log: a checkpoint is ahead of it (C4)".into());
                }
                self.purge(newest);
            }
            Record::Install { kept, .. } => {
                let newest = kept.newest.ok_or("log: a record of no checkpoint")?;
                if newest.from.index <= self.commit {
                    return Err("log: a checkpoint is installed over what is committed".into());
                }
                self.entries.clear();
                self.commit = newest.from.index;
                self.purge(newest);
            }
        }
        Ok(())
    }

    /// The log begins where a checkpoint does.
    fn purge(&mut self, newest: Reference) {
        self.kept = Some(newest);
        while self.entries.pop_front_if(|entry| entry.index <= newest.from.index).is_some() {}
        self.base = newest.from;
    }

    /// What a replica starts from, and its state.
    pub(super) fn restore(&self, files: &BTreeMap<CheckpointNumber, File>) -> Result<(Restored, u64), String> {
        let (configuration, state, to) = match self.kept {
            None => ((Index(0), self.initial.clone()), 0, Index(0)),
            Some(kept) => {
                let file = files.get(&kept.number).ok_or("a checkpoint's file is missing")?;
                (file.configuration.clone(), file.state, file.to.index)
            }
        };
        let restored = Restored {
            term: self.term,
            vote: self.vote,
            commit: self.commit,
            applied: self.base.index,
            whole_from: to,
            before: self.base,
            configuration,
            entries: self.entries.clone(),
        };
        Ok((restored, state))
    }
}
