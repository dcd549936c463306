//! Records: what the log holds, and how each is laid out and checked.
//!
//! ```text
//!  0  u32  crc32 of everything below, see `seal`
//!  4  u32  payload bytes
//!  8  u64  LSN: position of the stream just past this record
//! 16  u64  term
//! 24  u64  index          (entries, and the last one that stays; otherwise 0)
//! 32  u64  commit index of the shard when the record was written
//! 40  u32  shard          (records of the log itself: 0)
//! 44  u8   kind, 3 zero bytes
//! 48  payload
//! ```
//!
//! The checksum starts from the checksum of the record before (the *chain*), and covers the store, the segment's epoch and
//! every byte of the record but itself. So a record that is torn, that belongs to another store, to an earlier
//! life of a recycled file or to another place of the stream cannot pass for the next one.

use std::rc::Rc;

use crate::engine::checkpoint::{Kept, Point};
use crate::ids::{Index, Lsn, ReplicaId, SegmentEpoch, ShardId, StoreId, Term};

/// Bytes before a record's payload.
pub const RECORD_HEADER_BYTES: usize = 48;

/// What a record is. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// First record of every write: how long the write is.
    WriteStart = 1,
    /// Second record of a segment's first write, alone with it: the segment's header.
    SegmentStart = 2,
    /// A shard's term and vote.
    HardState = 3,
    /// An entry of a shard's Raft log.
    Entry = 4,
    /// Which checkpoints of a shard are in force.
    Checkpoint = 5,
    /// The end of a shard's log is taken back.
    Truncate = 6,
    /// A checkpoint of another replica takes the place of a shard's log.
    Install = 7,
}

impl RecordKind {
    fn from_u8(number: u8) -> Option<RecordKind> {
        Some(match number {
            1 => RecordKind::WriteStart,
            2 => RecordKind::SegmentStart,
            3 => RecordKind::HardState,
            4 => RecordKind::Entry,
            5 => RecordKind::Checkpoint,
            6 => RecordKind::Truncate,
            7 => RecordKind::Install,
            _ => return None,
        })
    }
}

/// Something a shard wants durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Term and vote, one atomic fact (rule A1 of Raft's practice: never one without the other).
    HardState {
        /// Whose.
        shard: ShardId,
        /// Current term.
        term: Term,
        /// Replica voted for in this term; 0 is nobody.
        vote: ReplicaId,
        /// Commit index known at this moment.
        commit: Index,
    },
    /// One entry of a shard's log.
    Entry {
        /// Whose.
        shard: ShardId,
        /// Term it was proposed in.
        term: Term,
        /// Its index.
        index: Index,
        /// Commit index known at this moment; always below `index`.
        commit: Index,
        /// What it says (`engine::command`).
        payload: Rc<Vec<u8>>,
    },
    /// From here on these are the checkpoints that the shard can be started from. Their last entries stand before it (rule C4).
    Checkpoint {
        /// Whose.
        shard: ShardId,
        /// Which.
        kept: Kept,
    },
    /// The shard's log ends here; entries behind were not committed. Nothing but this record takes them out.
    Truncate {
        /// Whose.
        shard: ShardId,
        /// The last entry that stays.
        last: Point,
    },
    /// From here on the shard is started from the newest of these checkpoints, which another replica has made; no entry before this record
    /// counts any more, and the next one follows the checkpoint's first point.
    Install {
        /// Whose.
        shard: ShardId,
        /// The checkpoint, without an older one.
        kept: Kept,
    },
}

impl Record {
    /// Whose it is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        match *self {
            Record::HardState { shard, .. }
            | Record::Entry { shard, .. }
            | Record::Checkpoint { shard, .. }
            | Record::Truncate { shard, .. }
            | Record::Install { shard, .. } => shard,
        }
    }

    /// Bytes this record takes in the stream.
    #[must_use]
    pub fn stream_bytes(&self) -> usize {
        RECORD_HEADER_BYTES
            + match self {
                Record::HardState { .. } => 8,
                Record::Entry { payload, .. } => payload.len(),
                Record::Checkpoint { .. } | Record::Install { .. } => Kept::BYTES,
                Record::Truncate { .. } => 0,
            }
    }
}

/// A record's header in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record is.
    pub kind: RecordKind,
    /// Whose it is.
    pub shard: ShardId,
    /// Term, see the drawing.
    pub term: Term,
    /// Index, see the drawing.
    pub index: Index,
    /// Commit index, see the drawing.
    pub commit: Index,
    /// Position just past the record.
    pub lsn: Lsn,
}

