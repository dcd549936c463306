//! A gateway: the front of a store. It takes client requests apart into a part for each shard they touch, and puts the shards'
//! answers together again.
//!
//! A gateway keeps no counts and decides nothing about them. It checks what a client sends, bounds what it may have under way,
//! and bounds how long it waits: past [`REQUEST_WAIT_MICROS_MAX`] an increment is answered `Unknown`, for it may yet be applied.
//!
//! Answers of shards may come in any order, late or never; tickets carry the generation of their slot, so an answer that comes
//! after its request was given up finds nobody.

mod answer;
mod split;
#[cfg(test)]
mod tests;
mod top;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::cluster::{ClusterMap, META_STORE, StoreAddress};
use super::command::{self, Original};
use super::part::{PackedKeys, PartBody, PartReply, PartRequest, Ticket};
use super::sessions::registry::Registered;
use super::sessions::token::SessionSecret;
use super::sessions::{Credentials, Opened, Stamp};
use crate::error::ErrorCode;
use crate::ids::{ClusterId, Index, Micros, NodeId, ShardId, StoreId};
use crate::limits::{
    KEY_BYTES_MAX, REQUEST_BYTES_MAX, REQUEST_WAIT_MICROS_MAX, SCAN_REPLY_BYTES_MAX, STORE_REQUEST_BYTES_MAX,
    STORE_REQUESTS_MAX,
};
use crate::wire::client::{
    AttachReply, Encoder, GetReply, Hello, IncrementReply, IncrementRequest, Keys, PROTOCOL_VERSION, Part, Request,
    ResolveReply, ScanRequest, Status, Welcome, decode_request,
};
use crate::wire::frame::{Frame, Kind};
use answer::{Answer, Refused};
use split::Split;
use top::Tops;

/// What a gateway is told about itself.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The store this gateway belongs to.
    pub store: StoreId,
    /// Who owns what.
    pub map: Arc<ClusterMap>,
    /// Where clients reach the stores, all of this node at least.
    pub addresses: Vec<StoreAddress>,
    /// What the tokens of sessions are made with.
    pub session_secret: SessionSecret,
    /// Age at which sessions expire, as their openers are told.
    pub session_age_micros: u64,
    /// How many keys more than its share a shard is asked for at first in a TopK, in standard deviations:
    /// [`TOP_FIRST_MARGIN`](crate::limits::TOP_FIRST_MARGIN) but in simulations.
    pub top_margin: usize,
}

/// Names a client connection within its store. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A frame for a client, as a range of [`GatewayOutput::bytes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyFrame {
    /// Whose.
    pub connection: ConnectionId,
    /// Where the frame stands.
    pub range: Range<usize>,
    /// Whether it answers a request, which is then no longer in flight (frame errors answer nothing).
    pub answers: bool,
    /// Bytes that the request had under way, and has no longer.
    pub released: usize,
    /// Whether the connection is to be closed behind it.
    pub close: bool,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes that the request and its answer may take: what it counts against a turn.
    pub bytes: usize,
    /// Those of them that are under way until the answer releases them; 0 if the answer is there already.
    pub held: usize,
    /// Whether the connection is to be closed: nothing more is to be taken from it.
    pub close: bool,
    /// Whether it asks for one of the reads that may take long, and that stores do in turns of their own.
    pub is_long: bool,
}

/// What a gateway wants done.
#[derive(Debug, Default)]
pub struct GatewayOutput {
    /// Parts for stores of this node, possibly its own.
    pub parts: Vec<(StoreId, PartRequest)>,
    /// Frames, one after another.
    pub bytes: Vec<u8>,
    /// Which frame is for whom.
    pub frames: Vec<ReplyFrame>,
    /// When to call `tick` at the latest.
    pub deadline: Option<Micros>,
}

/// The front of one store.
pub struct Gateway {
    config: GatewayConfig,
    started: Micros,
    now: Micros,
    encoder: Encoder,
    /// Connections that have said hello.
    greeted: BTreeSet<ConnectionId>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    deadlines: VecDeque<(Micros, u32, u32)>,
    in_flight: usize,
    in_flight_bytes: usize,
    output: GatewayOutput,
    split: Split,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    pending: Option<Pending>,
}

