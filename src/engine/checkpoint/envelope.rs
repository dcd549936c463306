//! Envelopes: how archives lie in a file.
//!
//! ```text
//! file      preamble │ envelope │ envelope │ … │ zeros up to a whole block
//!
//! preamble   0  8 bytes  "DKCCKPT" and the format version
//!            8  u128  cluster          24  u64  node
//!           32  u32   store            36  u32  shard
//!           40  u64   number           48  u32  zero      52  u32  crc32 of the bytes before
//!
//! envelope   0  u32   crc32 of everything below, begun with the preamble's and the envelope's place in the file
//!            4  u8    kind              5  u8   0: stored as it is, 1: LZ4            6  u16  zero
//!            8  u32   bytes stored     12  u32  bytes of the archive
//!           16  what is stored
//! ```
//!
//! An envelope's checksum depends on its file and its place: bytes of another file, of an earlier life of this one, or from another
//! place do not pass. Nothing of an envelope is looked at before its checksum but its length, which is bounded; nothing is
//! decompressed into more than [`ARCHIVE_BYTES_MAX`] bytes.
//!
//! A file's *digest* is made of the checksums of its envelopes, in order. The log names it, so a file can be valid in
//! itself and yet not be the one that the log means.

use rkyv::util::AlignedVec;

use super::archive::Archived;
use super::kept::CheckpointFile;
use crate::engine::prng::mix;
use crate::engine::wal::WalIdentity;
use crate::engine::wal::record::{u32_at, u64_at};
use crate::ids::{CheckpointNumber, ClusterId, NodeId, ShardId, StoreId};
use crate::limits::ARCHIVE_BYTES_MAX;

/// Version of the checkpoints' layout. Changes freely until 0.1.0.
pub const CHECKPOINT_FORMAT: u8 = 1;
/// Bytes of a file's preamble.
pub const PREAMBLE_BYTES: usize = 56;
/// Bytes of an envelope before what it stores.
pub const ENVELOPE_HEADER_BYTES: usize = 16;

const MAGIC: [u8; 7] = *b"DKCCKPT";
const STORED: u8 = 0;
const LZ4: u8 = 1;

/// What an envelope holds. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Head`](super::archive::Head).
    Head = 1,
    /// [`WindowsPiece`](super::archive::WindowsPiece): at A before the pages, at B behind them.
    Windows = 2,
    /// [`PagePiece`](super::archive::PagePiece).
    Page = 3,
    /// [`RegistryPiece`](super::archive::RegistryPiece).
    Registry = 4,
    /// [`Foot`](super::archive::Foot).
    Foot = 5,
}

impl Kind {
    fn from_u8(number: u8) -> Option<Kind> {
        [Kind::Head, Kind::Windows, Kind::Page, Kind::Registry, Kind::Foot]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// Cluster, node and store.
    pub store: WalIdentity,
    /// Shard and number.
    pub file: CheckpointFile,
}

impl Preamble {
    /// As it stands at the beginning of the file.
    #[must_use]
    pub fn encode(&self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[..7].copy_from_slice(&MAGIC);
        bytes[7] = CHECKPOINT_FORMAT;
        bytes[8..24].copy_from_slice(&self.store.cluster.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.store.node.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&u32::from(self.store.store.0).to_le_bytes());
        bytes[36..40].copy_from_slice(&self.file.shard.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.file.number.0.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..52]);
        bytes[52..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the beginning of a file.
    ///
    /// # Errors
    /// What about it is not a preamble.
    pub fn decode(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Preamble, &'static str> {
        if bytes[..7] != MAGIC {
            return Err("the file does not begin as checkpoints do");
        }
        if bytes[7] != CHECKPOINT_FORMAT {
            return Err("the checkpoint is of another format version");
        }
        if crc32fast::hash(&bytes[..52]) != u32_at(bytes, 52) {
            return Err("the checksum of the file's preamble does not match");
        }
        let store = u16::try_from(u32_at(bytes, 32)).map_err(|_| "a store number is too large")?;
        Ok(Preamble {
            store: WalIdentity {
                cluster: ClusterId(u128::from(u64_at(bytes, 8)) | u128::from(u64_at(bytes, 16)) << 64),
                node: NodeId(u64_at(bytes, 24)),
                store: StoreId(store),
            },
            file: CheckpointFile { shard: ShardId(u32_at(bytes, 36)), number: CheckpointNumber(u64_at(bytes, 40)) },
        })
    }
}

/// Where one is in a file: which file, which envelope comes next, and the digest of those before.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    file: u32,
    place: u32,
    digest: u64,
}

/// What an envelope's header says, before anything about it is believed.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    header: [u8; ENVELOPE_HEADER_BYTES],
    /// Bytes that follow the header.
    pub bytes: usize,
}

