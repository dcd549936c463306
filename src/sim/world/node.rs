//! The server process: turns of its stores, its deaths, and its openings from the disks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{CLUSTER, NODE, World};
use crate::engine::checkpoint::Notice;
use crate::engine::cluster::StoreAddress;
use crate::engine::counters::Pool;
use crate::engine::gateway::{ConnectionId, Gateway, GatewayConfig};
use crate::engine::input::Input;
use crate::engine::part::{PackedKeys, PartReply, PartRequest};
use crate::engine::sessions::token::SessionSecret;
use crate::engine::store::{OpenError, Opened, Store, StoreConfig, digest_of_log};
use crate::engine::wal::recovery::Case;
use crate::engine::wal::{DiskAction, WalIdentity, recover};
use crate::ids::{Index, Micros, StoreId};
use crate::limits::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::sim::replay::Number;
use crate::sim::sabotage::Sabotage;
use crate::wire::client::{Encoder, Reply, Request, Stamp, decode_reply, decode_request};
use crate::wire::frame::{Decoder, Frame};

/// One process: what dies together.
pub(super) struct Process {
    pub(super) stores: Vec<Core>,
    /// Frames of raw clients on their way to a store, and answers on their way to them, by connection.
    pub(super) to_server: VecDeque<(usize, ConnectionId, OwnedFrame)>,
    pub(super) to_client: VecDeque<(ConnectionId, Vec<u8>)>,
    /// What its clock shows at the world's time 0.
    pub(super) clock_origin: u64,
    /// The number of each request under way that has one.
    numbers: BTreeMap<(ConnectionId, u64), Number>,
    /// Connections on which numbers were used for other content.
    pub(super) forgers: BTreeSet<ConnectionId>,
}

pub(super) struct Core {
    pub(super) store: Store,
    pub(super) gateway: Gateway,
    pub(super) inbox: VecDeque<Event>,
    /// Whether it has opened a segment of its own.
    has_segment: bool,
}

pub(super) enum Event {
    Frame(ConnectionId, OwnedFrame),
    /// The client's side of the connection is gone.
    Gone(ConnectionId),
    Input(Input),
    Part(PartRequest),
    Reply(PartReply),
}

/// A frame that a client sent.
#[derive(Clone)]
pub(super) struct OwnedFrame {
    kind: u8,
    request_id: u64,
    payload: Vec<u8>,
}

impl OwnedFrame {
    pub(super) fn new(frame: Frame<'_>) -> OwnedFrame {
        OwnedFrame { kind: frame.kind, request_id: frame.request_id, payload: frame.payload.to_vec() }
    }

    /// The one frame that these bytes are.
    pub(super) fn of_bytes(bytes: &[u8]) -> OwnedFrame {
        let mut decoder = Decoder::new(REQUEST_BYTES_MAX);
        decoder.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        decoder.filled(bytes.len());
        OwnedFrame::new(decoder.next_frame().expect("our own encoding").expect("a whole frame"))
    }

    /// The stamp of the request, if it is one that may be sent again.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        match decode_request(self.kind, &self.payload) {
            Ok(Request::Increment(request)) => request.stamp,
            _ => None,
        }
    }

    /// The number of the request, if it is one that may be sent again.
    pub(super) fn number(&self) -> Option<Number> {
        self.stamp().map(|stamp| (stamp.credentials.session, stamp.sequence))
    }

    /// Another request under the same number: equal keys, other deltas.
    pub(super) fn altered(&self, encoder: &mut Encoder) -> Option<OwnedFrame> {
        let Ok(Request::Increment(request)) = decode_request(self.kind, &self.payload) else { return None };
        let mut keys = PackedKeys::default();
        request.keys.iter().for_each(|key| keys.push(key));
        let deltas: Vec<i64> = request.deltas().map(|delta| delta ^ 1).collect();
        let mut frame = Vec::new();
        let stamp = request.stamp.as_ref();
        encoder.increment(&mut frame, self.request_id, &keys, &deltas, request.want_values, stamp);
        Some(OwnedFrame::of_bytes(&frame))
    }

    fn frame(&self) -> Frame<'_> {
        Frame { kind: self.kind, request_id: self.request_id, payload: &self.payload }
    }
}

