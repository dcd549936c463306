//! A simulated disk: a store's log and its checkpoints.
//!
//! Each file has two contents: `live` is what a read sees, `durable` what survives a power cut. A write in
//! flight lands sector by sector, in any order, also after the process that started it has died. A sync makes landed bytes
//! durable. Names have two states as well ([`names`]).

mod files;
mod names;

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::checkpoint::{FileAction, FileDone, FileOp};
use crate::engine::input::{DiskDone, DiskError, Input};
use crate::engine::prng::Prng;
use crate::engine::wal::{
    AlignedBuffer, DiskAction, DiskOp, FileInfo, SegmentDir, segment_file_name, unfinished_file_name,
};
use crate::ids::SegmentEpoch;
use crate::limits::WAL_SECTOR_BYTES;

use super::sabotage::Sabotage;
use names::{Directory, FileId};

/// What may go wrong with a disk in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Operations that fail, in 10,000. A failed log write must end the process.
    pub failures_per_10k: u64,
    /// Whether the disk may become full for a while.
    pub full: bool,
    /// Whether a bit may flip while the process is down. It must be refused by name, or harmless.
    pub bit_flips: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors in which the two may differ.
    dirty: BTreeSet<usize>,
}

/// Sectors of a write that have not landed yet.
#[derive(Clone, Debug)]
struct Landing {
    file: FileId,
    offset: usize,
    bytes: Vec<u8>,
    sectors: Vec<usize>,
}

#[derive(Debug)]
struct UnderWay {
    op: Op,
    /// Of a write.
    landing: Option<Landing>,
}

#[derive(Debug)]
enum Op {
    Log(DiskOp),
    File(FileOp),
}

/// A flipped bit: where, and the byte of each content before; `None` once something else was written there.
#[derive(Clone, Copy, Debug)]
struct Flip {
    file: FileId,
    byte: usize,
    live: Option<u8>,
    durable: Option<u8>,
}

/// The disk of one store. It outlives the process.
#[derive(Debug)]
pub(super) struct SimDisk {
    prng: Prng,
    pub(super) faults: Faults,
    sabotage: Sabotage,
    files: BTreeMap<FileId, File>,
    log: Directory,
    checkpoints: Directory,
    next_file: FileId,
    under_way: Vec<UnderWay>,
    /// Writes of dead processes that may still land.
    late: Vec<Landing>,
    full: bool,
    /// Calls of the recovery door left until the process dies in the middle of one.
    calls_left: Option<u32>,
    /// What was flipped while the process was down, to be put right after a refusal.
    flipped: Option<Flip>,
}

impl SimDisk {
    pub(super) fn new(seed: u64, faults: Faults, sabotage: Sabotage) -> SimDisk {
        SimDisk {
            prng: Prng::new(seed),
            faults,
            sabotage,
            files: BTreeMap::new(),
            log: Directory::default(),
            checkpoints: Directory::default(),
            next_file: 0,
            under_way: Vec::new(),
            late: Vec::new(),
            full: false,
            calls_left: None,
            flipped: None,
        }
    }

    /// A copy in the same state, random numbers included, but without what is under way.
    pub(super) fn twin(&self) -> SimDisk {
        SimDisk {
            prng: self.prng.clone(),
            files: self.files.clone(),
            log: self.log.clone(),
            checkpoints: self.checkpoints.clone(),
            under_way: Vec::new(),
            late: self.late.clone(),
            ..*self
        }
    }

    pub(super) fn submit(&mut self, op: DiskOp) {
        let landing = match &op.action {
            DiskAction::Write { epoch, offset, buffer } => {
                let file = self.log.file(&segment_file_name(*epoch)).expect("the log writes to a published segment");
                let sectors = (0..buffer.len() / WAL_SECTOR_BYTES).collect();
                Some(Landing { file, offset: *offset as usize, bytes: buffer.to_vec(), sectors })
            }
            _ => None,
        };
        self.under_way.push(UnderWay { op: Op::Log(op), landing });
    }

    pub(super) fn submit_file(&mut self, op: FileOp) {
        let landing = self.begin_landing(&op.action);
        self.under_way.push(UnderWay { op: Op::File(op), landing });
    }

