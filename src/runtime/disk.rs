//! Performs a store's disk operations, those of its log and those on the files of its checkpoints, without blocking the executor
//! (but for [`Disk::wait`], briefly and on request).
//!
//! A store's [`Disk`] is an io_uring of its own beside glommio's, because glommio cannot link entries, and the
//! linked pair *write, then sync the data* is what a durable append is made of: one system call, both parts on their
//! way at once, in order. A write that syncs by itself is one entry instead of two, but then the kernel finishes it in a
//! work queue of the very core that this store may keep busy, and waits for a scheduler tick (4 ms) to get there. So that is
//! used for small appends only, and only as long as it proves faster (`ways`). `benches/raw.rs` measures all this.
//!
//! # How a driver uses it
//!
//! Three calls. [`Disk::submit`] starts an operation; [`Disk::reap`] collects what has ended, by looking at memory
//! shared with the kernel; [`Alarm::wait`] sleeps until there is something to collect. The first two need the
//! `Disk` for themselves and the third does not, so the alarm belongs in a small task that wakes the driver the way
//! every other source of input does:
//!
//! ```ignore
//! let mut disk = Disk::open(&log_directory)?;
//! let alarm = disk.alarm()?;
//! glommio::spawn_local(async move { while alarm.wait().await.is_ok() { inbox.wake(); } }).detach();
//! loop {
//!     inbox.wait().await;
//!     disk.reap(&mut ended);
//!     for done in ended.drain(..) { store.step(now, Input::Disk(done)); }
//!     // … every other input …
//!     for op in store.take_output().disk { disk.submit(op); }
//! }
//! ```
//!
//! `reap` belongs in every turn, not only behind an alarm: it costs no system call, and as long as any task is ready
//! glommio looks for the completion of an alarm only when its preemption timer fires, 100 ms by default. (That timer must
//! not be made short: if it fires before the first task has run, glommio 0.9 goes to sleep with tasks ready.) An
//! alarm that then finds nothing to collect does no harm, but it takes the executor a round. So a driver that is awake
//! says so with [`Disk::disarm`], and asks for alarms with [`Disk::arm`] before it sleeps.
//!
//! A driver that has nothing to do but to wait for a small append can do so by [`Disk::wait`] instead of by the executor.
//! With its next request awaited in the same way, a lone client's increment takes little longer than the write and
//! the network by themselves.
//!
//! # What is bounded
//!
//! At most [`DISK_OPERATIONS_MAX`] operations are under way; each has at most two entries in the kernel's hands (a log
//! write), and the ring has room for that many. So a full queue means that the log asks for more than it says, and such
//! an operation is refused, not waited for.
//!
//! # What the kernel holds
//!
//! Every entry points to memory owned by its operation's slot: the buffer, the file names, the open file. A slot is
//! emptied only by the last completion of its operation, never by an error and never by anybody's drop. When a `Disk`
//! is dropped, it waits for the kernel to finish, for [`DISK_CLOSE_MICROS_MAX`] at most, and then leaks what is still in
//! use: to free it would let a stuck device write freed memory into the log when it wakes up.
//!
//! # When it fails
//!
//! Errors of the disk come back in [`DiskDone`]. If the ring itself fails, every operation under way is reported as
//! failed (its outcome is unknown), every later one is refused, and nothing is retried.

mod files;
mod ways;
mod work;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use glommio::io::BufferedFile;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::event::EventfdFlags;
use rustix::io::Errno;

use self::ways::{Way, Ways};
use self::work::{Append, Progress, Site, Step};
use super::checkpoint_dir::CheckpointDirectory;
use super::segment_dir::LogDirectory;
use super::spin;
use crate::engine::checkpoint::{FileDone, FileOp, FileOpId};
use crate::engine::input::{DiskDone, DiskError};
use crate::engine::wal::{AlignedBuffer, DiskAction, DiskOp, DiskOpId, segment_file_name, unfinished_file_name};
use crate::ids::SegmentEpoch;
use crate::limits::{
    APPEND_SPIN_MICROS_MAX, APPEND_SYNCED_BYTES_MAX, APPEND_WAIT_BYTES_MAX, APPEND_WAIT_MICROS_MAX,
    DISK_CLOSE_MICROS_MAX, DISK_OPERATIONS_MAX, WAL_WRITE_BYTES_MAX, WAL_ZERO_BYTES_MAX,
};

