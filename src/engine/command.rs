//! Commands: what the entries of a shard's log say.
//!
//! ```text
//! entry    u8 version │ u8 kind │ content
//! no-op    (nothing)
//! batch    varint shard epoch │ parts, one after another to the end
//! expire   varint mark: sessions up to it have expired
//! map      the meta shard's cluster map (cluster)
//! meta     varint microseconds since the leader's last entry │ meta parts, one after another to the end
//!
//! part       u8 kind │ content
//! plain      varint number of increments │ the increments
//! stamped    stamp │ u64 digest │ u8 values wanted │ varint bytes of places │ places │ as plain
//! attach     varint session │ varint epoch
//! resolve    stamp
//! increment  varint key bytes │ key │ varint zigzag delta
//! stamp      varint session │ varint epoch │ varint sequence │ varint sequence − low-water mark
//! places     of the increments in the original request: varint distances, the first from −1; absent if they are all of it
//!
//! meta part  u8 kind │ content
//! open       varint name bytes (0: no name) │ name
//! close      varint session │ varint epoch │ varint progress
//! expire     varint mark
//! ```
//!
//! A gateway encodes a part once; the shard that owns its keys joins the parts that have gathered into one entry. The *position* of
//! an increment in its entry counts through all its parts, those that turn out to be repeated or refused too.

use super::counters::Increment;
use super::raft::configuration::{self as raft, Configuration};
use super::sessions::Stamp;
use crate::ids::{KeyHash, Sequence, SessionEpoch, SessionId, ShardEpoch};
use crate::limits::{BATCH_KEYS_MAX, KEY_BYTES_MAX, SESSION_NAME_BYTES_MAX};