impl Position {
    /// Before the first envelope.
    #[must_use]
    pub fn first(preamble: &[u8; PREAMBLE_BYTES]) -> Position {
        // Its own checksum: that of the whole, checksum included, is the same for all.
        Position { file: u32_at(preamble, PREAMBLE_BYTES - 4), place: 0, digest: 0 }
    }

    /// The digest of the envelopes before.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Puts an archive into the next envelope, and that at the end of `file`.
    pub fn seal(&mut self, kind: Kind, content: &impl Archived, file: &mut Vec<u8>) {
        let archive = content.archive();
        assert!(archive.len() <= ARCHIVE_BYTES_MAX, "what is archived is cut into pieces of bounded size");
        let start = file.len();
        file.resize(start + ENVELOPE_HEADER_BYTES + lz4_flex::block::get_maximum_output_size(archive.len()), 0);
        let (header, room) = file[start..].split_at_mut(ENVELOPE_HEADER_BYTES);
        let compressed = lz4_flex::block::compress_into(&archive, room).expect("there is room for the worst case");
        let (how, stored) = if compressed < archive.len() { (LZ4, compressed) } else { (STORED, archive.len()) };
        if how == STORED {
            room[..stored].copy_from_slice(&archive);
        }
        header[4] = kind as u8;
        header[5] = how;
        header[8..12].copy_from_slice(&(stored as u32).to_le_bytes());
        header[12..16].copy_from_slice(&(archive.len() as u32).to_le_bytes());
        let crc = self.crc_of(&header[4..], &room[..stored]);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        file.truncate(start + ENVELOPE_HEADER_BYTES + stored);
        self.pass(crc);
    }

    /// Checks what is stored in the next envelope, and unpacks its archive into `archive`.
    ///
    /// # Errors
    /// What about it is not the next envelope of this file.
    pub fn open(
        &mut self,
        stored: &Stored,
        content: &[u8],
        archive: &mut AlignedVec<16>,
    ) -> Result<Kind, &'static str> {
        let header = &stored.header;
        let crc = self.crc_of(&header[4..], content);
        if crc != u32_at(header, 0) {
            return Err("an envelope's checksum does not match");
        }
        let kind = Kind::from_u8(header[4]).ok_or("an envelope is of an unknown kind")?;
        let bytes = u32_at(header, 12) as usize;
        if bytes > ARCHIVE_BYTES_MAX || header[6..8] != [0; 2] {
            return Err("an envelope's header says what envelopes do not");
        }
        archive.clear();
        match header[5] {
            STORED if content.len() == bytes => archive.extend_from_slice(content),
            LZ4 => {
                archive.resize(bytes, 0);
                let unpacked = lz4_flex::block::decompress_into(content, archive);
                if unpacked.map_err(|_| "an envelope cannot be unpacked")? != bytes {
                    return Err("an envelope unpacks to another length");
                }
            }
            _ => return Err("an envelope is packed in an unknown way"),
        }
        self.pass(crc);
        Ok(kind)
    }

    fn crc_of(&self, header: &[u8], content: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.file);
        hasher.update(&self.place.to_le_bytes());
        hasher.update(header);
        hasher.update(content);
        hasher.finalize()
    }

    fn pass(&mut self, crc: u32) {
        self.place += 1;
        self.digest = mix(self.digest ^ u64::from(crc));
    }
}