/// Entries an operation has in the kernel's hands, at most: a write and its sync.
const ENTRIES_PER_OPERATION: usize = 2;
/// Room in the ring for all of them. The kernel makes the completion queue twice as long, so it cannot overflow.
const RING_ENTRIES: u32 = (DISK_OPERATIONS_MAX * ENTRIES_PER_OPERATION).next_power_of_two() as u32;
/// How often an interrupted or momentarily refused submission is tried again before the ring counts as failed.
const ENTER_ATTEMPTS_MAX: usize = 1_000;

const _: () = {
    // Lengths in entries have 32 bits.
    assert!(WAL_WRITE_BYTES_MAX <= u32::MAX as usize);
    assert!(WAL_ZERO_BYTES_MAX <= u32::MAX as usize);
};

/// Why a [`Disk`] cannot be used on this machine.
#[derive(Debug, thiserror::Error)]
pub enum DiskOpenError {
    /// io_uring is switched off or filtered.
    #[error(
        "the kernel refuses io_uring ({0}); allow it: set sysctl kernel.io_uring_disabled=0, \
         and in a container use a seccomp profile that permits io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Refused(io::Error),
    /// The kernel's io_uring lacks an operation.
    #[error("the kernel is too old: its io_uring has no {0} (Linux 5.11 or later has)")]
    TooOld(&'static str),
    /// Anything else.
    #[error("cannot {0}: {1}")]
    Failed(&'static str, io::Error),
}

/// The disk of one store: performs [`DiskOp`]s on the directory of its log. Stays on the thread that opened it.
pub struct Disk {
    ring: IoUring,
    eventfd: OwnedFd,
    site: Site,
    /// The directory of the checkpoints, once there is one.
    checkpoints: Option<files::Site>,
    /// Segments made here that may still be written, by epoch: the current one and the prepared one.
    files: BTreeMap<SegmentEpoch, Rc<File>>,
    /// The operations under way. The position is the ring's name for an operation.
    slots: [Option<Slot>; DISK_OPERATIONS_MAX],
    /// Ends that the kernel has no part in: refusals, and what was under way when the ring failed.
    refused: Vec<DiskDone>,
    /// Ends of operations on the files of checkpoints.
    files_ended: Vec<FileDone>,
    /// Set once, when the ring fails or the disk is closed: nothing further is started.
    closed: Option<String>,
    /// How long appends have taken lately: a moving average.
    append_time: Duration,
    /// How small appends are made durable.
    ways: Ways,
}

/// An operation under way.
struct Slot {
    /// `None` once its end has been told because the ring failed; the kernel may still be at work on it.
    id: Option<Name>,
    work: Work,
}

/// Which operation of the store it is.
#[derive(Clone, Copy)]
enum Name {
    Log(DiskOpId),
    File(FileOpId),
}

enum Work {
    Append(Append),
    Chain(Step),
    File(files::Step),
}

impl Disk {
    /// Sets up the ring for a log directory.
    ///
    /// # Errors
    /// If the kernel does not let us use io_uring as we need it; the text says what to do.
    pub fn open(directory: &LogDirectory) -> Result<Disk, DiskOpenError> {
        let ring = IoUring::new(RING_ENTRIES);
        let refused = matches!(errno(&ring), Some(Errno::NOSYS | Errno::PERM | Errno::ACCESS));
        let ring = ring.map_err(|e| {
            if refused { DiskOpenError::Refused(e) } else { DiskOpenError::Failed("set up an io_uring", e) }
        })?;
        require_operations(&ring)?;
        // Blocking on purpose: the kernel answers a read of a non-blocking eventfd at once, with EAGAIN.
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|errno| DiskOpenError::Failed("make an eventfd", errno.into()))?;
        ring.submitter()
            .register_eventfd(eventfd.as_raw_fd())
            .map_err(|e| DiskOpenError::Failed("register an eventfd with an io_uring", e))?;
        let handle = directory.handle().try_clone();
        let site = Site {
            directory: Rc::new(handle.map_err(|e| DiskOpenError::Failed("duplicate the directory's handle", e))?),
            direct_flag: directory.direct_flag(),
            zeros: Rc::new(AlignedBuffer::zeroed(WAL_ZERO_BYTES_MAX)),
        };
        Ok(Disk {
            ring,
            eventfd,
            site,
            checkpoints: None,
            files: BTreeMap::new(),
            slots: [const { None }; DISK_OPERATIONS_MAX],
            refused: Vec::new(),
            files_ended: Vec::new(),
            closed: None,
            append_time: Duration::ZERO,
            ways: Ways::default(),
        })
    }

    /// Takes on the files of checkpoints in a directory.
    ///
    /// # Errors
    /// If no further file can be opened.
    pub fn attach(&mut self, directory: &CheckpointDirectory) -> io::Result<()> {
        self.checkpoints = Some(files::Site::new(directory)?);
        Ok(())
    }

    /// Whether the log is written past the page cache.
    #[must_use]
    pub fn direct_io(&self) -> bool {
        !self.site.direct_flag.is_empty()
    }

    /// What tells that [`reap`](Disk::reap) has something to collect. One is enough; two would steal from each other.
    ///
    /// # Errors
    /// If no further file can be opened.
    ///
    /// # Panics
    /// Outside a glommio executor.
    pub fn alarm(&self) -> io::Result<Alarm> {
        let eventfd = self.eventfd.try_clone()?;
        // SAFETY: the descriptor is ours, open, and given away here for good.
        Ok(Alarm { eventfd: unsafe { BufferedFile::from_raw_fd(eventfd.into_raw_fd()) } })
    }

    /// Starts an operation. Its end, a refusal included, comes out of [`reap`](Disk::reap).
    pub fn submit(&mut self, op: DiskOp) {
        let DiskOp { id, action } = op;
        let free = self.slots.iter().position(Option::is_none);
        let started = match (&self.closed, free) {
            (Some(reason), _) => Err((DiskError::Failed(reason.clone()), buffer_of(action))),
            (None, None) => {
                let text = format!("more than {DISK_OPERATIONS_MAX} disk operations at once");
                Err((DiskError::Failed(text), buffer_of(action)))
            }
            (None, Some(index)) => self.plan(action).map(|work| (index, work)),
        };
        match started {
            Ok((index, work)) => self.start(index, Slot { id: Some(Name::Log(id)), work }),
            Err((error, buffer)) => {
                self.refused.push(DiskDone { id, result: Err(error), buffer });
                self.alert();
            }
        }
    }

    /// Starts an operation on the files of checkpoints. Its end comes out of [`reap_files`](Disk::reap_files).
    pub fn submit_file(&mut self, op: FileOp) {
        let FileOp { id, action } = op;
        let free = self.slots.iter().position(Option::is_none);
        let refused = |text: &str| Err((DiskError::Failed(text.into()), None));
        let planned = match (&self.closed, &mut self.checkpoints, free) {
            (Some(reason), ..) => refused(reason),
            (None, None, _) => refused("there is no directory for checkpoints"),
            (None, _, None) => refused("too many disk operations at once"),
            (None, Some(site), Some(index)) => site.plan(action).map(|step| (index, Work::File(step))),
        };
        match planned {
            Ok((index, work)) => self.start(index, Slot { id: Some(Name::File(id)), work }),
            Err((error, buffer)) => {
                self.files_ended.push(FileDone { id, result: Err(error), buffer });
                self.alert();
            }
        }
    }

    /// Adds to `ended` every operation on the files of checkpoints that has ended, as far as [`reap`](Disk::reap) has seen. Never waits.
    pub fn reap_files(&mut self, ended: &mut Vec<FileDone>) {
        ended.append(&mut self.files_ended);
    }

    /// Adds to `ended` every operation that has ended since the last call. Never waits.
    pub fn reap(&mut self, ended: &mut Vec<DiskDone>) {
        loop {
            let next = self.ring.completion().next();
            let Some(completion) = next else { break };
            self.complete(completion.user_data(), completion.result(), ended);
        }
        ended.append(&mut self.refused);
    }

    /// Like [`reap`](Disk::reap), but if a small append is under way waits until it ends; for twice the time that appends
    /// have taken lately, and [`APPEND_WAIT_MICROS_MAX`] at most. Adds nothing if there is none, or none that would end so soon.
    ///
    /// For an executor to fall asleep and to be woken by an alarm takes many times what this takes, and on a virtual machine
    /// an idle core takes longer to wake up than the disk to write. So this does not even sleep at first
    /// ([`APPEND_SPIN_MICROS_MAX`]). But nothing else is seen meanwhile.
    pub fn wait(&mut self, ended: &mut Vec<DiskDone>) {
        let patience = 2 * self.append_time;
        if patience > Duration::from_micros(APPEND_WAIT_MICROS_MAX) {
            return;
        }
        let longest_spin = Duration::from_micros(APPEND_SPIN_MICROS_MAX);
        let mut spins = self.append_time < longest_spin && spin::is_allowed();
        let until = Instant::now() + patience;
        while ended.is_empty() {
            let halves = self.small_append_halves();
            let left = until.saturating_duration_since(Instant::now());
            if halves == 0 || left.is_zero() {
                break;
            }
            if spins && patience - left < longest_spin {
                // The kernel may need this very core to finish the append.
                spins = spin::give_way();
                self.reap(ended);
                continue;
            }
            let timeout = types::Timespec::from(left);
            let waited = self.ring.submitter().submit_with_args(halves, &types::SubmitArgs::new().timespec(&timeout));
            if !matches!(errno(&waited), None | Some(Errno::TIME | Errno::INTR)) {
                break;
            }
            self.reap(ended);
        }
    }

    /// Whether an append is under way that [`wait`](Disk::wait) would wait for.
    #[must_use]
    pub fn is_appending(&self) -> bool {
        self.small_append_halves() > 0
    }

    /// Says that its user is about to sleep, and wants to be woken by the [`Alarm`]. False if there is something to collect
    /// already: then there is no alarm, and no time to sleep.
    pub fn arm(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // Whoever completes an operation publishes it and then looks whether we want to know; we do it the other way round.
        fence(Ordering::SeqCst);
        let is_armed = self.refused.is_empty() && self.ring.completion().is_empty();
        if !is_armed {
            self.disarm();
        }
        is_armed
    }

    /// Says that its user is awake and will look: alarms would only cost time.
    pub fn disarm(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// Completions that a small append still waits for; 0 if none is under way.
    fn small_append_halves(&self) -> usize {
        let halves = |slot: &Slot| match &slot.work {
            Work::Append(append) if append.buffer.len() <= APPEND_WAIT_BYTES_MAX => append.missing(),
            _ => 0,
        };
        self.slots.iter().flatten().map(halves).find(|halves| *halves > 0).unwrap_or(0)
    }

    /// What an action asks of the kernel first; or why it cannot be done, with the buffer it brought.
    fn plan(&mut self, action: DiskAction) -> Result<Work, (DiskError, Option<AlignedBuffer>)> {
        let not_open = |name: String| DiskError::Failed(format!("{name} is not open"));
        Ok(Work::Chain(match action {
            DiskAction::Write { epoch, offset, buffer } => {
                // The log has moved on to this segment: earlier ones are never written again.
                while self.files.first_key_value().is_some_and(|(&earlier, _)| earlier < epoch) {
                    self.files.pop_first();
                }
                let Some(file) = self.files.get(&epoch).cloned() else {
                    return Err((not_open(segment_file_name(epoch)), Some(buffer)));
                };
                if buffer.len() > WAL_WRITE_BYTES_MAX {
                    let text = format!("a write of {} bytes is too long", buffer.len());
                    return Err((DiskError::Failed(text), Some(buffer)));
                }
                let since = Instant::now();
                let way = if buffer.len() <= APPEND_SYNCED_BYTES_MAX { self.ways.choose() } else { Way::LinkedSync };
                return Ok(Work::Append(Append {
                    file,
                    epoch,
                    offset,
                    buffer,
                    way,
                    since,
                    written: None,
                    synced: None,
                }));
            }
            DiskAction::Zero { epoch, recycle, bytes } => {
                self.files.remove(&epoch);
                if let Some(freed) = recycle {
                    self.files.remove(&freed);
                }
                Step::zero(epoch, recycle, bytes)
            }
            DiskAction::SyncFile { epoch } => match self.files.get(&epoch) {
                Some(file) => Step::Sync { file: file.clone(), name: unfinished_file_name(epoch) },
                None => return Err((not_open(unfinished_file_name(epoch)), None)),
            },
            DiskAction::Publish { epoch } => Step::publish(epoch),
            DiskAction::SyncDir => Step::Sync { file: self.site.directory.clone(), name: "the log's directory".into() },
            DiskAction::Discard { epoch } => {
                self.files.remove(&epoch);
                Step::discard(epoch)
            }
            DiskAction::Remove { epoch } => {
                self.files.remove(&epoch);
                Step::remove(epoch)
            }
        }))
    }

    /// Puts an operation into an empty slot and its entries into the kernel's hands.
    fn start(&mut self, index: usize, slot: Slot) {
        // The last bit tells a write (0) from its sync (1).
        let user_data = (index as u64) << 1;
        let slot = self.slots[index].insert(slot);
        let pushed = match &slot.work {
            Work::Append(append) => {
                let (write, sync) = append.entries();
                let write = write.user_data(user_data);
                let sync = sync.map(|sync| sync.user_data(user_data | 1));
                // SAFETY: the entries point to the append's buffer and name its file. Both belong to the slot just
                // filled, the buffer's bytes stay where they are when the slot moves, nobody else can reach them, and
                // the slot is emptied only when all its completions have been seen (`complete`), or leaked (`drop`).
                unsafe {
                    match sync {
                        Some(sync) => self.ring.submission().push_multiple(&[write, sync]),
                        None => self.ring.submission().push(&write),
                    }
                }
            }
            Work::Chain(step) => {
                let entry = step.entry(&self.site).user_data(user_data);
                // SAFETY: the entry points to the step's names or zeros, on the heap, and names its file or the
                // directory. They belong to the slot just filled or to the site; the slot is emptied only when this
                // entry's completion has been seen, or leaked, and the site goes only with the ring or is leaked too.
                unsafe { self.ring.submission().push(&entry) }
            }
            Work::File(step) => {
                let site = self.checkpoints.as_ref().expect("the step was planned by it");
                let entry = step.entry(site).user_data(user_data);
                // SAFETY: as above: the entry points to the step's names or buffer, on the heap, and names its file or the
                // directory; the slot that owns them is emptied only when this entry's completion has been seen, or leaked.
                unsafe { self.ring.submission().push(&entry) }
            }
        };
        if let Err(reason) = pushed.map_err(|e| e.to_string()).and_then(|()| self.enter()) {
            self.close(format!("io_uring failed: {reason}"));
        }
    }

    /// Hands the queued entries to the kernel, all of them in one call: a pair taken apart would no longer be linked,
    /// and its sync could run before its write.
    fn enter(&mut self) -> Result<(), String> {
        let queued = self.ring.submission().len();
        for _ in 0..ENTER_ATTEMPTS_MAX {
            let submitted = self.ring.submit();
            match (&submitted, errno(&submitted)) {
                (Ok(taken), _) if *taken == queued => return Ok(()),
                (Ok(taken), _) if *taken > 0 => return Err(format!("the kernel took {taken} of {queued} entries")),
                (Ok(_), _) | (Err(_), Some(Errno::INTR | Errno::AGAIN | Errno::BUSY)) => std::thread::yield_now(),
                (Err(e), _) => return Err(e.to_string()),
            }
        }
        Err(format!("the kernel took no entry in {ENTER_ATTEMPTS_MAX} attempts"))
    }

    /// Takes one completion.
    fn complete(&mut self, user_data: u64, result: i32, ended: &mut Vec<DiskDone>) {
        let index = (user_data >> 1) as usize;
        let Slot { id, work } = self.slots[index]
            .take()
            .expect("the kernel completes each of our entries once, and a slot is emptied by its last completion");
        let (result, buffer) = match work {
            Work::Append(mut append) => {
                append.answered(user_data & 1 == 1, result);
                match append.outcome() {
                    Some(outcome) => {
                        let time = append.since.elapsed();
                        self.append_time = (7 * self.append_time + time) / 8;
                        if append.buffer.len() <= APPEND_SYNCED_BYTES_MAX {
                            self.ways.note(append.way, time);
                        }
                        (outcome, Some(append.buffer))
                    }
                    None => {
                        self.slots[index] = Some(Slot { id, work: Work::Append(append) });
                        return;
                    }
                }
            }
            Work::Chain(step) => match step.finish(result, &self.site) {
                Progress::Next(step) if self.closed.is_none() => {
                    self.start(index, Slot { id, work: Work::Chain(step) });
                    return;
                }
                Progress::Next(_) => return,
                Progress::Made(epoch, file) => {
                    self.files.insert(epoch, file);
                    (Ok(()), None)
                }
                Progress::Done(result) => (result, None),
            },
            Work::File(step) => {
                let site = self.checkpoints.as_mut().expect("the step was planned by it");
                match step.finish(result, site) {
                    files::Progress::Next(step) if self.closed.is_none() => {
                        self.start(index, Slot { id, work: Work::File(step) });
                        return;
                    }
                    files::Progress::Next(step) => {
                        (Err(DiskError::Failed("the disk is closed".into())), step.into_buffer())
                    }
                    files::Progress::Done(result, buffer) => (result, buffer),
                }
            }
        };
        self.tell(id, result, buffer, ended);
    }

    /// Puts the end of an operation where it is collected, unless it has been told.
    fn tell(
        &mut self,
        id: Option<Name>,
        result: Result<(), DiskError>,
        buffer: Option<AlignedBuffer>,
        ended: &mut Vec<DiskDone>,
    ) {
        match id {
            Some(Name::Log(id)) => ended.push(DiskDone { id, result, buffer }),
            Some(Name::File(id)) => self.files_ended.push(FileDone { id, result, buffer }),
            None => {}
        }
    }

    /// Reports everything under way as failed and starts nothing any more. The slots stay filled: the kernel may
    /// still be using what they own.
    fn close(&mut self, reason: String) {
        let names: Vec<Name> = self.slots.iter_mut().flatten().filter_map(|slot| slot.id.take()).collect();
        let mut refused = std::mem::take(&mut self.refused);
        for name in names {
            self.tell(Some(name), Err(DiskError::Failed(reason.clone())), None, &mut refused);
        }
        self.refused = refused;
        self.closed = Some(reason);
        self.alert();
    }

    /// Raises the alarm for something the kernel has no part in.
    fn alert(&self) {
        // Adding 1 to a 64-bit counter fails only when it is all but full, and then the alarm is raised already.
        let _already_raised = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
    }

    fn is_idle(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close("the disk is closed".into());
        let deadline = Instant::now() + Duration::from_micros(DISK_CLOSE_MICROS_MAX);
        let mut ended = Vec::new();
        loop {
            self.reap(&mut ended);
            let left = deadline.saturating_duration_since(Instant::now());
            if self.is_idle() || left.is_zero() {
                break;
            }
            let timeout = types::Timespec::from(left);
            let waited = self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&timeout));
            // A timeout or an interruption is for the loop to judge; any other error would only repeat itself.
            if !matches!(errno(&waited), None | Some(Errno::TIME | Errno::INTR)) {
                break;
            }
        }
        if !self.is_idle() {
            // The kernel still holds pointers into the slots, and looks the directory up by its number.
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(self.site.directory.clone());
            std::mem::forget(self.checkpoints.as_ref().map(files::Site::directory));
        }
    }
}

