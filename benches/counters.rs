//! What one core does with the counters of one shard, beside the simple counters of the tests, and what both weigh.
//!
//! The machine is never quiet, so what is compared is measured in turns within one run, in processor time of this thread: each line below gives the median
//! over the turns of each contender, and the median of the ratios turn by turn. Criterion times the main operations
//! once more, for its own comparison with the last run.
//!
//! A million and twenty million keys, of 16 and 64 bytes; in test mode (`cargo bench -- --test`, `cargo test --benches`)
//! two and four thousand. Streams are laid out before the clock starts, with their key bytes in order of use, as
//! a decoded request has them. An argument selects the sections whose name contains it.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark reads clocks")]

use std::hint::black_box;
use std::ops::RangeInclusive;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use dkc::engine::counters::simple::SimpleCounters;
use dkc::engine::counters::{Counters, Increment, Outcome, Pool, Route, Secret, Setup};
use dkc::engine::prng::{Prng, mix};
use dkc::ids::KeyHash;
use dkc::limits::{APPLY_CHUNK_KEYS, TOP_CANDIDATES};

const ALL_HASHES: RangeInclusive<KeyHash> = KeyHash(0)..=KeyHash(u64::MAX);
/// Operations of one contender in one turn.
const TURN: usize = 1 << 15;

/// How much to do: criterion times only when cargo asks it to with `--bench`.
struct Scale {
    small: u64,
    large: u64,
    turns: usize,
    turn: usize,
}

fn is_measuring() -> bool {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    has("--bench") && !has("--test")
}

fn scale() -> Scale {
    if is_measuring() {
        Scale { small: 1_000_000, large: 20_000_000, turns: 40, turn: TURN }
    } else {
        Scale { small: 2_000, large: 4_000, turns: 2, turn: 256 }
    }
}

/// Whether a section was asked for.
fn is_selected(section: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| section.contains(&word))
}

/// Keys laid out one after another, as increments want them.
struct Stream {
    bytes: Vec<u8>,
    length: usize,
}

impl Stream {
    fn new(length: usize, numbers: impl Iterator<Item = u64>) -> Stream {
        let mut bytes = Vec::new();
        for number in numbers {
            let start = bytes.len();
            bytes.extend_from_slice(&mix(number).to_be_bytes());
            bytes.extend_from_slice(&number.to_be_bytes());
            bytes.resize(start + length, 0x5a);
        }
        Stream { bytes, length }
    }

    fn increments(&self) -> Vec<Increment<'_>> {
        let keys = self.bytes.chunks_exact(self.length);
        keys.map(|key| Increment { hash: KeyHash::of(0, key), key, delta: 1 }).collect()
    }
}

fn uniform(length: usize, keys: u64, count: usize) -> Stream {
    let mut prng = Prng::new(1);
    Stream::new(length, (0..count).map(|_| prng.below(keys)))
}

/// Numbers below `keys`, where number n is drawn with a weight of 1 / (n + 1)^exponent.
fn zipf(keys: u64, exponent: f64, count: usize) -> Stream {
    let mut sum = 0.0;
    let bounds: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect();
    let mut prng = Prng::new(2);
    let mut draw = || {
        let unit = (prng.bits() >> 11) as f64 / (1u64 << 53) as f64;
        bounds.partition_point(|&bound| bound <= unit * sum) as u64
    };
    Stream::new(16, (0..count).map(|_| draw()))
}

/// Memory as a store of the server has it.
#[cfg(feature = "server")]
fn store_pool() -> Pool {
    dkc::runtime::memory::pool(true)
}

#[cfg(not(feature = "server"))]
fn store_pool() -> Pool {
    Pool::default()
}

fn counters(candidates: usize) -> Counters {
    let pool = store_pool();
    Counters::new(Setup { secret: Secret([5, 6]), pool, ..Setup::new(ALL_HASHES, 0, candidates) })
}

/// Counters that hold every key once.
fn filled(keys: u64, candidates: usize) -> Counters {
    let mut counters = counters(candidates);
    let mut outcomes = Vec::new();
    for start in (0..keys).step_by(4_096) {
        outcomes.clear();
        let stream = Stream::new(16, start..keys.min(start + 4_096));
        counters.apply_batch(&stream.increments(), &mut outcomes);
    }
    counters
}

