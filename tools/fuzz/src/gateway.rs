//! Target `gateway`: the requests of strangers, in a gateway before a real store whose answers come late and in any order.
//!
//! The input is steps to its end, each a byte that says what happens (its low three bits) and to whom (the others):
//!
//! ```text
//! 0..=3  a request of a connection      u8 kind │ u16 bytes │ payload
//! 4      a part reaches the store       u8 which of those under way
//! 5      a part is refused on its way   u8 which │ u8 code
//! 6      the store's disk does what it has to, and one of its answers arrives    u8 which
//! 7      a connection ends, or time passes
//! ```

use std::sync::Arc;

use dkc::engine::checkpoint::CheckpointConfig;
use dkc::engine::cluster::{ClusterMap, StoreAddress};
use dkc::engine::counters::{Pool, Secret};
use dkc::engine::gateway::{ConnectionId, Gateway, GatewayConfig};
use dkc::engine::input::{DiskDone, Input};
use dkc::engine::part::{PartAnswer, PartReply, PartRequest};
use dkc::engine::sessions::token::SessionSecret;
use dkc::engine::store::{Store, StoreConfig};
use dkc::engine::wal::WalConfig;
use dkc::error::ErrorCode;
use dkc::ids::{ClusterId, Micros, NodeId, StoreId};
use dkc::limits::{PAGE_KEYS_MAX, REPLY_BYTES_MAX, REQUEST_WAIT_MICROS_MAX};
use dkc::wire::client::{Encoder, Hello, PROTOCOL_VERSION, decode_reply};
use dkc::wire::frame::{Decoder, Frame, Kind};

use crate::log_dir::LogDir;
use crate::script::Script;
use crate::{Fault, INPUT_BYTES_MAX};

const SHARDS: u32 = 3;
const CONNECTIONS: usize = 3;
/// What the tokens of the seeds were made with.
pub(crate) const SECRET: [u8; 16] = [7; 16];
/// Sessions live for a few steps of time.
const SESSION_AGE_MICROS: u64 = 2 * STEP_MICROS;
const STEP_MICROS: u64 = REQUEST_WAIT_MICROS_MAX / 3;
/// Large enough for the entry that the largest input can become.
const WAL: WalConfig = WalConfig { segment_bytes: 512 << 10, write_bytes_max: 64 << 10 };

/// See the module.
pub fn gateway(input: &[u8], fault: Fault) {
    if input.len() > INPUT_BYTES_MAX {
        return;
    }
    let mut node = Node::new(fault);
    node.greet();
    let mut script = Script::new(input);
    while !script.is_empty() {
        let step = script.byte();
        let who = usize::from(step >> 3) % CONNECTIONS;
        match step & 7 {
            0..=3 => {
                let kind = script.byte();
                let length = script.short();
                node.request(who, kind, script.take(length));
            }
            4 => node.part_arrives(script.byte().into()),
            5 => {
                let which = script.byte().into();
                let code = ErrorCode::from_u8(script.byte()).filter(|code| *code != ErrorCode::Ok);
                node.part_is_refused(which, code.unwrap_or(ErrorCode::Unavailable));
            }
            6 => {
                node.settle();
                node.answer_arrives(script.byte().into());
            }
            _ if step & 0x80 == 0 => node.disconnect(who),
            _ => node.time_passes(STEP_MICROS),
        }
    }
    node.finish();
}

/// A request, by the number it was sent with.
struct Asked {
    connection: ConnectionId,
    kind: u8,
    answered: bool,
}

struct Node {
    gateway: Gateway,
    store: Store,
    dir: LogDir,
    now: Micros,
    /// Connections that are open.
    connections: [ConnectionId; CONNECTIONS],
    next_connection: u64,
    asked: Vec<Asked>,
    /// On their way from the gateway to the store, and back.
    parts: Vec<PartRequest>,
    answers: Vec<PartReply>,
    fault: Fault,
}

impl Node {
    fn new(fault: Fault) -> Node {
        let (cluster, node, store, now) = (ClusterId(1), NodeId(1), StoreId(0), Micros(0));
        let map = Arc::new(ClusterMap::even(9, node, 1, SHARDS));
        let addresses = vec![StoreAddress { node, store, address: "a:1".into() }];
        let (session_secret, session_age_micros) = (SessionSecret(SECRET), SESSION_AGE_MICROS);
        let config = GatewayConfig {
            cluster,
            node,
            store,
            map: Arc::clone(&map),
            addresses,
            session_secret,
            session_age_micros,
            top_margin: 0,
        };
        let gateway = Gateway::new(config, now);
        let memory_bytes_max = u64::MAX;
        let config = StoreConfig {
            cluster,
            node,
            store,
            map,
            wal: WAL,
            checkpoints: CheckpointConfig { log_bytes: u64::MAX, bytes_per_second: 1 },
            page_keys_max: PAGE_KEYS_MAX,
            memory_bytes_max,
            secret: Secret::default(),
            session_age_micros,
        };
        let mut dir = LogDir::default();
        let (store, _) =
            Store::open(config, Pool::borrowed(), &mut dir, false, now, &mut |_| {}).expect("an empty log opens");
        let connections = [0, 1, 2].map(ConnectionId);
        let (parts, answers, asked) = (Vec::new(), Vec::new(), Vec::new());
        let mut node = Node { gateway, store, dir, now, connections, next_connection: 3, asked, parts, answers, fault };
        node.settle();
        assert!(node.store.is_ready(), "a lone store is ready once its log is");
        node
    }

