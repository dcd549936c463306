//! The writer: one stream a store, one write under way, everything else gathers meanwhile.
//!
//! Records are appended by the store's shards in any mixture and get their LSN at once. When no write is under way, all that
//! has gathered (up to a limit) leaves as one write and one sync: group commit over all shards, with no timer. When the
//! shell reports both done, the watermark moves to the end of that write. It is the only notion of durability there is.
//!
//! Segments are prepared ahead in steps that the shell performs one after another: zeros, sync of the file,
//! rename to its final name, sync of the directory. Only then may a segment be used, and its first
//! write is its header, durable before any record follows. A failed write or sync latches the log for
//! good: the store stops, nothing is retried on the same file.
//!
//! A full disk shows only while a segment is being prepared. The last prepared segment is kept as a
//! reserve: [`Wal::accepts`] turns false before increments would open it.

use std::collections::{BTreeMap, VecDeque};

use super::disk_op::{AlignedBuffer, DiskAction, DiskOp, DiskOpId};
use super::record::{Chain, RECORD_HEADER_BYTES, Record, RecordHeader, RecordKind};
use super::recovery::Recovered;
use super::sector::{disk_bytes, spread, stream_capacity};
use super::segment::{GroupState, SegmentEnd, SegmentHeader};
use super::{WalConfig, WalIdentity};
use crate::engine::checkpoint::Kept;
use crate::engine::input::{DiskDone, DiskError};
use crate::ids::{Index, Lsn, Micros, SegmentEpoch, ShardId, Term};
use crate::limits::{WAL_BLOCK_BYTES, WAL_PREPARE_RETRY_MICROS, WAL_SEGMENTS_AHEAD};
use crate::mutant::mutant;

/// Stream bytes of the `WriteStart` record that opens every write.
pub(super) const WRITE_START_BYTES: usize = RECORD_HEADER_BYTES + 8;

/// A store's log, the writing half.
#[derive(Debug)]
pub struct Wal {
    identity: WalIdentity,
    config: WalConfig,
    /// Appended and not yet part of a write.
    pending: VecDeque<Record>,
    pending_bytes: usize,
    appended: Lsn,
    durable: Lsn,
    /// Position of the stream at the end of the last write handed out.
    handed_out: Lsn,
    /// State of every group at `handed_out`.
    groups: BTreeMap<ShardId, GroupState>,
    current: Option<CurrentSegment>,
    /// Where the log ends when `current` is none.
    previous: SegmentEnd,
    /// Published segments that hold records still needed, oldest first, the current one last.
    segments: VecDeque<UsedSegment>,
    /// First segment of this process. Files of processes before it are never used again, only removed: a write that
    /// was under way when such a process died may still land in them.
    first_own: SegmentEpoch,
    /// Segments no longer needed, whose files can be used again.
    freed: VecDeque<SegmentEpoch>,
    /// Segments no longer needed, to be removed.
    doomed: VecDeque<SegmentEpoch>,
    /// Entries of each group up to these are no longer needed.
    released: BTreeMap<ShardId, Index>,
    prepared: VecDeque<SegmentEpoch>,
    next_epoch: SegmentEpoch,
    preparation: Preparation,
    write: Option<WriteUnderWay>,
    has_durable_segment: bool,
    /// Whether a header of this process is durable.
    end_is_fixed: bool,
    /// Operations decided on and not yet taken by the shell.
    outbox: Vec<DiskOp>,
    next_op: u64,
    latched: Option<String>,
    spare_buffer: Option<AlignedBuffer>,
    stream: Vec<u8>,
}

#[derive(Debug)]
struct CurrentSegment {
    epoch: SegmentEpoch,
    /// Where the next write goes.
    offset: u64,
    chain: u32,
}

/// A segment that holds records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedSegment {
    /// Its number.
    pub epoch: SegmentEpoch,
    /// Position just past its last record so far.
    pub end: Lsn,
    /// The last entry of each group here or before, once the segment is full.
    pub last: Vec<(ShardId, Index)>,
}

