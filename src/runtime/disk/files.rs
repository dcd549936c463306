//! What the kernel is asked for one operation on the files of checkpoints, and what its answer means. As in [`super::work`], no I/O
//! happens here, and each step owns all the memory that its entry points to.
//!
//! ```text
//! Reserve          Open(reserve) ──► Allocate ──► done
//! Create           Clear ──► Open(new file)
//!   from reserve   Clear ──► Take ──► Open           (no reserve: as without)
//! Write            Write … Write ──► done
//! Sync             Sync ──► done
//! Retire, Remove   Rename, Clear ──► done
//! ```

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use rustix::fs::OFlags;

use super::work::{answer, is_gone};
use crate::engine::checkpoint::{CheckpointFile, FileAction, RESERVE_FILE_NAME};
use crate::engine::input::DiskError;
use crate::engine::wal::AlignedBuffer;
use crate::limits::WAL_BLOCK_BYTES;
use crate::runtime::checkpoint_dir::CheckpointDirectory;
use crate::runtime::segment_dir::{FILE_MODE, disk_error};

/// What the operations of one directory share.
pub(super) struct Site {
    directory: Rc<File>,
    direct_flag: OFlags,
    /// The file that was created last.
    open: Option<(CheckpointFile, Rc<File>)>,
}

/// One request to the kernel, with all the memory it refers to.
pub(super) enum Step {
    /// Open or make the reserve.
    OpenReserve { name: CString, bytes: u64 },
    /// Allocate blocks.
    Allocate { file: Rc<File>, bytes: u64 },
    /// Remove a file; then something may follow.
    Clear { name: CString, then: Option<(CheckpointFile, bool)> },
    /// Rename the reserve to the new file.
    Take { from: CString, to: CString, file: CheckpointFile },
    /// Open the new file; make it if it is not there.
    Open { name: CString, file: CheckpointFile },
    /// Write the buffer's bytes from `done` on.
    Write { file: Rc<File>, offset: u64, buffer: AlignedBuffer, done: usize },
    /// Sync a file or the directory, data and metadata.
    Sync { file: Rc<File>, name: String },
    /// Rename a file to the reserve.
    Retire { from: CString, to: CString },
}

/// Where an operation stands after a step.
pub(super) enum Progress {
    /// There is more to do.
    Next(Step),
    /// It has ended.
    Done(Result<(), DiskError>, Option<AlignedBuffer>),
}

impl Site {
    pub(super) fn new(directory: &CheckpointDirectory) -> io::Result<Site> {
        let handle = directory.handle().try_clone()?;
        Ok(Site { directory: Rc::new(handle), direct_flag: directory.direct_flag(), open: None })
    }

    /// The directory, for who has to keep it.
    pub(super) fn directory(&self) -> Rc<File> {
        self.directory.clone()
    }

    /// The first step of an action; or why there is none, with the buffer it brought.
    pub(super) fn plan(&mut self, action: FileAction) -> Result<Step, (DiskError, Option<AlignedBuffer>)> {
        let open = |file: CheckpointFile| match &self.open {
            Some((open, handle)) if *open == file => Ok(handle.clone()),
            _ => Err(DiskError::Failed(format!("{} is not open", file.name()))),
        };
        Ok(match action {
            FileAction::Reserve { bytes } => Step::OpenReserve { name: c_name(RESERVE_FILE_NAME.into()), bytes },
            FileAction::Create { file, from_reserve } => {
                Step::Clear { name: c_name(file.name()), then: Some((file, from_reserve)) }
            }
            FileAction::Write { file, offset, buffer } => match open(file) {
                Ok(file) => Step::Write { file, offset, buffer, done: 0 },
                Err(error) => return Err((error, Some(buffer))),
            },
            FileAction::Sync { file } => {
                Step::Sync { file: open(file).map_err(|error| (error, None))?, name: file.name() }
            }
            FileAction::SyncDirectory => Step::Sync { file: self.directory.clone(), name: "the directory".into() },
            FileAction::Retire { file } => {
                Step::Retire { from: c_name(file.name()), to: c_name(RESERVE_FILE_NAME.into()) }
            }
            FileAction::Remove { file } => Step::Clear { name: c_name(file.name()), then: None },
        })
    }
}

