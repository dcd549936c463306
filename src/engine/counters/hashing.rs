//! Which bits of which hash decide what.
//!
//! ```text
//!   key ── XXH3-64, the cluster's seed ──► hash ─┬─ − start, << shift, bent ──► position    top bits: directory
//!                                                └─ × an odd constant ──► index hash        low bits: bucket, top 7: tag
//!   key ── SipHash-2-4, the process's secret ──► second hash, in place of `hash` for keys of a crowd
//! ```
//!
//! **Position.** A shard owns a contiguous range of the hash space, so its hashes share their top bits and a
//! directory indexed by those would use a fraction of its slots. A hash's *position* is its distance from the start
//! of the range, shifted left until the last hash of the range uses the top bit. The map keeps the order of
//! hashes, so pages walked by position are walked in hash order, and a split of the shard cuts between pages or
//! through one. In a range that is not a power of two the positions past the last hash stay empty, at most
//! half of them: a few directory slots lost, for a map that is one subtraction and one shift.
//!
//! **Bent.** If positions were as uniform as hashes are, all pages would have the same number of keys at the same time, and double
//! it, split and double their indexes at the same time: memory a counter would swing by 4 bytes between one doubling of
//! the table and the next, and inserts would stall in the same rhythm. (Splitting at different sizes does not help: a page of
//! half the keys has half the index.) So the scale is bent: y = x + x (1 − x) / 3, whose slope falls from 4/3 to 2/3. At any
//! time there are pages of every fill from a half to all, and memory a counter stays at the mean.
//!
//! **Independent bits.** All hashes of a page begin with the same bits, while hashbrown takes its tag from the top bits
//! of what it is given and its bucket from the bottom ones. A tag of the directory's bits would be the same for the whole
//! page, and every lookup compare with every key in its way: five times slower when it was tried. The multiplication
//! brings all bits into the tag, and leaves the low ones, which the directory never reaches, to the bucket.
//!
//! **Second hash.** Hashes of keys that were chosen for it may agree in as many bits as one likes, for the seed is known to
//! every client. Such keys are told apart by a hash whose key nobody outside the process knows ([`super::table`]).
//! It is a pseudo-random function and not another XXH3, which promises nothing to those who can choose its input.

use std::hash::Hasher;
use std::ops::RangeInclusive;

use crate::ids::KeyHash;

/// 128 random bits of the process, for the second hash. No answer depends on them.
#[derive(Clone, Copy, Default)]
pub struct Secret(pub [u64; 2]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// How keys of one shard are hashed.
#[derive(Clone)]
pub(super) struct Hashing {
    start: u64,
    shift: u32,
    routing_seed: u64,
    secret: Secret,
    /// [`KeyHash::of`], but in tests that want hashes of their own making.
    route: Route,
}

/// A routing hash: of a seed and a key.
pub type Route = fn(u64, &[u8]) -> KeyHash;

/// What places a key: its page by the top bits of one, its bucket and tag in that page by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    pub(super) position: u64,
    pub(super) index: u64,
}

impl Hashing {
    pub(super) fn new(hashes: &RangeInclusive<KeyHash>, routing_seed: u64, secret: Secret, route: Route) -> Hashing {
        let (start, last) = (hashes.start().0, hashes.end().0);
        assert!(start <= last, "a shard owns at least one hash");
        Hashing { start, shift: (last - start).leading_zeros(), routing_seed, secret, route }
    }

    /// What keys the second hash.
    pub(super) fn secret(&self) -> Secret {
        self.secret
    }

    /// The hash of a key.
    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        (self.route)(self.routing_seed, key)
    }

    /// The secret hash of a key.
    pub(super) fn second(&self, key: &[u8]) -> u64 {
        #[expect(deprecated, reason = "the one SipHash-2-4 with keys in the standard library; its output is specified")]
        let mut hasher = std::hash::SipHasher::new_with_keys(self.secret.0[0], self.secret.0[1]);
        hasher.write(key);
        hasher.finish()
    }

    /// A hash's place in the order of pages.
    #[inline]
    pub(super) fn position(&self, hash: KeyHash) -> u64 {
        debug_assert!(hash.0 >= self.start, "the hash is in the shard's range");
        // A range of one hash has a shift of 64, and one position.
        bend(hash.0.wrapping_sub(self.start).checked_shl(self.shift).unwrap_or(0))
    }

    /// The bits of a key of a crowd, or of any other.
    pub(super) fn bits(&self, crowded: bool, key: &[u8]) -> Bits {
        if crowded {
            let second = self.second(key);
            Bits { position: second, index: index_hash(second) }
        } else {
            let hash = self.hash(key);
            Bits { position: self.position(hash), index: index_hash(hash.0) }
        }
    }
}

/// Where a place on the straight scale is on the bent one. Monotone: from one place to the next the product's high half
/// changes by at most 1, so a third of it, rounded down, never falls by more than the place has risen.
#[inline]
fn bend(x: u64) -> u64 {
    let product = ((u128::from(x) * u128::from(!x)) >> 64) as u64;
    x + product / 3
}

/// What hashbrown is given for a hash.
#[inline]
pub(super) fn index_hash(hash: u64) -> u64 {
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prng::Prng;

    #[test]
    fn the_second_hash_is_siphash_2_4() {
        // The first two vectors of the reference implementation: key 00 01 .. 0f, input of no byte and of 00.
        let secret = Secret([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        let hashing = Hashing::new(&(KeyHash(0)..=KeyHash(u64::MAX)), 0, secret, KeyHash::of);
        assert_eq!(hashing.second(&[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(hashing.second(&[0]), 0x74f8_39c5_93dc_67fd);
    }

    #[test]
    fn positions_keep_the_order_of_hashes_and_use_the_top_bit() {
        for (start, last) in [(0, u64::MAX), (5, 5), (7, 8), (3 << 61, (5 << 61) + 12_345), (1 << 63, u64::MAX)] {
            let hashing = Hashing::new(&(KeyHash(start)..=KeyHash(last)), 0, Secret::default(), KeyHash::of);
            assert_eq!(hashing.position(KeyHash(start)), 0);
            let last_position = hashing.position(KeyHash(last));
            assert!(start == last || last_position >= 1 << 63);
        }
    }

    #[test]
    fn the_bent_scale_keeps_the_order_of_neighbours_too() {
        let mut prng = Prng::new(1);
        let edges = [0, 1 << 63, u64::MAX - 2_000, (1 << 63) - 1_000, 1 << 62];
        for start in edges.into_iter().chain((0..2_000).map(|_| prng.bits() >> prng.below(64))) {
            let places = start..start.saturating_add(1_000);
            assert!(places.clone().map(bend).is_sorted(), "from {start}");
            assert!(places.is_empty() || bend(places.end) - bend(start) >= (places.end - start) * 2 / 3);
        }
        assert_eq!((bend(0), bend(u64::MAX)), (0, u64::MAX));
    }
}
