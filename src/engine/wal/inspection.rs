//! Looking at a log without opening its store: for tools that say what a directory or a single file holds.
//!
//! A store knows whose log it opens. A tool does not, and finds it out: the stamp of a segment's first sector tells the store (there
//! are few, so each is tried), the header behind it tells cluster, node and sizes. Everything else is read by the code of
//! [`recovery`](super::recovery), so that what is found here is what a start would find. Nothing is ever changed.
//!
//! ```text
//! look_over        the files, what their headers say, and whose log it is ──► Survey::read, Survey::examine
//! examine_segment  one segment by itself, up to where its successor says that it ends
//! ```
//!
//! A segment by itself shows less than the log: whether it continues the one before is not looked at.

use super::disk_op::parse_segment_file_name;
use super::recovery::{Case, FirstWrite, Place, Reader, Recovered, RecoveryError, Used, refusal};
use super::sector::{Sector, inspect};
use super::segment::{SegmentEnd, SegmentHeader};
use super::segment_dir::SegmentDir;
use super::{AlignedBuffer, Record, WalConfig, WalIdentity};
use crate::ids::{ClusterId, NodeId, SegmentEpoch, StoreId};
use crate::limits::{STORES_MAX, WAL_BLOCK_BYTES, WAL_SECTOR_BYTES, WAL_SEGMENT_BYTES_MAX, WAL_WRITE_BYTES_MAX};

/// How a segment begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With zeros: it was prepared, and not used yet.
    Unused,
    /// With a header that did not arrive whole.
    Torn,
    /// With this header.
    Header(StoreId, Box<SegmentHeader>),
}

/// A segment's file.
#[derive(Clone, Debug)]
pub struct SegmentView {
    /// Which segment its name says; never the last number there is.
    pub epoch: SegmentEpoch,
    /// Its length.
    pub bytes: u64,
    /// How it begins, or why that cannot be read.
    pub beginning: Result<Beginning, RecoveryError>,
}

/// The files of a log, as far as they can be told each by itself.
#[derive(Clone, Debug)]
pub struct LogView {
    /// Segments, oldest first.
    pub segments: Vec<SegmentView>,
    /// Whose log it is, and its sizes: as the newest header says that can be read. None if there is no such header.
    pub owner: Option<(WalIdentity, WalConfig)>,
}

/// Lists a log's segments and reads their headers.
///
/// # Errors
/// The directory does not answer.
pub fn look_over(dir: &mut dyn SegmentDir) -> Result<LogView, RecoveryError> {
    let unlisted = |error: crate::engine::input::DiskError| RecoveryError {
        case: Case::Io,
        file: "the log's directory".into(),
        offset: 0,
        what: error.to_string(),
    };
    let files = dir.list().map_err(unlisted)?;
    let mut segments: Vec<SegmentView> = files
        .iter()
        .filter_map(|file| Some((parse_segment_file_name(&file.name)?, file.bytes)))
        .map(|(epoch, bytes)| SegmentView { epoch, bytes, beginning: beginning(dir, epoch, bytes) })
        .collect();
    segments.sort_unstable_by_key(|segment| segment.epoch);
    let owner = segments.iter().rev().find_map(|segment| match &segment.beginning {
        Ok(Beginning::Header(store, header)) => owner(segment.epoch, *store, header).ok(),
        _ => None,
    });
    Ok(LogView { segments, owner })
}

/// Reads how a segment of `bytes` begins.
///
/// # Errors
/// It begins neither with zeros nor with a header, or cannot be read.
pub fn beginning(dir: &mut dyn SegmentDir, epoch: SegmentEpoch, bytes: u64) -> Result<Beginning, RecoveryError> {
    let whole = bytes / WAL_BLOCK_BYTES as u64 * WAL_BLOCK_BYTES as u64;
    if !(WAL_BLOCK_BYTES as u64..=WAL_SEGMENT_BYTES_MAX).contains(&whole) {
        let what = format!("the file has {bytes} bytes; segments have a block to {WAL_SEGMENT_BYTES_MAX}");
        return Err(refusal(Case::WrongSize, epoch, bytes, what));
    }
    let write_bytes_max = whole.min(WAL_WRITE_BYTES_MAX as u64) as usize;
    let config = WalConfig { segment_bytes: whole, write_bytes_max };
    let store = store_of(dir, epoch)?;
    let identity = WalIdentity { cluster: ClusterId(0), node: NodeId(0), store };
    Ok(match Reader::new(dir, identity, config).header_write(epoch)? {
        FirstWrite::Blank => Beginning::Unused,
        FirstWrite::Torn => Beginning::Torn,
        FirstWrite::Header(header, ..) => Beginning::Header(store, header),
    })
}

