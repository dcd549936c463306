//! A log directory in memory, for the tests of this folder: it does what it is told at once and loses nothing.
//! The tests damage it by hand; a disk that lies by itself is the simulator's.

use std::collections::BTreeMap;

use super::{
    AlignedBuffer, DiskAction, FileInfo, Record, Recovered, RecoveryError, SegmentDir, Wal, WalConfig, WalIdentity,
    recover, segment_file_name, unfinished_file_name,
};
use crate::engine::checkpoint::{CheckpointDir, CheckpointFile, FileAction, RESERVE_FILE_NAME, StoreDir};
use crate::engine::input::{DiskDone, DiskError};
use crate::ids::{ClusterId, Index, Lsn, Micros, NodeId, ReplicaId, SegmentEpoch, ShardId, StoreId, Term};

pub(super) const IDENTITY: WalIdentity = WalIdentity { cluster: ClusterId(77), node: NodeId(5), store: StoreId(2) };
pub(super) const CONFIG: WalConfig = WalConfig { segment_bytes: 64 << 10, write_bytes_max: 8 << 10 };

#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct MemoryDir {
    pub(in crate::engine) files: BTreeMap<String, Vec<u8>>,
    pub(in crate::engine) checkpoints: BTreeMap<String, Vec<u8>>,
    /// Answer to the next `Zero`, and to all that would make the files of checkpoints larger.
    pub(in crate::engine) full: bool,
    /// Answer to all that asks for room for a checkpoint.
    pub(in crate::engine) reserve_full: bool,
    /// Answer to the next operation on the files of checkpoints.
    pub(in crate::engine) checkpoint_fails: bool,
    pub(super) hardened: Vec<(SegmentEpoch, u64)>,
}

impl MemoryDir {
    pub(in crate::engine) fn perform(&mut self, action: DiskAction) -> (Result<(), DiskError>, Option<AlignedBuffer>) {
        match action {
            DiskAction::Write { epoch, offset, buffer } => {
                let file = self.file(epoch);
                file[offset as usize..][..buffer.len()].copy_from_slice(&buffer);
                return (Ok(()), Some(buffer));
            }
            DiskAction::Zero { epoch, recycle, bytes } => {
                if self.full && recycle.is_none() {
                    return (Err(DiskError::Full), None);
                }
                if let Some(old) = recycle {
                    self.files.remove(&segment_file_name(old)).expect("a freed segment exists");
                }
                self.files.insert(unfinished_file_name(epoch), vec![0; bytes as usize]);
            }
            DiskAction::Publish { epoch } => {
                let file = self.files.remove(&unfinished_file_name(epoch)).expect("an unfinished segment exists");
                self.files.insert(segment_file_name(epoch), file);
            }
            DiskAction::Discard { epoch } => {
                self.files.remove(&unfinished_file_name(epoch));
            }
            DiskAction::Remove { epoch } => {
                self.files.remove(&segment_file_name(epoch)).expect("a freed segment exists");
            }
            DiskAction::SyncFile { .. } | DiskAction::SyncDir => {}
        }
        (Ok(()), None)
    }

    pub(super) fn file(&mut self, epoch: SegmentEpoch) -> &mut Vec<u8> {
        self.files.get_mut(&segment_file_name(epoch)).expect("a published segment exists")
    }

    /// Performs everything the log asks for until it asks for nothing more.
    pub(super) fn drive(&mut self, wal: &mut Wal, now: Micros) {
        let mut ops = Vec::new();
        loop {
            wal.take_ops(now, &mut ops);
            if ops.is_empty() {
                return;
            }
            for op in ops.drain(..) {
                let (result, buffer) = self.perform(op.action);
                wal.done(now, DiskDone { id: op.id, result, buffer });
            }
        }
    }

    pub(super) fn recover(&mut self, opened_before: bool) -> Result<(Recovered, Vec<Record>), RecoveryError> {
        let mut records = Vec::new();
        let recovered = recover(self, IDENTITY, CONFIG, opened_before, &mut |record| {
            records.push(record);
            Ok(())
        })?;
        Ok((recovered, records))
    }

    /// Opens the log as a restart would.
    pub(super) fn open(&mut self) -> (Wal, Vec<Record>) {
        let opened_before = self.files.keys().any(|name| name.ends_with(".wal"));
        let (recovered, records) = self.recover(opened_before).expect("the log can be trusted");
        (Wal::new(IDENTITY, CONFIG, &recovered), records)
    }
}

