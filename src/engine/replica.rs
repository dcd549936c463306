//! A replica: one shard's copy in one store. Its Raft group, its state machine, and the requests between the two.
//!
//! ```text
//! part ─► waiting ─► entry (as many parts as gathered) ─► Raft ─► committed ─► applied ─► replies
//! ```
//!
//! What can refuse a part for want of room (memory, disk, queues, windows) refuses it before it is proposed; everything else
//! is decided by the state machine when the entry is applied.

use std::collections::VecDeque;

use super::cluster::ClusterMap;
use super::command::{self, Command, Part};
use super::counters::Scanned;
use super::machine::{ApplyError, Effects as Applied, Machine, Settled, overflowed, values};
use super::part::{PackedKeys, PartAnswer, PartReply, Ticket};
use super::raft::{Effects, Group, Refusal};
use super::sessions::Stamp;
use super::status::ShardStatus;
use crate::error::ErrorCode;
use crate::ids::{Index, KeyHash, Micros, SessionId, ShardId, Term};
use crate::limits::{
    LOG_TIME_STEP_MICROS_MAX, SCAN_IDLE_MICROS_MAX, SCAN_PAGES_MAX, SCAN_PIECE_BYTES, SESSION_NAMES_MAX, SESSIONS_MAX,
    SHARD_UNCOMMITTED_BYTES_MAX, TURN_TOP_PAGES_MAX,
};
use crate::mutant::mutant;
use crate::wire::client::{ScanReply, ScanRequest};

/// A part that changes something, waiting or proposed.
#[derive(Debug)]
pub(super) struct WaitingPart {
    pub(super) ticket: Ticket,
    pub(super) want_values: bool,
    /// In the log's encoding. Emptied once it is part of an entry.
    pub(super) encoded: Vec<u8>,
}

#[derive(Debug)]
struct Proposal {
    index: Index,
    bytes: usize,
    parts: Vec<WaitingPart>,
}

impl Scan {
    /// Whether the last piece was answered. Then only that answer is kept.
    fn is_over(&self) -> bool {
        self.last_piece.as_ref().is_some_and(|answer| answer.last)
    }
}

pub(super) struct Replica {
    pub(super) shard: ShardId,
    pub(super) group: Group,
    pub(super) machine: Machine,
    first_hash: KeyHash,
    last_hash: KeyHash,
    waiting: VecDeque<WaitingPart>,
    proposed: VecDeque<Proposal>,
    /// Bytes of waiting and proposed parts.
    uncommitted_bytes: usize,
    /// Memory of the machine that the store's total holds.
    accounted_bytes: u64,
    /// The mark that this replica has proposed as a leader, and the term it did so in.
    proposed_mark: (Term, SessionId),
    /// Until when, and in which term, this leader of the meta shard has measured log time.
    measured: (Term, Micros),
    /// Reused by `apply`.
    applied: Applied,
    scan: Option<Scan>,
}