    /// Something happens by itself: sectors land, or the disk fills or empties.
    pub(super) fn drift(&mut self) {
        if self.faults.full && self.prng.chance(1, 40) {
            self.full = !self.full;
        }
        let mut landings: Vec<&mut Landing> = self
            .under_way
            .iter_mut()
            .filter_map(|under_way| under_way.landing.as_mut())
            .chain(&mut self.late)
            .collect();
        if landings.is_empty() {
            return;
        }
        let chosen = self.prng.below(landings.len() as u64) as usize;
        let landing = &mut *landings[chosen];
        let count = self.prng.below(landing.sectors.len() as u64 + 1) as usize;
        let mut landed = Vec::new();
        for _ in 0..count {
            let place = self.prng.below(landing.sectors.len() as u64) as usize;
            landed.push(landing.sectors.swap_remove(place));
        }
        let landing = Landing { sectors: landed, ..landing.clone() };
        self.land(&landing);
        self.late.retain(|landing| !landing.sectors.is_empty());
    }

    pub(super) fn heal(&mut self) {
        self.full = false;
        self.faults = Faults::default();
    }

    /// Ends one operation, whichever the seed picks.
    pub(super) fn complete_one(&mut self) -> Option<Input> {
        if self.under_way.is_empty() {
            return None;
        }
        let place = self.prng.below(self.under_way.len() as u64) as usize;
        let UnderWay { op, landing } = self.under_way.swap_remove(place);
        let fails = self.prng.chance(self.faults.failures_per_10k, 10_000);
        let failed = || Err(DiskError::Failed("injected".into()));
        Some(match op {
            Op::Log(DiskOp { id, .. }) if fails => {
                // A failed operation may have done any part of its work.
                self.late.extend(landing);
                Input::Disk(DiskDone { id, result: failed(), buffer: None })
            }
            Op::Log(DiskOp { id, action }) => {
                let (result, buffer) = self.perform(action, landing);
                Input::Disk(DiskDone { id, result, buffer })
            }
            Op::File(FileOp { id, action }) if fails => {
                self.late.extend(landing);
                if !matches!(action, FileAction::Write { .. }) && self.prng.chance(1, 2) {
                    let _untold = self.perform_file(action, None);
                }
                Input::Checkpoint(FileDone { id, result: failed(), buffer: None })
            }
            Op::File(FileOp { id, action }) => {
                let (result, buffer) = self.perform_file(action, landing);
                Input::Checkpoint(FileDone { id, result, buffer })
            }
        })
    }

    /// Like `complete_one`, but tells of log writes before they have landed.
    pub(super) fn report_early(&mut self) -> Option<Input> {
        let is_log_write = |under_way: &UnderWay| matches!(under_way.op, Op::Log(_)) && under_way.landing.is_some();
        let Some(place) = self.under_way.iter().position(is_log_write) else { return self.complete_one() };
        let UnderWay { op, landing } = self.under_way.swap_remove(place);
        self.late.extend(landing);
        let Op::Log(DiskOp { id, .. }) = op else { unreachable!("a log write was looked for") };
        Some(Input::Disk(DiskDone { id, result: Ok(()), buffer: None }))
    }

    fn perform(
        &mut self,
        action: DiskAction,
        landing: Option<Landing>,
    ) -> (Result<(), DiskError>, Option<AlignedBuffer>) {
        match action {
            DiskAction::Write { buffer, .. } => {
                let landing = landing.expect("a log write lands");
                self.land(&landing);
                if self.sabotage != Sabotage::WriteSyncLies {
                    let first = landing.offset / WAL_SECTOR_BYTES;
                    let sectors = first..first + landing.bytes.len() / WAL_SECTOR_BYTES;
                    self.persist(landing.file, |sector| sectors.contains(&sector));
                }
                return (Ok(()), Some(buffer));
            }
            DiskAction::Zero { epoch, recycle, bytes } => {
                let name = unfinished_file_name(epoch);
                if self.full && recycle.is_none() {
                    return (Err(DiskError::Full), None);
                }
                let id = match recycle {
                    Some(old) => self.log.rename(&segment_file_name(old), &name).expect("a freed segment exists"),
                    None => {
                        self.next_file += 1;
                        self.log.link(name, self.next_file);
                        self.next_file
                    }
                };
                let file = self.files.entry(id).or_default();
                // What the recycled file held stays durable until the zeros are.
                file.live = vec![0; bytes as usize];
                file.dirty = (0..bytes as usize / WAL_SECTOR_BYTES).collect();
            }
            DiskAction::SyncFile { epoch } => {
                let id = self.log.file(&unfinished_file_name(epoch)).expect("what is synced was made");
                if self.sabotage != Sabotage::ZeroSyncLies {
                    self.persist(id, |_| true);
                }
            }
            DiskAction::Publish { epoch } => {
                let published = self.log.rename(&unfinished_file_name(epoch), &segment_file_name(epoch));
                assert!(published.is_some(), "an unfinished segment exists");
            }
            DiskAction::SyncDir => self.sync_names(),
            DiskAction::Discard { epoch } => self.log.unlink(&unfinished_file_name(epoch)),
            DiskAction::Remove { epoch } => self.log.unlink(&segment_file_name(epoch)),
        }
        (Ok(()), None)
    }