impl Stored {
    /// Reads a header.
    ///
    /// # Errors
    /// More is stored than envelopes hold.
    pub fn decode(header: [u8; ENVELOPE_HEADER_BYTES]) -> Result<Stored, &'static str> {
        let bytes = u32_at(&header, 8) as usize;
        if bytes > ARCHIVE_BYTES_MAX {
            Err("an envelope is longer than envelopes are")
        } else {
            Ok(Stored { header, bytes })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::archive::Foot;
    use super::*;

    fn preamble() -> Preamble {
        Preamble {
            store: WalIdentity { cluster: ClusterId(u128::MAX - 4), node: NodeId(5), store: StoreId(6) },
            file: CheckpointFile { shard: ShardId(7), number: CheckpointNumber(8) },
        }
    }

    fn opened(position: &mut Position, envelope: &[u8]) -> Result<(Kind, Foot), &'static str> {
        let (header, content) = envelope.split_first_chunk().ok_or("too short")?;
        let stored = Stored::decode(*header)?;
        let mut archive = AlignedVec::new();
        let kind = position.open(&stored, content.get(..stored.bytes).ok_or("too short")?, &mut archive)?;
        Ok((kind, Foot::restore(&archive)?))
    }

    #[test]
    fn preambles_round_trip_and_flipped_ones_are_refused() {
        let bytes = preamble().encode();
        assert_eq!(Preamble::decode(&bytes), Ok(preamble()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Preamble::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_envelope_opens_in_its_place_of_its_file_only() {
        let start = Position::first(&preamble().encode());
        let mut writing = start;
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let foot = Foot { keys: 5, ..Foot::default() };
        writing.seal(Kind::Foot, &foot, &mut first);
        writing.seal(Kind::Foot, &foot, &mut second);
        assert_ne!(first, second);
        let mut reading = start;
        assert_eq!(opened(&mut reading, &first), Ok((Kind::Foot, foot.clone())));
        assert_eq!(opened(&mut reading, &second), Ok((Kind::Foot, foot)));
        assert_eq!(reading.digest(), writing.digest());
        assert!(opened(&mut start.clone(), &second).is_err(), "another place");
        let other = Preamble { file: CheckpointFile { number: CheckpointNumber(9), ..preamble().file }, ..preamble() };
        assert!(opened(&mut Position::first(&other.encode()), &first).is_err(), "another file");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let start = Position::first(&preamble().encode());
        let mut envelope = Vec::new();
        start.clone().seal(Kind::Foot, &Foot { keys: 5, index: 1 << 40, ..Foot::default() }, &mut envelope);
        for bit in 0..envelope.len() * 8 {
            let mut flipped = envelope.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(opened(&mut start.clone(), &flipped).is_err(), "bit {bit}");
        }
        for len in 0..envelope.len() {
            assert!(opened(&mut start.clone(), &envelope[..len]).is_err(), "cut at {len}");
        }
    }

    /// The lengths that an envelope claims are bounded before anything is allocated for them.
    #[test]
    fn an_envelope_that_claims_to_be_huge_is_refused() {
        let mut header = [0; ENVELOPE_HEADER_BYTES];
        header[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Stored::decode(header).is_err());
        let start = Position::first(&preamble().encode());
        header[4] = Kind::Foot as u8;
        header[5] = LZ4;
        header[8..12].copy_from_slice(&4u32.to_le_bytes());
        header[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let crc = start.crc_of(&header[4..], &[0; 4]);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        let mut archive = AlignedVec::new();
        let stored = Stored::decode(header).expect("short");
        assert!(start.clone().open(&stored, &[0; 4], &mut archive).is_err());
        assert_eq!(archive.capacity(), 0);
    }
}
