//! Streams made to hurt the candidate set, against a full sort.

use super::simple::SimpleCounters;
use super::*;
use crate::engine::prng::Prng;

type Key = [u8; 8];

struct Stream {
    counters: Counters,
    simple: SimpleCounters,
    prng: Prng,
    setup: Setup,
    /// How often a read was answered without a walk.
    answered: u32,
    scanning: u32,
}

impl Stream {
    fn new(seed: u64, candidates: usize, top_slice_members: usize) -> Stream {
        let setup = Setup::new(KeyHash(0)..=KeyHash(u64::MAX), 0, candidates);
        let setup = Setup { page_keys_max: 32, top_slice_members, ..setup };
        Stream {
            counters: Counters::new(setup.clone()),
            simple: SimpleCounters::default(),
            prng: Prng::new(seed),
            setup,
            answered: 0,
            scanning: 0,
        }
    }

    fn add(&mut self, key: u64, delta: i64) {
        let key: Key = key.to_be_bytes();
        let increment = Increment { hash: KeyHash::of(0, &key), key: &key, delta };
        self.counters.apply_batch(&[increment], &mut Vec::new());
        self.simple.apply_batch(&[increment], &mut Vec::new());
    }

    /// Some of everything that may happen between two increments.
    fn between(&mut self) {
        match self.prng.below(200) {
            0 => self.check(1),
            1 => self.check(10),
            2 => self.check(self.setup.candidates),
            3 => self.check(3 * self.setup.candidates),
            4 => self.restore(),
            5..=30 => {
                self.counters.upkeep();
            }
            31 => self.counters.invariants(),
            _ => {}
        }
    }

    fn check(&mut self, k: usize) {
        let Some(top) = self.counters.begin_top(k) else {
            self.scanning += 1;
            return;
        };
        self.answered += 1;
        let answer: Vec<(&[u8], i64)> = top.keys.iter().zip(top.counts.iter().copied()).collect();
        assert_eq!(answer, self.simple.top(k), "the top {k}");
        assert_eq!(top.exhausted, k as u64 >= self.simple.len());
    }

    /// Continues with fresh counters, filled as from a checkpoint; a walk that was under way is lost with the old ones.
    fn restore(&mut self) {
        let mut restored = Counters::new(self.setup.clone());
        for counter in self.counters.pages().flat_map(PageView::counters) {
            let increment = Increment { hash: counter.hash, key: counter.key, delta: counter.count };
            restored.apply_batch(&[increment], &mut Vec::new());
        }
        self.counters = restored;
    }

    /// Lets walks end, and asks for every k.
    fn finish(&mut self) {
        for k in [0, 1, 7, self.setup.candidates, 2 * self.setup.candidates + 1, 100_000] {
            let top = self.counters.top(k);
            let answer: Vec<(&[u8], i64)> = top.keys.iter().zip(top.counts.iter().copied()).collect();
            assert_eq!(answer, self.simple.top(k), "the top {k}");
            self.counters.invariants();
        }
        assert!(self.answered > 0, "nothing was ever answered on the way");
    }

    /// The key of a rank from the top.
    fn ranked(&self, rank: usize) -> (u64, i64) {
        let top = self.simple.top(rank + 1);
        let (key, count) = top[rank.min(top.len() - 1)];
        (u64::from_be_bytes(key.try_into().expect("keys have eight bytes")), count)
    }
}

/// Runs `step` again and again, with everything else in between, for sets of several sizes.
fn hurt(steps: u64, mut step: impl FnMut(&mut Stream, u64)) -> (u32, u32) {
    let mut totals = (0, 0);
    // The last number is that of members in a slice: some sets are compacted at once, the others in slices.
    for (seed, candidates, slice) in [(1, 2, 100), (2, 5, 1), (3, 16, 100), (4, 60, 100), (5, 16, 3), (6, 60, 16)] {
        let mut stream = Stream::new(seed, candidates, slice);
        for number in 0..steps {
            step(&mut stream, number);
            stream.between();
        }
        stream.finish();
        totals = (totals.0 + stream.answered, totals.1 + stream.scanning);
    }
    totals
}