    fn sync_names(&mut self) {
        if self.sabotage != Sabotage::DirectorySyncLies {
            self.log.sync();
        }
    }

    /// The process dies. What it had under way may still land.
    pub(super) fn kill(&mut self) {
        for UnderWay { op, landing } in std::mem::take(&mut self.under_way) {
            match (landing, op) {
                (Some(landing), _) => self.late.push(landing),
                // Other operations have happened or not.
                (None, Op::Log(op)) if self.prng.chance(1, 2) => drop(self.perform(op.action, None)),
                (None, Op::File(op)) if self.prng.chance(1, 2) => drop(self.perform_file(op.action, None)),
                _ => {}
            }
        }
        self.drift();
        self.calls_left = None;
    }

    /// The power goes. Dirty sectors are kept or lost one by one, names up to some change.
    pub(super) fn cut_power(&mut self) {
        self.kill();
        for directory in [&mut self.log, &mut self.checkpoints] {
            let kept = self.prng.below(directory.unsynced() as u64 + 1) as usize;
            directory.cut_power(kept);
        }
        let mode = self.prng.below(3);
        for (id, file) in &mut self.files {
            let mut flip = self.flipped.as_mut().filter(|flip| flip.file == *id);
            let dirty = std::mem::take(&mut file.dirty);
            // A file whose zeros were never synced may have any length.
            if file.durable.len() < file.live.len() {
                file.durable.resize(self.prng.below(file.live.len() as u64 + 1) as usize, 0);
            }
            for sector in dirty {
                let keep = mode == 1 || (mode == 2 && self.prng.chance(1, 2));
                let range = sector * WAL_SECTOR_BYTES..(sector + 1) * WAL_SECTOR_BYTES;
                if keep && range.end <= file.durable.len() {
                    file.durable[range.clone()].copy_from_slice(&file.live[range]);
                    if let Some(flip) = flip.as_mut().filter(|flip| flip.byte / WAL_SECTOR_BYTES == sector) {
                        flip.durable = flip.live;
                    }
                }
            }
            file.live = file.durable.clone();
            if let Some(flip) = flip {
                flip.live = flip.durable;
            }
        }
        self.late.clear();
        let named: BTreeSet<FileId> = &self.log.ids() | &self.checkpoints.ids();
        self.files.retain(|id, _| named.contains(id));
    }

    /// Flips one bit of one file, if the run has such faults.
    pub(super) fn maybe_flip(&mut self) {
        if !self.faults.bit_flips || !self.prng.chance(1, 4) {
            return;
        }
        let files: Vec<FileId> = self.log.iter().chain(self.checkpoints.iter()).map(|(_, id)| id).collect();
        if files.is_empty() {
            return;
        }
        let id = files[self.prng.below(files.len() as u64) as usize];
        let file = self.files.get_mut(&id).expect("a named file exists");
        if file.live.is_empty() {
            return;
        }
        // Mostly where something has been written.
        let used = file.live.iter().rposition(|&byte| byte != 0).map_or(file.live.len(), |last| last + 1);
        let reach = if self.prng.chance(3, 4) { used } else { file.live.len() };
        let byte = self.prng.below(reach as u64) as usize;
        let bit = 1 << self.prng.below(8);
        let flip = |content: &mut Vec<u8>| {
            let byte = content.get_mut(byte)?;
            *byte ^= bit;
            Some(*byte ^ bit)
        };
        let (live, durable) = (flip(&mut file.live), flip(&mut file.durable));
        self.flipped = Some(Flip { file: id, byte, live, durable });
    }

    /// Puts a flipped bit right, where nothing has been written over it since.
    pub(super) fn unflip(&mut self) {
        let Some(flip) = self.flipped.take() else { return };
        let Some(file) = self.files.get_mut(&flip.file) else { return };
        for (content, before) in [(&mut file.live, flip.live), (&mut file.durable, flip.durable)] {
            if let (Some(byte), Some(before)) = (content.get_mut(flip.byte), before) {
                *byte = before;
            }
        }
    }

