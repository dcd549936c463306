//! Tests of a gateway by itself: how requests are taken apart, put together, bounded and given up.

use std::sync::Arc;

use super::{ConnectionId, Gateway, GatewayConfig};
use crate::engine::cluster::{ClusterMap, StoreAddress};
use crate::engine::command::{self, Command, Part};
use crate::engine::part::{PackedKeys, PartAnswer, PartBody, PartReply, PartRequest};
use crate::engine::sessions::registry::Registered;
use crate::engine::sessions::token::SessionSecret;
use crate::engine::sessions::window::{Attachment, Fate};
use crate::error::ErrorCode;
use crate::ids::{
    ClusterId, Index, Micros, NodeId, Sequence, SessionEpoch, SessionId, SessionToken, ShardEpoch, ShardId, StoreId,
};
use crate::limits::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX, REQUEST_WAIT_MICROS_MAX};
use crate::wire::client::{Credentials, Encoder, Hello, PROTOCOL_VERSION, Reply, Resolution, Stamp, decode_reply};
use crate::wire::frame::Decoder;

const SECRET: SessionSecret = SessionSecret([3; 16]);
const CLIENT: ConnectionId = ConnectionId(4);

struct Subject {
    gateway: Gateway,
    encoder: Encoder,
    now: Micros,
}

impl Subject {
    fn new(shards: u32) -> Subject {
        let map = Arc::new(ClusterMap::even(9, NodeId(1), 2, shards));
        let address = |store| StoreAddress { node: NodeId(1), store: StoreId(store), address: format!("a:{store}") };
        let config = GatewayConfig {
            cluster: ClusterId(1),
            node: NodeId(1),
            store: StoreId(0),
            map,
            addresses: vec![address(0), address(1)],
            session_secret: SECRET,
            session_age_micros: 1_000,
            top_margin: 4,
        };
        Subject { gateway: Gateway::new(config, Micros(0)), encoder: Encoder::new(), now: Micros(0) }
    }

    fn greeted(shards: u32) -> Subject {
        let mut subject = Subject::new(shards);
        let hello = Hello { protocol_min: 1, protocol_max: PROTOCOL_VERSION, cluster_id: None, client_name: "test" };
        subject.send(|encoder, out| encoder.hello(out, 0, &hello));
        let (replies, _) = subject.output();
        assert!(matches!(replies[0], (_, Reply::Welcome(_))));
        subject
    }

    fn send(&mut self, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut self.encoder, &mut bytes);
        let mut decoder = Decoder::new(REQUEST_BYTES_MAX);
        decoder.space(bytes.len())[..bytes.len()].copy_from_slice(&bytes);
        decoder.filled(bytes.len());
        let frame = decoder.next_frame().expect("a frame").expect("a whole frame");
        self.gateway.request(self.now, CLIENT, frame);
    }

    fn increment(&mut self, id: u64, keys: &[String]) {
        let mut packed = PackedKeys::default();
        keys.iter().for_each(|key| packed.push(key.as_bytes()));
        let deltas: Vec<i64> = (1..=keys.len() as i64).collect();
        self.send(|encoder, out| encoder.increment(out, id, &packed, &deltas, true, None));
    }

    fn output(&mut self) -> (Vec<(u64, Reply)>, Vec<PartRequest>) {
        let output = self.gateway.take_output();
        let mut replies = Vec::new();
        for frame in &output.frames {
            let bytes = &output.bytes[frame.range.clone()];
            let mut decoder = Decoder::new(REPLY_BYTES_MAX);
            decoder.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
            decoder.filled(bytes.len());
            let frame = decoder.next_frame().expect("a frame").expect("a whole frame");
            replies.push((frame.request_id, decode_reply(frame.kind, frame.payload).expect("a reply")));
        }
        (replies, output.parts.into_iter().map(|(_, part)| part).collect())
    }
}

/// Answers an increment part as a shard that starts from zero would.
fn applied(part: &PartRequest, index: u64, overflowed: Vec<u32>) -> PartReply {
    let PartBody::Increment { count, .. } = part.body else { panic!("not an increment") };
    let values = (0..count).map(|place| i64::from(place) + 1_000 * i64::from(part.shard.0)).collect();
    let body = PartAnswer::Incremented { index: Index(index), first_position: 7, overflowed, values };
    PartReply { ticket: part.ticket, shard: part.shard, body }
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key-{number}")).collect()
}

