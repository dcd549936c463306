//! Histories against a plain model: a sorted map, and a full sort for every question about the top.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::engine::prng::Prng;
use crate::limits::{BLOCK_BYTES, PAGE_BLOCKS_MAX};

type Key = Vec<u8>;

/// How the test makes up hashes for its keys.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// Spread over the range, as a good hash would.
    Even,
    /// All keys have the first hash of the range.
    Equal,
    /// The first hashes of the range, one a key.
    Adjacent,
    /// Spread, but each hash is shared by three keys.
    Shared,
}

const SPREADS: [Spread; 4] = [Spread::Even, Spread::Equal, Spread::Adjacent, Spread::Shared];
const RANGES: [(u64, u64); 5] =
    [(0, u64::MAX), (3 << 60, (5 << 60) + 77), (u64::MAX - 30, u64::MAX), (9, 9), (1_000, 1_006)];

/// A routing hash whose seed says how keys are spread, and over which range.
fn route(seed: u64, key: &[u8]) -> KeyHash {
    let (start, last) = RANGES[seed as usize % RANGES.len()];
    let number = key.iter().fold(0u64, |sum, &byte| sum.wrapping_mul(3).wrapping_add(u64::from(byte)));
    let within = |bits: u64| start + ((u128::from(bits) * (u128::from(last - start) + 1)) >> 64) as u64;
    KeyHash(match SPREADS[seed as usize / RANGES.len()] {
        Spread::Even => within(mix(number.wrapping_add(1))),
        Spread::Equal => start,
        Spread::Adjacent => start + number.min(last - start),
        Spread::Shared => within(mix(u64::from(key[0]))),
    })
}

#[derive(Clone, Debug)]
enum Step {
    Add {
        key: u8,
        delta: i64,
    },
    /// Lowers the highest key to just below its successor, or below every other key.
    LowerTop {
        to_bottom: bool,
    },
    /// Raises the key of this rank from the top by one.
    Nudge {
        rank: u8,
    },
    Top {
        k: usize,
    },
    BeginTop {
        k: usize,
    },
    Upkeep,
    Restore,
}

struct Subject {
    counters: Counters,
    model: BTreeMap<Key, i64>,
    seed: u64,
    setup: Setup,
}

impl Subject {
    fn new(range: usize, spread: usize, candidates: usize, page_keys_max: usize) -> Subject {
        let (start, last) = RANGES[range];
        let seed = (spread * RANGES.len() + range) as u64;
        let setup = Setup { page_keys_max, ..Setup::new(KeyHash(start)..=KeyHash(last), seed, candidates) };
        let counters = Counters::with_hash(setup.clone(), route);
        Subject { counters, model: BTreeMap::new(), seed, setup }
    }

    /// Keys of one, two and many bytes (some too many to be stored in place), some of which are prefixes of others.
    fn key(number: u8) -> Key {
        match number % 3 {
            0 => vec![number],
            1 => vec![number - 1; 2],
            _ => vec![number - 2; if number > 12 { 140 } else { 24 }],
        }
    }

    fn hash(&self, key: &[u8]) -> KeyHash {
        route(self.seed, key)
    }

    /// Continues with new counters into which every counter was inserted, as when a checkpoint is loaded.
    fn restore(&mut self) {
        let setup = Setup { secret: Secret([7, self.model.len() as u64]), ..self.setup.clone() };
        let mut restored = Counters::with_hash(setup, route);
        for page in self.counters.pages() {
            let increments: Vec<Increment<'_>> = page
                .counters()
                .map(|counter| Increment { hash: counter.hash, key: counter.key, delta: counter.count })
                .collect();
            restored.apply_batch(&increments, &mut Vec::new());
        }
        assert_eq!(restored.digest(), self.counters.digest());
        self.counters = restored;
    }

    fn add(&mut self, key: Key, delta: i64) {
        let hash = self.hash(&key);
        let mut outcomes = Vec::new();
        self.counters.apply_batch(&[Increment { hash, key: &key, delta }], &mut outcomes);
        let expected = match self.model.get(&key).copied().unwrap_or(0).checked_add(delta) {
            Some(count) => {
                self.model.insert(key, count);
                Outcome::Applied(count)
            }
            None => Outcome::Overflow,
        };
        assert_eq!(outcomes, [expected]);
    }

    fn ranking(&self) -> Vec<(Key, i64)> {
        let mut ranking: Vec<_> = self.model.iter().map(|(key, &count)| (key.clone(), count)).collect();
        ranking.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        ranking
    }

    fn check_top(&mut self, k: usize) {
        let top = self.counters.top(k);
        self.check_answer(k, &top);
    }

