//! The files that are meant, and how they are read.
//!
//! ```text
//! DIR                     a data directory: every store in it
//! └── store-000           a store's directory
//!     ├── wal             its log: segments
//!     └── checkpoint      its checkpoints
//! ```

use crate::args::UsageError;
use dkc::engine::checkpoint::{CheckpointDir, CheckpointFile};
use dkc::engine::input::DiskError;
use dkc::engine::wal::{AlignedBuffer, FileInfo, SegmentDir, segment_file_name};
use dkc::ids::SegmentEpoch;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Name of a log's directory in its store's.
pub(crate) const LOG: &str = "wal";
/// Name of the directory of checkpoints in a store's.
pub(crate) const CHECKPOINTS: &str = "checkpoint";

/// The directories called `name` that `path` stands for: of each store of a data directory, of a store, or itself. `extension` is
/// that of the files in them.
pub(crate) fn directories(path: &Path, name: &str, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let holds_files = |folder: &Path| -> io::Result<bool> {
        Ok(entries(folder)?.iter().any(|entry| entry.extension().is_some_and(|found| found == extension)))
    };
    if path.file_name().is_some_and(|found| found == name) || holds_files(path)? {
        return Ok(vec![path.to_path_buf()]);
    }
    if path.join(name).is_dir() {
        return Ok(vec![path.join(name)]);
    }
    let is_store = |entry: &PathBuf| {
        let found = entry.file_name().map(|found| found.to_string_lossy().into_owned()).unwrap_or_default();
        found.starts_with("store-") && entry.join(name).is_dir()
    };
    let found: Vec<PathBuf> = entries(path)?.into_iter().filter(is_store).map(|store| store.join(name)).collect();
    if found.is_empty() {
        let text =
            format!("{}: neither a data directory nor a store's, and no .{extension} file in it", path.display());
        return Err(UsageError(text).into());
    }
    Ok(found)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// A directory and the name of a file in it. A file without a directory before it is in the current one.
pub(crate) fn parted(path: &Path) -> anyhow::Result<(PathBuf, String)> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let name = name.ok_or_else(|| UsageError(format!("{}: not the name of such a file", path.display())))?;
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    Ok((folder.to_path_buf(), name))
}

/// A directory whose regular files are read.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The file read last, kept open.
    reading: Option<(String, File)>,
}

impl Folder {
    pub(crate) fn new(path: &Path) -> Folder {
        Folder { path: path.to_path_buf(), reading: None }
    }

    /// Regular files, sorted by name. Names that are not text are not ours.
    fn files(&self) -> Result<Vec<FileInfo>, DiskError> {
        let failed = |error: &io::Error| DiskError::Failed(format!("list {}: {error}", self.path.display()));
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|error| failed(&error))? {
            let entry = entry.map_err(|error| failed(&error))?;
            let metadata = entry.metadata().map_err(|error| failed(&error))?;
            if let Some(name) = entry.file_name().to_str().filter(|_| metadata.is_file()) {
                files.push(FileInfo { name: name.to_owned(), bytes: metadata.len() });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// Length of a regular file.
    pub(crate) fn length(&self, name: &str) -> io::Result<u64> {
        let metadata = fs::metadata(self.path.join(name))?;
        if metadata.is_file() { Ok(metadata.len()) } else { Err(io::Error::other("not a regular file")) }
    }

    fn read_file(&mut self, name: &str, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let len = into.len();
        let failed = |error: io::Error| DiskError::Failed(format!("read {len} bytes at {offset} of {name}: {error}"));
        let file = match self.reading.take() {
            Some((open, file)) if open == name => file,
            _ => File::open(self.path.join(name)).map_err(failed)?,
        };
        let bytes = file.metadata().map_err(failed)?.len();
        if offset.checked_add(len as u64).is_none_or(|end| end > bytes) {
            return Err(DiskError::Failed(format!("{name} ends at {bytes}, before {len} bytes at {offset}")));
        }
        file.read_exact_at(into, offset).map_err(failed)?;
        self.reading = Some((name.to_owned(), file));
        Ok(())
    }
}

/// Only what reads is asked of it; what would change something does nothing.
impl SegmentDir for Folder {
    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        self.files()
    }

    fn read(&mut self, epoch: SegmentEpoch, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        self.read_file(&segment_file_name(epoch), offset, into)
    }

    fn harden(&mut self, _: SegmentEpoch, _: u64) -> Result<(), DiskError> {
        Ok(())
    }

    fn remove(&mut self, _: &str) -> Result<(), DiskError> {
        Ok(())
    }

    fn sync_dir(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

impl CheckpointDir for Folder {
    fn list(&mut self) -> Result<Vec<CheckpointFile>, DiskError> {
        Ok(self.files()?.iter().filter_map(|file| CheckpointFile::parse(&file.name)).collect())
    }

    fn read(&mut self, file: CheckpointFile, offset: u64, into: &mut AlignedBuffer) -> Result<(), DiskError> {
        self.read_file(&file.name(), offset, into)
    }
}
