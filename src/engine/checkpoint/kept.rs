//! Which checkpoints of a shard are in force: what the log's records and segment headers say of them.

use crate::engine::wal::record::u64_at;
use crate::ids::{CheckpointNumber, Index, ShardId, Term};

/// Bytes of a [`Reference`] on disk.
const REFERENCE_BYTES: usize = 56;

/// A place in a shard's log, named so that no other entry can be taken for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// The entry's index.
    pub index: Index,
    /// Its term.
    pub term: Term,
}

/// A whole checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Names its file.
    pub number: CheckpointNumber,
    /// Where replay begins: entries after it are read from the log. (A of the module's text.)
    pub from: Point,
    /// Where its pages were all taken: it stands for a state once the log has been applied up to here. (B)
    pub to: Point,
    /// Bytes of the file that belong to it.
    pub bytes: u64,
    /// Digest of the file: of the checksums of all its envelopes.
    pub digest: u64,
}

/// The checkpoints of a shard that can be started from, newest first: never the second without the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The newest one.
    pub newest: Option<Reference>,
    /// The one before.
    pub older: Option<Reference>,
}

/// A file of the checkpoints' directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointFile {
    /// Whose checkpoint it holds.
    pub shard: ShardId,
    /// Which one; never used twice by a store.
    pub number: CheckpointNumber,
}

impl Reference {
    fn encode(&self, bytes: &mut Vec<u8>) {
        let Reference { number, from, to, bytes: length, digest } = self;
        let numbers = [number.0, from.index.0, from.term.0, to.index.0, to.term.0, *length, *digest];
        numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    }

    /// All zero is none.
    fn decode(bytes: &[u8]) -> Option<Reference> {
        let number = |place: usize| u64_at(bytes, place * 8);
        let point = |place| Point { index: Index(number(place)), term: Term(number(place + 1)) };
        let reference = Reference {
            number: CheckpointNumber(number(0)),
            from: point(1),
            to: point(3),
            bytes: number(5),
            digest: number(6),
        };
        (reference.number > CheckpointNumber(0)).then_some(reference)
    }
}

impl Kept {
    /// Bytes of both on disk.
    pub const BYTES: usize = 2 * REFERENCE_BYTES;

    /// Both, newest first.
    pub fn iter(&self) -> impl Iterator<Item = Reference> {
        self.newest.into_iter().chain(self.older)
    }

    /// Entries up to here are needed by neither.
    #[must_use]
    pub fn released(&self) -> Index {
        self.older.map_or(Index(0), |older| older.from.index)
    }

    /// Appends [`Kept::BYTES`] bytes: numbers, points, lengths and digests, zero where there is none.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        for reference in [self.newest, self.older] {
            match reference {
                Some(reference) => reference.encode(bytes),
                None => bytes.resize(bytes.len() + REFERENCE_BYTES, 0),
            }
        }
    }

    /// Reads what [`Kept::encode`] wrote.
    ///
    /// # Errors
    /// What about the bytes contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<Kept, &'static str> {
        if bytes.len() != Kept::BYTES {
            return Err("what names checkpoints has the wrong length");
        }
        let (newest, older) = bytes.split_at(REFERENCE_BYTES);
        let kept = Kept { newest: Reference::decode(newest), older: Reference::decode(older) };
        let in_order = match (kept.newest, kept.older) {
            (Some(newest), Some(older)) => older.number < newest.number && older.from.index <= newest.from.index,
            (None, Some(_)) => false,
            _ => true,
        };
        if kept.iter().any(|one| one.number.0 == u64::MAX) {
            return Err("a checkpoint has the last number there is");
        }
        if !in_order || kept.iter().any(|one| one.from.index > one.to.index || one.from.term > one.to.term) {
            return Err("checkpoints are named out of order");
        }
        Ok(kept)
    }
}

impl CheckpointFile {
    /// The file's name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:08x}-{:016x}.checkpoint", self.shard.0, self.number.0)
    }

    /// Reads a name made by [`CheckpointFile::name`]; nothing else is accepted, nor the last number there is, which no store comes to and
    /// nothing could follow.
    #[must_use]
    pub fn parse(name: &str) -> Option<CheckpointFile> {
        let (shard, number) = name.strip_suffix(".checkpoint")?.split_once('-')?;
        let file = CheckpointFile {
            shard: ShardId(u32::from_str_radix(shard, 16).ok()?),
            number: CheckpointNumber(u64::from_str_radix(number, 16).ok()?),
        };
        (file.name() == name && file.number.0 < u64::MAX).then_some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(number: u64, from: u64, to: u64) -> Reference {
        let point = |index| Point { index: Index(index), term: Term(2) };
        Reference {
            number: CheckpointNumber(number),
            from: point(from),
            to: point(to),
            bytes: 12_345,
            digest: u64::MAX - number,
        }
    }

    fn encoded(kept: Kept) -> Vec<u8> {
        let mut bytes = Vec::new();
        kept.encode(&mut bytes);
        bytes
    }

    #[test]
    fn references_round_trip() {
        let (older, newest) = (reference(3, 10, 12), reference(4, 12, 12));
        for kept in [
            Kept::default(),
            Kept { newest: Some(newest), older: None },
            Kept { newest: Some(newest), older: Some(older) },
        ] {
            assert_eq!(Kept::decode(&encoded(kept)), Ok(kept));
        }
        let both = Kept { newest: Some(newest), older: Some(older) };
        assert_eq!((both.released(), both.iter().count()), (Index(10), 2));
    }

    #[test]
    fn references_that_contradict_each_other_are_refused() {
        let (older, newest) = (reference(3, 10, 12), reference(4, 12, 12));
        for (newest, older) in [
            (Some(older), Some(newest)),
            (None, Some(older)),
            (Some(reference(4, 9, 12)), Some(older)),
            (Some(reference(4, 13, 12)), None),
            (Some(reference(u64::MAX, 12, 12)), None),
        ] {
            assert!(Kept::decode(&encoded(Kept { newest, older })).is_err(), "{newest:?} {older:?}");
        }
        assert!(Kept::decode(&encoded(Kept::default())[1..]).is_err());
    }

    #[test]
    fn only_own_names_are_checkpoints() {
        let file = CheckpointFile { shard: ShardId(0x1f), number: CheckpointNumber(0x2a) };
        assert_eq!(CheckpointFile::parse(&file.name()), Some(file));
        let last = CheckpointFile { number: CheckpointNumber(u64::MAX), ..file }.name();
        for name in ["1f-2a.checkpoint", "0000001F-000000000000002a.checkpoint", "reserve", "", &last] {
            assert_eq!(CheckpointFile::parse(name), None, "{name}");
        }
    }
}
