//! Recovery: what a reader may believe after a crash. Every outcome is a row of this table, and has a test of its name.
//!
//! | what is found | case | outcome |
//! |---|---|---|
//! | no segment, and the store was never opened | `NeverOpened` | start empty |
//! | no segment, but the store was opened before | `LogMissing` | refuse |
//! | a newest segment that is all zero: prepared, never used | `Prepared` | remove it, go on with the one before |
//! | a newest segment whose header write is torn | `TornHeader` | the same: nothing can follow a header that is not durable |
//! | the log of the newest used segment ends where zeros begin | `CleanEnd` | keep all |
//! | its last write lacks sectors, nothing else is wrong | `TornTail` | cut that write: it was never acknowledged |
//! | a file is not as long as segments are | `WrongSize` | refuse |
//! | a file is missing between others | `SegmentMissing` | refuse |
//! | a header cannot be read, or is torn although segments follow | `HeaderUnreadable` | refuse |
//! | a header is of another cluster, node or store size | `Foreign` | refuse |
//! | a header does not continue the segment before | `ChainBroken` | refuse |
//! | a sector carries something that was never written there | `SectorForeign` | refuse |
//! | a write is complete, but does not check out | `WriteUnreadable` | refuse |
//! | bytes lie where the log has not been yet | `BytesBeyondEnd` | refuse |
//! | a segment ends before or after where its successor says | `EndMoved` | refuse |
//! | the records of a shard contradict one another | `Contradiction` | refuse |
//! | the disk does not answer | `Io` | refuse |
//!
//! A torn write is told from a damaged one by its sectors: segments are zeroed durably before use and every sector of a
//! write is stamped, so a sector that did not arrive is all zero. A complete write that does not check out was damaged after
//! it was written, and may have been acknowledged; it is never cut.
//!
//! What no log can show by itself: that its newest segment *file* vanished, or that a disk gave back zeros for the whole of its last
//! write. Replication is the answer to that.
//!
//! Before anything recovered is relied upon, the newest segment is made durable again ([`SegmentDir::harden`]): its last
//! write may have been complete in memory only. The segments before it were durable before its header was written.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::disk_op::{AlignedBuffer, parse_segment_file_name, segment_file_name};
use super::record::{Chain, RECORD_HEADER_BYTES, Record, RecordHeader, RecordKind, u64_at};
use super::sector::{Sector, disk_bytes, gather, inspect};
use super::segment::{GroupState, SegmentEnd, SegmentHeader};
use super::segment_dir::SegmentDir;
use super::writer::{UsedSegment, WRITE_START_BYTES, note};
use super::{WalConfig, WalIdentity};
use crate::engine::checkpoint::{Kept, Point};
use crate::engine::input::DiskError;
use crate::ids::{Index, Lsn, ReplicaId, SegmentEpoch, ShardId};
use crate::limits::{WAL_BLOCK_BYTES, WAL_SECTOR_BYTES};

/// A row of the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table above says what each is")]
pub enum Case {
    NeverOpened,
    LogMissing,
    Prepared,
    TornHeader,
    CleanEnd,
    TornTail,
    WrongSize,
    SegmentMissing,
    HeaderUnreadable,
    Foreign,
    ChainBroken,
    SectorForeign,
    WriteUnreadable,
    BytesBeyondEnd,
    EndMoved,
    Contradiction,
    Io,
}

/// Files that can go, each with the reason.
type Removals = Vec<(String, &'static str)>;

/// Why a log is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log cannot be trusted ({case:?}): {file} at byte {offset}: {what}. Nothing was changed. \
     Restore this directory from a copy, or replace the node; do not edit the file."
)]
pub struct RecoveryError {
    /// Which row of the table.
    pub case: Case,
    /// The file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// What was found.
    pub what: String,
}

/// What a log held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// How the log ended: `NeverOpened`, `CleanEnd` or `TornTail`.
    pub case: Case,
    /// Used segments, oldest first.
    pub segments: Vec<UsedSegment>,
    /// Where the log ends.
    pub end: SegmentEnd,
    /// Its position.
    pub lsn: Lsn,
    /// State of every group at the end.
    pub groups: BTreeMap<ShardId, GroupState>,
    /// State of every group before the oldest record that is still there.
    pub base: BTreeMap<ShardId, GroupState>,
    /// Number of records read.
    pub records: u64,
    /// Files that were removed: prepared and never used, unfinished, or no longer needed.
    pub removed: Vec<(String, &'static str)>,
}

