//! A gateway: the front of a store. It takes client requests apart into a part for each shard they touch, and puts the shards'
//! answers together again.
//!
//! A gateway keeps no counts and decides nothing about them. It checks what a client sends, bounds what it may have under way,
//! and bounds how long it waits: past [`REQUEST_WAIT_MICROS_MAX`] an increment is answered `Unknown`, for it may yet be applied.
//!
//! Answers of shards may come in any order, late or never; tickets carry the generation of their slot, so an answer that comes
//! after its request was given up finds nobody.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::cluster::{ClusterMap, StoreAddress};
use super::command;
use super::part::{PackedKeys, PartAnswer, PartBody, PartReply, PartRequest, Ticket};
use super::status::StoreStatus;
use crate::error::ErrorCode;
use crate::ids::{ClusterId, Index, KeyHash, Micros, NodeId, ShardId, StoreId};
use crate::limits::{
    KEY_BYTES_MAX, REQUEST_BYTES_MAX, REQUEST_WAIT_MICROS_MAX, STORE_REQUEST_BYTES_MAX, STORE_REQUESTS_MAX,
};
use crate::wire::client::{
    Encoder, GetReply, Hello, IncrementReply, IncrementRequest, Keys, PROTOCOL_VERSION, Part, Request, Status,
    TopKReply, Welcome, decode_request,
};
use crate::wire::frame::Frame;

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
    greeted: BTreeMap<ConnectionId, ()>,
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

/// An answer in the making.
enum Answer {
    Increment { reply: IncrementReply, want_values: bool, refused: Refused },
    Get { reply: GetReply, refused: Refused },
    TopK { k: usize, lists: Vec<TopList>, refused: Refused },
    Status { stores: Vec<StoreStatus> },
}

/// Bytes that the answer to a request may take, at most. Small requests can have large answers, and those must be
/// counted before they exist.
fn answer_bytes_max(request: &Request<'_>) -> usize {
    match request {
        Request::TopK { k } => *k as usize * (KEY_BYTES_MAX + 12),
        Request::Increment(increment) => increment.keys.len() * if increment.want_values { 12 } else { 4 },
        Request::Get(get) => get.keys.len() * 16,
        Request::Hello(_) | Request::Status => 0,
    }
}

/// How many parts were refused as a whole, and the last reason.
#[derive(Clone, Copy, Default)]
struct Refused {
    parts: usize,
    code: Option<ErrorCode>,
}

struct TopList {
    shard: ShardId,
    index: Index,
    keys: PackedKeys,
    counts: Vec<i64>,
}

/// How the keys of one request fall to shards; reused from request to request.
#[derive(Default)]
struct Split {
    /// Part of each key, in the order of the request.
    part_of: Vec<u16>,
    /// Part of each shard of the map, by place; `NO_PART` if the request does not touch it.
    part_of_place: Vec<u16>,
    /// Place of each part's shard, and how many keys are its own.
    parts: Vec<(usize, u32)>,
}

const NO_PART: u16 = u16::MAX;

/// Deadlines of answered requests that may pile up before they are swept out.
const DEADLINES_SLACK: usize = 1_024;

impl Split {
    fn keys(&mut self, map: &ClusterMap, keys: &Keys<'_>) {
        self.part_of_place.resize(map.shards.len(), NO_PART);
        for (place, _) in self.parts.drain(..) {
            self.part_of_place[place] = NO_PART;
        }
        self.part_of.clear();
        if map.shards.len() == 1 {
            self.part_of_place[0] = 0;
            self.parts.push((0, keys.len() as u32));
            return;
        }
        for key in keys.iter() {
            let place = map.place_of(KeyHash::of(map.routing_seed, key));
            let part = &mut self.part_of_place[place];
            if *part == NO_PART {
                *part = self.parts.len() as u16;
                self.parts.push((place, 0));
            }
            self.parts[*part as usize].1 += 1;
            self.part_of.push(*part);
        }
    }