#[test]
fn all_ties() {
    hurt(3_000, |stream, _| {
        let key = stream.prng.below(5_000);
        if stream.counters.count(KeyHash::of(0, &key.to_be_bytes()), &key.to_be_bytes()).is_none() {
            stream.add(key, 1);
        }
    });
}

#[test]
fn descending_keys_with_equal_counts() {
    hurt(3_000, |stream, number| stream.add(100_000 - number, 1));
}

#[test]
fn every_count_rises_in_turn() {
    hurt(6_000, |stream, number| stream.add(499 - number % 500, 1));
}

#[test]
fn churn_at_the_boundary() {
    hurt(3_000, |stream, number| {
        if number < 400 {
            return stream.add(number, (number % 20) as i64);
        }
        let rank = stream.setup.candidates / 2 + stream.prng.below(2 * stream.setup.candidates as u64) as usize;
        let (key, _) = stream.ranked(rank);
        let delta = if stream.prng.chance(1, 2) { 1 } else { -1 };
        stream.add(key, delta);
    });
}

#[test]
fn counts_that_rise_and_fall_through_the_boundary() {
    hurt(6_000, |stream, number| {
        let key = stream.prng.below(300);
        let up = (number / 100 + key) % 2 == 0;
        let delta = stream.prng.below(50) as i64;
        stream.add(key, if up { delta } else { -delta });
    });
}

#[test]
fn an_adversary_that_lowers_the_top() {
    let (answered, scanning) = hurt(3_000, |stream, number| {
        if number < 800 {
            return stream.add(number, stream.prng.clone().below(1_000) as i64);
        }
        let (key, count) = stream.ranked(0);
        stream.add(key, -count - (number as i64));
    });
    assert!(answered > 20 && scanning > 20, "{answered} answers, {scanning} scans");
}

#[test]
fn keys_born_negative() {
    hurt(3_000, |stream, _| {
        let key = stream.prng.below(1_000);
        let delta = stream.prng.below(20) as i64 - 19;
        stream.add(key, delta);
    });
}

#[test]
fn reads_in_the_middle_of_a_sliced_compaction() {
    for (seed, candidates, slice) in [(1, 40, 2), (2, 40, 7), (3, 100, 16)] {
        let mut stream = Stream::new(seed, candidates, slice);
        for number in 0..1_500 {
            // Mostly newcomers that are admitted, so that one compaction follows the other.
            let number = if stream.prng.chance(1, 10) { stream.prng.below(1_500) } else { number };
            let delta = if stream.prng.chance(1, 20) { -1 } else { (number / 10) as i64 };
            stream.add(10_000 - number, delta);
            // A head would answer for the set.
            stream.check(1 + number as usize % candidates);
            if number % 8 == 0 {
                stream.check(candidates);
            }
        }
        stream.finish();
    }
}

#[test]
fn mutants_are_caught() {
    let caught = |name: &str, test: fn()| {
        let mutant = crate::mutant::caught_here(name);
        let noticed = std::panic::catch_unwind(|| crate::mutant::with(mutant, test)).is_err();
        assert!(noticed, "{mutant:?}");
    };
    caught("birth-below-zero-not-tested", keys_born_negative);
    caught("flags-cleared-first", reads_in_the_middle_of_a_sliced_compaction);
}

#[test]
fn zipf_and_uniform() {
    for exponent in [0.0, 0.5, 0.8, 0.99, 1.2, 1.5] {
        let mut sum = 0.0;
        let bounds: Vec<f64> = (1..=2_000)
            .map(|rank| {
                sum += f64::from(rank).powf(-exponent);
                sum
            })
            .collect();
        hurt(6_000, |stream, _| {
            let unit = (stream.prng.bits() >> 11) as f64 / (1u64 << 53) as f64;
            let rank = bounds.partition_point(|&bound| bound <= unit * sum) as u64;
            let delta = if stream.prng.chance(1, 8) { -1 } else { 1 };
            stream.add(mix(rank), delta);
        });
    }
}