impl UsedSegment {
    /// A segment at whose end groups stand like this.
    pub(super) fn ending(epoch: SegmentEpoch, end: Lsn, groups: &BTreeMap<ShardId, GroupState>) -> UsedSegment {
        let last = groups.iter().map(|(&shard, group)| (shard, group.last_index)).collect();
        UsedSegment { epoch, end, last }
    }

    /// Whether an entry in it is still needed.
    fn is_needed(&self, released: &BTreeMap<ShardId, Index>) -> bool {
        let released = |shard| released.get(shard).copied().unwrap_or_default();
        self.last.iter().any(|(shard, last)| *last > released(shard))
    }
}

#[derive(Debug)]
struct WriteUnderWay {
    op: DiskOpId,
    /// What is durable once it has ended.
    end: Lsn,
    /// Set if the write is a segment's header: segments below this epoch are free once it is durable.
    frees_below: Option<SegmentEpoch>,
}

/// What the one preparing hand is doing.
#[derive(Debug, PartialEq, Eq)]
enum Preparation {
    Idle,
    Step {
        op: DiskOpId,
        epoch: SegmentEpoch,
        step: Step,
    },
    Removing {
        op: DiskOpId,
    },
    /// The disk was full.
    Waiting {
        until: Micros,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Zero,
    SyncFile,
    Publish,
    SyncDir,
    Discard,
}

impl Wal {
    /// A log that goes on, in a fresh segment, where recovery ended.
    #[must_use]
    pub fn new(identity: WalIdentity, config: WalConfig, recovered: &Recovered) -> Wal {
        config.check();
        Wal {
            identity,
            config,
            pending: VecDeque::new(),
            pending_bytes: 0,
            appended: recovered.lsn,
            durable: recovered.lsn,
            handed_out: recovered.lsn,
            groups: recovered.groups.clone(),
            current: None,
            previous: recovered.end,
            segments: recovered.segments.iter().cloned().collect(),
            first_own: recovered.end.epoch.next(),
            freed: VecDeque::new(),
            doomed: VecDeque::new(),
            released: BTreeMap::new(),
            prepared: VecDeque::new(),
            next_epoch: recovered.end.epoch.next(),
            preparation: Preparation::Idle,
            write: None,
            has_durable_segment: !recovered.segments.is_empty(),
            end_is_fixed: false,
            outbox: Vec::new(),
            next_op: 0,
            latched: None,
            spare_buffer: None,
            stream: Vec::new(),
        }
    }

    /// Appends a record. It is durable once [`Wal::durable`] has reached the returned position.
    pub fn append(&mut self, record: Record) -> Lsn {
        let bytes = record.stream_bytes();
        assert!(bytes <= self.record_bytes_max(), "a record fits in one write");
        self.pending_bytes += bytes;
        self.appended = Lsn(self.appended.0 + bytes as u64);
        self.pending.push_back(record);
        self.appended
    }

    /// Everything up to here survives a crash.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Position just past the last record appended.
    #[must_use]
    pub fn appended(&self) -> Lsn {
        self.appended
    }

    /// Bytes of a record, header included, at most.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        stream_capacity(self.config.write_bytes_max) - WRITE_START_BYTES
    }

    /// Whether records of `bytes` more can be appended without touching the reserve. What must be logged on a full disk
    /// too (terms, votes, no-ops) is appended without asking.
    #[must_use]
    pub fn accepts(&self, bytes: usize) -> bool {
        let segment = self.config.segment_bytes - self.header_bytes() as u64;
        let reachable = self.prepared.len().saturating_sub(1) as u64 * segment;
        let current = self.current.as_ref().map_or(0, |current| self.config.segment_bytes - current.offset);
        // Stamps cost 1/127, the start and the padding of a write less than two blocks a half-full write,
        // and the end of a segment is left empty if the next write does not fit.
        let stream = (self.pending_bytes + bytes) as u64;
        let writes = stream / (self.config.write_bytes_max as u64 / 2) + 1;
        let needed =
            stream + stream / 64 + writes * 2 * WAL_BLOCK_BYTES as u64 + 2 * self.config.write_bytes_max as u64;
        self.latched.is_none() && needed <= current + reachable
    }