/// Version of the commands. Changes freely until 0.1.0.
const COMMAND_FORMAT: u8 = 2;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Nothing: a new leader's first entry.
    NoOp,
    /// What clients ask of a counting shard.
    Batch(Batch<'a>),
    /// Sessions up to this one have expired.
    Expire(SessionId),
    /// The cluster map, encoded.
    Map(&'a [u8]),
    /// What clients ask of the meta shard.
    Meta(MetaBatch<'a>),
    /// Who belongs to the group. Only the group reads it.
    Configuration,
}

/// A command that cannot be read. It passed its checksum, so a newer version wrote it, or a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log entry cannot be read: {0}")]
pub struct CommandError(&'static str);

const KIND_NO_OP: u8 = 0;
const KIND_BATCH: u8 = 1;
const KIND_MAP: u8 = 2;
const KIND_EXPIRE: u8 = 3;
const KIND_META: u8 = 4;

const PART_PLAIN: u8 = 0;
const PART_STAMPED: u8 = 1;
const PART_ATTACH: u8 = 2;
const PART_RESOLVE: u8 = 3;

const META_OPEN: u8 = 0;
const META_CLOSE: u8 = 1;
const META_EXPIRE: u8 = 2;

/// The entry of a no-op.
#[must_use]
pub fn no_op() -> Vec<u8> {
    raft::NO_OP.to_vec()
}

/// The entry of a cluster map.
#[must_use]
pub fn map(encoded: &[u8]) -> Vec<u8> {
    let mut entry = vec![COMMAND_FORMAT, KIND_MAP];
    entry.extend_from_slice(encoded);
    entry
}

/// The entry that moves a counting shard's mark.
#[must_use]
pub fn expire(mark: SessionId) -> Vec<u8> {
    let mut entry = vec![COMMAND_FORMAT, KIND_EXPIRE];
    push_varint(&mut entry, mark.0);
    entry
}

/// Starts the entry of a batch, to which encoded parts are appended.
pub fn begin_batch(entry: &mut Vec<u8>, epoch: ShardEpoch) {
    entry.extend_from_slice(&[COMMAND_FORMAT, KIND_BATCH]);
    push_varint(entry, epoch.0);
}

/// Starts an entry of the meta shard, to which encoded meta parts are appended.
pub fn begin_meta(entry: &mut Vec<u8>, elapsed_micros: u64) {
    entry.extend_from_slice(&[COMMAND_FORMAT, KIND_META]);
    push_varint(entry, elapsed_micros);
}

/// What is said of a session's request beside its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original<'a> {
    /// Digest of the whole request.
    pub digest: u64,
    /// Whether new counts are wanted.
    pub want_values: bool,
    /// Places of the part's increments in the request, ascending; `None` if they are all of it.
    pub places: Option<&'a [u32]>,
}

/// Starts a part of `count` increments, which [`push_increment`] has to follow with.
pub fn begin_part(part: &mut Vec<u8>, count: u32, stamped: Option<(&Stamp, Original<'_>)>) {
    match stamped {
        None => part.push(PART_PLAIN),
        Some((stamp, original)) => {
            part.push(PART_STAMPED);
            push_stamp(part, stamp);
            part.extend_from_slice(&original.digest.to_le_bytes());
            part.push(u8::from(original.want_values));
            let mut places = Vec::new();
            let mut next = 0;
            for &place in original.places.unwrap_or_default() {
                push_varint(&mut places, u64::from(place - next));
                next = place + 1;
            }
            push_varint(part, places.len() as u64);
            part.extend_from_slice(&places);
        }
    }
    push_varint(part, u64::from(count));
}

/// Encodes one increment.
pub fn push_increment(encoded: &mut Vec<u8>, key: &[u8], delta: i64) {
    push_varint(encoded, key.len() as u64);
    encoded.extend_from_slice(key);
    push_varint(encoded, ((delta << 1) ^ (delta >> 63)) as u64);
}

/// A part that refuses earlier holders of a session.
#[must_use]
pub fn attach_part(session: SessionId, epoch: SessionEpoch) -> Vec<u8> {
    let mut part = vec![PART_ATTACH];
    push_varint(&mut part, session.0);
    push_varint(&mut part, u64::from(epoch.0));
    part
}

/// A part that settles a request's number.
#[must_use]
pub fn resolve_part(stamp: &Stamp) -> Vec<u8> {
    let mut part = vec![PART_RESOLVE];
    push_stamp(&mut part, stamp);
    part
}

/// A meta part that opens a session, with an empty name one without a name.
#[must_use]
pub fn open_part(name: &[u8]) -> Vec<u8> {
    let mut part = vec![META_OPEN];
    push_varint(&mut part, name.len() as u64);
    part.extend_from_slice(name);
    part
}

/// A meta part that closes a named session.
#[must_use]
pub fn close_part(session: SessionId, epoch: SessionEpoch, progress: Sequence) -> Vec<u8> {
    let mut part = vec![META_CLOSE];
    push_varint(&mut part, session.0);
    push_varint(&mut part, u64::from(epoch.0));
    push_varint(&mut part, progress.0);
    part
}

/// A meta part that moves the mark.
#[must_use]
pub fn expire_part(mark: SessionId) -> Vec<u8> {
    let mut part = vec![META_EXPIRE];
    push_varint(&mut part, mark.0);
    part
}

/// Bytes that [`push_increment`] adds, at most.
#[must_use]
pub fn increment_bytes_max(key_bytes: usize) -> usize {
    2 + key_bytes + 10
}

/// Bytes that [`begin_part`] writes for so many increments, at most: places up to [`BATCH_KEYS_MAX`] take two bytes.
#[must_use]
pub fn part_bytes_max(count: usize) -> usize {
    64 + 2 * count
}

/// Reads an entry.
///
/// # Errors
/// Its version or kind is unknown.
pub fn decode(entry: &[u8]) -> Result<Command<'_>, CommandError> {
    match entry {
        [COMMAND_FORMAT, KIND_NO_OP] => Ok(Command::NoOp),
        [COMMAND_FORMAT, KIND_BATCH, content @ ..] => {
            let mut rest = Reader(content);
            let epoch = ShardEpoch(rest.varint()?);
            Ok(Command::Batch(Batch { epoch, rest }))
        }
        [COMMAND_FORMAT, KIND_MAP, map @ ..] => Ok(Command::Map(map)),
        [COMMAND_FORMAT, KIND_EXPIRE, content @ ..] => {
            let mut rest = Reader(content);
            let mark = SessionId(rest.varint()?);
            if rest.0.is_empty() { Ok(Command::Expire(mark)) } else { Err(CommandError("bytes behind a mark")) }
        }
        [COMMAND_FORMAT, KIND_META, content @ ..] => {
            let mut rest = Reader(content);
            let elapsed_micros = rest.varint()?;
            Ok(Command::Meta(MetaBatch { elapsed_micros, rest }))
        }
        _ if entry.starts_with(&raft::CONFIGURATION_PREFIX) => match Configuration::decode(entry) {
            Some(Ok(_)) => Ok(Command::Configuration),
            Some(Err(_)) | None => Err(CommandError("not a configuration")),
        },
        [COMMAND_FORMAT, ..] => Err(CommandError("unknown kind")),
        _ => Err(CommandError("unknown version")),
    }
}

/// A part of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// So many increments follow.
    Increments {
        /// How many.
        count: u32,
        /// The request they belong to, if it is one of a session.
        stamped: Option<Stamped<'a>>,
    },
    /// Earlier holders of a session are refused from now on.
    Attach {
        /// The session.
        session: SessionId,
        /// Its holder's epoch.
        epoch: SessionEpoch,
    },
    /// The number is settled.
    Resolve(Stamp),
}

/// The request of a session that a part belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped<'a> {
    /// Its number.
    pub stamp: Stamp,
    /// Digest of the whole request.
    pub digest: u64,
    /// Whether new counts are wanted.
    pub want_values: bool,
    places: &'a [u8],
}

