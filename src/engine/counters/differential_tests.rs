//! The counters against the simple ones: same batches, same outcomes, same counts, same top, whatever the layout.

use super::simple::SimpleCounters;
use super::*;
use crate::engine::prng::Prng;
use crate::limits::BLOCK_BYTES;

const ALL_HASHES: RangeInclusive<KeyHash> = KeyHash(0)..=KeyHash(u64::MAX);

struct Pair {
    counters: Counters,
    simple: SimpleCounters,
    route: Route,
    outcomes: (Vec<Outcome>, Vec<Outcome>),
}

impl Pair {
    fn new(page_keys_max: usize, candidates: usize, route: Route) -> Pair {
        let secret = Secret([page_keys_max as u64, candidates as u64]);
        // Only larger pages have indexes that a pool would hold.
        let region = || vec![[0; BLOCK_BYTES]; 2 * REGION_BYTES_MIN / BLOCK_BYTES].leak();
        let pool = if page_keys_max >= 512 { Pool::with_indexes(region) } else { Pool::default() };
        let setup = Setup { page_keys_max, secret, pool, ..Setup::new(ALL_HASHES, 0, candidates) };
        let counters = Counters::with_hash(setup, route);
        Pair { counters, simple: SimpleCounters::default(), route, outcomes: Default::default() }
    }

    fn apply(&mut self, batch: &[(&[u8], i64)]) {
        let increments: Vec<Increment<'_>> =
            batch.iter().map(|&(key, delta)| Increment { hash: (self.route)(0, key), key, delta }).collect();
        self.outcomes.0.clear();
        self.outcomes.1.clear();
        self.counters.apply_batch(&increments, &mut self.outcomes.0);
        self.simple.apply_batch(&increments, &mut self.outcomes.1);
        assert_eq!(self.outcomes.0, self.outcomes.1);
    }

    fn check(&mut self, ks: &[usize]) {
        self.counters.invariants();
        assert_eq!(self.counters.len(), self.simple.len());
        let keys: Vec<(KeyHash, &[u8])> = self.simple.counters().map(|(key, _)| ((self.route)(0, key), key)).collect();
        let mut counts = Vec::new();
        self.counters.counts(&keys, &mut counts);
        for ((key, count), &read) in self.simple.counters().zip(&counts) {
            assert_eq!(read, Some(count));
            assert_eq!(self.counters.count((self.route)(0, key), key), Some(count));
        }
        let mut scanned: Vec<(&[u8], i64)> =
            self.counters.pages().flat_map(PageView::counters).map(|counter| (counter.key, counter.count)).collect();
        let mut expected: Vec<(&[u8], i64)> = self.simple.counters().collect();
        scanned.sort_unstable();
        expected.sort_unstable();
        assert_eq!(scanned, expected);
        for &k in ks {
            let top = self.counters.top(k);
            let answer: Vec<(&[u8], i64)> = top.keys.iter().zip(top.counts.iter().copied()).collect();
            assert_eq!(answer, self.simple.top(k), "the top {k}");
        }
    }
}

/// Deltas of every magnitude, most of them small.
fn delta(prng: &mut Prng) -> i64 {
    match prng.below(12) {
        0 => prng.bits() as i64 >> prng.below(64),
        1 => -(prng.below(200) as i64),
        _ => prng.below(40) as i64,
    }
}

/// Key number `number` of a history: its length is drawn from all that there are, short ones more often.
fn key(number: u64) -> Vec<u8> {
    let mut prng = Prng::new(number);
    let length = match prng.below(4) {
        0 => 1 + prng.below(KEY_BYTES_MAX as u64),
        1 => 1 + prng.below(140),
        _ => 8 + prng.below(24),
    } as usize;
    let mut key = number.to_be_bytes().to_vec();
    key.resize_with(length, || prng.bits() as u8);
    key
}

#[test]
fn keys_of_all_lengths_with_counts_of_all_widths() {
    for (page_keys_max, keys, rounds) in
        [(1, 60, 40), (2, 60, 40), (3, 200, 60), (7, 400, 100), (64, 2_000, 200), (PAGE_KEYS_MAX, 20_000, 1_000)]
    {
        let mut pair = Pair::new(page_keys_max, 1 + page_keys_max % 50, KeyHash::of);
        let mut prng = Prng::new(page_keys_max as u64);
        let keys: Vec<Vec<u8>> = (0..keys).map(key).collect();
        for round in 0..rounds {
            let size = 1 + prng.below(100);
            let mut batch = Vec::new();
            for _ in 0..size {
                let key = &keys[prng.below(keys.len() as u64) as usize];
                // Often the same key twice in a batch.
                batch.extend((0..1 + prng.below(3)).map(|_| (key.as_slice(), delta(&mut prng))));
            }
            pair.apply(&batch);
            if round % (rounds / 5) == 0 {
                pair.check(&[0, 1, 10]);
            }
        }
        pair.check(&[0, 1, 5, 30, 100, 1_000, 100_000]);
    }
}

