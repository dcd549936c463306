//! A store: what one core owns. Its replicas, their one log, and the order in which effects may leave.
//!
//! `step` takes one event and only changes memory; `take_output` says what is to be done about all that has been stepped since.
//! Between the two lies group commit: whatever parts have gathered for a shard become one entry, and
//! whatever entries have gathered for the store become one log write.
//!
//! ```text
//! Input::Part ──► replica.waiting          take_output: propose ──► log ──► DiskOp::Write
//! Input::Disk ──► log.done ──► watermark ──► gated messages ──► commit ──► apply ──► replies
//! ```
//!
//! Absent on purpose: clocks, files, sockets, threads, hash-ordered iteration.

mod checkpoints;
mod opening;

use std::collections::VecDeque;
use std::sync::Arc;

use super::checkpoint::{CheckpointConfig, Keeper, Opening, StoreDir};
use super::cluster::ClusterMap;
use super::command;
use super::counters::{Pool, Secret};
use super::input::{DiskDone, DiskError, Input};
use super::machine::Machine;
use super::output::Output;
use super::part::{PartAnswer, PartBody, PartReply, PartRequest, Ticket};
use super::raft::{Effects, Envelope, Notice};
use super::replica::{Replica, WaitingPart};
use super::status::{ShardStatus, StoreStatus};
use super::wal::record::RECORD_HEADER_BYTES;
use super::wal::{RecoveryError, Wal, WalConfig, WalIdentity};
use crate::error::ErrorCode;
use crate::ids::{ClusterId, Index, Lsn, Micros, NodeId, ReplicaId, SessionId, ShardId, StoreId};
use crate::limits::{ENTRY_BYTES_TARGET, SCAN_PIECE_KEYS_MAX, TURN_LONG_READ_KEYS_MAX};
use crate::wire::client::ScanRequest;
use opening::Recovery;

#[cfg(any(test, feature = "sim"))]
pub use opening::digest_of_log;
pub use opening::{Opened, Restored, unusable_spares};

/// What a store is told about itself.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// This store.
    pub store: StoreId,
    /// Who owns what. Shards that the map puts here have a replica here; the meta shard is in store 0.
    pub map: Arc<ClusterMap>,
    /// Sizes of the log.
    pub wal: WalConfig,
    /// When checkpoints are made, and how fast.
    pub checkpoints: CheckpointConfig,
    /// Keys of a table page, at most: [`PAGE_KEYS_MAX`](crate::limits::PAGE_KEYS_MAX) but in tests.
    pub page_keys_max: usize,
    /// Bytes of memory for the counters and sessions of this store.
    pub memory_bytes_max: u64,
    /// Random bits of this process that nobody outside it knows: what keys whose hashes were chosen to be alike are told apart by.
    pub secret: Secret,
    /// Age at which sessions expire. Counts where the meta shard is led.
    pub session_age_micros: u64,
}

/// Why a store refuses to open.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The log cannot be trusted.
    #[error(transparent)]
    Log(#[from] RecoveryError),
    /// The log holds entries of a shard that does not live here.
    #[error("the log holds entries of shard {0}, which the node's configuration does not put in this store")]
    StrangeShard(ShardId),
    /// The log begins after a shard's first entry.
    #[error("the log of shard {0} begins after index {1}, and there is no checkpoint of what came before{2}")]
    NoCheckpoint(ShardId, Index, String),
    /// The log ends within what a checkpoint spans.
    #[error("the log of shard {0} ends with index {1}, before the end of its checkpoint at {2}")]
    LogTooShort(ShardId, Index, Index),
    /// There are checkpoints, and no log.
    #[error(
        "there are checkpoints, but the log that names them is missing; restore it from a copy, or replace the node"
    )]
    LogMissing,
    /// The directory of the checkpoints does not answer.
    #[error("the files of checkpoints cannot be listed: {0}")]
    Checkpoints(DiskError),
    /// The log's cluster map is not the node's.
    #[error("the cluster map in the log is not the one in the node's configuration; restore the right node file")]
    OtherMap,
}

