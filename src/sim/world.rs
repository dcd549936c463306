//! The world: one node of some stores with their disks, and clients that ask through its gateways.
//!
//! The scheduler picks one event at a time: a client asks, a frame or an answer arrives, a store takes a turn, a disk
//! operation ends, bytes land by themselves, time passes, the process is killed, the power goes. After every death the
//! node is opened again from its disks (and may die in the middle of that), and everything that was ever answered is
//! checked against what was found. In the end the world heals, and must then serve within a bounded number of events.

use std::collections::VecDeque;
use std::sync::Arc;

use super::disk::{Faults, SimDisk};
use super::model::Model;
use super::workload::{Ask, Workload};
use crate::engine::cluster::{ClusterMap, StoreAddress};
use crate::engine::gateway::{ConnectionId, Gateway, GatewayConfig};
use crate::engine::input::Input;
use crate::engine::part::{PackedKeys, PartReply, PartRequest};
use crate::engine::prng::{Prng, mix};
use crate::engine::sessions::token::SessionSecret;
use crate::engine::store::{OpenError, Store, StoreConfig};
use crate::engine::wal::recovery::Case;
use crate::engine::wal::{WalConfig, WalIdentity, recover};
use crate::ids::{ClusterId, Micros, NodeId, StoreId};
use crate::limits::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX, REQUEST_WAIT_MICROS_MAX, SESSION_AGE_MICROS_DEFAULT};
use crate::wire::client::{Encoder, Hello, PROTOCOL_VERSION, Reply, decode_reply};
use crate::wire::frame::Decoder;

const NODE: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId(0x5eed);
/// Events of the healed world within which every client must have been answered.
const HEAL_EVENTS_MAX: u64 = 100_000;

/// A promise that the simulated shell breaks on purpose, to see that the checks notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None: the shell keeps its promises.
    #[default]
    None,
    /// A log write is reported done although its sync did nothing.
    WriteSyncLies,
    /// A prepared segment is reported synced although it is not.
    ZeroSyncLies,
    /// The directory is reported synced although it is not.
    DirectorySyncLies,
    /// Recovery's accepted bytes are not made durable again.
    HardenLies,
    /// A log write is reported done before it has landed.
    WriteReportedEarly,
    /// A client's frame reaches the gateway twice.
    RequestTwice,
}

impl Sabotage {
    /// Every way there is to break a promise.
    pub const ALL: [Sabotage; 6] = [
        Sabotage::WriteSyncLies,
        Sabotage::ZeroSyncLies,
        Sabotage::DirectorySyncLies,
        Sabotage::HardenLies,
        Sabotage::WriteReportedEarly,
        Sabotage::RequestTwice,
    ];
}

/// What a run found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The seed that shows it.
    pub seed: u64,
    /// Which event of the run.
    pub event: u64,
    /// What.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {} violates at event {}: {} (run it again: dkc-sim {})",
            self.seed, self.event, self.what, self.seed
        )
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Events.
    pub events: u64,
    /// Hash over every event and every answer: equal seeds have equal traces.
    pub trace: u64,
    /// Virtual time that passed.
    pub virtual_micros: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests whose outcome stayed unknown.
    pub unknown: u64,
    /// Deaths of the process, with and without the power.
    pub kills: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Deaths within recovery.
    pub deaths_in_recovery: u64,
    /// Recoveries that cut a torn write.
    pub torn_tails: u64,
    /// Recoveries that dropped a segment with a torn header.
    pub torn_headers: u64,
    /// Flipped bits that were refused by name.
    pub flips_refused: u64,
    /// Logs that latched after a failed operation.
    pub latches: u64,
    /// Requests refused because the disk was full.
    pub disk_full: u64,
    /// Increments refused because they would overflow.
    pub overflows: u64,
    /// Segments opened by rotation.
    pub rotations: u64,
}

impl Report {
    /// Adds another run's figures; the trace is that of both.
    pub fn add(&mut self, other: &Report) {
        self.trace = mix(self.trace ^ other.trace);
        for (mine, theirs) in self.figures().into_iter().zip(other.clone().figures()) {
            *mine += *theirs;
        }
    }

    /// The rare things that a run should sometimes do, and how often it did.
    #[must_use]
    pub fn marks(&self) -> Vec<(&'static str, u64)> {
        let names = [
            "events",
            "microseconds of virtual time",
            "requests answered",
            "requests whose outcome stayed unknown",
            "kills",
            "power cuts",
            "deaths within recovery",
            "torn writes cut",
            "torn segment headers dropped",
            "flipped bits refused by name",
            "latches after a failed operation",
            "requests refused on a full disk",
            "increments refused for overflow",
            "segments opened",
        ];
        let mut figures = self.clone();
        names.into_iter().zip(figures.figures().map(|figure| *figure)).skip(2).collect()
    }

