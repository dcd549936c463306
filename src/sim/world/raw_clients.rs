//! Clients that speak frames: they ask without sessions, never repeat anything, and lose nothing but what dies with the server.

use super::node::{Event, OwnedFrame};
use super::{CLUSTER, World};
use crate::engine::gateway::ConnectionId;
use crate::engine::part::PackedKeys;
use crate::error::ErrorCode;
use crate::ids::{Index, ShardId};
use crate::limits::REPLY_BYTES_MAX;
use crate::sim::sabotage::Sabotage;
use crate::sim::workload::Ask;
use crate::wire::client::{Encoder, Hello, PROTOCOL_VERSION, Reply, ScanRequest, decode_reply};
use crate::wire::frame::Decoder;

pub(super) struct RawClient {
    pub(super) connection: ConnectionId,
    pub(super) store: usize,
    pub(super) next_request: u64,
    /// Requests under way: id on the wire, number in the model.
    pub(super) waiting: Vec<(u64, usize)>,
    /// The piece of a scan that it asks for next.
    pub(super) scan: Option<ScanRequest>,
}

impl RawClient {
    /// A scan goes on with the piece after the last one that was answered. One that is lost is over.
    fn scanned(&mut self, reply: &Reply) {
        match (reply, &mut self.scan) {
            (Reply::Scan(reply), Some(scan)) if !reply.last => {
                (scan.piece, scan.applied_index) = (scan.piece + 1, reply.applied_index);
            }
            (Reply::Scan(_) | Reply::Error { code: ErrorCode::ScanLost | ErrorCode::Overloaded, .. }, scan) => {
                *scan = None;
            }
            _ => {}
        }
    }
}

impl World {
    pub(super) fn raw_client_asks(&mut self) {
        let client = self.prng.below(self.raw_clients.len() as u64) as usize;
        if self.calm || self.raw_clients[client].waiting.len() >= 8 {
            return;
        }
        let ask = match self.prng.chance(1, 8) {
            true => Ask::Scan(self.piece_of_a_scan(client)),
            false => self.workload.next(&mut self.prng),
        };
        self.ask(client, ask);
    }

    /// The next piece of a client's scan; now and then the one before, or that of a scan that begins.
    fn piece_of_a_scan(&mut self, client: usize) -> ScanRequest {
        let again = self.prng.chance(1, 8);
        let anew = self.prng.chance(1, 16);
        match self.raw_clients[client].scan.filter(|_| !anew) {
            Some(scan) => ScanRequest { piece: scan.piece.saturating_sub(u64::from(again)), ..scan },
            None => {
                let shard = ShardId(1 + self.prng.below(self.shards) as u32);
                let scan = ScanRequest { shard, scan: self.prng.bits(), piece: 0, applied_index: Index(0) };
                self.raw_clients[client].scan = Some(scan);
                scan
            }
        }
    }

    pub(super) fn ask(&mut self, client: usize, ask: Ask) {
        let Some(process) = &mut self.process else { return };
        let client = &mut self.raw_clients[client];
        client.next_request += 1;
        let id = client.next_request;
        let mut frame = Vec::new();
        let pack = |keys: &mut dyn Iterator<Item = &Vec<u8>>| {
            let mut packed = PackedKeys::default();
            keys.for_each(|key| packed.push(key));
            packed
        };
        match &ask {
            Ask::Increment { items, want_values } => {
                let keys = pack(&mut items.iter().map(|(key, _)| key));
                let deltas: Vec<i64> = items.iter().map(|&(_, delta)| delta).collect();
                self.encoder.increment(&mut frame, id, &keys, &deltas, *want_values, None);
            }
            Ask::Get { keys } => self.encoder.get(&mut frame, id, &pack(&mut keys.iter())),
            Ask::TopK { k } => self.encoder.top_k(&mut frame, id, *k),
            Ask::Scan(scan) => self.encoder.scan(&mut frame, id, scan),
            Ask::Status => self.encoder.status(&mut frame, id),
        }
        client.waiting.push((id, self.model.ask(ask)));
        let frame = OwnedFrame::of_bytes(&frame);
        if self.sabotage == Sabotage::RequestTwice {
            process.to_server.push_back((client.store, client.connection, frame.clone()));
        }
        process.to_server.push_back((client.store, client.connection, frame));
        let (connection, store) = (client.connection.0, client.store);
        self.note(&format!("connection {connection} asks store {store}, request {id}"));
    }

    pub(super) fn frame_arrives(&mut self) {
        let Some(process) = &mut self.process else { return };
        if let Some((store, connection, frame)) = process.to_server.pop_front() {
            process.stores[store].inbox.push_back(Event::Frame(connection, frame));
        }
    }

    pub(super) fn answer_arrives(&mut self) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some((connection, frame)) = process.to_client.pop_front() {
            self.answered(connection, &frame)?;
        }
        Ok(())
    }

    pub(super) fn answered(&mut self, connection: ConnectionId, bytes: &[u8]) -> Result<(), String> {
        let Some(client) = self.raw_clients.iter().position(|client| client.connection == connection) else {
            return Ok(());
        };
        let mut decoder = Decoder::new(REPLY_BYTES_MAX);
        decoder.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        decoder.filled(bytes.len());
        let frame = decoder.next_frame().map_err(|error| error.to_string())?.ok_or("half a frame was sent")?;
        let reply = decode_reply(frame.kind, frame.payload).map_err(|error| error.to_string())?;
        let id = frame.request_id;
        self.note(&format!("connection {} is answered, request {id}: {reply:?}", connection.0));
        if matches!(reply, Reply::Welcome(_)) {
            return Ok(());
        }
        self.raw_clients[client].scanned(&reply);
        let waiting = &mut self.raw_clients[client].waiting;
        let Some(place) = waiting.iter().position(|&(waiting, _)| waiting == id) else {
            return if self.sabotage == Sabotage::RequestTwice {
                Ok(())
            } else {
                Err("an answer to no question".into())
            };
        };
        let (_, op) = waiting.swap_remove(place);
        self.report.answered += 1;
        if let Reply::Error { code: ErrorCode::DiskFull, .. } = reply {
            self.report.disk_full += 1;
        }
        if let Reply::Increment(reply) = &reply {
            let overflow = ErrorCode::Overflow as u8;
            self.report.overflows += reply.outcomes.iter().filter(|&&outcome| outcome == overflow).count() as u64;
        }
        self.model.answer(op, reply)
    }

    /// Every client connects anew; what it waited for stays unknown.
    pub(super) fn connect_raw_clients(&mut self) {
        let process = self.process.as_mut().expect("the node is open");
        for client in &mut self.raw_clients {
            self.report.unknown += client.waiting.len() as u64;
            client.waiting.clear();
            self.next_connection += 1;
            client.connection = ConnectionId(self.next_connection);
            let hello = hello(&mut self.encoder);
            process.to_server.push_back((client.store, client.connection, OwnedFrame::of_bytes(&hello)));
        }
    }
}

/// The first frame of a connection.
pub(super) fn hello(encoder: &mut Encoder) -> Vec<u8> {
    let hello = Hello {
        protocol_min: PROTOCOL_VERSION,
        protocol_max: PROTOCOL_VERSION,
        cluster_id: Some(CLUSTER),
        client_name: "sim",
    };
    let mut frame = Vec::new();
    encoder.hello(&mut frame, 0, &hello);
    frame
}
