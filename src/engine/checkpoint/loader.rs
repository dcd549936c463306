//! Reading a checkpoint: every envelope is checked before it is used, and nothing is left of one that does not check out.

use rkyv::util::AlignedVec;

use super::archive::{self, Archived, Foot, Head, RegistryPiece, WindowsPiece};
use super::envelope::{ENVELOPE_HEADER_BYTES, Kind, PREAMBLE_BYTES, Position, Preamble, Stored};
use super::files::{CheckpointDir, Opening};
use super::kept::{CheckpointFile, Point, Reference};
use crate::engine::cluster::ClusterMap;
use crate::engine::counters::image::{AppliedUpTo, Extent, Restoring};
use crate::engine::counters::{Counters, Secret, Setup};
use crate::engine::input::DiskError;
use crate::engine::sessions::registry::Registry;
use crate::engine::sessions::window::Windows;
use crate::engine::wal::AlignedBuffer;
use crate::ids::{Index, KeyHash, SessionId, ShardEpoch, Term};
use crate::limits::{CHECKPOINT_READ_BYTES, WAL_BLOCK_BYTES};

/// Why a checkpoint cannot be started from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint {file} at byte {offset}: {what}")]
pub struct LoadError {
    /// The file's name.
    pub file: String,
    /// About where in it.
    pub offset: u64,
    /// What is the matter.
    pub what: String,
}

/// The state that a checkpoint holds.
pub enum Loaded {
    /// Of a counting shard.
    Counters(Box<LoadedCounters>),
    /// Of the meta shard.
    Meta {
        /// Its sessions.
        registry: Registry,
        /// The cluster map.
        map: ClusterMap,
    },
}

/// The state of a counting shard: its pages as of different entries, its sessions as of two.
pub struct LoadedCounters {
    /// The counters.
    pub counters: Counters,
    /// Up to which entry each part of them has been applied.
    pub applied: AppliedUpTo,
    /// The sessions at A.
    pub windows: Windows,
    /// The sessions at B; none if that is A.
    pub windows_at_end: Option<Windows>,
    /// The shard's epoch at A.
    pub epoch: ShardEpoch,
}

/// What a checkpoint has to be of.
pub struct Wanted {
    /// First and last hash of the shard's range.
    pub range: (KeyHash, KeyHash),
    /// What counters are made with; none for the meta shard. Its secret is replaced by the checkpoint's.
    pub setup: Option<Setup>,
}

/// Reads the checkpoint that the log names.
///
/// # Errors
/// It is damaged, is not the one that is named, or cannot be read.
pub fn load(
    dir: &mut dyn CheckpointDir,
    preamble: &Preamble,
    reference: &Reference,
    wanted: &Wanted,
    progress: &mut dyn FnMut(Opening),
) -> Result<Loaded, LoadError> {
    let mut stream = Stream::new(dir, preamble.file, reference.bytes);
    let loaded = read(&mut stream, preamble, reference, wanted, progress);
    let (offset, file) = (stream.offset(), preamble.file.name());
    loaded.map_err(|what| LoadError { file, offset, what })
}

fn read(
    stream: &mut Stream<'_>,
    preamble: &Preamble,
    reference: &Reference,
    wanted: &Wanted,
    progress: &mut dyn FnMut(Opening),
) -> Result<Loaded, String> {
    let bytes: [u8; PREAMBLE_BYTES] = stream.take(PREAMBLE_BYTES)?.try_into().expect("as many bytes as were asked for");
    if Preamble::decode(&bytes)? != *preamble {
        return Err("it belongs to another shard, store, node or cluster".into());
    }
    let mut envelopes = Envelopes { stream, position: Position::first(&bytes), archive: AlignedVec::new() };
    if envelopes.next()? != Kind::Head {
        return Err("it does not begin with its head".into());
    }
    let head = Head::restore(&envelopes.archive)?;
    let named = Point { index: Index(head.index), term: Term(head.term) };
    if named != reference.from || head.range != [wanted.range.0.0, wanted.range.1.0] {
        return Err("its head says another index, term or range than the log and the map".into());
    }
    let mut parts = Parts::new(&head, wanted);
    let foot = loop {
        match envelopes.next()? {
            Kind::Foot => break Foot::restore(&envelopes.archive)?,
            kind => parts.take(kind, &envelopes.archive)?,
        }
        let (done, bytes) = (envelopes.stream.offset(), reference.bytes);
        progress(Opening::Loading { file: preamble.file, done, bytes });
    };
    if envelopes.stream.offset() != reference.bytes {
        return Err("something follows its foot".into());
    }
    if envelopes.position.digest() != reference.digest {
        return Err("it is whole, but not the one that the log names".into());
    }
    if (Point { index: Index(foot.index), term: Term(foot.term) }) != reference.to {
        return Err("its foot says another index or term than the log".into());
    }
    Ok(parts.finish(&head, &foot)?)
}

/// What has been read of a state.
struct Parts {
    /// None for the meta shard.
    restoring: Option<Restoring>,
    windows: Vec<WindowsPiece>,
    windows_at_end: Vec<WindowsPiece>,
    registry: Vec<RegistryPiece>,
    pages: u64,
    keys: u64,
}

