//! A test for each row of recovery's table, and then every flipped byte and every cut of a small log.

use super::memory_dir::{CONFIG, IDENTITY, MemoryDir, Shard, small_log};
use super::recovery::Case;
use super::{Record, WalConfig, WalIdentity, recover, segment_file_name, unfinished_file_name};
use crate::engine::checkpoint::{Kept, Point, Reference};
use crate::ids::{CheckpointNumber, ClusterId, Index, Micros, SegmentEpoch, ShardId, Term};
use crate::limits::{WAL_BLOCK_BYTES, WAL_SECTOR_BYTES};

const FIRST: SegmentEpoch = SegmentEpoch(1);

fn refused(dir: &mut MemoryDir) -> Case {
    dir.recover(true).expect_err("the log is refused").case
}

/// Offsets of the writes of `small_log`: header, then one a record.
fn write_offsets(dir: &mut MemoryDir) -> Vec<usize> {
    let file = dir.file(FIRST).clone();
    let starts = |number: usize| {
        let sector = &file[number * WAL_SECTOR_BYTES..][..WAL_SECTOR_BYTES];
        super::sector::inspect(sector, IDENTITY.store, FIRST, number as u64) == super::sector::Sector::Start
    };
    (0..file.len() / WAL_SECTOR_BYTES).filter(|&number| starts(number)).map(|n| n * WAL_SECTOR_BYTES).collect()
}

#[test]
fn never_opened() {
    let (recovered, records) = MemoryDir::default().recover(false).unwrap();
    assert_eq!((recovered.case, records.len()), (Case::NeverOpened, 0));
}

#[test]
fn log_missing() {
    assert_eq!(refused(&mut MemoryDir::default()), Case::LogMissing);
    let (mut dir, ..) = small_log();
    dir.files.clear();
    assert_eq!(refused(&mut dir), Case::LogMissing);
}

#[test]
fn prepared() {
    let (mut dir, records, _) = small_log();
    assert_eq!(dir.files.len(), 3, "one used, two prepared");
    dir.files.insert(unfinished_file_name(SegmentEpoch(4)), vec![0; 100]);
    let (recovered, found) = dir.recover(true).unwrap();
    assert_eq!((recovered.case, found), (Case::CleanEnd, records));
    assert_eq!(dir.files.keys().collect::<Vec<_>>(), [&segment_file_name(FIRST)]);
    let removed: Vec<_> = recovered.removed.iter().map(|(name, _)| name.clone()).collect();
    let second_and_third = [SegmentEpoch(3), SegmentEpoch(2)].map(segment_file_name);
    assert_eq!(removed[1..], second_and_third, "the newest goes first, so that no gap can appear");
}

#[test]
fn torn_header() {
    let (mut dir, records, _) = small_log();
    let (mut wal, _) = dir.open();
    dir.drive(&mut wal, Micros(0));
    // The second segment's header lacks a sector, in the middle or at its start.
    for missing in [0, 3] {
        let mut torn = dir.clone();
        torn.file(SegmentEpoch(2))[missing * WAL_SECTOR_BYTES..][..WAL_SECTOR_BYTES].fill(0);
        let (recovered, found) = torn.recover(true).unwrap();
        assert_eq!((recovered.case, &found), (Case::CleanEnd, &records));
        assert!(!torn.files.contains_key(&segment_file_name(SegmentEpoch(2))));
        assert!(recovered.removed.iter().any(|(_, why)| *why == "its header never became durable"));
    }
}

#[test]
fn clean_end() {
    let (mut dir, records, ends) = small_log();
    let (recovered, found) = dir.recover(true).unwrap();
    assert_eq!((recovered.case, found, recovered.lsn), (Case::CleanEnd, records, ends[4]));
    assert_eq!(dir.hardened, [(FIRST, recovered.end.offset)], "what was accepted is made durable before use");
}

