//! The disk against the real kernel and file system.

use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use glommio::{LocalExecutorBuilder, Placement};
use rustix::fs::{Mode, OFlags, fcntl_setfl};

use super::*;
use crate::engine::wal::SegmentDir;
use crate::ids::StoreId;
use crate::limits::{APPEND_TRIAL_EVERY_MIN, WAL_BLOCK_BYTES, WAL_SEGMENT_BYTES_MIN, WAL_WRITE_BYTES_MAX};

const SEGMENT_BYTES: u64 = WAL_SEGMENT_BYTES_MIN + WAL_BLOCK_BYTES as u64;

/// A disk, its alarm, and the ends not yet asked for.
struct Bench {
    disk: Disk,
    alarm: Alarm,
    ended: Vec<DiskDone>,
    next_id: u64,
}

impl Bench {
    fn new(directory: &LogDirectory) -> Bench {
        let disk = Disk::open(directory).expect("io_uring works here");
        let alarm = disk.alarm().expect("a file can be opened");
        Bench { disk, alarm, ended: Vec::new(), next_id: 0 }
    }

    fn submit(&mut self, action: DiskAction) -> DiskOpId {
        self.next_id += 1;
        let id = DiskOpId(self.next_id);
        self.disk.submit(DiskOp { id, action });
        id
    }

    async fn wait_for(&mut self, id: DiskOpId) -> DiskDone {
        loop {
            if let Some(place) = self.ended.iter().position(|done| done.id == id) {
                return self.ended.swap_remove(place);
            }
            self.alarm.wait().await.expect("the alarm can be read");
            self.disk.reap(&mut self.ended);
        }
    }

    async fn perform(&mut self, action: DiskAction) -> DiskDone {
        let id = self.submit(action);
        self.wait_for(id).await
    }

    async fn succeed(&mut self, action: DiskAction) {
        let text = format!("{action:?}");
        assert_eq!(self.perform(action).await.result, Ok(()), "{text}");
    }

    /// A published segment of zeros, durable.
    async fn make(&mut self, epoch: SegmentEpoch, recycle: Option<SegmentEpoch>, bytes: u64) {
        self.succeed(DiskAction::Zero { epoch, recycle, bytes }).await;
        self.succeed(DiskAction::SyncFile { epoch }).await;
        self.succeed(DiskAction::Publish { epoch }).await;
        self.succeed(DiskAction::SyncDir).await;
    }

    /// Writes to a file that is no segment, as if it were.
    async fn write_to(&mut self, file: File, bytes: usize) -> DiskDone {
        let epoch = SegmentEpoch(99);
        self.disk.files.insert(epoch, Rc::new(file));
        self.perform(DiskAction::Write { epoch, offset: 0, buffer: AlignedBuffer::zeroed(bytes) }).await
    }
}

fn on_executor<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    // Little memory to lock: an ordinary user's limit is 8 MiB, and tests run side by side.
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20).make();
    executor.expect("a glommio executor starts").run(async { test().await });
}

fn log_directory(data_directory: &Path) -> LogDirectory {
    LogDirectory::open(data_directory, StoreId(0)).expect("the directory can be made")
}

fn filled(bytes: usize, value: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(bytes);
    buffer.fill(value);
    buffer
}

fn contents(directory: &mut LogDirectory, epoch: SegmentEpoch, bytes: u64) -> Vec<u8> {
    let mut buffer = AlignedBuffer::zeroed(bytes as usize);
    directory.read(epoch, 0, &mut buffer).expect("the segment can be read");
    buffer.to_vec()
}

