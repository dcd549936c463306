//! What the machine itself can do: one durable write, and one round trip over TCP, with nothing around them.
//!
//! An increment on one connection needs both, one after the other, so their sum is what no server can go below. Plain
//! system calls that block, on purpose: it is a yardstick that anybody can check.

use crate::tally::{histogram, record};
use anyhow::Context;
use dkc::engine::wal::AlignedBuffer;
use hdrhistogram::Histogram;
use rustix::fs::{OFlags, fdatasync};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// What a log with one request at a time writes: a block.
const BLOCK_BYTES: usize = 4 << 10;
/// The file is written from its beginning to its end, again and again, as the segments of a log are.
const FILE_BYTES: usize = 16 << 20;
/// About the size of a small request, and of its answer.
const MESSAGE_BYTES: usize = 64;

/// A file of durable zeros.
#[derive(Debug)]
pub(crate) struct DurableFile {
    file: File,
    block: AlignedBuffer,
    writes: u64,
    /// Whether writes bypass the page cache. Not every file system can do that.
    pub(crate) is_direct: bool,
}

impl DurableFile {
    /// A new file in a folder, which has no name there for long.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn create(folder: &Path) -> anyhow::Result<DurableFile> {
        let path = folder.join(format!(".dkc-bench-{}", std::process::id()));
        let context = || format!("cannot write {}", path.display());
        let open = |options: &mut OpenOptions| options.write(true).open(&path);
        let mut plain = open(OpenOptions::new().create_new(true)).with_context(context)?;
        let made = plain.write_all(&vec![0; FILE_BYTES]).and_then(|()| plain.sync_all());
        let direct = open(OpenOptions::new().custom_flags(OFlags::DIRECT.bits() as i32));
        // Nobody shall find it if this process is killed.
        fs::remove_file(&path).with_context(context)?;
        made.with_context(context)?;
        let is_direct = direct.is_ok();
        Ok(DurableFile {
            file: direct.unwrap_or(plain),
            block: AlignedBuffer::zeroed(BLOCK_BYTES),
            writes: 0,
            is_direct,
        })
    }

    /// Writes and syncs one block after another for so long.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn measure(&mut self, duration: Duration) -> anyhow::Result<Histogram<u64>> {
        let mut times = histogram();
        let start = Instant::now();
        while start.elapsed() < duration {
            self.writes += 1;
            self.block[..8].copy_from_slice(&self.writes.to_le_bytes());
            let place = self.writes % (FILE_BYTES / BLOCK_BYTES) as u64 * BLOCK_BYTES as u64;
            let before = Instant::now();
            self.file.write_all_at(&self.block, place).context("a write of the floor")?;
            fdatasync(&self.file).context("a sync of the floor")?;
            record(&mut times, before.elapsed());
        }
        Ok(times)
    }
}

/// A connection to a thread that sends back what it receives. The thread ends with the connection.
#[derive(Debug)]
pub(crate) struct Echo {
    stream: TcpStream,
}

impl Echo {
    /// # Errors
    /// There are no sockets or threads.
    pub(crate) fn start() -> anyhow::Result<Echo> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        stream.set_nodelay(true)?;
        let (mut peer, _) = listener.accept()?;
        peer.set_nodelay(true)?;
        let echo = move || {
            let mut message = [0; MESSAGE_BYTES];
            while peer.read_exact(&mut message).and_then(|()| peer.write_all(&message)).is_ok() {}
        };
        thread::Builder::new().name("echo".to_owned()).spawn(echo)?;
        Ok(Echo { stream })
    }

    /// Sends one message after another there and back for so long.
    ///
    /// # Errors
    /// Those of the network.
    pub(crate) fn measure(&mut self, duration: Duration) -> anyhow::Result<Histogram<u64>> {
        let mut times = histogram();
        let mut message = [7; MESSAGE_BYTES];
        let start = Instant::now();
        while start.elapsed() < duration {
            let before = Instant::now();
            self.stream.write_all(&message).and_then(|()| self.stream.read_exact(&mut message)).context("the echo")?;
            record(&mut times, before.elapsed());
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_measured_and_leaves_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("dkc-bench-test-{}", std::process::id()));
        fs::create_dir(&folder).expect("a new folder");
        let mut file = DurableFile::create(&folder).expect("a folder to write in");
        fs::remove_dir(&folder).expect("nothing left in it");
        assert!(!file.measure(Duration::from_millis(5)).expect("a disk").is_empty());
        assert!(file.writes > 0);
        assert!(!Echo::start().expect("loopback").measure(Duration::from_millis(5)).expect("an echo").is_empty());
    }
}
