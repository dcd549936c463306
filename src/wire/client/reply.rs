//! Replies: owned values, filled by a server or read by a client.

use super::{Keys, Opened, RequestError, cluster_id, credentials, elements, fb, root};
use crate::engine::cluster::{ShardRange, StoreAddress};
use crate::engine::part::PackedKeys;
use crate::engine::status::{CheckpointStatus, ShardStatus, StoreStatus};
use crate::error::ErrorCode;
use crate::ids::{ClusterId, Index, KeyHash, NodeId, Sequence, SessionId, ShardId, StoreId, Term};
use crate::limits::{
    BATCH_KEYS_MAX, ERROR_TEXT_BYTES_MAX, FLATBUFFER_TABLES_MAX, REPLY_BYTES_MAX, SCAN_PIECE_KEYS_MAX, SHARDS_MAX,
    STORES_MAX, TOP_KEYS_MAX,
};
use crate::wire::frame::Kind;
use flatbuffers::Vector;

/// A reply of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Answers `Hello`.
    Welcome(Welcome),
    /// Answers `Increment`.
    Increment(IncrementReply),
    /// Answers `Get`.
    Get(GetReply),
    /// Answers `TopK`.
    TopK(TopKReply),
    /// Answers `Status`.
    Status(Status),
    /// Answers `OpenSession`.
    OpenSession(Opened),
    /// Answers `AttachSession`.
    AttachSession(AttachReply),
    /// Answers `CloseSession`.
    CloseSession,
    /// Answers `Resolve`.
    Resolve(ResolveReply),
    /// Answers `Scan`.
    Scan(ScanReply),
    /// The request was refused as a whole.
    Error {
        /// Why. A code this version does not know becomes `Unknown`: it may mean that something was applied.
        code: ErrorCode,
        /// What happened, where, and what to do.
        text: String,
    },
}

/// One shard's share of an answer, and the point of that shard's log the share belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The shard.
    pub shard: ShardId,
    /// How many keys of the answer are its own.
    pub keys: u32,
    /// Index of the entry that was applied, or that was the last one applied when the counts were read.
    /// 0 if the part was refused as a whole.
    pub applied_index: Index,
    /// Increments: place of the part's first increment in that entry; the others follow it. Reads: 0.
    pub first_position: u32,
}

/// Answers a batch of increments. Each was decided by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncrementReply {
    /// One for each shard touched. Their keys add up to those of the request.
    pub parts: Vec<Part>,
    /// Places in the request of the keys, part after part, ascending within a part. Empty if there is one part.
    pub order: Vec<u32>,
    /// The number of an [`ErrorCode`] for each increment, in the order of the request. Empty if all are `Ok`.
    pub outcomes: Vec<u8>,
    /// New counts in the order of the request, 0 where refused. Empty if they were not asked for.
    pub values: Vec<i64>,
}

impl IncrementReply {
    /// What became of the increment at a place of the request. A code this version does not know becomes `Unknown`:
    /// it may mean that something was applied.
    #[must_use]
    pub fn outcome(&self, position: usize) -> ErrorCode {
        match self.outcomes.get(position) {
            Some(&number) => ErrorCode::from_u8(number).unwrap_or(ErrorCode::Unknown),
            None => ErrorCode::Ok,
        }
    }

    /// Number of increments that were answered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.keys as usize).sum()
    }

    /// Whether no increment was answered. Never true in an answer to a request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Answers a batch of keys to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetReply {
    /// As in [`IncrementReply`].
    pub parts: Vec<Part>,
    /// As in [`IncrementReply`].
    pub order: Vec<u32>,
    /// One for each key, in the order of the request; 0 if the key does not exist.
    pub counts: Vec<i64>,
    /// One for each key: 1 if it exists, else 0.
    pub found: Vec<u8>,
}

impl GetReply {
    /// The counts; `None` for a key that does not exist.
    #[must_use]
    pub fn to_vec(&self) -> Vec<Option<i64>> {
        self.counts.iter().zip(&self.found).map(|(&count, &found)| (found == 1).then_some(count)).collect()
    }
}

