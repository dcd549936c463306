//! Where the fuzzers start: inputs made from valid encodings, so that nobody has to guess a flatbuffer.
//!
//! `cargo run -p dkc-fuzz` writes them to `corpus/`, beside what fuzzers have found since. They follow the formats: whoever
//! changes one runs it again.

use dkc::engine::cluster::{ClusterMap, ShardRange, StoreAddress};
use dkc::engine::command::{self, Original};
use dkc::engine::part::PackedKeys;
use dkc::engine::sessions::token::SessionSecret;
use dkc::engine::sessions::{Credentials, Opened};
use dkc::engine::status::{ShardStatus, StoreStatus};
use dkc::engine::wal::GroupState;
use dkc::engine::wal::record::{Chain, RecordHeader, RecordKind};
use dkc::engine::wal::segment::{SegmentEnd, SegmentHeader};
use dkc::error::ErrorCode;
use dkc::ids::{
    ClusterId, Index, KeyHash, Lsn, NodeId, SegmentEpoch, Sequence, SessionEpoch, SessionId, ShardEpoch, ShardId,
    StoreId, Term,
};
use dkc::wire::client::{
    AttachReply, Encoder, GetReply, Hello, IncrementReply, Part, Resolution, ResolveReply, ResolvedPart, ScanReply,
    ScanRequest, Stamp, Status, TopKReply, Welcome,
};
use dkc::wire::frame::Decoder;

use crate::client_frame::FRAMED;
use crate::gateway::SECRET;
use crate::wal_record::{ENTRY, MAP, RECORDS, SEALED, SEGMENT_HEADER};

/// Named seeds of a target, none if there is no such target.
#[must_use]
pub fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    match target {
        "checkpoint" => crate::checkpoint::seeds(),
        "client_frame" => client_frame(),
        "gateway" => gateway(),
        "wal_record" => wal_record(),
        "recovery" => recovery(),
        _ => Vec::new(),
    }
}

