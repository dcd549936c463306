//! The directory of a store's log on a real file system: made durably, probed once, and read by recovery.
//!
//! Everything here blocks, and runs before the store serves. Three things are worth knowing:
//!
//! - **Creation is durable.** A directory exists for certain only once its *parent* has been synced; a log whose
//!   directory vanishes in a power cut is lost with every acknowledgement in it.
//! - **O_DIRECT is decided once.** Some file systems refuse it when a file is opened, some only when it is written,
//!   and some want a larger alignment than [`WAL_BLOCK_BYTES`]. So a probe file is written, and its fate settles how
//!   this directory is read and written from then on, by recovery and by [`Disk`](super::disk::Disk) alike.
//! - **Without O_DIRECT a read proves little.** What the page cache returns may never have reached the disk, and after
//!   a failed write-back the kernel even counts such a page as clean, so that a sync skips it. Rule W1 therefore has
//!   [`harden`](SegmentDir::harden) write the bytes again before it syncs.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::node::log_path;
use crate::engine::input::DiskError;
use crate::engine::wal::{
    AlignedBuffer, FileInfo, SegmentDir, parse_segment_file_name, segment_file_name, unfinished_file_name,
};
use crate::ids::{SegmentEpoch, StoreId};
use crate::limits::{WAL_BLOCK_BYTES, WAL_ZERO_BYTES_MAX};

/// Permissions of directories and files: the log holds every client's keys, so they are for the server's user alone.
const DIRECTORY_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// The directory of one store's log: `store-NNN/wal` inside the data directory.
#[derive(Debug)]
pub struct LogDirectory {
    path: PathBuf,
    handle: File,
    direct_io: bool,
    /// The segment read last, kept open: recovery reads a segment from front to back.
    reading: Option<(SegmentEpoch, File)>,
}

impl LogDirectory {
    /// Opens the log's directory of a store, creating durably what is missing of the path to it, and finds out
    /// whether it can be written past the page cache.
    ///
    /// # Errors
    /// What the file system answered, with the path it concerns.
    pub fn open(data_directory: &Path, store: StoreId) -> Result<LogDirectory, DiskError> {
        let path = log_path(data_directory, store);
        let store_directory = path.parent().unwrap_or(data_directory);
        for directory in [data_directory, store_directory, &path] {
            create_directory(directory).map_err(|e| disk_error(format_args!("create {}", directory.display()), &e))?;
        }
        LogDirectory::open_existing(path)
    }

    fn open_existing(path: PathBuf) -> Result<LogDirectory, DiskError> {
        let failed = |what: &str, e: &io::Error| disk_error(format_args!("{what} {}", path.display()), e);
        let handle = File::open(&path).map_err(|e| failed("open", &e))?;
        let direct_io = accepts_direct_io(&handle).map_err(|e| failed("write a probe file in", &e))?;
        Ok(LogDirectory { path, handle, direct_io, reading: None })
    }

    /// Opens the log's directory of a store to read it, and changes nothing: no probe is written, so whether the page cache can be
    /// passed by is tried on a segment. None if there is no such directory.
    ///
    /// # Errors
    /// What the file system answered, with the path it concerns.
    pub fn open_to_look(data_directory: &Path, store: StoreId) -> Result<Option<LogDirectory>, DiskError> {
        let path = log_path(data_directory, store);
        let handle = match File::open(&path) {
            Ok(handle) => handle,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(disk_error(format_args!("open {}", path.display()), &e)),
        };
        let mut directory = LogDirectory { path, handle, direct_io: true, reading: None };
        let epochs: Vec<_> = directory.list()?.iter().filter_map(|file| parse_segment_file_name(&file.name)).collect();
        let mut block = AlignedBuffer::zeroed(WAL_BLOCK_BYTES);
        directory.direct_io = epochs.iter().all(|&epoch| directory.read(epoch, 0, &mut block).is_ok());
        Ok(Some(directory))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether files here are read and written past the page cache. If not, the server should warn: the log is as
    /// durable, but slower, and recovery has to write again what it accepts.
    #[must_use]
    pub fn direct_io(&self) -> bool {
        self.direct_io
    }

    /// A handle of the directory itself.
    pub(super) fn handle(&self) -> &File {
        &self.handle
    }

    /// Treats the directory as one that refuses O_DIRECT.
    #[cfg(test)]
    pub(super) fn pretend_buffered(&mut self) {
        self.direct_io = false;
    }

    /// The flag that takes this directory's files past the page cache, where that is possible.
    pub(super) fn direct_flag(&self) -> OFlags {
        if self.direct_io { OFlags::DIRECT } else { OFlags::empty() }
    }

    fn open_segment(&self, epoch: SegmentEpoch, access: OFlags) -> Result<File, DiskError> {
        let name = segment_file_name(epoch);
        let flags = access | self.direct_flag() | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.handle, &name, flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| disk_error(format_args!("open {name}"), &errno.into()))
    }

