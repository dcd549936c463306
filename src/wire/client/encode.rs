//! Writing requests and replies as whole frames.

use super::{
    AttachReply, Credentials, GetReply, Hello, IncrementReply, Opened, Part, ResolveReply, ScanReply, ScanRequest,
    Stamp, Status, TopKReply, Welcome, fb,
};
use crate::engine::part::PackedKeys;
use crate::engine::status::{ShardStatus, StoreStatus};
use crate::error::ErrorCode;
use crate::ids::{ClusterId, Sequence, SessionToken};
use crate::limits::ERROR_TEXT_BYTES_MAX;
use crate::wire::frame::{Kind, push_frame};
use flatbuffers::{FlatBufferBuilder, Push, Vector, WIPOffset};
use std::fmt;

/// Writes requests and replies. Its memory is reused from one message to the next and is as large as the largest of
/// them, so a server keeps one for each core rather than for each connection.
///
/// Each method appends one frame to `out`. The limits are the caller's to keep; a message beyond them is refused by
/// whoever decodes it.
#[derive(Default)]
pub struct Encoder {
    builder: FlatBufferBuilder<'static>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

/// A finished column.
type Column<T> = Option<WIPOffset<Vector<'static, T>>>;

impl Encoder {
    /// An encoder without memory yet.
    #[must_use]
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// The first frame of a client.
    pub fn hello(&mut self, out: &mut Vec<u8>, request_id: u64, hello: &Hello<'_>) {
        let args = fb::HelloArgs {
            protocol_min: hello.protocol_min,
            protocol_max: hello.protocol_max,
            cluster_id: hello.cluster_id.and_then(|id| self.cluster_id(id)),
            client_name: Some(self.builder.create_string(hello.client_name)),
        };
        let root = fb::Hello::create(&mut self.builder, &args);
        self.finish(out, Kind::Hello, request_id, root);
    }

    /// A batch of increments, one delta for each key. With a stamp it may be sent again, and counts once.
    ///
    /// # Panics
    /// If there are not as many deltas as keys.
    pub fn increment(
        &mut self,
        out: &mut Vec<u8>,
        request_id: u64,
        keys: &PackedKeys,
        deltas: &[i64],
        want_values: bool,
        stamp: Option<&Stamp>,
    ) {
        let stamp = stamp.map(session_stamp);
        assert_eq!(keys.len(), deltas.len(), "one delta for each key");
        let args = fb::IncrementRequestArgs {
            deltas: Some(self.builder.create_vector(deltas)),
            key_ends: Some(self.builder.create_vector(&keys.ends)),
            keys: Some(self.builder.create_vector(&keys.bytes)),
            want_values,
            stamp: stamp.as_ref(),
        };
        let root = fb::IncrementRequest::create(&mut self.builder, &args);
        self.finish(out, Kind::Increment, request_id, root);
    }

    /// A batch of keys to read.
    pub fn get(&mut self, out: &mut Vec<u8>, request_id: u64, keys: &PackedKeys) {
        let args = fb::GetRequestArgs {
            key_ends: Some(self.builder.create_vector(&keys.ends)),
            keys: Some(self.builder.create_vector(&keys.bytes)),
        };
        let root = fb::GetRequest::create(&mut self.builder, &args);
        self.finish(out, Kind::Get, request_id, root);
    }

    /// Asks for the `k` highest counts.
    pub fn top_k(&mut self, out: &mut Vec<u8>, request_id: u64, k: u32) {
        let root = fb::TopKRequest::create(&mut self.builder, &fb::TopKRequestArgs { k });
        self.finish(out, Kind::TopK, request_id, root);
    }

    /// Asks what the server is doing.
    pub fn status(&mut self, out: &mut Vec<u8>, request_id: u64) {
        let root = fb::StatusRequest::create(&mut self.builder, &fb::StatusRequestArgs {});
        self.finish(out, Kind::Status, request_id, root);
    }

    /// Opens a session, of this name or without one.
    pub fn open_session(&mut self, out: &mut Vec<u8>, request_id: u64, name: Option<&[u8]>) {
        let args = fb::OpenSessionRequestArgs { name: name.map(|name| self.builder.create_vector(name)) };
        let root = fb::OpenSessionRequest::create(&mut self.builder, &args);
        self.finish(out, Kind::OpenSession, request_id, root);
    }

