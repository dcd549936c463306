//! A log directory in memory: it does what it is told at once, remembers where writes went, and can be damaged by hand.

use std::collections::BTreeMap;

use dkc::engine::checkpoint::{CheckpointDir, CheckpointFile, StoreDir};
use dkc::engine::input::{DiskDone, DiskError};
use dkc::engine::wal::sector::{Sector, inspect};
use dkc::engine::wal::{AlignedBuffer, DiskAction, FileInfo, SegmentDir, Wal, segment_file_name, unfinished_file_name};
use dkc::ids::{Micros, SegmentEpoch, StoreId};
use dkc::limits::WAL_SECTOR_BYTES;

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Where a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) epoch: SegmentEpoch,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct LogDir {
    pub(crate) files: Files,
    /// Every write so far.
    pub(crate) writes: Vec<Written>,
    /// A fault: sectors of this store's log that were damaged read as zeros, as if they had never arrived.
    pub(crate) hides_damage_of: Option<StoreId>,
}

impl LogDir {
    pub(crate) fn of(files: Files) -> LogDir {
        LogDir { files, ..LogDir::default() }
    }

    pub(crate) fn perform(&mut self, action: DiskAction) -> Option<AlignedBuffer> {
        match action {
            DiskAction::Write { epoch, offset, buffer } => {
                let offset = offset as usize;
                let file = self.files.get_mut(&segment_file_name(epoch)).expect("a write goes to a published segment");
                file[offset..][..buffer.len()].copy_from_slice(&buffer);
                self.writes.push(Written { epoch, offset, bytes: buffer.len() });
                return Some(buffer);
            }
            DiskAction::Zero { epoch, recycle, bytes } => {
                if let Some(old) = recycle {
                    self.files.remove(&segment_file_name(old)).expect("a freed segment exists");
                }
                self.files.insert(unfinished_file_name(epoch), vec![0; bytes as usize]);
            }
            DiskAction::Publish { epoch } => {
                let file = self.files.remove(&unfinished_file_name(epoch)).expect("an unfinished segment exists");
                self.files.insert(segment_file_name(epoch), file);
            }
            DiskAction::Discard { epoch } => drop(self.files.remove(&unfinished_file_name(epoch))),
            DiskAction::Remove { epoch } => drop(self.files.remove(&segment_file_name(epoch))),
            DiskAction::SyncFile { .. } | DiskAction::SyncDir => {}
        }
        None
    }

    /// Performs everything the log asks for until it asks for nothing more.
    pub(crate) fn drive(&mut self, wal: &mut Wal) {
        let mut ops = Vec::new();
        loop {
            wal.take_ops(Micros(0), &mut ops);
            if ops.is_empty() {
                return;
            }
            for op in ops.drain(..) {
                let buffer = self.perform(op.action);
                wal.done(Micros(0), DiskDone { id: op.id, result: Ok(()), buffer });
            }
        }
    }
}

impl SegmentDir for LogDir {
    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        let info = |(name, file): (&String, &Vec<u8>)| FileInfo { name: name.clone(), bytes: file.len() as u64 };
        Ok(self.files.iter().map(info).collect())
    }

    fn read(&mut self, epoch: SegmentEpoch, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        let file = self.files.get(&segment_file_name(epoch));
        let bytes = file.and_then(|file| file.get(offset as usize..)?.get(..into.len()));
        into.copy_from_slice(bytes.ok_or_else(|| DiskError::Failed("there is no such place".into()))?);
        if let Some(store) = self.hides_damage_of {
            let first = offset / WAL_SECTOR_BYTES as u64;
            for (number, sector) in (first..).zip(into.chunks_exact_mut(WAL_SECTOR_BYTES)) {
                if inspect(sector, store, epoch, number) == Sector::Foreign {
                    sector.fill(0);
                }
            }
        }
        Ok(())
    }

    fn harden(&mut self, _: SegmentEpoch, _: u64) -> Result<(), DiskError> {
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

impl StoreDir for LogDir {
    fn log(&mut self) -> &mut dyn SegmentDir {
        self
    }

    fn checkpoints(&mut self) -> &mut dyn CheckpointDir {
        self
    }
}

/// There are none.
impl CheckpointDir for LogDir {
    fn list(&mut self) -> Result<Vec<CheckpointFile>, DiskError> {
        Ok(Vec::new())
    }

    fn read(&mut self, _: CheckpointFile, _: u64, _: &mut AlignedBuffer) -> Result<(), DiskError> {
        Err(DiskError::Failed("there is no such file".into()))
    }
}