    fn figures(&mut self) -> [&mut u64; 14] {
        [
            &mut self.events,
            &mut self.virtual_micros,
            &mut self.answered,
            &mut self.unknown,
            &mut self.kills,
            &mut self.power_cuts,
            &mut self.deaths_in_recovery,
            &mut self.torn_tails,
            &mut self.torn_headers,
            &mut self.flips_refused,
            &mut self.latches,
            &mut self.disk_full,
            &mut self.overflows,
            &mut self.rotations,
        ]
    }
}

/// One process: what dies together.
struct Process {
    stores: Vec<Core>,
    /// Frames on their way to a store, and answers on their way to a client, by connection.
    to_server: VecDeque<(usize, ConnectionId, Vec<u8>)>,
    to_client: VecDeque<(ConnectionId, Vec<u8>)>,
}

struct Core {
    store: Store,
    gateway: Gateway,
    inbox: VecDeque<Event>,
}

enum Event {
    Frame(ConnectionId, Vec<u8>),
    Input(Input),
    Part(PartRequest),
    Reply(PartReply),
}

struct Client {
    connection: ConnectionId,
    store: usize,
    next_request: u64,
    /// Requests under way: id on the wire, number in the model.
    waiting: Vec<(u64, usize)>,
}

/// Is told every event of a run.
pub type Tracer = Box<dyn FnMut(&str)>;

/// One run.
pub struct World {
    seed: u64,
    prng: Prng,
    sabotage: Sabotage,
    now: Micros,
    config: StoreConfig,
    stores: usize,
    disks: Vec<SimDisk>,
    opened: bool,
    process: Option<Process>,
    clients: Vec<Client>,
    next_connection: u64,
    workload: Workload,
    model: Model,
    encoder: Encoder,
    calm: bool,
    /// What the run has done so far.
    pub report: Report,
    trace_to: Option<Tracer>,
}

/// Runs one seed to its end.
///
/// # Errors
/// What the run found wrong.
pub fn run(seed: u64) -> Result<Report, Violation> {
    run_sabotaged(seed, Sabotage::None)
}

/// Runs one seed with a broken promise.
///
/// # Errors
/// What the run found wrong.
pub fn run_sabotaged(seed: u64, sabotage: Sabotage) -> Result<Report, Violation> {
    World::new(seed, sabotage, None).run()
}

