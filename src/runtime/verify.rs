//! `dkc-server --verify`: everything that a start reads, read by the code of a start, and nothing changed.
//!
//! ```text
//! lock ─► node file ─► each store: recovery on doors that only read ─► a disk that is only pretended, until the store would serve
//!                                                                   └─► the spare checkpoints, which a start does not read
//! ```
//!
//! Two things a start does are left out: what it accepts is not made durable again, and files that no longer matter are not removed. The
//! disk is pretended so that the last entries, which wait for the next leader's first, are applied here too: an entry that cannot
//! be would otherwise show only when a server serves.
//!
//! The lock is held meanwhile, so no server can start; whose it is is not written into it, for that would be a change. One store
//! is read after another; a node's counters take the memory they take while it serves.

use std::io::{self, Write};
use std::sync::Arc;

use super::checkpoint_dir::CheckpointDirectory;
use super::clock::Clock;
use super::config::Config;
use super::lock::DirectoryLock;
use super::node::{Node, log_path};
use super::opening_log::OpeningLog;
use super::segment_dir::LogDirectory;
use super::server::{ServeError, cluster_map, store_config};
use super::{logs, memory};
use crate::engine::checkpoint::{CheckpointDir, CheckpointFile, FileAction, FileDone, StoreDir};
use crate::engine::cluster::ClusterMap;
use crate::engine::counters::Secret;
use crate::engine::input::{DiskDone, DiskError, Input};
use crate::engine::status::StoreStatus;
use crate::engine::store::{Opened, Store, unusable_spares};
use crate::engine::wal::recovery::Case;
use crate::engine::wal::{AlignedBuffer, DiskAction, FileInfo, SegmentDir};
use crate::ids::{Micros, SegmentEpoch, ShardId, StoreId};
use crate::limits::VERIFY_TURNS_MAX;

/// Checks a data directory, and says on standard output what it holds: a line for each store and each shard.
///
/// # Errors
/// Something is damaged, which has been said with its place; or the directory is in use, or is none.
pub fn run(config: &Config) -> Result<(), ServeError> {
    let _logs = logs::start(config.log_format, &config.log_level);
    let _lock = DirectoryLock::acquire_to_look(&config.data_dir)?;
    let node = Node::open(&config.data_dir, config.shape)?;
    let stores = usize::from(node.shape.stores);
    let map = cluster_map(&node);
    let mut damaged = 0;
    for number in 0..node.shape.stores {
        let mut text = String::new();
        let whole = match check(config, &node, &map, StoreId(number), &mut text) {
            Ok(whole) => whole,
            Err(error) => {
                text.push_str(&format!("store {number}: DAMAGED: {error}\n"));
                false
            }
        };
        damaged += usize::from(!whole);
        // Whoever closes the pipe still gets the exit code.
        let _ = io::stdout().lock().write_all(text.as_bytes());
    }
    if damaged > 0 { Err(ServeError::Damaged { damaged, stores }) } else { Ok(()) }
}

/// Checks a store. Returns whether nothing is damaged; an error is what a start would refuse it for.
fn check(config: &Config, node: &Node, map: &Arc<ClusterMap>, id: StoreId, text: &mut String) -> Result<bool, String> {
    let path = log_path(&config.data_dir, id);
    let Some(mut directory) = Look::open(config, id).map_err(|error| error.to_string())? else {
        // A node that has served misses it by name before.
        text.push_str(&format!("store {id}: never opened\n"));
        return Ok(true);
    };
    let random = || getrandom::u64().map_err(|error| format!("no random numbers: {error}"));
    let store_config = store_config(config, node, map, id, Secret([random()?, random()?]));
    let pool = memory::pool(config.huge_pages);
    let clock = Clock::start();
    let mut progress = OpeningLog::new(id, clock);
    let mut hear = |at| progress.hear(at);
    let started = clock.now();
    let opened = Store::open(store_config.clone(), pool.clone(), &mut directory, node.opened, started, &mut hear);
    let (mut store, found) = opened.map_err(|error| format!("{error} (log: {})", path.display()))?;
    settle(&mut store, clock.now())?;
    let status = store.status();
    drop(store);
    let mut rejected: Vec<_> = found.shards.iter().flat_map(|shard| shard.rejected.clone()).collect();
    rejected.extend(unusable_spares(&store_config, &pool, &mut directory.checkpoints, &found));
    describe(&found, &status, text);
    for (_, error) in &rejected {
        text.push_str(&format!(
            "store {id}: DAMAGED: {error}; a start takes the other one, and the next checkpoint replaces it\n"
        ));
    }
    Ok(rejected.is_empty())
}

