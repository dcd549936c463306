//! The directory of a store's checkpoints on a real file system: `store-NNN/checkpoint`, beside its log.
//!
//! Everything here blocks, and runs before the store serves; while it serves, [`Disk`](super::disk::Disk) writes the files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::segment_dir::{LogDirectory, create_directory, disk_error};
use crate::engine::checkpoint::{CheckpointDir, CheckpointFile, StoreDir};
use crate::engine::input::DiskError;
use crate::engine::wal::{AlignedBuffer, SegmentDir};
use crate::ids::StoreId;

/// Where the checkpoints of one store are.
#[derive(Debug)]
pub struct CheckpointDirectory {
    path: PathBuf,
    handle: File,
    direct_flag: OFlags,
    /// The file read last, kept open: each is read from front to back.
    reading: Option<(CheckpointFile, File)>,
}

/// Everything durable of one store.
#[derive(Debug)]
pub struct StoreDirectory {
    /// Its log.
    pub log: LogDirectory,
    /// Its checkpoints.
    pub checkpoints: CheckpointDirectory,
}

impl StoreDirectory {
    /// Opens the directories of a store, creating durably what is missing.
    ///
    /// # Errors
    /// What the file system answered, with the path it concerns.
    pub fn open(data_directory: &Path, store: StoreId) -> Result<StoreDirectory, DiskError> {
        let log = LogDirectory::open(data_directory, store)?;
        let path = path_beside(&log);
        let failed = |what: &str, e: &std::io::Error| disk_error(format_args!("{what} {}", path.display()), e);
        create_directory(&path).map_err(|e| failed("create", &e))?;
        let handle = File::open(&path).map_err(|e| failed("open", &e))?;
        let direct_flag = log.direct_flag();
        Ok(StoreDirectory { log, checkpoints: CheckpointDirectory { path, handle, direct_flag, reading: None } })
    }
}

impl StoreDir for StoreDirectory {
    fn log(&mut self) -> &mut dyn SegmentDir {
        &mut self.log
    }

    fn checkpoints(&mut self) -> &mut dyn CheckpointDir {
        &mut self.checkpoints
    }
}

/// The checkpoints' directory of the store that has this log.
fn path_beside(log: &LogDirectory) -> PathBuf {
    log.path().with_file_name("checkpoint")
}

impl CheckpointDirectory {
    /// Opens the directory beside a log to read it, and changes nothing. None if there is no such directory.
    ///
    /// # Errors
    /// What the file system answered, with the path it concerns.
    pub fn open_to_look(log: &LogDirectory) -> Result<Option<CheckpointDirectory>, DiskError> {
        let path = path_beside(log);
        match File::open(&path) {
            Ok(handle) => {
                let direct_flag = log.direct_flag();
                Ok(Some(CheckpointDirectory { path, handle, direct_flag, reading: None }))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(disk_error(format_args!("open {}", path.display()), &e)),
        }
    }

    /// A handle of the directory itself.
    pub(super) fn handle(&self) -> &File {
        &self.handle
    }

    /// The flag that takes its files past the page cache, where that is possible.
    pub(super) fn direct_flag(&self) -> OFlags {
        self.direct_flag
    }
}

impl CheckpointDir for CheckpointDirectory {
    fn list(&mut self) -> Result<Vec<CheckpointFile>, DiskError> {
        let failed = |e: &std::io::Error| disk_error(format_args!("list {}", self.path.display()), e);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(|e| failed(&e))? {
            let name = entry.map_err(|e| failed(&e))?.file_name();
            files.extend(name.to_str().and_then(CheckpointFile::parse));
        }
        files.sort_unstable();
        Ok(files)
    }

    fn read(&mut self, file: CheckpointFile, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        let name = file.name();
        let open = match self.reading.take() {
            Some((before, open)) if before == file => open,
            _ => {
                let flags = OFlags::RDONLY | self.direct_flag | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let opened = rustix::fs::openat(&self.handle, &name, flags, Mode::empty());
                File::from(opened.map_err(|errno| disk_error(format_args!("open {name}"), &errno.into()))?)
            }
        };
        open.read_exact_at(into, offset)
            .map_err(|e| disk_error(format_args!("read {} bytes at {offset} of {name}", into.len()), &e))?;
        self.reading = Some((file, open));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{CheckpointNumber, ShardId};

    #[test]
    fn checkpoints_are_listed_and_read_whole_or_not_at_all() {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut store = StoreDirectory::open(data.path(), StoreId(2)).expect("it can be made");
        let directory = data.path().join("store-002/checkpoint");
        let file = CheckpointFile { shard: ShardId(3), number: CheckpointNumber(4) };
        let content: Vec<u8> = (0..8_192u32).map(|place| (place / 5) as u8).collect();
        std::fs::write(directory.join(file.name()), &content).expect("written");
        std::fs::write(directory.join("reserve"), [0; 10]).expect("written");
        assert_eq!(store.checkpoints().list(), Ok(vec![file]));
        let mut buffer = AlignedBuffer::zeroed(4_096);
        store.checkpoints().read(file, 4_096, &mut buffer).expect("it is there");
        assert!(buffer[..] == content[4_096..]);
        assert!(store.checkpoints().read(file, 8_192, &mut buffer).is_err());
        let other = CheckpointFile { number: CheckpointNumber(5), ..file };
        assert!(store.checkpoints().read(other, 0, &mut buffer).is_err());
    }
}