    /// Whether a segment of this log, with its header, is durable.
    #[must_use]
    pub fn has_durable_segment(&self) -> bool {
        self.has_durable_segment || mutant!("header-not-awaited")
    }

    /// Whether what recovery found is all that anybody will ever find of the log before: until then a write of a dead process may
    /// still land behind it.
    #[must_use]
    pub fn is_end_fixed(&self) -> bool {
        self.end_is_fixed
    }

    /// Whether the disk was full when a segment was last to be prepared.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self.preparation, Preparation::Waiting { .. } | Preparation::Step { step: Step::Discard, .. })
    }

    /// Why the log has stopped for good, if it has.
    #[must_use]
    pub fn latched(&self) -> Option<&str> {
        self.latched.as_deref()
    }

    /// Stops the log for good, for a reason outside of it.
    pub fn latch(&mut self, why: String) {
        self.latched.get_or_insert(why);
    }

    /// Whether everything appended is durable.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.durable == self.appended
    }

    /// Epoch of the segment being written; 0 before the first write.
    #[must_use]
    pub fn segment(&self) -> SegmentEpoch {
        self.current.as_ref().map_or(self.previous.epoch, |current| current.epoch)
    }

    /// Segment files that exist, prepared and freed ones included.
    #[must_use]
    pub fn segment_files(&self) -> usize {
        self.segments.len() + self.prepared.len() + self.freed.len() + self.doomed.len()
    }

    /// Bytes of a segment file.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.config.segment_bytes
    }

    /// When `step` must be called again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        match self.preparation {
            Preparation::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// Entries of a group up to an index are no longer needed. Segments that hold no other entries become free once a later
    /// segment's header, which repeats what they said about terms, votes and checkpoints, is durable.
    pub fn release(&mut self, shard: ShardId, up_to: Index) {
        let released = self.released.entry(shard).or_default();
        *released = up_to.max(*released);
        if let Some(group) = self.groups.get_mut(&shard) {
            group.first_index = group.first_index.max(up_to.next());
        }
    }

    /// Where in the stream the entries of a group after an index may begin: no later than they do.
    #[must_use]
    pub fn position_after(&self, shard: ShardId, index: Index) -> Lsn {
        let holds_none =
            |segment: &&UsedSegment| segment.last.iter().any(|(group, last)| *group == shard && *last <= index);
        self.segments.iter().take_while(holds_none).last().map_or(Lsn(0), |segment| segment.end)
    }

    /// The checkpoints of a group that the log names.
    #[must_use]
    pub fn kept(&self, shard: ShardId) -> Kept {
        self.groups.get(&shard).map_or(Kept::default(), |group| group.kept)
    }

    /// The end of an operation. Ends of operations that are not under way are a bug of the shell.
    pub fn done(&mut self, now: Micros, done: DiskDone) {
        if let Some(buffer) = done.buffer {
            self.spare_buffer = Some(buffer);
        }
        if self.latched.is_some() {
            return;
        }
        match self.write.take_if(|write| write.op == done.id) {
            Some(write) => self.write_done(&write, done.result),
            None => self.preparation_done(now, done.id, done.result),
        }
    }

    fn write_done(&mut self, write: &WriteUnderWay, result: Result<(), DiskError>) {
        if let Err(error) = result {
            self.latched = Some(format!("a log write to segment {} failed: {error}", self.segment()));
            return;
        }
        self.durable = write.end;
        if let Some(oldest) = write.frees_below {
            self.has_durable_segment = true;
            self.end_is_fixed = true;
            while let Some(segment) = self.segments.pop_front_if(|segment| segment.epoch < oldest) {
                let own = segment.epoch >= self.first_own || mutant!("dead-files-recycled");
                let reusable = own && self.freed.len() < WAL_SEGMENTS_AHEAD;
                let queue = if reusable { &mut self.freed } else { &mut self.doomed };
                queue.push_back(segment.epoch);
            }
        }
    }

    fn preparation_done(&mut self, now: Micros, id: DiskOpId, result: Result<(), DiskError>) {
        let (epoch, step) = match self.preparation {
            Preparation::Step { op, epoch, step } if op == id => (epoch, step),
            Preparation::Removing { op } if op == id => {
                self.preparation = Preparation::Idle;
                self.latched = result.err().map(|error| format!("removing a freed segment failed: {error}"));
                return;
            }
            _ => unreachable!("the end of an operation that is not under way"),
        };
        match (step, result) {
            (Step::Discard, _) => {
                self.preparation = Preparation::Waiting { until: now.plus(WAL_PREPARE_RETRY_MICROS) };
            }
            // The file was never used: its bytes can go, and the disk may have room later.
            (Step::Zero | Step::SyncFile | Step::Publish, Err(DiskError::Full)) => {
                self.prepare(epoch, Step::Discard, DiskAction::Discard { epoch });
            }
            (_, Err(error)) => {
                self.latched = Some(format!("preparing segment {epoch} failed in step {step:?}: {error}"));
            }
            (Step::Zero, Ok(())) => self.prepare(epoch, Step::SyncFile, DiskAction::SyncFile { epoch }),
            (Step::SyncFile, Ok(())) => self.prepare(epoch, Step::Publish, DiskAction::Publish { epoch }),
            (Step::Publish, Ok(())) => {
                self.next_epoch = epoch.next();
                self.prepare(epoch, Step::SyncDir, DiskAction::SyncDir);
            }
            (Step::SyncDir, Ok(())) => {
                self.prepared.push_back(epoch);
                self.preparation = Preparation::Idle;
            }
        }
    }

    fn prepare(&mut self, epoch: SegmentEpoch, step: Step, action: DiskAction) {
        let op = self.push_op(action);
        self.preparation = Preparation::Step { op, epoch, step };
    }

    fn push_op(&mut self, action: DiskAction) -> DiskOpId {
        self.next_op += 1;
        let id = DiskOpId(self.next_op);
        self.outbox.push(DiskOp { id, action });
        id
    }

    /// Decides what can be started now and hands out everything to be started.
    pub fn take_ops(&mut self, now: Micros, out: &mut Vec<DiskOp>) {
        if self.latched.is_none() {
            self.start_preparation(now);
            if self.write.is_none() {
                self.start_write();
            }
        }
        out.append(&mut self.outbox);
    }

    fn start_preparation(&mut self, now: Micros) {
        let full = self.is_disk_full();
        match self.preparation {
            Preparation::Idle => {}
            Preparation::Waiting { until } if until <= now => {}
            _ => return,
        }
        // On a full disk, room is made before more is asked for.
        let makes_room = full && self.freed.is_empty() && !self.doomed.is_empty();
        if self.prepared.len() < WAL_SEGMENTS_AHEAD && !makes_room {
            let epoch = self.next_epoch;
            let recycle = self.freed.pop_front();
            self.prepare(epoch, Step::Zero, DiskAction::Zero { epoch, recycle, bytes: self.config.segment_bytes });
        } else if let Some(epoch) = self.doomed.pop_front() {
            let op = self.push_op(DiskAction::Remove { epoch });
            self.preparation = Preparation::Removing { op };
        }
    }

    fn start_write(&mut self) {
        let fits = |current: &CurrentSegment, record: &Record| {
            let bytes = disk_bytes(WRITE_START_BYTES + record.stream_bytes()) as u64;
            current.offset + bytes <= self.config.segment_bytes
        };
        match (&self.current, self.pending.front()) {
            (Some(_), None) if !self.must_rotate() => {}
            (Some(current), Some(record)) if fits(current, record) => self.write_records(),
            // The segment is full, or there is none yet: the next one begins with its header, alone.
            _ => {
                if let Some(epoch) = self.prepared.pop_front() {
                    self.write_header(epoch);
                }
            }
        }
    }

    /// The oldest full segment of which an entry is still needed.
    fn oldest_needed(&self) -> Option<SegmentEpoch> {
        self.segments.iter().find(|segment| segment.is_needed(&self.released)).map(|segment| segment.epoch)
    }

    /// Whether the next segment is to be opened although the current one is not full: on a full disk, when that frees others.
    /// Nothing more may be accepted then, so nothing else would.
    fn must_rotate(&self) -> bool {
        let full = self.segments.len().saturating_sub(1);
        self.is_disk_full()
            && self.pending.is_empty()
            && self.segments.iter().take(full).next().is_some_and(|oldest| !oldest.is_needed(&self.released))
    }

    fn header_bytes(&self) -> usize {
        let payload = SegmentHeader::payload_bytes(self.groups.len());
        disk_bytes(WRITE_START_BYTES + RECORD_HEADER_BYTES + payload)
    }

    fn write_header(&mut self, epoch: SegmentEpoch) {
        let previous = self.current.take().map_or(self.previous, |current| SegmentEnd {
            epoch: current.epoch,
            offset: current.offset,
            chain: current.chain,
        });
        if let Some(full) = self.segments.back_mut() {
            *full = UsedSegment::ending(full.epoch, full.end, &self.groups);
        }
        let oldest = self.oldest_needed().unwrap_or(epoch);
        let header = SegmentHeader {
            cluster: self.identity.cluster,
            node: self.identity.node,
            segment_bytes: self.config.segment_bytes,
            write_bytes_max: self.config.write_bytes_max as u64,
            previous,
            oldest,
            start: self.handed_out,
            groups: self.groups.iter().map(|(&shard, &group)| (shard, group)).collect(),
        };
        let payload = header.encode();
        // The first record of a segment chains to nothing, so that headers can be read before what they follow;
        // the header itself names the chain it continues.
        let mut chain = Chain { store: self.identity.store, epoch, crc: 0 };
        self.stream.clear();
        seal_write_start(&mut chain, &mut self.stream, self.handed_out, RECORD_HEADER_BYTES + payload.len());
        chain.seal(&mut self.stream, &own_header(RecordKind::SegmentStart, self.handed_out), &payload);
        self.current = Some(CurrentSegment { epoch, offset: 0, chain: chain.crc });
        self.segments.push_back(UsedSegment { epoch, end: self.handed_out, last: Vec::new() });
        self.hand_out_write(Some(oldest));
    }

    fn write_records(&mut self) {
        let current = self.current.as_mut().expect("records are written into a current segment");
        let left = (self.config.segment_bytes - current.offset) as usize;
        let capacity = stream_capacity(left.min(self.config.write_bytes_max)) - WRITE_START_BYTES;
        let mut bytes = 0;
        let mut count = 0;
        for record in &self.pending {
            if bytes + record.stream_bytes() > capacity {
                break;
            }
            bytes += record.stream_bytes();
            count += 1;
        }
        let mut chain = Chain { store: self.identity.store, epoch: current.epoch, crc: current.chain };
        self.stream.clear();
        seal_write_start(&mut chain, &mut self.stream, self.handed_out, bytes);
        for record in self.pending.drain(..count) {
            self.handed_out = Lsn(self.handed_out.0 + record.stream_bytes() as u64);
            seal_record(&mut chain, &mut self.stream, self.handed_out, &record);
            note(&mut self.groups, &record);
        }
        self.pending_bytes -= bytes;
        current.chain = chain.crc;
        let used = self.segments.back_mut().expect("the current segment is in use");
        used.end = self.handed_out;
        self.hand_out_write(None);
    }

    /// Spreads the stream over sectors and hands it out as the one write under way.
    fn hand_out_write(&mut self, frees_below: Option<SegmentEpoch>) {
        let current = self.current.as_mut().expect("a write goes to the current segment");
        let (epoch, offset) = (current.epoch, current.offset);
        let mut buffer = self.spare_buffer.take().unwrap_or_else(|| AlignedBuffer::zeroed(0));
        buffer.resize_zeroed(0);
        buffer.resize_zeroed(disk_bytes(self.stream.len()));
        spread(&self.stream, &mut buffer, self.identity.store, epoch, offset);
        current.offset += buffer.len() as u64;
        let op = self.push_op(DiskAction::Write { epoch, offset, buffer });
        self.write = Some(WriteUnderWay { op, end: self.handed_out, frees_below });
    }
}