impl MemoryDir {
    pub(in crate::engine) fn perform_file(
        &mut self,
        action: FileAction,
    ) -> (Result<(), DiskError>, Option<AlignedBuffer>) {
        if std::mem::take(&mut self.checkpoint_fails) {
            return (Err(DiskError::Failed("EIO".into())), None);
        }
        let reserve = RESERVE_FILE_NAME.to_string();
        match action {
            FileAction::Reserve { bytes } => {
                if self.full || self.reserve_full {
                    return (Err(DiskError::Full), None);
                }
                self.checkpoints.entry(reserve).or_default().resize(bytes as usize, 0);
            }
            FileAction::Create { file, from_reserve } => {
                let content = from_reserve.then(|| self.checkpoints.remove(&reserve)).flatten();
                self.checkpoints.insert(file.name(), content.unwrap_or_default());
            }
            FileAction::Write { file, offset, buffer } => {
                let content = self.checkpoints.get_mut(&file.name()).expect("it was created");
                let end = offset as usize + buffer.len();
                if end > content.len() {
                    if self.full {
                        return (Err(DiskError::Full), Some(buffer));
                    }
                    content.resize(end, 0);
                }
                content[offset as usize..end].copy_from_slice(&buffer);
                return (Ok(()), Some(buffer));
            }
            FileAction::Retire { file } => {
                let content = self.checkpoints.remove(&file.name()).expect("what is retired exists");
                self.checkpoints.insert(reserve, content);
            }
            FileAction::Remove { file } => drop(self.checkpoints.remove(&file.name())),
            FileAction::Sync { .. } | FileAction::SyncDirectory => {}
        }
        (Ok(()), None)
    }
}

impl StoreDir for MemoryDir {
    fn log(&mut self) -> &mut dyn SegmentDir {
        self
    }

    fn checkpoints(&mut self) -> &mut dyn CheckpointDir {
        self
    }
}

impl CheckpointDir for MemoryDir {
    fn list(&mut self) -> Result<Vec<CheckpointFile>, DiskError> {
        Ok(self.checkpoints.keys().filter_map(|name| CheckpointFile::parse(name)).collect())
    }

    fn read(&mut self, file: CheckpointFile, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        let bytes =
            self.checkpoints.get(&file.name()).and_then(|content| content.get(offset as usize..)?.get(..into.len()));
        into.copy_from_slice(bytes.ok_or_else(|| DiskError::Failed("no such bytes".into()))?);
        Ok(())
    }
}

impl SegmentDir for MemoryDir {
    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        let info = |(name, file): (&String, &Vec<u8>)| FileInfo { name: name.clone(), bytes: file.len() as u64 };
        Ok(self.files.iter().map(info).collect())
    }

    fn read(&mut self, epoch: SegmentEpoch, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        let file = self.file(epoch);
        let len = into.len();
        match file.get(offset as usize..offset as usize + len) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => return Err(DiskError::Failed("read past the end".into())),
        }
        Ok(())
    }

    fn harden(&mut self, epoch: SegmentEpoch, bytes: u64) -> Result<(), DiskError> {
        self.hardened.push((epoch, bytes));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.files.remove(name);
        Ok(())
    }

    fn sync_dir(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Records of one shard, as its group would write them.
pub(super) struct Shard {
    pub(super) shard: ShardId,
    pub(super) last: u64,
}

impl Shard {
    pub(super) fn hard_state(&self, term: u64) -> Record {
        Record::HardState { shard: self.shard, term: Term(term), vote: ReplicaId(1), commit: Index(0) }
    }

    pub(super) fn entry(&mut self, term: u64, bytes: usize) -> Record {
        self.last += 1;
        Record::Entry {
            shard: self.shard,
            term: Term(term),
            index: Index(self.last),
            commit: Index(self.last - 1),
            payload: std::rc::Rc::new(vec![self.last as u8 | 1; bytes]),
        }
    }
}

/// A log of a few writes in one segment, and what it holds.
pub(super) fn small_log() -> (MemoryDir, Vec<Record>, Vec<Lsn>) {
    let mut dir = MemoryDir::default();
    let (mut wal, _) = dir.open();
    dir.drive(&mut wal, Micros(0));
    let mut shard = Shard { shard: ShardId(1), last: 0 };
    let mut records = vec![shard.hard_state(1)];
    records.extend([10, 600, 2_000, 5_000].map(|bytes| shard.entry(1, bytes)));
    let mut ends = Vec::new();
    for record in &records {
        ends.push(wal.append(record.clone()));
        dir.drive(&mut wal, Micros(0));
    }
    assert_eq!(wal.durable(), *ends.last().expect("there are records"));
    (dir, records, ends)
}
