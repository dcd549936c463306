//! The client against a hostile world: a cluster that keeps windows as the engine does, behind a network that delays, cuts, reorders and
//! breaks; servers that refuse, stay silent, act late, say `Unknown` of what they did and did not do, expire sessions early, and talk
//! nonsense. Everything comes from one seed, which every failure names.
//!
//! Checked at the moment a frame leaves the client: a number never has two contents, and the low-water mark never passes a number
//! whose operation has not ended. Checked of each operation: it ends once, by its deadline. Checked when all is over, late copies
//! included: what was acknowledged counts once, what was refused does not count, what is unknown counts at most once, and what
//! was resolved is as it was said to be.

use super::*;
use crate::engine::sessions::window::{Applied, Decision, Detail, Windows};
use crate::engine::sessions::{Credentials, Opened, Stamp as EngineStamp};
use crate::ids::{ClusterId, Index, KeyHash, NodeId, SessionEpoch, SessionToken, ShardId, StoreId};
use crate::limits::{CLIENT_LINKS_MAX, REQUEST_BYTES_MAX};
use crate::wire::client::{
    Encoder, Part, Request as WireRequest, Resolution, ResolveReply, ResolvedPart, ShardRange, StoreAddress, Welcome,
    decode_request,
};
use crate::wire::frame::Decoder;

const SHARDS: usize = 4;
const SECOND: u64 = 1_000_000;
const AGE: u64 = 60 * SECOND;

/// How bad a world is: chances in a thousand.
#[derive(Clone, Copy)]
struct Evil {
    /// A frame breaks its connection, before or after it was acted on.
    breaks: u64,
    /// A part is refused for the moment.
    refuses: u64,
    /// A part is called unknown, and may be applied at any time, or never.
    unknowns: u64,
    /// A request gets no answer.
    silences: u64,
    /// The oldest sessions expire.
    expires: u64,
    /// A connection sends what is no answer.
    babbles: u64,
    /// Microseconds that anything takes, at most.
    delay: u64,
}

/// What one shard keeps.
#[derive(Default)]
struct Shard {
    windows: Windows,
    counts: BTreeMap<Vec<u8>, i64>,
    times: BTreeMap<Vec<u8>, u32>,
    index: u64,
}

/// A request at the servers.
struct Ask {
    link: LinkId,
    request_id: u64,
    keys: Vec<Vec<u8>>,
    deltas: Vec<i64>,
    want_values: bool,
    stamp: Option<EngineStamp>,
    digest: u64,
    answers: Vec<(ErrorCode, i64)>,
    missing: usize,
    silent: bool,
}

enum Happening {
    Connects(LinkId, bool),
    ToServers(LinkId, Vec<u8>),
    /// A part of a request is decided, or refused; late: nobody waits for the answer any more.
    Acts {
        ask: usize,
        shard: usize,
        code: Option<ErrorCode>,
        late: bool,
    },
    ToClient(LinkId, Vec<u8>),
    Breaks(LinkId),
}

/// An operation as the test sees it.
struct Known {
    key: Vec<u8>,
    others: Vec<Vec<u8>>,
    deadline: Micros,
    kind: Delivery,
    result: Option<Result<Answer, ClientError>>,
}

struct World {
    seed: u64,
    prng: Prng,
    evil: Evil,
    now: Micros,
    client: Client,
    happenings: BTreeMap<(Micros, u64), Happening>,
    count: u64,
    shards: Vec<Shard>,
    sessions: u64,
    opened_at: Vec<Micros>,
    asks: Vec<Ask>,
    alive: BTreeMap<LinkId, (Decoder, Decoder)>,
    encoder: Encoder,
    known: BTreeMap<OpId, Known>,
    /// Content and operation of each number that was used.
    numbers: BTreeMap<(SessionId, Sequence), (u64, OpId)>,
    by_key: BTreeMap<Vec<u8>, OpId>,
    resolving: BTreeMap<OpId, OpId>,
    fates: BTreeMap<OpId, super::super::resolved::Fate>,
    deadline: Option<Micros>,
}

