//! A server of one small process, for examples and tests of clients: real sockets and frames, real windows, counts in a plain map, nothing
//! durable. It can be told to break connections while a request is under way, before it was applied or after.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a server of threads and sockets")]

use crate::engine::part::PackedKeys;
use crate::engine::sessions::registry::{Registered, Registry};
use crate::engine::sessions::window::{Attachment, Decision, Detail, Fate, Windows};
use crate::engine::sessions::{Credentials, Opened, Stamp as EngineStamp};
use crate::engine::status::{ShardStatus, StoreStatus};
use crate::error::ErrorCode;
use crate::ids::{ClusterId, Index, KeyHash, NodeId, SessionToken, ShardId, StoreId};
use crate::limits::REQUEST_BYTES_MAX;
use crate::wire::client::{
    AttachReply, Encoder, GetReply, IncrementReply, IncrementRequest, PROTOCOL_VERSION, Part, Request, Resolution,
    ResolveReply, ResolvedPart, ScanReply, ScanRequest, ShardRange, Status, StoreAddress, TopKReply, Welcome,
    decode_request,
};
use crate::wire::frame::Decoder;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

const AGE_MICROS: u64 = 3_600_000_000;

/// A server. Its threads end with the process.
#[derive(Debug)]
pub struct Server {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

/// Keys of a piece of a scan.
const SCAN_PIECE_KEYS: usize = 3;

#[derive(Debug, Default)]
struct State {
    endpoint: String,
    counts: BTreeMap<Vec<u8>, i64>,
    windows: Windows,
    registry: Registry,
    index: u64,
    /// Break the connection at each so many increment requests; 0: never.
    break_every: u64,
    increments: u64,
}

impl Server {
    /// A server on a free port of loopback.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn start() -> Server {
        Server::start_breaking(0)
    }