    /// Takes over a named session.
    pub fn attach_session(&mut self, out: &mut Vec<u8>, request_id: u64, credentials: &Credentials) {
        let (token_low, token_high) = halves(credentials.token);
        let (session, epoch) = (credentials.session.0, credentials.epoch.0);
        let args = fb::AttachSessionRequestArgs { session, epoch, token_low, token_high };
        let root = fb::AttachSessionRequest::create(&mut self.builder, &args);
        self.finish(out, Kind::AttachSession, request_id, root);
    }

    /// Leaves a named session.
    pub fn close_session(&mut self, out: &mut Vec<u8>, request_id: u64, credentials: &Credentials, progress: Sequence) {
        let (token_low, token_high) = halves(credentials.token);
        let (session, epoch) = (credentials.session.0, credentials.epoch.0);
        let args = fb::CloseSessionRequestArgs { session, epoch, token_low, token_high, progress: progress.0 };
        let root = fb::CloseSessionRequest::create(&mut self.builder, &args);
        self.finish(out, Kind::CloseSession, request_id, root);
    }

    /// Asks what became of a request with these keys, or of one whose keys are not known.
    pub fn resolve(&mut self, out: &mut Vec<u8>, request_id: u64, stamp: &Stamp, keys: Option<&PackedKeys>) {
        let args = fb::ResolveRequestArgs {
            key_ends: keys.map(|keys| self.builder.create_vector(&keys.ends)),
            keys: keys.map(|keys| self.builder.create_vector(&keys.bytes)),
            stamp: Some(&session_stamp(stamp)),
        };
        let root = fb::ResolveRequest::create(&mut self.builder, &args);
        self.finish(out, Kind::Resolve, request_id, root);
    }

    /// Asks for a piece of a scan.
    pub fn scan(&mut self, out: &mut Vec<u8>, request_id: u64, request: &ScanRequest) {
        let &ScanRequest { shard, scan, piece, applied_index } = request;
        let args = fb::ScanRequestArgs { shard: shard.0, scan, piece, applied_index: applied_index.0 };
        let root = fb::ScanRequest::create(&mut self.builder, &args);
        self.finish(out, Kind::Scan, request_id, root);
    }

    /// Answers `Hello`.
    pub fn welcome(&mut self, out: &mut Vec<u8>, request_id: u64, welcome: &Welcome) {
        let mut stores = Vec::with_capacity(welcome.stores.len());
        for store in &welcome.stores {
            let address = Some(self.builder.create_string(&store.address));
            let args = fb::StoreAddressArgs { node: store.node.0, store: store.store.0, address };
            stores.push(fb::StoreAddress::create(&mut self.builder, &args));
        }
        let ranges = welcome
            .shards
            .iter()
            .map(|range| fb::ShardRange::new(range.start.0, range.node.0, range.shard.0, range.store.0, 0));
        let args = fb::WelcomeArgs {
            protocol: welcome.protocol,
            server_version: Some(self.builder.create_string(&welcome.server_version)),
            cluster_id: self.cluster_id(welcome.cluster_id),
            node: welcome.node.0,
            routing_seed: welcome.routing_seed,
            map_epoch: welcome.map_epoch,
            stores: Some(self.builder.create_vector(&stores)),
            shards: Some(self.builder.create_vector_from_iter(ranges)),
        };
        let root = fb::Welcome::create(&mut self.builder, &args);
        self.finish(out, Kind::Welcome, request_id, root);
    }

    /// Answers a batch of increments.
    pub fn increment_reply(&mut self, out: &mut Vec<u8>, request_id: u64, reply: &IncrementReply) {
        let args = fb::IncrementReplyArgs {
            parts: self.parts(&reply.parts),
            order: self.column(&reply.order),
            outcomes: self.column(&reply.outcomes),
            values: self.column(&reply.values),
        };
        let root = fb::IncrementReply::create(&mut self.builder, &args);
        self.finish(out, Kind::IncrementReply, request_id, root);
    }

    /// Answers a batch of keys to read.
    pub fn get_reply(&mut self, out: &mut Vec<u8>, request_id: u64, reply: &GetReply) {
        let args = fb::GetReplyArgs {
            parts: self.parts(&reply.parts),
            order: self.column(&reply.order),
            counts: Some(self.builder.create_vector(&reply.counts)),
            found: Some(self.builder.create_vector(&reply.found)),
        };
        let root = fb::GetReply::create(&mut self.builder, &args);
        self.finish(out, Kind::GetReply, request_id, root);
    }