/// Makes a segment, writes twice, and reads it back; at once, and as recovery does after a restart.
async fn segment_from_zeros_to_recovery(mut directory: LogDirectory) {
    let epoch = SegmentEpoch(1);
    let mut bench = Bench::new(&directory);
    bench.make(epoch, None, SEGMENT_BYTES).await;
    let written = [(0, filled(WAL_BLOCK_BYTES, 1)), (WAL_BLOCK_BYTES as u64, filled(3 * WAL_BLOCK_BYTES, 2))];
    let mut expected = vec![0; SEGMENT_BYTES as usize];
    for (offset, buffer) in written {
        expected[offset as usize..][..buffer.len()].copy_from_slice(&buffer);
        let sent = (buffer.as_ptr(), buffer.len());
        let done = bench.perform(DiskAction::Write { epoch, offset, buffer }).await;
        assert_eq!(done.result, Ok(()));
        let back = done.buffer.expect("the buffer comes back");
        assert_eq!((back.as_ptr(), back.len()), sent);
    }
    drop(bench);
    directory.harden(epoch, 4 * WAL_BLOCK_BYTES as u64).expect("the segment can be made durable");
    assert!(contents(&mut directory, epoch, SEGMENT_BYTES) == expected);
    let files = directory.list().expect("the directory can be listed");
    assert_eq!(files.len(), 1);
    assert_eq!((files[0].name.as_str(), files[0].bytes), ("0000000000000001.wal", SEGMENT_BYTES));
}

#[test]
fn a_segment_is_made_written_and_read_back() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| segment_from_zeros_to_recovery(log_directory(data.path())));
}

#[test]
fn a_segment_is_made_written_and_read_back_where_direct_io_is_refused() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut directory = log_directory(data.path());
    directory.pretend_buffered();
    on_executor(|| async {
        assert!(!Disk::open(&directory).expect("io_uring works here").direct_io());
        segment_from_zeros_to_recovery(directory).await;
    });
}

#[test]
fn a_segment_is_made_written_and_read_back_in_memory() {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let is_tmpfs = rustix::fs::statfs("/dev/shm").is_ok_and(|fs| i128::from(fs.f_type) == i128::from(TMPFS_MAGIC));
    let data = is_tmpfs.then(|| tempfile::tempdir_in("/dev/shm").ok()).flatten();
    let Some(data) = data else {
        eprintln!("SKIPPED: /dev/shm is no tmpfs that we may write to");
        return;
    };
    on_executor(|| segment_from_zeros_to_recovery(log_directory(data.path())));
}

#[test]
fn a_recycled_segment_keeps_its_file_and_loses_its_content() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| async {
        let mut directory = log_directory(data.path());
        let inode = |directory: &LogDirectory, name: &str| directory.path().join(name).metadata().map(|m| m.ino()).ok();
        let (first, second) = (SegmentEpoch(1), SegmentEpoch(2));
        let mut bench = Bench::new(&directory);
        bench.make(first, None, SEGMENT_BYTES).await;
        let buffer = filled(4 * WAL_BLOCK_BYTES, 7);
        bench.succeed(DiskAction::Write { epoch: first, offset: 0, buffer }).await;
        let inode_before = inode(&directory, "0000000000000001.wal");

        bench.make(second, Some(first), SEGMENT_BYTES).await;
        assert_eq!(inode(&directory, "0000000000000002.wal"), inode_before);
        assert_eq!(inode(&directory, "0000000000000001.wal"), None);
        assert!(contents(&mut directory, second, SEGMENT_BYTES).iter().all(|&byte| byte == 0));
    });
}

#[test]
fn recycling_makes_the_right_length_and_can_be_tried_again() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| async {
        let mut directory = log_directory(data.path());
        let mut bench = Bench::new(&directory);
        bench.make(SegmentEpoch(1), None, 2 * SEGMENT_BYTES).await;
        // The segments were longer once.
        let zero = || DiskAction::Zero { epoch: SegmentEpoch(2), recycle: Some(SegmentEpoch(1)), bytes: SEGMENT_BYTES };
        bench.succeed(zero()).await;
        // Segment 1 is gone by now, and its successor lies there unfinished.
        bench.succeed(zero()).await;
        let files = directory.list().expect("the directory can be listed");
        assert_eq!(files.len(), 1);
        assert_eq!((files[0].name.as_str(), files[0].bytes), ("0000000000000002.tmp", SEGMENT_BYTES));
        for _ in 0..2 {
            bench.succeed(DiskAction::Discard { epoch: SegmentEpoch(2) }).await;
            assert_eq!(directory.list(), Ok(vec![]));
        }
    });
}