/// The highest counts, highest first, equal counts in ascending byte order of the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopKReply {
    /// The point at which each shard was read, and how many of the keys are its own.
    pub parts: Vec<Part>,
    /// The keys.
    pub keys: PackedKeys,
    /// One for each key.
    pub counts: Vec<i64>,
}

/// Answers the attachment to a named session: former holders are refused from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachReply {
    /// The entry that says so in each shard.
    pub parts: Vec<Part>,
    /// Every request up to this one was answered to a former holder.
    pub floor: Sequence,
    /// The highest number that any shard has decided; nothing of a former holder will be from now on.
    pub reached: Sequence,
}

/// What became of a request in one shard. The numbers are those of `schema/client.fbs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Resolution {
    /// It was applied.
    Applied = 0,
    /// It was not applied, and never will be.
    Fenced = 1,
    /// It is at or under the floor: the client has had the answer.
    #[default]
    Forgotten = 2,
}

/// One shard's word on a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolvedPart {
    /// The shard.
    pub shard: ShardId,
    /// What became of the request there.
    pub resolution: Resolution,
    /// Where it was applied, or fenced. 0 if that is forgotten.
    pub applied_index: Index,
    /// If applied: place of its first increment in the entry.
    pub first_position: u32,
    /// If applied: how many increments.
    pub increments: u32,
    /// How many of them were refused for overflow.
    pub overflowed: u32,
}

/// Answers `Resolve`. Nothing more becomes of the request in any of these shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolveReply {
    /// One for each shard asked.
    pub parts: Vec<ResolvedPart>,
}

/// A server's first frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version chosen for this connection.
    pub protocol: u16,
    /// The server's release, as text.
    pub server_version: String,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node that answers.
    pub node: NodeId,
    /// Seed of [`KeyHash::of`], for clients that route by themselves.
    pub routing_seed: u64,
    /// Grows with each change of the map.
    pub map_epoch: u64,
    /// Where the stores can be reached.
    pub stores: Vec<StoreAddress>,
    /// The shards, by the start of their ranges.
    pub shards: Vec<ShardRange>,
}

/// A piece of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanReply {
    /// The shard.
    pub shard: ShardId,
    /// The index at which the scan began.
    pub applied_index: Index,
    /// Keys of the shard at that index.
    pub keys_total: u64,
    /// Whether this is the last piece.
    pub last: bool,
    /// Keys, in no order that means anything.
    pub keys: PackedKeys,
    /// Their counts.
    pub counts: Vec<i64>,
}

/// What a node is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The server's release, as text.
    pub server_version: String,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node that answers.
    pub node: NodeId,
    /// How long it has been running, microseconds.
    pub uptime_micros: u64,
    /// Epoch of its map.
    pub map_epoch: u64,
    /// Its stores.
    pub stores: Vec<StoreStatus>,
}

