//! The client against a server that says what the test tells it to: sessions, routing, bounds.

use super::*;
use crate::engine::sessions::Opened;
use crate::ids::{ClusterId, KeyHash, NodeId, SessionEpoch, SessionToken, ShardId, StoreId};
use crate::limits::{CLIENT_DIAL_AFTER, CLIENT_DIAL_MICROS_MAX, REQUEST_BYTES_MAX, SESSION_SPAN_MAX};
use crate::wire::client::{
    AttachReply, Encoder, Part, Request as WireRequest, ShardRange, Stamp, StoreAddress, Welcome, decode_request,
};
use crate::wire::frame::Decoder;

const AGE: u64 = 1_000_000_000;
const LONG: u64 = 100 * AGE;

/// What a frame of the client says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Hello,
    Open,
    Increment(Option<Stamp>, Vec<u8>),
    Other,
}

struct Script {
    client: Client,
    now: Micros,
    encoder: Encoder,
    decoders: BTreeMap<LinkId, Decoder>,
    addresses: BTreeMap<LinkId, Arc<str>>,
    dials: Vec<(LinkId, Arc<str>)>,
    done: Vec<(OpId, Result<Answer, ClientError>)>,
    sessions: u64,
}

impl Script {
    fn new(endpoints: &[&str]) -> Script {
        let endpoints: Vec<String> = endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect();
        Script {
            client: Client::new(Config::new(&endpoints), 1),
            now: Micros(1),
            encoder: Encoder::new(),
            decoders: BTreeMap::new(),
            addresses: BTreeMap::new(),
            dials: Vec::new(),
            done: Vec::new(),
            sessions: 0,
        }
    }

    fn submit(&mut self, key: &str, time: u64) -> Result<OpId, SubmitError> {
        let mut batch = Batch::new();
        batch.push(key.as_bytes(), 1).expect("fits");
        let op = Op::Increment { batch, want_values: false, delivery: Delivery::ExactlyOnce };
        let id = self.client.submit(self.now, op, self.now.plus(time));
        self.drain();
        id
    }

    fn drain(&mut self) {
        let output = self.client.take_output();
        self.addresses.extend(output.dials.iter().cloned());
        self.dials.extend(output.dials);
        self.done.extend(output.done);
    }

    fn step(&mut self, event: Event) {
        self.client.step(self.now, event);
        self.drain();
    }

    fn wait(&mut self, micros: u64) {
        self.now = self.now.plus(micros);
        self.step(Event::Tick);
    }

    /// Everything that the client sends on a link, with the ids to answer to.
    fn read(&mut self, link: LinkId) -> Vec<(u64, Said)> {
        let bytes = self.client.unsent(link).to_vec();
        self.step(Event::Sent(link, bytes.len()));
        let decoder = self.decoders.entry(link).or_insert_with(|| Decoder::new(REQUEST_BYTES_MAX));
        decoder.space(bytes.len().max(1))[..bytes.len()].copy_from_slice(&bytes);
        decoder.filled(bytes.len());
        let mut said = Vec::new();
        while let Some(frame) = decoder.next_frame().expect("frames") {
            let what = match decode_request(frame.kind, frame.payload).expect("valid") {
                WireRequest::Hello(_) => Said::Hello,
                WireRequest::OpenSession { .. } => Said::Open,
                WireRequest::Increment(request) => Said::Increment(request.stamp, request.keys.key(0).to_vec()),
                _ => Said::Other,
            };
            said.push((frame.request_id, what));
        }
        said
    }