/// The replicas of one core and their log.
pub struct Store {
    config: StoreConfig,
    wal: Wal,
    keeper: Keeper,
    /// Position of the log before which no checkpoint is due.
    next_checkpoint_at: Lsn,
    /// Memory up to which the reserve for checkpoints has been considered.
    reserve_for_bytes: u64,
    /// Sorted by shard.
    replicas: Vec<Replica>,
    /// Messages that wait for the log, in the order of their positions.
    gated: VecDeque<(Lsn, Envelope)>,
    /// Places of replicas that have parts to propose, each once.
    proposing: VecDeque<usize>,
    /// Reads that may cost as much as a thousand increments, and wait for their turn, in the order they came. There are never more than
    /// gateways admit.
    long_reads: VecDeque<LongRead>,
    /// Places of replicas with a scan under way.
    scanning: Vec<usize>,
    /// Memory of the counters; no other store has it.
    pool: Pool,
    /// What the replicas use.
    memory_bytes: u64,
    /// Sessions up to it have expired, by the word of the meta shard.
    session_mark: SessionId,
    /// When the meta shard's leader has to look at the age of sessions again.
    log_time_deadline: Option<Micros>,
    draining: bool,
    now: Micros,
    output: Output,
    effects: Effects,
    latch_told: bool,
}

/// A read of one shard, by the place of its replica.
struct LongRead {
    place: usize,
    ticket: Ticket,
    what: Long,
}

#[derive(Clone, Copy)]
enum Long {
    Top { k: u32 },
    Scan(ScanRequest),
}

impl Store {
    /// Reads the store's checkpoints and log and takes up where it ended, or refuses by name. Blocks on `dir`. `opened_before` says
    /// whether a log must exist. The counters have their memory from `pool`, and what is free in it counts as this store's. `progress` is told from time to time how far that has come. Also returns what was found, for the shell
    /// to report.
    ///
    /// # Errors
    /// Log or checkpoints cannot be trusted, or contradict the configuration.
    pub fn open(
        config: StoreConfig,
        pool: Pool,
        dir: &mut dyn StoreDir,
        opened_before: bool,
        now: Micros,
        progress: &mut dyn FnMut(Opening),
    ) -> Result<(Store, Opened), OpenError> {
        let identity = WalIdentity { cluster: config.cluster, node: config.node, store: config.store };
        let Recovery { mut replicas, opened, kept, leftovers, next_number } =
            opening::recover(&config, &pool, dir, opened_before, now, progress)?;
        let mut wal = Wal::new(identity, config.wal, &opened.log);
        let mut keeper = Keeper::new(identity, config.checkpoints, next_number, leftovers, now);
        for (shard, kept, unreadable) in kept {
            wal.release(shard, kept.released());
            let begins = kept.newest.map_or(Index(0), |newest| newest.from.index);
            keeper.adopt(shard, kept, wal.position_after(shard, begins), unreadable);
        }
        let mut store = Store {
            wal,
            pool,
            keeper,
            next_checkpoint_at: Lsn(0),
            reserve_for_bytes: 0,
            memory_bytes: replicas.iter_mut().fold(0, |total, replica| replica.account(total)),
            config,
            replicas,
            gated: VecDeque::new(),
            proposing: VecDeque::new(),
            long_reads: VecDeque::new(),
            scanning: Vec::new(),
            session_mark: SessionId::NONE,
            log_time_deadline: None,
            draining: false,
            now,
            output: Output::default(),
            effects: Effects::default(),
            latch_told: false,
        };
        // A lone voter has nobody to wait for.
        for place in 0..store.replicas.len() {
            store.replicas[place].group.campaign_alone(now, &mut store.effects);
            store.absorb_effects(place);
        }
        Ok((store, opened))
    }