impl Step {
    /// The entry for the kernel. It points into `self`, and into nothing else.
    pub(super) fn entry(&self, site: &Site) -> Entry {
        let directory = types::Fd(site.directory.as_raw_fd());
        let open = |name: &CString, flags: OFlags| {
            let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            opcode::OpenAt::new(directory, name.as_ptr()).flags(flags.bits() as i32).mode(FILE_MODE).build()
        };
        match self {
            Step::OpenReserve { name, .. } => open(name, OFlags::empty()),
            Step::Allocate { file, bytes } => {
                opcode::Fallocate::new(types::Fd(file.as_raw_fd()), *bytes).offset(0).build()
            }
            Step::Clear { name, .. } => opcode::UnlinkAt::new(directory, name.as_ptr()).build(),
            Step::Take { from, to, .. } | Step::Retire { from, to } => {
                opcode::RenameAt::new(directory, from.as_ptr(), directory, to.as_ptr()).build()
            }
            Step::Open { name, .. } => open(name, site.direct_flag),
            Step::Write { file, offset, buffer, done } => {
                let rest = &buffer[*done..];
                let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), rest.as_ptr(), rest.len() as u32)
                    .offset(offset + *done as u64)
                    .build();
                // Into the page cache the kernel would copy at once, on the thread that serves.
                entry.flags(if site.direct_flag.is_empty() { Flags::ASYNC } else { Flags::empty() })
            }
            Step::Sync { file, .. } => opcode::Fsync::new(types::Fd(file.as_raw_fd())).build(),
        }
    }

    /// Takes the kernel's answer.
    pub(super) fn finish(self, result: i32, site: &mut Site) -> Progress {
        let what = self.to_string();
        let failed = |e: &io::Error| Progress::Done(Err(disk_error(&what, e)), None);
        match (self, answer(result)) {
            (Step::OpenReserve { bytes, .. }, Ok(number)) => {
                Progress::Next(Step::Allocate { file: Rc::new(opened(number)), bytes })
            }
            (Step::Clear { then, .. }, answer) if is_gone(&answer) => match then {
                None => Progress::Done(Ok(()), None),
                Some((file, true)) => {
                    let (from, to) = (c_name(RESERVE_FILE_NAME.into()), c_name(file.name()));
                    Progress::Next(Step::Take { from, to, file })
                }
                Some((file, false)) => Progress::Next(Step::Open { name: c_name(file.name()), file }),
            },
            (Step::Take { to, file, .. }, answer) if is_gone(&answer) => Progress::Next(Step::Open { name: to, file }),
            (Step::Open { file, .. }, Ok(number)) => {
                site.open = Some((file, Rc::new(opened(number))));
                Progress::Done(Ok(()), None)
            }
            (Step::Write { file, offset, buffer, done }, Ok(count)) => {
                // A short write is no failure: the next one tells why, or goes on from the block it stopped in.
                match done + count as usize / WAL_BLOCK_BYTES * WAL_BLOCK_BYTES {
                    end if end >= buffer.len() => Progress::Done(Ok(()), Some(buffer)),
                    end if end > done => Progress::Next(Step::Write { file, offset, buffer, done: end }),
                    _ => {
                        let text = format!("{what}: only {count} bytes were written");
                        Progress::Done(Err(DiskError::Failed(text)), Some(buffer))
                    }
                }
            }
            (Step::Write { buffer, .. }, Err(e)) => Progress::Done(Err(disk_error(&what, &e)), Some(buffer)),
            (_, Ok(_)) => Progress::Done(Ok(()), None),
            (_, Err(e)) => failed(&e),
        }
    }

    /// The buffer that it holds.
    pub(super) fn into_buffer(self) -> Option<AlignedBuffer> {
        match self {
            Step::Write { buffer, .. } => Some(buffer),
            _ => None,
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::OpenReserve { name, .. } | Step::Open { name, .. } => write!(f, "open {}", name.to_string_lossy()),
            Step::Allocate { bytes, .. } => write!(f, "keep {bytes} bytes free for a checkpoint"),
            Step::Clear { name, .. } => write!(f, "remove {}", name.to_string_lossy()),
            Step::Take { from, to, .. } | Step::Retire { from, to } => {
                write!(f, "rename {} to {}", from.to_string_lossy(), to.to_string_lossy())
            }
            Step::Write { offset, .. } => write!(f, "write to a checkpoint at {offset}"),
            Step::Sync { name, .. } => write!(f, "sync {name}"),
        }
    }
}

fn opened(number: u32) -> File {
    // SAFETY: a successful openat answers with a new descriptor, which nobody else knows of.
    File::from(unsafe { OwnedFd::from_raw_fd(number as i32) })
}

fn c_name(name: String) -> CString {
    CString::new(name).expect("the name of a checkpoint's file has no zero byte")
}
