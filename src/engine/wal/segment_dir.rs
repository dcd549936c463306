//! The door through which recovery sees the log's directory: blocking, used before a store serves.

use super::AlignedBuffer;
use crate::engine::input::DiskError;
use crate::ids::SegmentEpoch;

/// A regular file of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// A directory of log segments. Its twin in memory is the simulator's disk.
pub trait SegmentDir {
    /// The regular files, sorted by name.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError>;

    /// Fills `into` with a segment's bytes from `offset` on, past the page cache. Offset and length are multiples of the block.
    ///
    /// # Errors
    /// The bytes cannot be read, or the file ends before them.
    fn read(&mut self, epoch: SegmentEpoch, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError>;

    /// Makes the first `bytes` of a segment durable as they were read: a sync, and where reads cannot bypass the page
    /// cache, a rewrite of those bytes before it.
    ///
    /// # Errors
    /// They cannot be made durable; the store must not serve.
    fn harden(&mut self, epoch: SegmentEpoch, bytes: u64) -> Result<(), DiskError>;

    /// Removes a file.
    ///
    /// # Errors
    /// It cannot be removed.
    fn remove(&mut self, name: &str) -> Result<(), DiskError>;

    /// Makes removals durable.
    ///
    /// # Errors
    /// The directory cannot be synced.
    fn sync_dir(&mut self) -> Result<(), DiskError>;
}