#[test]
fn every_length_of_key_in_pages_that_fill_by_bytes() {
    for length in [1, 2, 8, 16, 30, 31, 64, 125, 126, 127, 255, 256, 1_024] {
        let mut pair = Pair::new(PAGE_KEYS_MAX, 20, KeyHash::of);
        let mut prng = Prng::new(length as u64);
        let count = if length == 1 { 256 } else { 6_000 };
        let keys: Vec<Vec<u8>> = (0..count as u32)
            .map(|number| {
                let mut key = number.to_le_bytes()[..length.min(4)].to_vec();
                key.resize_with(length, || prng.bits() as u8);
                key
            })
            .collect();
        for chunk in keys.chunks(50) {
            pair.apply(&chunk.iter().map(|key| (key.as_slice(), prng.below(90) as i64)).collect::<Vec<_>>());
        }
        // All counts outgrow one width after the other.
        for shift in [6, 14, 30] {
            for chunk in keys.chunks(33) {
                pair.apply(&chunk.iter().map(|key| (key.as_slice(), 1 << shift)).collect::<Vec<_>>());
            }
        }
        pair.check(&[20, 50]);
    }
}

/// Routing hashes chosen by an enemy who knows the seed: see each test.
const ENEMIES: [(&str, Route); 4] = [
    ("equal hashes", |_, _| KeyHash(0x1234_5678_9abc_def0)),
    ("equal prefixes", |_, key| KeyHash(KeyHash::of(0, key).0 >> 40)),
    ("equal buckets", |_, key| KeyHash(KeyHash::of(0, key).0 << 40)),
    // The odd constant's inverse undoes the multiplication of the index hash.
    ("equal tags", |_, key| KeyHash((KeyHash::of(0, key).0 >> 7).wrapping_mul(0xf1de_83e1_9937_733d))),
];

#[test]
fn hostile_hashes_cost_no_answer_and_no_memory() {
    let hostile_keys = 12_000u64;
    for (name, route) in ENEMIES {
        let mut pair = Pair::new(512, 50, route);
        let mut prng = Prng::new(1);
        for start in (0..hostile_keys).step_by(40) {
            let keys: Vec<[u8; 16]> = (start..start + 40)
                .map(|number| (u128::from(mix(number)) << 64 | u128::from(number)).to_le_bytes())
                .collect();
            pair.apply(&keys.iter().map(|key| (key.as_slice(), prng.below(300) as i64)).collect::<Vec<_>>());
        }
        pair.check(&[10, 50, 500]);
        let a_key = pair.counters.memory_bytes() as f64 / hostile_keys as f64;
        assert!(a_key < 33.0, "{name}: {a_key} bytes a key");
    }
}

#[test]
fn the_enemy_of_tags_knows_the_constant() {
    let (_, equal_tags) = ENEMIES[3];
    let tags = (0..100u64).map(|number| hashing::index_hash(equal_tags(0, &number.to_be_bytes()).0) >> 57);
    assert!(tags.into_iter().all(|tag| tag == 0));
}

#[test]
fn the_secret_shows_in_no_answer() {
    let run = |secret| {
        let setup = Setup { page_keys_max: 16, secret, ..Setup::new(ALL_HASHES, 0, 8) };
        let mut counters = Counters::with_hash(setup, |_, _| KeyHash(77));
        let mut prng = Prng::new(9);
        let mut outcomes = Vec::new();
        let mut tops = Vec::new();
        for _ in 0..3_000 {
            let key = prng.below(900).to_be_bytes();
            let delta = prng.below(9) as i64 - 3;
            counters.apply_batch(&[Increment { hash: KeyHash(77), key: &key, delta }], &mut outcomes);
            if prng.chance(1, 50) {
                tops.push(counters.top(prng.below(20) as usize));
            }
        }
        counters.invariants();
        (outcomes, tops, counters.digest(), counters.len())
    };
    assert_eq!(run(Secret([1, 2])), run(Secret([3, 4])));
}