/// Reads the payload of a reply frame.
///
/// # Errors
/// The kind is not that of a reply this version knows, or the payload breaks a rule or a limit.
pub fn decode_reply(kind: u8, payload: &[u8]) -> Result<Reply, RequestError> {
    if payload.len() > REPLY_BYTES_MAX {
        return Err(RequestError::too_large("bytes of a reply", payload.len(), REPLY_BYTES_MAX));
    }
    match Kind::from_u8(kind) {
        Some(Kind::Welcome) => decode_welcome(root(payload, STORES_MAX + 1)?).map(Reply::Welcome),
        Some(Kind::IncrementReply) => decode_increment(root(payload, 1)?).map(Reply::Increment),
        Some(Kind::GetReply) => decode_get(root(payload, 1)?).map(Reply::Get),
        Some(Kind::TopKReply) => decode_top_k(root(payload, 1)?).map(Reply::TopK),
        Some(Kind::StatusReply) => decode_status(root(payload, FLATBUFFER_TABLES_MAX)?).map(Reply::Status),
        Some(Kind::OpenSessionReply) => decode_opened(root(payload, 1)?),
        Some(Kind::AttachSessionReply) => {
            let table: fb::AttachSessionReply<'_> = root(payload, 1)?;
            let (parts, _) = parts(table.parts(), 0)?;
            Ok(Reply::AttachSession(AttachReply {
                parts,
                floor: Sequence(table.floor()),
                reached: Sequence(table.reached()),
            }))
        }
        Some(Kind::CloseSessionReply) => root::<fb::CloseSessionReply<'_>>(payload, 1).map(|_| Reply::CloseSession),
        Some(Kind::ResolveReply) => decode_resolved(root(payload, 1)?),
        Some(Kind::ScanReply) => decode_scan(root(payload, 1)?).map(Reply::Scan),
        Some(Kind::Error) => decode_error(root(payload, 1)?),
        _ => Err(RequestError {
            code: ErrorCode::Unsupported,
            text: format!("frame kind {kind} is not a reply this client knows"),
        }),
    }
}

fn decode_increment(table: fb::IncrementReply<'_>) -> Result<IncrementReply, RequestError> {
    let (parts, keys) = parts(table.parts(), BATCH_KEYS_MAX)?;
    let reply = IncrementReply {
        order: order(table.order(), &parts, keys)?,
        parts,
        outcomes: table.outcomes().map(|vector| vector.bytes().to_vec()).unwrap_or_default(),
        values: table.values().map(integers).unwrap_or_default(),
    };
    if !reply.outcomes.is_empty() {
        expect_length("outcomes", reply.outcomes.len(), keys)?;
    }
    if !reply.values.is_empty() {
        expect_length("values", reply.values.len(), keys)?;
    }
    Ok(reply)
}

fn decode_get(table: fb::GetReply<'_>) -> Result<GetReply, RequestError> {
    let (parts, keys) = parts(table.parts(), BATCH_KEYS_MAX)?;
    let order = order(table.order(), &parts, keys)?;
    let found = table.found().bytes();
    expect_length("counts", table.counts().len(), keys)?;
    expect_length("found", found.len(), keys)?;
    if found.iter().any(|&byte| byte > 1) {
        return Err(RequestError::malformed("a found flag is neither 0 nor 1"));
    }
    Ok(GetReply { parts, order, counts: integers(table.counts()), found: found.to_vec() })
}

fn decode_top_k(table: fb::TopKReply<'_>) -> Result<TopKReply, RequestError> {
    let (parts, count) = parts(table.parts(), TOP_KEYS_MAX)?;
    let keys = owned_keys(table.keys(), table.key_ends(), TOP_KEYS_MAX)?;
    expect_length("keys", keys.len(), count)?;
    expect_length("counts", table.counts().len(), count)?;
    Ok(TopKReply { parts, keys, counts: integers(table.counts()) })
}

fn owned_keys(bytes: Vector<'_, u8>, ends: Vector<'_, u32>, count_max: usize) -> Result<PackedKeys, RequestError> {
    let keys = Keys::new(bytes.bytes(), elements(ends), count_max)?;
    let ends = keys.ends.iter().map(|&end| u32::from_le_bytes(end)).collect();
    Ok(PackedKeys { bytes: keys.bytes.to_vec(), ends })
}

fn decode_scan(table: fb::ScanReply<'_>) -> Result<ScanReply, RequestError> {
    let keys = owned_keys(table.keys(), table.key_ends(), SCAN_PIECE_KEYS_MAX)?;
    expect_length("counts", table.counts().len(), keys.len())?;
    Ok(ScanReply {
        shard: ShardId(table.shard()),
        applied_index: Index(table.applied_index()),
        keys_total: table.keys_total(),
        last: table.last(),
        keys,
        counts: integers(table.counts()),
    })
}