fn shard_of(key: &[u8]) -> usize {
    (KeyHash::of(7, key).0 >> 62) as usize
}

impl World {
    fn new(seed: u64, evil: Evil) -> World {
        let mut config = Config::new(&["s0".to_owned(), "s1".to_owned()]);
        config.requests_max = 64;
        World {
            seed,
            prng: Prng::new(seed),
            evil,
            now: Micros(1),
            client: Client::new(config, seed ^ 0x5555),
            happenings: BTreeMap::new(),
            count: 0,
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            sessions: 0,
            opened_at: Vec::new(),
            asks: Vec::new(),
            alive: BTreeMap::new(),
            encoder: Encoder::new(),
            known: BTreeMap::new(),
            numbers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            resolving: BTreeMap::new(),
            fates: BTreeMap::new(),
            deadline: None,
        }
    }

    fn chance(&mut self, in_a_thousand: u64) -> bool {
        self.prng.chance(in_a_thousand, 1_000)
    }

    fn later(&mut self, happening: Happening) {
        let delay = 1 + self.prng.below(self.evil.delay);
        self.at(self.now.plus(delay), happening);
    }

    fn at(&mut self, at: Micros, happening: Happening) {
        self.count += 1;
        self.happenings.insert((at, self.count), happening);
    }

    /// Submits an operation of unique keys.
    fn submit(&mut self, number: u64) {
        let kind = if self.chance(100) { Delivery::AtMostOnce } else { Delivery::ExactlyOnce };
        let key = format!("{}-{number}", self.seed).into_bytes();
        let others: Vec<Vec<u8>> = (0..self.prng.below(4)).map(|n| format!("{n}/{number}").into_bytes()).collect();
        let mut batch = Batch::new();
        for key in std::iter::once(&key).chain(&others) {
            batch.push(key, 1).expect("fits");
        }
        let time = [50_000, SECOND, 10 * SECOND, 40 * SECOND][self.prng.below(4) as usize];
        let deadline = self.now.plus(time);
        let want_values = self.prng.chance(1, 2);
        match self.client.submit(self.now, Op::Increment { batch, want_values, delivery: kind }, deadline) {
            Ok(id) => {
                self.by_key.insert(key.clone(), id);
                self.known.insert(id, Known { key, others, deadline, kind, result: None });
            }
            Err(SubmitError::Full(_)) => {}
            Err(SubmitError::Refused(error)) => panic!("seed {}: {error}", self.seed),
        }
        self.drain();
    }