/// Header of a record that belongs to the log itself; such records do not move the position.
fn own_header(kind: RecordKind, lsn: Lsn) -> RecordHeader {
    RecordHeader { kind, shard: ShardId::META, term: Term(0), index: Index(0), commit: Index(0), lsn }
}

fn seal_write_start(chain: &mut Chain, stream: &mut Vec<u8>, lsn: Lsn, records_bytes: usize) {
    let payload = (records_bytes as u64).to_le_bytes();
    chain.seal(stream, &own_header(RecordKind::WriteStart, lsn), &payload);
}

fn seal_record(chain: &mut Chain, stream: &mut Vec<u8>, lsn: Lsn, record: &Record) {
    match record {
        Record::HardState { shard, term, vote, commit } => {
            let header = RecordHeader {
                kind: RecordKind::HardState,
                shard: *shard,
                term: *term,
                index: Index(0),
                commit: *commit,
                lsn,
            };
            chain.seal(stream, &header, &vote.0.to_le_bytes());
        }
        Record::Entry { shard, term, index, commit, payload } => {
            let header = RecordHeader {
                kind: RecordKind::Entry,
                shard: *shard,
                term: *term,
                index: *index,
                commit: *commit,
                lsn,
            };
            chain.seal(stream, &header, payload);
        }
        Record::Checkpoint { shard, kept } => {
            let header = RecordHeader { shard: *shard, ..own_header(RecordKind::Checkpoint, lsn) };
            seal_kept(chain, stream, &header, kept);
        }
        Record::Install { shard, kept } => {
            let header = RecordHeader { shard: *shard, ..own_header(RecordKind::Install, lsn) };
            seal_kept(chain, stream, &header, kept);
        }
        Record::Truncate { shard, last } => {
            let header = RecordHeader {
                kind: RecordKind::Truncate,
                shard: *shard,
                term: last.term,
                index: last.index,
                commit: Index(0),
                lsn,
            };
            chain.seal(stream, &header, &[]);
        }
    }
}