/// A request that waits for its parts.
struct Pending {
    connection: ConnectionId,
    request_id: u64,
    bytes: usize,
    missing: usize,
    answer: Answer,
}

/// Bytes that the answer to a request may take, at most. Small requests can have large answers, and those must be
/// counted before they exist.
fn answer_bytes_max(request: &Request<'_>, shards: usize) -> usize {
    match request {
        Request::TopK { k } => *k as usize * (KEY_BYTES_MAX + 12),
        Request::Increment(increment) => increment.keys.len() * if increment.want_values { 12 } else { 4 },
        Request::Get(get) => get.keys.len() * 16,
        Request::AttachSession(_) | Request::Resolve { .. } => shards * 64,
        Request::Scan(_) => SCAN_REPLY_BYTES_MAX,
        Request::Hello(_) | Request::Status | Request::OpenSession { .. } | Request::CloseSession { .. } => 0,
    }
}

/// Whether frames of a kind ask for reads that take turns of their own.
fn is_long(kind: u8) -> bool {
    [Kind::TopK, Kind::Scan].iter().any(|&long| kind == long as u8)
}

/// The session that a request speaks for.
fn credentials<'a>(request: &'a Request<'_>) -> Option<&'a Credentials> {
    match request {
        Request::Increment(increment) => increment.stamp.as_ref().map(|stamp| &stamp.credentials),
        Request::Resolve { stamp, .. } => Some(&stamp.credentials),
        Request::AttachSession(credentials) | Request::CloseSession { credentials, .. } => Some(credentials),
        _ => None,
    }
}

/// Deadlines of answered requests that may pile up before they are swept out.
const DEADLINES_SLACK: usize = 1_024;

impl Gateway {
    /// A gateway without connections.
    #[must_use]
    pub fn new(config: GatewayConfig, now: Micros) -> Gateway {
        Gateway {
            config,
            started: now,
            now,
            encoder: Encoder::new(),
            greeted: BTreeSet::new(),
            slots: Vec::new(),
            free: Vec::new(),
            deadlines: VecDeque::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            output: GatewayOutput::default(),
            split: Split::default(),
        }
    }

    /// Takes one whole frame of a client.
    pub fn request(&mut self, now: Micros, connection: ConnectionId, frame: Frame<'_>) -> Taken {
        self.now = self.now.max(now);
        let (frames, in_flight_bytes) = (self.output.frames.len(), self.in_flight_bytes);
        let answer_bytes = self.take(now, connection, frame);
        let close = self.output.frames[frames..].iter().any(|frame| frame.close);
        Taken {
            bytes: frame.payload.len() + answer_bytes,
            held: self.in_flight_bytes - in_flight_bytes,
            close,
            is_long: is_long(frame.kind),
        }
    }

    /// Returns how large an answer may become this turn. Those to TopK and scans take turns of their own.
    fn take(&mut self, now: Micros, connection: ConnectionId, frame: Frame<'_>) -> usize {
        let id = frame.request_id;
        let request = match decode_request(frame.kind, frame.payload) {
            Ok(request) => request,
            Err(error) => {
                let close = error.code == ErrorCode::Malformed;
                self.reply_error(connection, id, error.code, &error.text, close);
                return 0;
            }
        };
        if let Request::Hello(hello) = request {
            self.hello(connection, id, &hello);
            return 0;
        }
        if !self.greeted.contains(&connection) {
            let text = "the first frame of a connection must be Hello";
            self.reply_error(connection, id, ErrorCode::Malformed, text, true);
            return 0;
        }
        if credentials(&request).is_some_and(|credentials| !self.config.session_secret.proves(credentials)) {
            self.reply_error(connection, id, ErrorCode::BadSession, ErrorCode::BadSession.advice(), false);
            return 0;
        }
        let answer_bytes = answer_bytes_max(&request, self.config.map.shards.len());
        let bytes = frame.payload.len() + answer_bytes;
        let this_turn = if is_long(frame.kind) { 0 } else { answer_bytes };
        if self.in_flight >= STORE_REQUESTS_MAX || self.in_flight_bytes + bytes > STORE_REQUEST_BYTES_MAX {
            let text = "too many requests are under way at this store; nothing was applied; try again later";
            self.reply_error(connection, id, ErrorCode::Overloaded, text, false);
            return 0;
        }
        let ticket = self.open_slot(now);
        let (answer, missing) = match request {
            Request::Increment(increment) => self.split_increments(ticket, &increment),
            Request::Get(get) => self.split_gets(ticket, &get.keys),
            Request::TopK { k } => self.split_top(ticket, k),
            Request::Status => self.split_status(ticket),
            Request::OpenSession { name } => {
                let name = name.unwrap_or_default().to_vec();
                self.ask_meta(ticket, PartBody::OpenSession { name })
            }
            Request::CloseSession { credentials: Credentials { session, epoch, .. }, progress } => {
                self.ask_meta(ticket, PartBody::CloseSession { session, epoch, progress })
            }
            Request::AttachSession(Credentials { session, epoch, .. }) => {
                let parts = self.ask_all(ticket, &PartBody::Attach { session, epoch });
                (Answer::Attach { reply: AttachReply::default(), refused: Refused::default() }, parts)
            }
            Request::Resolve { stamp, keys } => self.split_resolve(ticket, &stamp, keys.as_ref()),
            Request::Scan(scan) => self.ask_shard(ticket, scan),
            Request::Hello(_) => unreachable!("answered above"),
        };
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
        self.slots[ticket.slot as usize].pending = Some(Pending { connection, request_id: id, bytes, missing, answer });
        this_turn
    }

