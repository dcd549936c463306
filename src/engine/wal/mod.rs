//! The write-ahead log of a store: one append-only stream, shared by all its shards. Bytes only; the shell does the I/O.
//!
//! ```text
//! stream    records, each at an LSN, chained by checksums                    record
//! writes    a group commit: as many records as gathered, one sync            writer
//! sectors   512 bytes on disk, each stamped with its place                   sector
//! segments  files of fixed size, zeroed and synced before use, each with a   segment
//!           header that fixes the end of the one before
//! recovery  what a reader may believe after a crash: a table of cases        recovery
//! a look    the same without a store, for tools                              inspection
//! ```
//!
//! What the log promises its store: when [`Wal::durable`] has passed a record's LSN, that record and all before it are found
//! again after any crash; if the bytes on disk cannot show that, recovery refuses by name instead of guessing.
//!
//! Why each start opens a fresh segment: a write that was under way when the process died may still land. The
//! fresh segment's header fixes where the old one ends, so late bytes are never read.
//!
//! Why durability is a position and never (index, term): a position only grows, so a late completion can
//! never be mistaken for the completion of something else.

mod disk_op;
pub mod inspection;
pub mod record;
pub mod recovery;
pub mod sector;
pub mod segment;
mod segment_dir;
mod writer;

#[cfg(test)]
pub(super) mod memory_dir;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod writer_tests;

pub use disk_op::{
    AlignedBuffer, DiskAction, DiskOp, DiskOpId, parse_segment_file_name, segment_file_name, unfinished_file_name,
};
pub use record::Record;
pub use recovery::{Place, Recovered, RecoveryError, Survey, recover};
pub use segment::{GroupState, WAL_FORMAT};
pub use segment_dir::{FileInfo, SegmentDir};
pub use writer::{UsedSegment, Wal};

use crate::ids::{ClusterId, NodeId, StoreId};
use crate::limits::{WAL_BLOCK_BYTES, WAL_WRITE_BYTES_MAX};

/// Whose log it is. Every record is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The store.
    pub store: StoreId,
}

/// Sizes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// Bytes of a segment file; a multiple of the block.
    pub segment_bytes: u64,
    /// Bytes of one write, at most; a multiple of the block, at most an eighth of a segment.
    pub write_bytes_max: usize,
}

impl WalConfig {
    /// The sizes of a server with segments of `segment_bytes`.
    #[must_use]
    pub fn with_segments_of(segment_bytes: u64) -> WalConfig {
        WalConfig { segment_bytes, write_bytes_max: WAL_WRITE_BYTES_MAX }
    }

    fn check(self) {
        let block = WAL_BLOCK_BYTES as u64;
        assert!(self.segment_bytes.is_multiple_of(block), "a segment is whole blocks");
        assert!(self.write_bytes_max.is_multiple_of(WAL_BLOCK_BYTES), "a write is whole blocks");
        assert!(8 * self.write_bytes_max as u64 <= self.segment_bytes, "a segment holds at least eight writes");
    }
}
