//! What must be so before a server can serve. Each refusal says what to do about it.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

use crate::limits::{EXECUTOR_IO_BYTES, EXECUTOR_MEMLOCK_BYTES_MIN, LINGERING_CONNECTIONS_MAX, STORE_FILES};

/// Why this machine or this process cannot run a server.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages say it.
pub enum CheckError {
    #[error(
        "the kernel refuses io_uring ({0}); allow it: sysctl kernel.io_uring_disabled=0, and in a container a seccomp \
         profile that permits io_uring_setup, io_uring_enter and io_uring_register"
    )]
    UringRefused(io::Error),
    #[error("the kernel has no io_uring; use Linux 5.11 or later")]
    UringAbsent,
    #[error("io_uring cannot be set up: {0}")]
    UringFailed(io::Error),
    #[error(
        "this process may lock {allowed} bytes of memory and needs {needed}; raise the limit with `ulimit -l {kib}`, \
         LimitMEMLOCK={needed} in a systemd unit, or --ulimit memlock={needed} of a container",
        kib = needed / 1_024
    )]
    LockedMemory { allowed: u64, needed: u64 },
    #[error(
        "this process may open {allowed} files and needs {needed} before its first connection; raise the limit with \
         `ulimit -n {suggested}`, or LimitNOFILE={suggested} in a systemd unit"
    )]
    Files { allowed: u64, needed: u64, suggested: u64 },
}

/// Checks everything for a server of so many stores, and raises the limits that may be raised. Returns how many of the
/// wanted connections each store can have.
///
/// # Errors
/// The first thing that is missing.
pub fn run(stores: u16, connections: usize) -> Result<usize, CheckError> {
    locked_memory(u64::from(stores))?;
    let connections = files(u64::from(stores), connections as u64)?;
    io_uring()?;
    Ok(connections as usize)
}

/// The executors register buffers with io_uring, which count as locked memory, and refuse to start under a minimum.
fn locked_memory(stores: u64) -> Result<(), CheckError> {
    let registered = stores * 3 * EXECUTOR_IO_BYTES as u64;
    let needed = registered.max(EXECUTOR_MEMLOCK_BYTES_MIN);
    let allowed = raise(Resource::Memlock, needed);
    if allowed < needed { Err(CheckError::LockedMemory { allowed, needed }) } else { Ok(()) }
}

/// Every connection is a file, and so is one that is refused until it has read why. Too few files for all connections is
/// worth a warning. A store then refuses by name what the whole process has no files for, instead of leaving those clients to
/// wait in the kernel; only when several stores are that full together, they wait.
fn files(stores: u64, connections: u64) -> Result<u64, CheckError> {
    let needed = stores * STORE_FILES as u64;
    let refused = stores * LINGERING_CONNECTIONS_MAX as u64;
    let suggested = needed + refused + stores * connections;
    let allowed = raise(Resource::Nofile, suggested);
    if allowed < needed {
        return Err(CheckError::Files { allowed, needed, suggested });
    }
    let possible = (allowed - needed).saturating_sub(refused).max(1);
    if possible < stores * connections {
        tracing::warn!(
            files = allowed,
            connections = possible,
            wanted = stores * connections,
            "the file limit allows fewer connections than the configuration; raise it with ulimit -n or LimitNOFILE"
        );
    }
    Ok(possible.min(connections))
}

/// Raises a limit to `wanted` as far as it may be raised, and returns what it is then.
fn raise(resource: Resource, wanted: u64) -> u64 {
    let limit = getrlimit(resource);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= wanted {
        return current;
    }
    // Beyond the hard limit only a privileged process may go; for others the hard limit is the end.
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    let attempts = [
        Rlimit { current: Some(wanted), maximum },
        Rlimit { current: Some(limit.maximum.unwrap_or(u64::MAX).min(wanted)), maximum: limit.maximum },
    ];
    // A refusal is seen in the limit read back.
    let _ = attempts.into_iter().any(|attempt| setrlimit(resource, attempt).is_ok());
    getrlimit(resource).current.unwrap_or(u64::MAX)
}

fn io_uring() -> Result<(), CheckError> {
    let Err(error) = io_uring::IoUring::new(8) else { return Ok(()) };
    Err(match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => CheckError::UringRefused(error),
        Some(Errno::NOSYS) => CheckError::UringAbsent,
        _ => CheckError::UringFailed(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_run_a_small_server() {
        run(2, 100).expect("the tests need io_uring and 512 KiB of locked memory");
    }

    #[test]
    fn messages_say_what_to_do() {
        let text = CheckError::LockedMemory { allowed: 65_536, needed: 524_288 }.to_string();
        assert!(text.contains("ulimit -l 512") && text.contains("LimitMEMLOCK=524288"), "{text}");
        let text = CheckError::Files { allowed: 10, needed: 64, suggested: 16_448 }.to_string();
        assert!(text.contains("ulimit -n 16448"), "{text}");
    }

    #[test]
    fn a_limit_that_suffices_is_left_alone() {
        let before = getrlimit(Resource::Nofile);
        assert_eq!(raise(Resource::Nofile, 1), before.current.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile), before);
    }
}