/// The store whose stamp the first sector carries; the first one if it is none's.
fn store_of(dir: &mut dyn SegmentDir, epoch: SegmentEpoch) -> Result<StoreId, RecoveryError> {
    let mut block = AlignedBuffer::zeroed(WAL_BLOCK_BYTES);
    dir.read(epoch, 0, &mut block).map_err(|error| refusal(Case::Io, epoch, 0, error.to_string()))?;
    // Of a torn header any sector may be missing.
    let stamped = |store: &StoreId| {
        let mut sectors = (0..).zip(block.chunks_exact(WAL_SECTOR_BYTES));
        sectors.any(|(number, sector)| matches!(inspect(sector, *store, epoch, number), Sector::Start | Sector::Within))
    };
    Ok((0..STORES_MAX as u16).map(StoreId).find(stamped).unwrap_or(StoreId(0)))
}

/// Whose log a header is of, and its sizes, which are looked at before anything is made as large as they say.
fn owner(
    epoch: SegmentEpoch,
    store: StoreId,
    header: &SegmentHeader,
) -> Result<(WalIdentity, WalConfig), RecoveryError> {
    let block = WAL_BLOCK_BYTES as u64;
    let (segment, write) = (header.segment_bytes, header.write_bytes_max);
    let fits = |bytes: u64, max: u64| bytes.is_multiple_of(block) && (block..=max).contains(&bytes);
    if !fits(segment, WAL_SEGMENT_BYTES_MAX) || !fits(write, segment.min(WAL_WRITE_BYTES_MAX as u64)) {
        let what = format!("the header says that segments have {segment} bytes and writes up to {write}");
        return Err(refusal(Case::HeaderUnreadable, epoch, 0, what));
    }
    let identity = WalIdentity { cluster: header.cluster, node: header.node, store };
    Ok((identity, WalConfig { segment_bytes: segment, write_bytes_max: write as usize }))
}

/// Reads one segment by itself, up to where the next one says that it ends, or, if there is none that can be read, to where its log
/// does. Hands every record to `visit` in order. Of a segment that was never used nothing is handed out.
///
/// # Errors
/// What stands in it cannot be trusted, or cannot be read.
pub fn examine_segment(
    dir: &mut dyn SegmentDir,
    segment: &SegmentView,
    visit: &mut dyn FnMut(Place, Record) -> Result<(), String>,
) -> Result<Recovered, RecoveryError> {
    let epoch = segment.epoch;
    let (store, header) = match segment.beginning.clone()? {
        Beginning::Header(store, header) => (store, header),
        Beginning::Unused | Beginning::Torn => {
            let case = if segment.beginning == Ok(Beginning::Torn) { Case::TornHeader } else { Case::Prepared };
            return Ok(Recovered { case, ..Recovered::starting_with(&SegmentHeader::default()) });
        }
    };
    let (identity, config) = owner(epoch, store, &header)?;
    if segment.bytes != config.segment_bytes {
        let what = format!("the file has {} bytes, its header says {}", segment.bytes, config.segment_bytes);
        return Err(refusal(Case::WrongSize, epoch, segment.bytes, what));
    }
    let fixed_end = end_by_successor(dir, segment)?;
    let mut reader = Reader::new(dir, identity, config);
    let FirstWrite::Header(header, offset, chain) = reader.first_write(epoch)? else {
        return Err(refusal(Case::HeaderUnreadable, epoch, 0, "the header vanishes while it is being read".into()));
    };
    let used = Used { epoch, header: *header, after_header: (offset, chain) };
    let mut recovered = Recovered::starting_with(&used.header);
    reader.replay_segment(&used, fixed_end, &mut recovered, visit)?;
    Ok(recovered)
}