    /// Writes the first `bytes` of a segment again, as they are.
    fn rewrite(file: &File, bytes: u64) -> io::Result<()> {
        let mut chunk = AlignedBuffer::zeroed(WAL_ZERO_BYTES_MAX);
        let mut offset = 0;
        while offset < bytes {
            let len = (bytes - offset).min(WAL_ZERO_BYTES_MAX as u64);
            chunk.resize_zeroed(len as usize);
            file.read_exact_at(&mut chunk, offset)?;
            file.write_all_at(&chunk, offset)?;
            offset += len;
        }
        Ok(())
    }
}

impl SegmentDir for LogDirectory {
    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        let failed = |e: &io::Error| disk_error(format_args!("list {}", self.path.display()), e);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(|e| failed(&e))? {
            let entry = entry.map_err(|e| failed(&e))?;
            let metadata = entry.metadata().map_err(|e| failed(&e))?;
            if !metadata.is_file() {
                continue;
            }
            let name = entry.file_name().into_string().map_err(|name| {
                DiskError::Failed(format!("{} holds a file that is not the log's: {name:?}", self.path.display()))
            })?;
            files.push(FileInfo { name, bytes: metadata.len() });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn read(&mut self, epoch: SegmentEpoch, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        let file = match self.reading.take() {
            Some((open, file)) if open == epoch => file,
            _ => self.open_segment(epoch, OFlags::RDONLY)?,
        };
        let len = into.len();
        let describe = || format!("read {len} bytes at {offset} of {}", segment_file_name(epoch));
        let bytes = file.metadata().map_err(|e| disk_error(describe(), &e))?.len();
        // Past the end O_DIRECT would answer with a puzzling EINVAL; this says what is the matter.
        if offset.checked_add(len as u64).is_none_or(|end| end > bytes) {
            return Err(DiskError::Failed(format!("{}: the file ends at {bytes}", describe())));
        }
        file.read_exact_at(into, offset).map_err(|e| disk_error(describe(), &e))?;
        self.reading = Some((epoch, file));
        Ok(())
    }

    fn harden(&mut self, epoch: SegmentEpoch, bytes: u64) -> Result<(), DiskError> {
        let file = self.open_segment(epoch, OFlags::RDWR)?;
        let rewritten = if self.direct_io { Ok(()) } else { LogDirectory::rewrite(&file, bytes) };
        rewritten
            .and_then(|()| file.sync_all())
            .map_err(|e| disk_error(format_args!("make {} durable", segment_file_name(epoch)), &e))
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.reading = None;
        rustix::fs::unlinkat(&self.handle, name, AtFlags::empty())
            .map_err(|errno| disk_error(format_args!("remove {name}"), &errno.into()))
    }

    fn sync_dir(&mut self) -> Result<(), DiskError> {
        self.handle.sync_all().map_err(|e| disk_error(format_args!("sync {}", self.path.display()), &e))
    }
}

/// Makes a directory and those above it that are missing, each durable in its parent.
///
/// The parent of one that exists is synced too: an earlier run may have been killed between making and syncing it.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    let make = || DirBuilder::new().mode(DIRECTORY_MODE).create(path);
    let made = match make() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create_directory(parent)?;
            make()
        }
        made => made,
    };
    let existed = match made {
        Ok(()) => false,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => true,
        Err(e) => return Err(e),
    };
    match File::open(parent) {
        // An administrator made it, in a place we may pass through but not read: its durability is not ours.
        Err(e) if existed && e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        opened => opened?.sync_all(),
    }
}

/// Whether a block written with O_DIRECT, aligned as the log aligns, is accepted here.
fn accepts_direct_io(directory: &File) -> io::Result<bool> {
    // Epoch 0 is "none": no segment has this name, and recovery removes it should we be killed right here.
    let name = unfinished_file_name(SegmentEpoch(0));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::DIRECT;
    let accepted = match rustix::fs::openat(directory, &name, flags, Mode::from_raw_mode(FILE_MODE)) {
        Ok(file) => match File::from(file).write_all_at(&AlignedBuffer::zeroed(WAL_BLOCK_BYTES), 0) {
            // A full disk says nothing about alignment; opening succeeded, so direct I/O is there.
            Err(e) if is_full(&e) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(false),
            written => written.map(|()| true),
        },
        Err(rustix::io::Errno::INVAL) => Ok(false),
        // Nothing can be learnt on a disk this full; buffered works everywhere.
        Err(errno) if is_full(&errno.into()) => Ok(false),
        Err(errno) => Err(errno.into()),
    };
    // Opening may have failed after the file was made, so it is removed whatever happened.
    match rustix::fs::unlinkat(directory, &name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => accepted,
        Err(errno) => accepted.and(Err(errno.into())),
    }
}

