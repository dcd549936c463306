//! The lock on a data directory: one server at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

/// Name of the lock file. It stays when the server ends; the kernel drops the lock with the process, however it dies.
pub(super) const LOCK_FILE: &str = "LOCK";

/// Holds a data directory until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Why a data directory could not be locked.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages say it.
pub enum LockError {
    #[error("cannot {action} {path}: {error}", path = .path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    #[error("the data directory {directory} is in use by {holder}; stop that server, or choose another --data-dir",
        directory = .directory.display())]
    InUse { directory: PathBuf, holder: String },
}

impl DirectoryLock {
    /// Creates the data directory if it is missing, durably, and locks it.
    ///
    /// # Errors
    /// If another process holds it, or the file system refuses.
    pub fn acquire(directory: &Path) -> Result<DirectoryLock, LockError> {
        let path = directory.join(LOCK_FILE);
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |error| LockError::Io { action, path, error }
        };
        create_directory(directory).map_err(failed("create", directory))?;
        // Not truncated: until the lock is ours, the text is the holder's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        lock(&file, directory, &path)?;
        file.set_len(0).map_err(failed("write", &path))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("write", &path))?;
        Ok(DirectoryLock { _file: file })
    }

    /// Locks a data directory and writes nothing, not even whose the lock is now. None if it has no lock file: then no server has ever
    /// held it.
    ///
    /// # Errors
    /// If another process holds it, or the file system refuses.
    pub fn acquire_to_look(directory: &Path) -> Result<Option<DirectoryLock>, LockError> {
        let path = directory.join(LOCK_FILE);
        match File::open(&path) {
            Ok(file) => {
                lock(&file, directory, &path)?;
                Ok(Some(DirectoryLock { _file: file }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LockError::Io { action: "open", path, error }),
        }
    }
}

fn lock(file: &File, directory: &Path, path: &Path) -> Result<(), LockError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let holder = fs::read_to_string(path).unwrap_or_default();
            let holder = match holder.trim() {
                "" => "another process".into(),
                process => format!("process {process}"),
            };
            Err(LockError::InUse { directory: directory.into(), holder })
        }
        Err(errno) => Err(LockError::Io { action: "lock", path: path.into(), error: errno.into() }),
    }
}

/// Creates a directory and what is missing above it. A directory exists for certain once its parent is synced.
fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_serves_one_server_at_a_time() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let directory = parent.path().join("a/b");
        let lock = DirectoryLock::acquire(&directory).expect("created and locked");
        let error = DirectoryLock::acquire(&directory).expect_err("held").to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(lock);
        DirectoryLock::acquire(&directory).expect("free again");
    }

    #[test]
    fn a_look_locks_and_writes_nothing() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        assert!(DirectoryLock::acquire_to_look(parent.path()).expect("nobody holds it").is_none());
        assert_eq!(fs::read_dir(parent.path()).expect("it is there").count(), 0);
        drop(DirectoryLock::acquire(parent.path()).expect("locked"));
        let before = fs::read(parent.path().join(LOCK_FILE)).expect("it is there");
        let look = DirectoryLock::acquire_to_look(parent.path()).expect("free").expect("there is a file");
        assert!(
            DirectoryLock::acquire(parent.path()).is_err() && DirectoryLock::acquire_to_look(parent.path()).is_err()
        );
        assert_eq!(fs::read(parent.path().join(LOCK_FILE)).expect("it is there"), before);
        drop(look);
        let _server = DirectoryLock::acquire(parent.path()).expect("free again");
        assert!(DirectoryLock::acquire_to_look(parent.path()).is_err());
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_named() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let file = parent.path().join("file");
        fs::write(&file, "").expect("written");
        let error = DirectoryLock::acquire(&file.join("data")).expect_err("not a directory").to_string();
        assert!(error.contains("file/data"), "{error}");
    }
}