/// What a record's checksum depends on besides its own bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The store the log belongs to.
    pub store: StoreId,
    /// The segment the record is in.
    pub epoch: SegmentEpoch,
    /// Checksum of the record before.
    pub crc: u32,
}

impl Chain {
    fn crc_of(self, header_tail: &[u8], payload: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.crc);
        let mut context = [0; 10];
        context[..2].copy_from_slice(&self.store.0.to_le_bytes());
        context[2..].copy_from_slice(&self.epoch.0.to_le_bytes());
        hasher.update(&context);
        hasher.update(header_tail);
        hasher.update(payload);
        hasher.finalize()
    }

    /// Appends one record to `stream`, sealed, and moves the chain on to it.
    pub fn seal(&mut self, stream: &mut Vec<u8>, header: &RecordHeader, payload: &[u8]) {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&header.lsn.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&header.term.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&header.index.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&header.commit.0.to_le_bytes());
        bytes[40..44].copy_from_slice(&header.shard.0.to_le_bytes());
        bytes[44] = header.kind as u8;
        self.crc = self.crc_of(&bytes[4..], payload);
        bytes[..4].copy_from_slice(&self.crc.to_le_bytes());
        stream.extend_from_slice(&bytes);
        stream.extend_from_slice(payload);
    }

    /// Reads the record at the start of `stream` and moves the chain on to it, or says why it is not one.
    /// Returns the header, the payload and the bytes that follow.
    ///
    /// # Errors
    /// What about the bytes is not a record; the chain has then not moved.
    pub fn open<'a>(&mut self, stream: &'a [u8]) -> Result<(RecordHeader, &'a [u8], &'a [u8]), &'static str> {
        let Some((bytes, rest)) = stream.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            return Err("a record's header does not fit");
        };
        let payload_bytes = u32_at(bytes, 4) as usize;
        if payload_bytes > rest.len() {
            return Err("a record is longer than what holds it");
        }
        let (payload, rest) = rest.split_at(payload_bytes);
        let crc = self.crc_of(&bytes[4..], payload);
        if crc != u32_at(bytes, 0) {
            return Err("a record's checksum does not match");
        }
        let Some(kind) = RecordKind::from_u8(bytes[44]) else {
            return Err("a record is of an unknown kind; it was written by a newer version");
        };
        if bytes[45..48] != [0; 3] {
            return Err("a record's reserved bytes are not zero");
        }
        self.crc = crc;
        let header = RecordHeader {
            kind,
            shard: ShardId(u32_at(bytes, 40)),
            term: Term(u64_at(bytes, 16)),
            index: Index(u64_at(bytes, 24)),
            commit: Index(u64_at(bytes, 32)),
            lsn: Lsn(u64_at(bytes, 8)),
        };
        Ok((header, payload, rest))
    }
}

/// Reads a little-endian u32. `at + 4` must be within `bytes`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

/// Reads a little-endian u64. `at + 8` must be within `bytes`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: Chain = Chain { store: StoreId(3), epoch: SegmentEpoch(9), crc: 77 };
    const HEADER: RecordHeader = RecordHeader {
        kind: RecordKind::Entry,
        shard: ShardId(5),
        term: Term(2),
        index: Index(10),
        commit: Index(9),
        lsn: Lsn(1_000),
    };

    fn sealed() -> Vec<u8> {
        let mut stream = Vec::new();
        CHAIN.clone().seal(&mut stream, &HEADER, b"payload");
        stream
    }

    #[test]
    fn what_was_sealed_opens() {
        let mut stream = sealed();
        stream.extend_from_slice(b"rest");
        let (mut sealing, mut opening) = (CHAIN, CHAIN);
        let (header, payload, rest) = opening.open(&stream).unwrap();
        assert_eq!((header, payload, rest), (HEADER, &b"payload"[..], &b"rest"[..]));
        sealing.seal(&mut Vec::new(), &HEADER, b"payload");
        assert_eq!(sealing, opening);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let stream = sealed();
        for bit in 0..stream.len() * 8 {
            let mut flipped = stream.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(CHAIN.clone().open(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..stream.len() {
            assert!(CHAIN.clone().open(&stream[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_record_of_another_place_does_not_open() {
        let stream = sealed();
        assert!(Chain { store: StoreId(4), ..CHAIN }.open(&stream).is_err(), "another store");
        assert!(Chain { epoch: SegmentEpoch(8), ..CHAIN }.open(&stream).is_err(), "another life of the file");
        assert!(Chain { crc: 78, ..CHAIN }.open(&stream).is_err(), "another predecessor");
    }
}