    /// Takes one event at a moment that never goes back.
    pub fn step(&mut self, now: Micros, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::Turn => {
                self.read_long();
                self.end_idle_scans();
            }
            Input::Spare => self.checkpoints_go_on(),
            Input::Checkpoint(done) => self.checkpoint_file(done),
            Input::Part(request) => self.part(request),
            Input::Disk(done) => self.disk(done),
            Input::SessionMark(mark) => self.heard_mark(mark),
            Input::Drain => self.draining = true,
        }
    }

    /// What is to be done about everything stepped since the last call.
    pub fn take_output(&mut self) -> Output {
        if self.wal.latched().is_none() {
            self.propose_waiting();
            self.keep_log_time();
        }
        let mut output = std::mem::take(&mut self.output);
        self.wal.take_ops(self.now, &mut output.disk);
        self.keeper.take_ops(self.now, &mut output.checkpoint);
        self.keeper.take_notices(&mut output.notices);
        let keeps = !self.draining;
        output.turn_wanted = keeps && self.keeper.wants_turn();
        let deadlines = [self.wal.deadline(), self.log_time_deadline, self.keeper.deadline(self.now).filter(|_| keeps)];
        let scans = self.scanning.iter().filter_map(|&place| self.replicas[place].scan_deadline());
        output.deadline = deadlines.into_iter().flatten().chain(scans).min();
        if let Some(why) = self.wal.latched()
            && !std::mem::replace(&mut self.latch_told, true)
        {
            output.latched = Some(why.to_string());
        }
        output
    }

    /// Whether reads that may take long wait for [`Input::Turn`].
    #[must_use]
    pub fn has_reads_waiting(&self) -> bool {
        !self.long_reads.is_empty()
    }

    /// Whether every shard here can be written and read.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let ready = |replica: &Replica| replica.group.read_index().is_some() && !replica.machine.lacks_map();
        self.wal.latched().is_none() && self.replicas.iter().all(ready)
    }

    /// Whether nothing that was accepted is unfinished.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.wal.is_quiet() && self.long_reads.is_empty() && self.replicas.iter().all(Replica::is_quiet)
    }

    /// Whether the log has a durable segment: from then on a start that finds none has lost it.
    #[must_use]
    pub fn has_durable_log(&self) -> bool {
        self.wal.has_durable_segment()
    }

    /// Whether the disk was full when room for a log segment or a checkpoint was last asked for.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.wal.is_disk_full() || self.keeper.is_short_of_room()
    }

    /// The store's state; the shell adds what it alone knows (connections, direct I/O).
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        let segments = self.wal.segment_files();
        StoreStatus {
            store: self.config.store,
            segment: self.wal.segment().0,
            log_bytes: self.wal.appended().0,
            log_durable_bytes: self.wal.durable().0,
            segments: segments as u32,
            segment_bytes: segments as u64 * self.wal.segment_bytes(),
            disk_full: self.is_disk_full(),
            direct_io: false,
            connections: 0,
            memory_bytes: self.memory_bytes(),
            memory_bytes_max: self.config.memory_bytes_max,
            checkpoints: self.keeper.status(),
            shards: self.replicas.iter().map(|replica| self.shard_status(replica)).collect(),
        }
    }

    fn shard_status(&self, replica: &Replica) -> ShardStatus {
        let mut status = replica.status();
        if let Some(newest) = self.keeper.kept(replica.shard).newest {
            (status.checkpoint_index, status.checkpoint_bytes) = (newest.from.index, newest.bytes);
        }
        status
    }

    /// Order- and layout-independent digests of counters and sessions, by shard: equal states have equal digests.
    pub fn digests(&self) -> impl Iterator<Item = (ShardId, Index, u64)> {
        self.replicas.iter().filter_map(|replica| match &replica.machine {
            Machine::Counters(shard) => Some((replica.shard, replica.group.applied(), shard.digest())),
            Machine::Meta(_) => None,
        })
    }

    /// Memory in use: what the replicas have, and what they have left in the pool.
    fn memory_bytes(&self) -> u64 {
        self.memory_bytes + self.pool.free_bytes() as u64
    }

    fn part(&mut self, request: PartRequest) {
        let (ticket, shard) = (request.ticket, request.shard);
        let refused = |code| PartReply { ticket, shard, body: PartAnswer::Refused { code } };
        if matches!(request.body, PartBody::Status) {
            let body = PartAnswer::Status(Box::new(self.status()));
            self.output.replies.push(PartReply { ticket, shard, body });
            return;
        }
        let Ok(place) = self.replicas.binary_search_by_key(&shard, |replica| replica.shard) else {
            self.output.replies.push(refused(ErrorCode::WrongShard));
            return;
        };
        let replica = &mut self.replicas[place];
        let body = match request.body {
            PartBody::Get { keys } => replica.get(self.config.map.routing_seed, &keys),
            PartBody::TopK { k } => {
                return self.long_reads.push_back(LongRead { place, ticket, what: Long::Top { k } });
            }
            PartBody::Scan(scan) => {
                let what = Long::Scan(scan);
                return self.long_reads.push_back(LongRead { place, ticket, what });
            }
            change => {
                let Err(code) = self.queue(place, ticket, change) else { return };
                PartAnswer::Refused { code }
            }
        };
        self.output.replies.push(PartReply { ticket, shard, body });
    }

    /// Does as many of the waiting reads as a turn may, but at least one. A top that takes a walk over its shard's table gets a
    /// piece of it, and then lets the others go first.
    fn read_long(&mut self) {
        let mut keys_left = TURN_LONG_READ_KEYS_MAX;
        while keys_left > 0 {
            let Some(LongRead { place, ticket, what }) = self.long_reads.pop_front() else { return };
            let replica = &mut self.replicas[place];
            let shard = replica.shard;
            let (body, keys) = match what {
                Long::Top { k } => (replica.top(k), k as usize),
                Long::Scan(scan) => {
                    let answer = replica.scan(self.now, &scan);
                    self.scanning.retain(|other| *other != place);
                    self.scanning.extend(replica.scan_deadline().map(|_| place));
                    (Some(answer), SCAN_PIECE_KEYS_MAX)
                }
            };
            self.memory_bytes = replica.account(self.memory_bytes);
            keys_left = keys_left.saturating_sub(keys);
            match body {
                Some(body) => self.output.replies.push(PartReply { ticket, shard, body }),
                None => return self.long_reads.push_back(LongRead { place, ticket, what }),
            }
        }
    }

    /// Ends scans whose clients have not asked for the next piece for too long.
    fn end_idle_scans(&mut self) {
        let (now, replicas) = (self.now, &mut self.replicas);
        self.scanning.retain(|&place| {
            let goes_on = replicas[place].scan_deadline().is_some_and(|deadline| now < deadline);
            if !goes_on {
                replicas[place].end_scan();
            }
            goes_on
        });
    }

    /// Queues a part that changes something, or says why not.
    fn queue(&mut self, place: usize, ticket: Ticket, change: PartBody) -> Result<(), ErrorCode> {
        if self.draining {
            return Err(ErrorCode::ShuttingDown);
        }
        let replica = &mut self.replicas[place];
        let for_meta = matches!(change, PartBody::OpenSession { .. } | PartBody::CloseSession { .. });
        if for_meta != (replica.shard == ShardId::META) {
            return Err(ErrorCode::WrongShard);
        }
        let (encoded, want_values) = match change {
            PartBody::Increment { stamp: Some(stamp), .. } | PartBody::Resolve(stamp)
                if !replica.has_room_for(&stamp) =>
            {
                return Err(ErrorCode::Overloaded);
            }
            PartBody::OpenSession { name } if !replica.has_room_to_open(&name) => return Err(ErrorCode::Overloaded),
            PartBody::Increment { encoded, want_values, .. } => (encoded, want_values),
            PartBody::Attach { session, epoch } => (command::attach_part(session, epoch), false),
            PartBody::Resolve(stamp) => (command::resolve_part(&stamp), false),
            PartBody::OpenSession { name } => (command::open_part(&name), false),
            PartBody::CloseSession { session, epoch, progress } => {
                (command::close_part(session, epoch, progress), false)
            }
            PartBody::Get { .. } | PartBody::TopK { .. } | PartBody::Scan(_) | PartBody::Status => {
                return Err(ErrorCode::Unsupported);
            }
        };
        if RECORD_HEADER_BYTES + encoded.len() + ENTRY_OVERHEAD_BYTES > self.wal.record_bytes_max() {
            return Err(ErrorCode::TooLarge);
        }
        let was_waiting = replica.has_waiting();
        replica.queue(WaitingPart { ticket, want_values, encoded })?;
        if !was_waiting {
            self.proposing.push_back(place);
        }
        Ok(())
    }

    /// The meta shard's mark goes into the log of every shard that is led here.
    fn heard_mark(&mut self, mark: SessionId) {
        if mark <= self.session_mark || self.wal.latched().is_some() {
            return;
        }
        self.session_mark = mark;
        for place in 0..self.replicas.len() {
            self.replicas[place].propose_mark(mark, &mut self.effects);
            self.absorb_effects(place);
        }
    }

    /// Lets sessions age, if the meta shard is led here.
    fn keep_log_time(&mut self) {
        // The meta shard has the lowest number, so it stands first.
        let Some(meta) = self.replicas.first_mut().filter(|replica| replica.shard == ShardId::META) else { return };
        let age = self.config.session_age_micros;
        self.log_time_deadline = meta.keep_log_time(self.now, age, &mut self.effects);
        self.absorb_effects(0);
    }

    fn disk(&mut self, done: DiskDone) {
        self.wal.done(self.now, done);
        // A latched log answers nobody, not even for what became durable before.
        if self.wal.latched().is_some() {
            return;
        }
        self.install_checkpoint();
        while let Some((_, envelope)) = self.gated.pop_front_if(|(lsn, _)| *lsn <= self.wal.durable()) {
            self.deliver(envelope);
        }
    }

    /// A message whose position has become durable: to one of our own replicas, or to a peer.
    fn deliver(&mut self, envelope: Envelope) {
        let Ok(place) = self.replicas.binary_search_by_key(&envelope.shard, |replica| replica.shard) else {
            return;
        };
        if envelope.to != own_replica(self.config.node) {
            self.output.send_after.push(envelope);
            return;
        }
        self.replicas[place].group.receive(self.now, envelope, &mut self.effects);
        self.apply(place);
        self.absorb_effects(place);
    }

    fn apply(&mut self, place: usize) {
        let replica = &mut self.replicas[place];
        let applied = replica.apply_committed(self.config.map.routing_seed, &mut self.output.replies);
        self.memory_bytes = replica.account(self.memory_bytes);
        if let Err(error) = applied {
            let index = replica.group.applied();
            self.wal.latch(format!("entry {index} of shard {} cannot be applied: {error}", replica.shard));
            return;
        }
        if replica.contradicts(&self.config.map) {
            return self.wal.latch(OpenError::OtherMap.to_string());
        }
        if replica.shard == ShardId::META && replica.mark() > self.session_mark {
            self.output.session_mark = Some(replica.mark());
        }
        replica.propose_mark(self.session_mark, &mut self.effects);
        // The first leader of the meta shard writes down the map the node was formatted with.
        if replica.machine.lacks_map() && replica.group.read_index().is_some_and(|index| index == replica.group.last())
        {
            let map = command::map(&self.config.map.encode());
            // Refused only by a leader that is none any more; the next one writes it.
            let _ = replica.group.propose(map, &mut self.effects);
        }
    }

    /// Puts a group's records into the log and its messages behind them.
    fn absorb_effects(&mut self, place: usize) {
        self.replicas[place].group.flush(self.now, &mut self.effects);
        self.output.send_now.append(&mut self.effects.send_now);
        for notice in self.effects.notices.drain(..) {
            match notice {
                Notice::Leads | Notice::Lost(_) => {}
                Notice::LeadsNoLonger => self.replicas[place].leads_no_longer(&mut self.output.replies),
                Notice::Faulty(what) => {
                    self.wal.latch(format!("shard {} contradicts its group: {what}", self.replicas[place].shard));
                }
            }
        }
        for record in self.effects.records.drain(..) {
            self.wal.append(record);
        }
        let lsn = self.wal.appended();
        self.gated.extend(self.effects.send_after.drain(..).map(|envelope| (lsn, envelope)));
    }

    /// Turns waiting parts into entries, an entry a shard in turn, for as long as the log has room.
    fn propose_waiting(&mut self) {
        let target = ENTRY_BYTES_TARGET.min(self.wal.record_bytes_max() / 2);
        let mut blocked = VecDeque::new();
        // Nothing is applied meanwhile.
        let memory_full = self.memory_bytes() >= self.config.memory_bytes_max;
        while let Some(place) = self.proposing.pop_front() {
            let replica = &mut self.replicas[place];
            let Some(part) = replica.next_waiting() else { continue };
            let bytes = target.max(part.encoded.len()) + RECORD_HEADER_BYTES + ENTRY_OVERHEAD_BYTES;
            let no_growth = memory_full || self.keeper.is_short_of_room();
            let refusal = if !self.wal.accepts(bytes) {
                if !self.wal.is_disk_full() {
                    blocked.push_back(place);
                    continue;
                }
                Some(ErrorCode::DiskFull)
            } else if no_growth && !replica.all_exist(self.config.map.routing_seed, part) {
                Some(if memory_full { ErrorCode::MemoryFull } else { ErrorCode::DiskFull })
            } else {
                None
            };
            match refusal {
                Some(code) => self.output.replies.extend(replica.refuse_waiting(code)),
                // Where nothing new may come, each part is looked at by itself.
                None => {
                    let bytes = if no_growth { 0 } else { target };
                    replica.propose_waiting(self.now, bytes, &mut self.effects, &mut self.output.replies);
                }
            }
            if self.replicas[place].has_waiting() {
                self.proposing.push_back(place);
            }
            self.absorb_effects(place);
        }
        self.proposing = blocked;
    }
}

/// Bytes of an entry beside its parts, at most.
const ENTRY_OVERHEAD_BYTES: usize = 16;

/// The one replica that a node has of each of its shards. Replica ids will be minted by configuration entries once there are some.
fn own_replica(node: NodeId) -> ReplicaId {
    ReplicaId(node.0)
}