#[test]
fn answers_come_back_in_the_order_of_the_request() {
    let mut subject = Subject::greeted(3);
    subject.increment(5, &keys(40));
    let (replies, parts) = subject.output();
    assert!(replies.is_empty() && parts.len() == 3);
    // Last part first, and one increment of it refused.
    for part in parts.iter().rev() {
        let overflowed = if part.ticket.part == 2 { vec![1] } else { Vec::new() };
        subject.gateway.answer(applied(part, 10 + u64::from(part.shard.0), overflowed));
    }
    let (replies, _) = subject.output();
    let (5, Reply::Increment(reply)) = &replies[0] else { panic!("{replies:?}") };
    let mut start = 0;
    for part in &reply.parts {
        assert_eq!(part.applied_index, Index(10 + u64::from(part.shard.0)));
        for place in 0..part.keys as usize {
            let position = reply.order[start + place] as usize;
            assert_eq!(reply.values[position], place as i64 + 1_000 * i64::from(part.shard.0));
        }
        start += part.keys as usize;
    }
    let refused: Vec<usize> = (0..40).filter(|&place| reply.outcome(place) == ErrorCode::Overflow).collect();
    let third = (reply.parts[0].keys + reply.parts[1].keys) as usize;
    assert_eq!(refused, [reply.order[third + 1] as usize]);
    assert_eq!(subject.gateway.in_flight(), 0);
}

#[test]
fn a_refused_part_is_told_an_increment_at_a_time_and_a_refused_whole_as_an_error() {
    let mut subject = Subject::greeted(2);
    let refuse = |part: &PartRequest| PartReply {
        ticket: part.ticket,
        shard: part.shard,
        body: PartAnswer::Refused { code: ErrorCode::DiskFull },
    };
    subject.increment(1, &keys(20));
    subject.increment(2, &keys(20));
    let (_, parts) = subject.output();
    subject.gateway.answer(applied(&parts[0], 3, Vec::new()));
    parts[1..].iter().for_each(|part| subject.gateway.answer(refuse(part)));
    let (replies, _) = subject.output();
    let (1, Reply::Increment(partly)) = &replies[0] else { panic!("{replies:?}") };
    let refused = (0..20).filter(|&place| partly.outcome(place) == ErrorCode::DiskFull).count();
    assert_eq!((refused as u32, partly.parts[1].applied_index), (partly.parts[1].keys, Index(0)));
    assert!(matches!(&replies[1], (2, Reply::Error { code: ErrorCode::DiskFull, .. })));
}

/// R5: a definite refusal of the whole must be true of every part, in whatever order they answer.
#[test]
fn a_whole_that_was_refused_for_several_reasons_is_told_the_one_that_promises_least() {
    use ErrorCode::{Fenced, Overloaded, SessionExpired, Unknown};
    for (codes, told) in [
        ([Unknown, Overloaded], Unknown),
        ([Unknown, Fenced], Unknown),
        ([Overloaded, SessionExpired], Overloaded),
        ([Overloaded, Fenced], Overloaded),
        ([SessionExpired, Fenced], SessionExpired),
        ([Fenced, Fenced], Fenced),
    ] {
        for order in [[0, 1], [1, 0]] {
            let mut subject = Subject::greeted(2);
            subject.increment(1, &keys(20));
            let (_, parts) = subject.output();
            for (part, code) in parts.iter().zip(order.map(|place: usize| codes[place])) {
                let body = PartAnswer::Refused { code };
                subject.gateway.answer(PartReply { ticket: part.ticket, shard: part.shard, body });
            }
            let (replies, _) = subject.output();
            let (1, Reply::Error { code, .. }) = &replies[0] else { panic!("{replies:?}") };
            assert_eq!(*code, told, "{codes:?}");
        }
    }
}

#[test]
fn what_waits_too_long_is_unknown_and_late_answers_find_nobody() {
    let mut subject = Subject::greeted(1);
    subject.increment(1, &keys(1));
    let (_, late) = subject.output();
    subject.now = Micros(REQUEST_WAIT_MICROS_MAX);
    subject.gateway.tick(subject.now);
    let (replies, _) = subject.output();
    assert!(matches!(&replies[0], (1, Reply::Error { code: ErrorCode::Unknown, .. })));
    // The slot has a new user; the late answer is not for it.
    subject.increment(2, &keys(1));
    subject.gateway.answer(applied(&late[0], 9, Vec::new()));
    let (replies, parts) = subject.output();
    assert!(replies.is_empty());
    subject.gateway.answer(applied(&parts[0], 10, Vec::new()));
    assert!(matches!(&subject.output().0[0], (2, Reply::Increment(_))));
}

