//! The client protocol: typed requests and replies over the flatbuffers of `schema/client.fbs`.
//!
//! Batches are columns. A request of 16,384 increments is one table with three vectors, so that reading it costs a
//! handful of bounds checks and then runs over plain slices: the keys' bytes, where each key ends, the deltas.
//! Requests are read in place, borrowed from the frame ([`decode_request`]); replies are owned by both sides, because
//! a server gathers them from several shards and a client keeps them ([`decode_reply`]). [`Encoder`] writes both.
//!
//! Nothing a stranger sends is used before it is verified, in two layers. The flatbuffer verifier proves that every
//! offset stays inside the payload, under options as tight as the message allows. The checks here prove the rest:
//! columns of equal length, keys that are neither empty nor too long and together cover exactly their bytes, counts
//! within [`crate::limits`]. The types that come out cannot be in any other state, and their iterators need no
//! further checks.
//!
//! Enum values from a newer version pass the verifier; each place that reads one has a default.

mod encode;
mod reply;
#[cfg(test)]
mod tests;

pub use crate::engine::cluster::{ShardRange, StoreAddress};
pub use crate::engine::sessions::{Credentials, Opened};
pub use encode::Encoder;
pub use reply::{
    AttachReply, GetReply, IncrementReply, Part, Reply, Resolution, ResolveReply, ResolvedPart, ScanReply, Status,
    TopKReply, Welcome, decode_reply,
};

use crate::error::ErrorCode;
use crate::ids::{ClusterId, Index, Sequence, SessionEpoch, SessionId, SessionToken, ShardId};
use crate::limits::{
    BATCH_KEYS_MAX, CLIENT_NAME_BYTES_MAX, FLATBUFFER_TABLE_OVERHEAD_BYTES, KEY_BYTES_MAX, REQUEST_BYTES_MAX,
    SESSION_NAME_BYTES_MAX, SESSION_SPAN_MAX, TOP_KEYS_MAX,
};
use crate::wire::frame::Kind;
use crate::wire::generated::client::dkc::wire as fb;
use flatbuffers::{Follow, Vector, Verifiable, VerifierOptions, root_with_opts};
use thiserror::Error;

/// The version of the client protocol this side speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// What is wrong with a payload. For a server: what it answers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct RequestError {
    /// `Malformed`, `TooLarge` or `Unsupported`.
    pub code: ErrorCode,
    /// One line for people.
    pub text: String,
}

impl RequestError {
    fn malformed(text: impl Into<String>) -> RequestError {
        RequestError { code: ErrorCode::Malformed, text: text.into() }
    }

    fn too_large(what: &str, value: usize, value_max: usize) -> RequestError {
        let text = format!("{what}: {value}, the limit is {value_max}");
        RequestError { code: ErrorCode::TooLarge, text }
    }
}

/// A column of keys, borrowed from a payload and checked once: each key has 1 to [`KEY_BYTES_MAX`] bytes, and
/// together they are exactly `bytes`.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    bytes: &'a [u8],
    /// Where each key ends in `bytes`, little-endian.
    ends: &'a [[u8; 4]],
}

impl<'a> Keys<'a> {
    fn new(bytes: &'a [u8], ends: &'a [[u8; 4]], count_max: usize) -> Result<Keys<'a>, RequestError> {
        if ends.len() > count_max {
            return Err(RequestError::too_large("keys of a batch", ends.len(), count_max));
        }
        // One pass without branches. Lengths of at most KEY_BYTES_MAX that start at 0 cannot wrap around a u32
        // within a batch, so valid lengths and a valid last end imply that every end is in bounds.
        let mut start = 0;
        let mut valid = true;
        for &end in ends {
            let end = u32::from_le_bytes(end);
            valid &= end.wrapping_sub(start).wrapping_sub(1) < KEY_BYTES_MAX as u32;
            start = end;
        }
        if !valid {
            return Err(invalid_key(ends));
        }
        if start as usize != bytes.len() {
            return Err(RequestError::malformed("the keys' ends do not cover the keys' bytes"));
        }
        Ok(Keys { bytes, ends })
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no key. Never true in a request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all keys together.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The key at a place of the batch.
    ///
    /// # Panics
    /// If there are not as many keys.
    #[must_use]
    pub fn key(&self, position: usize) -> &'a [u8] {
        let start = if position == 0 { 0 } else { u32::from_le_bytes(self.ends[position - 1]) };
        &self.bytes[start as usize..u32::from_le_bytes(self.ends[position]) as usize]
    }

    /// The keys, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let end = u32::from_le_bytes(end) as usize;
            let key = &bytes[start..end];
            start = end;
            key
        })
    }
}