/// Whether an error says that the disk, or the user's share of it, is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What the engine is told about an error: whether the disk is full, and otherwise what went wrong with which file.
pub(super) fn disk_error(operation: impl std::fmt::Display, error: &io::Error) -> DiskError {
    if is_full(error) { DiskError::Full } else { DiskError::Failed(format!("{operation}: {error}")) }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    const EPOCH: SegmentEpoch = SegmentEpoch(7);

    fn directory_with(content: &[u8]) -> (tempfile::TempDir, LogDirectory) {
        let data = tempfile::tempdir().expect("a temporary directory");
        let directory = LogDirectory::open(data.path(), StoreId(3)).expect("the directory can be made");
        std::fs::write(directory.path().join(segment_file_name(EPOCH)), content).expect("a file can be written");
        (data, directory)
    }

    fn pattern(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|place| (place / 7) as u8).collect()
    }

    #[test]
    fn the_whole_path_is_made_and_nothing_is_left_of_the_probe() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let data = temporary.path().join("not/there/yet");
        for _ in 0..2 {
            let mut directory = LogDirectory::open(&data, StoreId(12)).expect("the directory can be made");
            assert_eq!(directory.path(), data.join("store-012/wal"));
            assert_eq!(directory.list(), Ok(vec![]));
        }
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let data = temporary.path().join("data");
        std::fs::write(&data, b"").expect("a file can be written");
        let error = LogDirectory::open(&data, StoreId(0)).expect_err("a file is no directory");
        assert!(error.to_string().contains(data.to_str().expect("temporary names are UTF-8")), "{error}");
    }

    #[test]
    fn only_regular_files_are_listed_in_order() {
        let (_data, mut directory) = directory_with(b"12345");
        std::fs::create_dir(directory.path().join("a directory")).expect("a directory can be made");
        std::os::unix::fs::symlink("/dev/null", directory.path().join("a link")).expect("a link can be made");
        std::fs::write(directory.path().join("0"), b"").expect("a file can be written");
        let file = |name: &str, bytes| FileInfo { name: name.into(), bytes };
        assert_eq!(directory.list(), Ok(vec![file("0", 0), file("0000000000000007.wal", 5)]));
        directory.remove("0").and_then(|()| directory.sync_dir()).expect("a file can be removed");
        assert!(directory.remove("0").is_err());
        assert_eq!(directory.list(), Ok(vec![file("0000000000000007.wal", 5)]));

        std::fs::write(directory.path().join(OsStr::from_bytes(b"\xff")), b"").expect("a file can be written");
        assert!(matches!(directory.list(), Err(DiskError::Failed(text)) if text.contains("\\xFF")));
    }

    #[test]
    fn reads_are_whole_or_an_error() {
        let content = pattern(3 * WAL_BLOCK_BYTES);
        let (_data, mut directory) = directory_with(&content);
        for direct in [directory.direct_io, false] {
            directory.direct_io = direct;
            directory.reading = None;
            let mut buffer = AlignedBuffer::zeroed(2 * WAL_BLOCK_BYTES);
            let block = WAL_BLOCK_BYTES as u64;
            directory.read(EPOCH, block, &mut buffer).expect("the bytes are there");
            assert!(buffer[..] == content[WAL_BLOCK_BYTES..]);
            for offset in [2 * block, 3 * block, u64::MAX - block + 1] {
                let error = directory.read(EPOCH, offset, &mut buffer);
                assert!(matches!(&error, Err(DiskError::Failed(text)) if text.contains("ends at 12288")), "{error:?}");
            }
            assert!(directory.read(SegmentEpoch(8), 0, &mut buffer).is_err());
        }
    }

    #[test]
    fn hardening_changes_nothing() {
        let content = pattern(WAL_ZERO_BYTES_MAX + 3 * WAL_BLOCK_BYTES);
        let (_data, mut directory) = directory_with(&content);
        for direct in [directory.direct_io, false] {
            directory.direct_io = direct;
            directory.harden(EPOCH, (WAL_ZERO_BYTES_MAX + WAL_BLOCK_BYTES) as u64).expect("the bytes are there");
            let now = std::fs::read(directory.path().join(segment_file_name(EPOCH)));
            assert!(now.expect("the file can be read") == content);
        }
        assert!(directory.harden(EPOCH, content.len() as u64 + 1).is_err(), "more than the file holds");
        assert!(directory.harden(SegmentEpoch(8), 0).is_err(), "no such segment");
    }

    #[test]
    fn a_link_is_no_segment() {
        let (_data, mut directory) = directory_with(&pattern(WAL_BLOCK_BYTES));
        let link = directory.path().join(segment_file_name(SegmentEpoch(8)));
        std::os::unix::fs::symlink(segment_file_name(EPOCH), link).expect("a link can be made");
        assert!(directory.read(SegmentEpoch(8), 0, &mut AlignedBuffer::zeroed(WAL_BLOCK_BYTES)).is_err());
    }
}
