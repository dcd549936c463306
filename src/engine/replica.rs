//! A replica: one shard's copy in one store. Its Raft group, its state machine, and the requests between the two.
//!
//! ```text
//! part ─► waiting ─► entry (as many parts as gathered) ─► Raft ─► committed ─► applied ─► replies
//! ```
//!
//! Apply decides everything about an increment, from the entry and the state machine alone; so a replay of the log
//! decides the same. What can refuse an increment for want of room (memory, disk, queues) refuses
//! it before it is proposed.

use std::collections::VecDeque;

use super::cluster::ClusterMap;
use super::command::{self, Batch, Command, CommandError};
use super::counters::{self, Counters, Increment, Outcome, Setup};
use super::part::{PartAnswer, PartReply, PartRequest, Ticket};
use super::raft::{Effects, Entry, Group};
use super::status::ShardStatus;
use crate::error::ErrorCode;
use crate::ids::{KeyHash, ShardId};
use crate::limits::{APPLY_CHUNK_KEYS, SHARD_UNCOMMITTED_BYTES_MAX};

/// What the entries of a shard change.
pub(super) enum Machine {
    /// A counting shard.
    Counters(Box<Counters>),
    /// The meta shard, and the map that its log holds, once it does.
    Meta(Option<ClusterMap>),
}

/// An increment part, waiting or proposed.
#[derive(Debug)]
pub(super) struct IncrementPart {
    pub(super) ticket: Ticket,
    pub(super) count: u32,
    pub(super) want_values: bool,
    /// Emptied once it is part of an entry.
    pub(super) encoded: Vec<u8>,
}

impl IncrementPart {
    /// Bytes that the part adds to an entry, at most.
    pub(super) fn entry_bytes(&self) -> usize {
        self.encoded.len() + 5
    }
}

#[derive(Debug)]
struct Proposal {
    index: crate::ids::Index,
    bytes: usize,
    parts: Vec<IncrementPart>,
}

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

pub(super) struct Replica {
    pub(super) shard: ShardId,
    pub(super) group: Group,
    pub(super) machine: Machine,
    first_hash: KeyHash,
    last_hash: KeyHash,
    waiting: VecDeque<IncrementPart>,
    proposed: VecDeque<Proposal>,
    /// Bytes of waiting and proposed parts.
    uncommitted_bytes: usize,
    /// Memory of the machine that the store's total holds.
    accounted_bytes: u64,
    /// Reused by `apply`.
    outcomes: Vec<Outcome>,
}

impl Machine {
    pub(super) fn new(shard: ShardId, first: KeyHash, last: KeyHash, map: &ClusterMap) -> Machine {
        if shard == ShardId::META {
            Machine::Meta(None)
        } else {
            let candidates = counters::candidates_for(map.shards.len());
            Machine::Counters(Box::new(Counters::new(Setup::new(first..=last, map.routing_seed, candidates))))
        }
    }

    /// Applies one committed entry. Outcomes, one for each increment, replace those in `outcomes`.
    pub(super) fn apply(
        &mut self,
        routing_seed: u64,
        entry: &Entry,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), ApplyError> {
        outcomes.clear();
        match (command::decode(&entry.payload)?, self) {
            (Command::NoOp, _) => Ok(()),
            (Command::Batch(batch), Machine::Counters(counters)) => {
                apply_batch(counters, routing_seed, batch, outcomes)
            }
            (Command::Map(encoded), Machine::Meta(map)) => {
                *map = Some(ClusterMap::decode(encoded).map_err(ApplyError::Map)?);
                Ok(())
            }
            (Command::Batch(_) | Command::Map(_), _) => Err(ApplyError::WrongShard),
        }
    }

    /// Bytes of memory in use, by the machine's own account.
    pub(super) fn memory_bytes(&self) -> u64 {
        match self {
            Machine::Counters(counters) => counters.memory_bytes(),
            Machine::Meta(_) => 0,
        }
    }
}