/// A scan under way, as its client sees it.
#[derive(Debug)]
struct Scan {
    /// The client's number for it.
    id: u64,
    /// What was applied when it began, and how many keys there were.
    index: Index,
    keys_total: u64,
    /// The piece that comes next, and the one before it: its answer may have been lost.
    next: u64,
    last_piece: Option<ScanReply>,
    /// When the client has left it alone for too long.
    deadline: Micros,
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
            proposed_mark: (Term(0), SessionId::NONE),
            measured: (Term(0), Micros(0)),
            applied: Applied::default(),
            scan: None,
        }
    }

    /// First and last hash of the shard's range.
    pub(super) fn range(&self) -> (KeyHash, KeyHash) {
        (self.first_hash, self.last_hash)
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

    /// Queues a part, or says why not.
    pub(super) fn queue(&mut self, part: WaitingPart) -> Result<(), ErrorCode> {
        if !self.group.is_leader() {
            return Err(ErrorCode::Unavailable);
        }
        if self.uncommitted_bytes + part.encoded.len() > SHARD_UNCOMMITTED_BYTES_MAX {
            return Err(ErrorCode::Overloaded);
        }
        self.uncommitted_bytes += part.encoded.len();
        self.waiting.push_back(part);
        Ok(())
    }

    /// Whether the shard has room to remember a request's outcome.
    pub(super) fn has_room_for(&self, stamp: &Stamp) -> bool {
        matches!(&self.machine, Machine::Counters(shard) if shard.windows.has_room(stamp))
    }

    /// Whether the meta shard has room for one more session, of this name if it is not empty.
    pub(super) fn has_room_to_open(&self, name: &[u8]) -> bool {
        let Machine::Meta(meta) = &self.machine else { return false };
        let under_way = self.waiting.len() + self.proposed.iter().map(|proposal| proposal.parts.len()).sum::<usize>();
        let names_free =
            name.is_empty() || meta.registry.knows(name) || meta.registry.names() + under_way < SESSION_NAMES_MAX;
        names_free && meta.registry.len() + under_way < SESSIONS_MAX
    }

    /// Whether parts wait to be proposed.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The part that waits longest.
    pub(super) fn next_waiting(&self) -> Option<&WaitingPart> {
        self.waiting.front()
    }

    /// Takes back the part that waits longest, to be refused.
    pub(super) fn refuse_waiting(&mut self, code: ErrorCode) -> Option<PartReply> {
        let part = self.waiting.pop_front()?;
        self.uncommitted_bytes -= part.encoded.len();
        Some(PartReply { ticket: part.ticket, shard: self.shard, body: PartAnswer::Refused { code } })
    }

    /// Proposes one entry of the parts that have waited longest: as many as fit in `bytes_target`, but at least one.
    pub(super) fn propose_waiting(
        &mut self,
        now: Micros,
        bytes_target: usize,
        effects: &mut Effects,
        replies: &mut Vec<PartReply>,
    ) {
        let mut parts = Vec::new();
        let mut bytes = 0;
        let mut payload = self.begin_entry(now);
        while let Some(mut part) =
            self.waiting.pop_front_if(|part| parts.is_empty() || payload.len() + part.encoded.len() <= bytes_target)
        {
            payload.extend_from_slice(&part.encoded);
            bytes += part.encoded.len();
            part.encoded = Vec::new();
            parts.push(part);
        }
        match self.group.propose(payload, effects) {
            Ok(index) => self.proposed.push_back(Proposal { index, bytes, parts }),
            Err(refusal) => {
                self.uncommitted_bytes -= bytes;
                let code = match refusal {
                    Refusal::Overloaded => ErrorCode::Overloaded,
                    _ => ErrorCode::Unavailable,
                };
                self.refuse(parts, code, replies);
            }
        }
    }

    fn refuse(&self, parts: impl IntoIterator<Item = WaitingPart>, code: ErrorCode, replies: &mut Vec<PartReply>) {
        let refused = |part: WaitingPart| PartReply {
            ticket: part.ticket,
            shard: self.shard,
            body: PartAnswer::Refused { code },
        };
        replies.extend(parts.into_iter().map(refused));
    }

    /// This replica no longer leads. What it has proposed may be committed yet by its successor: nobody knows. What it has not is
    /// refused.
    pub(super) fn leads_no_longer(&mut self, replies: &mut Vec<PartReply>) {
        let (proposed, waiting) = (std::mem::take(&mut self.proposed), std::mem::take(&mut self.waiting));
        self.refuse(proposed.into_iter().flat_map(|proposal| proposal.parts), ErrorCode::Unknown, replies);
        self.refuse(waiting, ErrorCode::Unavailable, replies);
        self.uncommitted_bytes = 0;
    }

    fn begin_entry(&mut self, now: Micros) -> Vec<u8> {
        let mut payload = Vec::new();
        match &self.machine {
            Machine::Counters(shard) => command::begin_batch(&mut payload, shard.epoch),
            Machine::Meta(_) => {
                let elapsed = self.elapsed(now);
                self.measured = (self.group.term(), now);
                command::begin_meta(&mut payload, elapsed);
            }
        }
        payload
    }

    /// What this leader has measured since its last entry; nothing before its first.
    fn elapsed(&self, now: Micros) -> u64 {
        let (term, at) = self.measured;
        if term == self.group.term() { now.0.saturating_sub(at.0) } else { 0 }
    }

    /// As the leader of the meta shard: proposes to expire the sessions that have reached an age, or to advance log time when
    /// it is due. Returns when to look again.
    pub(super) fn keep_log_time(&mut self, now: Micros, age_micros: u64, effects: &mut Effects) -> Option<Micros> {
        let Machine::Meta(meta) = &self.machine else { return None };
        // Before it has applied an entry of its own term, a leader may not have applied all that it inherited.
        if self.group.read_index().is_none() || meta.registry.is_empty() {
            return None;
        }
        if self.measured.0 != self.group.term() {
            self.measured = (self.group.term(), now);
        }
        let (elapsed, next) = (self.elapsed(now), meta.registry.next_due(age_micros)?);
        if elapsed < next {
            return Some(self.measured.1.plus(next));
        }
        let due = meta.registry.due(elapsed, age_micros).filter(|&mark| self.may_propose(mark));
        if due.is_some() || elapsed >= LOG_TIME_STEP_MICROS_MAX {
            let mut payload = self.begin_entry(now);
            if let Some(mark) = due {
                payload.extend(command::expire_part(mark));
                self.proposed_mark = (self.group.term(), mark);
            }
            let _ = self.group.propose(payload, effects);
        }
        // What has been proposed changes the registry when it is applied, and then this is asked again.
        None
    }

    /// As a leader: brings a mark of the meta shard into this shard's log, unless it is there already.
    pub(super) fn propose_mark(&mut self, mark: SessionId, effects: &mut Effects) {
        let Machine::Counters(shard) = &mut self.machine else { return };
        if mutant!("mark-not-logged") {
            return shard.windows.expire(mark);
        }
        let due = self.group.is_leader() && shard.windows.mark() < mark;
        if due && self.may_propose(mark) {
            self.proposed_mark = (self.group.term(), mark);
            let _ = self.group.propose(command::expire(mark), effects);
        }
    }

    fn may_propose(&self, mark: SessionId) -> bool {
        self.proposed_mark.0 != self.group.term() || self.proposed_mark.1 < mark
    }

    /// Applies what has been committed, and answers the parts it held.
    pub(super) fn apply_committed(
        &mut self,
        routing_seed: u64,
        replies: &mut Vec<PartReply>,
    ) -> Result<(), ApplyError> {
        while let Some(entry) = self.group.next_committed() {
            self.machine.apply(routing_seed, &entry, &mut self.applied)?;
            let Some(proposal) = self.proposed.pop_front_if(|proposal| proposal.index == entry.index) else { continue };
            self.uncommitted_bytes -= proposal.bytes;
            debug_assert_eq!(proposal.parts.len(), self.applied.settled.len(), "every part of an entry is settled");
            for (part, settled) in proposal.parts.into_iter().zip(self.applied.settled.drain(..)) {
                let body = answer(entry.index, part.want_values, settled, &self.applied.outcomes);
                replies.push(PartReply { ticket: part.ticket, shard: self.shard, body });
            }
        }
        Ok(())
    }

    /// Reads counts from what has been applied; linearizable, or refused.
    pub(super) fn get(&self, routing_seed: u64, keys: &PackedKeys) -> PartAnswer {
        let refused = |code| PartAnswer::Refused { code };
        let Some(index) = self.group.read_index() else { return refused(ErrorCode::Unavailable) };
        let Machine::Counters(shard) = &self.machine else { return refused(ErrorCode::WrongShard) };
        let hashed: Vec<_> = keys.iter().map(|key| (KeyHash::of(routing_seed, key), key)).collect();
        // Ownership is decided here, at the moment of reading, whatever the asker's map said.
        let owned = self.first_hash..=self.last_hash;
        if !hashed.iter().all(|(hash, _)| owned.contains(hash)) {
            return refused(ErrorCode::WrongShard);
        }
        let mut counts = Vec::with_capacity(keys.len());
        shard.counters.counts(&hashed, &mut counts);
        PartAnswer::Counts { index, counts }
    }

    /// Reads the highest counts from what has been applied; linearizable, or refused. `None` if that takes a walk over the
    /// table: then a bounded piece of the walk has been done, and the read is to be tried again.
    pub(super) fn top(&mut self, k: u32) -> Option<PartAnswer> {
        let refused = |code| Some(PartAnswer::Refused { code });
        let Some(index) = self.group.read_index() else { return refused(ErrorCode::Unavailable) };
        let Machine::Counters(shard) = &mut self.machine else { return refused(ErrorCode::WrongShard) };
        let mut slices_left = TURN_TOP_PAGES_MAX;
        while slices_left > 0 {
            if let Some(top) = shard.counters.begin_top(k as usize) {
                let (keys, counts, exhausted) = (top.keys, top.counts, top.exhausted);
                return Some(PartAnswer::Top { index, keys, counts, exhausted });
            }
            slices_left -= 1;
            while shard.counters.upkeep() {
                if slices_left == 0 {
                    return None;
                }
                slices_left -= 1;
            }
        }
        None
    }

    /// A piece of a scan. The first one begins it; that and no other is linearizable, all are as of its index.
    pub(super) fn scan(&mut self, now: Micros, request: &ScanRequest) -> PartAnswer {
        let &ScanRequest { scan: id, piece, .. } = request;
        let refused = |code| PartAnswer::Refused { code };
        let Some(index) = self.group.read_index() else { return refused(ErrorCode::Unavailable) };
        let Machine::Counters(shard) = &mut self.machine else { return refused(ErrorCode::WrongShard) };
        let is_known = self.scan.as_ref().is_some_and(|scan| scan.id == id);
        if !is_known && piece == 0 {
            if self.scan.as_ref().is_some_and(|other| !other.is_over() && now < other.deadline) {
                return refused(ErrorCode::Overloaded);
            }
            shard.counters.begin_scan();
            let (keys_total, deadline) = (shard.counters.len(), Micros(0));
            self.scan = Some(Scan { id, index, keys_total, next: 0, last_piece: None, deadline });
        }
        // A copy of the request for piece 0 that comes late may begin it anew.
        let is_this = |scan: &&mut Scan| scan.id == id && (piece == 0 || scan.index == request.applied_index);
        let Some(scan) = self.scan.as_mut().filter(is_this) else { return refused(ErrorCode::ScanLost) };
        scan.deadline = now.plus(SCAN_IDLE_MICROS_MAX);
        if piece.checked_add(1) == Some(scan.next)
            && let Some(answer) = &scan.last_piece
        {
            return PartAnswer::Scanned(answer.clone());
        }
        if piece != scan.next || scan.is_over() {
            return refused(ErrorCode::ScanLost);
        }
        let (mut keys, mut counts) = (PackedKeys::default(), Vec::new());
        let mut scanned = Scanned::Partly;
        for _ in 0..SCAN_PAGES_MAX {
            scanned = shard.counters.scan_page(&mut keys, &mut counts);
            let bytes = keys.size_bytes() + size_of_val(counts.as_slice());
            if scanned != Scanned::Partly || bytes >= SCAN_PIECE_BYTES {
                break;
            }
        }
        if scanned == Scanned::Lost {
            self.end_scan();
            return refused(ErrorCode::ScanLost);
        }
        if scanned == Scanned::Whole {
            shard.counters.end_scan();
        }
        let (shard, last) = (self.shard, scanned == Scanned::Whole);
        let answer = ScanReply { shard, applied_index: scan.index, keys_total: scan.keys_total, last, keys, counts };
        scan.next += 1;
        scan.last_piece = Some(answer.clone());
        PartAnswer::Scanned(answer)
    }

    /// When a scan that is under way has been left alone for too long.
    pub(super) fn scan_deadline(&self) -> Option<Micros> {
        self.scan.as_ref().map(|scan| scan.deadline)
    }

    /// Ends a scan that is under way.
    pub(super) fn end_scan(&mut self) {
        self.scan = None;
        if let Machine::Counters(shard) = &mut self.machine {
            shard.counters.end_scan();
        }
    }

    /// Whether applying a part takes no memory: its keys exist, and its session is known. A part that cannot be read takes some.
    pub(super) fn all_exist(&self, routing_seed: u64, part: &WaitingPart) -> bool {
        let Machine::Counters(shard) = &self.machine else { return true };
        let mut entry = Vec::with_capacity(part.encoded.len() + 16);
        command::begin_batch(&mut entry, shard.epoch);
        entry.extend_from_slice(&part.encoded);
        let Ok(Command::Batch(mut batch)) = command::decode(&entry) else { return false };
        match batch.next_part() {
            Ok(Some(Part::Increments { count, stamped })) => {
                stamped.is_none_or(|stamped| shard.windows.knows(stamped.stamp.session))
                    && (0..count).all(|_| {
                        let increment = batch.next_increment(routing_seed);
                        increment.is_ok_and(|one| shard.counters.count(one.hash, one.key).is_some())
                    })
            }
            Ok(Some(Part::Attach { session, .. } | Part::Resolve(Stamp { session, .. }))) => {
                shard.windows.knows(session)
            }
            _ => false,
        }
    }

    /// The mark of this shard, or of the meta shard.
    pub(super) fn mark(&self) -> SessionId {
        match &self.machine {
            Machine::Counters(shard) => shard.windows.mark(),
            Machine::Meta(meta) => meta.registry.mark(),
        }
    }

    /// The map in the meta shard's log is another one.
    pub(super) fn contradicts(&self, map: &ClusterMap) -> bool {
        self.machine.contradicts(map)
    }

    pub(super) fn status(&self) -> ShardStatus {
        let (keys, sessions) = match &self.machine {
            Machine::Counters(shard) => (shard.counters.len(), shard.windows.len()),
            Machine::Meta(meta) => (0, meta.registry.len()),
        };
        ShardStatus {
            shard: self.shard,
            role: self.group.role_name().to_string(),
            term: self.group.term(),
            last_index: self.group.last(),
            commit_index: self.group.commit(),
            applied_index: self.group.applied(),
            range_start: self.first_hash,
            range_end: self.last_hash,
            keys,
            memory_bytes: self.machine.memory_bytes(),
            sessions: sessions as u64,
            session_mark: self.mark(),
            checkpoint_index: Index(0),
            checkpoint_bytes: 0,
        }
    }
}

/// The answer to a part of the entry at `index`.
fn answer(index: Index, want_values: bool, settled: Settled, all: &[super::counters::Outcome]) -> PartAnswer {
    match settled {
        Settled::Applied { outcomes, first_position } => {
            let outcomes = &all[outcomes];
            PartAnswer::Incremented {
                index,
                first_position,
                overflowed: overflowed(outcomes),
                values: if want_values { values(outcomes) } else { Vec::new() },
            }
        }
        Settled::Repeated { index, first_position, overflowed, values } => {
            PartAnswer::Incremented { index, first_position, overflowed, values }
        }
        Settled::Refused(code) => PartAnswer::Refused { code },
        Settled::Attached(attachment) => PartAnswer::Attached { index, attachment },
        Settled::Resolved(fate) => PartAnswer::Resolved(fate),
        Settled::Registered(registered) => PartAnswer::Registered(registered),
    }
}