    /// Does what the client wants done.
    fn drain(&mut self) {
        let output = self.client.take_output();
        self.deadline = output.deadline;
        let mut asks = false;
        for (id, result) in output.done {
            asks |= self.ended(id, result);
        }
        for (link, _) in output.dials {
            let works = !self.chance(self.evil.breaks);
            self.later(Happening::Connects(link, works));
        }
        for link in output.closes {
            self.alive.remove(&link);
        }
        let links: Vec<LinkId> = self.client.links().collect();
        for link in links.into_iter().filter(|link| self.alive.contains_key(link)).collect::<Vec<_>>() {
            let bytes = self.client.unsent(link).to_vec();
            // Any part of it, so that frames are cut anywhere.
            let count =
                if self.prng.chance(1, 4) { self.prng.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
            if count == 0 {
                continue;
            }
            self.spy(link, &bytes[..count]);
            self.client.step(self.now, Event::Sent(link, count));
            self.later_in_order(link, bytes[..count].to_vec());
        }
        let (links, endpoints, _) = self.client.links.sizes();
        assert!(links <= CLIENT_LINKS_MAX && endpoints <= 8 && self.client.operations.len() <= 65);
        assert!(self.client.unnumbered.len() + self.client.ready.len() <= 4 * 65 + 128);
        assert!(self.client.sessions.len() <= 70, "sessions without requests are dropped");
        if asks {
            self.drain();
        }
    }

    /// Bytes of one link keep their order.
    fn later_in_order(&mut self, link: LinkId, bytes: Vec<u8>) {
        let last = self
            .happenings
            .iter()
            .rev()
            .find(|(_, happening)| matches!(happening, Happening::ToServers(to, _) if *to == link));
        let earliest = last.map_or(self.now, |((at, _), _)| *at);
        let delay = self.prng.below(self.evil.delay);
        self.at(self.now.plus(delay).max(earliest), Happening::ToServers(link, bytes));
    }

    /// Whether that made the test ask for something more.
    fn ended(&mut self, id: OpId, result: Result<Answer, ClientError>) -> bool {
        let seed = self.seed;
        if let Some(op) = self.resolving.remove(&id) {
            if let Ok(Answer::Resolved(resolved)) = result {
                self.fates.insert(op, resolved.fate);
            }
            return false;
        }
        let known = self.known.get_mut(&id).unwrap_or_else(|| panic!("seed {seed}: {id:?} ends twice or never began"));
        assert!(known.result.is_none(), "seed {seed}: {id:?} ends twice");
        assert!(self.now <= known.deadline, "seed {seed}: {id:?} ends after its deadline");
        let mut asks = false;
        if let Err(ClientError::Unknown { id: Some(request), .. }) = &result
            && self.prng.chance(1, 2)
        {
            let op = Op::Resolve { id: *request, keys: None };
            if let Ok(resolve) = self.client.submit(self.now, op, self.now.plus(20 * SECOND)) {
                self.resolving.insert(resolve, id);
                asks = true;
            }
        }
        known.result = Some(result);
        asks
    }

    /// Looks at what leaves the client.
    fn spy(&mut self, link: LinkId, bytes: &[u8]) {
        let seed = self.seed;
        let Some((spy, _)) = self.alive.get_mut(&link) else { return };
        spy.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        spy.filled(bytes.len());
        while let Some(frame) = spy.next_frame().expect("the client writes frames") {
            let request = decode_request(frame.kind, frame.payload).expect("the client keeps to the protocol");
            let WireRequest::Increment(request) = request else { continue };
            let id = self.by_key[request.keys.key(0)];
            let Some(stamp) = request.stamp else {
                assert_eq!(self.known[&id].kind, Delivery::AtMostOnce, "seed {seed}: an unstamped request");
                continue;
            };
            let session = stamp.credentials.session;
            let entry = self.numbers.entry((session, stamp.sequence)).or_insert((request.digest(), id));
            assert_eq!(*entry, (request.digest(), id), "seed {seed}: two contents under one number");
            let below = self.numbers.range((session, Sequence(0))..=(session, stamp.low_water));
            for ((_, sequence), (_, below)) in below {
                let settled = match &self.known[below].result {
                    Some(Err(ClientError::Unknown { id, .. })) => {
                        id.is_some_and(|id| (id.credentials.session, id.sequence) != (session, *sequence))
                    }
                    Some(_) => true,
                    // Not applied, for the session was over: it goes on under another number.
                    None => self.client.operations[below].number.is_none_or(|(key, number)| {
                        let numbers = &self.client.sessions[&key];
                        (numbers.credentials.session, number) != (session, *sequence)
                    }),
                };
                assert!(settled, "seed {seed}: the low-water mark {} passes {sequence}", stamp.low_water);
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Connects(link, true) => {
                let decoder = || Decoder::new(REQUEST_BYTES_MAX);
                self.alive.insert(link, (decoder(), decoder()));
                self.client.step(self.now, Event::Connected(link));
            }
            Happening::Connects(link, false) => {
                self.client.step(self.now, Event::Disconnected(link, "no route".to_owned()));
            }
            Happening::Breaks(link) => {
                if self.alive.remove(&link).is_some() {
                    self.client.step(self.now, Event::Disconnected(link, "reset".to_owned()));
                }
            }
            Happening::ToServers(link, bytes) => self.serve(link, &bytes),
            Happening::ToClient(link, bytes) => {
                if !self.alive.contains_key(&link) {
                    return;
                }
                let cut = 1 + self.prng.below(bytes.len() as u64) as usize;
                for piece in [&bytes[..cut], &bytes[cut..]] {
                    let space = self.client.space(link);
                    if !piece.is_empty() && space.len() >= piece.len() {
                        space[..piece.len()].copy_from_slice(piece);
                        self.client.step(self.now, Event::Received(link, piece.len()));
                    }
                }
            }
            Happening::Acts { ask, shard, code, late } => self.act(ask, shard, code, late),
        }
        self.drain();
    }

    fn reply(&mut self, link: LinkId, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut self.encoder, &mut bytes);
        if self.chance(self.evil.babbles) {
            match self.prng.below(3) {
                0 => bytes[0] ^= 1,
                1 => self.encoder.close_session_reply(&mut bytes, 1),
                _ => self.encoder.error(&mut bytes, 999_999, ErrorCode::Overloaded, "who?"),
            }
        }
        self.later(Happening::ToClient(link, bytes));
    }

    /// Frames arrive at the servers. What was received whole is acted on even if the connection breaks.
    fn serve(&mut self, link: LinkId, bytes: &[u8]) {
        let mut frames = Vec::new();
        let Some((_, decoder)) = self.alive.get_mut(&link) else { return };
        decoder.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        decoder.filled(bytes.len());
        while let Some(frame) = decoder.next_frame().expect("intact") {
            frames.push((frame.kind, frame.request_id, frame.payload.to_vec()));
        }
        for (kind, id, payload) in frames {
            if self.chance(self.evil.breaks) {
                self.later(Happening::Breaks(link));
            }
            if self.chance(self.evil.expires) {
                self.expire();
            }
            let request = decode_request(kind, &payload).expect("valid");
            self.request(link, id, &request);
        }
    }

    fn expire(&mut self) {
        let young = self.opened_at.iter().rev().take_while(|at| at.plus(AGE) > self.now).count();
        let old = (self.opened_at.len() - young) as u64;
        let mark = if self.prng.chance(1, 4) { self.prng.below(self.sessions + 1) } else { old };
        let shard = self.prng.below(SHARDS as u64) as usize;
        self.shards[shard].windows.expire(SessionId(mark));
    }

    fn request(&mut self, link: LinkId, id: u64, request: &WireRequest<'_>) {
        match request {
            WireRequest::Hello(_) => {
                let welcome = welcome();
                self.reply(link, |encoder, out| encoder.welcome(out, id, &welcome));
            }
            WireRequest::OpenSession { .. } => {
                if self.chance(self.evil.refuses) {
                    return self.reply(link, |e, out| e.error(out, id, ErrorCode::Overloaded, "busy"));
                }
                self.sessions += 1;
                self.opened_at.push(self.now);
                let (session, epoch) = (SessionId(self.sessions), SessionEpoch(1));
                let credentials = Credentials { session, epoch, token: SessionToken(9) };
                let opened = Opened { credentials, age_micros_max: AGE, progress: Sequence(0), resumed: false };
                if !self.chance(self.evil.silences) {
                    self.reply(link, |encoder, out| encoder.open_session_reply(out, id, &opened));
                }
            }
            WireRequest::Resolve { stamp, .. } => self.resolve(link, id, stamp),
            WireRequest::Increment(request) => {
                let stamp = request.stamp.map(|stamp| EngineStamp {
                    session: stamp.credentials.session,
                    epoch: stamp.credentials.epoch,
                    sequence: stamp.sequence,
                    low_water: stamp.low_water,
                });
                let keys: Vec<Vec<u8>> = request.keys.iter().map(<[u8]>::to_vec).collect();
                let mut shards: Vec<usize> = keys.iter().map(|key| shard_of(key)).collect();
                shards.sort_unstable();
                shards.dedup();
                let silent = self.chance(self.evil.silences);
                self.asks.push(Ask {
                    link,
                    request_id: id,
                    answers: vec![(ErrorCode::Ok, 0); keys.len()],
                    keys,
                    deltas: request.deltas().collect(),
                    want_values: request.want_values,
                    stamp,
                    digest: request.digest(),
                    missing: shards.len(),
                    silent,
                });
                let ask = self.asks.len() - 1;
                for shard in shards {
                    let code = if self.chance(self.evil.refuses) {
                        let codes = [ErrorCode::Overloaded, ErrorCode::Unavailable, ErrorCode::WrongShard];
                        Some(codes[self.prng.below(3) as usize])
                    } else {
                        self.chance(self.evil.unknowns).then_some(ErrorCode::Unknown)
                    };
                    self.later(Happening::Acts { ask, shard, code, late: false });
                    // A copy of the part that was called unknown acts at some other time, perhaps.
                    if code == Some(ErrorCode::Unknown) && self.prng.chance(1, 2) {
                        let at = self.now.plus(self.prng.below(10 * SECOND));
                        self.at(at, Happening::Acts { ask, shard, code: None, late: true });
                    }
                }
            }
            other => panic!("{other:?} is not asked for"),
        }
    }

    fn resolve(&mut self, link: LinkId, id: u64, stamp: &crate::wire::client::Stamp) {
        let (session, epoch) = (stamp.credentials.session, stamp.credentials.epoch);
        let stamp = EngineStamp { session, epoch, sequence: stamp.sequence, low_water: stamp.low_water };
        let mut parts = Vec::new();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            shard.index += 1;
            if let Err(code) = shard.windows.resolve(&stamp, Index(shard.index)) {
                return self.reply(link, |encoder, out| encoder.error(out, id, code, "gone"));
            }
            use crate::engine::sessions::window::Fate;
            let part = ResolvedPart { shard: ShardId(number as u32 + 1), ..ResolvedPart::default() };
            parts.push(match shard.windows.fate(session, stamp.sequence) {
                Fate::Applied { increments, overflowed, .. } => {
                    ResolvedPart { resolution: Resolution::Applied, increments, overflowed, ..part }
                }
                Fate::Fenced(_) => ResolvedPart { resolution: Resolution::Fenced, ..part },
                Fate::Forgotten => ResolvedPart { resolution: Resolution::Forgotten, ..part },
            });
        }
        self.reply(link, |encoder, out| encoder.resolve_reply(out, id, &ResolveReply { parts }));
    }

