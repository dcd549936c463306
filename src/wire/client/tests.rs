//! Tests of the codec: round trips, flipped bits, hostile bytes.

use super::*;
use crate::engine::part::PackedKeys;
use crate::engine::status::{CheckpointStatus, ShardStatus, StoreStatus};
use crate::ids::{Index, KeyHash, NodeId, ShardId, StoreId, Term};
use crate::limits::{
    ERROR_TEXT_BYTES_MAX, FRAME_HEADER_BYTES, REPLY_BYTES_MAX, SCAN_PIECE_KEYS_MAX, SHARDS_MAX, STORES_MAX,
};
use crate::wire::frame::{Decoder, Frame};
use proptest::prelude::*;

/// Takes apart the one frame that `write` appends.
fn frame_of(write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> (u8, Vec<u8>) {
    let mut out = Vec::new();
    write(&mut Encoder::new(), &mut out);
    let mut decoder = Decoder::new(REPLY_BYTES_MAX);
    decoder.space(out.len())[..out.len()].copy_from_slice(&out);
    decoder.filled(out.len());
    let Frame { kind, request_id, payload } = decoder.next_frame().expect("intact").expect("complete");
    assert_eq!(request_id, 77);
    (kind, payload.to_vec())
}

fn reply_of(write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> Result<Reply, RequestError> {
    let (kind, payload) = frame_of(write);
    decode_reply(kind, &payload)
}

fn packed(keys: &[Vec<u8>]) -> PackedKeys {
    let mut packed = PackedKeys::default();
    keys.iter().for_each(|key| packed.push(key));
    packed
}

fn increment_frame(keys: &PackedKeys, deltas: &[i64]) -> (u8, Vec<u8>) {
    frame_of(|encoder, out| encoder.increment(out, 77, keys, deltas, true, None))
}

fn code_of(frame: &(u8, Vec<u8>)) -> ErrorCode {
    decode_request(frame.0, &frame.1).expect_err("breaks a rule").code
}

#[test]
fn hello_round_trips() {
    for cluster_id in [None, Some(ClusterId(0x0102_0304 << 96 | 5))] {
        let hello = Hello { protocol_min: 1, protocol_max: 9, cluster_id, client_name: "näme" };
        let (kind, payload) = frame_of(|encoder, out| encoder.hello(out, 77, &hello));
        match decode_request(kind, &payload) {
            Ok(Request::Hello(decoded)) => assert_eq!(decoded, hello),
            other => panic!("{other:?}"),
        }
    }
    let name = "n".repeat(CLIENT_NAME_BYTES_MAX + 1);
    let hello = Hello { protocol_min: 1, protocol_max: 1, cluster_id: None, client_name: &name };
    assert_eq!(code_of(&frame_of(|encoder, out| encoder.hello(out, 77, &hello))), ErrorCode::TooLarge);
}

#[test]
fn requests_without_columns_round_trip() {
    let top = |k| frame_of(|encoder, out| encoder.top_k(out, 77, k));
    let (kind, payload) = top(10_000);
    assert!(matches!(decode_request(kind, &payload), Ok(Request::TopK { k: 10_000 })));
    assert_eq!(code_of(&top(0)), ErrorCode::Malformed);
    assert_eq!(code_of(&top(10_001)), ErrorCode::TooLarge);
    let (kind, payload) = frame_of(|encoder, out| encoder.status(out, 77));
    assert!(matches!(decode_request(kind, &payload), Ok(Request::Status)));
    let scan = ScanRequest { shard: ShardId(3), scan: u64::MAX, piece: 9, applied_index: Index(8) };
    let (kind, scanned) = frame_of(|encoder, out| encoder.scan(out, 77, &scan));
    assert!(matches!(decode_request(kind, &scanned), Ok(Request::Scan(decoded)) if decoded == scan));
    for kind in [0, 11, 128, Kind::Welcome as u8, Kind::Error as u8] {
        assert_eq!(code_of(&(kind, payload.clone())), ErrorCode::Unsupported);
    }
}

#[test]
fn columns_that_break_a_rule_are_refused() {
    let keys = |ends: &[u32]| PackedKeys { bytes: vec![b'k'; 2_000], ends: ends.to_vec() };
    let code = |ends: &[u32]| code_of(&increment_frame(&keys(ends), &vec![1; ends.len()]));
    assert_eq!(code(&[]), ErrorCode::Malformed, "no key");
    assert_eq!(code(&[1_000, 999, 2_000]), ErrorCode::Malformed, "descending");
    assert_eq!(code(&[1_000, 1_999]), ErrorCode::Malformed, "bytes without a key");
    assert_eq!(code(&[1_000, 2_001]), ErrorCode::Malformed, "a key without bytes");
    assert_eq!(code(&[1_000, 1_000, 2_000]), ErrorCode::TooLarge, "an empty key");
    assert_eq!(code(&[0, 1_000, 2_000]), ErrorCode::TooLarge, "an empty key at the start");
    assert_eq!(code(&[975, 2_000]), ErrorCode::TooLarge, "a long key");
    assert_eq!(code(&[u32::MAX, 2_000]), ErrorCode::TooLarge, "a key as long as an address space");
    let many = packed(&vec![vec![b'k']; BATCH_KEYS_MAX + 1]);
    assert_eq!(code_of(&increment_frame(&many, &vec![1; BATCH_KEYS_MAX + 1])), ErrorCode::TooLarge);
    let large = vec![0; REQUEST_BYTES_MAX + 1];
    assert_eq!(code_of(&(Kind::Increment as u8, large)), ErrorCode::TooLarge);
}

#[test]
fn columns_of_different_lengths_are_refused() {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let args = fb::IncrementRequestArgs {
        keys: Some(builder.create_vector(b"ab")),
        key_ends: Some(builder.create_vector(&[1_u32, 2])),
        deltas: Some(builder.create_vector(&[5_i64])),
        want_values: false,
        stamp: None,
    };
    let root = fb::IncrementRequest::create(&mut builder, &args);
    builder.finish_minimal(root);
    let error = decode_request(Kind::Increment as u8, builder.finished_data()).expect_err("one delta is missing");
    assert_eq!(error.text, "2 keys, but 1 deltas");
}

#[test]
fn the_largest_messages_pass() {
    let keys = packed(&vec![vec![b'k'; 40]; BATCH_KEYS_MAX]);
    let (kind, payload) = increment_frame(&keys, &vec![i64::MIN; BATCH_KEYS_MAX]);
    assert!(decode_request(kind, &payload).is_ok());

    let top = TopKReply {
        parts: vec![Part { keys: 10_000, ..Part::default() }],
        keys: packed(&vec![vec![b'k'; KEY_BYTES_MAX]; TOP_KEYS_MAX]),
        counts: vec![i64::MAX; TOP_KEYS_MAX],
    };
    assert_eq!(reply_of(|encoder, out| encoder.top_k_reply(out, 77, &top)), Ok(Reply::TopK(top)));

    let shard = ShardStatus { role: "candidate".into(), ..ShardStatus::default() };
    let store = StoreStatus { shards: vec![shard; SHARDS_MAX / STORES_MAX], ..StoreStatus::default() };
    let status = Status { stores: vec![store; STORES_MAX], ..Status::default() };
    assert_eq!(reply_of(|encoder, out| encoder.status_reply(out, 77, &status)), Ok(Reply::Status(status)));

    let address = "a".repeat(255);
    let store = StoreAddress { address, ..StoreAddress::default() };
    let range = |shard| ShardRange { start: KeyHash(shard << 52), shard: ShardId(shard as u32), ..Default::default() };
    let shards = (0..SHARDS_MAX as u64).map(range).collect();
    let welcome = Welcome { stores: vec![store; STORES_MAX], shards, ..Welcome::default() };
    assert_eq!(reply_of(|encoder, out| encoder.welcome(out, 77, &welcome)), Ok(Reply::Welcome(welcome)));
}

#[test]
fn every_field_of_a_status_round_trips() {
    let shard = ShardStatus {
        shard: ShardId(1),
        role: "leader".into(),
        term: Term(2),
        last_index: Index(3),
        commit_index: Index(4),
        applied_index: Index(5),
        range_start: KeyHash(6),
        range_end: KeyHash(7),
        keys: 8,
        memory_bytes: 9,
        sessions: 23,
        session_mark: SessionId(24),
        checkpoint_index: Index(25),
        checkpoint_bytes: 26,
    };
    let store = StoreStatus {
        store: StoreId(10),
        segment: 11,
        log_bytes: 12,
        log_durable_bytes: 13,
        segments: 14,
        segment_bytes: 15,
        disk_full: true,
        direct_io: true,
        connections: 16,
        memory_bytes: 17,
        memory_bytes_max: 18,
        checkpoints: CheckpointStatus {
            running: Some(ShardId(27)),
            running_bytes: 28,
            completed: 29,
            failed: 30,
            last_failure: "no space left".into(),
            reserve_bytes: 31,
        },
        shards: vec![shard],
    };
    let status = Status {
        server_version: "0.0.1".into(),
        cluster_id: ClusterId(19),
        node: NodeId(20),
        uptime_micros: 21,
        map_epoch: 22,
        stores: vec![store],
    };
    assert_eq!(reply_of(|encoder, out| encoder.status_reply(out, 77, &status)), Ok(Reply::Status(status)));
}

#[test]
fn every_field_of_a_welcome_round_trips() {
    let range = ShardRange { start: KeyHash(0), shard: ShardId(1), node: NodeId(2), store: StoreId(3) };
    let welcome = Welcome {
        protocol: 4,
        server_version: "0.0.1".into(),
        cluster_id: ClusterId(u128::MAX - 5),
        node: NodeId(6),
        routing_seed: 7,
        map_epoch: 8,
        stores: vec![StoreAddress { node: NodeId(9), store: StoreId(10), address: "localhost:11".into() }],
        shards: vec![range, ShardRange { start: KeyHash(1 << 63), ..range }],
    };
    assert_eq!(reply_of(|encoder, out| encoder.welcome(out, 77, &welcome)), Ok(Reply::Welcome(welcome.clone())));
    let gap = Welcome { shards: vec![ShardRange { start: KeyHash(1), ..range }], ..welcome.clone() };
    assert!(reply_of(|encoder, out| encoder.welcome(out, 77, &gap)).is_err());
    let twice = Welcome { shards: vec![range; 2], ..welcome };
    assert!(reply_of(|encoder, out| encoder.welcome(out, 77, &twice)).is_err());
}

const CREDENTIALS: Credentials =
    Credentials { session: SessionId(3), epoch: SessionEpoch(4), token: SessionToken(5 << 64 | 6) };

fn stamp(sequence: u64, low_water: u64) -> Stamp {
    Stamp { credentials: CREDENTIALS, sequence: Sequence(sequence), low_water: Sequence(low_water) }
}

#[test]
fn stamps_round_trip_and_have_bounds() {
    let keys = packed(&[b"a".to_vec()]);
    let increment = |stamp| frame_of(|encoder, out| encoder.increment(out, 77, &keys, &[1], false, Some(&stamp)));
    for good in [stamp(1, 0), stamp(u64::MAX, u64::MAX - 1), stamp(SESSION_SPAN_MAX + 7, 7)] {
        let (kind, payload) = increment(good);
        match decode_request(kind, &payload) {
            Ok(Request::Increment(request)) => assert_eq!(request.stamp, Some(good)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(code_of(&increment(stamp(0, 0))), ErrorCode::Malformed);
    assert_eq!(code_of(&increment(stamp(5, 5))), ErrorCode::Malformed);
    assert_eq!(code_of(&increment(stamp(5, 6))), ErrorCode::Malformed);
    assert_eq!(code_of(&increment(stamp(SESSION_SPAN_MAX + 8, 7))), ErrorCode::TooLarge);
    let nobody = Stamp { credentials: Credentials { session: SessionId(0), ..CREDENTIALS }, ..stamp(1, 0) };
    assert_eq!(code_of(&increment(nobody)), ErrorCode::Malformed);
}

#[test]
fn digests_are_those_of_the_content() {
    let digest = |keys: &[&[u8]], deltas: &[i64], values| {
        let keys = packed(&keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>());
        let (kind, payload) = frame_of(|encoder, out| encoder.increment(out, 77, &keys, deltas, values, None));
        match decode_request(kind, &payload) {
            Ok(Request::Increment(request)) => request.digest(),
            other => panic!("{other:?}"),
        }
    };
    let one = digest(&[b"ab", b"c"], &[1, 2], true);
    assert_eq!(digest(&[b"ab", b"c"], &[1, 2], true), one);
    assert_ne!(digest(&[b"ab", b"c"], &[1, 2], false), one);
    assert_ne!(digest(&[b"ab", b"c"], &[2, 1], true), one);
    assert_ne!(digest(&[b"a", b"bc"], &[1, 2], true), one);
    assert_ne!(digest(&[b"c", b"ab"], &[1, 2], true), one);
}

#[test]
fn requests_about_sessions_round_trip() {
    let request = |write: &dyn Fn(&mut Encoder, &mut Vec<u8>)| frame_of(|encoder, out| write(encoder, out));
    for (name, expected) in [(None, None), (Some(&b"job"[..]), Some(&b"job"[..])), (Some(b""), None)] {
        let (kind, payload) = request(&|encoder, out| encoder.open_session(out, 77, name));
        match decode_request(kind, &payload) {
            Ok(Request::OpenSession { name }) => assert_eq!(name, expected),
            other => panic!("{other:?}"),
        }
    }
    let long = [b'n'; SESSION_NAME_BYTES_MAX + 1];
    assert_eq!(code_of(&request(&|encoder, out| encoder.open_session(out, 77, Some(&long)))), ErrorCode::TooLarge);
    let (kind, payload) = request(&|encoder, out| encoder.attach_session(out, 77, &CREDENTIALS));
    assert!(matches!(decode_request(kind, &payload), Ok(Request::AttachSession(CREDENTIALS))));
    let (kind, payload) = request(&|encoder, out| encoder.close_session(out, 77, &CREDENTIALS, Sequence(9)));
    let decoded = decode_request(kind, &payload);
    assert!(matches!(decoded, Ok(Request::CloseSession { credentials: CREDENTIALS, progress: Sequence(9) })));
    for keys in [None, Some(packed(&[b"a".to_vec(), b"bc".to_vec()]))] {
        let (kind, payload) = request(&|encoder, out| encoder.resolve(out, 77, &stamp(8, 2), keys.as_ref()));
        match decode_request(kind, &payload) {
            Ok(Request::Resolve { stamp: decoded, keys: found }) => {
                assert_eq!((decoded, found.map(|keys| keys.len())), (stamp(8, 2), keys.map(|keys| keys.len())));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn replies_about_sessions_round_trip() {
    let opened = Opened { credentials: CREDENTIALS, age_micros_max: 7, progress: Sequence(8), resumed: true };
    assert_eq!(reply_of(|e, out| e.open_session_reply(out, 77, &opened)), Ok(Reply::OpenSession(opened)));
    let attached = AttachReply {
        parts: vec![Part { shard: ShardId(1), applied_index: Index(2), ..Part::default() }],
        floor: Sequence(9),
        reached: Sequence(11),
    };
    assert_eq!(reply_of(|e, out| e.attach_session_reply(out, 77, &attached)), Ok(Reply::AttachSession(attached)));
    assert_eq!(reply_of(|e, out| e.close_session_reply(out, 77)), Ok(Reply::CloseSession));
    let part = |resolution| ResolvedPart {
        shard: ShardId(1),
        resolution,
        applied_index: Index(2),
        first_position: 3,
        increments: 4,
        overflowed: 5,
    };
    let parts = [Resolution::Applied, Resolution::Fenced, Resolution::Forgotten].map(part).to_vec();
    let resolved = ResolveReply { parts };
    assert_eq!(reply_of(|e, out| e.resolve_reply(out, 77, &resolved)), Ok(Reply::Resolve(resolved)));
}

#[test]
fn error_texts_are_cut_between_characters() {
    let text = format!("{}ü", "x".repeat(ERROR_TEXT_BYTES_MAX - 1));
    let reply = reply_of(|encoder, out| encoder.error(out, 77, ErrorCode::DiskFull, &text));
    let expected = Reply::Error { code: ErrorCode::DiskFull, text: "x".repeat(ERROR_TEXT_BYTES_MAX - 1) };
    assert_eq!(reply, Ok(expected));
}

#[test]
fn an_error_code_of_a_newer_server_is_read_as_unknown() {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let args = fb::ErrorReplyArgs { code: fb::ErrorCode(200), text: None };
    let root = fb::ErrorReply::create(&mut builder, &args);
    builder.finish_minimal(root);
    let reply = decode_reply(Kind::Error as u8, builder.finished_data());
    assert_eq!(reply, Ok(Reply::Error { code: ErrorCode::Unknown, text: String::new() }));
}

#[test]
fn replies_with_inconsistent_columns_are_refused() {
    let part = |keys| Part { keys, ..Part::default() };
    let good = IncrementReply {
        parts: vec![part(2), part(1)],
        order: vec![0, 2, 1],
        outcomes: vec![0, 4, 200],
        values: vec![1, 0, 3],
    };
    let decoded = |reply: &IncrementReply| reply_of(|encoder, out| encoder.increment_reply(out, 77, reply));
    assert_eq!(decoded(&good), Ok(Reply::Increment(good.clone())));
    for bad in [
        IncrementReply { parts: vec![part(2), part(2)], ..good.clone() },
        IncrementReply { parts: vec![part(u32::MAX); SHARDS_MAX], ..good.clone() },
        IncrementReply { parts: vec![part(0); SHARDS_MAX + 1], ..good.clone() },
        IncrementReply { order: vec![], ..good.clone() },
        IncrementReply { order: vec![0, 2, 2], ..good.clone() },
        IncrementReply { order: vec![0, 3, 1], ..good.clone() },
        IncrementReply { order: vec![2, 0, 1], ..good.clone() },
        IncrementReply { outcomes: vec![0], ..good.clone() },
        IncrementReply { values: vec![0; 4], ..good.clone() },
    ] {
        assert!(decoded(&bad).is_err(), "{bad:?}");
    }

    let good = GetReply { parts: vec![part(2)], order: vec![], counts: vec![5, 0], found: vec![1, 0] };
    let decoded = |reply: &GetReply| reply_of(|encoder, out| encoder.get_reply(out, 77, reply));
    assert_eq!(decoded(&good), Ok(Reply::Get(good.clone())));
    for bad in [
        GetReply { counts: vec![5], ..good.clone() },
        GetReply { found: vec![1], ..good.clone() },
        GetReply { found: vec![1, 2], ..good.clone() },
    ] {
        assert!(decoded(&bad).is_err(), "{bad:?}");
    }

    let good = TopKReply { parts: vec![part(2)], keys: packed(&[b"a".to_vec(), b"bc".to_vec()]), counts: vec![5, 0] };
    let decoded = |reply: &TopKReply| reply_of(|encoder, out| encoder.top_k_reply(out, 77, reply));
    assert_eq!(decoded(&good), Ok(Reply::TopK(good.clone())));
    for bad in [
        TopKReply { parts: vec![part(1)], ..good.clone() },
        TopKReply { counts: vec![5], ..good.clone() },
        TopKReply { keys: PackedKeys { bytes: vec![0; 3], ends: vec![1, 4] }, ..good.clone() },
        TopKReply { keys: PackedKeys { bytes: vec![0; 3], ends: vec![0, 3] }, ..good.clone() },
    ] {
        assert!(decoded(&bad).is_err(), "{bad:?}");
    }
    let empty = TopKReply::default();
    assert_eq!(reply_of(|encoder, out| encoder.top_k_reply(out, 77, &empty)), Ok(Reply::TopK(empty)));
}

/// Reads everything there is to read in a payload of any kind; what matters is that nothing panics.
fn read_all(payload: &[u8]) {
    for kind in 0..=u8::MAX {
        match decode_request(kind, payload) {
            Ok(Request::Increment(request)) => {
                assert_eq!(request.keys.iter().count(), request.deltas().count());
            }
            Ok(Request::Get(request)) => {
                let keys: Vec<_> = request.keys.iter().collect();
                assert!(keys.iter().enumerate().all(|(position, key)| *key == request.keys.key(position)));
            }
            _ => {}
        }
        if let Ok(Reply::TopK(reply)) = decode_reply(kind, payload) {
            assert_eq!(reply.keys.iter().count(), reply.counts.len());
        }
    }
}

#[test]
fn damaged_payloads_never_panic() {
    let keys = packed(&[b"one".to_vec(), b"two".to_vec()]);
    let part = Part { keys: 1, ..Part::default() };
    let top = TopKReply { parts: vec![part; 2], keys: keys.clone(), counts: vec![2, 1] };
    let store = StoreStatus { shards: vec![ShardStatus::default()], ..StoreStatus::default() };
    let status = Status { stores: vec![store], ..Status::default() };
    let payloads = [
        increment_frame(&keys, &[1, -1]).1,
        frame_of(|encoder, out| encoder.top_k_reply(out, 77, &top)).1,
        frame_of(|encoder, out| encoder.status_reply(out, 77, &status)).1,
        frame_of(|encoder, out| encoder.error(out, 77, ErrorCode::Overflow, "text")).1,
    ];
    for payload in payloads {
        for length in 0..payload.len() {
            read_all(&payload[..length]);
        }
        for bit in 0..payload.len() * 8 {
            let mut damaged = payload.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            read_all(&damaged);
        }
    }
}

proptest! {
    #[test]
    fn batches_round_trip(
        batch in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), any::<i64>()), 1..60),
    ) {
        let (keys, deltas): (Vec<Vec<u8>>, Vec<i64>) = batch.into_iter().unzip();
        let packed = packed(&keys);
        let (kind, payload) = increment_frame(&packed, &deltas);
        let Ok(Request::Increment(request)) = decode_request(kind, &payload) else { panic!("an increment") };
        prop_assert!(request.want_values);
        prop_assert_eq!(request.keys.len(), keys.len());
        prop_assert_eq!(request.keys.bytes(), &packed.bytes);
        prop_assert!(request.keys.iter().eq(keys.iter()));
        prop_assert!(keys.iter().enumerate().all(|(position, key)| request.keys.key(position) == key));
        prop_assert!(request.deltas().eq(deltas));

        let (kind, payload) = frame_of(|encoder, out| encoder.get(out, 77, &packed));
        let Ok(Request::Get(request)) = decode_request(kind, &payload) else { panic!("a get") };
        prop_assert!(request.keys.iter().eq(keys.iter()));
    }

    #[test]
    fn random_payloads_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all(&payload);
    }

    // Small offsets hit the structure far more often than random bytes do.
    #[test]
    fn random_offsets_never_panic(words in prop::collection::vec(0_u16..48, 0..80)) {
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        read_all(&payload);
    }
}

#[test]
fn an_encoder_reuses_its_memory_without_traces_of_the_last_message() {
    let mut encoder = Encoder::new();
    let mut frames = Vec::new();
    let keys = packed(&[b"some key".to_vec()]);
    encoder.increment(&mut frames, 1, &keys, &[1], false, None);
    let length = frames.len();
    encoder.get(&mut frames, 2, &packed(&[vec![b'x'; 900]]));
    let middle = frames.len();
    encoder.increment(&mut frames, 1, &keys, &[1], false, None);
    assert_eq!(frames[..length], frames[middle..]);
    assert!(length > FRAME_HEADER_BYTES);
}

#[test]
fn pieces_of_a_scan_round_trip_and_have_bounds() {
    let reply = |keys: PackedKeys, counts: Vec<i64>| ScanReply {
        shard: ShardId(3),
        applied_index: Index(7),
        keys_total: 5,
        last: counts.is_empty(),
        keys,
        counts,
    };
    let decoded = |reply: &ScanReply| {
        let (kind, payload) = frame_of(|encoder, out| encoder.scan_reply(out, 77, reply));
        decode_reply(kind, &payload)
    };
    for whole in [reply(packed(&[b"a".to_vec(), b"bc".to_vec()]), vec![i64::MIN, 0]), reply(packed(&[]), vec![])] {
        assert_eq!(decoded(&whole), Ok(Reply::Scan(whole)));
    }
    assert!(decoded(&reply(packed(&[b"a".to_vec()]), vec![])).is_err(), "a key without a count");
    let many = vec![b"k".to_vec(); SCAN_PIECE_KEYS_MAX + 1];
    assert!(decoded(&reply(packed(&many), vec![1; many.len()])).is_err());
}