impl World {
    pub(super) fn disk_ends(&mut self, store: usize) {
        let early = self.sabotage == Sabotage::WriteReportedEarly;
        let Some(process) = &mut self.process else { return };
        let done = if early { self.disks[store].report_early() } else { self.disks[store].complete_one() };
        if let Some(done) = done {
            process.stores[store].inbox.push_back(Event::Input(done));
        }
    }

    /// What the server's clock shows.
    pub(super) fn server_time(&self) -> Micros {
        Micros(self.now.0 + self.process.as_ref().map_or(0, |process| process.clock_origin))
    }

    /// The server's clock leaps forward, as that of a suspended machine may.
    pub(super) fn clock_jumps(&mut self) {
        let micros = 1 << self.prng.below(38);
        let Some(process) = &mut self.process else { return };
        process.clock_origin += micros;
        self.report.clock_jumps += 1;
        self.note(&format!("the server's clock jumps by {micros} us"));
    }

    /// One turn of a store's driver: take what has come, step, perform.
    pub(super) fn turn(&mut self, place: usize) -> Result<(), String> {
        let now = self.server_time();
        let Some(process) = &mut self.process else { return Ok(()) };
        let core = &mut process.stores[place];
        let take = self.prng.below(8) as usize;
        for event in core.inbox.drain(..take.min(core.inbox.len())) {
            match event {
                Event::Frame(connection, frame) => {
                    if let Some(stamp) = frame.stamp() {
                        let session = stamp.credentials.session;
                        process.numbers.insert((connection, frame.request_id), (session, stamp.sequence));
                        self.model.low_water_sent(session, stamp.low_water);
                    }
                    core.gateway.request(now, connection, frame.frame());
                }
                Event::Gone(connection) => core.gateway.disconnect(connection),
                Event::Input(input) => core.store.step(now, input),
                Event::Part(request) => core.store.step(now, Input::Part(request)),
                Event::Reply(reply) => core.gateway.answer(reply),
            }
        }
        core.store.step(now, Input::Tick);
        core.store.step(now, Input::Turn);
        core.gateway.tick(now);
        let front = core.gateway.take_output();
        for (store, request) in front.parts {
            process.stores[store.0 as usize].inbox.push_back(Event::Part(request));
        }
        for frame in front.frames {
            self.reply_leaves(frame.connection, &front.bytes[frame.range], frame.close)?;
        }
        self.perform(place)?;
        for _ in 0..1 + self.prng.below(3) {
            let Some(process) = &mut self.process else { return Ok(()) };
            process.stores[place].store.step(now, Input::Spare);
            self.perform(place)?;
        }
        Ok(())
    }