    /// Places of the keys in the request, part after part. Empty if there is one part.
    fn order(&self) -> Vec<u32> {
        if self.parts.len() == 1 {
            return Vec::new();
        }
        let mut next = Vec::with_capacity(self.parts.len());
        let mut start = 0;
        for &(_, keys) in &self.parts {
            next.push(start);
            start += keys;
        }
        let mut order = vec![0; self.part_of.len()];
        for (position, &part) in self.part_of.iter().enumerate() {
            let slot = &mut next[part as usize];
            order[*slot as usize] = position as u32;
            *slot += 1;
        }
        order
    }

    fn part(&self, position: usize) -> usize {
        self.part_of.get(position).map_or(0, |&part| part as usize)
    }
}

impl Gateway {
    /// A gateway without connections.
    #[must_use]
    pub fn new(config: GatewayConfig, now: Micros) -> Gateway {
        Gateway {
            config,
            started: now,
            now,
            encoder: Encoder::new(),
            greeted: BTreeMap::new(),
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
        Taken { bytes: frame.payload.len() + answer_bytes, held: self.in_flight_bytes - in_flight_bytes, close }
    }

    /// Returns how large the answer may become.
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
        if !self.greeted.contains_key(&connection) {
            let text = "the first frame of a connection must be Hello";
            self.reply_error(connection, id, ErrorCode::Malformed, text, true);
            return 0;
        }
        let answer_bytes = answer_bytes_max(&request);
        let bytes = frame.payload.len() + answer_bytes;
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
            Request::Hello(_) => unreachable!("answered above"),
        };
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
        self.slots[ticket.slot as usize].pending = Some(Pending { connection, request_id: id, bytes, missing, answer });
        answer_bytes
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
        if pending.missing == 0 {
            self.finish(reply.ticket.slot);
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
        self.greeted.insert(connection, ());
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
        let one = keys.bytes().len() / parts + keys.len() / parts * 4 + 16;
        let mut encoded: Vec<Vec<u8>> = (0..parts).map(|_| Vec::with_capacity(one)).collect();
        for (position, (key, delta)) in keys.iter().zip(request.deltas()).enumerate() {
            command::push_increment(&mut encoded[self.split.part(position)], key, delta);
        }
        for (part, encoded) in encoded.into_iter().enumerate() {
            let count = self.split.parts[part].1;
            let body = PartBody::Increment { count, encoded, want_values: request.want_values };
            self.send_part(ticket, part, body);
        }
        let reply = IncrementReply {
            parts: self.reply_parts(),
            order: self.split.order(),
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
        let map = Arc::clone(&self.config.map);
        for (part, range) in map.shards.iter().enumerate() {
            let ticket = Ticket { part: part as u16, ..ticket };
            self.output
                .parts
                .push((range.store, PartRequest { ticket, shard: range.shard, body: PartBody::TopK { k } }));
        }
        let answer = Answer::TopK { k: k as usize, lists: Vec::new(), refused: Refused::default() };
        (answer, map.shards.len())
    }

    fn split_status(&mut self, ticket: Ticket) -> (Answer, usize) {
        let own = self.config.addresses.iter().filter(|address| address.node == self.config.node);
        let stores: Vec<StoreId> = own.map(|address| address.store).collect();
        for (part, &store) in stores.iter().enumerate() {
            let ticket = Ticket { part: part as u16, ..ticket };
            self.output.parts.push((store, PartRequest { ticket, shard: ShardId::META, body: PartBody::Status }));
        }
        (Answer::Status { stores: Vec::new() }, stores.len())
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
            Answer::TopK { k, lists, .. } => {
                let reply = merge(k, lists);
                self.reply(connection, false, |encoder, out| encoder.top_k_reply(out, id, &reply));
            }
            Answer::Status { mut stores } => {
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

impl Answer {
    /// Takes the answer of one part.
    fn take(&mut self, part: usize, shard: ShardId, answer: PartAnswer) {
        match (self, answer) {
            (
                Answer::Increment { reply, want_values, .. },
                PartAnswer::Incremented { index, first_position, overflowed, values },
            ) => {
                reply.parts[part].applied_index = index;
                reply.parts[part].first_position = first_position;
                let total = reply.parts.iter().map(|part| part.keys as usize).sum();
                let order = positions(&reply.parts, &reply.order, part);
                for &place in &overflowed {
                    reply.outcomes.resize(total, ErrorCode::Ok as u8);
                    reply.outcomes[order.position(place as usize)] = ErrorCode::Overflow as u8;
                }
                if *want_values && reply.parts.len() == 1 {
                    reply.values = values;
                } else {
                    for (place, value) in values.into_iter().enumerate() {
                        reply.values[order.position(place)] = value;
                    }
                }
            }
            (Answer::Increment { reply, refused, .. }, PartAnswer::Refused { code }) => {
                refused.note(code);
                let total = reply.parts.iter().map(|part| part.keys as usize).sum();
                reply.outcomes.resize(total, ErrorCode::Ok as u8);
                let order = positions(&reply.parts, &reply.order, part);
                for place in 0..reply.parts[part].keys as usize {
                    reply.outcomes[order.position(place)] = code as u8;
                }
            }
            (Answer::Get { reply, .. }, PartAnswer::Counts { index, counts }) => {
                reply.parts[part].applied_index = index;
                let order = positions(&reply.parts, &reply.order, part);
                for (place, count) in counts.into_iter().enumerate() {
                    let position = order.position(place);
                    reply.counts[position] = count.unwrap_or(0);
                    reply.found[position] = u8::from(count.is_some());
                }
            }
            (Answer::TopK { lists, .. }, PartAnswer::Top { index, keys, counts, .. }) => {
                lists.push(TopList { shard, index, keys, counts });
            }
            (Answer::Status { stores }, PartAnswer::Status(status)) => stores.push(*status),
            (Answer::Get { refused, .. } | Answer::TopK { refused, .. }, PartAnswer::Refused { code }) => {
                refused.note(code);
            }
            (_, _) => debug_assert!(false, "an answer is of its question's kind"),
        }
    }

    /// The reason to refuse the request as a whole, if there is one: a read lacks a part, or no part of it was applied.
    fn refusal(&self) -> Option<ErrorCode> {
        match self {
            Answer::Increment { reply, refused, .. } if refused.parts == reply.parts.len() => refused.code,
            Answer::Get { refused, .. } | Answer::TopK { refused, .. } => refused.code,
            Answer::Increment { .. } | Answer::Status { .. } => None,
        }
    }
}

impl Refused {
    fn note(&mut self, code: ErrorCode) {
        self.parts += 1;
        self.code = Some(code);
    }
}

/// Where the keys of one part stand in their request.
struct Positions<'a> {
    /// `None` if the request has one part.
    order: Option<&'a [u32]>,
}

impl Positions<'_> {
    fn position(&self, place: usize) -> usize {
        self.order.map_or(place, |order| order[place] as usize)
    }
}

fn positions<'a>(parts: &[Part], order: &'a [u32], part: usize) -> Positions<'a> {
    if order.is_empty() {
        return Positions { order: None };
    }
    let start: usize = parts[..part].iter().map(|part| part.keys as usize).sum();
    Positions { order: Some(&order[start..start + parts[part].keys as usize]) }
}

/// The first `k` of all lists, each of which is exact and sorted: highest count first, ties in ascending byte order. Every key lives on
/// one shard, so nothing has to be added up.
fn merge(k: usize, mut lists: Vec<TopList>) -> TopKReply {
    lists.sort_by_key(|list| list.shard);
    let mut entries: Vec<(i64, &[u8], usize)> = Vec::new();
    for (place, list) in lists.iter().enumerate() {
        entries.extend(list.keys.iter().zip(&list.counts).map(|(key, &count)| (count, key, place)));
    }
    let order = |a: &(i64, &[u8], usize), b: &(i64, &[u8], usize)| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1));
    if entries.len() > k {
        entries.select_nth_unstable_by(k - 1, order);
        entries.truncate(k);
    }
    entries.sort_unstable_by(order);
    let mut reply = TopKReply::default();
    let mut own = vec![0u32; lists.len()];
    for (count, key, place) in entries {
        reply.keys.push(key);
        reply.counts.push(count);
        own[place] += 1;
    }
    let part =
        |(list, keys): (&TopList, u32)| Part { shard: list.shard, keys, applied_index: list.index, first_position: 0 };
    reply.parts = lists.iter().zip(own).map(part).collect();
    reply
}
