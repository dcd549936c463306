//! What a store is told.

use super::checkpoint::FileDone;
use super::part::PartRequest;
use super::wal::{AlignedBuffer, DiskOpId};
use crate::ids::SessionId;

/// One event. Time comes beside it, as an argument of `step`.
#[derive(Debug)]
pub enum Input {
    /// Time has passed: the deadline asked for by the last output, or any other moment.
    Tick,
    /// Reads that may take long, and were put off for the sake of everybody else, go on by a bounded piece.
    Turn,
    /// The effects of the turn are on their way: there is time for a bounded piece of work that nobody waits for.
    Spare,
    /// A gateway asks something of a shard of this store.
    Part(PartRequest),
    /// A disk operation of an earlier output has ended.
    Disk(DiskDone),
    /// An operation on the files of checkpoints has ended.
    Checkpoint(FileDone),
    /// The meta shard has expired sessions up to this one. It may come late, twice, or not at all: a later one makes up for it.
    SessionMark(SessionId),
    /// No further increments are to be accepted; what was accepted is finished.
    Drain,
}

/// The end of a disk operation.
#[derive(Debug)]
pub struct DiskDone {
    /// Which operation.
    pub id: DiskOpId,
    /// How it ended. A log write counts as done only if all its bytes were written *and* the sync succeeded (W5).
    pub result: Result<(), DiskError>,
    /// The buffer of a log write, handed back for reuse.
    pub buffer: Option<AlignedBuffer>,
}

/// Why a disk operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No space is left, neither blocks nor quota (ENOSPC, EDQUOT).
    Full,
    /// Anything else; the text is for people.
    Failed(String),
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiskError::Full => f.write_str("no space left on the device"),
            DiskError::Failed(text) => f.write_str(text),
        }
    }
}