/// Where the next segment says that this one ends; none if there is no next one that says so.
fn end_by_successor(dir: &mut dyn SegmentDir, segment: &SegmentView) -> Result<Option<SegmentEnd>, RecoveryError> {
    let next = segment.epoch.next();
    let io = |error: crate::engine::input::DiskError| refusal(Case::Io, next, 0, error.to_string());
    let files = dir.list().map_err(io)?;
    let Some(file) = files.iter().find(|file| parse_segment_file_name(&file.name) == Some(next)) else {
        return Ok(None);
    };
    Ok(match beginning(dir, next, file.bytes) {
        Ok(Beginning::Header(_, header)) if header.previous.epoch == segment.epoch => Some(header.previous),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wal::memory_dir::{CONFIG, IDENTITY, MemoryDir, Shard, small_log};
    use crate::engine::wal::record::{Chain, RecordHeader, RecordKind};
    use crate::engine::wal::sector::{disk_bytes, spread};
    use crate::engine::wal::{GroupState, Survey, segment_file_name};
    use crate::ids::{Index, Lsn, Micros, ShardId, Term};

    const FIRST: SegmentEpoch = SegmentEpoch(1);

    /// A log over several segments, with what was written.
    fn long_log() -> (MemoryDir, Vec<Record>) {
        let mut dir = MemoryDir::default();
        let (mut wal, _) = dir.open();
        let mut shard = Shard { shard: ShardId(1), last: 0 };
        let mut records = vec![shard.hard_state(1)];
        records.extend((0..60).map(|_| shard.entry(1, 3_000)));
        for record in &records {
            wal.append(record.clone());
            dir.drive(&mut wal, Micros(0));
        }
        assert!(wal.segment() >= SegmentEpoch(4), "the log spans segments");
        (dir, records)
    }

    fn segment_of(dir: &mut MemoryDir, epoch: SegmentEpoch) -> SegmentView {
        let view = look_over(dir).expect("it is listed");
        view.segments.into_iter().find(|segment| segment.epoch == epoch).expect("it is there")
    }

    #[test]
    fn a_log_says_by_itself_whose_it_is_and_is_read_as_recovery_reads_it() {
        let (mut dir, records) = long_log();
        let view = look_over(&mut dir).expect("it is listed");
        assert_eq!(view.owner, Some((IDENTITY, CONFIG)));
        let unused = view.segments.iter().filter(|segment| segment.beginning == Ok(Beginning::Unused)).count();
        assert_eq!(unused, 2, "two are prepared ahead");
        let before = dir.files.clone();
        let (mut found, mut last) = (Vec::new(), Lsn(0));
        let survey = Survey::read(&mut dir, IDENTITY, CONFIG, true).expect("nothing is wrong");
        let recovered = survey.examine(&mut dir, &mut |place, record| {
            assert!(place.lsn > last && place.offset.is_multiple_of(WAL_BLOCK_BYTES as u64));
            last = place.lsn;
            found.push(record);
            Ok(())
        });
        let recovered = recovered.expect("nothing is wrong");
        assert_eq!((found, recovered.lsn, recovered.removed.len()), (records, last, 2));
        assert!(dir.files == before && dir.hardened.is_empty(), "nothing was changed");
    }

    #[test]
    fn segments_by_themselves_hold_together_what_the_log_holds() {
        let (mut dir, records) = long_log();
        let mut found = Vec::new();
        for segment in look_over(&mut dir).expect("it is listed").segments {
            let mut visit = |_: Place, record: Record| {
                found.push(record);
                Ok(())
            };
            let recovered = examine_segment(&mut dir, &segment, &mut visit).expect("nothing is wrong");
            assert_eq!(recovered.case == Case::Prepared, segment.beginning == Ok(Beginning::Unused));
        }
        assert_eq!(found, records);
    }

    /// W2: a write that lands after the next segment has fixed this one's end is no part of the log.
    #[test]
    fn what_lies_behind_a_fixed_end_is_not_looked_at() {
        // A restart opens the second segment, although there is room in the first.
        let (mut dir, ..) = small_log();
        let (mut wal, _) = dir.open();
        dir.drive(&mut wal, Micros(0));
        let second = segment_of(&mut dir, SegmentEpoch(2));
        let Ok(Beginning::Header(_, header)) = &second.beginning else { panic!("it is in use") };
        let end = header.previous.offset as usize;
        dir.file(FIRST)[end..end + WAL_SECTOR_BYTES].fill(7);
        let first = segment_of(&mut dir, FIRST);
        examine_segment(&mut dir, &first, &mut |_, _| Ok(())).expect("its end is fixed");
        dir.files.remove(&segment_file_name(SegmentEpoch(2)));
        let error = examine_segment(&mut dir, &first, &mut |_, _| Ok(())).expect_err("nothing says that it has ended");
        assert_eq!(error.case, Case::SectorForeign);
    }

    /// Whatever one byte becomes, a log by itself is refused or says what it said; and it never says more.
    #[test]
    fn every_flipped_byte_is_told_or_harmless() {
        let (mut dir, records, _) = small_log();
        dir.files.retain(|name, _| *name == segment_file_name(FIRST));
        let mut told = 0;
        let places = 10 * WAL_BLOCK_BYTES;
        for place in 0..places {
            let mut damaged = dir.clone();
            damaged.file(FIRST)[place] ^= 0x41;
            let segment = segment_of(&mut damaged, FIRST);
            let mut found = Vec::new();
            let mut visit = |_: Place, record: Record| {
                found.push(record);
                Ok(())
            };
            match examine_segment(&mut damaged, &segment, &mut visit) {
                Ok(_) => assert_eq!(found, records, "byte {place}"),
                Err(_) => {
                    told += 1;
                    assert_eq!(found, records[..found.len()], "byte {place}");
                }
            }
        }
        assert_eq!(told, places, "every byte is covered by a checksum, a stamp or a demand for zero");
    }

    #[test]
    fn files_of_any_length_and_name_are_told_and_not_believed() {
        let (dir, ..) = small_log();
        for (bytes, epoch) in [(0, 1), (100, 1), (4_096, 1), (8_191, 1), (100_000, 1), (64 << 10, u64::MAX - 1)] {
            let mut other = dir.clone();
            let mut content = other.file(FIRST).clone();
            content.resize(bytes, 0);
            other.files.clear();
            other.files.insert(segment_file_name(SegmentEpoch(epoch)), content);
            let segment = segment_of(&mut other, SegmentEpoch(epoch));
            assert!(examine_segment(&mut other, &segment, &mut |_, _| Ok(())).is_err(), "{bytes} bytes as {epoch}");
        }
    }

    /// The first bytes of a segment with this header and one entry, every checksum right.
    fn crafted(header: &SegmentHeader, start_payload: &[u8]) -> Vec<u8> {
        let mut chain = Chain { store: IDENTITY.store, epoch: FIRST, crc: 0 };
        let mut file = vec![0; CONFIG.segment_bytes as usize];
        let mut offset = 0;
        let record = |kind, index| {
            let (shard, term, lsn) = (ShardId(1), Term(1), Lsn(header.start.0.wrapping_add(56)));
            RecordHeader { kind, shard, term, index: Index(index), commit: Index(0), lsn }
        };
        let payload = header.encode();
        let writes = [
            (record(RecordKind::SegmentStart, 0), &payload[..], (payload.len() as u64 + 48).to_le_bytes().to_vec()),
            (
                record(RecordKind::Entry, header.groups[0].1.last_index.0.wrapping_add(1)),
                &[2; 8],
                start_payload.to_vec(),
            ),
        ];
        for (header, payload, start) in writes {
            let mut stream = Vec::new();
            chain.seal(&mut stream, &record(RecordKind::WriteStart, 0), &start);
            chain.seal(&mut stream, &header, payload);
            let bytes = disk_bytes(stream.len());
            spread(&stream, &mut file[offset..offset + bytes], IDENTITY.store, FIRST, offset as u64);
            offset += bytes;
        }
        file
    }

    /// Numbers that no log of ours comes to, with checksums that are right.
    #[test]
    fn headers_of_absurd_numbers_are_refused() {
        let group = GroupState { term: Term(1), ..GroupState::default() };
        let sound = SegmentHeader {
            cluster: IDENTITY.cluster,
            node: IDENTITY.node,
            segment_bytes: CONFIG.segment_bytes,
            write_bytes_max: CONFIG.write_bytes_max as u64,
            oldest: FIRST,
            groups: vec![(ShardId(1), group)],
            ..SegmentHeader::default()
        };
        let read = |header: &SegmentHeader, start_payload: &[u8]| {
            let mut dir = MemoryDir::default();
            dir.files.insert(segment_file_name(FIRST), crafted(header, start_payload));
            let segment = segment_of(&mut dir, FIRST);
            examine_segment(&mut dir, &segment, &mut |_, _| Ok(()))
        };
        let start_payload = 56u64.to_le_bytes();
        assert_eq!(read(&sound, &start_payload).expect("a sound one is read").records, 1);
        let absurd: [fn(&mut SegmentHeader); 6] = [
            |header| header.segment_bytes = u64::MAX,
            |header| header.segment_bytes = 0,
            |header| header.write_bytes_max = u64::MAX - 4_095,
            |header| header.write_bytes_max = 0,
            |header| header.start = Lsn(u64::MAX - 20),
            |header| header.groups[0].1.last_index = Index(u64::MAX),
        ];
        for (number, change) in absurd.into_iter().enumerate() {
            let mut changed = sound.clone();
            change(&mut changed);
            assert!(read(&changed, &start_payload).is_err(), "change {number}");
        }
        for payload in [&[][..], &[0; 7], &u64::MAX.to_le_bytes()] {
            assert!(read(&sound, payload).is_err(), "{payload:?}");
        }
    }
}