fn decode_welcome(table: fb::Welcome<'_>) -> Result<Welcome, RequestError> {
    let stores = table.stores().unwrap_or_default().iter().map(|store| StoreAddress {
        node: NodeId(store.node()),
        store: StoreId(store.store()),
        address: store.address().to_owned(),
    });
    let ranges = table.shards().unwrap_or_default();
    if ranges.len() > SHARDS_MAX {
        return Err(RequestError::too_large("shards of a map", ranges.len(), SHARDS_MAX));
    }
    let shards = ranges.iter().map(|range| ShardRange {
        start: KeyHash(range.start()),
        shard: ShardId(range.shard()),
        node: NodeId(range.node()),
        store: StoreId(range.store()),
    });
    let shards: Vec<ShardRange> = shards.collect();
    let covering = shards.first().is_none_or(|first| first.start == KeyHash(0));
    if !covering || !shards.is_sorted_by(|a, b| a.start < b.start) {
        return Err(RequestError::malformed("the shards' ranges do not cover all hashes in ascending order"));
    }
    Ok(Welcome {
        protocol: table.protocol(),
        server_version: table.server_version().unwrap_or_default().to_owned(),
        cluster_id: cluster_id(table.cluster_id())?,
        node: NodeId(table.node()),
        routing_seed: table.routing_seed(),
        map_epoch: table.map_epoch(),
        stores: stores.collect(),
        shards,
    })
}

fn decode_status(table: fb::StatusReply<'_>) -> Result<Status, RequestError> {
    Ok(Status {
        server_version: table.server_version().unwrap_or_default().to_owned(),
        cluster_id: cluster_id(table.cluster_id())?,
        node: NodeId(table.node()),
        uptime_micros: table.uptime_micros(),
        map_epoch: table.map_epoch(),
        stores: table.stores().unwrap_or_default().iter().map(store_status).collect(),
    })
}

fn store_status(table: fb::StoreStatus<'_>) -> StoreStatus {
    StoreStatus {
        store: StoreId(table.store()),
        segment: table.segment(),
        log_bytes: table.log_bytes(),
        log_durable_bytes: table.log_durable_bytes(),
        segments: table.segments(),
        segment_bytes: table.segment_bytes(),
        disk_full: table.disk_full(),
        direct_io: table.direct_io(),
        connections: table.connections(),
        memory_bytes: table.memory_bytes(),
        memory_bytes_max: table.memory_bytes_max(),
        checkpoints: CheckpointStatus {
            running: table.checkpoint_running().then(|| ShardId(table.checkpoint_shard())),
            running_bytes: table.checkpoint_running_bytes(),
            completed: table.checkpoints_completed(),
            failed: table.checkpoints_failed(),
            last_failure: table.checkpoint_failure().unwrap_or_default().to_owned(),
            reserve_bytes: table.checkpoint_reserve_bytes(),
        },
        shards: table.shards().unwrap_or_default().iter().map(shard_status).collect(),
    }
}

fn shard_status(table: fb::ShardStatus<'_>) -> ShardStatus {
    ShardStatus {
        shard: ShardId(table.shard()),
        role: table.role().unwrap_or_default().to_owned(),
        term: Term(table.term()),
        last_index: Index(table.last_index()),
        commit_index: Index(table.commit_index()),
        applied_index: Index(table.applied_index()),
        range_start: KeyHash(table.range_start()),
        range_end: KeyHash(table.range_end()),
        keys: table.keys(),
        memory_bytes: table.memory_bytes(),
        sessions: table.sessions(),
        session_mark: SessionId(table.session_mark()),
        checkpoint_index: Index(table.checkpoint_index()),
        checkpoint_bytes: table.checkpoint_bytes(),
    }
}

fn decode_opened(table: fb::OpenSessionReply<'_>) -> Result<Reply, RequestError> {
    Ok(Reply::OpenSession(Opened {
        credentials: credentials(table.session(), table.epoch(), table.token_low(), table.token_high())?,
        age_micros_max: table.age_micros_max(),
        progress: Sequence(table.progress()),
        resumed: table.resumed(),
    }))
}

