//! What the kernel is asked for one disk operation, and what its answer means. No I/O happens here.
//!
//! A log write is two linked entries, or one that syncs by itself. Everything else is a chain of single [`Step`]s; each step owns all the memory
//! its entry points to, and turns the kernel's answer into the next step or the end:
//!
//! ```text
//! Zero, fresh      Clear ──► Open(create) ──► Fill … Fill ──► done
//! Zero, recycled   Recycle ──► Open ──► Fill … Fill ──► done
//!                     │          └─ another length ─► Clear …   (the configured segment length has changed)
//!                     └─ no such file ─► Clear …                (an earlier attempt got past the rename)
//! SyncFile, SyncDir   Sync ──► done
//! Publish             Publish ──► done                          (again without NOREPLACE where that is unknown)
//! Discard             Discard ──► done
//! ```

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use rustix::fs::{OFlags, RenameFlags};
use rustix::io::ReadWriteFlags;

use super::ways::Way;
use crate::engine::input::DiskError;
use crate::engine::wal::{AlignedBuffer, segment_file_name, unfinished_file_name};
use crate::ids::SegmentEpoch;
use crate::limits::WAL_BLOCK_BYTES;
use crate::runtime::segment_dir::{FILE_MODE, disk_error};

/// What every operation of one directory shares.
pub(super) struct Site {
    /// The directory.
    pub(super) directory: Rc<File>,
    /// `O_DIRECT`, or nothing where the directory refuses it.
    pub(super) direct_flag: OFlags,
    /// One chunk of zeros, never written.
    pub(super) zeros: Rc<AlignedBuffer>,
}

/// A log write and the sync linked to it.
///
/// The file is held, not only its number: the kernel looks the number of the linked sync up when the write has
/// ended, and must not find it closed or reused by then.
pub(super) struct Append {
    pub(super) file: Rc<File>,
    pub(super) epoch: SegmentEpoch,
    pub(super) offset: u64,
    pub(super) buffer: AlignedBuffer,
    /// How it is made durable.
    pub(super) way: Way,
    /// When it was handed to the kernel.
    pub(super) since: Instant,
    pub(super) written: Option<i32>,
    pub(super) synced: Option<i32>,
}

impl Append {
    /// The write and, unless it syncs by itself, linked behind it the sync: the kernel cancels the sync if the write fails or is short.
    pub(super) fn entries(&self) -> (Entry, Option<Entry>) {
        let fd = types::Fd(self.file.as_raw_fd());
        let write = opcode::Write::new(fd, self.buffer.as_ptr(), self.buffer.len() as u32).offset(self.offset);
        match self.way {
            Way::SyncedWrite => (write.rw_flags(ReadWriteFlags::DSYNC.bits() as i32).build(), None),
            Way::LinkedSync => {
                let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
                (write.build().flags(Flags::IO_LINK), Some(sync))
            }
        }
    }

    /// Answers that are still to come.
    pub(super) fn missing(&self) -> usize {
        match self.way {
            Way::SyncedWrite => usize::from(self.written.is_none()),
            Way::LinkedSync => usize::from(self.written.is_none()) + usize::from(self.synced.is_none()),
        }
    }

    /// Takes the answer to the write or to the sync. A write that syncs by itself answers for both.
    pub(super) fn answered(&mut self, is_sync: bool, result: i32) {
        match (is_sync, self.way) {
            (true, _) => self.synced = Some(result),
            (false, Way::LinkedSync) => self.written = Some(result),
            (false, Way::SyncedWrite) => (self.written, self.synced) = (Some(result), Some(0)),
        }
    }