    fn check_answer(&self, k: usize, top: &Top) {
        let answer: Vec<_> = top.keys.iter().map(<[u8]>::to_vec).zip(top.counts.iter().copied()).collect();
        let ranking = self.ranking();
        assert_eq!(top.counts.len(), top.keys.len());
        assert!(answer == ranking[..k.min(ranking.len())], "the top {k}");
        assert_eq!(top.exhausted, k >= ranking.len());
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Add { key, delta } => self.add(Self::key(key), delta),
            Step::LowerTop { to_bottom } => {
                let ranking = self.ranking();
                let below = if to_bottom { ranking.last() } else { ranking.get(1) };
                if let (Some((key, count)), Some((_, below))) = (ranking.first(), below) {
                    self.add(key.clone(), below.saturating_sub(*count).saturating_sub(1));
                }
            }
            Step::Nudge { rank } => {
                if let Some((key, _)) = self.ranking().get(usize::from(rank)) {
                    self.add(key.clone(), 1);
                }
            }
            Step::Top { k } => self.check_top(k),
            Step::BeginTop { k } => {
                if let Some(top) = self.counters.begin_top(k) {
                    self.check_answer(k, &top);
                }
            }
            Step::Restore => self.restore(),
            Step::Upkeep => {
                self.counters.upkeep();
            }
        }
    }

    /// Everything that can be observed without asking for the top, which might repair what it should find.
    fn check(&self) {
        self.counters.invariants();
        assert_eq!(self.counters.len(), self.model.len() as u64);
        for (key, &count) in &self.model {
            assert_eq!(self.counters.count(self.hash(key), key), Some(count));
        }
        let mut scanned = BTreeMap::new();
        for page in self.counters.pages() {
            assert_eq!(page.counters().count(), page.len());
            for counter in page.counters() {
                assert_eq!(counter.hash, self.hash(counter.key));
                assert_eq!(scanned.insert(counter.key.to_vec(), counter.count), None, "a key is scanned once");
            }
        }
        assert_eq!(scanned, self.model);
    }
}

fn deltas() -> impl Strategy<Value = i64> {
    prop_oneof![
        20 => -2..=3i64,
        2 => Just(0),
        1 => prop_oneof![Just(i64::MAX), Just(i64::MIN), Just(i64::MAX - 1), Just(i64::MIN + 1)],
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..24u8, deltas()).prop_map(|(key, delta)| Step::Add { key, delta }),
        3 => any::<bool>().prop_map(|to_bottom| Step::LowerTop { to_bottom }),
        2 => (0..12u8).prop_map(|rank| Step::Nudge { rank }),
        1 => (0..30usize).prop_map(|k| Step::Top { k }),
        2 => (0..30usize).prop_map(|k| Step::BeginTop { k }),
        3 => Just(Step::Upkeep),
        1 => Just(Step::Restore),
    ]
}

fn subjects() -> impl Strategy<Value = Subject> {
    (0..RANGES.len(), 0..SPREADS.len(), 1..=8usize, 1..=6usize)
        .prop_map(|(range, spread, candidates, page)| Subject::new(range, spread, candidates, page))
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seed = self.seed as usize;
        write!(f, "range {:?}, {:?} hashes", RANGES[seed % RANGES.len()], SPREADS[seed / RANGES.len()])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_agree_with_the_model(mut subject in subjects(), steps in prop::collection::vec(steps(), 1..80)) {
        for step in &steps {
            subject.step(step);
            subject.check();
        }
        for k in 0..30 {
            subject.check_top(k);
            subject.counters.invariants();
        }
    }
}

/// Longer histories, in which rebuilds span many pages and updates fall between their steps.
#[test]
fn rebuilds_in_slices_between_updates_keep_answers_exact() {
    let mut slices = 0;
    for seed in 0..60 {
        let mut prng = Prng::new(seed);
        let candidates = 2 + prng.below(30) as usize;
        let mut subject = Subject::new(0, 0, candidates, 3);
        for round in 0..1_500 {
            let hostile = round / 250 % 2 == 1;
            let step = match prng.below(40) {
                0 => Step::Top { k: prng.below(2 * candidates as u64) as usize },
                1..=9 if hostile => Step::LowerTop { to_bottom: prng.chance(3, 4) },
                10..=29 => Step::Upkeep,
                _ => Step::Add { key: prng.bits() as u8, delta: prng.below(4) as i64 - i64::from(hostile) },
            };
            if matches!(step, Step::Upkeep) {
                slices += u32::from(subject.counters.upkeep());
            } else {
                subject.step(&step);
            }
            if round % 16 == 0 {
                subject.counters.invariants();
            }
        }
        subject.check();
    }
    assert!(slices > 2_000, "only {slices} slices left a rebuild unfinished");
}

#[test]
fn a_refused_increment_changes_nothing_and_stops_nothing() {
    let mut counters = Counters::new(Setup::new(KeyHash(0)..=KeyHash(u64::MAX), 0, 2));
    let increment = |key, delta| Increment { hash: KeyHash::of(0, key), key, delta };
    let batch = [
        increment(b"low", i64::MIN),
        increment(b"high", i64::MAX),
        increment(b"high", 1),
        increment(b"low", -1),
        increment(b"high", -1),
        increment(b"new", 0),
    ];
    let mut outcomes = vec![Outcome::Applied(7)];
    counters.apply_batch(&batch, &mut outcomes);
    assert_eq!(
        outcomes,
        [
            Outcome::Applied(7), // was there before the call
            Outcome::Applied(i64::MIN),
            Outcome::Applied(i64::MAX),
            Outcome::Overflow,
            Outcome::Overflow,
            Outcome::Applied(i64::MAX - 1),
            Outcome::Applied(0),
        ]
    );
    assert_eq!(counters.count(KeyHash::of(0, b"new"), b"new"), Some(0));
    let top = counters.top(9);
    assert_eq!(top.keys.iter().collect::<Vec<_>>(), [&b"high"[..], b"new", b"low"]);
    assert_eq!(top.counts, [i64::MAX - 1, 0, i64::MIN]);
    assert!(top.exhausted);
}