fn decode_resolved(table: fb::ResolveReply<'_>) -> Result<Reply, RequestError> {
    let vector = table.parts();
    if vector.len() > SHARDS_MAX {
        return Err(RequestError::too_large("parts of a reply", vector.len(), SHARDS_MAX));
    }
    let part = |part: &fb::ResolvedPart| {
        let resolution = match part.resolution() {
            0 => Resolution::Applied,
            1 => Resolution::Fenced,
            2 => Resolution::Forgotten,
            other => return Err(RequestError::malformed(format!("a resolution of number {other}"))),
        };
        Ok(ResolvedPart {
            shard: ShardId(part.shard()),
            resolution,
            applied_index: Index(part.applied_index()),
            first_position: part.first_position(),
            increments: part.increments(),
            overflowed: part.overflowed(),
        })
    };
    let parts = vector.iter().map(part).collect::<Result<_, _>>()?;
    Ok(Reply::Resolve(ResolveReply { parts }))
}

fn decode_error(table: fb::ErrorReply<'_>) -> Result<Reply, RequestError> {
    let code = ErrorCode::from_u8(table.code().0).unwrap_or(ErrorCode::Unknown);
    if code == ErrorCode::Ok {
        return Err(RequestError::malformed("an error reply without an error"));
    }
    let text = table.text().unwrap_or_default();
    if text.len() > ERROR_TEXT_BYTES_MAX {
        return Err(RequestError::too_large("bytes of an error's text", text.len(), ERROR_TEXT_BYTES_MAX));
    }
    Ok(Reply::Error { code, text: text.to_owned() })
}

/// The parts, and how many keys they have together.
fn parts(vector: Vector<'_, fb::Part>, keys_max: usize) -> Result<(Vec<Part>, usize), RequestError> {
    if vector.len() > SHARDS_MAX {
        return Err(RequestError::too_large("parts of a reply", vector.len(), SHARDS_MAX));
    }
    let part = |part: &fb::Part| Part {
        shard: ShardId(part.shard()),
        keys: part.keys(),
        applied_index: Index(part.applied_index()),
        first_position: part.first_position(),
    };
    let parts: Vec<Part> = vector.iter().map(part).collect();
    // At most SHARDS_MAX terms of 32 bits: no overflow.
    let keys = parts.iter().map(|part| u64::from(part.keys)).sum::<u64>() as usize;
    if keys > keys_max {
        return Err(RequestError::too_large("keys of a reply", keys, keys_max));
    }
    Ok((parts, keys))
}

/// The order: each place of the request once, ascending within a part; absent if there is one part.
fn order(vector: Option<Vector<'_, u32>>, parts: &[Part], keys: usize) -> Result<Vec<u32>, RequestError> {
    let order: Vec<u32> = match vector {
        Some(vector) => elements(vector).iter().map(|&place| u32::from_le_bytes(place)).collect(),
        None => Vec::new(),
    };
    if order.is_empty() && parts.len() <= 1 {
        return Ok(order);
    }
    expect_length("order", order.len(), keys)?;
    let mut seen = vec![false; keys];
    for &place in &order {
        match seen.get_mut(place as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(RequestError::malformed("the order of a reply is not a permutation")),
        }
    }
    let mut rest = order.as_slice();
    for part in parts {
        let (places, after) = rest.split_at(part.keys as usize);
        if !places.is_sorted() {
            return Err(RequestError::malformed("the order of a reply is not ascending within a part"));
        }
        rest = after;
    }
    Ok(order)
}

fn expect_length(column: &str, length: usize, expected: usize) -> Result<(), RequestError> {
    if length == expected {
        return Ok(());
    }
    Err(RequestError::malformed(format!("a column `{column}` of {length} elements instead of {expected}")))
}

fn integers(vector: Vector<'_, i64>) -> Vec<i64> {
    elements(vector).iter().map(|&integer| i64::from_le_bytes(integer)).collect()
}