/// Says which key of a column is wrong, and how.
#[cold]
fn invalid_key(ends: &[[u8; 4]]) -> RequestError {
    let mut start = 0;
    for (position, &end) in ends.iter().enumerate() {
        let end = u32::from_le_bytes(end);
        let text = match end.checked_sub(start) {
            None => return RequestError::malformed(format!("key {position} ends before it starts")),
            Some(0) => format!("key {position} is empty"),
            Some(length) if length as usize > KEY_BYTES_MAX => {
                format!("key {position} has {length} bytes, the limit is {KEY_BYTES_MAX}")
            }
            Some(_) => {
                start = end;
                continue;
            }
        };
        return RequestError { code: ErrorCode::TooLarge, text };
    }
    RequestError::malformed("the keys' ends do not cover the keys' bytes")
}

/// A request, borrowed from its payload.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// The first frame of a client.
    Hello(Hello<'a>),
    /// Add deltas to counts.
    Increment(IncrementRequest<'a>),
    /// Read counts.
    Get(GetRequest<'a>),
    /// Read the highest counts.
    TopK {
        /// How many, from 1 to [`TOP_KEYS_MAX`].
        k: u32,
    },
    /// Ask what the server is doing.
    Status,
    /// Open a session.
    OpenSession {
        /// Of 1 to [`SESSION_NAME_BYTES_MAX`] bytes; `None`: a session without a name.
        name: Option<&'a [u8]>,
    },
    /// Make every shard refuse former holders of a named session.
    AttachSession(Credentials),
    /// Leave a named session.
    CloseSession {
        /// The session.
        credentials: Credentials,
        /// Every request up to this one is settled, and none after it was sent.
        progress: Sequence,
    },
    /// Ask what became of a request.
    Resolve {
        /// The request.
        stamp: Stamp,
        /// Its keys; `None`: ask every shard.
        keys: Option<Keys<'a>>,
    },
    /// Read all counters of a shard, piece by piece.
    Scan(ScanRequest),
}

/// Names a piece of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// The shard.
    pub shard: ShardId,
    /// The scan: a number that its client has drawn.
    pub scan: u64,
    /// The piece, from 0 on.
    pub piece: u64,
    /// The index of the pieces so far; of no meaning with piece 0.
    pub applied_index: Index,
}

/// Names one request of a session. Sequences are at least 1, low-water marks less than they, by [`SESSION_SPAN_MAX`] at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The session, and the right to speak for it.
    pub credentials: Credentials,
    /// The request's number.
    pub sequence: Sequence,
    /// Every request up to this number was answered.
    pub low_water: Sequence,
}

/// The first frame of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Lowest protocol version the client speaks.
    pub protocol_min: u16,
    /// Highest protocol version the client speaks.
    pub protocol_max: u16,
    /// The cluster the client means; `None` for any.
    pub cluster_id: Option<ClusterId>,
    /// Free text for the server's log, at most [`CLIENT_NAME_BYTES_MAX`] bytes.
    pub client_name: &'a str,
}

/// Increments, in the client's order.
#[derive(Clone, Copy, Debug)]
pub struct IncrementRequest<'a> {
    /// One key for each increment; a key may occur more than once.
    pub keys: Keys<'a>,
    /// One for each key, little-endian.
    deltas: &'a [[u8; 8]],
    /// Whether the answer shall carry the new counts.
    pub want_values: bool,
    /// Session and number; without them a request that is sent twice counts twice.
    pub stamp: Option<Stamp>,
    /// Keys, ends and deltas, as they came.
    content: [&'a [u8]; 3],
}

