//! The keeper: a store's one hand for checkpoints. It decides when one is made, lets it grow within a rate, has it written, and knows
//! which are in force.
//!
//! ```text
//!            due                  whole            synced          named durably in the log
//!   idle ─────────► building ─────────► syncing ─────────► naming ─────────────────────────► idle
//!                       │ an operation fails  │                                                 the one before the last is retired
//!                       └──────────────► removing ────────────────────────────────────────► idle, until a while has passed
//! ```
//!
//! One operation on files is under way at a time, and one checkpoint. A failed operation leaves the store serving: the file is
//! removed, and the checkpoint tried again later. Only the log can stop a store.

use std::collections::{BTreeMap, VecDeque};

use super::CheckpointConfig;
use super::budget::Budget;
use super::builder::Builder;
use super::envelope::Preamble;
use super::files::{FileAction, FileDone, FileOp, FileOpId};
use super::kept::{CheckpointFile, Kept, Point, Reference};
use crate::engine::input::DiskError;
use crate::engine::machine::Machine;
use crate::engine::status::CheckpointStatus;
use crate::engine::wal::{AlignedBuffer, WalIdentity};
use crate::ids::{CheckpointNumber, Index, KeyHash, Lsn, Micros, ReplicaId, ShardId};
use crate::limits::{
    CHECKPOINT_PENDING_BYTES, CHECKPOINT_RESERVE_BYTES_MIN, CHECKPOINT_RETRY_MICROS_MAX, CHECKPOINT_RETRY_MICROS_MIN,
    WAL_BLOCK_BYTES,
};
use crate::mutant::mutant;

/// What people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A checkpoint is in force.
    Completed {
        /// Whose.
        shard: ShardId,
        /// Which.
        reference: Reference,
    },
    /// A checkpoint was given up. Told once, until one succeeds.
    Failed {
        /// Whose.
        shard: ShardId,
        /// Why.
        why: String,
    },
}

/// See the module's text.
pub struct Keeper {
    store: WalIdentity,
    config: CheckpointConfig,
    shards: BTreeMap<ShardId, Own>,
    next_number: CheckpointNumber,
    next_op: u64,
    op: Option<FileOpId>,
    doing: Doing,
    running: Option<Running>,
    /// Files that nothing names any more, and the bytes of each: those of whole checkpoints.
    superfluous: VecDeque<(CheckpointFile, u64)>,
    /// Files of a process before that the log may yet turn out to name.
    leftovers: Vec<CheckpointFile>,
    reserve: Reserve,
    budget: Budget,
    failures: Failures,
    completed: u64,
    notices: Vec<Notice>,
    spare_buffer: Option<AlignedBuffer>,
}

/// What is known of a shard's checkpoints.
#[derive(Debug, Default)]
struct Own {
    kept: Kept,
    /// Where in the log the newest one begins, or before.
    newest_at: Lsn,
    /// Files that the log names and that cannot be read: they go when the next checkpoint is in force.
    unreadable: Vec<CheckpointFile>,
}

/// The operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// One for the running checkpoint.
    Running,
    /// Making the reserve as large as this.
    Reserving(u64),
    /// Making a file of so many bytes the reserve.
    Retiring(u64),
    /// Removing a file.
    Removing,
}

/// A checkpoint in the making.
struct Running {
    file: CheckpointFile,
    builder: Builder,
    begun_at: Lsn,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its file is to be made, from the reserve or not.
    Create { from_reserve: bool },
    /// Pieces are made and written.
    Build,
    /// Everything has been written.
    Sync,
    /// The file's content is durable.
    SyncDirectory,
    /// The log is to name it.
    Name,
    /// The log will have named it once it is durable up to here.
    Naming(Lsn),
}

#[derive(Debug, Default)]
struct Reserve {
    bytes: u64,
    wanted: u64,
    /// The last attempt to make it as large as wanted found the disk full.
    short: bool,
    retry_at: Micros,
}

#[derive(Debug, Default)]
struct Failures {
    /// Since the last success.
    in_a_row: u32,
    total: u64,
    last: Option<String>,
    retry_at: Micros,
}

/// What a shard's state is like when a checkpoint of it could begin.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Candidate {
    pub(in crate::engine) shard: ShardId,
    pub(in crate::engine) applied: Index,
}