    /// One part of a request is decided.
    fn act(&mut self, ask: usize, shard: usize, code: Option<ErrorCode>, late: bool) {
        let Ask { keys, deltas, want_values, stamp, digest, .. } = &self.asks[ask];
        let mine = |position: &usize| shard_of(&keys[*position]) == shard;
        let positions: Vec<usize> = (0..keys.len()).filter(mine).collect();
        let state = &mut self.shards[shard];
        let mut outcomes: Vec<(ErrorCode, i64)> = vec![(code.unwrap_or(ErrorCode::Ok), 0); positions.len()];
        if code.is_none() {
            state.index += 1;
            let decision = stamp.map_or(Decision::Apply, |stamp| {
                state.windows.decide(&stamp, *digest, Index(state.index), 0, positions.len() as u32)
            });
            match decision {
                Decision::Refuse(code) => outcomes.fill((code, 0)),
                Decision::Repeat => {
                    let stamp = stamp.expect("only what has a number repeats");
                    let answer = |applied: &Applied| applied.answer_to(None).1;
                    let values = state.windows.applied(stamp.session, stamp.sequence).map(answer).unwrap_or_default();
                    values.iter().zip(&mut outcomes).for_each(|(value, outcome)| outcome.1 = *value);
                }
                Decision::Apply => {
                    for (place, &position) in positions.iter().enumerate() {
                        let count = state.counts.entry(keys[position].clone()).or_default();
                        *count += deltas[position];
                        outcomes[place].1 = *count;
                        *state.times.entry(keys[position].clone()).or_default() += 1;
                    }
                    if let (Some(stamp), true) = (stamp, want_values) {
                        let values = outcomes.iter().map(|outcome| outcome.1).collect();
                        state.windows.record(stamp.session, stamp.sequence, Detail { values, ..Detail::default() });
                    }
                }
            }
        }
        if late {
            return;
        }
        let ask = &mut self.asks[ask];
        ask.missing -= 1;
        positions.iter().zip(outcomes).for_each(|(&position, outcome)| ask.answers[position] = outcome);
        if ask.missing == 0 && !ask.silent {
            let (link, id, answers, want) = (ask.link, ask.request_id, ask.answers.clone(), ask.want_values);
            self.answer(link, id, &answers, want);
        }
    }

