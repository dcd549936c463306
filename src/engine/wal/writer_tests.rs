//! Tests of the writer: what is durable when, rotation, recycling, a full and a failing disk.

use super::memory_dir::{MemoryDir, Shard};
use super::{DiskAction, DiskOp, Record, Wal, segment_file_name};
use crate::engine::input::{DiskDone, DiskError};
use crate::ids::{Index, Lsn, Micros, SegmentEpoch, ShardId};
use crate::limits::{WAL_PREPARE_RETRY_MICROS, WAL_SEGMENTS_AHEAD};

const NOW: Micros = Micros(0);

fn shard(number: u32) -> Shard {
    Shard { shard: ShardId(number), last: 0 }
}

/// A log with its first segment open and its spares prepared.
fn fresh() -> (MemoryDir, Wal) {
    let mut dir = MemoryDir::default();
    let (mut wal, _) = dir.open();
    dir.drive(&mut wal, NOW);
    (dir, wal)
}

fn take(wal: &mut Wal) -> Vec<DiskOp> {
    let mut ops = Vec::new();
    wal.take_ops(NOW, &mut ops);
    ops
}

#[test]
fn a_segment_is_used_only_after_zeros_sync_name_and_directory() {
    let (mut wal, _) = MemoryDir::default().open();
    let mut dir = MemoryDir::default();
    let mut seen = Vec::new();
    for _ in 0..5 {
        for op in take(&mut wal) {
            seen.push(std::mem::discriminant(&op.action));
            let (result, buffer) = dir.perform(op.action);
            wal.done(NOW, DiskDone { id: op.id, result, buffer });
        }
    }
    let epoch = SegmentEpoch(1);
    let expected = [
        DiskAction::Zero { epoch, recycle: None, bytes: 0 },
        DiskAction::SyncFile { epoch },
        DiskAction::Publish { epoch },
        DiskAction::SyncDir,
    ];
    assert_eq!(seen[..4], expected.map(|action| std::mem::discriminant(&action)));
}

#[test]
fn one_write_is_under_way_and_the_rest_gathers() {
    let (mut dir, mut wal) = fresh();
    let (mut a, mut b) = (shard(1), shard(2));
    wal.append(a.hard_state(1));
    wal.append(b.hard_state(1));
    let first = take(&mut wal);
    assert_eq!(first.len(), 1);
    let gathered = [a.entry(1, 10), b.entry(1, 10), a.entry(1, 10)].map(|record| wal.append(record));
    assert!(take(&mut wal).is_empty(), "a write is under way");
    assert_eq!(wal.durable(), Lsn(0));
    for op in first {
        let (result, buffer) = dir.perform(op.action);
        wal.done(NOW, DiskDone { id: op.id, result, buffer });
    }
    assert!(wal.durable() > Lsn(0) && wal.durable() < gathered[0]);
    assert_eq!(take(&mut wal).len(), 1, "everything that gathered, over both shards, leaves as one write");
}

#[test]
fn rotation_keeps_every_record_and_every_size_fits() {
    let (mut dir, mut wal) = fresh();
    let mut shard = shard(1);
    let mut records = vec![shard.hard_state(1)];
    wal.append(records[0].clone());
    let largest = wal.record_bytes_max() - super::record::RECORD_HEADER_BYTES;
    for step in 0..200 {
        let record = shard.entry(1, [1, 450, 3_000, largest][step % 4]);
        records.push(record.clone());
        wal.append(record);
        if step % 3 == 0 {
            dir.drive(&mut wal, NOW);
        }
    }
    dir.drive(&mut wal, NOW);
    assert!(wal.is_quiet() && wal.segment() > SegmentEpoch(8));
    assert_eq!(dir.open().1, records);
}

#[test]
fn each_start_opens_a_segment_of_its_own() {
    let (mut dir, wal) = fresh();
    let first = wal.segment();
    let (mut wal, _) = dir.open();
    dir.drive(&mut wal, NOW);
    assert_eq!(wal.segment(), first.next());
}

#[test]
fn released_segments_are_recycled_and_votes_survive_them() {
    let (mut dir, mut wal) = fresh();
    let (mut busy, idle) = (shard(1), shard(2));
    wal.append(busy.hard_state(1));
    wal.append(Record::HardState {
        shard: idle.shard,
        term: crate::ids::Term(9),
        vote: crate::ids::ReplicaId(4),
        commit: Index(0),
    });
    let mut files = 0;
    for _ in 0..400 {
        let lsn = wal.append(busy.entry(1, 3_000));
        dir.drive(&mut wal, NOW);
        assert!(wal.durable() >= lsn);
        wal.release(busy.shard, Index(busy.last));
        files = files.max(dir.files.len());
    }
    assert!(wal.segment() > SegmentEpoch(20));
    assert!(files <= 2 * WAL_SEGMENTS_AHEAD + 3, "{files} files");
    let (recovered, records) = dir.recover(true).unwrap();
    let kept = recovered.groups[&idle.shard];
    assert_eq!((kept.term.0, kept.vote.0), (9, 4), "an idle group's vote outlives its segment");
    let base = recovered.base[&busy.shard].last_index;
    assert_eq!(records.len() as u64, busy.last - base.0, "the log goes on exactly where its header says");
}