#[test]
fn a_published_segment_is_never_replaced() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| async {
        let epoch = SegmentEpoch(1);
        let mut directory = log_directory(data.path());
        let mut bench = Bench::new(&directory);
        bench.make(epoch, None, SEGMENT_BYTES).await;
        bench.succeed(DiskAction::Write { epoch, offset: 0, buffer: filled(WAL_BLOCK_BYTES, 7) }).await;
        bench.succeed(DiskAction::Zero { epoch, recycle: None, bytes: SEGMENT_BYTES }).await;
        let done = bench.perform(DiskAction::Publish { epoch }).await;
        assert!(matches!(&done.result, Err(DiskError::Failed(text)) if text.contains("File exists")), "{done:?}");
        assert_eq!(contents(&mut directory, epoch, SEGMENT_BYTES)[0], 7);
    });
}

#[test]
fn what_cannot_be_started_is_refused_with_its_buffer() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| async {
        let mut bench = Bench::new(&log_directory(data.path()));
        let write =
            |bytes| DiskAction::Write { epoch: SegmentEpoch(9), offset: 0, buffer: AlignedBuffer::zeroed(bytes) };
        let done = bench.perform(write(WAL_BLOCK_BYTES)).await;
        assert_eq!(done.result, Err(DiskError::Failed("0000000000000009.wal is not open".into())));
        assert!(done.buffer.is_some());

        let ids: Vec<_> = (0..=DISK_OPERATIONS_MAX).map(|_| bench.submit(DiskAction::SyncDir)).collect();
        for (place, id) in ids.into_iter().enumerate() {
            let done = bench.wait_for(id).await;
            assert_eq!(done.result.is_ok(), place < DISK_OPERATIONS_MAX, "{done:?}");
        }
        bench.succeed(DiskAction::SyncDir).await;
    });
}

#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| async {
        let mut bench = Bench::new(&log_directory(data.path()));
        let full = File::options().write(true).open("/dev/full").expect("/dev/full can be written");
        let done = bench.write_to(full, WAL_BLOCK_BYTES).await;
        assert_eq!(done.result, Err(DiskError::Full));
        assert!(done.buffer.is_some());

        let unwritable = File::open("/dev/null").expect("/dev/null can be read");
        let done = bench.write_to(unwritable, WAL_BLOCK_BYTES).await;
        assert!(matches!(&done.result, Err(DiskError::Failed(text)) if text.starts_with("write 4096 bytes at 0")));
    });
}

#[test]
fn a_short_write_is_a_failure_and_its_sync_is_cancelled() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| async {
        let mut bench = Bench::new(&log_directory(data.path()));
        // A pipe takes what fits, and only that.
        let (_reader, writer) = io::pipe().expect("a pipe");
        let writer = OwnedFd::from(writer);
        fcntl_setfl(&writer, OFlags::NONBLOCK).expect("a pipe can be made non-blocking");
        let done = bench.write_to(File::from(writer), WAL_WRITE_BYTES_MAX).await;
        assert!(matches!(&done.result, Err(DiskError::Failed(text)) if text.contains("were written")), "{done:?}");
    });
}