    fn answer(&mut self, link: LinkId, id: u64, answers: &[(ErrorCode, i64)], want_values: bool) {
        let refusal = |code: ErrorCode| code != ErrorCode::Ok;
        if answers.iter().all(|(code, _)| refusal(*code)) {
            let worst = |code: &ErrorCode| (*code == ErrorCode::Unknown, code.is_transient(), !code.settles());
            let code = answers.iter().map(|(code, _)| *code).max_by_key(worst).expect("not empty");
            return self.reply(link, |encoder, out| encoder.error(out, id, code, code.advice()));
        }
        let outcomes: Vec<u8> = answers.iter().map(|(code, _)| *code as u8).collect();
        let reply = IncrementReply {
            parts: vec![Part { keys: answers.len() as u32, ..Part::default() }],
            order: Vec::new(),
            outcomes: if outcomes.iter().all(|code| *code == 0) { Vec::new() } else { outcomes },
            values: if want_values { answers.iter().map(|(_, value)| *value).collect() } else { Vec::new() },
        };
        self.reply(link, |encoder, out| encoder.increment_reply(out, id, &reply));
    }

    /// Lets the next thing happen: of the world, or of the client's clock.
    fn turn(&mut self) -> bool {
        let happening = self.happenings.first_key_value().map(|((at, _), _)| *at);
        let deadline = self.deadline.filter(|_| self.client.in_flight() > 0);
        match (happening, deadline) {
            (None, None) => return false,
            (Some(at), deadline) if deadline.is_none_or(|deadline| at <= deadline) => {
                self.now = self.now.max(at);
                if let Some((_, happening)) = self.happenings.pop_first() {
                    self.happen(happening);
                }
            }
            (_, deadline) => {
                self.now = self.now.max(deadline.unwrap_or(self.now));
                self.client.step(self.now, Event::Tick);
                self.drain();
            }
        }
        true
    }