impl Keeper {
    /// A keeper of a store none of whose checkpoints is known. `next_number` was never used; `leftovers` are files of a process before.
    #[must_use]
    pub fn new(
        store: WalIdentity,
        config: CheckpointConfig,
        next_number: CheckpointNumber,
        leftovers: Vec<CheckpointFile>,
        now: Micros,
    ) -> Keeper {
        Keeper {
            store,
            config,
            shards: BTreeMap::new(),
            next_number,
            next_op: 0,
            op: None,
            doing: Doing::Running,
            running: None,
            superfluous: VecDeque::new(),
            leftovers,
            reserve: Reserve::default(),
            budget: Budget::new(config.bytes_per_second, now),
            failures: Failures::default(),
            completed: 0,
            notices: Vec::new(),
            spare_buffer: None,
        }
    }

    /// Takes over what recovery has found of a shard: the checkpoints that can be started from, where in the log the newest begins, and the
    /// files that cannot be read.
    pub fn adopt(&mut self, shard: ShardId, kept: Kept, newest_at: Lsn, unreadable: Vec<CheckpointFile>) {
        self.shards.insert(shard, Own { kept, newest_at, unreadable });
    }

    /// The log's end is fixed: it names nothing but what it is known to name.
    pub fn give_up_leftovers(&mut self) {
        self.superfluous.extend(self.leftovers.drain(..).map(|file| (file, 0)));
    }

    /// The checkpoints of a shard that are in force.
    #[must_use]
    pub fn kept(&self, shard: ShardId) -> Kept {
        self.shards.get(&shard).map_or(Kept::default(), |own| own.kept)
    }

    /// Whether one of the shards should be asked for a new checkpoint now: none is under way, and none has just failed.
    #[must_use]
    pub fn is_free(&self, now: Micros) -> bool {
        self.running.is_none()
            && self.superfluous.is_empty()
            && self.leftovers.is_empty()
            && self.failures.retry_at <= now
    }

    /// The shard whose turn it is, if the log has grown enough since its last checkpoint, and where in the log one may have its turn
    /// next. A shard that has nothing in the log but what both its checkpoints hold has no turn, and one that lags gets its own however
    /// little it does: it holds up the log of all.
    pub(in crate::engine) fn due(
        &self,
        appended: Lsn,
        candidates: impl Iterator<Item = Candidate>,
    ) -> (Option<ShardId>, Lsn) {
        let nothing = Own::default();
        let mut longest: Option<(Lsn, ShardId)> = None;
        // One that has no turn now may have something in the log by then.
        let mut look_again_at = appended.0 + self.config.log_bytes / 16 + 1;
        for Candidate { shard, applied } in candidates {
            let own = self.shards.get(&shard).unwrap_or(&nothing);
            let last = own.kept.newest.map_or(0, |newest| newest.bytes);
            let due_at = own.newest_at.0 + self.config.log_bytes.max(last);
            if due_at > appended.0 && own.unreadable.is_empty() {
                look_again_at = look_again_at.min(due_at);
            } else if own.kept.released() < applied && longest.is_none_or(|before| (own.newest_at, shard) < before) {
                longest = Some((own.newest_at, shard));
            }
        }
        match longest {
            Some((_, shard)) => (Some(shard), appended),
            None => (None, Lsn(look_again_at)),
        }
    }

    /// Begins a checkpoint of a shard whose state is as of `at`, all of whose entries up to there stand below `appended` in the log.
    pub(in crate::engine) fn begin(
        &mut self,
        shard: ShardId,
        machine: &Machine,
        range: (KeyHash, KeyHash),
        voters: &[ReplicaId],
        at: Point,
        appended: Lsn,
    ) {
        let file = CheckpointFile { shard, number: self.next_number };
        self.next_number = self.next_number.next();
        let preamble = Preamble { store: self.store, file };
        let builder = Builder::begin(&preamble, machine, range, voters, at);
        // A small one does not take what a large one may need, unless the disk has shown that it must.
        let from_reserve = self.failures.in_a_row > 0 || machine.memory_bytes() >= self.reserve.bytes / 4;
        self.running = Some(Running { file, builder, begun_at: appended, phase: Phase::Create { from_reserve } });
    }