#[test]
fn durable_means_all_written_and_synced() {
    const EIO: i32 = -5;
    const ENOSPC: i32 = -28;
    const ECANCELED: i32 = -125;
    const ALL: i32 = WAL_BLOCK_BYTES as i32;
    let file = Rc::new(File::open("/dev/null").expect("/dev/null can be read"));
    let outcome = |written, synced| {
        let (buffer, since) = (AlignedBuffer::zeroed(WAL_BLOCK_BYTES), Instant::now());
        Append {
            file: file.clone(),
            epoch: SegmentEpoch(1),
            offset: 0,
            buffer,
            way: Way::LinkedSync,
            since,
            written,
            synced,
        }
        .outcome()
    };
    for unfinished in [(None, None), (Some(ALL), None), (None, Some(0)), (Some(EIO), None)] {
        assert_eq!(outcome(unfinished.0, unfinished.1), None, "{unfinished:?}");
    }
    assert_eq!(outcome(Some(ALL), Some(0)), Some(Ok(())));
    assert_eq!(outcome(Some(ENOSPC), Some(ECANCELED)), Some(Err(DiskError::Full)));
    let failures = [
        (ALL, EIO, "sync"),
        (ALL, ECANCELED, "sync"),
        (EIO, ECANCELED, "write"),
        (EIO, 0, "write"),
        (512, 0, "write"),
        (0, 0, "write"),
    ];
    for (written, synced, culprit) in failures {
        let result = outcome(Some(written), Some(synced));
        let named = matches!(&result, Some(Err(DiskError::Failed(text))) if text.starts_with(culprit));
        assert!(named, "{written} {synced}: {result:?}");
    }
}

#[test]
fn a_dropped_disk_finishes_what_the_kernel_holds() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| async {
        let epoch = SegmentEpoch(1);
        let mut directory = log_directory(data.path());
        let mut bench = Bench::new(&directory);
        bench.make(epoch, None, SEGMENT_BYTES).await;
        bench.submit(DiskAction::Zero { epoch: SegmentEpoch(2), recycle: None, bytes: 64 << 20 });
        bench.submit(DiskAction::Write { epoch, offset: 0, buffer: filled(WAL_WRITE_BYTES_MAX, 7) });
        drop(bench);
        // The write was in the kernel's hands, so it is whole; the chain of zeros stopped where it was.
        assert!(contents(&mut directory, epoch, WAL_WRITE_BYTES_MAX as u64).iter().all(|&byte| byte == 7));
        for file in directory.list().expect("the directory can be listed") {
            assert!(file.name.ends_with(".wal") || file.bytes < 64 << 20);
        }
        // A new disk starts over in the same place.
        Bench::new(&directory).make(SegmentEpoch(2), None, SEGMENT_BYTES).await;
    });
}

#[test]
fn a_failed_ring_reports_everything_and_starts_nothing() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| async {
        let mut bench = Bench::new(&log_directory(data.path()));
        let id = bench.submit(DiskAction::Zero { epoch: SegmentEpoch(1), recycle: None, bytes: SEGMENT_BYTES });
        bench.disk.close("the ring is broken".into());
        let failed = Err(DiskError::Failed("the ring is broken".into()));
        assert_eq!(bench.wait_for(id).await.result, failed);
        assert_eq!(bench.perform(DiskAction::SyncDir).await.result, failed);
    });
}

#[test]
fn only_the_newest_segments_stay_open() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| async {
        let mut bench = Bench::new(&log_directory(data.path()));
        for epoch in (1..=3).map(SegmentEpoch) {
            bench.make(epoch, None, WAL_BLOCK_BYTES as u64).await;
        }
        let write = |epoch| DiskAction::Write { epoch, offset: 0, buffer: AlignedBuffer::zeroed(WAL_BLOCK_BYTES) };
        bench.succeed(write(SegmentEpoch(2))).await;
        assert_eq!(bench.disk.files.keys().copied().collect::<Vec<_>>(), [SegmentEpoch(2), SegmentEpoch(3)]);
        assert!(bench.perform(write(SegmentEpoch(1))).await.result.is_err());
    });
}

#[test]
fn segment_files_are_for_their_owner_alone() {
    let data = tempfile::tempdir().expect("a temporary directory");
    on_executor(|| async {
        let directory = log_directory(data.path());
        Bench::new(&directory).make(SegmentEpoch(1), None, WAL_BLOCK_BYTES as u64).await;
        let metadata = directory.path().join("0000000000000001.wal").metadata().expect("the segment is there");
        assert_eq!(Mode::from_raw_mode(metadata.mode()) & (Mode::RWXG | Mode::RWXO), Mode::empty());
    });
}