impl<'a> IncrementRequest<'a> {
    /// A digest of keys, deltas and whether values are wanted: equal for copies of one request.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let seed = u64::from(self.want_values);
        self.content.iter().fold(seed, |seed, column| xxhash_rust::xxh3::xxh3_64_with_seed(column, seed))
    }

    /// One delta for each key, of any sign.
    pub fn deltas(&self) -> impl ExactSizeIterator<Item = i64> + use<'a> {
        self.deltas.iter().map(|&delta| i64::from_le_bytes(delta))
    }
}

/// Keys to read.
#[derive(Clone, Copy, Debug)]
pub struct GetRequest<'a> {
    /// The keys, in the client's order.
    pub keys: Keys<'a>,
}

/// Reads the payload of a request frame.
///
/// # Errors
/// What to answer if the kind is not that of a request, or the payload breaks a rule or a limit.
pub fn decode_request(kind: u8, payload: &[u8]) -> Result<Request<'_>, RequestError> {
    if payload.len() > REQUEST_BYTES_MAX {
        return Err(RequestError::too_large("bytes of a request", payload.len(), REQUEST_BYTES_MAX));
    }
    match Kind::from_u8(kind) {
        Some(Kind::Hello) => decode_hello(root(payload, 1)?),
        Some(Kind::Increment) => decode_increment(root(payload, 1)?),
        Some(Kind::Get) => {
            let table: fb::GetRequest<'_> = root(payload, 1)?;
            Ok(Request::Get(GetRequest { keys: request_keys(table.keys(), table.key_ends())? }))
        }
        Some(Kind::Scan) => {
            let table: fb::ScanRequest<'_> = root(payload, 1)?;
            let (shard, applied_index) = (ShardId(table.shard()), Index(table.applied_index()));
            Ok(Request::Scan(ScanRequest { shard, scan: table.scan(), piece: table.piece(), applied_index }))
        }
        Some(Kind::TopK) => {
            let k = root::<fb::TopKRequest<'_>>(payload, 1)?.k();
            match k as usize {
                0 => Err(RequestError::malformed("k is 0")),
                1..=TOP_KEYS_MAX => Ok(Request::TopK { k }),
                k => Err(RequestError::too_large("k of a TopK", k, TOP_KEYS_MAX)),
            }
        }
        Some(Kind::Status) => root::<fb::StatusRequest<'_>>(payload, 1).map(|_| Request::Status),
        Some(Kind::OpenSession) => decode_open(root(payload, 1)?),
        Some(Kind::AttachSession) => {
            let table: fb::AttachSessionRequest<'_> = root(payload, 1)?;
            credentials(table.session(), table.epoch(), table.token_low(), table.token_high())
                .map(Request::AttachSession)
        }
        Some(Kind::CloseSession) => {
            let table: fb::CloseSessionRequest<'_> = root(payload, 1)?;
            let credentials = credentials(table.session(), table.epoch(), table.token_low(), table.token_high())?;
            Ok(Request::CloseSession { credentials, progress: Sequence(table.progress()) })
        }
        Some(Kind::Resolve) => decode_resolve(root(payload, 1)?),
        _ => Err(RequestError {
            code: ErrorCode::Unsupported,
            text: format!("frame kind {kind} is not a request this server knows"),
        }),
    }
}