    /// The shard whose checkpoint can grow now.
    #[must_use]
    pub fn grows(&mut self, now: Micros) -> Option<ShardId> {
        self.budget.refill(now);
        let running = self.running.as_ref()?;
        (self.wants_to_grow() && self.budget.is_open()).then_some(running.file.shard)
    }

    fn wants_to_grow(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let phase = matches!(running.phase, Phase::Create { .. } | Phase::Build);
            phase && !running.builder.is_whole() && running.builder.pending_bytes() < CHECKPOINT_PENDING_BYTES
        })
    }

    /// Lets the running checkpoint grow by a piece of its shard's state, which is as of `at`.
    pub(in crate::engine) fn grow(&mut self, machine: &Machine, at: Point) {
        let Some(running) = &mut self.running else { return };
        self.budget.spend(running.builder.step(machine, at));
        if running.builder.is_whole() && !running.builder.is_in_proportion() {
            let why = "the table has outgrown its first pages many times over meanwhile".to_string();
            self.abandon(self.budget.at(), why);
        }
    }

    /// Whether the running checkpoint could grow at once if it had a turn.
    #[must_use]
    pub fn wants_turn(&self) -> bool {
        self.wants_to_grow() && self.budget.is_open()
    }

    /// When something is to be done although nothing happens.
    #[must_use]
    pub fn deadline(&self, now: Micros) -> Option<Micros> {
        if self.wants_to_grow() {
            return self.budget.opens_at();
        }
        let reserve = (self.reserve.short && self.op.is_none()).then_some(self.reserve.retry_at);
        let retry = (self.failures.in_a_row > 0 && self.running.is_none()).then_some(self.failures.retry_at);
        // What is due already has been looked at, and waits for something else.
        reserve.into_iter().chain(retry).filter(|&at| at > now).min()
    }

    /// Says how many bytes of room the next checkpoint may need.
    pub fn want_reserve(&mut self, bytes: u64) {
        let wanted = (bytes + CHECKPOINT_RESERVE_BYTES_MIN).next_multiple_of(WAL_BLOCK_BYTES as u64);
        self.reserve.wanted = wanted;
        if self.reserve.bytes >= wanted {
            self.reserve.short = false;
        }
    }

    /// Whether there is no room for a checkpoint of what the store holds already: it must not grow.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        self.reserve.short
    }

    /// Hands out the next operation, if none is under way.
    pub fn take_ops(&mut self, now: Micros, out: &mut Vec<FileOp>) {
        if self.op.is_some() {
            return;
        }
        let Some((doing, action)) = self.next_action(now) else { return };
        self.next_op += 1;
        let id = FileOpId(self.next_op);
        (self.op, self.doing) = (Some(id), doing);
        out.push(FileOp { id, action });
    }

    fn next_action(&mut self, now: Micros) -> Option<(Doing, FileAction)> {
        if let Some(running) = &mut self.running {
            let file = running.file;
            let action = match running.phase {
                Phase::Create { from_reserve } => {
                    if from_reserve {
                        self.reserve.bytes = 0;
                    }
                    FileAction::Create { file, from_reserve }
                }
                Phase::Build => {
                    let (offset, buffer) = running.builder.take_write(self.spare_buffer.take())?;
                    FileAction::Write { file, offset, buffer }
                }
                Phase::Sync => FileAction::Sync { file },
                Phase::SyncDirectory => FileAction::SyncDirectory,
                Phase::Name | Phase::Naming(_) => return None,
            };
            return Some((Doing::Running, action));
        }
        if let Some((file, bytes)) = self.superfluous.pop_front() {
            return Some(match bytes >= self.reserve.bytes && bytes > 0 {
                true => (Doing::Retiring(bytes), FileAction::Retire { file }),
                false => (Doing::Removing, FileAction::Remove { file }),
            });
        }
        if self.reserve.wanted > self.reserve.bytes && self.reserve.retry_at <= now {
            // Not by a little each time.
            let bytes = (self.reserve.wanted + self.reserve.wanted / 4).next_multiple_of(WAL_BLOCK_BYTES as u64);
            return Some((Doing::Reserving(bytes), FileAction::Reserve { bytes }));
        }
        None
    }

    /// The end of an operation.
    pub fn done(&mut self, now: Micros, done: FileDone) {
        if let Some(buffer) = done.buffer {
            self.spare_buffer = Some(buffer);
        }
        assert_eq!(self.op.take(), Some(done.id), "the end of an operation that is not under way");
        match (self.doing, done.result) {
            (Doing::Running, Ok(())) => self.advance(),
            (Doing::Running, Err(error)) => self.abandon(now, error.to_string()),
            (Doing::Reserving(bytes), Ok(())) => {
                self.reserve.bytes = bytes;
                self.reserve.short = false;
            }
            (Doing::Reserving(_), Err(error)) => {
                self.reserve.short = error == DiskError::Full;
                self.reserve.retry_at = now.plus(CHECKPOINT_RETRY_MICROS_MIN);
            }
            (Doing::Retiring(bytes), Ok(())) => self.reserve.bytes = bytes,
            // What is left over is removed at the next start.
            (Doing::Retiring(_), Err(_)) | (Doing::Removing, _) => {}
        }
    }

    fn advance(&mut self) {
        let Some(running) = &mut self.running else { return };
        running.phase = match running.phase {
            Phase::Create { .. } | Phase::Build
                if running.builder.is_whole() && running.builder.pending_bytes() == 0 =>
            {
                if mutant!("checkpoint-not-synced") { Phase::SyncDirectory } else { Phase::Sync }
            }
            Phase::Create { .. } | Phase::Build => Phase::Build,
            Phase::Sync => Phase::SyncDirectory,
            Phase::SyncDirectory => Phase::Name,
            named @ (Phase::Name | Phase::Naming(_)) => named,
        };
    }

    fn abandon(&mut self, now: Micros, why: String) {
        let Some(Running { file, .. }) = self.running.take() else { return };
        self.superfluous.push_back((file, 0));
        let wait = CHECKPOINT_RETRY_MICROS_MIN << self.failures.in_a_row.min(16);
        self.failures.retry_at = now.plus(wait.min(CHECKPOINT_RETRY_MICROS_MAX));
        if self.failures.in_a_row == 0 {
            self.notices.push(Notice::Failed { shard: file.shard, why: why.clone() });
        }
        self.failures.in_a_row += 1;
        self.failures.total += 1;
        self.failures.last = Some(why);
    }

    /// What the log is to say of a shard, once a checkpoint's file is durable. It must be told where the log says so: [`Keeper::named`].
    pub fn to_name(&self) -> Option<(ShardId, Kept)> {
        let running = self.running.as_ref().filter(|running| running.phase == Phase::Name)?;
        let shard = running.file.shard;
        Some((shard, Kept { newest: Some(running.builder.reference()), older: self.kept(shard).newest }))
    }

    /// The log names the running checkpoint in a record that ends here.
    pub fn named(&mut self, at: Lsn) {
        if let Some(running) = &mut self.running {
            running.phase = Phase::Naming(at);
        }
    }

    /// The log is durable up to here. Returns the shard whose new checkpoint is in force since then.
    pub fn log_durable(&mut self, durable: Lsn) -> Option<ShardId> {
        let installed = self.running.take_if(|running| matches!(running.phase, Phase::Naming(at) if at <= durable))?;
        let shard = installed.file.shard;
        let reference = installed.builder.reference();
        let own = self.shards.entry(shard).or_default();
        let file = |number| CheckpointFile { shard, number };
        self.superfluous.extend(own.kept.older.map(|older| (file(older.number), older.bytes)));
        self.superfluous.extend(own.unreadable.drain(..).map(|file| (file, 0)));
        own.kept = Kept { newest: Some(reference), older: own.kept.newest };
        own.newest_at = installed.begun_at;
        self.completed += 1;
        self.failures = Failures { total: self.failures.total, ..Failures::default() };
        self.notices.push(Notice::Completed { shard, reference });
        Some(shard)
    }

    /// What people should hear of since the last time.
    pub fn take_notices(&mut self, out: &mut Vec<Notice>) {
        out.append(&mut self.notices);
    }

    /// For the store's status.
    #[must_use]
    pub fn status(&self) -> CheckpointStatus {
        let running = self.running.as_ref();
        CheckpointStatus {
            running: running.map(|running| running.file.shard),
            running_bytes: running.map_or(0, |running| running.builder.handed_out_bytes()),
            completed: self.completed,
            failed: self.failures.total,
            last_failure: self.failures.last.clone().unwrap_or_default(),
            reserve_bytes: self.reserve.bytes,
        }
    }
}
