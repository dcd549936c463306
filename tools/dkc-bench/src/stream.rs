//! The keys that a connection sends, one after another.
//!
//! A stream is a pure function of the seed and the connection's number. Nobody has to remember what was sent: to know
//! what the counts must be, the streams are run through again.

use crate::distribution::Sampler;
use crate::plan::Plan;
use dkc::engine::prng::{Prng, mix};

/// The numbers of the keys that one connection sends.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    prng: Prng,
    sampler: Sampler,
}

impl Stream {
    /// The stream of a connection, from its beginning.
    pub(crate) fn new(plan: &Plan, connection: usize) -> Stream {
        // Mixed twice: neighbouring seeds and connections start in unrelated places of the generator's one cycle.
        let seed = mix(mix(plan.seed.wrapping_add(1)).wrapping_add(connection as u64 + 1));
        Stream { prng: Prng::new(seed), sampler: Sampler::new(plan.distribution, plan.keys) }
    }

    /// The next number, below the number of keys.
    #[inline]
    pub(crate) fn draw(&mut self) -> u64 {
        self.sampler.draw(&mut self.prng)
    }
}

/// Bytes of a key that tell it from all others of the run.
pub(crate) const KEY_NAME_BYTES: usize = size_of::<u64>();

/// Makes keys of numbers: the prefix, the number through a bijection that leaves no order behind, and filling that
/// does not repeat itself.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    key: Vec<u8>,
    prefix_bytes: usize,
}

impl Keys {
    /// The keys of a plan, which has room for [`KEY_NAME_BYTES`] after the prefix.
    pub(crate) fn new(plan: &Plan) -> Keys {
        let mut key = plan.prefix.clone().into_bytes();
        let prefix_bytes = key.len();
        key.resize(plan.key_bytes, 0);
        Keys { key, prefix_bytes }
    }

    /// The key of a number. Distinct numbers have distinct keys.
    #[inline]
    pub(crate) fn key(&mut self, number: u64) -> &[u8] {
        let mut word = mix(number);
        for place in self.key[self.prefix_bytes..].chunks_mut(KEY_NAME_BYTES) {
            place.copy_from_slice(&word.to_le_bytes()[..place.len()]);
            word = mix(word.wrapping_add(1));
        }
        &self.key
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
            let mut keys = Keys::new(&plan);
            let distinct: BTreeSet<Vec<u8>> = (0..10_000).map(|number| keys.key(number).to_vec()).collect();
            assert_eq!(distinct.len(), 10_000);
            assert!(distinct.iter().all(|key| key.len() == plan.key_bytes && key.starts_with(prefix.as_bytes())));
        }
    }

    #[test]
    fn streams_repeat_and_differ_between_connections_and_seeds() {
        let numbers = |seed: &str, connection| {
            let plan = Plan::parse(&["--seed", seed, "--distribution", "zipf:0.99"]).expect("valid");
            let mut stream = Stream::new(&plan, connection);
            (0..100).map(|_| stream.draw()).collect::<Vec<u64>>()
        };
        assert_eq!(numbers("1", 0), numbers("1", 0));
        let distinct: BTreeSet<Vec<u64>> =
            ["0", "1", "2"].iter().flat_map(|seed| (0..3).map(|connection| numbers(seed, connection))).collect();
        assert_eq!(distinct.len(), 9);
    }
}
