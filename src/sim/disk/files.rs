//! The files of checkpoints on a simulated disk: writes that are not synced, room that is not there, and the door by which they are read.

use super::names::FileId;
use super::{Landing, SimDisk};
use crate::engine::checkpoint::{CheckpointDir, CheckpointFile, FileAction, RESERVE_FILE_NAME, StoreDir};
use crate::engine::input::DiskError;
use crate::engine::wal::{AlignedBuffer, SegmentDir};
use crate::limits::WAL_SECTOR_BYTES;
use crate::sim::sabotage::Sabotage;

impl SimDisk {
    /// What of a file operation lands by itself, sector by sector, from now on. The file grows at once, if there is room.
    pub(super) fn begin_landing(&mut self, action: &FileAction) -> Option<Landing> {
        let FileAction::Write { file, offset, buffer } = action else { return None };
        let id = self.checkpoints.file(&file.name()).expect("checkpoints are written to files that were created");
        if !self.grow(id, *offset as usize + buffer.len()) {
            return None;
        }
        let sectors = (0..buffer.len() / WAL_SECTOR_BYTES).collect();
        Some(Landing { file: id, offset: *offset as usize, bytes: buffer.to_vec(), sectors })
    }

    /// Ends a file operation.
    pub(super) fn perform_file(
        &mut self,
        action: FileAction,
        landing: Option<Landing>,
    ) -> (Result<(), DiskError>, Option<AlignedBuffer>) {
        let done = match action {
            FileAction::Write { buffer, .. } => {
                let result = match landing {
                    Some(landing) => {
                        self.land(&landing);
                        Ok(())
                    }
                    None => Err(DiskError::Full),
                };
                return (result, Some(buffer));
            }
            FileAction::Reserve { bytes } => self.reserve(bytes),
            FileAction::Create { file, from_reserve } => {
                self.create(&file.name(), from_reserve);
                true
            }
            FileAction::Sync { file } => {
                let id = self.checkpoints.file(&file.name()).expect("what is synced was created");
                if self.sabotage != Sabotage::CheckpointSyncLies {
                    self.persist(id, |_| true);
                }
                true
            }
            FileAction::SyncDirectory => {
                if self.sabotage != Sabotage::CheckpointDirectorySyncLies {
                    self.checkpoints.sync();
                }
                true
            }
            FileAction::Retire { file } => {
                let retired = self.checkpoints.rename(&file.name(), RESERVE_FILE_NAME);
                assert!(retired.is_some(), "what is retired exists");
                true
            }
            FileAction::Remove { file } => {
                self.checkpoints.unlink(&file.name());
                true
            }
        };
        (if done { Ok(()) } else { Err(DiskError::Full) }, None)
    }

    fn reserve(&mut self, bytes: u64) -> bool {
        let id = self.checkpoints.file(RESERVE_FILE_NAME).unwrap_or_else(|| self.new_file(RESERVE_FILE_NAME));
        self.grow(id, bytes as usize)
    }

    fn create(&mut self, name: &str, from_reserve: bool) {
        self.checkpoints.unlink(name);
        if !from_reserve || self.checkpoints.rename(RESERVE_FILE_NAME, name).is_none() {
            self.new_file(name);
        }
    }

    fn new_file(&mut self, name: &str) -> FileId {
        self.next_file += 1;
        self.checkpoints.link(name.to_string(), self.next_file);
        self.files.insert(self.next_file, super::File::default());
        self.next_file
    }

    /// Makes a file at least so long. False if there is no room.
    fn grow(&mut self, id: FileId, bytes: usize) -> bool {
        let file = self.files.get_mut(&id).expect("a named file exists");
        if file.live.len() >= bytes {
            return true;
        }
        if self.full {
            return false;
        }
        file.dirty.extend(file.live.len() / WAL_SECTOR_BYTES..bytes / WAL_SECTOR_BYTES);
        file.live.resize(bytes, 0);
        true
    }
}

impl StoreDir for SimDisk {
    fn log(&mut self) -> &mut dyn SegmentDir {
        self
    }

    fn checkpoints(&mut self) -> &mut dyn CheckpointDir {
        self
    }
}

impl CheckpointDir for SimDisk {
    fn list(&mut self) -> Result<Vec<CheckpointFile>, DiskError> {
        self.call()?;
        Ok(self.checkpoints.iter().filter_map(|(name, _)| CheckpointFile::parse(name)).collect())
    }

    fn read(&mut self, file: CheckpointFile, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        self.call()?;
        let found = self.checkpoints.file(&file.name()).and_then(|id| self.files.get(&id));
        match found.and_then(|found| found.live.get(offset as usize..offset as usize + into.len())) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => return Err(DiskError::Failed("no such bytes".into())),
        }
        Ok(())
    }
}