#[test]
fn one_stuck_request_does_not_pile_up_deadlines() {
    let mut subject = Subject::greeted(1);
    subject.increment(1, &keys(1));
    subject.output();
    for id in 2..20_000 {
        subject.increment(id, &keys(1));
        let (_, parts) = subject.output();
        subject.gateway.answer(applied(&parts[0], id, Vec::new()));
        subject.output();
    }
    assert!(subject.gateway.deadlines() < 4_096, "{} deadlines are kept", subject.gateway.deadlines());
    assert_eq!(subject.gateway.in_flight(), 1);
}

#[test]
fn nothing_is_answered_before_hello_and_other_versions_are_turned_away() {
    let mut subject = Subject::new(1);
    subject.increment(1, &keys(1));
    let output = subject.gateway.take_output();
    assert!(output.frames[0].close && output.parts.is_empty());
    let hello = Hello { protocol_min: 99, protocol_max: 100, cluster_id: None, client_name: "test" };
    subject.send(|encoder, out| encoder.hello(out, 2, &hello));
    let (replies, _) = subject.output();
    assert!(matches!(&replies[0], (2, Reply::Error { code: ErrorCode::Unsupported, .. })));
    let hello = Hello { protocol_min: 1, protocol_max: 1, cluster_id: Some(ClusterId(2)), client_name: "test" };
    subject.send(|encoder, out| encoder.hello(out, 3, &hello));
    assert!(matches!(&subject.output().0[0], (3, Reply::Error { code: ErrorCode::Unsupported, .. })));
}

#[test]
fn top_lists_are_merged_with_ties_by_key() {
    let mut subject = Subject::greeted(2);
    subject.send(|encoder, out| encoder.top_k(out, 1, 3));
    let (_, parts) = subject.output();
    let lists = [vec![("b", 5), ("d", 5), ("x", 1)], vec![("c", 5), ("a", 2)]];
    for (part, list) in parts.iter().zip(lists) {
        let mut keys = PackedKeys::default();
        list.iter().for_each(|(key, _)| keys.push(key.as_bytes()));
        let counts = list.iter().map(|&(_, count)| count).collect();
        let body = PartAnswer::Top { index: Index(4), keys, counts, exhausted: true };
        subject.gateway.answer(PartReply { ticket: part.ticket, shard: part.shard, body });
    }
    let (replies, _) = subject.output();
    let (1, Reply::TopK(reply)) = &replies[0] else { panic!("{replies:?}") };
    let keys: Vec<&[u8]> = reply.keys.iter().collect();
    assert_eq!((keys, &reply.counts[..]), (vec![&b"b"[..], b"c", b"d"], &[5, 5, 5][..]));
    assert_eq!(reply.parts.iter().map(|part| part.keys).collect::<Vec<_>>(), [2, 1]);
}

const CREDENTIALS: Credentials = Credentials { session: SessionId(5), epoch: SessionEpoch(1), token: SessionToken(0) };

/// The credentials of a session that this cluster has opened.
fn credentials() -> Credentials {
    Credentials { token: SECRET.token(CREDENTIALS.session, CREDENTIALS.epoch), ..CREDENTIALS }
}

fn stamp(credentials: Credentials) -> Stamp {
    Stamp { credentials, sequence: Sequence(3), low_water: Sequence(2) }
}

#[test]
fn nobody_speaks_for_a_session_without_its_token() {
    let mut subject = Subject::greeted(2);
    let mut packed = PackedKeys::default();
    packed.push(b"a");
    let forged = stamp(CREDENTIALS);
    subject.send(|encoder, out| encoder.increment(out, 1, &packed, &[1], false, Some(&forged)));
    subject.send(|encoder, out| encoder.attach_session(out, 2, &CREDENTIALS));
    subject.send(|encoder, out| encoder.close_session(out, 3, &CREDENTIALS, Sequence(9)));
    subject.send(|encoder, out| encoder.resolve(out, 4, &forged, None));
    let (replies, parts) = subject.output();
    assert!(parts.is_empty());
    for (place, reply) in (1..).zip(&replies) {
        assert!(matches!(reply, (id, Reply::Error { code: ErrorCode::BadSession, .. }) if *id == place), "{reply:?}");
    }
    assert_eq!(replies.len(), 4);
}