    /// Tells a client that its bytes are not frames.
    pub fn frame_error(&mut self, connection: ConnectionId, request_id: Option<u64>, code: ErrorCode, text: &str) {
        if let Some(id) = request_id {
            self.reply_error(connection, id, code, text, true);
            if let Some(frame) = self.output.frames.last_mut() {
                frame.answers = false;
            }
        }
    }

    /// Takes a shard's answer.
    pub fn answer(&mut self, reply: PartReply) {
        let slot = &mut self.slots[reply.ticket.slot as usize];
        let Some(pending) = slot.pending.as_mut().filter(|_| slot.generation == reply.ticket.generation) else {
            return;
        };
        pending.answer.take(reply.ticket.part as usize, reply.shard, reply.body);
        pending.missing -= 1;
        if pending.missing > 0 {
            return;
        }
        let again = match &mut pending.answer {
            Answer::TopK { tops, refused } if !refused.is_any() => Some((tops.insufficient(), tops.k())),
            _ => None,
        };
        match again {
            Some((shards, k)) if !shards.is_empty() => {
                pending.missing = shards.len();
                self.ask_again(reply.ticket, &shards, k);
            }
            _ => self.finish(reply.ticket.slot),
        }
    }

    /// Gives up what has waited too long.
    pub fn tick(&mut self, now: Micros) {
        while let Some((_, slot, generation)) = self.deadlines.pop_front_if(|(deadline, ..)| *deadline <= now) {
            if self.slots[slot as usize].generation != generation {
                continue;
            }
            let Some(pending) = self.close_slot(slot) else { continue };
            let (code, text) = match pending.answer {
                Answer::Increment { .. } => (
                    ErrorCode::Unknown,
                    "the log did not become durable in time; the increments may have been applied, or may yet be",
                ),
                _ => (ErrorCode::Unavailable, "a shard did not answer in time; try again"),
            };
            self.reply_error(pending.connection, pending.request_id, code, text, false);
            self.release(pending.bytes);
        }
    }

    /// A connection has ended. Its requests go on; their answers are dropped by the shell.
    pub fn disconnect(&mut self, connection: ConnectionId) {
        self.greeted.remove(&connection);
    }

    /// Requests that wait for parts.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Deadlines kept, those of answered requests included.
    #[cfg(test)]
    pub(super) fn deadlines(&self) -> usize {
        self.deadlines.len()
    }

    /// What is to be done about everything since the last call.
    pub fn take_output(&mut self) -> GatewayOutput {
        // Requests that have been answered leave their deadlines behind.
        while let Some(&(_, slot, generation)) = self.deadlines.front()
            && self.slots[slot as usize].generation != generation
        {
            self.deadlines.pop_front();
        }
        self.output.deadline = self.deadlines.front().map(|&(deadline, ..)| deadline);
        std::mem::take(&mut self.output)
    }