    fn check(&self) {
        let times = |key: &[u8]| self.shards[shard_of(key)].times.get(key).copied().unwrap_or(0);
        for (id, known) in &self.known {
            let what = format!("seed {}, {id:?} ({:?}): {:?}", self.seed, known.kind, known.result);
            let result = known.result.as_ref().unwrap_or_else(|| panic!("{what} never ended"));
            let keys: Vec<&Vec<u8>> = std::iter::once(&known.key).chain(&known.others).collect();
            for (position, key) in keys.iter().enumerate() {
                let times = times(key);
                match result {
                    Ok(Answer::Incremented(reply)) if reply.outcome(position) == ErrorCode::Ok => {
                        assert_eq!(times, 1, "{what}: acknowledged");
                        assert!(
                            reply.values.get(position).is_none_or(|value| *value == 1),
                            "{what}: the original answer"
                        );
                    }
                    Ok(_) | Err(ClientError::Refused { .. } | ClientError::Unreachable { .. }) => {
                        assert_eq!(times, 0, "{what}: refused");
                    }
                    Err(_) => assert!(times <= 1, "{what}: unknown"),
                }
            }
            use super::super::resolved::Fate;
            let applied = keys.iter().filter(|key| times(key) == 1).count();
            match self.fates.get(id) {
                Some(Fate::Applied { .. }) => assert_eq!(applied, keys.len(), "{what}: resolved as applied"),
                Some(Fate::NotApplied) => assert_eq!(applied, 0, "{what}: resolved as not applied"),
                Some(Fate::Partly { applied: said, .. }) => {
                    assert_eq!((applied, applied < keys.len()), (*said as usize, true), "{what}: resolved in part");
                }
                Some(Fate::Forgotten) => panic!("{what}: an unknown outcome was forgotten"),
                None => {}
            }
        }
    }
}

