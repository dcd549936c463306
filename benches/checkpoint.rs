//! What a checkpoint costs: an image of each page put into envelopes, and counters made of them again.
//!
//! In processor time of this thread, for keys of 16 and 64 bytes and counts as skewed streams have them. In test mode
//! (`cargo test --benches`) with a few thousand keys.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark reads clocks")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rkyv::util::AlignedVec;

use dkc::engine::checkpoint::CheckpointFile;
use dkc::engine::checkpoint::archive::{PagePiece, page};
use dkc::engine::checkpoint::envelope::{ENVELOPE_HEADER_BYTES, Kind, Position, Preamble, Stored};
use dkc::engine::counters::image::{Extent, Restoring};
use dkc::engine::counters::{Counters, Increment, Setup};
use dkc::engine::prng::mix;
use dkc::engine::wal::WalIdentity;
use dkc::ids::{CheckpointNumber, ClusterId, Index, KeyHash, NodeId, ShardId, StoreId};

const SEED: u64 = 9;

fn keys() -> u64 {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    if has("--bench") && !has("--test") { 2_000_000 } else { 4_000 }
}

fn setup() -> Setup {
    Setup::new(KeyHash(0)..=KeyHash(u64::MAX), SEED, 2_048)
}

fn filled(length: usize) -> Counters {
    let mut counters = Counters::new(setup());
    let mut outcomes = Vec::new();
    let mut key = vec![b'k'; length];
    for number in 0..keys() {
        key[..8].copy_from_slice(&mix(number).to_be_bytes());
        // A few keys have large counts, most have small ones.
        let delta = (keys() / (number + 1)) as i64 + 1;
        counters.apply_batch(&[Increment { hash: KeyHash::of(SEED, &key), key: &key, delta }], &mut outcomes);
        outcomes.clear();
    }
    counters
}

fn start() -> Position {
    let store = WalIdentity { cluster: ClusterId(1), node: NodeId(1), store: StoreId(0) };
    let file = CheckpointFile { shard: ShardId(1), number: CheckpointNumber(1) };
    Position::first(&Preamble { store, file }.encode())
}

/// An envelope a page.
fn encode(counters: &Counters) -> Vec<u8> {
    let (mut position, mut file, mut piece) = (start(), Vec::new(), PagePiece::default());
    for view in counters.pages() {
        let extent = view.extent();
        (piece.position, piece.depth) = (extent.position, extent.depth);
        piece.key_lengths.clear();
        piece.keys.clear();
        piece.counts.clear();
        view.for_each(|key, count| {
            piece.key_lengths.push(key.len() as u16);
            piece.keys.extend_from_slice(key);
            piece.counts.push(count);
        });
        position.seal(Kind::Page, &piece, &mut file);
    }
    file
}

fn decode(mut file: &[u8]) -> Counters {
    let (mut position, mut archive, mut restoring) = (start(), AlignedVec::new(), Restoring::new(setup()));
    while let Some((header, rest)) = file.split_first_chunk::<ENVELOPE_HEADER_BYTES>() {
        let stored = Stored::decode(*header).expect("our own");
        let (content, rest) = rest.split_at(stored.bytes);
        file = rest;
        position.open(&stored, content, &mut archive).expect("our own");
        let piece = page(&archive).expect("our own");
        let extent = Extent { position: piece.position.to_native(), depth: piece.depth.to_native(), second: None };
        let keys = piece.counts.len();
        restoring.page(extent, Index(0), keys, piece.counters().expect("our own")).expect("the next page");
    }
    restoring.finish().expect("whole").0
}

fn checkpoints(criterion: &mut Criterion) {
    for length in [16, 64] {
        let counters = filled(length);
        let file = encode(&counters);
        let bytes = file.len() as f64 / counters.len() as f64;
        println!("checkpoint of {} keys of {length} bytes: {bytes:.1} bytes a key", counters.len());
        assert_eq!(decode(&file).digest(), counters.digest());
        let mut group = criterion.benchmark_group(format!("checkpoint/{length}"));
        group.sample_size(10).throughput(Throughput::Elements(counters.len()));
        group.bench_function("encode", |bencher| bencher.iter(|| black_box(encode(&counters))));
        group.bench_function("decode", |bencher| bencher.iter(|| black_box(decode(&file))));
        group.finish();
    }
}

criterion_group!(benches, checkpoints);
criterion_main!(benches);
