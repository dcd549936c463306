//! Commands: what the entries of a shard's log say.
//!
//! ```text
//! entry   u8 version │ u8 kind │ content
//! no-op   (nothing)
//! batch   parts, one after another to the end
//! part    varint number of increments │ the increments
//! increment  varint key bytes │ key │ varint zigzag delta
//! map     the meta shard's cluster map (cluster)
//! ```
//!
//! A gateway encodes the increments of a part once; the shard that owns them joins the parts that have gathered
//! into one entry. The place of an increment in its entry counts through all its parts.

use crate::ids::KeyHash;
use crate::limits::KEY_BYTES_MAX;

use super::counters::Increment;

/// Version of the commands. Changes freely until 0.1.0.
const COMMAND_FORMAT: u8 = 1;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Nothing: a new leader's first entry.
    NoOp,
    /// Increments.
    Batch(Batch<'a>),
    /// The cluster map, encoded.
    Map(&'a [u8]),
}

/// A command that cannot be read. It passed its checksum, so a newer version wrote it, or a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log entry cannot be read: {0}")]
pub struct CommandError(&'static str);

const KIND_NO_OP: u8 = 0;
const KIND_BATCH: u8 = 1;
const KIND_MAP: u8 = 2;

/// The entry of a no-op.
#[must_use]
pub fn no_op() -> Vec<u8> {
    vec![COMMAND_FORMAT, KIND_NO_OP]
}

/// The entry of a cluster map.
#[must_use]
pub fn map(encoded: &[u8]) -> Vec<u8> {
    let mut entry = vec![COMMAND_FORMAT, KIND_MAP];
    entry.extend_from_slice(encoded);
    entry
}

/// Starts the entry of a batch, to which [`push_part`] adds.
pub fn begin_batch(entry: &mut Vec<u8>) {
    entry.extend_from_slice(&[COMMAND_FORMAT, KIND_BATCH]);
}

/// Adds a part of `count` increments that [`push_increment`] has encoded.
pub fn push_part(entry: &mut Vec<u8>, count: u32, increments: &[u8]) {
    push_varint(entry, u64::from(count));
    entry.extend_from_slice(increments);
}

/// Encodes one increment.
pub fn push_increment(encoded: &mut Vec<u8>, key: &[u8], delta: i64) {
    push_varint(encoded, key.len() as u64);
    encoded.extend_from_slice(key);
    push_varint(encoded, ((delta << 1) ^ (delta >> 63)) as u64);
}

/// Bytes that [`push_increment`] adds, at most.
#[must_use]
pub fn increment_bytes_max(key_bytes: usize) -> usize {
    2 + key_bytes + 10
}

/// Reads an entry.
///
/// # Errors
/// Its version or kind is unknown.
pub fn decode(entry: &[u8]) -> Result<Command<'_>, CommandError> {
    match entry {
        [COMMAND_FORMAT, KIND_NO_OP] => Ok(Command::NoOp),
        [COMMAND_FORMAT, KIND_BATCH, parts @ ..] => Ok(Command::Batch(Batch { rest: parts })),
        [COMMAND_FORMAT, KIND_MAP, map @ ..] => Ok(Command::Map(map)),
        [COMMAND_FORMAT, ..] => Err(CommandError("unknown kind")),
        _ => Err(CommandError("unknown version")),
    }
}

/// The parts of a batch, read in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    rest: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Number of increments in the next part, or `None` at the end of the batch. The part's increments
    /// must have been read before the next part is asked for.
    ///
    /// # Errors
    /// The bytes are not a part.
    pub fn next_part(&mut self) -> Result<Option<u32>, CommandError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let count = self.varint()?;
        u32::try_from(count).map(Some).map_err(|_| CommandError("a part is too large"))
    }

    /// The next increment of the current part.
    ///
    /// # Errors
    /// The bytes are not an increment.
    #[inline]
    pub fn next_increment(&mut self, routing_seed: u64) -> Result<Increment<'a>, CommandError> {
        let len = self.varint()? as usize;
        if len == 0 || len > KEY_BYTES_MAX || len > self.rest.len() {
            return Err(CommandError("a key has a length that keys cannot have"));
        }
        let (key, rest) = self.rest.split_at(len);
        self.rest = rest;
        let zigzag = self.varint()?;
        let delta = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        Ok(Increment { hash: KeyHash::of(routing_seed, key), key, delta })
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, CommandError> {
        // Lengths and small deltas take one byte.
        if let [byte @ 0..=0x7f, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0u64;
        for (place, &byte) in self.rest.iter().take(10).enumerate() {
            if place == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                self.rest = &self.rest[place + 1..];
                return Ok(value);
            }
        }
        Err(CommandError("a number does not end"))
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn batches_round_trip(parts in prop::collection::vec(
            prop::collection::vec((prop::collection::vec(any::<u8>(), 1..200), any::<i64>()), 0..20), 0..5)) {
            let mut entry = Vec::new();
            begin_batch(&mut entry);
            for part in &parts {
                let mut encoded = Vec::new();
                for (key, delta) in part {
                    let before = encoded.len();
                    push_increment(&mut encoded, key, *delta);
                    prop_assert!(encoded.len() - before <= increment_bytes_max(key.len()));
                }
                push_part(&mut entry, part.len() as u32, &encoded);
            }
            let Ok(Command::Batch(mut batch)) = decode(&entry) else { panic!("not a batch") };
            for part in &parts {
                prop_assert_eq!(batch.next_part(), Ok(Some(part.len() as u32)));
                for (key, delta) in part {
                    let increment = batch.next_increment(7).unwrap();
                    prop_assert_eq!((increment.key, increment.delta), (&key[..], *delta));
                    prop_assert_eq!(increment.hash, KeyHash::of(7, key));
                }
            }
            prop_assert_eq!(batch.next_part(), Ok(None));
        }

        #[test]
        fn any_bytes_end_in_a_result(entry in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut entry = entry;
            entry.splice(0..0, [COMMAND_FORMAT, KIND_BATCH]);
            let Ok(Command::Batch(mut batch)) = decode(&entry) else { panic!("not a batch") };
            while let Ok(Some(count)) = batch.next_part() {
                if (0..count).any(|_| batch.next_increment(0).is_err()) {
                    break;
                }
            }
        }
    }

    #[test]
    fn other_versions_and_kinds_are_refused() {
        assert_eq!(decode(&no_op()), Ok(Command::NoOp));
        assert_eq!(decode(&map(b"x")), Ok(Command::Map(b"x")));
        for entry in [&[][..], &[COMMAND_FORMAT], &[COMMAND_FORMAT, 9], &[2, KIND_NO_OP], &[COMMAND_FORMAT, 0, 0]] {
            assert!(decode(entry).is_err());
        }
    }
}