#[test]
fn an_empty_shard_answers() {
    let mut counters = Counters::new(Setup::new(KeyHash(5)..=KeyHash(5), 0, 1));
    assert!(counters.is_empty() && !counters.upkeep());
    assert_eq!(counters.top(10), Top { exhausted: true, ..Top::default() });
    assert_eq!(counters.count(KeyHash(5), b"nothing"), None);
    assert_eq!(counters.pages().map(PageView::len).sum::<usize>(), 0);
    counters.invariants();
}

#[test]
fn the_digest_sees_keys_and_counts_and_nothing_else() {
    let mut prng = Prng::new(3);
    let pairs: Vec<(Key, i64)> = (0..500u64).map(|i| (i.to_string().into_bytes(), prng.below(9) as i64 - 4)).collect();
    let filled = |pairs: &mut dyn Iterator<Item = &(Key, i64)>, seed, candidates, page_keys| {
        let hashes = KeyHash(0)..=KeyHash(u64::MAX);
        let mut counters = Counters::new(Setup { page_keys_max: page_keys, ..Setup::new(hashes, seed, candidates) });
        for (key, count) in pairs {
            let increment = |delta| Increment { hash: KeyHash::of(seed, key), key, delta };
            counters.apply_batch(&[increment(count - 5), increment(5)], &mut Vec::new());
        }
        counters
    };
    let forward = filled(&mut pairs.iter(), 0, 10, 16);
    let backward = filled(&mut pairs.iter().rev(), 1, 2, 512);
    assert_eq!(forward.digest(), backward.digest());

    let missing = filled(&mut pairs.iter().skip(1), 0, 10, 16);
    assert_ne!(forward.digest(), missing.digest());
    // Short keys with small counts, and each pair of counts also the other way round.
    let mut digests = BTreeSet::new();
    let mut sets = 0;
    for (a, b) in (0..12u8).flat_map(|b| (0..b).map(move |a| (a, b))) {
        for (i, j) in (0..12i64).flat_map(|i| (0..12).map(move |j| (i, j))) {
            digests.insert(filled(&mut [(vec![a], i), (vec![b], j)].iter(), 0, 10, 16).digest());
            sets += 1;
        }
    }
    assert_eq!(digests.len(), sets);
}

#[test]
fn memory_is_counted_and_in_proportion() {
    let pool = Pool::heap();
    let setup = Setup { pool: pool.clone(), ..Setup::new(KeyHash(0)..=KeyHash(u64::MAX), 0, 100) };
    let mut counters = Counters::new(setup);
    let mut outcomes = Vec::new();
    let mut memory_before = counters.memory_bytes();
    for number in 0..60_000u64 {
        let key = [mix(number).to_le_bytes(), number.to_le_bytes()].concat();
        let hash = KeyHash::of(0, &key);
        counters.apply_batch(&[Increment { hash, key: &key, delta: 1 }], &mut outcomes);
        outcomes.clear();
        assert!(counters.memory_bytes().abs_diff(memory_before) < 100_000, "no step takes or frees more than a page");
        memory_before = counters.memory_bytes();
    }
    let a_key = counters.memory_bytes() as f64 / 60_000.0;
    assert!((22.0..28.0).contains(&a_key), "{a_key} bytes a key of 16 bytes");
    assert!(pool.free_bytes() < 8 * PAGE_BLOCKS_MAX * BLOCK_BYTES + (2 << 20), "blocks are used again");
    counters.invariants();
}

#[test]
fn pages_know_their_last_change() {
    let setup = Setup { page_keys_max: 8, ..Setup::new(KeyHash(0)..=KeyHash(u64::MAX), 0, 4) };
    let mut counters = Counters::new(setup);
    let mut prng = Prng::new(5);
    let mut changes: BTreeMap<Key, Index> = BTreeMap::new();
    for index in 1..1_000 {
        counters.set_applying(Index(index));
        let key = prng.below(300).to_be_bytes().to_vec();
        let delta = 1 << prng.below(40);
        counters.apply_batch(&[Increment { hash: KeyHash::of(0, &key), key: &key, delta }], &mut Vec::new());
        changes.insert(key, Index(index));
        for page in counters.pages() {
            let last = page.counters().map(|counter| changes[counter.key]).max();
            assert!(last.is_none_or(|last| last <= page.last_change()), "a change was missed");
        }
    }
    assert!(counters.pages().filter(|page| page.last_change() < Index(990)).count() > 10, "each page has its own");
}
