//! The disk operations a log asks for, and the buffer a write travels in.
//!
//! The shell performs them; the order in which they are asked for is decided here and nowhere else.

use crate::ids::SegmentEpoch;
use crate::limits::WAL_BLOCK_BYTES;

/// Names one disk operation of a store, so that its end can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskOpId(pub u64);

/// A disk operation to start.
#[derive(Debug)]
pub struct DiskOp {
    /// To be repeated in [`DiskDone`](crate::engine::input::DiskDone).
    pub id: DiskOpId,
    /// What to do.
    pub action: DiskAction,
}

/// What a [`DiskOp`] does. Files are named by [`segment_file_name`] and [`unfinished_file_name`].
#[derive(Debug)]
pub enum DiskAction {
    /// Write the buffer at the offset and sync the file's data: done when both succeeded. The file is open and published.
    Write {
        /// Segment to write to.
        epoch: SegmentEpoch,
        /// Where; a multiple of the block.
        offset: u64,
        /// What; its length is a multiple of the block.
        buffer: AlignedBuffer,
    },
    /// Make an unfinished segment file of `bytes` zeros, fully allocated: from nothing, or by renaming the freed
    /// segment `recycle` and overwriting it. Not yet durable.
    Zero {
        /// Epoch of the file to be.
        epoch: SegmentEpoch,
        /// Segment whose file is reused.
        recycle: Option<SegmentEpoch>,
        /// Length of the file.
        bytes: u64,
    },
    /// Sync the unfinished segment file, data and metadata.
    SyncFile {
        /// Epoch of the file.
        epoch: SegmentEpoch,
    },
    /// Rename the unfinished file to its final name.
    Publish {
        /// Epoch of the file.
        epoch: SegmentEpoch,
    },
    /// Sync the directory of the log.
    SyncDir,
    /// Remove an unfinished file, if it exists.
    Discard {
        /// Epoch of the file.
        epoch: SegmentEpoch,
    },
    /// Remove a published segment that is no longer needed.
    Remove {
        /// Epoch of the file.
        epoch: SegmentEpoch,
    },
}

/// File name of a published segment.
#[must_use]
pub fn segment_file_name(epoch: SegmentEpoch) -> String {
    format!("{:016x}.wal", epoch.0)
}

/// File name of a segment that is still being prepared. Recovery removes such files.
#[must_use]
pub fn unfinished_file_name(epoch: SegmentEpoch) -> String {
    format!("{:016x}.tmp", epoch.0)
}

/// Reads a name made by [`segment_file_name`]; nothing else is accepted, nor the last number there is, which no log comes to and nothing
/// could follow.
#[must_use]
pub fn parse_segment_file_name(name: &str) -> Option<SegmentEpoch> {
    let digits = name.strip_suffix(".wal")?;
    let epoch = SegmentEpoch(u64::from_str_radix(digits, 16).ok()?);
    (segment_file_name(epoch) == name && epoch.0 < u64::MAX).then_some(epoch)
}

/// A growable byte buffer whose start is aligned to [`WAL_BLOCK_BYTES`], as O_DIRECT demands, without `unsafe`:
/// it over-allocates a little and begins at the first aligned byte. Moving it does not move the bytes.
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> AlignedBuffer {
        let bytes = vec![0; len + WAL_BLOCK_BYTES];
        let start = bytes.as_ptr().align_offset(WAL_BLOCK_BYTES);
        AlignedBuffer { bytes, start, len }
    }

    /// Sets the length; bytes beyond the former length are zero. Reallocates only to grow past the capacity.
    pub fn resize_zeroed(&mut self, len: usize) {
        if self.start + len > self.bytes.len() {
            let mut grown = AlignedBuffer::zeroed(len.next_power_of_two());
            grown.len = self.len;
            grown.copy_from_slice(self);
            *self = grown;
        }
        if len > self.len {
            self.bytes[self.start + self.len..self.start + len].fill(0);
        }
        self.len = len;
    }
}

impl std::ops::Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_stay_aligned_and_zeroed() {
        let mut buffer = AlignedBuffer::zeroed(WAL_BLOCK_BYTES);
        for len in [1, 5_000, 100, 70_000, 4_096] {
            buffer.resize_zeroed(len);
            assert_eq!(buffer.as_ptr().align_offset(WAL_BLOCK_BYTES), 0);
            assert_eq!(buffer.len(), len);
            buffer.fill(7);
        }
        buffer.resize_zeroed(8_192);
        assert!(buffer[..4_096].iter().all(|&b| b == 7) && buffer[4_096..].iter().all(|&b| b == 0));
    }

    #[test]
    fn only_own_names_are_segments() {
        let epoch = SegmentEpoch(0x2a);
        assert_eq!(parse_segment_file_name(&segment_file_name(epoch)), Some(epoch));
        let last = segment_file_name(SegmentEpoch(u64::MAX));
        for name in ["2a.wal", "000000000000002A.wal", "000000000000002a.tmp", "+00000000000002a.wal", "", &last] {
            assert_eq!(parse_segment_file_name(name), None, "{name}");
        }
    }
}