    /// Answers a TopK.
    pub fn top_k_reply(&mut self, out: &mut Vec<u8>, request_id: u64, reply: &TopKReply) {
        let args = fb::TopKReplyArgs {
            parts: self.parts(&reply.parts),
            keys: Some(self.builder.create_vector(&reply.keys.bytes)),
            key_ends: Some(self.builder.create_vector(&reply.keys.ends)),
            counts: Some(self.builder.create_vector(&reply.counts)),
        };
        let root = fb::TopKReply::create(&mut self.builder, &args);
        self.finish(out, Kind::TopKReply, request_id, root);
    }

    /// Answers a status request.
    pub fn status_reply(&mut self, out: &mut Vec<u8>, request_id: u64, status: &Status) {
        let stores: Vec<_> = status.stores.iter().map(|store| self.store_status(store)).collect();
        let args = fb::StatusReplyArgs {
            server_version: Some(self.builder.create_string(&status.server_version)),
            cluster_id: self.cluster_id(status.cluster_id),
            node: status.node.0,
            uptime_micros: status.uptime_micros,
            map_epoch: status.map_epoch,
            stores: Some(self.builder.create_vector(&stores)),
        };
        let root = fb::StatusReply::create(&mut self.builder, &args);
        self.finish(out, Kind::StatusReply, request_id, root);
    }

    /// Refuses a request as a whole. The text is cut to [`ERROR_TEXT_BYTES_MAX`] bytes.
    pub fn error(&mut self, out: &mut Vec<u8>, request_id: u64, code: ErrorCode, text: &str) {
        let text = Some(self.builder.create_string(cut(text)));
        let args = fb::ErrorReplyArgs { code: fb::ErrorCode(code as u8), text };
        let root = fb::ErrorReply::create(&mut self.builder, &args);
        self.finish(out, Kind::Error, request_id, root);
    }

    fn store_status(&mut self, store: &StoreStatus) -> WIPOffset<fb::StoreStatus<'static>> {
        let shards: Vec<_> = store.shards.iter().map(|shard| self.shard_status(shard)).collect();
        let checkpoints = &store.checkpoints;
        let failure = cut(&checkpoints.last_failure);
        let failure = (!failure.is_empty()).then(|| self.builder.create_string(failure));
        let args = fb::StoreStatusArgs {
            store: store.store.0,
            segment: store.segment,
            log_bytes: store.log_bytes,
            log_durable_bytes: store.log_durable_bytes,
            segments: store.segments,
            segment_bytes: store.segment_bytes,
            disk_full: store.disk_full,
            direct_io: store.direct_io,
            connections: store.connections,
            memory_bytes: store.memory_bytes,
            memory_bytes_max: store.memory_bytes_max,
            shards: Some(self.builder.create_vector(&shards)),
            checkpoint_running: checkpoints.running.is_some(),
            checkpoint_shard: checkpoints.running.unwrap_or_default().0,
            checkpoint_running_bytes: checkpoints.running_bytes,
            checkpoints_completed: checkpoints.completed,
            checkpoints_failed: checkpoints.failed,
            checkpoint_failure: failure,
            checkpoint_reserve_bytes: checkpoints.reserve_bytes,
        };
        fb::StoreStatus::create(&mut self.builder, &args)
    }

