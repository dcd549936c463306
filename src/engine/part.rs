//! Parts: what a gateway asks of one shard, and what the shard answers.
//!
//! A client's request is split by the gateway of the store that received it; each part travels to the store that
//! owns the shard (by memory within a node) and comes back with the ticket it was sent with. Parts own their bytes,
//! so they may cross threads.

use super::sessions::Stamp;
use super::sessions::registry::Registered;
use super::sessions::window::{Attachment, Fate};
use super::status::StoreStatus;
use crate::error::ErrorCode;
use crate::ids::{Index, Sequence, SessionEpoch, SessionId, ShardId, StoreId};
use crate::wire::client::{ScanReply, ScanRequest};

/// Where an answer belongs: the gateway of `origin`, its pending request in `slot`, the request's `part`.
/// `generation` tells a reused slot from the request that had it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The store whose gateway waits.
    pub origin: StoreId,
    /// Place of the request in that gateway.
    pub slot: u32,
    /// Which user of the slot.
    pub generation: u32,
    /// Number of the part within its request.
    pub part: u16,
}

/// Some keys of one part, packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedKeys {
    /// The keys' bytes, one after another.
    pub bytes: Vec<u8>,
    /// Where each key ends in `bytes`.
    pub ends: Vec<u32>,
}

impl PackedKeys {
    /// Adds a key.
    pub fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the keys and of their ends.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(self.ends.as_slice())
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The key at a place.
    ///
    /// # Panics
    /// If there are not as many keys.
    #[must_use]
    pub fn key(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.bytes[start..self.ends[place] as usize]
    }

    /// The keys in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let key = &self.bytes[start..end as usize];
            start = end as usize;
            key
        })
    }
}

/// What is asked of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRequest {
    /// Where the answer goes.
    pub ticket: Ticket,
    /// The shard asked.
    pub shard: ShardId,
    /// What it is asked.
    pub body: PartBody,
}

/// The question of a [`PartRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartBody {
    /// Add deltas to keys, in order.
    Increment {
        /// Number of increments.
        count: u32,
        /// The part in the log's encoding (`engine::command`).
        encoded: Vec<u8>,
        /// Whether the new counts are wanted.
        want_values: bool,
        /// The request's number, if it belongs to a session. It stands in `encoded` too.
        stamp: Option<Stamp>,
    },
    /// Refuse earlier holders of a session from now on.
    Attach {
        /// The session.
        session: SessionId,
        /// Its holder's epoch.
        epoch: SessionEpoch,
    },
    /// Say what became of a request, and let nothing more become of it.
    Resolve(Stamp),
    /// Open a session. Asked of the meta shard.
    OpenSession {
        /// Its name; empty: none.
        name: Vec<u8>,
    },
    /// Close a named session. Asked of the meta shard.
    CloseSession {
        /// The session.
        session: SessionId,
        /// Its holder's epoch.
        epoch: SessionEpoch,
        /// Every request up to this number is settled.
        progress: Sequence,
    },
    /// Read counts.
    Get {
        /// Keys to read.
        keys: PackedKeys,
    },
    /// The shard's `k` highest counts.
    TopK {
        /// How many.
        k: u32,
    },
    /// A piece of a scan.
    Scan(ScanRequest),
    /// The state of the whole store; the shard does not matter.
    Status,
}

/// A shard's answer to a [`PartRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReply {
    /// The ticket of the request.
    pub ticket: Ticket,
    /// The shard that answered.
    pub shard: ShardId,
    /// What it answered.
    pub body: PartAnswer,
}

impl PartReply {
    /// Bytes of keys and counts in it: what it takes to put it together with others and to send it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.body {
            PartAnswer::Incremented { values, .. } => size_of_val(values.as_slice()),
            PartAnswer::Counts { counts, .. } => size_of_val(counts.as_slice()),
            PartAnswer::Top { keys, counts, .. } | PartAnswer::Scanned(ScanReply { keys, counts, .. }) => {
                keys.size_bytes() + size_of_val(counts.as_slice())
            }
            _ => 0,
        }
    }
}

/// The content of a [`PartReply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartAnswer {
    /// The increments were applied, each decided by itself; now, or by an earlier copy of the request.
    Incremented {
        /// Index of the entry that held them.
        index: Index,
        /// Place of the first of them in the entry.
        first_position: u32,
        /// Places (within the part) of the increments that would have overflowed; they changed nothing.
        overflowed: Vec<u32>,
        /// New counts, one for each increment, if wanted; 0 where refused.
        values: Vec<i64>,
    },
    /// Counts, linearizable at `index`.
    Counts {
        /// Applied index the counts were read at.
        index: Index,
        /// One for each key; `None` if the key does not exist.
        counts: Vec<Option<i64>>,
    },
    /// The highest counts, linearizable at `index`.
    Top {
        /// Applied index the counts were read at.
        index: Index,
        /// Keys, highest count first, ties by key.
        keys: PackedKeys,
        /// Their counts.
        counts: Vec<i64>,
        /// Whether the shard has no further keys.
        exhausted: bool,
    },
    /// Earlier holders of the session are refused from now on.
    Attached {
        /// Index of the entry that says so.
        index: Index,
        /// How far they came, as far as this shard knows.
        attachment: Attachment,
    },
    /// The number is settled.
    Resolved(Fate),
    /// The registry's word.
    Registered(Registered),
    /// A piece of a scan.
    Scanned(ScanReply),
    /// The state of the store.
    Status(Box<StoreStatus>),
    /// Nothing was done, and nothing will be, by this copy of the part: it was never proposed, or refused when it was applied.
    Refused {
        /// Why.
        code: ErrorCode,
    },
}
