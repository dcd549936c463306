//! What a store reports about itself when a client asks for the status. Plain owned values: a report crosses threads
//! on its way to the gateway that answers.

use crate::ids::{Index, KeyHash, SessionId, ShardId, StoreId, Term};

/// The state of one store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Which store of the node.
    pub store: StoreId,
    /// Number of the log segment being written.
    pub segment: u64,
    /// Bytes appended to the log since the store was created.
    pub log_bytes: u64,
    /// How many of them are durable.
    pub log_durable_bytes: u64,
    /// Segment files on disk, those prepared ahead included.
    pub segments: u32,
    /// Bytes of these files.
    pub segment_bytes: u64,
    /// Whether increments are refused because the disk is full.
    pub disk_full: bool,
    /// Whether log writes bypass the page cache.
    pub direct_io: bool,
    /// Open client connections.
    pub connections: u32,
    /// Bytes of memory that counters use.
    pub memory_bytes: u64,
    /// Bytes of memory that counters may use.
    pub memory_bytes_max: u64,
    /// The store's checkpoints.
    pub checkpoints: CheckpointStatus,
    /// The shards with a replica in this store.
    pub shards: Vec<ShardStatus>,
}

/// What a store's checkpoints are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStatus {
    /// The shard of which one is being made.
    pub running: Option<ShardId>,
    /// Bytes of it that have been written.
    pub running_bytes: u64,
    /// Checkpoints completed since the server was started.
    pub completed: u64,
    /// Checkpoints given up since the server was started.
    pub failed: u64,
    /// Why the last one was given up, if none has succeeded since; else empty.
    pub last_failure: String,
    /// Bytes kept free for the next one.
    pub reserve_bytes: u64,
}

/// The state of one shard's replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardStatus {
    /// Which shard.
    pub shard: ShardId,
    /// `leader`, `candidate` or `follower`.
    pub role: String,
    /// The current term.
    pub term: Term,
    /// Index of the last entry in the log.
    pub last_index: Index,
    /// Index of the last entry known to be committed.
    pub commit_index: Index,
    /// Index of the last entry applied to the counters.
    pub applied_index: Index,
    /// First hash of the shard's range.
    pub range_start: KeyHash,
    /// Last hash of the shard's range.
    pub range_end: KeyHash,
    /// Keys that exist.
    pub keys: u64,
    /// Bytes of memory that its counters and sessions use.
    pub memory_bytes: u64,
    /// Sessions that it keeps outcomes or a floor of.
    pub sessions: u64,
    /// Sessions up to this one have expired here.
    pub session_mark: SessionId,
    /// Where the log is read from if the server is started now: the index of the newest checkpoint, 0 if there is none.
    pub checkpoint_index: Index,
    /// Bytes of the newest checkpoint.
    pub checkpoint_bytes: u64,
}