    fn shard_status(&mut self, shard: &ShardStatus) -> WIPOffset<fb::ShardStatus<'static>> {
        let args = fb::ShardStatusArgs {
            shard: shard.shard.0,
            role: Some(self.builder.create_shared_string(&shard.role)),
            term: shard.term.0,
            last_index: shard.last_index.0,
            commit_index: shard.commit_index.0,
            applied_index: shard.applied_index.0,
            range_start: shard.range_start.0,
            range_end: shard.range_end.0,
            keys: shard.keys,
            memory_bytes: shard.memory_bytes,
            sessions: shard.sessions,
            session_mark: shard.session_mark.0,
            checkpoint_index: shard.checkpoint_index.0,
            checkpoint_bytes: shard.checkpoint_bytes,
        };
        fb::ShardStatus::create(&mut self.builder, &args)
    }

    /// Answers the opening of a session.
    pub fn open_session_reply(&mut self, out: &mut Vec<u8>, request_id: u64, opened: &Opened) {
        let (token_low, token_high) = halves(opened.credentials.token);
        let args = fb::OpenSessionReplyArgs {
            session: opened.credentials.session.0,
            epoch: opened.credentials.epoch.0,
            token_low,
            token_high,
            age_micros_max: opened.age_micros_max,
            progress: opened.progress.0,
            resumed: opened.resumed,
        };
        let root = fb::OpenSessionReply::create(&mut self.builder, &args);
        self.finish(out, Kind::OpenSessionReply, request_id, root);
    }

    /// Answers an attachment.
    pub fn attach_session_reply(&mut self, out: &mut Vec<u8>, request_id: u64, reply: &AttachReply) {
        let args = fb::AttachSessionReplyArgs {
            parts: self.parts(&reply.parts),
            floor: reply.floor.0,
            reached: reply.reached.0,
        };
        let root = fb::AttachSessionReply::create(&mut self.builder, &args);
        self.finish(out, Kind::AttachSessionReply, request_id, root);
    }

    /// Answers the closing of a session.
    pub fn close_session_reply(&mut self, out: &mut Vec<u8>, request_id: u64) {
        let root = fb::CloseSessionReply::create(&mut self.builder, &fb::CloseSessionReplyArgs {});
        self.finish(out, Kind::CloseSessionReply, request_id, root);
    }

    /// Says what became of a request.
    pub fn resolve_reply(&mut self, out: &mut Vec<u8>, request_id: u64, reply: &ResolveReply) {
        let part = |part: &super::ResolvedPart| {
            let (index, shard, first) = (part.applied_index.0, part.shard.0, part.first_position);
            fb::ResolvedPart::new(index, shard, first, part.increments, part.overflowed, part.resolution as u8, 0, 0, 0)
        };
        let parts = self.builder.create_vector_from_iter(reply.parts.iter().map(part));
        let root = fb::ResolveReply::create(&mut self.builder, &fb::ResolveReplyArgs { parts: Some(parts) });
        self.finish(out, Kind::ResolveReply, request_id, root);
    }

    /// Answers with a piece of a scan.
    pub fn scan_reply(&mut self, out: &mut Vec<u8>, request_id: u64, reply: &ScanReply) {
        let args = fb::ScanReplyArgs {
            shard: reply.shard.0,
            applied_index: reply.applied_index.0,
            keys_total: reply.keys_total,
            last: reply.last,
            keys: Some(self.builder.create_vector(&reply.keys.bytes)),
            key_ends: Some(self.builder.create_vector(&reply.keys.ends)),
            counts: Some(self.builder.create_vector(&reply.counts)),
        };
        let root = fb::ScanReply::create(&mut self.builder, &args);
        self.finish(out, Kind::ScanReply, request_id, root);
    }

    fn parts(&mut self, parts: &[Part]) -> Column<fb::Part> {
        let parts = parts
            .iter()
            .map(|part| fb::Part::new(part.shard.0, part.keys, part.applied_index.0, part.first_position, 0));
        Some(self.builder.create_vector_from_iter(parts))
    }

    /// A column that is absent when it is empty.
    fn column<T: Push>(&mut self, elements: &[T]) -> Column<T::Output> {
        (!elements.is_empty()).then(|| self.builder.create_vector(elements))
    }

    fn cluster_id(&mut self, id: ClusterId) -> Column<u8> {
        Some(self.builder.create_vector(&id.0.to_le_bytes()))
    }

    fn finish<T>(&mut self, out: &mut Vec<u8>, kind: Kind, request_id: u64, root: WIPOffset<T>) {
        self.builder.finish_minimal(root);
        push_frame(out, kind, request_id, self.builder.finished_data());
        self.builder.reset();
    }
}

fn session_stamp(stamp: &Stamp) -> fb::SessionStamp {
    let Stamp { credentials, sequence, low_water } = stamp;
    let (low, high) = halves(credentials.token);
    fb::SessionStamp::new(credentials.session.0, low, high, sequence.0, low_water.0, credentials.epoch.0, 0)
}

/// A token as two words, the low one first.
fn halves(token: SessionToken) -> (u64, u64) {
    (token.0 as u64, (token.0 >> 64) as u64)
}

/// A text of at most [`ERROR_TEXT_BYTES_MAX`] bytes.
fn cut(text: &str) -> &str {
    let mut length = text.len().min(ERROR_TEXT_BYTES_MAX);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    &text[..length]
}