    fn write(&mut self, link: LinkId, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut self.encoder, &mut bytes);
        for piece in bytes.chunks(1_000) {
            self.client.space(link)[..piece.len()].copy_from_slice(piece);
            self.step(Event::Received(link, piece.len()));
        }
    }

    /// Brings up the link that was asked for last.
    fn connect(&mut self, welcome: &Welcome) -> LinkId {
        let (link, _) = self.dials.pop().expect("a link is asked for");
        self.step(Event::Connected(link));
        let said = self.read(link);
        assert_eq!(said[0].1, Said::Hello);
        self.write(link, |encoder, out| encoder.welcome(out, said[0].0, welcome));
        link
    }

    fn open(&mut self, link: LinkId, id: u64) {
        self.sessions += 1;
        let (session, epoch) = (SessionId(self.sessions), SessionEpoch(1));
        let credentials = Credentials { session, epoch, token: SessionToken(3) };
        let opened = Opened { credentials, age_micros_max: AGE, progress: Sequence(0), resumed: false };
        self.write(link, |encoder, out| encoder.open_session_reply(out, id, &opened));
    }

    fn acknowledge(&mut self, link: LinkId, id: u64) {
        let reply = IncrementReply { parts: vec![Part { keys: 1, ..Part::default() }], ..IncrementReply::default() };
        self.write(link, |encoder, out| encoder.increment_reply(out, id, &reply));
    }

    /// A client with a link and a session, and one increment acknowledged.
    fn warm() -> (Script, LinkId) {
        let mut script = Script::new(&["s0"]);
        script.submit("first", LONG).expect("room");
        let link = script.connect(&welcome(1));
        let said = script.read(link);
        assert_eq!(said[0].1, Said::Open);
        script.open(link, said[0].0);
        let (id, stamp) = script.increment(link);
        assert_eq!(
            (stamp.credentials.session, stamp.sequence, stamp.low_water),
            (SessionId(1), Sequence(1), Sequence(0))
        );
        script.acknowledge(link, id);
        assert!(matches!(script.done.pop(), Some((_, Ok(Answer::Incremented(_))))));
        (script, link)
    }

    /// The one increment that the client sends now.
    fn increment(&mut self, link: LinkId) -> (u64, Stamp) {
        let said = self.read(link);
        match said.as_slice() {
            [(id, Said::Increment(Some(stamp), _))] => (*id, *stamp),
            other => panic!("{other:?}"),
        }
    }
}

fn welcome(shards: u16) -> Welcome {
    let node = NodeId(1);
    let address = |store| StoreAddress { node, store: StoreId(store), address: format!("s{store}") };
    let range = |shard: u16| ShardRange {
        start: KeyHash(((u128::from(shard) << 64) / u128::from(shards)) as u64),
        shard: ShardId(u32::from(shard) + 1),
        node,
        store: StoreId(shard),
    };
    Welcome {
        protocol: crate::wire::client::PROTOCOL_VERSION,
        cluster_id: ClusterId(5),
        map_epoch: 1,
        stores: (0..shards).map(address).collect(),
        shards: (0..shards).map(range).collect(),
        ..Welcome::default()
    }
}

#[test]
fn a_session_is_left_for_the_next_at_half_its_age_and_nothing_waits_for_that() {
    let (mut script, link) = Script::warm();
    script.wait(AGE / 2);
    script.submit("a", LONG).expect("room");
    let said = script.read(link);
    let [(open, Said::Open), (id, Said::Increment(Some(stamp), _))] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((stamp.credentials.session, stamp.sequence), (SessionId(1), Sequence(2)));
    script.open(link, *open);
    script.submit("b", LONG).expect("room");
    let (_, stamp) = script.increment(link);
    assert_eq!((stamp.credentials.session, stamp.sequence), (SessionId(2), Sequence(1)));
    assert_eq!(script.client.sessions.len(), 2, "the old one has a request under way");
    script.acknowledge(link, *id);
    assert_eq!(script.client.sessions.len(), 1);
}

#[test]
fn a_request_goes_out_again_under_its_number_and_a_late_answer_to_any_copy_will_do() {
    let (mut script, link) = Script::warm();
    script.submit("a", LONG).expect("room");
    let (first, stamp) = script.increment(link);
    script.wait(2_000_000);
    let (second, again) = script.increment(link);
    assert_eq!(stamp, again);
    assert_ne!(first, second);
    script.acknowledge(link, first);
    assert!(matches!(script.done.pop(), Some((_, Ok(Answer::Incremented(_))))));
    script.write(link, |encoder, out| encoder.error(out, second, ErrorCode::Forgotten, "late"));
    assert!(script.done.is_empty() && script.client.unsent(link).is_empty(), "nobody waits for it");
    assert!(script.client.links.get(link).is_some(), "and it is no offence");
}

#[test]
fn an_expired_session_that_had_the_only_copy_is_followed_by_a_new_number() {
    let (mut script, link) = Script::warm();
    script.submit("a", LONG).expect("room");
    let (id, _) = script.increment(link);
    script.write(link, |encoder, out| encoder.error(out, id, ErrorCode::SessionExpired, "old"));
    let said = script.read(link);
    assert_eq!(said[0].1, Said::Open, "{said:?}");
    script.open(link, said[0].0);
    let (id, stamp) = script.increment(link);
    assert_eq!((stamp.credentials.session, stamp.sequence), (SessionId(2), Sequence(1)));
    script.acknowledge(link, id);
    assert!(matches!(script.done.pop(), Some((_, Ok(_)))));
}

