//! The meta state machine, group 0: who owns what. It counts nothing.
//!
//! In a cluster of one node it holds the cluster map and nothing else. The map is written once, by the first leader, as an
//! entry of the meta shard's log; a node whose configuration says something else than that entry refuses to serve.
//! For routing the map is a hint: a shard alone decides what it owns.

use crate::ids::{KeyHash, NodeId, ShardId, StoreId};
use crate::limits::SHARDS_MAX;

use super::wal::record::{u32_at, u64_at};

/// The store of each node that holds its replica of the meta shard, if it has one.
pub const META_STORE: StoreId = StoreId(0);

/// Where one store can be reached by clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreAddress {
    /// Its node.
    pub node: NodeId,
    /// The store.
    pub store: StoreId,
    /// host:port
    pub address: String,
}

/// One shard: its range of hashes, and where its leader was last known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardRange {
    /// First hash of the range; it ends before the next shard's start.
    pub start: KeyHash,
    /// The shard.
    pub shard: ShardId,
    /// The leader's node.
    pub node: NodeId,
    /// The leader's store.
    pub store: StoreId,
}

/// Which shard owns which hashes, and where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMap {
    /// Grows with each change.
    pub epoch: u64,
    /// Seed of the routing hash, chosen at the cluster's creation.
    pub routing_seed: u64,
    /// Sorted by start; the first starts at 0, so together they cover every hash exactly once.
    pub shards: Vec<ShardRange>,
}

impl ClusterMap {
    /// A map of `shards` equal ranges on the stores of one node, numbered from 1, taking turns over its stores.
    #[must_use]
    pub fn even(routing_seed: u64, node: NodeId, stores: u16, shards: u32) -> ClusterMap {
        assert!(stores > 0 && shards > 0 && shards as usize <= SHARDS_MAX, "a cluster has stores and shards");
        let shards = (0..shards)
            .map(|number| ShardRange {
                start: KeyHash(((u128::from(number) << 64) / u128::from(shards)) as u64),
                shard: ShardId(number + 1),
                node,
                store: StoreId((number % u32::from(stores)) as u16),
            })
            .collect();
        ClusterMap { epoch: 1, routing_seed, shards }
    }

    /// Place in `shards` of the one that owns a hash.
    #[inline]
    #[must_use]
    pub fn place_of(&self, hash: KeyHash) -> usize {
        if self.shards.len() == 1 {
            return 0;
        }
        self.shards.partition_point(|range| range.start <= hash) - 1
    }

    /// First and last hash of the shard at a place.
    #[must_use]
    pub fn range(&self, place: usize) -> (KeyHash, KeyHash) {
        let last = self.shards.get(place + 1).map_or(u64::MAX, |next| next.start.0 - 1);
        (self.shards[place].start, KeyHash(last))
    }

    /// The map as bytes, for the meta shard's log: epoch, seed, number of shards, then start, shard, node, store of each.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.shards.len() * SHARD_BYTES);
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.routing_seed.to_le_bytes());
        bytes.extend_from_slice(&(self.shards.len() as u32).to_le_bytes());
        for range in &self.shards {
            bytes.extend_from_slice(&range.start.0.to_le_bytes());
            bytes.extend_from_slice(&range.node.0.to_le_bytes());
            bytes.extend_from_slice(&range.shard.0.to_le_bytes());
            bytes.extend_from_slice(&u32::from(range.store.0).to_le_bytes());
        }
        bytes
    }

    /// Reads what [`ClusterMap::encode`] wrote.
    ///
    /// # Errors
    /// What about the bytes is not a map.
    pub fn decode(bytes: &[u8]) -> Result<ClusterMap, &'static str> {
        let Some((fixed, shards)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
            return Err("a cluster map is too short");
        };
        let count = u32_at(fixed, 16) as usize;
        if count == 0 || count > SHARDS_MAX || shards.len() != count * SHARD_BYTES {
            return Err("a cluster map has the wrong length");
        }
        let shards = shards
            .chunks_exact(SHARD_BYTES)
            .map(|shard| {
                Ok(ShardRange {
                    start: KeyHash(u64_at(shard, 0)),
                    node: NodeId(u64_at(shard, 8)),
                    shard: ShardId(u32_at(shard, 16)),
                    store: StoreId(u16::try_from(u32_at(shard, 20)).map_err(|_| "a store number is too large")?),
                })
            })
            .collect::<Result<Vec<_>, &'static str>>()?;
        if shards[0].start != KeyHash(0) || !shards.is_sorted_by(|a, b| a.start < b.start) {
            return Err("a cluster map does not cover every hash exactly once");
        }
        Ok(ClusterMap { epoch: u64_at(fixed, 0), routing_seed: u64_at(fixed, 8), shards })
    }
}

const FIXED_BYTES: usize = 20;
const SHARD_BYTES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_maps_cover_every_hash_once() {
        for (stores, shards) in [(1, 1), (2, 2), (3, 7), (2, 64), (5, 1_000)] {
            let map = ClusterMap::even(5, NodeId(1), stores, shards);
            let mut next = 0u64;
            for place in 0..map.shards.len() {
                let (start, last) = map.range(place);
                assert_eq!(start.0, next);
                assert_eq!((map.place_of(start), map.place_of(last)), (place, place));
                next = last.0.wrapping_add(1);
            }
            assert_eq!(next, 0, "the last range ends at the last hash");
            assert_eq!(ClusterMap::decode(&map.encode()), Ok(map));
        }
    }

    #[test]
    fn damaged_maps_are_refused() {
        let map = ClusterMap::even(5, NodeId(1), 2, 3);
        let bytes = map.encode();
        for len in 0..bytes.len() {
            assert!(ClusterMap::decode(&bytes[..len]).is_err());
        }
        let mut gap = map.clone();
        gap.shards[0].start = KeyHash(1);
        assert!(ClusterMap::decode(&gap.encode()).is_err());
        let mut unsorted = map;
        unsorted.shards.swap(1, 2);
        assert!(ClusterMap::decode(&unsorted.encode()).is_err());
    }
}