/// Where a record was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which segment.
    pub epoch: SegmentEpoch,
    /// Byte offset of the write that it is in.
    pub offset: u64,
    /// Position of the stream just past it.
    pub lsn: Lsn,
}

/// Who is handed the records, one after another. What it objects to ends the reading, as a contradiction.
pub(super) type Visit<'v> = dyn FnMut(Place, Record) -> Result<(), String> + 'v;

/// One segment that is in use.
pub(super) struct Used {
    pub(super) epoch: SegmentEpoch,
    pub(super) header: SegmentHeader,
    /// Byte offset and chain just past the header's write.
    pub(super) after_header: (u64, u32),
}

/// Reads a log, hands every record to `visit` in order, makes the end durable, and removes files that no longer matter.
/// `opened_before` says whether a log must exist.
///
/// # Errors
/// The log cannot be trusted, or the disk does not answer; then nothing has been changed but, at worst, unused files removed.
pub fn recover(
    dir: &mut dyn SegmentDir,
    identity: WalIdentity,
    config: WalConfig,
    opened_before: bool,
    visit: &mut dyn FnMut(Record) -> Result<(), String>,
) -> Result<Recovered, RecoveryError> {
    Survey::read(dir, identity, config, opened_before)?.replay(dir, visit)
}

/// A log whose headers and whose newest segment have been read: what must be known before the first record is handed out.
pub struct Survey {
    identity: WalIdentity,
    config: WalConfig,
    used: Vec<Used>,
    remove: Removals,
    end: BTreeMap<ShardId, GroupState>,
}

impl Survey {
    /// Looks a log over. `opened_before` says whether one must exist.
    ///
    /// # Errors
    /// What was read cannot be trusted, or the disk does not answer. Nothing has been changed.
    pub fn read(
        dir: &mut dyn SegmentDir,
        identity: WalIdentity,
        config: WalConfig,
        opened_before: bool,
    ) -> Result<Survey, RecoveryError> {
        let mut reader = Reader::new(dir, identity, config);
        let (epochs, mut remove) = reader.list()?;
        let used = reader.find_used(&epochs, &mut remove)?;
        let end = match used.last() {
            None if opened_before => {
                let what = "no segment holds anything, although this store has been used".to_string();
                let file = "the log's directory".into();
                return Err(RecoveryError { case: Case::LogMissing, file, offset: 0, what });
            }
            None => BTreeMap::new(),
            Some(newest) => {
                let mut scratch = Recovered::starting_with(&newest.header);
                reader.replay_segment(newest, None, &mut scratch, &mut |_, _| Ok(()))?;
                scratch.groups
            }
        };
        Ok(Survey { identity, config, used, remove, end })
    }

    /// Whether there is no log.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// State of every group before the oldest record that is still there.
    #[must_use]
    pub fn base(&self) -> BTreeMap<ShardId, GroupState> {
        self.used.first().map_or(BTreeMap::new(), |oldest| oldest.header.groups.iter().copied().collect())
    }

    /// State of every group at the end.
    #[must_use]
    pub fn end(&self) -> &BTreeMap<ShardId, GroupState> {
        &self.end
    }

    /// Hands every record to `visit` in order, makes the end durable, and removes files that no longer matter.
    ///
    /// # Errors
    /// As [`recover`].
    pub fn replay(
        self,
        dir: &mut dyn SegmentDir,
        visit: &mut dyn FnMut(Record) -> Result<(), String>,
    ) -> Result<Recovered, RecoveryError> {
        let newest = self.used.last().map(|newest| newest.epoch);
        let recovered = self.examine(dir, &mut |_, record| visit(record))?;
        if let Some(newest) = newest {
            dir.harden(newest, recovered.end.offset).map_err(|error| io(newest, 0, &error))?;
        }
        // Oldest epochs first would leave a gap if the process died between two removals; newest first does not.
        remove(dir, &recovered.removed)?;
        Ok(recovered)
    }