fn welcome() -> Welcome {
    let stores = (0..SHARDS as u16)
        .map(|store| StoreAddress { node: NodeId(1), store: StoreId(store), address: format!("s{store}") })
        .collect();
    let shards = (0..SHARDS as u64)
        .map(|shard| ShardRange {
            start: KeyHash(shard << 62),
            shard: ShardId(shard as u32 + 1),
            node: NodeId(1),
            store: StoreId(shard as u16),
        })
        .collect();
    Welcome {
        protocol: crate::wire::client::PROTOCOL_VERSION,
        cluster_id: ClusterId(5),
        routing_seed: 7,
        map_epoch: 1,
        stores,
        shards,
        ..Welcome::default()
    }
}

/// What became of the operations of a run: acknowledged, refused, unknown; and how many were resolved.
fn run(seed: u64, evil: Evil, operations: u64) -> [usize; 4] {
    let mut world = World::new(seed, evil);
    for number in 0..operations {
        world.submit(number);
        for _ in 0..world.prng.below(12) {
            world.turn();
        }
    }
    let mut turns = 0_u64;
    while world.turn() {
        turns += 1;
        assert!(turns < 10_000_000, "seed {seed}: it never comes to rest");
    }
    assert_eq!(world.client.in_flight(), 0);
    world.check();
    let count = |which: fn(&Result<Answer, ClientError>) -> bool| {
        world.known.values().filter(|known| known.result.as_ref().is_some_and(which)).count()
    };
    [
        count(Result::is_ok),
        count(|result| matches!(result, Err(ClientError::Refused { .. } | ClientError::Unreachable { .. }))),
        count(|result| matches!(result, Err(ClientError::Unknown { .. }))),
        world.fates.len(),
    ]
}

const CALM: Evil = Evil { breaks: 0, refuses: 0, unknowns: 0, silences: 0, expires: 0, babbles: 0, delay: 2_000 };
const ROUGH: Evil =
    Evil { breaks: 30, refuses: 100, unknowns: 50, silences: 50, expires: 20, babbles: 5, delay: 300_000 };
const VILE: Evil =
    Evil { breaks: 200, refuses: 300, unknowns: 300, silences: 300, expires: 200, babbles: 50, delay: 3_000_000 };

#[test]
fn in_a_calm_world_everything_is_acknowledged() {
    let [acknowledged, refused, unknown, _] = run(1, CALM, 500);
    assert_eq!((refused, unknown), (0, 0));
    assert!(acknowledged > 400, "{acknowledged}");
}

#[test]
fn nothing_counts_twice_or_is_lost_in_a_hostile_world() {
    let mut sums = [0; 4];
    for seed in 0..100 {
        let evil = if seed % 2 == 0 { ROUGH } else { VILE };
        for (sum, count) in sums.iter_mut().zip(run(seed, evil, 150)) {
            *sum += count;
        }
    }
    assert!(sums.iter().all(|sum| *sum > 30), "every kind of end is tried: {sums:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7, VILE, 200), run(7, VILE, 200));
}