fn decode_hello(table: fb::Hello<'_>) -> Result<Request<'_>, RequestError> {
    let client_name = table.client_name().unwrap_or_default();
    if client_name.len() > CLIENT_NAME_BYTES_MAX {
        return Err(RequestError::too_large("bytes of the client's name", client_name.len(), CLIENT_NAME_BYTES_MAX));
    }
    let cluster_id = cluster_id(table.cluster_id())?;
    Ok(Request::Hello(Hello {
        protocol_min: table.protocol_min(),
        protocol_max: table.protocol_max(),
        cluster_id: (cluster_id != ClusterId(0)).then_some(cluster_id),
        client_name,
    }))
}

fn decode_increment(table: fb::IncrementRequest<'_>) -> Result<Request<'_>, RequestError> {
    let keys = request_keys(table.keys(), table.key_ends())?;
    let deltas = elements(table.deltas());
    if deltas.len() != keys.len() {
        return Err(RequestError::malformed(format!("{} keys, but {} deltas", keys.len(), deltas.len())));
    }
    let stamp = table.stamp().map(stamp).transpose()?;
    let content = [keys.bytes, keys.ends.as_flattened(), deltas.as_flattened()];
    Ok(Request::Increment(IncrementRequest { keys, deltas, want_values: table.want_values(), stamp, content }))
}

fn decode_open(table: fb::OpenSessionRequest<'_>) -> Result<Request<'_>, RequestError> {
    let name = table.name().map(|name| name.bytes()).filter(|name| !name.is_empty());
    match name {
        Some(name) if name.len() > SESSION_NAME_BYTES_MAX => {
            Err(RequestError::too_large("bytes of a session's name", name.len(), SESSION_NAME_BYTES_MAX))
        }
        name => Ok(Request::OpenSession { name }),
    }
}

fn decode_resolve(table: fb::ResolveRequest<'_>) -> Result<Request<'_>, RequestError> {
    let stamp = stamp(table.stamp())?;
    let keys = match (table.keys(), table.key_ends()) {
        (None, None) => None,
        (Some(bytes), Some(ends)) => Some(request_keys(bytes, ends)?),
        _ => return Err(RequestError::malformed("keys without their ends, or ends without keys")),
    };
    Ok(Request::Resolve { stamp, keys })
}

fn credentials(session: u64, epoch: u32, low: u64, high: u64) -> Result<Credentials, RequestError> {
    if session == 0 {
        return Err(RequestError::malformed("session 0 is no session"));
    }
    let token = SessionToken(u128::from(high) << 64 | u128::from(low));
    Ok(Credentials { session: SessionId(session), epoch: SessionEpoch(epoch), token })
}

fn stamp(stamp: &fb::SessionStamp) -> Result<Stamp, RequestError> {
    let credentials = credentials(stamp.session(), stamp.epoch(), stamp.token_low(), stamp.token_high())?;
    let (sequence, low_water) = (stamp.sequence(), stamp.low_water());
    match sequence.checked_sub(low_water) {
        None | Some(0) => {
            Err(RequestError::malformed(format!("sequence {sequence} is not above the low-water mark {low_water}")))
        }
        Some(span) if span > SESSION_SPAN_MAX => Err(RequestError::too_large(
            "requests between a sequence and its low-water mark",
            span as usize,
            SESSION_SPAN_MAX as usize,
        )),
        Some(_) => Ok(Stamp { credentials, sequence: Sequence(sequence), low_water: Sequence(low_water) }),
    }
}

fn request_keys<'a>(bytes: Vector<'a, u8>, ends: Vector<'a, u32>) -> Result<Keys<'a>, RequestError> {
    let keys = Keys::new(bytes.bytes(), elements(ends), BATCH_KEYS_MAX)?;
    if keys.is_empty() {
        return Err(RequestError::malformed("a batch without keys"));
    }
    Ok(keys)
}

/// Verifies a payload whose root is a `T`, with at most `tables_max` tables.
fn root<'a, T: Follow<'a, Inner = T> + Verifiable + 'a>(
    payload: &'a [u8],
    tables_max: usize,
) -> Result<T, RequestError> {
    let options = VerifierOptions {
        max_depth: tables_max.min(crate::limits::FLATBUFFER_DEPTH_MAX),
        max_tables: tables_max,
        max_apparent_size: payload.len() + tables_max * FLATBUFFER_TABLE_OVERHEAD_BYTES,
        ignore_missing_null_terminator: false,
    };
    root_with_opts::<T>(&options, payload).map_err(|error| {
        let text = error.to_string();
        RequestError::malformed(format!("not a valid flatbuffer: {}", text.lines().next().unwrap_or_default()))
    })
}

/// A vector of scalars as it lies in the payload: little-endian elements of `N` bytes, unaligned.
fn elements<'a, T: 'a, const N: usize>(vector: Vector<'a, T>) -> &'a [[u8; N]] {
    vector.bytes().as_chunks().0
}

/// An absent id is that of no cluster.
fn cluster_id(vector: Option<Vector<'_, u8>>) -> Result<ClusterId, RequestError> {
    match vector {
        None => Ok(ClusterId(0)),
        Some(vector) => {
            let bytes = vector.bytes();
            let bytes = <[u8; 16]>::try_from(bytes)
                .map_err(|_| RequestError::malformed(format!("a cluster id of {} bytes instead of 16", bytes.len())))?;
            Ok(ClusterId(u128::from_le_bytes(bytes)))
        }
    }
}