impl Stamped<'_> {
    /// Places of the part's increments in the request, ascending; `None` if they are all of it.
    ///
    /// # Errors
    /// The bytes are not places.
    pub fn places(&self) -> Result<Option<Box<[u32]>>, CommandError> {
        if self.places.is_empty() {
            return Ok(None);
        }
        let mut rest = Reader(self.places);
        let (mut places, mut next) = (Vec::new(), 0u64);
        while !rest.0.is_empty() {
            let place = next.saturating_add(rest.varint()?);
            if place >= BATCH_KEYS_MAX as u64 {
                return Err(CommandError("a place is past the end of any request"));
            }
            places.push(place as u32);
            next = place + 1;
        }
        Ok(Some(places.into()))
    }
}

/// The parts of a batch, read in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The shard's epoch when the batch was proposed.
    pub epoch: ShardEpoch,
    rest: Reader<'a>,
}

impl<'a> Batch<'a> {
    /// The next part, or `None` at the end of the batch. A part's increments must have been read or skipped before the next
    /// part is asked for.
    ///
    /// # Errors
    /// The bytes are not a part.
    pub fn next_part(&mut self) -> Result<Option<Part<'a>>, CommandError> {
        let Some(kind) = self.rest.byte() else { return Ok(None) };
        match kind {
            PART_PLAIN => Ok(Some(Part::Increments { count: self.rest.count()?, stamped: None })),
            PART_STAMPED => {
                let stamp = self.rest.stamp()?;
                let digest = self.rest.u64()?;
                let want_values = self.rest.byte() == Some(1);
                let bytes = self.rest.count()? as usize;
                let places = self.rest.take(bytes)?;
                let count = self.rest.count()?;
                let stamped = Some(Stamped { stamp, digest, want_values, places });
                Ok(Some(Part::Increments { count, stamped }))
            }
            PART_ATTACH => {
                let session = SessionId(self.rest.varint()?);
                Ok(Some(Part::Attach { session, epoch: SessionEpoch(self.rest.count()?) }))
            }
            PART_RESOLVE => Ok(Some(Part::Resolve(self.rest.stamp()?))),
            _ => Err(CommandError("unknown kind of part")),
        }
    }

    /// The next increment of the current part.
    ///
    /// # Errors
    /// The bytes are not an increment.
    #[inline]
    pub fn next_increment(&mut self, routing_seed: u64) -> Result<Increment<'a>, CommandError> {
        let (key, delta) = self.next_pair()?;
        Ok(Increment { hash: KeyHash::of(routing_seed, key), key, delta })
    }

    /// Passes over increments of the current part.
    ///
    /// # Errors
    /// The bytes are not increments.
    pub fn skip_increments(&mut self, count: u32) -> Result<(), CommandError> {
        (0..count).try_for_each(|_| self.next_pair().map(|_| ()))
    }

    #[inline]
    fn next_pair(&mut self) -> Result<(&'a [u8], i64), CommandError> {
        let len = self.rest.varint()? as usize;
        if len == 0 || len > KEY_BYTES_MAX {
            return Err(CommandError("a key has a length that keys cannot have"));
        }
        let key = self.rest.take(len)?;
        let zigzag = self.rest.varint()?;
        Ok((key, (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)))
    }
}

/// A part of a [`MetaBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaPart<'a> {
    /// Opens a session; with an empty name, one without a name.
    Open(&'a [u8]),
    /// Closes a named session.
    Close {
        /// The session.
        session: SessionId,
        /// Its holder's epoch.
        epoch: SessionEpoch,
        /// Every request up to this number is settled.
        progress: Sequence,
    },
    /// Moves the mark.
    Expire(SessionId),
}