    /// Hands an output's buffers back for reuse.
    pub fn recycle(&mut self, mut output: GatewayOutput) {
        output.parts.clear();
        output.bytes.clear();
        output.bytes.shrink_to(REQUEST_BYTES_MAX);
        output.frames.clear();
        if self.output.bytes.is_empty() && self.output.parts.is_empty() && self.output.frames.is_empty() {
            self.output = output;
        }
    }

    fn hello(&mut self, connection: ConnectionId, id: u64, hello: &Hello<'_>) {
        if hello.protocol_min > PROTOCOL_VERSION || hello.protocol_max < PROTOCOL_VERSION {
            let (min, max) = (hello.protocol_min, hello.protocol_max);
            let text = format!("the client speaks protocol {min} to {max}, the server {PROTOCOL_VERSION}");
            return self.reply_error(connection, id, ErrorCode::Unsupported, &text, true);
        }
        if hello.cluster_id.is_some_and(|cluster| cluster != self.config.cluster) {
            let text = format!("this node belongs to cluster {:032x}; check the address", self.config.cluster.0);
            return self.reply_error(connection, id, ErrorCode::Unsupported, &text, true);
        }
        self.greeted.insert(connection);
        let welcome = Welcome {
            protocol: PROTOCOL_VERSION,
            server_version: env!("CARGO_PKG_VERSION").to_string(),
            cluster_id: self.config.cluster,
            node: self.config.node,
            routing_seed: self.config.map.routing_seed,
            map_epoch: self.config.map.epoch,
            stores: self.config.addresses.clone(),
            shards: self.config.map.shards.clone(),
        };
        self.reply(connection, false, |encoder, out| encoder.welcome(out, id, &welcome));
    }

    fn split_increments(&mut self, ticket: Ticket, request: &IncrementRequest<'_>) -> (Answer, usize) {
        let keys = &request.keys;
        self.split.keys(&self.config.map, keys);
        let parts = self.split.parts.len();
        let one = keys.bytes().len() / parts + keys.len() / parts * 4 + 64;
        let mut encoded: Vec<Vec<u8>> = (0..parts).map(|_| Vec::with_capacity(one)).collect();
        let (want_values, order) = (request.want_values, self.split.order());
        let stamp = request.stamp.as_ref().map(part_stamp);
        let digest = if stamp.is_some() { request.digest() } else { 0 };
        let mut rest = &order[..];
        for (encoded, &(_, count)) in encoded.iter_mut().zip(&self.split.parts) {
            let (places, after) = rest.split_at(rest.len().min(count as usize));
            rest = after;
            let places = (parts > 1).then_some(places);
            let stamped = stamp.as_ref().map(|stamp| (stamp, Original { digest, want_values, places }));
            command::begin_part(encoded, count, stamped);
        }
        for (position, (key, delta)) in keys.iter().zip(request.deltas()).enumerate() {
            command::push_increment(&mut encoded[self.split.part(position)], key, delta);
        }
        for (part, encoded) in encoded.into_iter().enumerate() {
            let count = self.split.parts[part].1;
            self.send_part(ticket, part, PartBody::Increment { count, encoded, want_values, stamp });
        }
        let reply = IncrementReply {
            parts: self.reply_parts(),
            order,
            outcomes: Vec::new(),
            values: if request.want_values && parts > 1 { vec![0; keys.len()] } else { Vec::new() },
        };
        (Answer::Increment { reply, want_values: request.want_values, refused: Refused::default() }, parts)
    }

    fn split_gets(&mut self, ticket: Ticket, keys: &Keys<'_>) -> (Answer, usize) {
        self.split.keys(&self.config.map, keys);
        let parts = self.split.parts.len();
        let mut packed: Vec<PackedKeys> = vec![PackedKeys::default(); parts];
        for (position, key) in keys.iter().enumerate() {
            packed[self.split.part(position)].push(key);
        }
        for (part, keys) in packed.into_iter().enumerate() {
            self.send_part(ticket, part, PartBody::Get { keys });
        }
        let reply = GetReply {
            parts: self.reply_parts(),
            order: self.split.order(),
            counts: vec![0; keys.len()],
            found: vec![0; keys.len()],
        };
        (Answer::Get { reply, refused: Refused::default() }, parts)
    }

