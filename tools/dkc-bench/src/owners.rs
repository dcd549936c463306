//! Which store owns a key: what a client does that keeps a connection to every store.

use dkc::ids::KeyHash;
use dkc::wire::client::Welcome;

/// The map of a server's stores, by their places in the list of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owners {
    routing_seed: u64,
    /// Where a range of hashes starts, and the place of its store. In order.
    ranges: Vec<(KeyHash, usize)>,
}

impl Owners {
    /// # Errors
    /// The server does not say where its stores are, or one of them owns nothing.
    pub(crate) fn of(welcome: &Welcome) -> anyhow::Result<Owners> {
        let mut ranges = Vec::with_capacity(welcome.shards.len());
        for range in &welcome.shards {
            let is_its_store = |place: &usize| {
                let store = &welcome.stores[*place];
                (store.node, store.store) == (range.node, range.store)
            };
            let place = (0..welcome.stores.len()).find(is_its_store);
            ranges.push((
                range.start,
                place.ok_or_else(|| anyhow::anyhow!("the server's map names no address for {range:?}"))?,
            ));
        }
        let idle = (0..welcome.stores.len()).find(|place| ranges.iter().all(|(_, owner)| owner != place));
        anyhow::ensure!(idle.is_none() && !ranges.is_empty(), "--route: a store of the server owns no keys");
        Ok(Owners { routing_seed: welcome.routing_seed, ranges })
    }

    /// Number of stores. Each owns something.
    pub(crate) fn stores(&self) -> usize {
        self.ranges.iter().map(|(_, place)| place + 1).max().unwrap_or(1)
    }

    /// The place of the store that owns a key.
    #[inline]
    pub(crate) fn of_key(&self, key: &[u8]) -> usize {
        let hash = KeyHash::of(self.routing_seed, key);
        let after = self.ranges.partition_point(|(start, _)| *start <= hash);
        self.ranges[after.saturating_sub(1)].1
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use dkc::ids::{NodeId, ShardId, StoreId};
    use dkc::wire::client::{ShardRange, StoreAddress};

    fn welcome(owners: &[u16], stores: u16) -> Welcome {
        let width = (u64::MAX / owners.len() as u64).wrapping_add(1);
        let range = |(place, &store): (usize, &u16)| ShardRange {
            start: KeyHash(width.wrapping_mul(place as u64)),
            shard: ShardId(place as u32 + 1),
            node: NodeId(1),
            store: StoreId(store),
        };
        let address = |store| StoreAddress { node: NodeId(1), store: StoreId(store), address: format!("host:{store}") };
        Welcome {
            shards: owners.iter().enumerate().map(range).collect(),
            stores: (0..stores).map(address).collect(),
            ..Welcome::default()
        }
    }

    /// Two stores with half of the hashes each.
    pub(crate) fn halves() -> Owners {
        Owners::of(&welcome(&[0, 1], 2)).expect("a map")
    }

    #[test]
    fn every_key_has_the_owner_of_its_range() {
        let owners = Owners::of(&welcome(&[1, 0, 1, 0], 2)).expect("a map");
        let mut keys = [0; 2];
        for number in 0..1_000_u32 {
            let key = number.to_le_bytes();
            let quarter = KeyHash::of(0, &key).0 >> 62;
            let place = owners.of_key(&key);
            assert_eq!(place, usize::from(quarter.is_multiple_of(2)));
            keys[place] += 1;
        }
        assert!(keys.iter().all(|&count| count > 400), "{keys:?}");
        assert!(Owners::of(&welcome(&[0, 0], 2)).is_err(), "nothing could be asked of store 1");
        assert!(Owners::of(&welcome(&[2], 1)).is_err());
        assert!(Owners::of(&welcome(&[0], 0)).is_err());
    }
}