fn apply_batch(
    counters: &mut Counters,
    routing_seed: u64,
    mut batch: Batch<'_>,
    outcomes: &mut Vec<Outcome>,
) -> Result<(), ApplyError> {
    const EMPTY: Increment<'_> = Increment { hash: KeyHash(0), key: &[], delta: 0 };
    let mut chunk = [EMPTY; APPLY_CHUNK_KEYS];
    let mut filled = 0;
    while let Some(count) = batch.next_part()? {
        for _ in 0..count {
            chunk[filled] = batch.next_increment(routing_seed)?;
            filled += 1;
            if filled == APPLY_CHUNK_KEYS {
                counters.apply_batch(&chunk, outcomes);
                filled = 0;
            }
        }
    }
    counters.apply_batch(&chunk[..filled], outcomes);
    Ok(())
}

impl Replica {
    pub(super) fn new(shard: ShardId, group: Group, machine: Machine, first: KeyHash, last: KeyHash) -> Replica {
        Replica {
            shard,
            group,
            machine,
            first_hash: first,
            last_hash: last,
            waiting: VecDeque::new(),
            proposed: VecDeque::new(),
            uncommitted_bytes: 0,
            accounted_bytes: 0,
            outcomes: Vec::new(),
        }
    }

    /// Brings the store's total of memory up to this replica's present use.
    pub(super) fn account(&mut self, total: u64) -> u64 {
        let before = std::mem::replace(&mut self.accounted_bytes, self.machine.memory_bytes());
        total + self.accounted_bytes - before
    }

