//! The requests that a connection sends, one after another.
//!
//! A stream is a pure function of the seed and the connection's number. Nobody has to remember what was sent: to know
//! what the counts must be, the streams are run through again.

use crate::distribution::{Sampler, Share};
use crate::mix::{Mix, Operation};
use crate::owners::Owners;
use crate::plan::Plan;
use dkc::engine::part::PackedKeys;
use dkc::engine::prng::{Prng, mix};
use std::sync::Arc;

/// After so many keys of other stores a connection takes it that there is none of its own.
const OWNED_DRAWS_MAX: usize = 1 << 20;

/// The operations that one connection asks for, and the numbers of their keys.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    prng: Prng,
    mix: Mix,
    sampler: Sampler,
    batch: usize,
    owned: Option<Owned>,
}

/// What a connection asks for if it only asks for what its store owns.
#[derive(Clone, Debug)]
struct Owned {
    owners: Arc<Owners>,
    place: usize,
    column: KeyColumn,
}

impl Owned {
    fn new(plan: &Plan, connection: usize) -> Option<Owned> {
        let owners = plan.owners.clone()?;
        // Connections go to the stores in turn.
        let place = connection % owners.stores();
        Some(Owned { owners, place, column: KeyColumn::new(plan) })
    }

    fn has(&mut self, number: u64) -> bool {
        self.column.clear();
        self.column.push(number);
        self.owners.of_key(&self.column.keys().bytes) == self.place
    }
}

impl Stream {
    /// The stream of a connection, from its beginning.
    pub(crate) fn new(plan: &Plan, connection: usize) -> Stream {
        let share = Share { number: connection as u64, of: plan.connections as u64 };
        Stream {
            prng: Prng::new(plan.seed_of(connection as u64)),
            mix: plan.mix.clone(),
            sampler: Sampler::new(plan.distribution, plan.keys, share),
            batch: plan.batch,
            owned: Owned::new(plan, connection),
        }
    }

    fn draw(&mut self, grows: bool) -> Option<u64> {
        let Some(owned) = &mut self.owned else { return self.sampler.draw(&mut self.prng, grows) };
        // With very few keys it may be that none of them is owned.
        (0..OWNED_DRAWS_MAX).find_map(|_| self.sampler.draw(&mut self.prng, grows).filter(|&number| owned.has(number)))
    }

    /// The next request: its operation, and one call for the number of each of its keys. `None` if there are no more.
    #[inline]
    pub(crate) fn next(&mut self, mut each: impl FnMut(u64)) -> Option<Operation> {
        let operation = self.mix.draw(&mut self.prng);
        if operation == Operation::Top {
            return Some(operation);
        }
        let grows = operation == Operation::Increment;
        for place in 0..self.batch {
            match self.draw(grows) {
                Some(number) => each(number),
                // The last batch may be a small one.
                None => return (place > 0).then_some(operation),
            }
        }
        Some(operation)
    }
}

/// A starting point for the numbers of a stream. Mixed twice: neighbouring seeds and streams start in unrelated places
/// of the generator's one cycle.
pub(crate) fn stream_seed(seed: u64, stream: u64) -> u64 {
    mix(mix(seed.wrapping_add(1)).wrapping_add(stream + 1))
}

/// Bytes of a key that tell it from all others of the run.
pub(crate) const KEY_NAME_BYTES: usize = size_of::<u64>();

/// A column of keys of numbers: each the prefix, the number through a bijection that leaves no order behind, and filling
/// that does not repeat itself.
///
/// All keys of a run have the same length and prefix. So a column is used again and again, and only what differs is
/// written: making a key is a store or two.
#[derive(Clone, Debug)]
pub(crate) struct KeyColumn {
    packed: PackedKeys,
    /// Of `packed`, how many are keys of the numbers of this time.
    count: usize,
    /// What a key is before it has a number.
    blank: Vec<u8>,
    prefix_bytes: usize,
}

impl KeyColumn {
    /// A column for the keys of a plan, which has room for [`KEY_NAME_BYTES`] after the prefix.
    pub(crate) fn new(plan: &Plan) -> KeyColumn {
        let mut blank = plan.prefix.clone().into_bytes();
        let prefix_bytes = blank.len();
        blank.resize(plan.key_bytes, 0);
        KeyColumn { packed: PackedKeys::default(), count: 0, blank, prefix_bytes }
    }