fn seal_kept(chain: &mut Chain, stream: &mut Vec<u8>, header: &RecordHeader, kept: &Kept) {
    let mut payload = Vec::with_capacity(Kept::BYTES);
    kept.encode(&mut payload);
    chain.seal(stream, header, &payload);
}

/// Brings the group table up to a record. Recovery does the same with what it reads.
pub(super) fn note(groups: &mut BTreeMap<ShardId, GroupState>, record: &Record) {
    match *record {
        Record::HardState { shard, term, vote, commit } => {
            let group = groups.entry(shard).or_default();
            group.term = term;
            group.vote = vote;
            group.commit = group.commit.max(commit);
        }
        Record::Entry { shard, term, index, commit, .. } => {
            let group = groups.entry(shard).or_default();
            group.first_index = group.first_index.max(Index(1));
            group.last_index = index;
            group.last_term = term;
            group.commit = group.commit.max(commit);
        }
        Record::Checkpoint { shard, kept } => groups.entry(shard).or_default().kept = kept,
        Record::Truncate { shard, last } => {
            let group = groups.entry(shard).or_default();
            (group.last_index, group.last_term) = (last.index, last.term);
        }
        Record::Install { shard, kept } => {
            let group = groups.entry(shard).or_default();
            group.kept = kept;
            if let Some(newest) = kept.newest {
                (group.last_index, group.last_term) = (newest.from.index, newest.from.term);
                group.first_index = newest.from.index.next();
                group.commit = group.commit.max(newest.from.index);
            }
        }
    }
}