#[test]
fn the_end_of_a_small_append_can_be_waited_for_and_needs_no_alarm_then() {
    on_executor(|| async {
        let data = tempfile::tempdir().expect("a directory");
        let mut bench = Bench::new(&log_directory(data.path()));
        let epoch = SegmentEpoch(1);
        bench.make(epoch, None, SEGMENT_BYTES).await;
        let write = |offset: usize, bytes: usize| DiskAction::Write {
            epoch,
            offset: offset as u64,
            buffer: AlignedBuffer::zeroed(bytes),
        };
        assert!(bench.disk.arm(), "nothing is to be collected");
        // Tells how long appends take.
        bench.succeed(write(0, WAL_BLOCK_BYTES)).await;
        bench.disk.disarm();
        let id = bench.submit(write(WAL_BLOCK_BYTES, WAL_BLOCK_BYTES));
        // A disk may be too slow to be waited for; then it is looked at again and again.
        while bench.ended.is_empty() {
            bench.disk.wait(&mut bench.ended);
            bench.disk.reap(&mut bench.ended);
        }
        assert_eq!((bench.ended[0].id, &bench.ended[0].result), (id, &Ok(())));
        bench.ended.clear();
        bench.disk.wait(&mut bench.ended);
        assert!(bench.ended.is_empty(), "nothing is under way");
        bench.submit(DiskAction::Write { epoch: SegmentEpoch(0), offset: 0, buffer: AlignedBuffer::zeroed(512) });
        assert!(!bench.disk.arm(), "a refusal is to be collected");
        bench.disk.reap(&mut bench.ended);
        assert!(bench.disk.arm());
        let id = bench.submit(write(2 * WAL_BLOCK_BYTES, WAL_BLOCK_BYTES));
        assert_eq!(bench.wait_for(id).await.result, Ok(()), "armed, the alarm tells");
    });
}

#[test]
fn both_ways_of_an_append_are_durable_and_their_failures_are_told() {
    on_executor(|| async {
        let data = tempfile::tempdir().expect("a directory");
        let mut directory = log_directory(data.path());
        let mut bench = Bench::new(&directory);
        let epoch = SegmentEpoch(1);
        bench.make(epoch, None, SEGMENT_BYTES).await;
        let mut expected = vec![0; SEGMENT_BYTES as usize];
        // Enough for trials of the other way.
        for number in 0..2 * u64::from(APPEND_TRIAL_EVERY_MIN) {
            let (offset, buffer) = (number * WAL_BLOCK_BYTES as u64, filled(WAL_BLOCK_BYTES, number as u8 | 1));
            expected[offset as usize..][..buffer.len()].copy_from_slice(&buffer);
            bench.succeed(DiskAction::Write { epoch, offset, buffer }).await;
        }
        assert_eq!(contents(&mut directory, epoch, SEGMENT_BYTES), expected);
        let file = Rc::new(File::open("/dev/null").expect("/dev/null can be read"));
        for way in [Way::LinkedSync, Way::SyncedWrite] {
            let buffer = AlignedBuffer::zeroed(WAL_BLOCK_BYTES);
            let (file, since, answers) = (file.clone(), Instant::now(), [-5, 512]);
            let mut append = Append { file, epoch, offset: 0, buffer, way, since, written: None, synced: None };
            for answer in answers {
                assert_eq!(append.missing(), if way == Way::LinkedSync { 2 } else { 1 });
                append.answered(false, answer);
                if way == Way::LinkedSync {
                    append.answered(true, -125);
                }
                assert!(matches!(append.outcome(), Some(Err(_))), "{way:?}: {answer}");
                (append.written, append.synced) = (None, None);
            }
        }
    });
}