    fn land(&mut self, landing: &Landing) {
        land(&mut self.files, landing);
        if let Some(flip) = self.flipped.as_mut().filter(|flip| flip.file == landing.file) {
            let sector = |&sector: &usize| (landing.offset + sector * WAL_SECTOR_BYTES) / WAL_SECTOR_BYTES;
            if landing.sectors.iter().map(sector).any(|sector| sector == flip.byte / WAL_SECTOR_BYTES) {
                flip.live = None;
            }
        }
    }

    fn persist(&mut self, id: FileId, which: impl Fn(usize) -> bool) {
        if let Some(flip) = self.flipped.as_mut().filter(|flip| flip.file == id)
            && which(flip.byte / WAL_SECTOR_BYTES)
        {
            flip.durable = flip.live;
        }
        persist(self.files.get_mut(&id), which);
    }

    pub(super) fn is_flipped(&self) -> bool {
        self.flipped.is_some()
    }

    /// Plans the death of the process within recovery.
    pub(super) fn die_after_calls(&mut self, calls: u32) {
        self.calls_left = Some(calls);
    }

    /// Forgets a planned death that has not come.
    pub(super) fn live_on(&mut self) {
        self.calls_left = None;
    }

    /// Whether the planned death has come.
    pub(super) fn died(&self) -> bool {
        self.calls_left == Some(0)
    }

    fn call(&mut self) -> Result<(), DiskError> {
        match &mut self.calls_left {
            Some(0) => Err(DiskError::Failed("the process is dead".into())),
            Some(calls) => {
                *calls -= 1;
                if *calls == 0 { Err(DiskError::Failed("the process dies here".into())) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }
}

fn land(files: &mut BTreeMap<FileId, File>, landing: &Landing) {
    let Some(file) = files.get_mut(&landing.file) else { return };
    for &sector in &landing.sectors {
        let from = sector * WAL_SECTOR_BYTES;
        let to = landing.offset + from;
        if to + WAL_SECTOR_BYTES <= file.live.len() {
            file.live[to..to + WAL_SECTOR_BYTES].copy_from_slice(&landing.bytes[from..from + WAL_SECTOR_BYTES]);
            file.dirty.insert(to / WAL_SECTOR_BYTES);
        }
    }
}

fn persist(file: Option<&mut File>, which: impl Fn(usize) -> bool) {
    let Some(file) = file else { return };
    file.durable.resize(file.live.len(), 0);
    let File { live, durable, dirty } = file;
    dirty.retain(|&sector| {
        if !which(sector) {
            return true;
        }
        let range = sector * WAL_SECTOR_BYTES..(sector + 1) * WAL_SECTOR_BYTES;
        durable[range.clone()].copy_from_slice(&live[range]);
        false
    });
}

impl SegmentDir for SimDisk {
    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        self.call()?;
        let info = |(name, id): (&String, FileId)| FileInfo {
            name: name.clone(),
            bytes: self.files.get(&id).map_or(0, |file| file.live.len() as u64),
        };
        Ok(self.log.iter().map(info).collect())
    }

    fn read(&mut self, epoch: SegmentEpoch, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        self.call()?;
        // Late writes may land between any two reads.
        if self.prng.chance(1, 8) {
            self.drift();
        }
        let file = self.log.file(&segment_file_name(epoch)).and_then(|id| self.files.get(&id));
        let bytes = file.and_then(|file| file.live.get(offset as usize..offset as usize + into.len()));
        match bytes {
            Some(bytes) => into.copy_from_slice(bytes),
            None => return Err(DiskError::Failed("read past the end of the file".into())),
        }
        Ok(())
    }

    fn harden(&mut self, epoch: SegmentEpoch, bytes: u64) -> Result<(), DiskError> {
        self.call()?;
        if self.sabotage != Sabotage::HardenLies {
            let id = self.log.file(&segment_file_name(epoch)).expect("what is hardened was read");
            self.persist(id, |sector| ((sector * WAL_SECTOR_BYTES) as u64) < bytes);
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.call()?;
        self.log.unlink(name);
        Ok(())
    }

    fn sync_dir(&mut self) -> Result<(), DiskError> {
        self.call()?;
        self.sync_names();
        Ok(())
    }
}
