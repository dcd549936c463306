//! The header of a segment: what a reader must know before it may believe the rest.
//!
//! It is the payload of the one `SegmentStart` record in the segment's first write:
//!
//! ```text
//!   0  u32   format version            4  u32  number of groups
//!   8  u128  cluster                  24  u64  node
//!  32  u64   segment bytes            40  u64  bytes of a write, at most
//!  48  u64   previous segment's epoch 56  u64  where in it the log ended
//!  64  u32   chain there, u32 zero    72  u64  oldest epoch still needed
//!  80  u64   LSN at the start of this segment
//!  88  groups, 168 bytes each, ascending by shard:
//!        u32 shard, u32 zero, u64 term, u64 vote, u64 commit,
//!        u64 first index still in the log, u64 last index, u64 its term,
//!        the checkpoints in force, 2 × 56: u64 number, index and term of A, index and term of B, bytes, digest
//! ```
//!
//! The header fixes the end of what came before: bytes past it are never read again, wherever they came from (rule W2).
//! It repeats every group's state, so that older segments can be recycled without losing a vote or a checkpoint (rule W4).

use super::record::{u32_at, u64_at};
use crate::engine::checkpoint::Kept;
use crate::ids::{ClusterId, Index, Lsn, NodeId, ReplicaId, SegmentEpoch, ShardId, Term};

/// Version of the log's layout. Changes freely until 0.1.0.
pub const WAL_FORMAT: u32 = 2;

const FIXED_BYTES: usize = 88;
const GROUP_NUMBERS: usize = 7;
const GROUP_BYTES: usize = GROUP_NUMBERS * 8 + Kept::BYTES;

/// A group's state at one point of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Current term.
    pub term: Term,
    /// Replica voted for in it; 0 is nobody.
    pub vote: ReplicaId,
    /// Highest commit index written.
    pub commit: Index,
    /// First index that is still in the log.
    pub first_index: Index,
    /// Last index in the log, or the one before the first.
    pub last_index: Index,
    /// Its term.
    pub last_term: Term,
    /// The checkpoints in force.
    pub kept: Kept,
}

/// Where a segment's log ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentEnd {
    /// Which segment; 0 before the first.
    pub epoch: SegmentEpoch,
    /// Byte offset just past its last write.
    pub offset: u64,
    /// Checksum of its last record.
    pub chain: u32,
}

/// A segment's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Cluster the log belongs to.
    pub cluster: ClusterId,
    /// Node the log belongs to.
    pub node: NodeId,
    /// Bytes of the file.
    pub segment_bytes: u64,
    /// Bytes of a write, at most: how far a torn write can reach.
    pub write_bytes_max: u64,
    /// Where the log ended before this segment.
    pub previous: SegmentEnd,
    /// Segments below this epoch are no longer needed.
    pub oldest: SegmentEpoch,
    /// Position of the stream at this segment's start.
    pub start: Lsn,
    /// State of every group that has written anything.
    pub groups: Vec<(ShardId, GroupState)>,
}

impl SegmentHeader {
    /// Bytes of the payload for this many groups.
    #[must_use]
    pub fn payload_bytes(groups: usize) -> usize {
        FIXED_BYTES + groups * GROUP_BYTES
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::payload_bytes(self.groups.len()));
        bytes.extend_from_slice(&WAL_FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(self.groups.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.cluster.0.to_le_bytes());
        for number in [
            self.node.0,
            self.segment_bytes,
            self.write_bytes_max,
            self.previous.epoch.0,
            self.previous.offset,
            u64::from(self.previous.chain),
            self.oldest.0,
            self.start.0,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for (shard, group) in &self.groups {
            let numbers: [u64; GROUP_NUMBERS] = [
                u64::from(shard.0),
                group.term.0,
                group.vote.0,
                group.commit.0,
                group.first_index.0,
                group.last_index.0,
                group.last_term.0,
            ];
            for number in numbers {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            group.kept.encode(&mut bytes);
        }
        bytes
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// What about it is wrong.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, &'static str> {
        if bytes.len() < 4 || u32_at(bytes, 0) != WAL_FORMAT {
            return Err("the segment is of another format version");
        }
        if bytes.len() < FIXED_BYTES || bytes.len() != Self::payload_bytes(u32_at(bytes, 4) as usize) {
            return Err("the segment header has the wrong length");
        }
        let number = |at| u64_at(bytes, at);
        let narrow = |at| u32::try_from(number(at)).map_err(|_| "a 32-bit field of the segment header is too large");
        let groups = bytes[FIXED_BYTES..]
            .chunks_exact(GROUP_BYTES)
            .map(|group| {
                let number = |place: usize| u64_at(group, place * 8);
                let shard =
                    u32::try_from(number(0)).map_err(|_| "a shard number of the segment header is too large")?;
                let state = GroupState {
                    term: Term(number(1)),
                    vote: ReplicaId(number(2)),
                    commit: Index(number(3)),
                    first_index: Index(number(4)),
                    last_index: Index(number(5)),
                    last_term: Term(number(6)),
                    kept: Kept::decode(&group[GROUP_NUMBERS * 8..])?,
                };
                Ok((ShardId(shard), state))
            })
            .collect::<Result<Vec<_>, &'static str>>()?;
        if !groups.is_sorted_by(|a, b| a.0 < b.0) {
            return Err("the groups of the segment header are not in ascending order");
        }
        Ok(SegmentHeader {
            cluster: ClusterId(u128::from(number(8)) | (u128::from(number(16)) << 64)),
            node: NodeId(number(24)),
            segment_bytes: number(32),
            write_bytes_max: number(40),
            previous: SegmentEnd { epoch: SegmentEpoch(number(48)), offset: number(56), chain: narrow(64)? },
            oldest: SegmentEpoch(number(72)),
            start: Lsn(number(80)),
            groups,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_refuse_other_lengths_and_versions() {
        let header = SegmentHeader {
            cluster: ClusterId(u128::MAX - 5),
            node: NodeId(7),
            segment_bytes: 1 << 26,
            write_bytes_max: 1 << 21,
            previous: SegmentEnd { epoch: SegmentEpoch(3), offset: 8_192, chain: 0xdead_beef },
            oldest: SegmentEpoch(2),
            start: Lsn(99),
            groups: (0..3)
                .map(|n| (ShardId(n), GroupState { term: Term(n.into()), last_index: Index(4), ..Default::default() }))
                .collect(),
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header.clone()));
        for len in 0..bytes.len() {
            assert!(SegmentHeader::decode(&bytes[..len]).is_err());
        }
        let mut newer = bytes.clone();
        newer[0] += 1;
        assert!(SegmentHeader::decode(&newer).is_err());
        let mut unsorted = header;
        unsorted.groups.swap(0, 1);
        assert!(SegmentHeader::decode(&unsorted.encode()).is_err());
    }
}