    /// Performs what a store wants done.
    fn perform(&mut self, place: usize) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let segment = process.stores[place].store.status().segment;
        let output = process.stores[place].store.take_output();
        if process.stores[place].store.status().segment > segment {
            self.report.rotations += 1;
            // What this segment's header frees is still there. Before the first one of a life, the log has just been read; and
            // it ends there, although more of a dead process's last write may have landed since.
            if std::mem::replace(&mut process.stores[place].has_segment, true) {
                self.harvest(place)?;
            }
        }
        for op in output.disk {
            self.report.recycled +=
                u64::from(matches!(op.action, DiskAction::Zero { recycle: Some(_), .. } | DiskAction::Remove { .. }));
            self.disks[place].submit(op);
        }
        for op in output.checkpoint {
            self.disks[place].submit_file(op);
        }
        for notice in output.notices {
            match &notice {
                Notice::Completed { .. } => self.report.checkpoints += 1,
                Notice::Failed { .. } => self.report.checkpoints_failed += 1,
            }
            self.note(&format!("store {place}: {notice:?}"));
        }
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some(mark) = output.session_mark {
            for core in &mut process.stores {
                core.inbox.push_back(Event::Input(Input::SessionMark(mark)));
            }
        }
        for reply in output.replies {
            process.stores[reply.ticket.origin.0 as usize].inbox.push_back(Event::Reply(reply));
        }
        self.opened |= process.stores.iter().all(|core| core.store.has_durable_log());
        if let Some(why) = output.latched {
            self.report.latches += 1;
            self.note(&format!("store {place} latches: {why}"));
            let power = self.prng.chance(1, 2);
            return self.die(power);
        }
        Ok(())
    }

    /// Notes down what is in a store's log.
    fn harvest(&mut self, place: usize) -> Result<(), String> {
        let mut records = Vec::new();
        let mut visit = |record| {
            records.push(record);
            Ok(())
        };
        let identity = WalIdentity { cluster: CLUSTER, node: NODE, store: StoreId(place as u16) };
        let mut twin = self.disks[place].twin();
        twin.live_on();
        recover(&mut twin, identity, self.config.wal, false, &mut visit)
            .map_err(|error| format!("the log of store {place} cannot be read while it is written: {error}"))?;
        self.ledger.add(&records)
    }

    /// An answer leaves the gateway. Copies of one numbered request are all answered alike, whoever asked.
    fn reply_leaves(&mut self, connection: ConnectionId, bytes: &[u8], close: bool) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let mut decoder = Decoder::new(REPLY_BYTES_MAX);
        decoder.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        decoder.filled(bytes.len());
        let frame = decoder.next_frame().map_err(|error| error.to_string())?.ok_or("half a frame was sent")?;
        if let Some(number) = process.numbers.remove(&(connection, frame.request_id)) {
            let reply = decode_reply(frame.kind, frame.payload).map_err(|error| error.text)?;
            match process.forgers.contains(&connection) {
                true => check_forgery(number, &reply)?,
                false => self.model.copy_answered(number, &reply)?,
            }
        }
        if !self.network.reply(connection, bytes, close) {
            process.to_client.push_back((connection, bytes.to_vec()));
        }
        Ok(())
    }

    /// The process dies, and is started again.
    pub(super) fn die(&mut self, power: bool) -> Result<(), String> {
        self.note(if power { "the power goes" } else { "the process is killed" });
        if power {
            self.report.power_cuts += 1;
        } else {
            self.report.kills += 1;
        }
        if let Some(mut process) = self.process.take() {
            let unfinished = |core: &&Core| core.store.status().checkpoints.running.is_some();
            self.report.checkpoints_unfinished += process.stores.iter().filter(unfinished).count() as u64;
            // What had left the process may still arrive.
            while !power && self.prng.chance(1, 2) {
                let Some((connection, frame)) = process.to_client.pop_front() else { break };
                self.answered(connection, &frame)?;
            }
        }
        self.network.server_died(power, &mut self.prng);
        for disk in &mut self.disks {
            if power {
                disk.cut_power();
            } else {
                disk.kill();
            }
            disk.maybe_flip();
        }
        self.open()
    }

    /// Opens the node from its disks; dies in the middle of it when the seed says so.
    pub(super) fn open(&mut self) -> Result<(), String> {
        loop {
            if !self.calm && self.prng.chance(1, 6) {
                let calls = 1 + self.prng.below(8) as u32;
                let store = self.prng.below(self.stores as u64) as usize;
                self.disks[store].die_after_calls(calls);
            }
            match self.try_open()? {
                Some(process) => {
                    self.process = Some(process);
                    self.connect_raw_clients();
                    return self.warm_up();
                }
                None => {
                    let power = self.prng.chance(1, 2);
                    for disk in &mut self.disks {
                        if power {
                            disk.cut_power();
                        } else {
                            disk.kill();
                        }
                    }
                }
            }
        }
    }

    /// Often lets the stores get ready before anything else happens, so that not every life is a short one.
    fn warm_up(&mut self) -> Result<(), String> {
        if self.prng.chance(1, 4) {
            return Ok(());
        }
        for _ in 0..self.prng.below(16) {
            for store in 0..self.stores {
                self.turn(store)?;
                self.disk_ends(store);
            }
        }
        Ok(())
    }

    /// What was restored is what the whole log makes, applied from its beginning.
    fn check_state(&self, store: &Store) -> Result<(), String> {
        for (shard, applied, digest) in store.digests() {
            let entries = self.ledger.entries(shard).iter().take(applied.0 as usize);
            let expected = digest_of_log(&self.config, shard, entries)?;
            if digest != expected {
                return Err(format!("shard {shard}: the state restored at entry {applied} is not that of the log"));
            }
        }
        Ok(())
    }

    fn try_open(&mut self) -> Result<Option<Process>, String> {
        let clock_origin = 1 << self.prng.below(40);
        let now = Micros(self.now.0 + clock_origin);
        let mut records = Vec::new();
        let mut ends = BTreeMap::new();
        let mut stores = Vec::new();
        let addresses: Vec<StoreAddress> = (0..self.stores)
            .map(|store| StoreAddress { node: NODE, store: StoreId(store as u16), address: format!("store:{store}") })
            .collect();
        for place in 0..self.stores {
            let config = StoreConfig { store: StoreId(place as u16), ..self.config.clone() };
            let disk = &mut self.disks[place];
            // A twin of the disk is read first, to learn what the store is about to find.
            let identity = WalIdentity { cluster: CLUSTER, node: NODE, store: config.store };
            let before = records.len();
            let mut visit = |record| {
                records.push(record);
                Ok(())
            };
            let _same = recover(&mut disk.twin(), identity, config.wal, self.opened, &mut visit);
            let opened = Store::open(config.clone(), Pool::borrowed(), disk, self.opened, now, &mut |_| {});
            if disk.died() {
                self.report.deaths_in_recovery += 1;
                return Ok(None);
            }
            let (store, found) = match opened {
                Ok(opened) => opened,
                Err(error) if disk.is_flipped() => {
                    self.report.flips_refused += 1;
                    let (OpenError::Log(_) | OpenError::NoCheckpoint(..)) = &error else {
                        return Err(format!("a flipped bit was not named: {error}"));
                    };
                    disk.unflip();
                    self.note(&format!("store {place} refuses: {error}"));
                    return Ok(None);
                }
                Err(error) => return Err(format!("store {place} refuses although nothing was damaged: {error}")),
            };
            assert_eq!(found.log.records as usize, records.len() - before, "the twin was read as the disk was");
            let flipped = disk.is_flipped();
            disk.unflip();
            check_restored(place, &found, flipped)?;
            self.report.restored(&found);
            let recovered = found.log;
            ends.extend(recovered.groups.clone());
            self.report.torn_tails += u64::from(recovered.case == Case::TornTail);
            self.report.torn_headers +=
                recovered.removed.iter().filter(|(_, why)| why.starts_with("its header")).count() as u64;
            self.note(&format!("store {place} opens: {:?}, {} records", recovered.case, recovered.records));
            let gateway = Gateway::new(
                GatewayConfig {
                    cluster: CLUSTER,
                    node: NODE,
                    store: config.store,
                    map: Arc::clone(&config.map),
                    addresses: addresses.clone(),
                    session_secret: SessionSecret([7; 16]),
                    session_age_micros: config.session_age_micros,
                    top_margin: 0,
                },
                now,
            );
            stores.push(Core { store, gateway, inbox: VecDeque::new(), has_segment: false });
        }
        self.ledger.add(&records)?;
        self.ledger.check_ends(&ends)?;
        self.model.check(&self.ledger.records())?;
        for core in &stores {
            self.check_state(&core.store)?;
        }
        Ok(Some(Process {
            stores,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            clock_origin,
            numbers: BTreeMap::new(),
            forgers: BTreeSet::new(),
        }))
    }
}

/// A checkpoint that is in force is whole, unless a bit of it was flipped.
fn check_restored(store: usize, found: &Opened, flipped: bool) -> Result<(), String> {
    match found.shards.iter().flat_map(|shard| &shard.rejected).next() {
        Some((_, error)) if !flipped => Err(format!("store {store} rejects what nothing has damaged: {error}")),
        _ => Ok(()),
    }
}

/// A request that uses the number of another is not applied anywhere.
fn check_forgery(number: Number, reply: &Reply) -> Result<(), String> {
    match reply {
        Reply::Increment(reply) if reply.parts.iter().any(|part| part.applied_index > Index(0)) => {
            Err(format!("other content under {number:?} is answered {reply:?}"))
        }
        _ => Ok(()),
    }
}
