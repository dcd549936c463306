//! Looking at a checkpoint without opening its store: for tools that say what a file holds.
//!
//! ```text
//! Manifest::read    one envelope after another: checksums, lengths, columns; what there is, and the reference a log would name it by
//! Manifest::verify  the loader of a restart, which makes a state of it
//! ```
//!
//! The loader wants to be told what it is to find. A tool that has no log asks the file itself: what is told then is that the file is
//! whole and consistent, and not that it is the one the log means.

use rkyv::util::AlignedVec;

use super::archive::{self, Archived, Foot, Head, RegistryPiece, WindowsPiece};
use super::envelope::{Kind, PREAMBLE_BYTES, Position, Preamble};
use super::files::CheckpointDir;
use super::kept::{CheckpointFile, Point, Reference};
use super::loader::{Envelopes, LoadError, Loaded, Stream, Wanted, load};
use crate::engine::cluster::ClusterMap;
use crate::engine::counters::{Pool, Secret};
use crate::engine::machine::Machine;
use crate::ids::{Index, KeyHash, ShardId, Term};
use crate::limits::{PAGE_KEYS_MAX, WAL_BLOCK_BYTES};

/// What a checkpoint's file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whose it is.
    pub preamble: Preamble,
    /// What it begins with.
    pub head: Head,
    /// What is between the two.
    pub contents: Contents,
    /// What it ends with.
    pub foot: Foot,
    /// What a log would name it by.
    pub reference: Reference,
}

/// What lies between a checkpoint's head and its foot, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Envelopes of sessions before the pages, and the sessions in them; one that is too large for one envelope counts once in each.
    pub windows: (u64, u64),
    /// The same behind the pages.
    pub windows_at_end: (u64, u64),
    /// Requests whose outcomes are remembered, before the pages.
    pub outcomes: u64,
    /// Pages of counters, and the counters in them.
    pub pages: (u64, u64),
    /// The first and the last entry that a page is as of; none without pages.
    pub applied: Option<(Index, Index)>,
    /// Envelopes of the meta shard's registry, and the open sessions in them.
    pub registry: (u64, u64),
    /// Names of sessions in the registry.
    pub names: u64,
    /// Bytes of all archives, unpacked.
    pub archive_bytes: u64,
}

impl Manifest {
    /// Reads a file of `bytes` up to its foot. What stands behind that is not looked at: a file may have been a longer one before.
    ///
    /// # Errors
    /// What about it is not a checkpoint.
    pub fn read(dir: &mut dyn CheckpointDir, file: CheckpointFile, bytes: u64) -> Result<Manifest, LoadError> {
        let whole = bytes / WAL_BLOCK_BYTES as u64 * WAL_BLOCK_BYTES as u64;
        let mut stream = Stream::new(dir, file, whole);
        let manifest = read(&mut stream, file);
        let (offset, file) = (stream.offset(), file.name());
        manifest.map_err(|what| LoadError { file, offset, what })
    }

    /// Makes a state of the file as a restart would that finds `reference` in its log, and drops it: memory is needed for all its
    /// counters. `map` says where keys belong.
    ///
    /// # Errors
    /// A restart would not start from it.
    pub fn verify(
        &self,
        dir: &mut dyn CheckpointDir,
        reference: &Reference,
        map: &ClusterMap,
    ) -> Result<Loaded, LoadError> {
        let shard = self.preamble.file.shard;
        let refused = |what: &str| LoadError { file: self.preamble.file.name(), offset: 0, what: what.to_string() };
        let wanted = if shard == ShardId::META {
            Wanted { range: (KeyHash(0), KeyHash(0)), setup: None }
        } else {
            let place = map.shards.iter().position(|range| range.shard == shard);
            let range = map.range(place.ok_or_else(|| refused("its shard is not in the cluster map"))?);
            let setup = Machine::setup(range, map, Secret(self.head.secret), PAGE_KEYS_MAX, &Pool::borrowed());
            Wanted { range, setup: Some(setup) }
        };
        load(dir, &self.preamble, reference, &wanted, &mut |_| {})
    }
}

fn read(stream: &mut Stream<'_>, file: CheckpointFile) -> Result<Manifest, String> {
    let bytes: [u8; PREAMBLE_BYTES] = stream.take(PREAMBLE_BYTES)?.try_into().expect("as many bytes as were asked for");
    let preamble = Preamble::decode(&bytes)?;
    if preamble.file != file {
        return Err(format!("it says that it is {}", preamble.file.name()));
    }
    let mut envelopes = Envelopes { stream, position: Position::first(&bytes), archive: AlignedVec::new() };
    if envelopes.next()? != Kind::Head {
        return Err("it does not begin with its head".into());
    }
    let head = Head::restore(&envelopes.archive)?;
    let mut contents = Contents { archive_bytes: envelopes.archive.len() as u64, ..Contents::default() };
    let foot = loop {
        let kind = envelopes.next()?;
        contents.archive_bytes += envelopes.archive.len() as u64;
        match kind {
            Kind::Foot => break Foot::restore(&envelopes.archive)?,
            kind => contents.count(kind, &envelopes.archive)?,
        }
    };
    if contents.pages != (foot.pages, foot.keys) {
        return Err("its foot says another number of pages or counters than there are".into());
    }
    let reference = Reference {
        number: file.number,
        from: Point { index: Index(head.index), term: Term(head.term) },
        to: Point { index: Index(foot.index), term: Term(foot.term) },
        bytes: envelopes.stream.offset(),
        digest: envelopes.position.digest(),
    };
    Ok(Manifest { preamble, head, contents, foot, reference })
}

impl Contents {
    fn count(&mut self, kind: Kind, archive: &[u8]) -> Result<(), &'static str> {
        match kind {
            Kind::Windows => {
                let piece = WindowsPiece::restore(archive)?;
                let at_end = self.pages.0 > 0;
                let (envelopes, sessions) = if at_end { &mut self.windows_at_end } else { &mut self.windows };
                *envelopes += 1;
                *sessions += piece.sessions.len() as u64;
                self.outcomes += if at_end { 0 } else { piece.sequences.len() as u64 };
            }
            Kind::Page => {
                let page = archive::page(archive)?;
                let applied = Index(page.applied.to_native());
                let (first, last) = self.applied.unwrap_or((applied, applied));
                self.applied = Some((first.min(applied), last.max(applied)));
                self.pages.0 += 1;
                self.pages.1 += page.counters()?.count() as u64;
            }
            Kind::Registry => {
                let piece = RegistryPiece::restore(archive)?;
                self.registry.0 += 1;
                self.registry.1 += piece.opened.len() as u64;
                self.names += piece.name_lengths.len() as u64;
            }
            Kind::Head | Kind::Foot => return Err("an envelope stands where none of its kind belongs"),
        }
        Ok(())
    }
}