#[test]
fn torn_tail() {
    let (dir, records, ends) = small_log();
    let last = *write_offsets(&mut dir.clone()).last().unwrap();
    let sectors = 2 * WAL_BLOCK_BYTES / WAL_SECTOR_BYTES;
    for missing in 0..sectors {
        let mut torn = dir.clone();
        torn.file(FIRST)[last + missing * WAL_SECTOR_BYTES..][..WAL_SECTOR_BYTES].fill(0);
        let (recovered, found) = torn.recover(true).unwrap();
        assert_eq!((recovered.case, &found[..]), (Case::TornTail, &records[..4]), "sector {missing}");
        assert_eq!((recovered.lsn, recovered.end.offset), (ends[3], last as u64));
        // The log goes on in a fresh segment, and the torn bytes are never looked at again.
        let (mut wal, _) = torn.open();
        wal.append(Shard { shard: ShardId(1), last: 3 }.entry(1, 40));
        torn.drive(&mut wal, Micros(0));
        let (recovered, found) = torn.recover(true).unwrap();
        assert_eq!((recovered.case, found.len()), (Case::CleanEnd, 5));
    }
}

#[test]
fn wrong_size() {
    let (mut dir, ..) = small_log();
    dir.file(FIRST).push(0);
    assert_eq!(refused(&mut dir), Case::WrongSize);
}

/// A log whose records are spread over several segments.
fn long_log() -> (MemoryDir, usize) {
    let mut dir = MemoryDir::default();
    let (mut wal, _) = dir.open();
    let mut shard = Shard { shard: ShardId(1), last: 0 };
    wal.append(shard.hard_state(1));
    for _ in 0..60 {
        wal.append(shard.entry(1, 3_000));
        dir.drive(&mut wal, Micros(0));
    }
    assert!(wal.segment() >= SegmentEpoch(4), "the log spans segments");
    (dir, 61)
}

#[test]
fn segment_missing() {
    let (dir, records) = long_log();
    assert_eq!(dir.clone().recover(true).unwrap().1.len(), records);
    for epoch in [1, 2, 3] {
        let mut gap = dir.clone();
        gap.files.remove(&segment_file_name(SegmentEpoch(epoch)));
        assert_eq!(refused(&mut gap), Case::SegmentMissing, "segment {epoch}");
    }
}

#[test]
fn header_unreadable() {
    let (dir, _) = long_log();
    let mut blank = dir.clone();
    blank.file(SegmentEpoch(2)).fill(0);
    assert_eq!(refused(&mut blank), Case::HeaderUnreadable);
    let mut torn = dir.clone();
    torn.file(SegmentEpoch(2))[..].fill(0);
    let header = dir.files[&segment_file_name(SegmentEpoch(2))][..WAL_SECTOR_BYTES].to_vec();
    torn.file(SegmentEpoch(2))[..WAL_SECTOR_BYTES].copy_from_slice(&header);
    assert_eq!(refused(&mut torn), Case::HeaderUnreadable);
}

#[test]
fn foreign() {
    let (mut dir, ..) = small_log();
    let mut recover_as =
        |identity, config| recover(&mut dir, identity, config, true, &mut |_| Ok(())).unwrap_err().case;
    let other = WalIdentity { cluster: ClusterId(78), ..IDENTITY };
    assert_eq!(recover_as(other, CONFIG), Case::Foreign);
    let larger = WalConfig { segment_bytes: 2 * CONFIG.segment_bytes, ..CONFIG };
    assert_eq!(recover_as(IDENTITY, larger), Case::WrongSize);
}

#[test]
fn chain_broken_or_end_moved() {
    // Another log of the same store and shape, whose records differ: its segments do not continue ours.
    let (dir, _) = long_log();
    let mut other = MemoryDir::default();
    let (mut wal, _) = other.open();
    let mut shard = Shard { shard: ShardId(1), last: 0 };
    wal.append(shard.hard_state(1));
    for _ in 0..60 {
        wal.append(shard.entry(1, 2_999));
        other.drive(&mut wal, Micros(0));
    }
    let mut spliced = dir.clone();
    *spliced.file(SegmentEpoch(2)) = other.files[&segment_file_name(SegmentEpoch(2))].clone();
    assert!(matches!(refused(&mut spliced), Case::ChainBroken | Case::EndMoved));
}

