//! A simulated store: its replicas as they run, and the one log behind which their messages wait.

use std::collections::{BTreeMap, VecDeque};

use super::disk::{Durable, File, Logged};
use crate::engine::checkpoint::Point;
use crate::engine::raft::configuration::Place;
use crate::engine::raft::heartbeats::Bundle;
use crate::engine::raft::install::{CheckpointId, CheckpointWork};
use crate::engine::raft::{Envelope, Group};
use crate::ids::{CheckpointNumber, Index, Micros, NodeId, ReadToken, ReplicaId, StoreId, Term};

/// A replica that runs.
pub(super) struct Replica {
    pub(super) group: Group,
    /// Digest of all that was applied.
    pub(super) state: u64,
    /// What was seen of it after its last step.
    pub(super) seen: Seen,
    /// A checkpoint that has begun: where, and the state there.
    pub(super) begun: Option<(Point, u64)>,
    /// Its log on disk begins after this.
    pub(super) kept_from: Index,
    /// From where on its state is of one moment.
    pub(super) whole_from: Index,
    /// Pieces of checkpoints that have come in.
    pub(super) incoming: BTreeMap<CheckpointId, Vec<u8>>,
    /// Reads that wait.
    pub(super) reads: BTreeMap<ReadToken, Asked>,
    /// What its group has asked for about checkpoints.
    pub(super) works: VecDeque<CheckpointWork>,
    /// When others were last heard by this leader.
    pub(super) heard: BTreeMap<ReplicaId, Micros>,
}

/// A read, as it was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// What was committed then.
    pub(super) committed: Index,
    /// In which event.
    pub(super) event: u64,
    /// Term and configuration, if a leader was asked.
    pub(super) of: Option<(Term, Index)>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) term: Term,
    pub(super) vote: ReplicaId,
    pub(super) commit: Index,
    pub(super) applied: Index,
    pub(super) leads_in: Term,
    pub(super) configured: Index,
}

impl Replica {
    pub(super) fn new(group: Group, state: u64, kept_from: Index, whole_from: Index) -> Replica {
        let seen = Seen {
            term: group.term(),
            vote: group.vote(),
            commit: group.commit(),
            applied: group.applied(),
            leads_in: Term(0),
            configured: Index(0),
        };
        Replica {
            group,
            state,
            seen,
            begun: None,
            kept_from,
            whole_from,
            incoming: BTreeMap::new(),
            reads: BTreeMap::new(),
            works: VecDeque::new(),
            heard: BTreeMap::new(),
        }
    }
}

pub(super) struct Store {
    pub(super) place: Place,
    /// By group; none while the store is down.
    pub(super) replicas: Vec<Option<Replica>>,
    pub(super) is_up: bool,
    pub(super) durable: Vec<Durable>,
    /// By group.
    pub(super) files: Vec<BTreeMap<CheckpointNumber, File>>,
    /// Records that are not durable, the first one with this position.
    pending: VecDeque<(usize, Logged)>,
    durable_to: u64,
    /// The write under way ends here.
    writing: Option<u64>,
    /// Messages behind the log.
    gated: VecDeque<(u64, Envelope)>,
    pub(super) bundle: Bundle,
    /// The disk does not move.
    pub(super) is_stuck: bool,
    /// Its clock stands still: it hears, and nothing is ever due.
    pub(super) dozes: bool,
    /// When the log last moved, or had nothing to do.
    pub(super) moved_at: Micros,
    next_number: CheckpointNumber,
    /// How often it began.
    pub(super) lives: u64,
}

impl Store {
    pub(super) fn new(number: u64, groups: usize) -> Store {
        Store {
            place: Place { node: NodeId(number + 1), store: StoreId(0) },
            replicas: std::iter::repeat_with(|| None).take(groups).collect(),
            is_up: false,
            durable: vec![Durable::default(); groups],
            files: vec![BTreeMap::new(); groups],
            pending: VecDeque::new(),
            durable_to: 0,
            writing: None,
            gated: VecDeque::new(),
            bundle: Bundle::default(),
            is_stuck: false,
            dozes: false,
            moved_at: Micros(0),
            next_number: CheckpointNumber(0),
            lives: 0,
        }
    }

    pub(super) fn log(&mut self, group: usize, logged: Logged) {
        self.pending.push_back((group, logged));
    }

    /// Position just past the last record.
    pub(super) fn appended(&self) -> u64 {
        self.durable_to + self.pending.len() as u64
    }

    /// Holds a message back until everything logged so far is durable.
    pub(super) fn gate(&mut self, envelope: Envelope) {
        let at = self.appended();
        self.gated.push_back((at, envelope));
    }

    /// The next message that waits for nothing any more.
    pub(super) fn ungated(&mut self) -> Option<Envelope> {
        let durable = self.durable_to;
        self.gated.pop_front_if(|(at, _)| *at <= durable).map(|(_, envelope)| envelope)
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether an owner has something left to do about checkpoints.
    pub(super) fn has_work(&self) -> bool {
        self.replicas.iter().flatten().any(|replica| !replica.works.is_empty())
    }

    /// Begins a write of all that has gathered, if none is under way; whether one is now.
    pub(super) fn begin_write(&mut self) -> bool {
        if self.writing.is_none() && !self.pending.is_empty() {
            self.writing = Some(self.appended());
        }
        self.writing.is_some()
    }

    /// The write under way is durable.
    pub(super) fn end_write(&mut self, now: Micros) -> Result<(), String> {
        let Some(end) = self.writing.take() else { return Ok(()) };
        self.moved_at = now;
        self.persist(end - self.durable_to)
    }

    fn persist(&mut self, records: u64) -> Result<(), String> {
        for _ in 0..records {
            let Some((group, logged)) = self.pending.pop_front() else { break };
            self.durable_to += 1;
            self.durable[group].fold(&logged)?;
        }
        Ok(())
    }

    /// The process dies. Of the records that were not durable, so many are found all the same.
    pub(super) fn crash(&mut self, survive: u64) -> Result<(), String> {
        self.persist(survive.min(self.pending.len() as u64))?;
        self.pending.clear();
        self.gated.clear();
        self.writing = None;
        (self.is_up, self.dozes) = (false, false);
        self.bundle = Bundle::default();
        self.replicas.iter_mut().for_each(|replica| *replica = None);
        Ok(())
    }

    pub(super) fn number(&mut self) -> CheckpointNumber {
        self.next_number = self.next_number.next();
        self.next_number
    }
}