    /// One that breaks the connection at every so many increment requests, in turns before it applies one and before it answers.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start_breaking(break_every: u64) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = listener.local_addr().expect("bound").to_string();
        let state = State { endpoint: endpoint.clone(), break_every, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Server { endpoint, state }
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Lets every session there is expire.
    pub fn expire_sessions(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = crate::ids::SessionId(state.registry.mark().0 + state.registry.len() as u64);
        state.registry.expire(mark);
        state.windows.expire(mark);
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new(REQUEST_BYTES_MAX);
    let mut out = Vec::new();
    loop {
        let count = stream.read(decoder.space(1 << 16)).unwrap_or(0);
        if count == 0 {
            return;
        }
        decoder.filled(count);
        let mut goes_on = true;
        while goes_on && let Ok(Some(frame)) = decoder.next_frame() {
            let Ok(request) = decode_request(frame.kind, frame.payload) else { return };
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            goes_on = state.answer(&mut encoder, &mut out, frame.request_id, &request).is_some();
        }
        // What was answered before a break arrives.
        if stream.write_all(&out).is_err() || !goes_on {
            return;
        }
        out.clear();
    }
}

impl State {
    /// Answers a request; `None`: breaks the connection.
    fn answer(&mut self, encoder: &mut Encoder, out: &mut Vec<u8>, id: u64, request: &Request<'_>) -> Option<()> {
        self.index += 1;
        let part = Part { shard: ShardId(1), applied_index: Index(self.index), ..Part::default() };
        match request {
            Request::Hello(_) => encoder.welcome(out, id, &self.welcome()),
            Request::Increment(request) => {
                self.increments += 1;
                let (number, every) = (self.increments, self.break_every.max(1));
                let breaks = self.break_every > 0 && number.is_multiple_of(every);
                if breaks && (number / every).is_multiple_of(2) {
                    return None;
                }
                match self.increment(request, part) {
                    _ if breaks => return None,
                    Ok(reply) => encoder.increment_reply(out, id, &reply),
                    Err(code) => encoder.error(out, id, code, code.advice()),
                }
            }
            Request::Get(request) => {
                let counts: Vec<_> = request.keys.iter().map(|key| self.counts.get(key).copied()).collect();
                let reply = GetReply {
                    parts: vec![Part { keys: counts.len() as u32, ..part }],
                    order: Vec::new(),
                    found: counts.iter().map(|count| u8::from(count.is_some())).collect(),
                    counts: counts.iter().map(|count| count.unwrap_or(0)).collect(),
                };
                encoder.get_reply(out, id, &reply);
            }
            Request::TopK { k } => encoder.top_k_reply(out, id, &self.top(*k as usize, part)),
            Request::Scan(scan) => encoder.scan_reply(out, id, &self.scan(scan, part)),
            Request::Status => encoder.status_reply(out, id, &self.status()),
            Request::OpenSession { name } => {
                let registered = match name {
                    Some(name) => self.registry.open_named(name),
                    None => self.registry.open(),
                };
                match registered {
                    Registered::Opened { session, epoch, progress, resumed } => {
                        let credentials = Credentials { session, epoch, token: SessionToken(1) };
                        let opened = Opened { credentials, age_micros_max: AGE_MICROS, progress, resumed };
                        encoder.open_session_reply(out, id, &opened);
                    }
                    _ => refuse(encoder, out, id, ErrorCode::SessionExpired),
                }
            }
            Request::AttachSession(Credentials { session, epoch, .. }) => match self.windows.attach(*session, *epoch) {
                Ok(Attachment { floor, reached }) => {
                    encoder.attach_session_reply(out, id, &AttachReply { parts: vec![part], floor, reached });
                }
                Err(code) => refuse(encoder, out, id, code),
            },
            Request::CloseSession { credentials, progress } => {
                match self.registry.close(credentials.session, credentials.epoch, *progress) {
                    Registered::Closed => encoder.close_session_reply(out, id),
                    Registered::Taken => refuse(encoder, out, id, ErrorCode::SessionTaken),
                    _ => refuse(encoder, out, id, ErrorCode::SessionExpired),
                }
            }
            Request::Resolve { stamp, .. } => {
                let stamp = engine_stamp(stamp);
                match self.windows.resolve(&stamp, Index(self.index)) {
                    Ok(()) => encoder.resolve_reply(out, id, &self.fate(&stamp)),
                    Err(code) => refuse(encoder, out, id, code),
                }
            }
        }
        Some(())
    }

    fn increment(&mut self, request: &IncrementRequest<'_>, part: Part) -> Result<IncrementReply, ErrorCode> {
        let count = request.keys.len();
        let stamp = request.stamp.as_ref().map(engine_stamp);
        let mut reply =
            IncrementReply { parts: vec![Part { keys: count as u32, ..part }], ..IncrementReply::default() };
        if let Some(stamp) = &stamp {
            match self.windows.decide(stamp, request.digest(), Index(self.index), 0, count as u32) {
                Decision::Refuse(code) => return Err(code),
                Decision::Apply => {}
                Decision::Repeat => {
                    let applied = self.windows.applied(stamp.session, stamp.sequence);
                    let (overflowed, values) = applied.map(|applied| applied.answer_to(None)).unwrap_or_default();
                    reply.values = values;
                    return Ok(with_overflows(reply, count, &overflowed));
                }
            }
        }
        let mut overflowed = Vec::new();
        for (place, (key, delta)) in request.keys.iter().zip(request.deltas()).enumerate() {
            let before = self.counts.get(key).copied().unwrap_or(0);
            match before.checked_add(delta) {
                Some(after) => {
                    self.counts.insert(key.to_vec(), after);
                    reply.values.push(after);
                }
                None => {
                    overflowed.push(place as u32);
                    reply.values.push(0);
                }
            }
        }
        if !request.want_values {
            reply.values.clear();
        }
        if let Some(stamp) = stamp {
            let (overflowed, values) = (overflowed.clone().into(), reply.values.clone().into());
            self.windows.record(stamp.session, stamp.sequence, Detail { positions: None, overflowed, values });
        }
        Ok(with_overflows(reply, count, &overflowed))
    }

    fn top(&self, k: usize, part: Part) -> TopKReply {
        let mut all: Vec<(&Vec<u8>, i64)> = self.counts.iter().map(|(key, count)| (key, *count)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        all.truncate(k);
        let mut keys = PackedKeys::default();
        all.iter().for_each(|(key, _)| keys.push(key));
        let parts = vec![Part { keys: all.len() as u32, ..part }];
        TopKReply { parts, keys, counts: all.iter().map(|(_, count)| *count).collect() }
    }

    /// A piece of a scan. Nothing changes meanwhile, as far as tests go.
    fn scan(&self, scan: &ScanRequest, part: Part) -> ScanReply {
        let rest = self.counts.iter().skip(scan.piece as usize * SCAN_PIECE_KEYS);
        let mut reply = ScanReply { shard: scan.shard, applied_index: part.applied_index, ..ScanReply::default() };
        for (key, count) in rest.clone().take(SCAN_PIECE_KEYS) {
            reply.keys.push(key);
            reply.counts.push(*count);
        }
        reply.keys_total = self.counts.len() as u64;
        reply.last = rest.count() <= SCAN_PIECE_KEYS;
        reply
    }

    fn status(&self) -> Status {
        let shard = |shard, keys| ShardStatus { shard, keys, ..ShardStatus::default() };
        let shards = vec![shard(ShardId::META, 0), shard(ShardId(1), self.counts.len() as u64)];
        Status { node: NodeId(1), stores: vec![StoreStatus { shards, ..StoreStatus::default() }], ..Status::default() }
    }

    fn fate(&self, stamp: &EngineStamp) -> ResolveReply {
        let part = ResolvedPart { shard: ShardId(1), ..ResolvedPart::default() };
        let part = match self.windows.fate(stamp.session, stamp.sequence) {
            Fate::Applied { index, first_position, increments, overflowed } => {
                let (resolution, applied_index) = (Resolution::Applied, index);
                ResolvedPart { resolution, applied_index, first_position, increments, overflowed, ..part }
            }
            Fate::Fenced(applied_index) => ResolvedPart { resolution: Resolution::Fenced, applied_index, ..part },
            Fate::Forgotten => part,
        };
        ResolveReply { parts: vec![part] }
    }

    fn welcome(&self) -> Welcome {
        let (node, store) = (NodeId(1), StoreId(0));
        Welcome {
            protocol: PROTOCOL_VERSION,
            server_version: "a stand-in".to_owned(),
            cluster_id: ClusterId(1),
            node,
            routing_seed: 0,
            map_epoch: 1,
            stores: vec![StoreAddress { node, store, address: self.endpoint.clone() }],
            shards: vec![ShardRange { start: KeyHash(0), shard: ShardId(1), node, store }],
        }
    }
}

fn refuse(encoder: &mut Encoder, out: &mut Vec<u8>, id: u64, code: ErrorCode) {
    encoder.error(out, id, code, code.advice());
}

fn with_overflows(mut reply: IncrementReply, count: usize, overflowed: &[u32]) -> IncrementReply {
    if !overflowed.is_empty() {
        reply.outcomes = vec![ErrorCode::Ok as u8; count];
        overflowed.iter().for_each(|&place| reply.outcomes[place as usize] = ErrorCode::Overflow as u8);
    }
    reply
}

fn engine_stamp(stamp: &crate::wire::client::Stamp) -> EngineStamp {
    let (session, epoch) = (stamp.credentials.session, stamp.credentials.epoch);
    EngineStamp { session, epoch, sequence: stamp.sequence, low_water: stamp.low_water }
}