/// One frame, written by an encoder.
type Message = (&'static str, Vec<u8>);

fn message(name: &'static str, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> Message {
    let mut bytes = Vec::new();
    write(&mut Encoder::new(), &mut bytes);
    (name, bytes)
}

fn keys(keys: &[&str]) -> PackedKeys {
    let mut packed = PackedKeys::default();
    keys.iter().for_each(|key| packed.push(key.as_bytes()));
    packed
}

fn credentials() -> Credentials {
    // The first session of a store, so that the gateway's target takes it for its own.
    let (session, epoch) = (SessionId(1), SessionEpoch(1));
    Credentials { session, epoch, token: SessionSecret(SECRET).token(session, epoch) }
}

fn stamp() -> Stamp {
    Stamp { credentials: credentials(), sequence: Sequence(9), low_water: Sequence(3) }
}

fn requests() -> Vec<Message> {
    let hello = |cluster_id| Hello { protocol_min: 1, protocol_max: 3, cluster_id, client_name: "seed" };
    let (few, many) = (keys(&["a", "bb", "a"]), keys(&["k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8"]));
    let deltas = [1, -2, i64::MAX];
    vec![
        message("hello", |e, out| e.hello(out, 1, &hello(None))),
        message("hello-cluster", |e, out| e.hello(out, 1, &hello(Some(ClusterId(1))))),
        message("increment", |e, out| e.increment(out, 2, &few, &deltas, true, None)),
        message("increment-stamp", |e, out| e.increment(out, 2, &few, &deltas, false, Some(&stamp()))),
        message("increment-many", |e, out| e.increment(out, 2, &many, &[1; 8], true, None)),
        message("get", |e, out| e.get(out, 3, &few)),
        message("get-many", |e, out| e.get(out, 3, &many)),
        message("top-k", |e, out| e.top_k(out, 4, 5)),
        message("status", |e, out| e.status(out, 5)),
        message("open-session", |e, out| e.open_session(out, 6, None)),
        message("open-session-name", |e, out| e.open_session(out, 6, Some(b"job"))),
        message("attach-session", |e, out| e.attach_session(out, 7, &credentials())),
        message("close-session", |e, out| e.close_session(out, 8, &credentials(), Sequence(9))),
        message("resolve", |e, out| e.resolve(out, 9, &stamp(), None)),
        message("scan", |e, out| {
            e.scan(out, 11, &ScanRequest { shard: ShardId(1), scan: 7, piece: 2, applied_index: Index(7) });
        }),
        message("resolve-keys", |e, out| e.resolve(out, 9, &stamp(), Some(&few))),
    ]
}

fn replies() -> Vec<Message> {
    let part = |shard, keys| Part { shard: ShardId(shard), keys, applied_index: Index(7), first_position: 4 };
    let parts = vec![part(1, 2), part(2, 1)];
    let order = vec![0, 2, 1];
    let increment =
        IncrementReply { parts: parts.clone(), order: order.clone(), outcomes: vec![0, 5, 0], values: vec![3, 0, 5] };
    let get = GetReply { parts: parts.clone(), order, counts: vec![3, 0, -5], found: vec![1, 0, 1] };
    let top = TopKReply { parts: parts.clone(), keys: keys(&["x", "yy", "z"]), counts: vec![9, 5, 5] };
    let scan = ScanReply {
        shard: ShardId(1),
        applied_index: Index(7),
        keys_total: 9,
        last: true,
        keys: keys(&["x", "yy"]),
        counts: vec![5, -9],
    };
    let attach = AttachReply { parts: vec![part(1, 0)], floor: Sequence(3), reached: Sequence(4) };
    let resolved =
        |resolution| ResolvedPart { shard: ShardId(1), resolution, increments: 2, ..ResolvedPart::default() };
    let resolve = ResolveReply { parts: vec![resolved(Resolution::Applied), resolved(Resolution::Fenced)] };
    let opened = Opened { credentials: credentials(), age_micros_max: 9, progress: Sequence(4), resumed: true };
    let range =
        |shard: u32| ShardRange { start: KeyHash(u64::from(shard) << 60), shard: ShardId(shard), ..Default::default() };
    let welcome = Welcome {
        protocol: 1,
        server_version: "0".into(),
        stores: vec![StoreAddress { address: "a:1".into(), ..StoreAddress::default() }; 2],
        shards: vec![range(0), range(1)],
        ..Welcome::default()
    };
    let shards = vec![ShardStatus { role: "leader".into(), ..ShardStatus::default() }; 2];
    let status = Status { stores: vec![StoreStatus { shards, ..StoreStatus::default() }], ..Status::default() };
    vec![
        message("welcome", |e, out| e.welcome(out, 1, &welcome)),
        message("increment-reply", |e, out| e.increment_reply(out, 2, &increment)),
        message("get-reply", |e, out| e.get_reply(out, 3, &get)),
        message("top-k-reply", |e, out| e.top_k_reply(out, 4, &top)),
        message("status-reply", |e, out| e.status_reply(out, 5, &status)),
        message("open-session-reply", |e, out| e.open_session_reply(out, 6, &opened)),
        message("attach-session-reply", |e, out| e.attach_session_reply(out, 7, &attach)),
        message("close-session-reply", |e, out| e.close_session_reply(out, 8)),
        message("scan-reply", |e, out| e.scan_reply(out, 11, &scan)),
        message("resolve-reply", |e, out| e.resolve_reply(out, 9, &resolve)),
        message("error", |e, out| e.error(out, 10, ErrorCode::Overloaded, "later")),
    ]
}

/// Kind, length and payload of a message, as scripts hold them.
fn scripted(frame: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(frame.len());
    decoder.space(frame.len())[..frame.len()].copy_from_slice(frame);
    decoder.filled(frame.len());
    let frame = decoder.next_frame().expect("intact").expect("complete");
    let length = u16::try_from(frame.payload.len()).expect("a seed is small");
    [&[frame.kind][..], &length.to_le_bytes(), frame.payload].concat()
}

fn client_frame() -> Vec<(String, Vec<u8>)> {
    let messages = [requests(), replies()].concat();
    let framed = |(name, frame): &Message| ((*name).to_owned(), [&[FRAMED, 63][..], &scripted(frame)].concat());
    let mut seeds: Vec<_> = messages.iter().map(framed).collect();
    let stream: Vec<u8> = messages.iter().take(4).flat_map(|(_, frame)| frame.clone()).collect();
    seeds.push(("stream".to_owned(), [&[0, 6][..], &stream].concat()));
    seeds
}

fn gateway() -> Vec<(String, Vec<u8>)> {
    // Parts that reach the store, its disk, and answers that come back.
    let arrive = [4, 0, 4, 1, 4, 0, 6, 1, 6, 0, 6, 0];
    let requests = requests();
    let (_, open) = message("open-session", |e, out| e.open_session(out, 1, Some(b"job")));
    let open = [&[0][..], &scripted(&open), &[4, 0, 6, 0]].concat();
    let ask = |(name, frame): &Message| {
        let ask = [&[0][..], &scripted(frame), &arrive].concat();
        ((*name).to_owned(), [&open[..], &ask, &ask].concat())
    };
    let mut seeds: Vec<_> = requests.iter().map(ask).collect();
    let mut all: Vec<u8> = requests.iter().flat_map(|(_, frame)| [&[8][..], &scripted(frame)].concat()).collect();
    all.extend_from_slice(&[4, 2, 5, 1, 2, 0x87, 6, 1, 4, 0, 0x87, 0x87, 0x87, 4, 1, 6, 0, 7, 6, 0]);
    seeds.push(("all".to_owned(), all));
    seeds
}

fn wal_record() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut seed = |name: &str, what: u8, bytes: &[u8]| seeds.push((name.to_owned(), [&[what][..], bytes].concat()));
    let chain = Chain { store: StoreId(3), epoch: SegmentEpoch(9), crc: 77 };
    let place = [&3u16.to_le_bytes()[..], &9u64.to_le_bytes(), &77u32.to_le_bytes()].concat();
    let header = |kind| RecordHeader {
        kind,
        shard: ShardId(1),
        term: Term(2),
        index: Index(10),
        commit: Index(9),
        lsn: Lsn(1_000),
    };
    let (mut moving, mut stream) = (chain, Vec::new());
    moving.seal(&mut stream, &header(RecordKind::Entry), b"payload");
    moving.seal(&mut stream, &header(RecordKind::HardState), &[1; 8]);
    seed("records", RECORDS, &[&place[..], &stream].concat());
    // The second record starts behind the first one's header and its seven bytes.
    let (entry, vote) = stream.split_at(48 + 7);
    seed("sealed", SEALED, &[&place[..], &[7], entry, &[8], vote].concat());

    seed("no-op", ENTRY, &command::no_op());
    seed("expire", ENTRY, &command::expire(SessionId(300)));
    let stamp = dkc::engine::sessions::Stamp {
        session: SessionId(300),
        epoch: SessionEpoch(1),
        sequence: Sequence(9),
        low_water: Sequence(3),
    };
    let original = Original { digest: 77, want_values: true, places: Some(&[0, 5]) };
    let mut batch = Vec::new();
    command::begin_batch(&mut batch, ShardEpoch(1));
    for stamped in [None, Some((&stamp, original)), Some((&stamp, Original { places: None, ..original }))] {
        command::begin_part(&mut batch, 2, stamped);
        command::push_increment(&mut batch, b"key", 5);
        command::push_increment(&mut batch, b"other", i64::MIN);
    }
    batch.extend(command::attach_part(SessionId(300), SessionEpoch(2)));
    batch.extend(command::resolve_part(&stamp));
    seed("batch", ENTRY, &batch);
    let mut meta = Vec::new();
    command::begin_meta(&mut meta, 1_000);
    meta.extend(command::open_part(b""));
    meta.extend(command::open_part(b"job"));
    meta.extend(command::close_part(SessionId(2), SessionEpoch(1), Sequence(9)));
    meta.extend(command::expire_part(SessionId(1)));
    seed("meta", ENTRY, &meta);
    let map = ClusterMap::even(9, NodeId(1), 2, 3).encode();
    seed("map-entry", ENTRY, &command::map(&map));
    seed("map", MAP, &map);
    let segment = SegmentHeader {
        cluster: ClusterId(7),
        node: NodeId(7),
        segment_bytes: 1 << 26,
        write_bytes_max: 1 << 21,
        previous: SegmentEnd { epoch: SegmentEpoch(3), offset: 8_192, chain: 5 },
        oldest: SegmentEpoch(2),
        start: Lsn(99),
        groups: vec![(ShardId(0), GroupState::default()), (ShardId(4), GroupState::default())],
    };
    seed("segment-header", SEGMENT_HEADER, &segment.encode());
    seeds
}

fn recovery() -> Vec<(String, Vec<u8>)> {
    let steps: [(&str, &[u8]); 12] = [
        ("flip", &[0, 0, 0x05, 0x10, 3]),
        ("overwrite", &[1, 0, 0x00, 0x20, 4, 1, 2, 3, 4]),
        ("zero", &[2, 0, 0x00, 0x30, 0x00, 0x02]),
        ("zero-sectors", &[3, 0, 40, 3]),
        ("copy", &[4, 0, 0x00, 0x10, 0, 0x00, 0x20, 0x00, 0x02]),
        ("length", &[5, 0, 0x00, 0x80]),
        ("vanish", &[6, 2]),
        ("swap", &[7, 0, 1]),
        ("next-name", &[8, 0]),
        ("before", &[9, 0, 3]),
        ("other-store", &[10, 0]),
        ("tear", &[11, 0x06, 0x00]),
    ];
    let logs = [("short", 0), ("long", 1), ("released", 2)];
    let all = logs.iter().flat_map(|&(log, which)| {
        steps.iter().map(move |(step, bytes)| (format!("{log}-{step}"), [&[which][..], bytes].concat()))
    });
    all.chain(logs.iter().map(|&(log, which)| (log.to_owned(), vec![which]))).collect()
}