    fn split_top(&mut self, ticket: Ticket, k: u32) -> (Answer, usize) {
        let tops = Tops::new(k as usize, self.config.map.shards.len(), self.config.top_margin);
        let parts = self.ask_all(ticket, &PartBody::TopK { k: tops.asked() as u32 });
        (Answer::TopK { tops, refused: Refused::default() }, parts)
    }

    /// Asks shards for the whole of a TopK.
    fn ask_again(&mut self, ticket: Ticket, shards: &[ShardId], k: usize) {
        let map = Arc::clone(&self.config.map);
        let asked = map.shards.iter().filter(|range| shards.contains(&range.shard));
        let body = |shard| PartRequest { ticket, shard, body: PartBody::TopK { k: k as u32 } };
        self.output.parts.extend(asked.map(|range| (range.store, body(range.shard))));
    }

    fn split_resolve(
        &mut self,
        ticket: Ticket,
        stamp: &crate::wire::client::Stamp,
        keys: Option<&Keys<'_>>,
    ) -> (Answer, usize) {
        let body = PartBody::Resolve(part_stamp(stamp));
        let parts = match keys {
            None => self.ask_all(ticket, &body),
            Some(keys) => {
                self.split.keys(&self.config.map, keys);
                let parts = self.split.parts.len();
                (0..parts).for_each(|part| self.send_part(ticket, part, body.clone()));
                parts
            }
        };
        (Answer::Resolve { reply: ResolveReply::default(), refused: Refused::default() }, parts)
    }

    /// Asks the meta shard.
    fn ask_meta(&mut self, ticket: Ticket, body: PartBody) -> (Answer, usize) {
        self.output.parts.push((META_STORE, PartRequest { ticket, shard: ShardId::META, body }));
        (Answer::Register { registered: None, refused: Refused::default() }, 1)
    }

    /// Asks every shard; returns how many there are.
    fn ask_all(&mut self, ticket: Ticket, body: &PartBody) -> usize {
        let map = Arc::clone(&self.config.map);
        for (part, range) in map.shards.iter().enumerate() {
            let ticket = Ticket { part: part as u16, ..ticket };
            self.output.parts.push((range.store, PartRequest { ticket, shard: range.shard, body: body.clone() }));
        }
        map.shards.len()
    }

    fn split_status(&mut self, ticket: Ticket) -> (Answer, usize) {
        let own = self.config.addresses.iter().filter(|address| address.node == self.config.node);
        let stores: Vec<StoreId> = own.map(|address| address.store).collect();
        for (part, &store) in stores.iter().enumerate() {
            let ticket = Ticket { part: part as u16, ..ticket };
            self.output.parts.push((store, PartRequest { ticket, shard: ShardId::META, body: PartBody::Status }));
        }
        (Answer::Status { stores: Vec::new(), refused: Refused::default() }, stores.len())
    }

    /// Asks the shard of a scan. One that does not exist is refused by any store.
    fn ask_shard(&mut self, ticket: Ticket, scan: ScanRequest) -> (Answer, usize) {
        let range = self.config.map.shards.iter().find(|range| range.shard == scan.shard);
        let store = range.map_or(self.config.store, |range| range.store);
        self.output.parts.push((store, PartRequest { ticket, shard: scan.shard, body: PartBody::Scan(scan) }));
        (Answer::Scan { reply: None, refused: Refused::default() }, 1)
    }

    fn send_part(&mut self, ticket: Ticket, part: usize, body: PartBody) {
        let range = &self.config.map.shards[self.split.parts[part].0];
        let ticket = Ticket { part: part as u16, ..ticket };
        self.output.parts.push((range.store, PartRequest { ticket, shard: range.shard, body }));
    }

    fn reply_parts(&self) -> Vec<Part> {
        let part = |&(place, keys): &(usize, u32)| Part {
            shard: self.config.map.shards[place].shard,
            keys,
            applied_index: Index(0),
            first_position: 0,
        };
        self.split.parts.iter().map(part).collect()
    }

