//! What recovery needs of the directory that holds a store's log: a narrow door, with a twin in memory for tests.
//!
//! Everything here happens before the store serves, so it may block. Nothing here decides anything: which file is
//! good, cut or removed is the business of recovery.

use super::AlignedBuffer;
use crate::engine::input::DiskError;
use crate::ids::SegmentEpoch;

/// A regular file in the log's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name within the directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// The directory of one store's log, read at start.
pub trait SegmentDir {
    /// The regular files, sorted by name.
    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError>;

    /// Fills the whole buffer from `offset` of a published segment, past the page cache. Offset and length are
    /// multiples of the block; bytes beyond the end of the file are an error.
    fn read(&mut self, epoch: SegmentEpoch, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError>;

    /// Makes the first `bytes` of a published segment durable, exactly as they were read (W1).
    fn harden(&mut self, epoch: SegmentEpoch, bytes: u64) -> Result<(), DiskError>;

    /// Removes a file.
    fn remove(&mut self, name: &str) -> Result<(), DiskError>;

    /// Makes the removal and creation of files durable.
    fn sync_dir(&mut self) -> Result<(), DiskError>;
}