#[test]
fn sector_foreign() {
    let (dir, ..) = small_log();
    let offsets = write_offsets(&mut dir.clone());
    // A misdirected write: a sector of the log, in another place of the log.
    for (from, to) in [(offsets[1], offsets[2]), (offsets[4], offsets[4] + WAL_SECTOR_BYTES), (offsets[1], 60 << 10)] {
        let mut misdirected = dir.clone();
        let file = misdirected.file(FIRST);
        file.copy_within(from..from + WAL_SECTOR_BYTES, to);
        assert_eq!(refused(&mut misdirected), Case::SectorForeign);
    }
}

#[test]
fn write_unreadable() {
    let (mut dir, ..) = small_log();
    let last = *write_offsets(&mut dir).last().unwrap();
    // The last write is whole, so it may have been acknowledged: a flipped bit in it is never taken for a tear.
    dir.file(FIRST)[last + 100] ^= 1;
    assert_eq!(refused(&mut dir), Case::WriteUnreadable);
}

#[test]
fn bytes_beyond_end() {
    // The disk lost a sector of a write that is not the last one: writes start behind it, so it is no tear.
    let (dir, ..) = small_log();
    for lost in write_offsets(&mut dir.clone()).into_iter().rev().skip(1) {
        let mut holed = dir.clone();
        holed.file(FIRST)[lost..lost + WAL_SECTOR_BYTES].fill(0);
        assert_eq!(refused(&mut holed), Case::BytesBeyondEnd, "write at {lost}");
    }
}

#[test]
fn end_moved() {
    let (dir, _) = long_log();
    let mut cut = dir.clone();
    let file = cut.file(SegmentEpoch(2));
    let tail = file.len() / 2 / WAL_BLOCK_BYTES * WAL_BLOCK_BYTES;
    file[tail..].fill(0);
    assert!(matches!(refused(&mut cut), Case::EndMoved | Case::BytesBeyondEnd));
}

#[test]
fn contradiction() {
    let (mut dir, ..) = small_log();
    let (mut wal, _) = dir.open();
    wal.append(Shard { shard: ShardId(1), last: 7 }.entry(1, 10));
    dir.drive(&mut wal, Micros(0));
    assert_eq!(refused(&mut dir), Case::Contradiction);
    let (mut dir, ..) = small_log();
    let error = recover(&mut dir, IDENTITY, CONFIG, true, &mut |_| Err("no".into())).unwrap_err();
    assert_eq!((error.case, &error.what[..]), (Case::Contradiction, "no"));
}

#[test]
fn a_cut_and_an_installed_checkpoint_are_found_again() {
    let point = |index, term| Point { index: Index(index), term: Term(term) };
    let (shard, at) = (ShardId(1), point(40, 2));
    let installed = Reference { number: CheckpointNumber(3), from: at, to: point(44, 2), bytes: 9, digest: 7 };
    let kept = Kept { newest: Some(installed), older: None };
    let (mut dir, mut records, _) = small_log();
    let (mut wal, _) = dir.open();
    let (mut replaced, mut after) = (Shard { shard, last: 3 }, Shard { shard, last: 40 });
    let changes = [
        // Entry 4 is not committed by anything written so far, and another one takes its place.
        Record::Truncate { shard, last: point(3, 1) },
        replaced.hard_state(2),
        replaced.entry(2, 100),
        Record::Install { shard, kept },
        after.entry(2, 200),
    ];
    for record in &changes {
        wal.append(record.clone());
        dir.drive(&mut wal, Micros(0));
    }
    records.extend(changes);
    let (recovered, found) = dir.recover(true).unwrap();
    assert_eq!((recovered.case, &found), (Case::CleanEnd, &records));
    let group = recovered.groups[&shard];
    assert_eq!((group.last_index, group.last_term, group.first_index), (Index(41), Term(2), Index(41)));
    assert_eq!((group.kept, group.commit), (kept, Index(40)));
    // Each as it must not be.
    let older = Kept { newest: Some(Reference { from: point(2, 1), to: point(2, 1), ..installed }), older: None };
    for wrong in [
        Record::Truncate { shard, last: point(41, 2) },
        Record::Truncate { shard, last: point(39, 2) },
        Record::Install { shard, kept: Kept::default() },
        Record::Install { shard, kept: older },
    ] {
        let mut dir = dir.clone();
        let (mut wal, _) = dir.open();
        wal.append(wrong);
        dir.drive(&mut wal, Micros(0));
        assert_eq!(refused(&mut dir), Case::Contradiction);
    }
}