    /// How it ended, once both answers are there (W5): durable only if all was written *and* the sync succeeded.
    pub(super) fn outcome(&self) -> Option<Result<(), DiskError>> {
        let (written, synced) = (self.written?, self.synced?);
        let place = || format!("{} bytes at {} of {}", self.buffer.len(), self.offset, segment_file_name(self.epoch));
        Some(match (answer(written), answer(synced)) {
            (Err(e), _) => Err(disk_error(format_args!("write {}", place()), &e)),
            (Ok(count), _) if count as usize != self.buffer.len() => {
                Err(DiskError::Failed(format!("write {}: only {count} were written", place())))
            }
            (Ok(_), Err(e)) => Err(disk_error(format_args!("sync {}", place()), &e)),
            (Ok(_), Ok(_)) => Ok(()),
        })
    }
}

/// The unfinished segment file a chain is making.
#[derive(Clone, Copy)]
pub(super) struct Blank {
    pub(super) epoch: SegmentEpoch,
    pub(super) bytes: u64,
}

/// One request to the kernel, with all the memory it refers to.
pub(super) enum Step {
    /// Take a freed segment's file: rename it to the unfinished name.
    Recycle { from: CString, to: CString, blank: Blank },
    /// Remove what an earlier attempt may have left under the unfinished name.
    Clear { name: CString, blank: Blank },
    /// Open the unfinished file.
    Open { name: CString, create: bool, blank: Blank },
    /// Write zeros at an offset.
    Fill { file: Rc<File>, offset: u64, zeros: Rc<AlignedBuffer>, blank: Blank },
    /// Sync a file or the directory, data and metadata.
    Sync { file: Rc<File>, name: String },
    /// Rename the unfinished file to its final name.
    Publish { from: CString, to: CString, flags: RenameFlags },
    /// Remove an unfinished file.
    Discard { name: CString },
}

/// Where an operation stands after a step.
pub(super) enum Progress {
    /// There is more to do.
    Next(Step),
    /// A segment file of zeros is there, open.
    Made(SegmentEpoch, Rc<File>),
    /// It has ended.
    Done(Result<(), DiskError>),
}

impl Step {
    pub(super) fn zero(epoch: SegmentEpoch, recycle: Option<SegmentEpoch>, bytes: u64) -> Step {
        let blank = Blank { epoch, bytes };
        match recycle {
            Some(freed) => Step::Recycle { from: published(freed), to: unfinished(epoch), blank },
            None => Step::Clear { name: unfinished(epoch), blank },
        }
    }

    pub(super) fn publish(epoch: SegmentEpoch) -> Step {
        Step::Publish { from: unfinished(epoch), to: published(epoch), flags: RenameFlags::NOREPLACE }
    }

    pub(super) fn discard(epoch: SegmentEpoch) -> Step {
        Step::Discard { name: unfinished(epoch) }
    }

    pub(super) fn remove(epoch: SegmentEpoch) -> Step {
        Step::Discard { name: published(epoch) }
    }