/// The parts of an entry of the meta shard, read in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaBatch<'a> {
    /// What the leader measured since its last entry.
    pub elapsed_micros: u64,
    rest: Reader<'a>,
}

impl<'a> MetaBatch<'a> {
    /// The next part, or `None` at the end.
    ///
    /// # Errors
    /// The bytes are not a part.
    pub fn next_part(&mut self) -> Result<Option<MetaPart<'a>>, CommandError> {
        let Some(kind) = self.rest.byte() else { return Ok(None) };
        match kind {
            META_OPEN => {
                let bytes = self.rest.count()? as usize;
                if bytes > SESSION_NAME_BYTES_MAX {
                    return Err(CommandError("a session's name is too long"));
                }
                Ok(Some(MetaPart::Open(self.rest.take(bytes)?)))
            }
            META_CLOSE => {
                let session = SessionId(self.rest.varint()?);
                let epoch = SessionEpoch(self.rest.count()?);
                Ok(Some(MetaPart::Close { session, epoch, progress: Sequence(self.rest.varint()?) }))
            }
            META_EXPIRE => Ok(Some(MetaPart::Expire(SessionId(self.rest.varint()?)))),
            _ => Err(CommandError("unknown kind of meta part")),
        }
    }
}

/// Bytes that are still to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], CommandError> {
        self.0.split_off(..bytes).ok_or(CommandError("it ends too early"))
    }

    fn u64(&mut self) -> Result<u64, CommandError> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    /// A number of 32 bits.
    fn count(&mut self) -> Result<u32, CommandError> {
        u32::try_from(self.varint()?).map_err(|_| CommandError("a number is too large"))
    }

    fn stamp(&mut self) -> Result<Stamp, CommandError> {
        let session = SessionId(self.varint()?);
        let epoch = SessionEpoch(self.count()?);
        let sequence = self.varint()?;
        let low_water = sequence.checked_sub(self.varint()?).ok_or(CommandError("a low-water mark is below zero"))?;
        Ok(Stamp { session, epoch, sequence: Sequence(sequence), low_water: Sequence(low_water) })
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, CommandError> {
        // Lengths and small deltas take one byte.
        if let [byte @ 0..=0x7f, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0u64;
        for (place, &byte) in self.0.iter().take(10).enumerate() {
            if place == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                self.0 = &self.0[place + 1..];
                return Ok(value);
            }
        }
        Err(CommandError("a number does not end"))
    }
}

