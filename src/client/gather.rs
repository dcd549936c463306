//! Gathering single increments into requests: a batch for each shard, so that a request goes to one shard and lands where it belongs.

use super::batch::{Batch, BatchError};
use crate::ids::KeyHash;
use crate::limits::BATCH_KEYS_MAX;
use hashbrown::HashTable;

/// Increments of a gathered request when nothing else is configured.
pub(super) const GATHER_KEYS_DEFAULT: usize = 4_096;

/// Increments on their way into requests.
#[derive(Debug)]
pub(super) struct Gather {
    shards: Vec<Gathering>,
    keys_max: usize,
    merging: bool,
}

#[derive(Debug, Default)]
struct Gathering {
    batch: Batch,
    /// Where each key stands in the batch, if increments of one key are merged.
    places: HashTable<u32>,
}

impl Gather {
    pub(super) fn new() -> Gather {
        Gather { shards: Vec::new(), keys_max: GATHER_KEYS_DEFAULT, merging: false }
    }

    pub(super) fn set_keys_max(&mut self, keys_max: usize) {
        self.keys_max = keys_max.clamp(1, BATCH_KEYS_MAX);
    }

    pub(super) fn set_merging(&mut self, merging: bool) {
        self.merging = merging;
    }

    /// Adds an increment to its shard's batch; returns a batch that is to be sent, if that filled one.
    ///
    /// # Errors
    /// The key breaks a limit; nothing was added.
    pub(super) fn push(&mut self, shard: usize, key: &[u8], delta: i64) -> Result<Option<Batch>, BatchError> {
        if self.shards.len() <= shard {
            self.shards.resize_with(shard + 1, Gathering::default);
        }
        let gathering = &mut self.shards[shard];
        if self.merging && gathering.merge(key, delta) {
            return Ok(None);
        }
        let full = match gathering.batch.push(key, delta) {
            Ok(()) => None,
            Err(BatchError::Full) => {
                let full = gathering.take();
                gathering.batch.push(key, delta)?;
                Some(full)
            }
            Err(error) => return Err(error),
        };
        if self.merging {
            gathering.note(key);
        }
        let complete = full.is_none() && gathering.batch.len() >= self.keys_max;
        Ok(if complete { Some(gathering.take()) } else { full })
    }

    /// All that was gathered.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Batch> {
        self.shards.iter_mut().map(Gathering::take).filter(|batch| !batch.is_empty())
    }
}

impl Gathering {
    fn take(&mut self) -> Batch {
        self.places.clear();
        std::mem::take(&mut self.batch)
    }

    /// Adds to the increment of the same key, if there is one and the sum is a delta.
    fn merge(&mut self, key: &[u8], delta: i64) -> bool {
        let keys = self.batch.keys();
        let place = self.places.find(hash(key), |place| keys.key(*place as usize) == key).copied();
        place.is_some_and(|place| self.batch.add(place as usize, delta))
    }

    /// Remembers where the last increment stands.
    fn note(&mut self, key: &[u8]) {
        let place = self.batch.len() as u32 - 1;
        let keys = self.batch.keys();
        let found = self.places.find_mut(hash(key), |place| keys.key(*place as usize) == key);
        match found {
            Some(found) => *found = place,
            None => {
                self.places.insert_unique(hash(key), place, |place| hash(keys.key(*place as usize)));
            }
        }
    }
}

fn hash(key: &[u8]) -> u64 {
    KeyHash::of(0, key).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(batch: &Batch) -> Vec<(Vec<u8>, i64)> {
        batch.keys().iter().map(<[u8]>::to_vec).zip(batch.deltas().iter().copied()).collect()
    }

    #[test]
    fn a_batch_a_shard_is_given_out_when_it_is_full() {
        let mut gather = Gather::new();
        gather.set_keys_max(2);
        assert_eq!(gather.push(0, b"a", 1), Ok(None));
        assert_eq!(gather.push(3, b"b", 1), Ok(None));
        let full = gather.push(0, b"a", 2).expect("valid").expect("full");
        assert_eq!(content(&full), [(b"a".to_vec(), 1), (b"a".to_vec(), 2)], "nothing is merged unasked");
        assert_eq!(gather.push(0, b"", 2), Err(BatchError::KeyEmpty));
        assert_eq!(gather.drain().map(|batch| batch.len()).sum::<usize>(), 1);
        assert_eq!(gather.drain().count(), 0);
    }

    #[test]
    fn merging_adds_up_equal_keys_unless_the_sum_is_no_delta() {
        let mut gather = Gather::new();
        gather.set_merging(true);
        for (key, delta) in [("a", 1), ("b", i64::MAX), ("a", 2), ("b", 1), ("b", 1), ("a", -5)] {
            assert_eq!(gather.push(0, key.as_bytes(), delta), Ok(None));
        }
        let batches: Vec<Batch> = gather.drain().collect();
        let expected = [(b"a".to_vec(), -2), (b"b".to_vec(), i64::MAX), (b"b".to_vec(), 2)];
        assert_eq!(content(&batches[0]), expected);
        assert_eq!(gather.push(0, b"a", 7), Ok(None));
        assert_eq!(content(&gather.drain().next().expect("one")), [(b"a".to_vec(), 7)], "the next batch begins anew");
    }
}