/// Nanoseconds an operation, of each contender in each turn.
struct Turns<const N: usize> {
    nanos: Vec<[f64; N]>,
}

impl<const N: usize> Turns<N> {
    fn measure(turns: usize, operations: usize, mut contender: impl FnMut(usize, usize)) -> Turns<N> {
        let mut measured = Turns { nanos: Vec::with_capacity(turns) };
        for turn in 0..turns {
            measured.add(turn, operations, |number| contender(number, turn));
        }
        measured
    }

    /// Measures one more turn.
    fn add(&mut self, turn: usize, operations: usize, mut contender: impl FnMut(usize)) {
        let mut nanos = [0.0; N];
        for place in 0..N {
            // Each goes first as often as any other.
            let number = (place + turn) % N;
            let begin = processor_nanos();
            contender(number);
            nanos[number] = (processor_nanos() - begin) as f64 / operations as f64;
        }
        self.nanos.push(nanos);
    }

    fn report(&self, what: &str, names: [&str; N]) {
        print!("{what:<58}");
        for (number, name) in names.into_iter().enumerate() {
            let nanos = median(self.nanos.iter().map(|turn| turn[number]));
            print!(" {name} {nanos:>7.1} ns");
            if number > 0 {
                print!(" (x {:.2})", median(self.nanos.iter().map(|turn| turn[number] / turn[0])));
            }
        }
        println!();
    }
}

/// Time this thread has run, in which the time of others on the same core is not.
fn processor_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Inserts, hits and misses, one at a time and in batches.
fn table(c: &mut Criterion) {
    let scale = scale();
    for (keys, length) in [(scale.small, 16), (scale.small, 64), (scale.large, 16), (scale.large, 64)] {
        let name = format!("table, {keys} keys of {length} bytes");
        if is_selected(&name) {
            one_table(c, &scale, &name, keys, length);
        }
    }
}

fn one_table(c: &mut Criterion, scale: &Scale, name: &str, keys: u64, length: usize) {
    let mut lean = counters(TOP_CANDIDATES);
    let mut simple = SimpleCounters::default();
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(scale.turn);
    let mut inserts = Turns::<2> { nanos: Vec::new() };
    for (number, start) in (0..keys).step_by(scale.turn).enumerate() {
        let stream = Stream::new(length, start..keys.min(start + scale.turn as u64));
        let batch = stream.increments();
        inserts.add(number, batch.len(), |contender| {
            outcomes.clear();
            match contender {
                0 => simple.apply_batch(&batch, &mut outcomes),
                _ => lean.apply_batch(&batch, &mut outcomes),
            }
        });
    }
    inserts.report(&format!("{name}: insert"), ["simple", "lean"]);

    let stream = uniform(length, keys, scale.turns * scale.turn);
    let increments = stream.increments();
    let turns: Vec<&[Increment<'_>]> = increments.chunks_exact(scale.turn).collect();
    // Each has keys of its own in each turn: none finds in the cache what another has just fetched.
    let place = |contender: usize, turn: usize| (turn + contender * scale.turns / 3) % scale.turns;
    Turns::<3>::measure(scale.turns, scale.turn, |contender, turn| {
        let turn = turns[place(contender, turn)];
        outcomes.clear();
        match contender {
            0 => simple.apply_batch(turn, &mut outcomes),
            1 => turn.chunks(1).for_each(|one| lean.apply_batch(one, &mut outcomes)),
            _ => turn.chunks(APPLY_CHUNK_KEYS).for_each(|batch| lean.apply_batch(batch, &mut outcomes)),
        }
    })
    .report(&format!("{name}: increment"), ["simple", "lean, one", "lean, 32"]);

    let absent = Stream::new(length, keys..keys + (scale.turns * scale.turn) as u64);
    for (kind, increments) in [("get", &increments), ("get of an absent key", &absent.increments())] {
        let pairs: Vec<(KeyHash, &[u8])> = increments.iter().map(|one| (one.hash, one.key)).collect();
        let turns: Vec<&[(KeyHash, &[u8])]> = pairs.chunks_exact(scale.turn).collect();
        let mut counts = Vec::with_capacity(scale.turn);
        Turns::<3>::measure(scale.turns, scale.turn, |contender, turn| {
            let turn = turns[place(contender, turn)];
            counts.clear();
            match contender {
                0 => counts.extend(turn.iter().map(|&(hash, key)| simple.count(hash, key))),
                1 => counts.extend(turn.iter().map(|&(hash, key)| lean.count(hash, key))),
                _ => turn.chunks(APPLY_CHUNK_KEYS).for_each(|batch| lean.counts(batch, &mut counts)),
            }
            black_box(counts.last());
        })
        .report(&format!("{name}: {kind}"), ["simple", "lean, one", "lean, 32"]);
    }
    let bytes = |memory: u64| memory as f64 / keys as f64;
    let (simple_bytes, lean_bytes) = (bytes(simple.memory_bytes()), bytes(lean.memory_bytes()));
    println!("{name:<58} simple {simple_bytes:.1} bytes a key, lean {lean_bytes:.1}");

    let mut group = c.benchmark_group(name);
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(scale.turn as u64)).sample_size(20);
    let mut next = turns.iter().cycle();
    group.bench_function("increment in batches", |b| {
        b.iter(|| {
            outcomes.clear();
            lean.apply_batch(next.next().expect("a cycle has no end"), &mut outcomes);
        });
    });
    group.finish();
}

