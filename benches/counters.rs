//! What one core does with the counters of one shard: increments of keys that exist (uniform and Zipf 0.99), inserts,
//! reads that miss, the top 100, and what keeping the candidate set costs.
//!
//! A million keys of 16 bytes; in test mode (`cargo bench -- --test`, `cargo test --benches`) two thousand.
//! Batches are laid out before the clock starts, with their key bytes in order of use, as a decoded request has them.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark reads clocks")]

use std::hint::black_box;
use std::ops::RangeInclusive;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use dkc::engine::counters::{Counters, Increment, Outcome};
use dkc::engine::prng::{Prng, mix};
use dkc::ids::KeyHash;
use dkc::limits::TOP_CANDIDATES;

const ALL_HASHES: RangeInclusive<KeyHash> = KeyHash(0)..=KeyHash(u64::MAX);
const ZIPF_EXPONENT: f64 = 0.99;
const BATCH: usize = 4_096;

type Key = [u8; 16];

/// How much to do: criterion times only when cargo asks it to with `--bench`.
struct Scale {
    keys: u64,
    /// Increments laid out, then used round and round.
    stream: usize,
}

fn scale() -> Scale {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    if has("--bench") && !has("--test") {
        Scale { keys: 1_000_000, stream: 256 * BATCH }
    } else {
        Scale { keys: 2_000, stream: BATCH }
    }
}

fn key(number: u64) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(number).to_le_bytes());
    key[8..].copy_from_slice(&number.to_le_bytes());
    key
}

fn increment(key: &Key) -> Increment<'_> {
    Increment { hash: KeyHash::of(0, key), key, delta: 1 }
}

/// Numbers below `keys`, where number n is drawn with a weight of 1 / (n + 1)^exponent.
fn zipf(keys: u64, exponent: f64, prng: &mut Prng) -> impl FnMut() -> u64 {
    let mut sum = 0.0;
    let cumulated: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect();
    move || {
        let unit = (prng.bits() >> 11) as f64 / (1u64 << 53) as f64;
        cumulated.partition_point(|&bound| bound <= unit * sum) as u64
    }
}

fn uniform_stream(scale: &Scale) -> Vec<Key> {
    let mut prng = Prng::new(1);
    (0..scale.stream).map(|_| key(prng.below(scale.keys))).collect()
}

fn zipf_stream(scale: &Scale) -> Vec<Key> {
    let mut prng = Prng::new(2);
    let mut draw = zipf(scale.keys, ZIPF_EXPONENT, &mut prng);
    (0..scale.stream).map(|_| key(draw())).collect()
}

/// Counters that hold every key once.
fn filled(scale: &Scale, candidates: usize) -> Counters {
    let mut counters = Counters::new(ALL_HASHES, candidates);
    let mut outcomes = Vec::new();
    for number in 0..scale.keys {
        counters.apply_batch(&[increment(&key(number))], &mut outcomes);
        outcomes.clear();
    }
    counters
}

fn increments(c: &mut Criterion) {
    let scale = scale();
    let mut group = c.benchmark_group("counters/increment");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (distribution, keys) in [("uniform", uniform_stream(&scale)), ("zipf", zipf_stream(&scale))] {
        let stream: Vec<Increment<'_>> = keys.iter().map(increment).collect();
        // With one candidate the boundary is the highest count: what remains of the set's work is two failed compares.
        for candidates in [TOP_CANDIDATES, 1] {
            let mut counters = filled(&scale, candidates);
            let mut outcomes: Vec<Outcome> = Vec::with_capacity(BATCH);
            let mut batches = stream.chunks_exact(BATCH).cycle();
            group.bench_function(format!("{distribution}, {candidates} candidates"), |b| {
                b.iter(|| {
                    outcomes.clear();
                    counters.apply_batch(batches.next().expect("a cycle has no end"), &mut outcomes);
                    black_box(outcomes.last());
                });
            });
        }
    }
    group.finish();
}

fn inserts(c: &mut Criterion) {
    let scale = scale();
    let keys: Vec<Key> = (0..scale.keys).map(key).collect();
    let batch: Vec<Increment<'_>> = keys.iter().map(increment).collect();
    let mut group = c.benchmark_group("counters/insert");
    group.throughput(Throughput::Elements(scale.keys)).sample_size(10);
    group.bench_function("all keys into an empty shard", |b| {
        let empty = || (Counters::new(ALL_HASHES, TOP_CANDIDATES), Vec::with_capacity(batch.len()));
        b.iter_batched(
            empty,
            |(mut counters, mut outcomes)| {
                counters.apply_batch(&batch, &mut outcomes);
                (counters, outcomes)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn reads(c: &mut Criterion) {
    let scale = scale();
    let mut counters = filled(&scale, TOP_CANDIDATES);
    eprintln!("memory: {:.1} bytes a key of 16 bytes", counters.memory_bytes() as f64 / counters.len() as f64);

    let mut group = c.benchmark_group("counters/count");
    let absent: Vec<Key> = (scale.keys..scale.keys + scale.stream as u64).map(key).collect();
    for (kind, keys) in [("hit", uniform_stream(&scale)), ("miss", absent)] {
        let stream: Vec<Increment<'_>> = keys.iter().map(increment).collect();
        let mut batches = stream.chunks_exact(BATCH).cycle();
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(kind, |b| {
            b.iter(|| {
                for increment in batches.next().expect("a cycle has no end") {
                    black_box(counters.count(increment.hash, increment.key));
                }
            });
        });
    }
    group.finish();

    let keys = zipf_stream(&scale);
    let stream: Vec<Increment<'_>> = keys.iter().map(increment).collect();
    counters.apply_batch(&stream, &mut Vec::new());
    let mut group = c.benchmark_group("counters/top");
    group.bench_function("100, from the set", |b| b.iter(|| black_box(counters.top(100))));
    // Each read follows the birth of a top key, which compacts the enlarged set away, so each walks the table.
    let mut number = u64::MAX;
    let k = 2 * TOP_CANDIDATES + 1;
    group.sample_size(10).bench_function(format!("{k}, with a walk over the table"), |b| {
        b.iter(|| {
            let newcomer = key(number);
            number -= 1;
            let increment = Increment { delta: 1 << 40, ..increment(&newcomer) };
            counters.apply_batch(&[increment], &mut Vec::new());
            black_box(counters.top(k))
        });
    });
    group.finish();
}

criterion_group!(benches, increments, inserts, reads);
criterion_main!(benches);
