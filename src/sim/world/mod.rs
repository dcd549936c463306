//! The world: one node of some stores with their disks, and clients that ask through its gateways.
//!
//! | file | what it holds |
//! |---|---|
//! | `node` | the server process: its stores' turns, its deaths, its openings |
//! | `raw_clients` | clients that speak frames, never repeat anything, and see every answer |
//! | `network` | connections that carry bytes, in pieces, late, until they break; and copies of requests that arrive later still |
//! | `applications` | real clients: the library's own logic, with deadlines, retries, sessions, and deaths of their own |
//!
//! The scheduler picks one event at a time: a client asks, a frame or an answer arrives, a store takes a turn, a disk
//! operation ends, bytes land by themselves, time passes, clocks jump, the process is killed, the power goes. After every death the
//! node is opened again from its disks (and may die in the middle of that), and everything that was ever answered is
//! checked against what was found. In the end the world heals; then everything must be answered, and what is unknown resolved, within
//! a bounded number of events.

mod applications;
mod network;
mod node;
mod raw_clients;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::disk::{Faults, SimDisk};
use super::ledger::Ledger;
use super::model::Model;
use super::report::{Report, Violation};
use super::sabotage::Sabotage;
use super::workload::{Ask, Workload};
use crate::engine::checkpoint::CheckpointConfig;
use crate::engine::cluster::ClusterMap;
use crate::engine::counters::Secret;
use crate::engine::gateway::ConnectionId;
use crate::engine::prng::{Prng, mix};
use crate::engine::store::StoreConfig;
use crate::engine::wal::WalConfig;
use crate::ids::{ClusterId, Micros, NodeId, StoreId};
use crate::limits::{PAGE_KEYS_MAX, REQUEST_WAIT_MICROS_MAX, SESSION_AGE_MICROS_DEFAULT};
use crate::wire::client::Encoder;
use applications::Application;
use network::Network;
use node::Process;
use raw_clients::RawClient;

const NODE: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId(0x5eed);
/// Events of the healed world within which every client must have been answered.
const HEAL_EVENTS_MAX: u64 = 200_000;

/// Is told every event of a run.
pub type Tracer = Box<dyn FnMut(&str)>;

/// One run.
pub struct World {
    seed: u64,
    prng: Prng,
    sabotage: Sabotage,
    /// The world's own time. The server's clock has another origin in each life, and jumps.
    now: Micros,
    config: StoreConfig,
    stores: usize,
    disks: Vec<SimDisk>,
    opened: bool,
    process: Option<Process>,
    /// Shards that count: 1 to this.
    shards: u64,
    raw_clients: Vec<RawClient>,
    applications: Vec<Application>,
    network: Network,
    /// The requests of each named session, by number from 1 on: whoever holds the session sends the same.
    scripts: BTreeMap<Vec<u8>, Vec<usize>>,
    next_connection: u64,
    workload: Workload,
    model: Model,
    ledger: Ledger,
    encoder: Encoder,
    calm: bool,
    disk_pace: u64,
    applications_first: bool,
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
            checkpoints: checkpoints(&mut prng),
            page_keys_max: if prng.chance(1, 4) { PAGE_KEYS_MAX } else { 1 + prng.below(5) as usize },
            memory_bytes_max: if prng.chance(1, 16) { 1 } else { u64::MAX },
            secret: Secret([prng.bits(), prng.bits()]),
            session_age_micros: if prng.chance(1, 2) { 1_000_000 << prng.below(5) } else { SESSION_AGE_MICROS_DEFAULT },
        };
        let workload = Workload::new(&mut prng);
        let (raw, real) = (prng.below(4), 1 + prng.below(4));
        let age = config.session_age_micros;
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
            shards: u64::from(shards),
            raw_clients: Vec::new(),
            applications: Vec::new(),
            network: Network::default(),
            scripts: BTreeMap::new(),
            next_connection: 0,
            workload,
            model: Model::default(),
            ledger: Ledger::default(),
            encoder: Encoder::new(),
            calm: false,
            disk_pace: 1,
            applications_first: false,
            report: Report::default(),
            trace_to,
        };
        world.applications_first = world.prng.chance(1, 2);
        world.disk_pace = 1 + world.prng.below(3);
        // The first one asks what the healed world has to answer.
        for _ in 0..1 + raw {
            let store = world.prng.below(stores as u64) as usize;
            world.raw_clients.push(RawClient {
                connection: ConnectionId(0),
                store,
                next_request: 0,
                waiting: Vec::new(),
                scan: None,
            });
        }
        for _ in 0..real {
            let application = Application::new(&mut world.prng);
            world.applications.push(application);
        }
        world.note(&format!(
            "{stores} stores, {shards} shards, {} raw and {real} real clients, sessions of {age} us, {faults:?}, {sabotage:?}",
            raw + 1
        ));
        world
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// What was found wrong.
    pub fn run(mut self) -> Result<Report, Violation> {
        let outcome = self.run_phases();
        self.report.virtual_micros = self.now.0;
        (self.report.repeats, self.report.expired) = self.model.copies();
        self.report.scans = self.model.whole_scans;
        match outcome {
            Ok(()) => Ok(self.report),
            Err(what) => Err(Violation { seed: self.seed, event: self.report.events, what }),
        }
    }

    fn run_phases(&mut self) -> Result<(), String> {
        let events = 200 + self.prng.below(1_800);
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
            if self.raw_clients[0].waiting.is_empty() && self.applications.iter().all(Application::is_done) {
                return self.die(true);
            }
            self.event()?;
        }
        Err("the healed world does not answer".into())
    }

    fn event(&mut self) -> Result<(), String> {
        self.report.events += 1;
        let store = self.prng.below(self.stores as u64) as usize;
        match self.prng.below(160) {
            // In some runs real clients get on faster, so that more becomes of their sessions.
            0..=7 if self.applications_first => self.application_acts()?,
            8..=35 if self.applications_first && !self.calm => self.network_moves()?,
            0..=15 => self.raw_client_asks(),
            16..=27 => self.frame_arrives(),
            28..=37 => self.answer_arrives()?,
            38..=57 => self.turn(store)?,
            58..=77 => {
                // Some disks are quick, so that more checkpoints become whole between two deaths.
                for _ in 0..self.disk_pace {
                    self.disk_ends(store);
                }
            }
            78..=81 => self.disks[store].drift(),
            82..=87 => self.time_passes()?,
            88..=99 => self.application_acts()?,
            100..=150 => self.network_moves()?,
            151..=156 if !self.calm => self.ghost_arrives(),
            157 if !self.calm && self.prng.chance(1, 4) => self.application_dies()?,
            158.. if !self.calm && self.prng.chance(1, 6) => {
                let power = self.prng.chance(1, 2);
                self.die(power)?;
            }
            _ => {}
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

    fn time_passes(&mut self) -> Result<(), String> {
        let long = self.prng.chance(1, 40) && !self.calm;
        let micros = if long { REQUEST_WAIT_MICROS_MAX + 1 } else { 1 + self.prng.below(300_000) };
        self.now = self.now.plus(micros);
        if !self.calm && self.prng.chance(1, 60) {
            self.clock_jumps();
        }
        self.applications_tick()
    }
}

/// Most often small ones, one after another; sometimes slow ones, or none at all.
fn checkpoints(prng: &mut Prng) -> CheckpointConfig {
    let log_bytes = if prng.chance(1, 6) { u64::MAX } else { 256 << prng.below(6) };
    CheckpointConfig { log_bytes, bytes_per_second: 1 << (10 + prng.below(24)) }
}