#[test]
fn every_part_of_a_request_carries_its_number_digest_and_places() {
    let mut subject = Subject::greeted(3);
    let mut packed = PackedKeys::default();
    keys(40).iter().for_each(|key| packed.push(key.as_bytes()));
    let stamp = stamp(credentials());
    subject.send(|encoder, out| encoder.increment(out, 1, &packed, &[1; 40], false, Some(&stamp)));
    let (_, parts) = subject.output();
    let (mut digests, mut places) = (Vec::new(), Vec::new());
    for part in &parts {
        let PartBody::Increment { encoded, stamp: Some(stamped), .. } = &part.body else { panic!("{part:?}") };
        assert_eq!((stamped.session, stamped.sequence, stamped.low_water), (SessionId(5), Sequence(3), Sequence(2)));
        let mut entry = Vec::new();
        command::begin_batch(&mut entry, ShardEpoch(1));
        entry.extend_from_slice(encoded);
        let Ok(Command::Batch(mut batch)) = command::decode(&entry) else { panic!("not a batch") };
        let Ok(Some(Part::Increments { stamped: Some(inside), .. })) = batch.next_part() else { panic!("no stamp") };
        assert_eq!(inside.stamp, *stamped);
        digests.push(inside.digest);
        places.extend(inside.places().expect("valid").expect("one of several parts"));
    }
    assert_eq!(digests, [digests[0]; 3]);
    places.sort_unstable();
    assert_eq!(places, (0..40).collect::<Vec<u32>>());
}

#[test]
fn a_session_is_opened_with_its_token_and_a_lost_one_is_told() {
    let mut subject = Subject::greeted(2);
    subject.send(|encoder, out| encoder.open_session(out, 1, Some(b"job")));
    subject.send(|encoder, out| encoder.open_session(out, 2, Some(b"job")));
    let (_, parts) = subject.output();
    let (session, epoch) = (SessionId(8), SessionEpoch(2));
    let opened = Registered::Opened { session, epoch, progress: Sequence(7), resumed: true };
    for (part, said) in parts.iter().zip([opened, Registered::Expired]) {
        assert_eq!((part.shard, &part.body), (ShardId::META, &PartBody::OpenSession { name: b"job".to_vec() }));
        let body = PartAnswer::Registered(said);
        subject.gateway.answer(PartReply { ticket: part.ticket, shard: part.shard, body });
    }
    let (replies, _) = subject.output();
    let (1, Reply::OpenSession(opened)) = &replies[0] else { panic!("{replies:?}") };
    assert!(SECRET.proves(&opened.credentials) && opened.resumed);
    assert_eq!((opened.credentials.session, opened.progress, opened.age_micros_max), (session, Sequence(7), 1_000));
    assert!(matches!(&replies[1], (2, Reply::Error { code: ErrorCode::SessionExpired, .. })));
}

#[test]
fn attaching_asks_every_shard_and_takes_the_highest_floor() {
    let mut subject = Subject::greeted(3);
    subject.send(|encoder, out| encoder.attach_session(out, 1, &credentials()));
    subject.send(|encoder, out| encoder.attach_session(out, 2, &credentials()));
    let (_, parts) = subject.output();
    assert_eq!(parts.len(), 6);
    for part in &parts {
        let floor = Sequence(u64::from(part.shard.0 % 3));
        let missing = part.ticket.slot == parts[5].ticket.slot && part.shard == ShardId(2);
        let body = match missing {
            true => PartAnswer::Refused { code: ErrorCode::Unavailable },
            false => PartAnswer::Attached {
                index: Index(9),
                attachment: Attachment { floor, reached: Sequence(floor.0 + 5) },
            },
        };
        subject.gateway.answer(PartReply { ticket: part.ticket, shard: part.shard, body });
    }
    let (replies, _) = subject.output();
    let (1, Reply::AttachSession(reply)) = &replies[0] else { panic!("{replies:?}") };
    assert_eq!((reply.floor, reply.reached, reply.parts.len()), (Sequence(2), Sequence(7), 3));
    let unavailable = matches!(&replies[1], (2, Reply::Error { code: ErrorCode::Unavailable, .. }));
    assert!(unavailable, "a former holder that one shard still admits is not fenced");
}

/// S4: a resolution asks every shard that the request touches, or all.
#[test]
fn resolving_asks_the_shards_of_the_keys_or_all() {
    let mut subject = Subject::greeted(3);
    let mut packed = PackedKeys::default();
    packed.push(b"a");
    let stamp = stamp(credentials());
    subject.send(|encoder, out| encoder.resolve(out, 1, &stamp, Some(&packed)));
    subject.send(|encoder, out| encoder.resolve(out, 2, &stamp, None));
    let (_, parts) = subject.output();
    assert_eq!(parts.len(), 1 + 3);
    for part in &parts {
        let body = PartAnswer::Resolved(Fate::Fenced(Index(6)));
        subject.gateway.answer(PartReply { ticket: part.ticket, shard: part.shard, body });
    }
    let (replies, _) = subject.output();
    for ((id, reply), shards) in replies.iter().zip([1, 3]) {
        let Reply::Resolve(reply) = reply else { panic!("{id}: {reply:?}") };
        assert_eq!(reply.parts.len(), shards);
        assert!(reply.parts.iter().all(|part| part.resolution == Resolution::Fenced));
    }
}