    /// The entry for the kernel. It points into `self`, and into nothing else.
    pub(super) fn entry(&self, site: &Site) -> Entry {
        let directory = types::Fd(site.directory.as_raw_fd());
        match self {
            Step::Recycle { from, to, .. } => {
                opcode::RenameAt::new(directory, from.as_ptr(), directory, to.as_ptr()).build()
            }
            Step::Clear { name, .. } | Step::Discard { name } => {
                opcode::UnlinkAt::new(directory, name.as_ptr()).build()
            }
            Step::Open { name, create, .. } => {
                let creation = if *create { OFlags::CREATE | OFlags::EXCL } else { OFlags::empty() };
                let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | site.direct_flag | creation;
                opcode::OpenAt::new(directory, name.as_ptr()).flags(flags.bits() as i32).mode(FILE_MODE).build()
            }
            Step::Fill { file, offset, zeros, blank } => {
                let len = (blank.bytes - offset).min(zeros.len() as u64) as u32;
                let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), zeros.as_ptr(), len).offset(*offset);
                // Into the page cache the kernel would copy at once, on the thread that serves.
                entry.build().flags(if site.direct_flag.is_empty() { Flags::ASYNC } else { Flags::empty() })
            }
            Step::Sync { file, .. } => opcode::Fsync::new(types::Fd(file.as_raw_fd())).build(),
            Step::Publish { from, to, flags } => {
                let rename = opcode::RenameAt::new(directory, from.as_ptr(), directory, to.as_ptr());
                rename.flags(flags.bits()).build()
            }
        }
    }

    /// Takes the kernel's answer.
    pub(super) fn finish(self, result: i32, site: &Site) -> Progress {
        let what = self.to_string();
        match (self, answer(result)) {
            (Step::Recycle { to, blank, .. }, Ok(_)) => Progress::Next(Step::Open { name: to, create: false, blank }),
            (Step::Recycle { to, blank, .. }, Err(e)) if e.kind() == io::ErrorKind::NotFound => {
                Progress::Next(Step::Clear { name: to, blank })
            }
            (Step::Clear { name, blank }, answer) if is_gone(&answer) => {
                Progress::Next(Step::Open { name, create: true, blank })
            }
            (Step::Open { name, create, blank }, Ok(number)) => {
                // SAFETY: a successful openat answers with a new descriptor, which nobody else knows of.
                let file = File::from(unsafe { OwnedFd::from_raw_fd(number as i32) });
                match file.metadata() {
                    Ok(metadata) if !create && metadata.len() != blank.bytes => {
                        Progress::Next(Step::Clear { name, blank })
                    }
                    Ok(_) => {
                        let zeros = site.zeros.clone();
                        Progress::Next(Step::Fill { file: Rc::new(file), offset: 0, zeros, blank })
                    }
                    Err(e) => Progress::Done(Err(disk_error(what, &e))),
                }
            }
            (Step::Fill { file, offset, zeros, blank }, Ok(count)) => {
                // A short write is no failure here: the next one tells why, or goes on from the block it stopped in.
                let whole_blocks = u64::from(count) / WAL_BLOCK_BYTES as u64 * WAL_BLOCK_BYTES as u64;
                match offset + whole_blocks {
                    end if end >= blank.bytes => Progress::Made(blank.epoch, file),
                    end if end > offset => Progress::Next(Step::Fill { file, offset: end, zeros, blank }),
                    _ => Progress::Done(Err(DiskError::Failed(format!("{what}: only {count} bytes were written")))),
                }
            }
            (Step::Publish { from, to, flags }, Err(e))
                if e.kind() == io::ErrorKind::InvalidInput && !flags.is_empty() =>
            {
                Progress::Next(Step::Publish { from, to, flags: RenameFlags::empty() })
            }
            (Step::Discard { .. }, answer) if is_gone(&answer) => Progress::Done(Ok(())),
            (_, answer) => Progress::Done(answer.map(drop).map_err(|e| disk_error(what, &e))),
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Recycle { from, to, .. } | Step::Publish { from, to, .. } => {
                write!(f, "rename {} to {}", from.to_string_lossy(), to.to_string_lossy())
            }
            Step::Clear { name, .. } | Step::Discard { name } => write!(f, "remove {}", name.to_string_lossy()),
            Step::Open { name, .. } => write!(f, "open {}", name.to_string_lossy()),
            Step::Fill { offset, blank, .. } => {
                write!(f, "write zeros at {offset} of {}", unfinished_file_name(blank.epoch))
            }
            Step::Sync { name, .. } => write!(f, "sync {name}"),
        }
    }
}

/// The kernel's convention: a count or a descriptor, or a negated error number.
pub(super) fn answer(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()))
}

/// Whether a file that was to be removed is not there now.
pub(super) fn is_gone(answer: &io::Result<u32>) -> bool {
    match answer {
        Ok(_) => true,
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

fn published(epoch: SegmentEpoch) -> CString {
    c_name(segment_file_name(epoch))
}

fn unfinished(epoch: SegmentEpoch) -> CString {
    c_name(unfinished_file_name(epoch))
}

fn c_name(name: String) -> CString {
    CString::new(name).expect("a segment's file name is hexadecimal digits and a suffix, so it has no zero byte")
}