/// Lets a store go on until it would serve, on a disk that says to have done what it is asked for and does nothing.
fn settle(store: &mut Store, now: Micros) -> Result<(), String> {
    for _ in 0..VERIFY_TURNS_MAX {
        let output = store.take_output();
        if let Some(why) = output.latched {
            return Err(why);
        }
        if output.disk.is_empty() && output.checkpoint.is_empty() {
            return if store.is_ready() { Ok(()) } else { Err("it would open, and never serve".to_string()) };
        }
        for op in output.disk {
            let buffer = match op.action {
                DiskAction::Write { buffer, .. } => Some(buffer),
                _ => None,
            };
            store.step(now, Input::Disk(DiskDone { id: op.id, result: Ok(()), buffer }));
        }
        for op in output.checkpoint {
            let buffer = match op.action {
                FileAction::Write { buffer, .. } => Some(buffer),
                _ => None,
            };
            store.step(now, Input::Checkpoint(FileDone { id: op.id, result: Ok(()), buffer }));
        }
    }
    Err(format!("it would not serve within {VERIFY_TURNS_MAX} turns"))
}

fn describe(found: &Opened, status: &StoreStatus, text: &mut String) {
    let (store, log) = (status.store, &found.log);
    let end = match log.case {
        Case::NeverOpened => "never written".to_string(),
        Case::TornTail => format!(
            "ends at byte {} of segment {:x}, where a last write did not arrive whole and was never acknowledged",
            log.end.offset, log.end.epoch.0
        ),
        _ => format!("ends cleanly at byte {} of segment {:x}", log.end.offset, log.end.epoch.0),
    };
    let segments = match &log.segments[..] {
        [] => "no segment".to_string(),
        [one] => format!("segment {:x}", one.epoch.0),
        [first, .., last] => format!("segments {:x} to {:x}", first.epoch.0, last.epoch.0),
    };
    let (records, lsn) = (log.records, log.lsn);
    text.push_str(&format!("store {store}: log of {segments}, {records} records, up to lsn {lsn}: {end}\n"));
    for restored in &found.shards {
        let shard = restored.shard;
        let base = log.base.get(&shard).copied().unwrap_or_default().last_index;
        let last = log.groups.get(&shard).copied().unwrap_or_default().last_index;
        let from = match restored.checkpoint {
            Some(one) => format!("checkpoint {} of entries {} to {}", one.number, one.from.index, one.to.index),
            None => "no checkpoint".to_string(),
        };
        let entries =
            if last > base { format!("entries {} to {last} in the log", base.next()) } else { "no entries".into() };
        let counters = match status.shards.iter().find(|one| one.shard == shard) {
            Some(status) if shard != ShardId::META => format!("; {} counters", status.keys),
            _ => String::new(),
        };
        text.push_str(&format!("store {store}, shard {shard}: {from}; {entries}{counters}\n"));
    }
}

/// Everything durable of one store, to be read only.
struct Look {
    log: LookAtLog,
    checkpoints: LookAtCheckpoints,
}

struct LookAtLog(LogDirectory);

/// None if there is no directory.
struct LookAtCheckpoints(Option<CheckpointDirectory>);

impl Look {
    /// None if the store has no log.
    fn open(config: &Config, store: StoreId) -> Result<Option<Look>, DiskError> {
        let Some(log) = LogDirectory::open_to_look(&config.data_dir, store)? else { return Ok(None) };
        let checkpoints = LookAtCheckpoints(CheckpointDirectory::open_to_look(&log)?);
        Ok(Some(Look { log: LookAtLog(log), checkpoints }))
    }
}

impl StoreDir for Look {
    fn log(&mut self) -> &mut dyn SegmentDir {
        &mut self.log
    }

    fn checkpoints(&mut self) -> &mut dyn CheckpointDir {
        &mut self.checkpoints
    }
}

impl SegmentDir for LookAtLog {
    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        self.0.list()
    }

    fn read(&mut self, epoch: SegmentEpoch, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        self.0.read(epoch, offset, into)
    }

    /// What is read here is not going to be relied upon.
    fn harden(&mut self, _: SegmentEpoch, _: u64) -> Result<(), DiskError> {
        Ok(())
    }

    /// The next start does it.
    fn remove(&mut self, _: &str) -> Result<(), DiskError> {
        Ok(())
    }

    fn sync_dir(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

impl CheckpointDir for LookAtCheckpoints {
    fn list(&mut self) -> Result<Vec<CheckpointFile>, DiskError> {
        self.0.as_mut().map_or(Ok(Vec::new()), CheckpointDir::list)
    }

    fn read(&mut self, file: CheckpointFile, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        match &mut self.0 {
            Some(directory) => directory.read(file, offset, into),
            None => Err(DiskError::Failed("there is no directory of checkpoints".into())),
        }
    }
}