    fn open_slot(&mut self, now: Micros) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        // One stuck request must not keep the deadlines of all that were answered after it.
        if self.deadlines.len() > 2 * self.slots.len() + DEADLINES_SLACK {
            self.deadlines.retain(|&(_, slot, generation)| self.slots[slot as usize].generation == generation);
        }
        let generation = self.slots[slot as usize].generation;
        self.deadlines.push_back((now.plus(REQUEST_WAIT_MICROS_MAX), slot, generation));
        Ticket { origin: self.config.store, slot, generation, part: 0 }
    }

    fn close_slot(&mut self, number: u32) -> Option<Pending> {
        let slot = &mut self.slots[number as usize];
        let pending = slot.pending.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(number);
        self.in_flight -= 1;
        self.in_flight_bytes -= pending.bytes;
        Some(pending)
    }

    /// All parts have answered.
    fn finish(&mut self, slot: u32) {
        let Some(Pending { connection, request_id: id, bytes, answer, .. }) = self.close_slot(slot) else { return };
        let refusal = answer.refusal();
        if let Some(code) = refusal {
            self.reply_error(connection, id, code, code.advice(), false);
            return self.release(bytes);
        }
        match answer {
            Answer::Increment { reply, .. } => {
                self.reply(connection, false, |encoder, out| encoder.increment_reply(out, id, &reply));
            }
            Answer::Get { reply, .. } => {
                self.reply(connection, false, |encoder, out| encoder.get_reply(out, id, &reply));
            }
            Answer::TopK { tops, .. } => {
                let reply = tops.merge();
                self.reply(connection, false, |encoder, out| encoder.top_k_reply(out, id, &reply));
            }
            Answer::Register { registered: Some(Registered::Opened { session, epoch, progress, resumed }), .. } => {
                let token = self.config.session_secret.token(session, epoch);
                let credentials = Credentials { session, epoch, token };
                let opened = Opened { credentials, age_micros_max: self.config.session_age_micros, progress, resumed };
                self.reply(connection, false, |encoder, out| encoder.open_session_reply(out, id, &opened));
            }
            Answer::Register { .. } => {
                self.reply(connection, false, |encoder, out| encoder.close_session_reply(out, id));
            }
            Answer::Attach { mut reply, .. } => {
                reply.parts.sort_by_key(|part| part.shard);
                self.reply(connection, false, |encoder, out| encoder.attach_session_reply(out, id, &reply));
            }
            Answer::Resolve { mut reply, .. } => {
                reply.parts.sort_by_key(|part| part.shard);
                self.reply(connection, false, |encoder, out| encoder.resolve_reply(out, id, &reply));
            }
            Answer::Scan { reply, .. } => {
                let reply = reply.expect("without a refusal there is an answer");
                self.reply(connection, false, |encoder, out| encoder.scan_reply(out, id, &reply));
            }
            Answer::Status { mut stores, .. } => {
                stores.sort_by_key(|store| store.store);
                let status = Status {
                    server_version: env!("CARGO_PKG_VERSION").to_string(),
                    cluster_id: self.config.cluster,
                    node: self.config.node,
                    uptime_micros: self.now.0 - self.started.0,
                    map_epoch: self.config.map.epoch,
                    stores,
                };
                self.reply(connection, false, |encoder, out| encoder.status_reply(out, id, &status));
            }
        }
        self.release(bytes);
    }

    /// Says with the last frame that its request's bytes are no longer under way.
    fn release(&mut self, bytes: usize) {
        if let Some(frame) = self.output.frames.last_mut() {
            frame.released = bytes;
        }
    }

    fn reply_error(&mut self, connection: ConnectionId, id: u64, code: ErrorCode, text: &str, close: bool) {
        self.reply(connection, close, |encoder, out| encoder.error(out, id, code, text));
    }

    fn reply(&mut self, connection: ConnectionId, close: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let start = self.output.bytes.len();
        encode(&mut self.encoder, &mut self.output.bytes);
        let range = start..self.output.bytes.len();
        self.output.frames.push(ReplyFrame { connection, range, answers: true, released: 0, close });
    }
}

/// A number as shards see it: without the token, which has been checked.
fn part_stamp(stamp: &crate::wire::client::Stamp) -> Stamp {
    let Credentials { session, epoch, .. } = stamp.credentials;
    Stamp { session, epoch, sequence: stamp.sequence, low_water: stamp.low_water }
}