    /// Whether there is nothing between acceptance and answer.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.proposed.is_empty()
    }

    /// Queues increments, or says why not.
    pub(super) fn queue(&mut self, part: IncrementPart) -> Result<(), (Ticket, ErrorCode)> {
        if !self.group.is_leader() {
            return Err((part.ticket, ErrorCode::Unavailable));
        }
        if self.uncommitted_bytes + part.encoded.len() > SHARD_UNCOMMITTED_BYTES_MAX {
            return Err((part.ticket, ErrorCode::Overloaded));
        }
        self.uncommitted_bytes += part.encoded.len();
        self.waiting.push_back(part);
        Ok(())
    }

    /// Whether increments wait to be proposed.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Encoded bytes of the part that waits longest.
    pub(super) fn next_waiting(&self) -> Option<&IncrementPart> {
        self.waiting.front()
    }

    /// Takes back the part that waits longest, to be refused.
    pub(super) fn refuse_waiting(&mut self, code: ErrorCode) -> Option<PartReply> {
        let part = self.waiting.pop_front()?;
        self.uncommitted_bytes -= part.encoded.len();
        Some(PartReply { ticket: part.ticket, shard: self.shard, body: PartAnswer::Refused { code } })
    }

    /// Proposes one entry of the parts that have waited longest: as many as fit in `bytes_target`, but at least one.
    pub(super) fn propose_waiting(&mut self, bytes_target: usize, effects: &mut Effects) {
        let mut parts = Vec::new();
        let mut bytes = 0;
        let mut payload = Vec::new();
        command::begin_batch(&mut payload);
        while let Some(mut part) =
            self.waiting.pop_front_if(|part| parts.is_empty() || payload.len() + part.entry_bytes() <= bytes_target)
        {
            payload.reserve(part.entry_bytes());
            command::push_part(&mut payload, part.count, &part.encoded);
            bytes += part.encoded.len();
            part.encoded = Vec::new();
            parts.push(part);
        }
        let index =
            self.group.propose(payload, effects).expect("parts wait only at a leader, and a lone voter stays one");
        self.proposed.push_back(Proposal { index, bytes, parts });
    }

    /// Applies what has been committed, and answers the parts it held.
    pub(super) fn apply_committed(
        &mut self,
        routing_seed: u64,
        replies: &mut Vec<PartReply>,
    ) -> Result<(), ApplyError> {
        while let Some(entry) = self.group.next_committed() {
            self.machine.apply(routing_seed, &entry, &mut self.outcomes)?;
            let Some(proposal) = self.proposed.pop_front_if(|proposal| proposal.index == entry.index) else { continue };
            self.uncommitted_bytes -= proposal.bytes;
            let mut first = 0;
            for part in proposal.parts {
                let outcomes = &self.outcomes[first..first + part.count as usize];
                let body = PartAnswer::Incremented {
                    index: entry.index,
                    first_position: first as u32,
                    overflowed: overflowed(outcomes),
                    values: if part.want_values { values(outcomes) } else { Vec::new() },
                };
                replies.push(PartReply { ticket: part.ticket, shard: self.shard, body });
                first += part.count as usize;
            }
        }
        Ok(())
    }

    /// Answers a read from what has been applied; linearizable, or refused.
    pub(super) fn read(&mut self, routing_seed: u64, request: &PartRequest) -> PartAnswer {
        use super::part::PartBody;
        let refused = |code| PartAnswer::Refused { code };
        let Some(index) = self.group.read_index() else { return refused(ErrorCode::Unavailable) };
        let Machine::Counters(counters) = &mut self.machine else { return refused(ErrorCode::WrongShard) };
        match &request.body {
            PartBody::Get { keys } => {
                let hashed: Vec<_> = keys.iter().map(|key| (KeyHash::of(routing_seed, key), key)).collect();
                // Ownership is decided here, at the moment of reading, whatever the asker's map said.
                let owned = self.first_hash..=self.last_hash;
                if !hashed.iter().all(|(hash, _)| owned.contains(hash)) {
                    return refused(ErrorCode::WrongShard);
                }
                let mut counts = Vec::with_capacity(keys.len());
                counters.counts(&hashed, &mut counts);
                PartAnswer::Counts { index, counts }
            }
            PartBody::TopK { k } => {
                let top = counters.top(*k as usize);
                PartAnswer::Top { index, keys: top.keys, counts: top.counts, exhausted: top.exhausted }
            }
            PartBody::Increment { .. } | PartBody::Status => refused(ErrorCode::Unsupported),
        }
    }

    /// Whether every key of an encoded part exists, so that applying it takes no memory. A part that cannot be read has no keys.
    pub(super) fn all_exist(&self, routing_seed: u64, part: &IncrementPart) -> bool {
        let Machine::Counters(counters) = &self.machine else { return false };
        let mut entry = Vec::with_capacity(part.encoded.len() + 8);
        command::begin_batch(&mut entry);
        command::push_part(&mut entry, part.count, &part.encoded);
        let Ok(Command::Batch(mut batch)) = command::decode(&entry) else { return false };
        matches!(batch.next_part(), Ok(Some(count)) if (0..count).all(|_| {
            batch.next_increment(routing_seed).is_ok_and(|one| counters.count(one.hash, one.key).is_some())
        }))
    }

    pub(super) fn status(&self) -> ShardStatus {
        ShardStatus {
            shard: self.shard,
            role: self.group.role_name().to_string(),
            term: self.group.term(),
            last_index: self.group.last(),
            commit_index: self.group.commit(),
            applied_index: self.group.applied(),
            range_start: self.first_hash,
            range_end: self.last_hash,
            keys: match &self.machine {
                Machine::Counters(counters) => counters.len(),
                Machine::Meta(_) => 0,
            },
            memory_bytes: self.machine.memory_bytes(),
        }
    }
}

fn overflowed(outcomes: &[Outcome]) -> Vec<u32> {
    let refused = outcomes.iter().enumerate().filter(|(_, outcome)| **outcome == Outcome::Overflow);
    refused.map(|(place, _)| place as u32).collect()
}

fn values(outcomes: &[Outcome]) -> Vec<i64> {
    let value = |outcome: &Outcome| match *outcome {
        Outcome::Applied(value) => value,
        Outcome::Overflow => 0,
    };
    outcomes.iter().map(value).collect()
}