    /// Hands every record to `visit` in order and changes nothing: `removed` of what is returned names the files that a start
    /// would remove.
    ///
    /// # Errors
    /// As [`recover`].
    pub fn examine(
        self,
        dir: &mut dyn SegmentDir,
        visit: &mut dyn FnMut(Place, Record) -> Result<(), String>,
    ) -> Result<Recovered, RecoveryError> {
        let Survey { identity, config, used, remove: removed, .. } = self;
        if used.is_empty() {
            let nothing = SegmentHeader::default();
            return Ok(Recovered { case: Case::NeverOpened, removed, ..Recovered::starting_with(&nothing) });
        }
        let recovered = Reader::new(dir, identity, config).replay(&used, visit)?;
        Ok(Recovered { removed, ..recovered })
    }
}

impl Recovered {
    /// Nothing read yet of a log whose oldest segment has this header.
    pub(super) fn starting_with(header: &SegmentHeader) -> Recovered {
        let base: BTreeMap<_, _> = header.groups.iter().copied().collect();
        Recovered {
            case: Case::CleanEnd,
            segments: Vec::new(),
            end: header.previous,
            lsn: header.start,
            groups: base.clone(),
            base,
            records: 0,
            removed: Vec::new(),
        }
    }
}

pub(super) struct Reader<'a> {
    dir: &'a mut dyn SegmentDir,
    identity: WalIdentity,
    config: WalConfig,
    /// The bytes of the segment being read.
    buffer: AlignedBuffer,
    stream: Vec<u8>,
}

/// What the first write of a segment is.
pub(super) enum FirstWrite {
    Blank,
    Torn,
    Header(Box<SegmentHeader>, u64, u32),
}

/// What stands at one place of a segment.
enum Write {
    /// Zeros to the end of the segment.
    End,
    /// A write that did not arrive whole, and nothing after it.
    Torn,
    /// A whole write: its records are in the stream; the offset just past it.
    Whole(u64),
}