impl World {
    /// A world drawn from a seed. `trace_to` is told every event.
    #[must_use]
    pub fn new(seed: u64, sabotage: Sabotage, trace_to: Option<Tracer>) -> World {
        let mut prng = Prng::new(mix(seed ^ 0x00c0_ffee));
        let stores = 1 + prng.below(2) as usize;
        let shards = 1 + prng.below(4) as u32;
        let faults = Faults {
            failures_per_10k: if prng.chance(1, 4) { 1 + prng.below(60) } else { 0 },
            full: prng.chance(1, 4),
            bit_flips: prng.chance(1, 4),
        };
        let map = Arc::new(ClusterMap::even(prng.bits(), NODE, stores as u16, shards));
        let disks = (0..stores).map(|_| SimDisk::new(prng.bits(), faults, sabotage)).collect();
        let config = StoreConfig {
            cluster: CLUSTER,
            node: NODE,
            store: StoreId(0),
            map,
            wal: WalConfig { segment_bytes: 64 << 10, write_bytes_max: 8 << 10 },
            memory_bytes_max: if prng.chance(1, 16) { 1 } else { u64::MAX },
            session_age_micros: SESSION_AGE_MICROS_DEFAULT,
        };
        let workload = Workload::new(&mut prng);
        let clients = 1 + prng.below(4);
        let mut world = World {
            seed,
            prng,
            sabotage,
            now: Micros(1),
            config,
            stores,
            disks,
            opened: false,
            process: None,
            clients: Vec::new(),
            next_connection: 0,
            workload,
            model: Model::default(),
            encoder: Encoder::new(),
            calm: false,
            report: Report::default(),
            trace_to,
        };
        for _ in 0..clients {
            let store = world.prng.below(stores as u64) as usize;
            world.clients.push(Client { connection: ConnectionId(0), store, next_request: 0, waiting: Vec::new() });
        }
        world.note(&format!("{stores} stores, {shards} shards, {clients} clients, {faults:?}, {sabotage:?}"));
        world
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// What was found wrong.
    pub fn run(mut self) -> Result<Report, Violation> {
        let outcome = self.run_phases();
        self.report.virtual_micros = self.now.0;
        match outcome {
            Ok(()) => Ok(self.report),
            Err(what) => Err(Violation { seed: self.seed, event: self.report.events, what }),
        }
    }

    fn run_phases(&mut self) -> Result<(), String> {
        let events = 100 + self.prng.below(900);
        self.open()?;
        for _ in 0..events {
            self.event()?;
        }
        // The world heals: whatever was asked last must be answered, and everything must still be there.
        self.calm = true;
        self.disks.iter_mut().for_each(SimDisk::heal);
        self.config.memory_bytes_max = u64::MAX;
        self.die(false)?;
        let keys: Vec<Vec<u8>> = self.workload.keys().to_vec();
        for ask in [Ask::Get { keys }, Ask::TopK { k: 1_000 }, Ask::Status] {
            self.ask(0, ask);
        }
        for _ in 0..HEAL_EVENTS_MAX {
            if self.clients[0].waiting.is_empty() {
                return self.die(true);
            }
            self.event()?;
        }
        Err("the healed world does not answer".into())
    }

    fn event(&mut self) -> Result<(), String> {
        self.report.events += 1;
        let stores = self.stores as u64;
        let store = self.prng.below(stores) as usize;
        match self.prng.below(100) {
            0..=24 => self.client_asks(),
            25..=39 => self.frame_arrives(),
            40..=49 => self.answer_arrives()?,
            50..=69 => self.turn(store)?,
            70..=89 => self.disk_ends(store),
            90..=94 => self.disks[store].drift(),
            95..=97 => self.time_passes(),
            _ if self.calm || !self.prng.chance(1, 8) => {}
            _ => {
                let power = self.prng.chance(1, 2);
                self.die(power)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, what: &str) {
        let hash = what.bytes().fold(self.report.trace, |hash, byte| mix(hash ^ u64::from(byte)));
        self.report.trace = mix(hash ^ self.report.events);
        if let Some(trace_to) = &mut self.trace_to {
            trace_to(&format!("{:>6} {what}", self.report.events));
        }
    }

    fn time_passes(&mut self) {
        let long = self.prng.chance(1, 40) && !self.calm;
        let micros = if long { REQUEST_WAIT_MICROS_MAX + 1 } else { 1 + self.prng.below(300_000) };
        self.now = self.now.plus(micros);
    }

    fn client_asks(&mut self) {
        let client = self.prng.below(self.clients.len() as u64) as usize;
        if self.calm || self.clients[client].waiting.len() >= 8 {
            return;
        }
        let ask = self.workload.next(&mut self.prng);
        self.ask(client, ask);
    }

    fn ask(&mut self, client: usize, ask: Ask) {
        let Some(process) = &mut self.process else { return };
        let client = &mut self.clients[client];
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
            Ask::Status => self.encoder.status(&mut frame, id),
        }
        client.waiting.push((id, self.model.ask(ask)));
        if self.sabotage == Sabotage::RequestTwice {
            process.to_server.push_back((client.store, client.connection, frame.clone()));
        }
        process.to_server.push_back((client.store, client.connection, frame));
        let (connection, store) = (client.connection.0, client.store);
        self.note(&format!("connection {connection} asks store {store}, request {id}"));
    }

    fn frame_arrives(&mut self) {
        let Some(process) = &mut self.process else { return };
        if let Some((store, connection, frame)) = process.to_server.pop_front() {
            process.stores[store].inbox.push_back(Event::Frame(connection, frame));
        }
    }

    fn answer_arrives(&mut self) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some((connection, frame)) = process.to_client.pop_front() {
            self.answered(connection, &frame)?;
        }
        Ok(())
    }

    fn answered(&mut self, connection: ConnectionId, bytes: &[u8]) -> Result<(), String> {
        let Some(client) = self.clients.iter().position(|client| client.connection == connection) else {
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
        let waiting = &mut self.clients[client].waiting;
        let Some(place) = waiting.iter().position(|&(waiting, _)| waiting == id) else {
            return if self.sabotage == Sabotage::RequestTwice {
                Ok(())
            } else {
                Err("an answer to no question".into())
            };
        };
        let (_, op) = waiting.swap_remove(place);
        self.report.answered += 1;
        if let Reply::Error { code: crate::error::ErrorCode::DiskFull, .. } = reply {
            self.report.disk_full += 1;
        }
        if let Reply::Increment(reply) = &reply {
            let overflow = crate::error::ErrorCode::Overflow as u8;
            self.report.overflows += reply.outcomes.iter().filter(|&&outcome| outcome == overflow).count() as u64;
        }
        self.model.answer(op, reply)
    }

    fn disk_ends(&mut self, store: usize) {
        let early = self.sabotage == Sabotage::WriteReportedEarly;
        let Some(process) = &mut self.process else { return };
        let done = if early { self.disks[store].report_early() } else { self.disks[store].complete_one() };
        if let Some(done) = done {
            process.stores[store].inbox.push_back(Event::Input(Input::Disk(done)));
        }
    }

    /// One turn of a store's driver: take what has come, step, perform.
    fn turn(&mut self, place: usize) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let core = &mut process.stores[place];
        let take = self.prng.below(8) as usize;
        for event in core.inbox.drain(..take.min(core.inbox.len())) {
            match event {
                Event::Frame(connection, bytes) => {
                    let mut decoder = Decoder::new(REQUEST_BYTES_MAX);
                    decoder.space(bytes.len())[..bytes.len()].copy_from_slice(&bytes);
                    decoder.filled(bytes.len());
                    match decoder.next_frame() {
                        Ok(Some(frame)) => {
                            core.gateway.request(self.now, connection, frame);
                        }
                        other => return Err(format!("a client's frame was not read: {other:?}")),
                    }
                }
                Event::Input(input) => core.store.step(self.now, input),
                Event::Part(request) => core.store.step(self.now, Input::Part(request)),
                Event::Reply(reply) => core.gateway.answer(reply),
            }
        }
        core.store.step(self.now, Input::Tick);
        core.gateway.tick(self.now);
        let front = core.gateway.take_output();
        for frame in front.frames {
            process.to_client.push_back((frame.connection, front.bytes[frame.range].to_vec()));
        }
        for (store, request) in front.parts {
            process.stores[store.0 as usize].inbox.push_back(Event::Part(request));
        }
        let segment = process.stores[place].store.status().segment;
        let output = process.stores[place].store.take_output();
        if process.stores[place].store.status().segment > segment {
            self.report.rotations += 1;
        }
        for op in output.disk {
            self.disks[place].submit(op);
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

    /// The process dies, and is started again.
    fn die(&mut self, power: bool) -> Result<(), String> {
        self.note(if power { "the power goes" } else { "the process is killed" });
        if power {
            self.report.power_cuts += 1;
        } else {
            self.report.kills += 1;
        }
        if let Some(mut process) = self.process.take() {
            // What had left the process may still arrive.
            while !power && self.prng.chance(1, 2) {
                let Some((connection, frame)) = process.to_client.pop_front() else { break };
                self.answered(connection, &frame)?;
            }
        }
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
    fn open(&mut self) -> Result<(), String> {
        loop {
            if !self.calm && self.prng.chance(1, 6) {
                let calls = 1 + self.prng.below(8) as u32;
                let store = self.prng.below(self.stores as u64) as usize;
                self.disks[store].die_after_calls(calls);
            }
            match self.try_open()? {
                Some(process) => {
                    self.process = Some(process);
                    self.connect();
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

    fn try_open(&mut self) -> Result<Option<Process>, String> {
        let mut records = Vec::new();
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
            let opened = Store::open(config.clone(), disk, self.opened, self.now);
            if disk.died() {
                self.report.deaths_in_recovery += 1;
                return Ok(None);
            }
            let (store, recovered) = match opened {
                Ok(opened) => opened,
                Err(error) if disk.is_flipped() => {
                    self.report.flips_refused += 1;
                    let OpenError::Log(_) = &error else { return Err(format!("a flipped bit was not named: {error}")) };
                    disk.unflip();
                    self.note(&format!("store {place} refuses: {error}"));
                    return Ok(None);
                }
                Err(error) => return Err(format!("store {place} refuses although nothing was damaged: {error}")),
            };
            assert_eq!(recovered.records as usize, records.len() - before, "the twin was read as the disk was");
            disk.unflip();
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
                },
                self.now,
            );
            stores.push(Core { store, gateway, inbox: VecDeque::new() });
        }
        self.model.check(&records)?;
        Ok(Some(Process { stores, to_server: VecDeque::new(), to_client: VecDeque::new() }))
    }

    /// Every client connects anew; what it waited for stays unknown.
    fn connect(&mut self) {
        let process = self.process.as_mut().expect("the node is open");
        for client in &mut self.clients {
            self.report.unknown += client.waiting.len() as u64;
            client.waiting.clear();
            self.next_connection += 1;
            client.connection = ConnectionId(self.next_connection);
            let hello = Hello {
                protocol_min: PROTOCOL_VERSION,
                protocol_max: PROTOCOL_VERSION,
                cluster_id: Some(CLUSTER),
                client_name: "sim",
            };
            let mut frame = Vec::new();
            self.encoder.hello(&mut frame, 0, &hello);
            process.to_server.push_back((client.store, client.connection, frame));
        }
    }
}