impl Parts {
    fn new(head: &Head, wanted: &Wanted) -> Parts {
        let setup = wanted.setup.clone().map(|setup| Setup { secret: Secret(head.secret), ..setup });
        Parts {
            restoring: setup.map(Restoring::new),
            windows: Vec::new(),
            windows_at_end: Vec::new(),
            registry: Vec::new(),
            pages: 0,
            keys: 0,
        }
    }

    fn take(&mut self, kind: Kind, archive: &[u8]) -> Result<(), &'static str> {
        match (kind, &mut self.restoring) {
            (Kind::Windows, Some(_)) => {
                let pieces = if self.pages == 0 { &mut self.windows } else { &mut self.windows_at_end };
                pieces.push(WindowsPiece::restore(archive)?);
            }
            (Kind::Page, Some(restoring)) if self.windows_at_end.is_empty() => {
                let page = archive::page(archive)?;
                let second = (page.crowded != 0).then(|| (page.second.to_native(), page.second_depth.to_native()));
                let extent = Extent { position: page.position.to_native(), depth: page.depth.to_native(), second };
                let keys = page.counts.len();
                restoring.page(extent, Index(page.applied.to_native()), keys, page.counters()?)?;
                self.pages += 1;
                self.keys += keys as u64;
            }
            (Kind::Registry, None) => self.registry.push(RegistryPiece::restore(archive)?),
            _ => return Err("an envelope stands where none of its kind belongs"),
        }
        Ok(())
    }

    fn finish(self, head: &Head, foot: &Foot) -> Result<Loaded, &'static str> {
        if (self.pages, self.keys) != (foot.pages, foot.keys) {
            return Err("its foot says another number of pages or counters than there are");
        }
        let Some(restoring) = self.restoring else {
            let registry = Registry::of_pieces(head, &self.registry)?;
            return Ok(Loaded::Meta { registry, map: ClusterMap::decode(&head.map)? });
        };
        let (counters, applied) = restoring.finish()?;
        if !applied.lies_within(Index(head.index), Index(foot.index)) {
            return Err("a page was taken outside of the entries that the checkpoint spans");
        }
        let windows_at_end = match head.index == foot.index {
            true if self.windows_at_end.is_empty() => None,
            true => return Err("it has sessions behind its pages, although no entry lies between them"),
            false => Some(Windows::of_pieces(SessionId(foot.mark), &self.windows_at_end)?),
        };
        let windows = Windows::of_pieces(SessionId(head.mark), &self.windows)?;
        let epoch = ShardEpoch(head.epoch);
        Ok(Loaded::Counters(Box::new(LoadedCounters { counters, applied, windows, windows_at_end, epoch })))
    }
}

/// The envelopes of a file, one after another.
pub(super) struct Envelopes<'s, 'd> {
    pub(super) stream: &'s mut Stream<'d>,
    pub(super) position: Position,
    /// The archive of the one read last.
    pub(super) archive: AlignedVec<16>,
}

impl Envelopes<'_, '_> {
    pub(super) fn next(&mut self) -> Result<Kind, String> {
        let header = self.stream.take(ENVELOPE_HEADER_BYTES)?.try_into().expect("as many bytes as were asked for");
        let stored = Stored::decode(header)?;
        let content = self.stream.take(stored.bytes)?;
        Ok(self.position.open(&stored, content, &mut self.archive)?)
    }
}

/// The bytes of a file, in order.
pub(super) struct Stream<'d> {
    dir: &'d mut dyn CheckpointDir,
    file: CheckpointFile,
    /// Bytes that belong to the checkpoint.
    bytes: u64,
    /// Bytes read from the file.
    read: u64,
    /// The last read.
    buffer: AlignedBuffer,
    /// What was read and not used up from `start` on.
    window: Vec<u8>,
    start: usize,
}

impl<'d> Stream<'d> {
    pub(super) fn new(dir: &'d mut dyn CheckpointDir, file: CheckpointFile, bytes: u64) -> Stream<'d> {
        Stream { dir, file, bytes, read: 0, buffer: AlignedBuffer::zeroed(0), window: Vec::new(), start: 0 }
    }

    /// Bytes that were used up.
    pub(super) fn offset(&self) -> u64 {
        self.read.min(self.bytes) - (self.window.len() - self.start) as u64
    }

    /// The next bytes. Nobody asks for more than an envelope holds.
    pub(super) fn take(&mut self, bytes: usize) -> Result<&[u8], String> {
        while self.window.len() - self.start < bytes {
            if self.read >= self.bytes {
                return Err("it ends too early".into());
            }
            self.window.drain(..self.start);
            self.start = 0;
            let left = (self.bytes - self.read).next_multiple_of(WAL_BLOCK_BYTES as u64);
            let chunk = left.min(CHECKPOINT_READ_BYTES as u64) as usize;
            self.buffer.resize_zeroed(chunk);
            self.dir.read(self.file, self.read, &mut self.buffer).map_err(|error: DiskError| error.to_string())?;
            let useful = (self.bytes - self.read).min(chunk as u64);
            self.window.extend_from_slice(&self.buffer[..useful as usize]);
            self.read += chunk as u64;
        }
        let from = self.start;
        self.start += bytes;
        Ok(&self.window[from..from + bytes])
    }
}
