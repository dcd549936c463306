//! What bytes cost on their way: records of the log written and read, frames of requests taken from a stream of bytes.
//!
//! For batches of one, a hundred and ten thousand increments of 16-byte keys. Frames are timed as far as their checksums, and
//! further to verified keys with their hashes. Run as a test, each is done once.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use dkc::engine::part::PackedKeys;
use dkc::engine::prng::mix;
use dkc::engine::wal::record::{Chain, RecordHeader, RecordKind};
use dkc::ids::{Index, KeyHash, Lsn, SegmentEpoch, ShardId, StoreId, Term};
use dkc::limits::REQUEST_BYTES_MAX;
use dkc::wire::client::{Encoder, Request, decode_request};
use dkc::wire::frame::Decoder;

const BATCHES: [usize; 3] = [1, 100, 10_000];
const KEY_BYTES: usize = 16;
const CHAIN: Chain = Chain { store: StoreId(0), epoch: SegmentEpoch(1), crc: 7 };

fn keys(count: usize) -> PackedKeys {
    let mut keys = PackedKeys::default();
    for number in 0..count as u64 {
        let key = [mix(number).to_be_bytes(), number.to_be_bytes()];
        keys.push(key.as_flattened());
    }
    keys
}

/// Records of as many bytes as entries of so many increments have, about.
fn wal_record(c: &mut Criterion) {
    let mut group = c.benchmark_group("WAL record");
    for increments in BATCHES {
        let payload: Vec<u8> = (0..increments * (KEY_BYTES + 2)).map(|place| mix(place as u64) as u8).collect();
        let header = RecordHeader {
            kind: RecordKind::Entry,
            shard: ShardId(1),
            term: Term(2),
            index: Index(3),
            commit: Index(2),
            lsn: Lsn(4_096),
        };
        group.throughput(Throughput::Bytes(payload.len() as u64));
        let mut stream = Vec::new();
        group.bench_function(BenchmarkId::new("encode", payload.len()), |b| {
            b.iter(|| {
                stream.clear();
                CHAIN.clone().seal(&mut stream, &header, black_box(&payload));
            });
        });
        stream.clear();
        CHAIN.clone().seal(&mut stream, &header, &payload);
        group.bench_function(BenchmarkId::new("decode", payload.len()), |b| {
            b.iter(|| {
                let (header, payload, _) = CHAIN.clone().open(black_box(&stream)).expect("it was just sealed");
                black_box((header.index, payload.len()))
            });
        });
    }
    group.finish();
}

/// Requests as they come from a connection.
fn frame(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    for increments in BATCHES {
        let mut bytes = Vec::new();
        Encoder::new().increment(&mut bytes, 1, &keys(increments), &vec![1; increments], false, None);
        group.throughput(Throughput::Elements(increments as u64));
        let arrived = || {
            let mut decoder = Decoder::new(REQUEST_BYTES_MAX);
            decoder.space(bytes.len())[..bytes.len()].copy_from_slice(&bytes);
            decoder.filled(bytes.len());
            decoder
        };
        group.bench_function(BenchmarkId::new("decode", increments), |b| {
            b.iter_batched_ref(
                arrived,
                |decoder| decoder.next_frame().expect("it is intact").expect("it is whole").payload.len(),
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("decode, verify and hash", increments), |b| {
            b.iter_batched_ref(
                arrived,
                |decoder| {
                    let frame = decoder.next_frame().expect("it is intact").expect("it is whole");
                    let Ok(Request::Increment(request)) = decode_request(frame.kind, frame.payload) else {
                        panic!("it was encoded as increments");
                    };
                    request.keys.iter().fold(0, |sum, key| sum ^ KeyHash::of(5, key).0)
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, wal_record, frame);
criterion_main!(benches);