impl<'a> Reader<'a> {
    pub(super) fn new(dir: &'a mut dyn SegmentDir, identity: WalIdentity, config: WalConfig) -> Reader<'a> {
        Reader { dir, identity, config, buffer: AlignedBuffer::zeroed(0), stream: Vec::new() }
    }

    /// The epochs of all segment files, ascending, and the files that can go whatever the log says.
    fn list(&mut self) -> Result<(Vec<SegmentEpoch>, Removals), RecoveryError> {
        let files = self.dir.list().map_err(|error| RecoveryError {
            case: Case::Io,
            file: "the log's directory".into(),
            offset: 0,
            what: error.to_string(),
        })?;
        let mut epochs = Vec::new();
        let mut remove = Vec::new();
        for file in files {
            if let Some(epoch) = parse_segment_file_name(&file.name) {
                if file.bytes != self.config.segment_bytes {
                    let what =
                        format!("the file has {} bytes, segments have {}", file.bytes, self.config.segment_bytes);
                    return Err(refusal(Case::WrongSize, epoch, file.bytes, what));
                }
                epochs.push(epoch);
            } else if file.name.ends_with(".tmp") {
                remove.push((file.name, "unfinished"));
            }
        }
        epochs.sort_unstable();
        Ok((epochs, remove))
    }

    /// Reads the headers from the newest down, as far back as the newest one says is needed.
    fn find_used(&mut self, epochs: &[SegmentEpoch], remove: &mut Removals) -> Result<Vec<Used>, RecoveryError> {
        let mut used: Vec<Used> = Vec::new();
        let mut oldest = SegmentEpoch(0);
        let mut above: Option<SegmentEpoch> = None;
        for &epoch in epochs.iter().rev() {
            if epoch < oldest {
                remove.push((segment_file_name(epoch), "no longer needed"));
                continue;
            }
            if above.is_some_and(|above| epoch.next() != above) {
                let what = "the segment after this one is missing".to_string();
                return Err(refusal(Case::SegmentMissing, epoch, 0, what));
            }
            above = Some(epoch);
            match (self.first_write(epoch)?, used.is_empty()) {
                (FirstWrite::Blank, true) => remove.push((segment_file_name(epoch), "prepared, never used")),
                (FirstWrite::Torn, true) => remove.push((segment_file_name(epoch), "its header never became durable")),
                (FirstWrite::Blank | FirstWrite::Torn, false) => {
                    let what = "the header is missing or torn, although the log goes on after it".to_string();
                    return Err(refusal(Case::HeaderUnreadable, epoch, 0, what));
                }
                (FirstWrite::Header(header, offset, chain), newest) => {
                    if newest {
                        oldest = header.oldest;
                    }
                    used.push(Used { epoch, header: *header, after_header: (offset, chain) });
                }
            }
        }
        used.reverse();
        if let Some(first) = used.first()
            && first.epoch != oldest
        {
            let what = format!("segment {oldest} is still needed and missing");
            return Err(refusal(Case::SegmentMissing, first.epoch, 0, what));
        }
        Ok(used)
    }

    /// Reads the first write of a segment: if it is a header, one of this log.
    pub(super) fn first_write(&mut self, epoch: SegmentEpoch) -> Result<FirstWrite, RecoveryError> {
        let first = self.header_write(epoch)?;
        if let FirstWrite::Header(header, ..) = &first {
            let expected = (self.identity.cluster, self.identity.node, self.config.segment_bytes);
            let found = (header.cluster, header.node, header.segment_bytes);
            if found != expected {
                let what = format!("cluster, node and segment size are {found:?}, expected {expected:?}");
                return Err(refusal(Case::Foreign, epoch, 0, what));
            }
            if header.oldest > epoch || header.oldest == SegmentEpoch(0) || header.previous.epoch >= epoch {
                let what = "the header names segments that cannot precede it".to_string();
                return Err(refusal(Case::HeaderUnreadable, epoch, 0, what));
            }
        }
        Ok(first)
    }

    /// Reads the first write of a segment, whatever cluster and node its header is of; and if it is not a whole header, the whole segment.
    pub(super) fn header_write(&mut self, epoch: SegmentEpoch) -> Result<FirstWrite, RecoveryError> {
        let mut chain = Chain { store: self.identity.store, epoch, crc: 0 };
        self.load(epoch, self.config.write_bytes_max as u64)?;
        let mut write = self.write_at(epoch, 0, &mut chain)?;
        if !matches!(write, Write::Whole(_)) {
            self.load(epoch, self.config.segment_bytes)?;
            write = self.write_at(epoch, 0, &mut chain)?;
        }
        let offset = match write {
            Write::End => return Ok(FirstWrite::Blank),
            Write::Torn => return Ok(FirstWrite::Torn),
            Write::Whole(offset) => offset,
        };
        let unreadable = |what: &str| refusal(Case::HeaderUnreadable, epoch, 0, what.to_string());
        let (record, payload, rest) = chain.open(&self.stream).map_err(unreadable)?;
        if record.kind != RecordKind::SegmentStart || !rest.is_empty() {
            return Err(unreadable("the first write is not a segment header"));
        }
        let header = SegmentHeader::decode(payload).map_err(unreadable)?;
        Ok(FirstWrite::Header(Box::new(header), offset, chain.crc))
    }

    fn replay(&mut self, used: &[Used], visit: &mut Visit<'_>) -> Result<Recovered, RecoveryError> {
        let mut recovered = Recovered::starting_with(&used[0].header);
        for (place, segment) in used.iter().enumerate() {
            let groups: BTreeMap<_, _> = segment.header.groups.iter().copied().collect();
            if segment.header.previous != recovered.end || segment.header.start != recovered.lsn {
                let what = "the header does not continue the segment before it".to_string();
                return Err(refusal(Case::ChainBroken, segment.epoch, 0, what));
            }
            // Released indexes are told by headers alone; all else the records have already said.
            let agrees = groups.iter().map(|(&shard, &group)| (shard, GroupState { first_index: Index(0), ..group }));
            let replayed =
                recovered.groups.iter().map(|(&shard, &group)| (shard, GroupState { first_index: Index(0), ..group }));
            if !agrees.eq(replayed) {
                let what = "the header's terms, votes and bounds are not those of the records before it".to_string();
                return Err(refusal(Case::Contradiction, segment.epoch, 0, what));
            }
            recovered.groups = groups;
            let fixed_end = used.get(place + 1).map(|next| next.header.previous);
            self.replay_segment(segment, fixed_end, &mut recovered, visit)?;
            recovered.segments.push(UsedSegment::ending(segment.epoch, recovered.lsn, &recovered.groups));
        }
        Ok(recovered)
    }

    /// Reads one segment up to its fixed end, or, the newest, up to where the log ends.
    pub(super) fn replay_segment(
        &mut self,
        segment: &Used,
        fixed_end: Option<SegmentEnd>,
        recovered: &mut Recovered,
        visit: &mut Visit<'_>,
    ) -> Result<(), RecoveryError> {
        let epoch = segment.epoch;
        let end_moved = |offset, what: &str| refusal(Case::EndMoved, epoch, offset, what.to_string());
        let load = fixed_end.map_or(self.config.segment_bytes, |end| end.offset);
        let (mut offset, crc) = segment.after_header;
        if load < offset || load > self.config.segment_bytes || !load.is_multiple_of(WAL_BLOCK_BYTES as u64) {
            return Err(end_moved(load, "the next segment says that this one ends where it cannot"));
        }
        self.load(epoch, load)?;
        let mut chain = Chain { store: self.identity.store, epoch, crc };
        loop {
            if fixed_end.is_some_and(|end| end.offset == offset) {
                break;
            }
            match self.write_at(epoch, offset, &mut chain)? {
                Write::Whole(next) => {
                    self.replay_write(epoch, offset, &mut chain, recovered, visit)?;
                    offset = next;
                }
                Write::End | Write::Torn if fixed_end.is_some() => {
                    return Err(end_moved(offset, "the log ends before the place that the next segment names"));
                }
                Write::End => break,
                Write::Torn => {
                    recovered.case = Case::TornTail;
                    break;
                }
            }
        }
        recovered.end = SegmentEnd { epoch, offset, chain: chain.crc };
        if fixed_end.is_some_and(|end| end != recovered.end) {
            return Err(end_moved(offset, "the log's last record here is not the one that the next segment names"));
        }
        Ok(())
    }

    /// Hands the records of the write in `stream` to the visitor.
    fn replay_write(
        &mut self,
        epoch: SegmentEpoch,
        offset: u64,
        chain: &mut Chain,
        recovered: &mut Recovered,
        visit: &mut Visit<'_>,
    ) -> Result<(), RecoveryError> {
        let mut stream = &self.stream[..];
        while !stream.is_empty() {
            let unreadable = |what: &str| refusal(Case::WriteUnreadable, epoch, offset, what.to_string());
            let (header, payload, rest) = chain.open(stream).map_err(unreadable)?;
            stream = rest;
            let record = parse_record(&header, payload).map_err(unreadable)?;
            let contradiction = |what: String| refusal(Case::Contradiction, epoch, offset, what);
            let end = recovered.lsn.0.checked_add(record.stream_bytes() as u64);
            recovered.lsn = Lsn(end.ok_or_else(|| contradiction("positions have run out".to_string()))?);
            if header.lsn != recovered.lsn {
                return Err(contradiction(format!("a record says it ends at {}, not {}", header.lsn, recovered.lsn)));
            }
            check_against(&recovered.groups, &record).map_err(|what| contradiction(what.to_string()))?;
            note(&mut recovered.groups, &record);
            recovered.records += 1;
            visit(Place { epoch, offset, lsn: recovered.lsn }, record).map_err(contradiction)?;
        }
        Ok(())
    }

    /// Judges what stands at `offset` of the loaded segment. If it is a whole write, its records' bytes are left in `stream` and
    /// the chain stands behind its `WriteStart`.
    fn write_at(&mut self, epoch: SegmentEpoch, offset: u64, chain: &mut Chain) -> Result<Write, RecoveryError> {
        let first = offset / WAL_SECTOR_BYTES as u64;
        let foreign = |number: u64| {
            let what = "a sector carries something that was never written there".to_string();
            refusal(Case::SectorForeign, epoch, number * WAL_SECTOR_BYTES as u64, what)
        };
        if first == self.sectors() {
            return Ok(Write::End);
        }
        match self.sector(epoch, first) {
            Sector::Foreign | Sector::Within => return Err(foreign(first)),
            Sector::Blank => {
                // Either nothing was written here, or the first sector of the last write did not arrive.
                let reach = first + (self.config.write_bytes_max / WAL_SECTOR_BYTES) as u64;
                let arrived = self.nothing_beyond(epoch, first, reach)?;
                return Ok(if arrived { Write::Torn } else { Write::End });
            }
            Sector::Start => {}
        }
        let unreadable = |what: &str| refusal(Case::WriteUnreadable, epoch, offset, what.to_string());
        gather(&self.buffer[offset as usize..][..WAL_SECTOR_BYTES], &mut self.stream);
        let start_len = WRITE_START_BYTES.min(self.stream.len());
        let mut opened = *chain;
        let (header, payload, _) = opened.open(&self.stream[..start_len]).map_err(unreadable)?;
        if header.kind != RecordKind::WriteStart || payload.len() != 8 {
            return Err(unreadable("a write does not begin with its own record"));
        }
        let records_bytes = u64_at(payload, 0);
        let left = self.buffer.len() as u64 - offset;
        let span = usize::try_from(records_bytes)
            .ok()
            .filter(|&bytes| bytes <= self.config.write_bytes_max)
            .map(|bytes| disk_bytes(WRITE_START_BYTES + bytes) as u64)
            .filter(|&span| span <= left)
            .ok_or_else(|| unreadable("a write is longer than its segment or than writes are"))?;
        let sectors = span / WAL_SECTOR_BYTES as u64;
        let mut blank = false;
        for number in first + 1..first + sectors {
            match self.sector(epoch, number) {
                Sector::Foreign | Sector::Start => return Err(foreign(number)),
                Sector::Blank => blank = true,
                Sector::Within => {}
            }
        }
        if blank {
            self.nothing_beyond(epoch, first, first + sectors)?;
            return Ok(Write::Torn);
        }
        gather(&self.buffer[offset as usize..][..span as usize], &mut self.stream);
        let end = WRITE_START_BYTES + records_bytes as usize;
        if self.stream[end..].iter().any(|&byte| byte != 0) {
            return Err(unreadable("the padding of a write is not zero"));
        }
        self.stream.truncate(end);
        self.stream.drain(..WRITE_START_BYTES);
        *chain = opened;
        Ok(Write::Whole(offset + span))
    }

    /// Checks that the sectors from `first` on are of at most one write that reaches no further than `reach`.
    /// Says whether any of it arrived.
    fn nothing_beyond(&self, epoch: SegmentEpoch, first: u64, reach: u64) -> Result<bool, RecoveryError> {
        let mut arrived = false;
        for number in first..self.sectors() {
            let case = match self.sector(epoch, number) {
                Sector::Blank => continue,
                Sector::Within if number < reach => {
                    arrived = true;
                    continue;
                }
                Sector::Start if number == first => {
                    arrived = true;
                    continue;
                }
                Sector::Start | Sector::Within => Case::BytesBeyondEnd,
                Sector::Foreign => Case::SectorForeign,
            };
            let what = "bytes lie where the log has not been yet".to_string();
            return Err(refusal(case, epoch, number * WAL_SECTOR_BYTES as u64, what));
        }
        Ok(arrived)
    }

    fn load(&mut self, epoch: SegmentEpoch, bytes: u64) -> Result<(), RecoveryError> {
        self.buffer.resize_zeroed(bytes as usize);
        self.dir.read(epoch, 0, &mut self.buffer).map_err(|error| io(epoch, 0, &error))
    }

    fn sectors(&self) -> u64 {
        (self.buffer.len() / WAL_SECTOR_BYTES) as u64
    }

    fn sector(&self, epoch: SegmentEpoch, number: u64) -> Sector {
        let bytes = &self.buffer[number as usize * WAL_SECTOR_BYTES..][..WAL_SECTOR_BYTES];
        inspect(bytes, self.identity.store, epoch, number)
    }
}

fn remove(dir: &mut dyn SegmentDir, files: &[(String, &'static str)]) -> Result<(), RecoveryError> {
    if files.is_empty() {
        return Ok(());
    }
    for (name, _) in files {
        dir.remove(name).map_err(|error| io_file(name.clone(), &error))?;
    }
    dir.sync_dir().map_err(|error| io_file("the log's directory".into(), &error))
}

fn parse_record(header: &RecordHeader, payload: &[u8]) -> Result<Record, &'static str> {
    let &RecordHeader { shard, term, index, commit, .. } = header;
    match header.kind {
        RecordKind::HardState => {
            let vote = payload.try_into().map_err(|_| "a vote is not eight bytes long")?;
            Ok(Record::HardState { shard, term, vote: ReplicaId(u64::from_le_bytes(vote)), commit })
        }
        RecordKind::Entry => Ok(Record::Entry { shard, term, index, commit, payload: Rc::new(payload.to_vec()) }),
        RecordKind::Checkpoint => Ok(Record::Checkpoint { shard, kept: Kept::decode(payload)? }),
        RecordKind::Install => Ok(Record::Install { shard, kept: Kept::decode(payload)? }),
        RecordKind::Truncate if payload.is_empty() => Ok(Record::Truncate { shard, last: Point { index, term } }),
        RecordKind::Truncate => Err("bytes behind the end of a shard's log"),
        RecordKind::WriteStart | RecordKind::SegmentStart => {
            Err("a record of the log itself stands in the wrong place")
        }
    }
}

/// What every record must satisfy, whatever the shards make of it.
fn check_against(groups: &BTreeMap<ShardId, GroupState>, record: &Record) -> Result<(), &'static str> {
    let group = |shard| groups.get(&shard).copied().unwrap_or_default();
    match *record {
        Record::HardState { shard, term, vote, commit } => {
            let group = group(shard);
            if term < group.term || (term == group.term && group.vote != ReplicaId(0) && vote != group.vote) {
                return Err("a term goes back, or a vote changes within its term");
            }
            if commit > group.last_index {
                return Err("a commit index lies beyond the log");
            }
        }
        Record::Entry { shard, term, index, commit, .. } => {
            let group = group(shard);
            if index.0.checked_sub(1) != Some(group.last_index.0) {
                return Err("an entry does not follow the one before it");
            }
            if term < group.last_term || term > group.term {
                return Err("an entry's term goes back, or is ahead of its shard's term");
            }
            if commit >= index {
                return Err("an entry says that itself is committed");
            }
        }
        Record::Checkpoint { shard, kept } => {
            let group = group(shard);
            if kept.iter().any(|one| one.to.index > group.last_index || one.to.term > group.last_term) {
                return Err("a checkpoint reaches beyond the log before it");
            }
            if kept.newest.map(|one| one.number) < group.kept.newest.map(|one| one.number) {
                return Err("the newest checkpoint is older than the one before");
            }
        }
        Record::Truncate { shard, last } => {
            let group = group(shard);
            if last.index >= group.last_index || last.term > group.last_term {
                return Err("a log is cut behind its end");
            }
            if last.index < group.commit {
                return Err("committed entries are taken back");
            }
        }
        Record::Install { shard, kept } => {
            let group = group(shard);
            let (Some(newest), None) = (kept.newest, kept.older) else {
                return Err("not one checkpoint is installed");
            };
            if newest.from.index <= group.commit {
                return Err("a checkpoint is installed that is older than what is committed");
            }
            if newest.from.term > group.term || group.kept.newest.is_some_and(|known| known.number >= newest.number) {
                return Err("a checkpoint is installed that does not follow what was there");
            }
        }
    }
    Ok(())
}

pub(super) fn refusal(case: Case, epoch: SegmentEpoch, offset: u64, what: String) -> RecoveryError {
    RecoveryError { case, file: segment_file_name(epoch), offset, what }
}

fn io(epoch: SegmentEpoch, offset: u64, error: &DiskError) -> RecoveryError {
    refusal(Case::Io, epoch, offset, error.to_string())
}

fn io_file(file: String, error: &DiskError) -> RecoveryError {
    RecoveryError { case: Case::Io, file, offset: 0, what: error.to_string() }
}

const _: () = assert!(WRITE_START_BYTES + RECORD_HEADER_BYTES < super::sector::SECTOR_DATA_BYTES);