#[test]
fn an_expired_session_with_another_copy_under_way_makes_it_unknown() {
    let (mut script, link) = Script::warm();
    script.submit("a", LONG).expect("room");
    script.increment(link);
    script.wait(2_000_000);
    let (second, stamp) = script.increment(link);
    script.write(link, |encoder, out| encoder.error(out, second, ErrorCode::SessionExpired, "old"));
    let Some((_, Err(ClientError::Unknown { id: Some(id), increments: 1, .. }))) = script.done.pop() else {
        panic!("unknown");
    };
    assert_eq!((id.credentials, id.sequence), (stamp.credentials, stamp.sequence));
    assert!(script.read(link).is_empty(), "it is not sent under another session");
}

#[test]
fn a_number_that_ended_unknown_holds_up_the_mark_until_the_session_is_full_and_left() {
    let (mut script, link) = Script::warm();
    script.submit("lost", 1_000_000).expect("room");
    script.increment(link);
    script.wait(1_000_000);
    script.read(link);
    assert!(matches!(script.done.pop(), Some((_, Err(ClientError::Unknown { .. })))));
    let mut sessions = BTreeSet::new();
    for _ in 0..SESSION_SPAN_MAX + 10 {
        script.submit("a", LONG).expect("room");
        let said = script.read(link);
        let mut queue: VecDeque<(u64, Said)> = said.into();
        while let Some((id, said)) = queue.pop_front() {
            match said {
                Said::Open => {
                    script.open(link, id);
                    queue.extend(script.read(link));
                }
                Said::Increment(Some(stamp), _) => {
                    let held_up = stamp.credentials.session != SessionId(1) || stamp.low_water == Sequence(1);
                    assert!(held_up, "the mark passes the lost number: {stamp:?}");
                    sessions.insert(stamp.credentials.session);
                    script.acknowledge(link, id);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(script.done.pop(), Some((_, Ok(_)))));
    }
    assert_eq!(sessions.len(), 2, "the second has no number that is lost");
}

#[test]
fn what_never_left_whole_was_never_sent() {
    let (mut script, link) = Script::warm();
    script.submit("a", 1_000_000).expect("room");
    let count = script.client.unsent(link).len();
    script.step(Event::Sent(link, count - 1));
    script.step(Event::Disconnected(link, "reset".to_owned()));
    script.wait(1_000_000);
    let result = script.done.pop().expect("ended").1;
    assert!(matches!(&result, Err(ClientError::Unreachable { reason }) if reason.contains("s0: reset")), "{result:?}");
}

#[test]
fn stores_are_connected_to_when_a_few_requests_wanted_them() {
    let mut script = Script::new(&["seed"]);
    script.submit("first", LONG).expect("room");
    let seed = script.connect(&welcome(2));
    let said = script.read(seed);
    script.open(seed, said[0].0);
    // The map is that of the welcome: both halves have keys among these.
    for number in 0..8 * CLIENT_DIAL_AFTER {
        script.submit(&format!("key {number}"), LONG).expect("room");
    }
    let dialled: BTreeSet<String> = script.dials.iter().map(|(_, address)| address.to_string()).collect();
    assert_eq!(dialled, ["s0", "s1"].map(str::to_owned).into());
    let link = script.connect(&welcome(2));
    let owner = usize::from(&*script.addresses[&link] == "s1");
    script.read(seed);
    let mine =
        (0..100).map(|number| format!("more {number}")).find(|key| script.client.shard_of(key.as_bytes()) == owner);
    script.submit(&mine.expect("half of all keys"), LONG).expect("room");
    script.increment(link);
    assert!(script.read(seed).is_empty());
}

#[test]
fn what_is_accepted_is_bounded_and_so_are_the_links() {
    let mut script = Script::new(&["s0", "s1", "s2"]);
    let room = script.client.config.requests_max;
    let mut accepted = 0;
    while script.submit("a", LONG).is_ok() {
        accepted += 1;
    }
    assert_eq!(accepted, room);
    assert!(matches!(script.submit("a", LONG), Err(SubmitError::Full(Op::Increment { .. }))));
    for _ in 0..50 {
        script.wait(CLIENT_DIAL_MICROS_MAX);
        let (links, endpoints, unsent) = script.client.links.sizes();
        assert!(links <= 3 && endpoints == 3 && unsent == 0);
    }
    let mut heavy = Script::new(&["s0"]);
    heavy.client.config.request_bytes_max = 5_000;
    assert!((0..100).any(|_| heavy.submit("a", LONG).is_err()));
    assert!(heavy.client.bytes <= 5_000);
}

#[test]
fn a_server_that_hands_out_a_session_twice_is_not_believed() {
    let (mut script, link) = Script::warm();
    script.wait(AGE / 2);
    script.submit("a", LONG).expect("room");
    let said = script.read(link);
    script.sessions = 0;
    script.open(link, said[0].0);
    assert!(script.client.links.get(link).is_none(), "the link is given up");
    assert_eq!(script.client.sessions.len(), 1);
}

#[test]
fn another_cluster_behind_a_known_address_is_refused() {
    let (mut script, link) = Script::warm();
    script.step(Event::Disconnected(link, "restarted".to_owned()));
    script.submit("a", LONG).expect("room");
    script.wait(1_000_000);
    let other = Welcome { cluster_id: ClusterId(6), ..welcome(1) };
    let link = script.connect(&other);
    assert!(script.client.links.get(link).is_none());
    assert!(script.done.is_empty(), "its deadline is far");
}

/// Found by the simulator: a request sent behind a closing came after the progress that the server was told, so the next
/// holder sent it once more under another session.
#[test]
fn a_session_that_is_being_closed_takes_no_more_numbers() {
    let mut script = Script::new(&["s0"]);
    let open = |script: &mut Script| {
        let op = Op::Open { name: b"job".to_vec() };
        script.client.submit(script.now, op, script.now.plus(LONG)).expect("room");
        script.drain();
    };
    let numbered = |script: &mut Script, number| {
        let mut batch = Batch::new();
        batch.push(b"a", 1).expect("fits");
        let op = Op::Increment { batch, want_values: false, delivery: Delivery::Numbered(Sequence(number)) };
        let submitted = script.client.submit(script.now, op, script.now.plus(LONG));
        script.drain();
        submitted
    };
    open(&mut script);
    let link = script.connect(&welcome(1));
    let said = script.read(link);
    script.open(link, said[0].0);
    numbered(&mut script, 1).expect("the session's first");
    let (id, _) = script.increment(link);
    script.acknowledge(link, id);
    script.client.submit(script.now, Op::Close, script.now.plus(LONG)).expect("everything is answered");
    script.drain();
    assert_eq!(script.client.next_number(), None);
    assert!(matches!(numbered(&mut script, 2), Err(SubmitError::Refused(_))));
    // Whether it was closed or not, opening it again tells.
    open(&mut script);
    let said = script.read(link);
    assert_eq!(said.iter().map(|(_, said)| said.clone()).collect::<Vec<_>>(), [Said::Other, Said::Open]);
    script.open(link, said[1].0);
    assert_eq!(script.client.next_number(), Some(Sequence(1)));
}

/// Found by the simulator: the next holder closed a session before it had sent again what the former one had sent, and that
/// was counted once more under the session after it.
#[test]
fn a_session_is_not_closed_short_of_where_its_former_holder_came() {
    let mut script = Script::new(&["s0"]);
    let op = Op::Open { name: b"job".to_vec() };
    script.client.submit(script.now, op, script.now.plus(LONG)).expect("room");
    script.drain();
    let link = script.connect(&welcome(1));
    let said = script.read(link);
    let credentials = Credentials { session: SessionId(1), epoch: SessionEpoch(2), token: SessionToken(3) };
    let opened = Opened { credentials, age_micros_max: AGE, progress: Sequence(0), resumed: true };
    script.write(link, |encoder, out| encoder.open_session_reply(out, said[0].0, &opened));
    script.wait(1_000_000);
    let said = script.read(link);
    let attached = AttachReply { parts: Vec::new(), floor: Sequence(4), reached: Sequence(5) };
    script.write(link, |encoder, out| encoder.attach_session_reply(out, said[0].0, &attached));
    let Some((_, Ok(Answer::Opened(named)))) = script.done.pop() else { panic!("opened") };
    assert_eq!((named.settled, named.reached, named.resumed), (Sequence(4), Sequence(5), true));
    assert!(matches!(script.client.submit(script.now, Op::Close, script.now.plus(LONG)), Err(SubmitError::Refused(_))));
    let mut batch = Batch::new();
    batch.push(b"a", 1).expect("fits");
    let op = Op::Increment { batch, want_values: false, delivery: Delivery::Numbered(Sequence(5)) };
    let again = op.clone();
    script.client.submit(script.now, op, script.now.plus(LONG)).expect("its turn");
    script.drain();
    // What is said of this copy is not said of the former holder's, which may have been applied.
    let (id, _) = script.increment(link);
    script.write(link, |encoder, out| encoder.error(out, id, ErrorCode::TooLarge, "no"));
    assert!(matches!(script.done.pop(), Some((_, Err(ClientError::Unknown { .. })))));
    script.client.submit(script.now, again, script.now.plus(LONG)).expect("a number that was left");
    script.drain();
    let (id, _) = script.increment(link);
    script.acknowledge(link, id);
    script.client.submit(script.now, Op::Close, script.now.plus(LONG)).expect("all that was sent is answered");
}