    /// Begins anew.
    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds the key of a number. Distinct numbers have distinct keys.
    #[inline]
    pub(crate) fn push(&mut self, number: u64) {
        if self.count == self.packed.len() {
            self.packed.push(&self.blank);
        }
        let start = self.count * self.blank.len();
        self.count += 1;
        let key = &mut self.packed.bytes[start + self.prefix_bytes..start + self.blank.len()];
        let mut word = mix(number);
        let (whole, rest) = key.as_chunks_mut::<KEY_NAME_BYTES>();
        for place in whole {
            *place = word.to_le_bytes();
            word = mix(word.wrapping_add(1));
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&word.to_le_bytes()[..rest.len()]);
        }
    }

    /// The keys that were added.
    pub(crate) fn keys(&mut self) -> &PackedKeys {
        if self.count < self.packed.len() {
            self.packed.ends.truncate(self.count);
            self.packed.bytes.truncate(self.count * self.blank.len());
        }
        &self.packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn keys_are_distinct_and_have_prefix_and_length() {
        for (prefix, key_bytes) in [("", "8"), ("abc", "11"), ("abc", "16"), ("abc", "200")] {
            let plan = Plan::parse(&["--prefix", prefix, "--key-bytes", key_bytes]).expect("valid");
            let mut column = KeyColumn::new(&plan);
            (0..10_000).for_each(|number| column.push(number));
            let distinct: BTreeSet<Vec<u8>> = column.keys().iter().map(<[u8]>::to_vec).collect();
            assert_eq!(distinct.len(), 10_000);
            assert!(distinct.iter().all(|key| key.len() == plan.key_bytes && key.starts_with(prefix.as_bytes())));
        }
    }

    #[test]
    fn a_column_is_the_same_whatever_it_held_before() {
        let plan = Plan::parse(&["--prefix", "abc", "--key-bytes", "21"]).expect("valid");
        let keys = |column: &mut KeyColumn, numbers: std::ops::Range<u64>| {
            column.clear();
            numbers.for_each(|number| column.push(number));
            column.keys().clone()
        };
        let mut used = KeyColumn::new(&plan);
        for numbers in [0..100, 50..60, 0..0, 7..200] {
            assert_eq!(keys(&mut used, numbers.clone()), keys(&mut KeyColumn::new(&plan), numbers));
        }
    }

    fn numbers(arguments: &[&str], connection: usize, requests: usize) -> Vec<u64> {
        let mut stream = Stream::new(&Plan::parse(arguments).expect("valid"), connection);
        let mut numbers = Vec::new();
        for _ in 0..requests {
            stream.next(|number| numbers.push(number)).expect("no end");
        }
        numbers
    }

    #[test]
    fn streams_repeat_and_differ_between_connections_and_seeds() {
        let numbers = |seed: &str, connection| {
            let arguments =
                ["--seed", seed, "--distribution", "zipf:0.99", "--batch", "3", "--mix", "increment=2,top=1"];
            numbers(&arguments, connection, 100)
        };
        assert_eq!(numbers("1", 0), numbers("1", 0));
        let distinct: BTreeSet<Vec<u64>> =
            ["0", "1", "2"].iter().flat_map(|seed| (0..3).map(|connection| numbers(seed, connection))).collect();
        assert_eq!(distinct.len(), 9);
    }

    #[test]
    fn a_routed_connection_asks_only_for_what_its_store_owns() {
        let mut plan = Plan::parse(&["--route", "--connections", "4", "--batch", "5"]).expect("valid");
        plan.owners = Some(Arc::new(crate::owners::tests::halves()));
        let mut column = KeyColumn::new(&plan);
        let mut all = BTreeSet::new();
        for connection in 0..4 {
            let mut stream = Stream::new(&plan, connection);
            for _ in 0..50 {
                column.clear();
                stream.next(|number| column.push(number)).expect("no end");
                assert_eq!(column.keys().len(), 5);
                for key in column.keys().iter() {
                    assert_eq!(crate::owners::tests::halves().of_key(key), connection % 2);
                    all.insert(key.to_vec());
                }
            }
        }
        assert!(all.len() > 900, "drawn from a million");
        assert!(Plan::parse(&["--route", "--distribution", "sequential"]).is_err());
    }

    #[test]
    fn in_sequence_the_last_request_has_what_is_left() {
        let arguments = ["--distribution", "sequential", "--keys", "10", "--batch", "4", "--connections", "2"];
        let mut stream = Stream::new(&Plan::parse(&arguments).expect("valid"), 1);
        let mut requests = Vec::new();
        loop {
            let mut numbers = Vec::new();
            match stream.next(|number| numbers.push(number)) {
                Some(operation) => requests.push((operation, numbers)),
                None => break,
            }
        }
        let increment = Operation::Increment;
        assert_eq!(requests, [(increment, vec![1, 3, 5, 7]), (increment, vec![9])]);
    }
}
