//! Distinct types for every number that names something, so that a term can never be passed for an index.
//!
//! All of them are plain integers on the wire and on disk (little-endian, the width given here).

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A cluster, named once at its creation by 128 random bits.
    ClusterId(u128)
}
id! {
    /// A node: one server process and its data directory. Never reused in a cluster.
    NodeId(u64)
}
id! {
    /// A store: what one CPU core of a node owns, numbered from 0 within its node.
    StoreId(u16)
}
id! {
    /// A shard and its Raft group. Number 0 is the meta shard, which counts nothing.
    ShardId(u32)
}
id! {
    /// One shard's copy in one store. Minted by configuration, never reused in its group.
    ReplicaId(u64)
}
id! {
    /// A Raft term. 0 is before the first election.
    Term(u64)
}
id! {
    /// A position in one shard's Raft log. The first entry has index 1; 0 is before it.
    Index(u64)
}
id! {
    /// A position in a store's write-ahead log stream, in bytes; it only grows.
    /// A record's LSN is the position just past its last byte.
    Lsn(u64)
}
id! {
    /// The number of a round in which a leader asks whether it still leads; its own count, from 1 on in each term.
    Round(u64)
}
id! {
    /// What a replica's owner calls a read of its own, to know the answer by. Unique while the read waits.
    ReadToken(u64)
}
id! {
    /// The number under which a follower asks its leader for a read index: never used twice, in whatever life of its process.
    ReadNumber(u64)
}
id! {
    /// The number of an append that a leader sends to one peer, from 1 on in each term.
    AppendNumber(u64)
}
id! {
    /// The number of a log segment, unique in its store, only ever growing. 0 is "none".
    SegmentEpoch(u64)
}
id! {
    /// The number of a checkpoint, unique in its store, only ever growing. 0 is "none".
    CheckpointNumber(u64)
}
id! {
    /// A client session: an identity under which requests are counted once. Minted by the meta shard, growing for ever,
    /// never reused. 0 is "no session": such requests are not deduplicated.
    SessionId(u64)
}
id! {
    /// The number of a request within its session, from 1 on. 0 is "none".
    Sequence(u64)
}
id! {
    /// Which opening of a named session: a later one fences those before it. Sessions without a name stay at 1.
    SessionEpoch(u32)
}
id! {
    /// 128 bits that only the opener of a session knows, so that nobody takes another's.
    SessionToken(u128)
}
id! {
    /// Which version of its range a shard has; every entry carries it. The first is 1.
    ShardEpoch(u64)
}
id! {
    /// XXH3-64 of a key under the cluster's routing seed. Decides shard, page and bucket.
    KeyHash(u64)
}
id! {
    /// Microseconds of a monotonic clock with an arbitrary origin, handed in by the shell.
    Micros(u64)
}

impl ShardId {
    /// Group 0: the cluster map, the node list, the session ids.
    pub const META: ShardId = ShardId(0);
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl Index {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }
}

impl Sequence {
    /// The sequence after this one.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}

impl SessionId {
    /// No session.
    pub const NONE: SessionId = SessionId(0);
}

impl CheckpointNumber {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> CheckpointNumber {
        CheckpointNumber(self.0 + 1)
    }
}

impl Round {
    /// The round after this one.
    #[must_use]
    pub fn next(self) -> Round {
        Round(self.0 + 1)
    }
}

impl ReadNumber {
    /// The number after this one; it begins anywhere.
    #[must_use]
    pub fn next(self) -> ReadNumber {
        ReadNumber(self.0.wrapping_add(1))
    }
}

impl AppendNumber {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> AppendNumber {
        AppendNumber(self.0 + 1)
    }
}

impl ReplicaId {
    /// Nobody.
    pub const NONE: ReplicaId = ReplicaId(0);

    /// The id after this one.
    #[must_use]
    pub fn next(self) -> ReplicaId {
        ReplicaId(self.0 + 1)
    }
}

impl SegmentEpoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> SegmentEpoch {
        SegmentEpoch(self.0 + 1)
    }
}

impl Micros {
    /// This moment plus a number of microseconds, saturating.
    #[must_use]
    pub fn plus(self, micros: u64) -> Micros {
        Micros(self.0.saturating_add(micros))
    }
}

impl KeyHash {
    /// Hashes a key for routing and for the table: XXH3-64 with the cluster's seed.
    #[inline]
    #[must_use]
    pub fn of(routing_seed: u64, key: &[u8]) -> KeyHash {
        KeyHash(xxhash_rust::xxh3::xxh3_64_with_seed(key, routing_seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The routing hash is part of the disk format: these values may never change.
    #[test]
    fn routing_hash_is_pinned() {
        assert_eq!(KeyHash::of(0, b"").0, 0x2d06_8005_38d3_94c2);
        assert_eq!(KeyHash::of(0, b"a").0, 0xe6c6_32b6_1e96_4e1f);
        assert_eq!(KeyHash::of(7, b"the quick brown fox"), KeyHash::of(7, b"the quick brown fox"));
        assert_ne!(KeyHash::of(7, b"a"), KeyHash::of(8, b"a"));
    }
}