/// Tells that a [`Disk`] has completions to collect.
pub struct Alarm {
    eventfd: BufferedFile,
}

impl Alarm {
    /// Waits until something has ended since the last wait; returns at once if that is so already.
    ///
    /// To drop the future before it is ready may lose one alarm: await it to its end in a task of its own.
    ///
    /// # Errors
    /// If glommio cannot read the eventfd, which means that its executor is in trouble.
    pub async fn wait(&self) -> io::Result<()> {
        self.eventfd.read_at(0, size_of::<u64>()).await.map(drop).map_err(io::Error::from)
    }
}

/// Refuses kernels whose io_uring cannot do what the steps need.
fn require_operations(ring: &IoUring) -> Result<(), DiskOpenError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|e| DiskOpenError::Failed("probe the io_uring", e))?;
    let needed = [
        (opcode::Write::CODE, "write"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::OpenAt::CODE, "openat"),
        (opcode::RenameAt::CODE, "renameat"),
        (opcode::UnlinkAt::CODE, "unlinkat"),
        (opcode::Fallocate::CODE, "fallocate"),
    ];
    match needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(DiskOpenError::TooOld(name)),
        None => Ok(()),
    }
}

/// The buffer an action brought, to be given back.
fn buffer_of(action: DiskAction) -> Option<AlignedBuffer> {
    match action {
        DiskAction::Write { buffer, .. } => Some(buffer),
        _ => None,
    }
}

/// The error number of a failed system call.
fn errno<T>(result: &io::Result<T>) -> Option<Errno> {
    result.as_ref().err().and_then(Errno::from_io_error)
}