#[test]
fn io() {
    struct Broken;
    impl super::SegmentDir for Broken {
        fn list(&mut self) -> Result<Vec<super::FileInfo>, super::super::input::DiskError> {
            Err(super::super::input::DiskError::Failed("gone".into()))
        }
        fn read(
            &mut self,
            _: SegmentEpoch,
            _: u64,
            _: &mut super::AlignedBuffer,
        ) -> Result<(), super::super::input::DiskError> {
            unreachable!("nothing is listed")
        }
        fn harden(&mut self, _: SegmentEpoch, _: u64) -> Result<(), super::super::input::DiskError> {
            unreachable!("nothing is listed")
        }
        fn remove(&mut self, _: &str) -> Result<(), super::super::input::DiskError> {
            unreachable!("nothing is listed")
        }
        fn sync_dir(&mut self) -> Result<(), super::super::input::DiskError> {
            unreachable!("nothing is listed")
        }
    }
    let error = recover(&mut Broken, IDENTITY, CONFIG, true, &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.case, Case::Io);
}

/// Whatever one byte becomes: all records, or a refusal. Nothing here may be cut, for every write was acknowledged.
#[test]
fn every_flipped_byte_is_refused_or_harmless() {
    let (dir, records, _) = small_log();
    let used = write_offsets(&mut dir.clone()).last().unwrap() + 2 * WAL_BLOCK_BYTES;
    let mut refusals = 0;
    for place in 0..used + WAL_BLOCK_BYTES {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = dir.clone();
            damaged.files.retain(|name, _| *name == segment_file_name(FIRST));
            damaged.file(FIRST)[place] ^= flip;
            match damaged.recover(true) {
                Ok((_, found)) => assert_eq!(found, records, "byte {place}"),
                Err(_) => refusals += 1,
            }
        }
    }
    assert_eq!(
        refusals,
        3 * (used + WAL_BLOCK_BYTES),
        "every byte is covered by a checksum, a stamp or a demand for zero"
    );
}

#[test]
fn a_file_cut_at_any_length_is_refused() {
    let (dir, ..) = small_log();
    let whole = dir.files[&segment_file_name(FIRST)].len();
    for len in (0..whole).step_by(7).chain(whole - 600..whole) {
        let mut cut = dir.clone();
        cut.file(FIRST).truncate(len);
        assert_eq!(refused(&mut cut), Case::WrongSize, "length {len}");
    }
}

/// The bytes a crash can leave: any subset of the last write's sectors. Acknowledged records are all there.
#[test]
fn every_tear_of_the_last_write_keeps_what_was_acknowledged() {
    let (dir, records, _) = small_log();
    let last = *write_offsets(&mut dir.clone()).last().unwrap();
    let sectors = 2 * WAL_BLOCK_BYTES / WAL_SECTOR_BYTES;
    for arrived in 0..1u32 << sectors {
        if arrived.count_ones() > 3 && arrived.count_ones() < sectors as u32 - 2 {
            continue;
        }
        let mut torn = dir.clone();
        for sector in (0..sectors).filter(|sector| arrived & (1 << sector) == 0) {
            torn.file(FIRST)[last + sector * WAL_SECTOR_BYTES..][..WAL_SECTOR_BYTES].fill(0);
        }
        let (_, found) = torn.recover(true).unwrap();
        let expected = if arrived.count_ones() == sectors as u32 { 5 } else { 4 };
        assert_eq!(found, records[..expected], "sectors {arrived:b}");
    }
}