fn push_stamp(out: &mut Vec<u8>, stamp: &Stamp) {
    push_varint(out, stamp.session.0);
    push_varint(out, u64::from(stamp.epoch.0));
    push_varint(out, stamp.sequence.0);
    push_varint(out, stamp.sequence.0 - stamp.low_water.0);
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

    const EPOCH: ShardEpoch = ShardEpoch(300);

    fn stamp(session: u64, sequence: u64, span: u64) -> Stamp {
        Stamp {
            session: SessionId(session),
            epoch: SessionEpoch(session as u32),
            sequence: Sequence(sequence),
            low_water: Sequence(sequence - span.min(sequence)),
        }
    }

    /// A part in the making: its stamp, whether it has places, its increments.
    type Model = (Option<(u64, u64, u64)>, bool, Vec<(Vec<u8>, i64)>);

    fn encode(entry: &mut Vec<u8>, (numbers, placed, increments): &Model) {
        let places: Vec<u32> = (0..increments.len() as u32).map(|place| 3 * place + 1).collect();
        let stamp = numbers.map(|(session, sequence, span)| stamp(session, sequence, span));
        let original = Original { digest: 77, want_values: *placed, places: placed.then_some(&places[..]) };
        let before = entry.len();
        begin_part(entry, increments.len() as u32, stamp.as_ref().map(|stamp| (stamp, original)));
        assert!(entry.len() - before <= part_bytes_max(increments.len()));
        for (key, delta) in increments {
            let before = entry.len();
            push_increment(entry, key, *delta);
            assert!(entry.len() - before <= increment_bytes_max(key.len()));
        }
    }

    proptest! {
        #[test]
        fn batches_round_trip(parts in prop::collection::vec((
            any::<Option<(u64, u64, u64)>>(), any::<bool>(),
            prop::collection::vec((prop::collection::vec(any::<u8>(), 1..200), any::<i64>()), 1..20)), 0..5)) {
            let mut entry = Vec::new();
            begin_batch(&mut entry, EPOCH);
            parts.iter().for_each(|part| encode(&mut entry, part));
            let Ok(Command::Batch(mut batch)) = decode(&entry) else { panic!("not a batch") };
            prop_assert_eq!(batch.epoch, EPOCH);
            for (numbers, placed, increments) in &parts {
                let Ok(Some(Part::Increments { count, stamped })) = batch.next_part() else { panic!("not increments") };
                prop_assert_eq!(count as usize, increments.len());
                prop_assert_eq!(stamped.map(|stamped| stamped.stamp), numbers.map(|(a, b, c)| stamp(a, b, c)));
                if let Some(stamped) = stamped {
                    prop_assert_eq!((stamped.digest, stamped.want_values), (77, *placed));
                    let places: Box<[u32]> = (0..count).map(|place| 3 * place + 1).collect();
                    prop_assert_eq!(stamped.places(), Ok(placed.then_some(places)));
                }
                if count % 3 == 0 {
                    prop_assert_eq!(batch.skip_increments(count), Ok(()));
                    continue;
                }
                for (key, delta) in increments {
                    let increment = batch.next_increment(7).unwrap();
                    prop_assert_eq!((increment.key, increment.delta), (&key[..], *delta));
                    prop_assert_eq!(increment.hash, KeyHash::of(7, key));
                }
            }
            prop_assert_eq!(batch.next_part(), Ok(None));
        }

        #[test]
        fn any_bytes_end_in_a_result(kind in 0..6u8, content in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut entry = vec![COMMAND_FORMAT, kind];
            entry.extend(content);
            match decode(&entry) {
                Ok(Command::Batch(mut batch)) => {
                    while let Ok(Some(part)) = batch.next_part() {
                        let Part::Increments { count, stamped } = part else { continue };
                        let _ = stamped.map(|stamped| stamped.places());
                        if (0..count).any(|_| batch.next_increment(0).is_err()) {
                            break;
                        }
                    }
                }
                Ok(Command::Meta(mut batch)) => while let Ok(Some(_)) = batch.next_part() {},
                _ => {}
            }
        }
    }

    #[test]
    fn parts_about_sessions_round_trip() {
        let mut entry = Vec::new();
        begin_batch(&mut entry, EPOCH);
        entry.extend(attach_part(SessionId(1 << 40), SessionEpoch(u32::MAX)));
        entry.extend(resolve_part(&stamp(5, 9, 4)));
        let Ok(Command::Batch(mut batch)) = decode(&entry) else { panic!("not a batch") };
        let attach = Part::Attach { session: SessionId(1 << 40), epoch: SessionEpoch(u32::MAX) };
        assert_eq!(batch.next_part(), Ok(Some(attach)));
        assert_eq!(batch.next_part(), Ok(Some(Part::Resolve(stamp(5, 9, 4)))));
        assert_eq!(batch.next_part(), Ok(None));

        let mut entry = Vec::new();
        begin_meta(&mut entry, 1_000);
        entry.extend(open_part(b""));
        entry.extend(open_part(b"job"));
        entry.extend(close_part(SessionId(3), SessionEpoch(4), Sequence(500)));
        entry.extend(expire_part(SessionId(600)));
        let Ok(Command::Meta(mut batch)) = decode(&entry) else { panic!("not of the meta shard") };
        assert_eq!(batch.elapsed_micros, 1_000);
        let close = MetaPart::Close { session: SessionId(3), epoch: SessionEpoch(4), progress: Sequence(500) };
        for part in [MetaPart::Open(b""), MetaPart::Open(b"job"), close, MetaPart::Expire(SessionId(600))] {
            assert_eq!(batch.next_part(), Ok(Some(part)));
        }
        assert_eq!(batch.next_part(), Ok(None));
    }

    #[test]
    fn other_versions_and_kinds_are_refused() {
        assert_eq!(decode(&no_op()), Ok(Command::NoOp));
        assert_eq!(decode(&map(b"x")), Ok(Command::Map(b"x")));
        assert_eq!(decode(&expire(SessionId(300))), Ok(Command::Expire(SessionId(300))));
        for entry in [&[][..], &[COMMAND_FORMAT], &[COMMAND_FORMAT, 9], &[1, KIND_NO_OP], &[COMMAND_FORMAT, 0, 0]] {
            assert!(decode(entry).is_err());
        }
    }
}