/// The same counters in three kinds of memory: heap, the store's own maps on small pages, and those on huge ones.
#[cfg(feature = "server")]
fn pool(_: &mut Criterion) {
    use dkc::runtime::memory;
    if !is_selected("pool") {
        return;
    }
    let scale = scale();
    let names = ["heap", "mapped", "huge pages"];
    for keys in [scale.small, scale.large] {
        let mut contenders = [Pool::heap(), memory::pool(false), memory::pool(true)].map(|pool| {
            Counters::new(Setup { secret: Secret([5, 6]), pool, ..Setup::new(ALL_HASHES, 0, TOP_CANDIDATES) })
        });
        let mut outcomes = Vec::with_capacity(scale.turn);
        let mut inserts = Turns::<3> { nanos: Vec::new() };
        for (number, start) in (0..keys).step_by(scale.turn).enumerate() {
            let stream = Stream::new(16, start..keys.min(start + scale.turn as u64));
            let batch = stream.increments();
            inserts.add(number, batch.len(), |contender| {
                outcomes.clear();
                contenders[contender].apply_batch(&batch, &mut outcomes);
            });
        }
        inserts.report(&format!("pool, {keys} keys: insert"), names);
        let stream = uniform(16, keys, scale.turns * scale.turn);
        let increments = stream.increments();
        let turns: Vec<&[Increment<'_>]> = increments.chunks_exact(scale.turn).collect();
        for (kind, size) in [("increment, 32", APPLY_CHUNK_KEYS), ("increment, one", 1)] {
            Turns::<3>::measure(scale.turns, scale.turn, |contender, turn| {
                outcomes.clear();
                let turn = turns[(turn + contender * scale.turns / 3) % scale.turns];
                turn.chunks(size).for_each(|batch| contenders[contender].apply_batch(batch, &mut outcomes));
            })
            .report(&format!("pool, {keys} keys: {kind}"), names);
        }
    }
}

#[cfg(not(feature = "server"))]
fn pool(_: &mut Criterion) {}

/// What keeping the candidate set costs: with one candidate, what remains of its work is a failed compare.
fn candidates(_: &mut Criterion) {
    if !is_selected("candidates") {
        return;
    }
    let scale = scale();
    let keys = scale.large;
    let mut with = filled(keys, TOP_CANDIDATES);
    let mut without = filled(keys, 1);
    let count = scale.turns * scale.turn;
    // Equal counts: in descending order of keys each increment is an admission, in ascending order (what the one
    // candidate gets) none is, once the set is full.
    let mut ranking: Vec<u64> = (0..count as u64).collect();
    ranking.sort_by_key(|&number| mix(number));
    let ascending = Stream::new(16, ranking.iter().copied());
    let descending = Stream::new(16, ranking.iter().rev().copied());
    let streams = [
        ("Zipf 0.99", zipf(keys, 0.99, count)),
        ("Zipf 0.8", zipf(keys, 0.8, count)),
        ("Zipf 1.2", zipf(keys, 1.2, count)),
        ("uniform", uniform(16, keys, count)),
        ("each an admission", descending),
    ];
    for (kind, stream) in streams {
        let mut outcomes = Vec::with_capacity(scale.turn);
        let mut increments = stream.increments();
        let mut plain = increments.clone();
        if kind == "each an admission" {
            // Above whatever the other streams have left, and as wide for both.
            plain = ascending.increments();
            increments.iter_mut().chain(&mut plain).for_each(|increment| increment.delta = 1 << 40);
        }
        let turns: [Vec<&[Increment<'_>]>; 2] =
            [&plain, &increments].map(|increments| increments.chunks_exact(scale.turn).collect());
        Turns::<2>::measure(scale.turns, scale.turn, |contender, turn| {
            outcomes.clear();
            let counters = if contender == 0 { &mut without } else { &mut with };
            counters.apply_batch(turns[contender][turn], &mut outcomes);
        })
        .report(&format!("candidates, {keys} keys: {kind}"), ["1", "2048"]);
    }
}

/// The top 100, each time after some increments.
fn top(_: &mut Criterion) {
    if !is_selected("top") {
        return;
    }
    let scale = scale();
    for keys in [scale.small, scale.large] {
        let mut counters = filled(keys, TOP_CANDIDATES);
        let count = 64 * scale.turn;
        let mut outcomes = Vec::new();
        for (kind, stream) in [("Zipf 0.99", zipf(keys, 0.99, count)), ("uniform", uniform(16, keys, count))] {
            let increments = stream.increments();
            let mut micros = Vec::new();
            for batch in increments.chunks_exact(scale.turn / 4) {
                outcomes.clear();
                counters.apply_batch(batch, &mut outcomes);
                let begin = processor_nanos();
                black_box(counters.top(100));
                micros.push((processor_nanos() - begin) as f64 / 1_000.0);
            }
            micros.sort_by(f64::total_cmp);
            let at = |part: f64| micros[((micros.len() - 1) as f64 * part) as usize];
            println!(
                "top 100 of {keys} keys, after each {} increments ({kind}): p50 {:.1} µs, p90 {:.1}, p99 {:.1}, max {:.1}",
                scale.turn / 4,
                at(0.5),
                at(0.9),
                at(0.99),
                at(1.0)
            );
        }
        let k = 10_000.min(keys as usize / 2);
        let mut slices = Vec::new();
        let begin = processor_nanos();
        while counters.begin_top(k).is_none() {
            loop {
                let begin = processor_nanos();
                let more = counters.upkeep();
                slices.push((processor_nanos() - begin) as f64 / 1_000.0);
                if !more {
                    break;
                }
            }
        }
        slices.sort_by(f64::total_cmp);
        let at = |part: f64| slices.get((slices.len() as f64 * part) as usize).copied().unwrap_or(0.0);
        let (all, p50, p99) = ((processor_nanos() - begin) as f64 / 1e6, at(0.5), at(0.99));
        let max = slices.last().copied().unwrap_or(0.0);
        let count = slices.len();
        println!(
            "top {k} of {keys} keys: {all:.1} ms in {count} slices of {p50:.1} µs (p99 {p99:.1}, max {max:.1} µs)"
        );
    }
}

/// Keys whose hashes an enemy has chosen: they agree in their first 40 bits, or wholly. The price of each is that of one
/// page at most, and their memory that of any keys.
fn hostile(_: &mut Criterion) {
    if !is_selected("hostile") {
        return;
    }
    let (keys, turns) = if is_measuring() { (200_000, 100) } else { (4_000, 10) };
    let routes: [Route; 3] = [KeyHash::of, |_, key| KeyHash(KeyHash::of(0, key).0 >> 40), |_, _| KeyHash(77)];
    let mut contenders = routes.map(|route| {
        let setup = Setup { secret: Secret([5, 6]), ..Setup::new(ALL_HASHES, 0, TOP_CANDIDATES) };
        (Counters::with_hash(setup, route), route)
    });
    let stream = Stream::new(16, 0..keys);
    let hashed = |route: Route| -> Vec<Increment<'_>> {
        let keys = stream.bytes.chunks_exact(stream.length);
        keys.map(|key| Increment { hash: route(0, key), key, delta: 1 }).collect()
    };
    let increments = routes.map(hashed);
    let turn = keys as usize / turns;
    let mut outcomes = Vec::with_capacity(turn);
    let names = ["any hashes", "equal prefixes", "equal hashes"];
    for kind in ["insert", "increment"] {
        let measured = Turns::<3>::measure(turns, turn, |contender, number| {
            outcomes.clear();
            let batch = &increments[contender][number * turn..(number + 1) * turn];
            contenders[contender].0.apply_batch(batch, &mut outcomes);
        });
        let worst = measured.nanos.iter().map(|turn| turn[2]).fold(0.0, f64::max);
        measured.report(&format!("hostile, {keys} keys: {kind}"), names);
        println!("hostile, {keys} keys: {kind}: equal hashes, slowest turn {worst:.0} ns");
    }
    for (name, (counters, _)) in names.into_iter().zip(&contenders) {
        println!("hostile, {name}: {:.1} bytes a key", counters.memory_bytes() as f64 / keys as f64);
    }
}

/// Bytes a counter while the table grows, everything included.
fn growth(_: &mut Criterion) {
    if !is_selected("growth") {
        return;
    }
    let scale = scale();
    let pool = store_pool();
    let mut counters = Counters::new(Setup { pool: pool.clone(), ..Setup::new(ALL_HASHES, 0, TOP_CANDIDATES) });
    let mut outcomes = Vec::new();
    let before = resident_bytes();
    let (mut sum, mut weight, mut worst, mut worst_at) = (0.0, 0.0, 0.0f64, 0);
    println!("growth: keys, bytes a key of 16 bytes (of them free in the pool), resident");
    let steps = 96;
    let ratio = (scale.large as f64 / scale.small as f64).powf(1.0 / f64::from(steps));
    let mut next = 0;
    let mut keys = 0;
    while keys < scale.large {
        let stream = Stream::new(16, keys..(keys + 4_096).min(scale.large));
        outcomes.clear();
        counters.apply_batch(&stream.increments(), &mut outcomes);
        keys = counters.len();
        if keys as f64 + 1.0 < scale.small as f64 * ratio.powi(next) {
            continue;
        }
        let free = pool.free_bytes() as f64 / keys as f64;
        let bytes = counters.memory_bytes() as f64 / keys as f64 + free;
        (sum, weight) = (sum + bytes, weight + 1.0);
        if bytes > worst {
            (worst, worst_at) = (bytes, keys);
        }
        if next % 8 == 0 {
            let resident = resident_bytes().saturating_sub(before) as f64 / keys as f64;
            println!("growth: {keys:>10}  {bytes:.2} ({free:.2})  {resident:.2}");
        }
        next += 1;
    }
    println!("growth: {:.2} bytes a key on average, {worst:.2} at most (at {worst_at} keys)", sum / weight);
}

/// How long single increments take while the table grows by as much again, each of a new key: none may wait for a page that splits, or for
/// anything larger, longer than that takes.
fn single(_: &mut Criterion) {
    if !is_selected("single") {
        return;
    }
    let scale = scale();
    let mut counters = filled(scale.small, TOP_CANDIDATES);
    let stream = Stream::new(16, scale.small..2 * scale.small);
    let mut outcomes = Vec::new();
    let mut nanos = Vec::with_capacity(scale.small as usize);
    for increment in stream.increments() {
        outcomes.clear();
        let begin = processor_nanos();
        counters.apply_batch(&[increment], &mut outcomes);
        nanos.push(processor_nanos() - begin);
    }
    nanos.sort_unstable();
    let at = |part: f64| nanos[((nanos.len() - 1) as f64 * part) as usize] as f64 / 1_000.0;
    println!(
        "single increments while {} keys become {}: p50 {:.2} µs, p99 {:.2}, p99.9 {:.1}, p99.99 {:.1}, max {:.1}",
        scale.small,
        2 * scale.small,
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        at(1.0)
    );
}

/// Pages of this process that are in memory.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4_096
}

criterion_group!(benches, growth, single, table, pool, candidates, top, hostile);
criterion_main!(benches);