/// Found by the simulator (seed 281 of its first version): a segment that held nothing when its process died was
/// recycled by the next one, and a write that had been under way landed in it.
#[test]
fn files_of_a_dead_process_are_removed_and_never_used_again() {
    let (mut dir, mut wal) = fresh();
    let mut shard = shard(1);
    wal.append(shard.hard_state(1));
    dir.drive(&mut wal, NOW);
    let (mut wal, _) = dir.open();
    let mut ops = Vec::new();
    let mut removed = Vec::new();
    for _ in 0..200 {
        let lsn = wal.append(shard.entry(1, 3_000));
        for _ in 0..8 {
            wal.take_ops(NOW, &mut ops);
            for op in ops.drain(..) {
                match op.action {
                    DiskAction::Zero { recycle: Some(old), .. } => assert!(old > SegmentEpoch(1)),
                    DiskAction::Remove { epoch } => removed.push(epoch),
                    _ => {}
                }
                let (result, buffer) = dir.perform(op.action);
                wal.done(NOW, DiskDone { id: op.id, result, buffer });
            }
        }
        assert!(wal.durable() >= lsn);
        wal.release(shard.shard, Index(shard.last));
    }
    assert_eq!(removed, [SegmentEpoch(1)]);
}

#[test]
fn unreleased_segments_are_kept() {
    let (mut dir, mut wal) = fresh();
    let mut shard = shard(1);
    wal.append(shard.hard_state(1));
    for _ in 0..60 {
        wal.append(shard.entry(1, 3_000));
        dir.drive(&mut wal, NOW);
    }
    assert!(dir.files.contains_key(&segment_file_name(SegmentEpoch(1))));
}

#[test]
fn a_full_disk_leaves_a_reserve_and_recovers() {
    let (mut dir, mut wal) = fresh();
    let mut shard = shard(1);
    wal.append(shard.hard_state(1));
    dir.full = true;
    let mut accepted = 0;
    while wal.accepts(1_000) {
        wal.append(shard.entry(1, 900));
        dir.drive(&mut wal, NOW);
        accepted += 1;
        assert!(accepted < 1_000, "the log must stop accepting");
    }
    assert!(wal.is_disk_full() && wal.is_quiet() && wal.latched().is_none());
    // What must be logged all the same still fits, a whole segment of it.
    for term in 2..8 {
        wal.append(shard.hard_state(term));
        dir.drive(&mut wal, NOW);
    }
    assert!(wal.is_quiet());
    dir.full = false;
    let retry = wal.deadline().expect("a retry is planned");
    assert!(retry <= NOW.plus(WAL_PREPARE_RETRY_MICROS));
    dir.drive(&mut wal, retry);
    assert!(wal.accepts(1_000) && !wal.is_disk_full());
    assert_eq!(dir.open().1.len(), 1 + accepted + 6);
}

#[test]
fn accepting_never_leads_to_a_stall_on_a_full_disk() {
    for bytes in [1, 200, 451, 452, 2_000, 3_500] {
        let (mut dir, mut wal) = fresh();
        let mut shard = shard(1);
        wal.append(shard.hard_state(1));
        dir.full = true;
        // The worst gathering: everything the log accepts is appended before anything is written.
        while wal.accepts(bytes + 48) {
            wal.append(shard.entry(1, bytes));
        }
        dir.drive(&mut wal, NOW);
        assert!(wal.is_quiet(), "{bytes}-byte entries were accepted without room");
    }
}

#[test]
fn a_failed_write_latches_the_log_for_good() {
    let (mut dir, mut wal) = fresh();
    let mut shard = shard(1);
    wal.append(shard.hard_state(1));
    let ops = take(&mut wal);
    for op in ops {
        wal.done(NOW, DiskDone { id: op.id, result: Err(DiskError::Failed("EIO".into())), buffer: None });
    }
    assert!(wal.latched().is_some_and(|why| why.contains("EIO")));
    assert!(!wal.accepts(1));
    wal.append(shard.entry(1, 10));
    dir.drive(&mut wal, NOW);
    assert_eq!(wal.durable(), Lsn(0), "nothing is retried and nothing becomes durable");
}

#[test]
fn a_failed_preparation_latches_unless_the_disk_is_full() {
    for step in 0..4 {
        for error in [DiskError::Full, DiskError::Failed("EIO".into())] {
            let (mut wal, _) = MemoryDir::default().open();
            let mut dir = MemoryDir::default();
            let mut failed = false;
            for turn in 0..6 {
                for op in take(&mut wal) {
                    let (result, buffer) = if turn == step && !failed {
                        failed = true;
                        (Err(error.clone()), None)
                    } else {
                        dir.perform(op.action)
                    };
                    wal.done(NOW, DiskDone { id: op.id, result, buffer });
                }
            }
            let survives = error == DiskError::Full && step < 3;
            assert_eq!(wal.latched().is_none(), survives, "step {step}, {error}");
        }
    }
}