    /// The first connection says hello, so that the fuzzer need not find out how.
    fn greet(&mut self) {
        let hello = Hello { protocol_min: 1, protocol_max: PROTOCOL_VERSION, cluster_id: None, client_name: "fuzz" };
        let mut bytes = Vec::new();
        Encoder::new().hello(&mut bytes, 0, &hello);
        let mut decoder = decoder_of(&bytes);
        let frame = decoder.next_frame().expect("intact").expect("complete");
        self.request(0, frame.kind, frame.payload);
    }

    fn request(&mut self, who: usize, kind: u8, payload: &[u8]) {
        let connection = self.connections[who];
        let request_id = self.asked.len() as u64;
        self.asked.push(Asked { connection, kind, answered: false });
        let taken = self.gateway.request(self.now, connection, Frame { kind, request_id, payload });
        assert!(taken.bytes >= payload.len(), "a request counts its own bytes at least");
        if taken.close {
            self.disconnect(who);
        }
        self.take_output();
    }

    /// The connection ends, and another takes its place.
    fn disconnect(&mut self, who: usize) {
        self.gateway.disconnect(self.connections[who]);
        self.connections[who] = ConnectionId(self.next_connection);
        self.next_connection += 1;
    }

    fn part_arrives(&mut self, which: usize) {
        if !self.parts.is_empty() {
            let part = self.parts.remove(which % self.parts.len());
            self.store.step(self.now, Input::Part(part));
        }
    }

    fn part_is_refused(&mut self, which: usize, code: ErrorCode) {
        if !self.parts.is_empty() {
            let PartRequest { ticket, shard, .. } = self.parts.remove(which % self.parts.len());
            self.answers.push(PartReply { ticket, shard, body: PartAnswer::Refused { code } });
        }
    }

    /// Everything the store asks of its disk is done.
    fn settle(&mut self) {
        loop {
            self.store.step(self.now, Input::Turn);
            let output = self.store.take_output();
            assert!(output.latched.is_none(), "a healthy disk never stops a store");
            self.answers.extend(output.replies);
            if output.disk.is_empty() && output.session_mark.is_none() && !output.turn_wanted {
                return;
            }
            if let Some(mark) = output.session_mark {
                self.store.step(self.now, Input::SessionMark(mark));
            }
            for op in output.disk {
                let buffer = self.dir.perform(op.action);
                self.store.step(self.now, Input::Disk(DiskDone { id: op.id, result: Ok(()), buffer }));
            }
        }
    }

    fn answer_arrives(&mut self, which: usize) {
        if self.answers.is_empty() {
            return;
        }
        let answer = self.answers.remove(which % self.answers.len());
        // The planted fault: one kind of refusal is lost.
        if self.fault.is_planted() && answer.body == (PartAnswer::Refused { code: ErrorCode::DiskFull }) {
            return;
        }
        self.gateway.answer(answer);
        self.take_output();
    }

    fn time_passes(&mut self, micros: u64) {
        self.now = self.now.plus(micros);
        self.store.step(self.now, Input::Tick);
        self.gateway.tick(self.now);
        self.take_output();
    }

    /// Takes what the gateway wants done, and judges the frames for clients.
    fn take_output(&mut self) {
        let mut output = self.gateway.take_output();
        self.parts.extend(output.parts.drain(..).map(|(_, part)| part));
        let mut end = 0;
        for frame in &output.frames {
            assert_eq!(frame.range.start, end, "frames follow one another");
            end = frame.range.end;
            let mut decoder = decoder_of(&output.bytes[frame.range.clone()]);
            let reply = decoder.next_frame().expect("intact").expect("complete");
            decode_reply(reply.kind, reply.payload).expect("what a gateway answers can be read");
            let asked = &mut self.asked[reply.request_id as usize];
            assert_eq!(asked.connection, frame.connection, "an answer goes to who asked");
            assert!(frame.answers && !asked.answered, "a request is answered once");
            let kinds = [Kind::Error as u8, asked.kind.wrapping_add(128)];
            assert!(kinds.contains(&reply.kind), "request kind {}, reply kind {}", asked.kind, reply.kind);
            asked.answered = true;
            assert!(decoder.is_empty(), "one frame, one answer");
        }
        assert_eq!(end, output.bytes.len(), "all bytes are of frames");
        self.gateway.recycle(output);
    }

    /// All that is under way arrives.
    fn finish(&mut self) {
        while !self.parts.is_empty() {
            self.part_arrives(0);
        }
        self.settle();
        while !self.answers.is_empty() {
            self.answer_arrives(0);
        }
        assert_eq!(self.gateway.in_flight(), 0, "nothing stays in flight");
        assert!(self.asked.iter().all(|asked| asked.answered), "every request is answered");
        assert!(self.store.is_quiet(), "the store has finished");
        self.time_passes(2 * REQUEST_WAIT_MICROS_MAX);
        assert_eq!(self.gateway.take_output().deadline, None, "nothing is waited for");
    }
}

fn decoder_of(bytes: &[u8]) -> Decoder {
    let mut decoder = Decoder::new(REPLY_BYTES_MAX);
    decoder.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
    decoder.filled(bytes.len());
    decoder
}
