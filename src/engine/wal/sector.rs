//! Sectors: how a stream of record bytes lies on disk.
//!
//! ```text
//! write  = blocks of 4,096 bytes, starting and ending on a block
//! block  = 8 sectors of 512 bytes
//! sector = u32 stamp, never zero │ 508 bytes of the stream
//! ```
//!
//! The stamp tells the sector's place and whether a write starts with it.
//!
//! A disk writes a sector whole or not at all, and a segment is zeroed durably before use. So after a crash
//! a sector of an unfinished write is either all zero (did not arrive) or begins with the one stamp that belongs in this place
//! (arrived). Anything else, such as a flipped bit, a misdirected write or a stale block, is corruption and not
//! a torn write (rule W3). Padding at the end of a write is stamped too: every sector of a write tells. And because one
//! write is under way at a time, a write that starts behind a missing sector shows that the sector was lost, not torn.

use super::record::u32_at;
use crate::engine::prng::mix;
use crate::ids::{SegmentEpoch, StoreId};
use crate::limits::{WAL_BLOCK_BYTES, WAL_SECTOR_BYTES};

/// Bytes of a sector's stamp.
const STAMP_BYTES: usize = 4;
/// Stream bytes a sector carries.
pub const SECTOR_DATA_BYTES: usize = WAL_SECTOR_BYTES - STAMP_BYTES;

/// State of one sector on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sector {
    /// All zero: never written since the segment was prepared.
    Blank,
    /// Carries the stamp of its place, as the first of a write.
    Start,
    /// Carries the stamp of its place, within a write.
    Within,
    /// Carries something else.
    Foreign,
}

/// The stamp of one place: depends on the store, the segment, the sector's number in it, and whether a write starts there.
fn stamp(store: StoreId, epoch: SegmentEpoch, sector: u64, starts: bool) -> u32 {
    let place = mix(epoch.0 ^ (u64::from(store.0) << 48)) ^ (sector << 1 | u64::from(starts));
    (mix(place) as u32) | 1
}

/// Disk bytes of a write that carries `stream_bytes`.
#[must_use]
pub fn disk_bytes(stream_bytes: usize) -> usize {
    (stream_bytes.div_ceil(SECTOR_DATA_BYTES) * WAL_SECTOR_BYTES).next_multiple_of(WAL_BLOCK_BYTES)
}

/// Stream bytes that fit in a write of `disk_bytes` (a multiple of the block).
#[must_use]
pub fn stream_capacity(disk_bytes: usize) -> usize {
    disk_bytes / WAL_SECTOR_BYTES * SECTOR_DATA_BYTES
}

/// Spreads `stream` over the sectors of `disk`, which is as long as [`disk_bytes`] says and zero, and will be written at
/// byte `offset` of the segment.
pub fn spread(stream: &[u8], disk: &mut [u8], store: StoreId, epoch: SegmentEpoch, offset: u64) {
    debug_assert_eq!(disk.len(), disk_bytes(stream.len()), "a write is as long as its stream needs");
    let first = offset / WAL_SECTOR_BYTES as u64;
    let mut pieces = stream.chunks(SECTOR_DATA_BYTES);
    for (number, sector) in disk.chunks_exact_mut(WAL_SECTOR_BYTES).enumerate() {
        sector[..STAMP_BYTES].copy_from_slice(&stamp(store, epoch, first + number as u64, number == 0).to_le_bytes());
        if let Some(piece) = pieces.next() {
            sector[STAMP_BYTES..STAMP_BYTES + piece.len()].copy_from_slice(piece);
        }
    }
}

/// Gathers the stream bytes of whole sectors, the reverse of [`spread`], padding included.
pub fn gather(disk: &[u8], stream: &mut Vec<u8>) {
    stream.clear();
    for sector in disk.chunks_exact(WAL_SECTOR_BYTES) {
        stream.extend_from_slice(&sector[STAMP_BYTES..]);
    }
}

/// Looks at one sector; `number` is its place in the segment.
#[must_use]
pub fn inspect(sector: &[u8], store: StoreId, epoch: SegmentEpoch, number: u64) -> Sector {
    let found = u32_at(sector, 0);
    if found == stamp(store, epoch, number, true) {
        Sector::Start
    } else if found == stamp(store, epoch, number, false) {
        Sector::Within
    } else if sector.iter().all(|&byte| byte == 0) {
        Sector::Blank
    } else {
        Sector::Foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spread_is_gathered() {
        let (store, epoch) = (StoreId(1), SegmentEpoch(2));
        for len in [1, 507, 508, 509, 4_063, 4_064, 4_065, 20_000] {
            let stream: Vec<u8> = (0..len).map(|i| i as u8 | 1).collect();
            let mut disk = vec![0; disk_bytes(len)];
            spread(&stream, &mut disk, store, epoch, 8_192);
            assert!(disk.len().is_multiple_of(WAL_BLOCK_BYTES) && stream_capacity(disk.len()) >= len);
            for (i, sector) in disk.chunks(WAL_SECTOR_BYTES).enumerate() {
                let expected = if i == 0 { Sector::Start } else { Sector::Within };
                assert_eq!(inspect(sector, store, epoch, 16 + i as u64), expected);
                assert_eq!(inspect(sector, store, epoch, 17 + i as u64), Sector::Foreign, "another place");
                assert_eq!(inspect(sector, store, SegmentEpoch(3), 16 + i as u64), Sector::Foreign, "another life");
            }
            let mut back = Vec::new();
            gather(&disk, &mut back);
            assert_eq!(&back[..len], &stream[..]);
            assert!(back[len..].iter().all(|&b| b == 0));
        }
        assert_eq!(inspect(&[0; 512], store, epoch, 0), Sector::Blank);
    }
}
