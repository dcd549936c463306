//! Files of checkpoints: the operations asked of the shell while a store serves, and the door by which one that opens reads them.
//!
//! ```text
//!  checkpoint/0000001f-000000000000002a.checkpoint    shard, number
//!  checkpoint/reserve                                 room for the next one
//! ```
//!
//! The *reserve* is a file whose blocks are allocated and whose content is of no meaning. The next checkpoint takes it over, and the one that it
//! makes superfluous becomes the next reserve. So a checkpoint can be written on a disk that has filled up, and the log behind it freed
//! (rule W6). No write can be under way to the file of a whole checkpoint, whoever made it, for its sync came after them; so
//! unlike segments of the log these are reused across deaths of the process. Files of checkpoints that did not become whole are removed.
//! Not by recovery, though: a record that names one may have been on its way when the process died, and land later. Only when the log
//! has a header that fixes its end is it certain that there is none.

use super::kept::CheckpointFile;
use crate::engine::input::DiskError;
use crate::engine::wal::{AlignedBuffer, SegmentDir};

/// Name of the file that keeps room for the next checkpoint.
pub const RESERVE_FILE_NAME: &str = "reserve";

/// Names an operation on the files of checkpoints, so that its end can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileOpId(pub u64);

/// An operation on the files of checkpoints. A store asks for one at a time.
#[derive(Debug)]
pub struct FileOp {
    /// To be repeated in [`FileDone`].
    pub id: FileOpId,
    /// What to do.
    pub action: FileAction,
}

/// What a [`FileOp`] does.
#[derive(Debug)]
pub enum FileAction {
    /// Give the reserve at least so many bytes of allocated blocks; make it if there is none.
    Reserve {
        /// Bytes.
        bytes: u64,
    },
    /// Begin a file, of which nothing is left that there may have been before.
    Create {
        /// Which.
        file: CheckpointFile,
        /// Whether the reserve becomes it; if there is none it is made all the same.
        from_reserve: bool,
    },
    /// Write into the file that was created last. Not yet durable.
    Write {
        /// Which.
        file: CheckpointFile,
        /// Where; a multiple of the block.
        offset: u64,
        /// What; its length is a multiple of the block.
        buffer: AlignedBuffer,
    },
    /// Sync the file, data and metadata.
    Sync {
        /// Which.
        file: CheckpointFile,
    },
    /// Sync the directory.
    SyncDirectory,
    /// Make a whole checkpoint that is no longer needed the reserve, in place of the one there may be.
    Retire {
        /// Which.
        file: CheckpointFile,
    },
    /// Remove a file, if it exists.
    Remove {
        /// Which.
        file: CheckpointFile,
    },
}

/// The end of a [`FileOp`].
#[derive(Debug)]
pub struct FileDone {
    /// Which operation.
    pub id: FileOpId,
    /// How it ended: never with a part of its work done and no error.
    pub result: Result<(), DiskError>,
    /// The buffer of a write, handed back for reuse.
    pub buffer: Option<AlignedBuffer>,
}

/// How far a store that opens has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Reads a checkpoint: so many bytes of it.
    Loading {
        /// Which.
        file: CheckpointFile,
        /// Bytes read.
        done: u64,
        /// Bytes there are.
        bytes: u64,
    },
    /// Reads the log: so many records of it, and applies the entries among them.
    Replaying {
        /// Records read.
        records: u64,
    },
}

/// The files of a store's checkpoints: blocking, used before the store serves.
pub trait CheckpointDir {
    /// The checkpoints that there are files of. Other names are left out.
    ///
    /// # Errors
    /// The directory cannot be read.
    fn list(&mut self) -> Result<Vec<CheckpointFile>, DiskError>;

    /// Fills `into` with a file's bytes from `offset` on, past the page cache. Offset and length are multiples of the block.
    ///
    /// # Errors
    /// The bytes cannot be read, or the file ends before them.
    fn read(&mut self, file: CheckpointFile, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError>;
}

/// Everything durable of a store.
pub trait StoreDir {
    /// Its log.
    fn log(&mut self) -> &mut dyn SegmentDir;

    /// Its checkpoints.
    fn checkpoints(&mut self) -> &mut dyn CheckpointDir;
}
