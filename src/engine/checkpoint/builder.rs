//! Making a checkpoint, a piece at a time. Each call of `Builder::step` is between two entries, so a piece is of one moment.

use std::collections::VecDeque;

use super::archive::{Archived, Foot, Head, PagePiece, RegistryPiece, WindowsPiece};
use super::envelope::{Kind, Position, Preamble};
use super::kept::{Point, Reference};
use crate::engine::counters::image::Proportion;
use crate::engine::counters::{Counters, PageCursor};
use crate::engine::machine::Machine;
use crate::engine::wal::AlignedBuffer;
use crate::ids::{CheckpointNumber, Index, KeyHash, ReplicaId};
use crate::limits::{CHECKPOINT_WRITE_BYTES, WAL_BLOCK_BYTES};
use crate::mutant::mutant;

/// A checkpoint in the making.
pub struct Builder {
    number: CheckpointNumber,
    from: Point,
    to: Point,
    position: Position,
    stage: Stage,
    /// Bytes of the file from `handed_out` on.
    file: Vec<u8>,
    handed_out: u64,
    pages: u64,
    keys: u64,
    proportion: Proportion,
    /// Pages that the table had when the last one was taken.
    pages_seen: usize,
    page: PagePiece,
}

/// What comes next.
enum Stage {
    /// Sessions at A.
    Beginning(VecDeque<Piece>),
    /// The page at a cursor.
    Pages(PageCursor),
    /// Sessions at B, which stood at this mark.
    Ending(VecDeque<Piece>, u64),
    /// Nothing.
    Whole,
}

enum Piece {
    Windows(WindowsPiece),
    Registry(RegistryPiece),
}

impl Builder {
    /// Begins a checkpoint of a shard whose state is as of `at`: head and sessions are those of this moment.
    #[must_use]
    pub(in crate::engine) fn begin(
        preamble: &Preamble,
        machine: &Machine,
        range: (KeyHash, KeyHash),
        voters: &[ReplicaId],
        at: Point,
    ) -> Builder {
        let mut head = Head {
            index: at.index.0,
            term: at.term.0,
            range: [range.0.0, range.1.0],
            voters: voters.iter().map(|voter| voter.0).collect(),
            ..Head::default()
        };
        let pieces = match machine {
            Machine::Counters(shard) => {
                head.epoch = shard.epoch.0;
                head.mark = shard.windows.mark().0;
                head.secret = shard.counters.secret().0;
                shard.windows.pieces().into_iter().map(Piece::Windows).collect()
            }
            Machine::Meta(meta) => {
                meta.registry.put_into(&mut head);
                head.map = meta.map.as_ref().map(|map| map.encode()).unwrap_or_default();
                meta.registry.pieces().into_iter().map(Piece::Registry).collect()
            }
        };
        let bytes = preamble.encode();
        let mut builder = Builder {
            number: preamble.file.number,
            from: at,
            to: at,
            position: Position::first(&bytes),
            stage: Stage::Beginning(pieces),
            file: bytes.to_vec(),
            handed_out: 0,
            pages: 0,
            keys: 0,
            proportion: Proportion::default(),
            pages_seen: 0,
            page: PagePiece::default(),
        };
        builder.seal(Kind::Head, &head);
        builder
    }

    /// Makes the next piece. The shard's state is as of `at`, an entry boundary. Returns the bytes that it takes.
    pub(in crate::engine) fn step(&mut self, machine: &Machine, at: Point) -> usize {
        let before = self.file.len();
        match std::mem::replace(&mut self.stage, Stage::Whole) {
            Stage::Beginning(mut pieces) => match (pieces.pop_front(), machine) {
                (Some(piece), _) => {
                    self.seal_piece(&piece);
                    self.stage = Stage::Beginning(pieces);
                }
                (None, Machine::Counters(_)) => self.stage = Stage::Pages(PageCursor::START),
                // Nothing of the meta shard is taken later than its head.
                (None, Machine::Meta(meta)) => self.stage = Stage::Ending(VecDeque::new(), meta.registry.mark().0),
            },
            Stage::Pages(cursor) => {
                let Machine::Counters(shard) = machine else { unreachable!("the meta shard has no pages") };
                self.stage = match self.take_page(&shard.counters, cursor, at.index) {
                    Some(next) => Stage::Pages(next),
                    None => {
                        self.to = at;
                        let same = at == self.from;
                        let pieces = if same { Vec::new() } else { shard.windows.pieces() };
                        Stage::Ending(pieces.into_iter().map(Piece::Windows).collect(), shard.windows.mark().0)
                    }
                };
            }
            Stage::Ending(mut pieces, mark) => match pieces.pop_front() {
                Some(piece) => {
                    self.seal_piece(&piece);
                    self.stage = Stage::Ending(pieces, mark);
                }
                None => {
                    let Point { index, term } = self.to;
                    let foot = Foot { index: index.0, term: term.0, mark, pages: self.pages, keys: self.keys };
                    self.seal(Kind::Foot, &foot);
                }
            },
            Stage::Whole => {}
        }
        self.file.len() - before
    }

    /// Takes the image of one page. Returns where the next one begins.
    fn take_page(&mut self, counters: &Counters, cursor: PageCursor, applied: Index) -> Option<PageCursor> {
        let view = counters.page(cursor);
        let extent = view.extent();
        let mut page = std::mem::take(&mut self.page);
        page.position = extent.position;
        page.depth = extent.depth;
        (page.crowded, (page.second, page.second_depth)) =
            (u8::from(extent.second.is_some()), extent.second.unwrap_or_default());
        page.applied = if mutant!("page-taken-as-of-the-start") { self.from.index.0 } else { applied.0 };
        page.key_lengths.clear();
        page.keys.clear();
        page.counts.clear();
        view.for_each(|key, count| {
            page.key_lengths.push(key.len() as u16);
            page.keys.extend_from_slice(key);
            page.counts.push(count);
        });
        self.pages += 1;
        self.keys += page.counts.len() as u64;
        self.proportion.note(extent);
        self.seal(Kind::Page, &page);
        self.page = page;
        let split = std::mem::replace(&mut self.pages_seen, counters.page_count()) < counters.page_count();
        match view.next() {
            Some(sibling) if mutant!("split-pages-skipped") && split && self.pages > 1 => counters.page(sibling).next(),
            next => next,
        }
    }

    fn seal_piece(&mut self, piece: &Piece) {
        match piece {
            Piece::Windows(piece) => self.seal(Kind::Windows, piece),
            Piece::Registry(piece) => self.seal(Kind::Registry, piece),
        }
    }

    fn seal(&mut self, kind: Kind, content: &impl Archived) {
        self.position.seal(kind, content, &mut self.file);
    }

    /// Whether everything has been made.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.stage, Stage::Whole)
    }

    /// Whether counters can be made again of what is whole.
    #[must_use]
    pub fn is_in_proportion(&self) -> bool {
        self.proportion.holds()
    }

    /// Bytes made and not handed out.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.file.len()
    }

    /// Bytes handed out.
    #[must_use]
    pub fn handed_out_bytes(&self) -> u64 {
        self.handed_out
    }

    /// The next write, if enough has been made for one or nothing will follow: its offset and bytes, whole blocks. `spare` is a buffer to
    /// be used again.
    pub fn take_write(&mut self, spare: Option<AlignedBuffer>) -> Option<(u64, AlignedBuffer)> {
        if self.file.is_empty() || (self.file.len() < CHECKPOINT_WRITE_BYTES && !self.is_whole()) {
            return None;
        }
        let bytes = self.file.len().min(CHECKPOINT_WRITE_BYTES);
        let mut buffer = spare.unwrap_or_else(|| AlignedBuffer::zeroed(0));
        buffer.resize_zeroed(0);
        buffer.resize_zeroed(bytes.next_multiple_of(WAL_BLOCK_BYTES));
        buffer[..bytes].copy_from_slice(&self.file[..bytes]);
        self.file.drain(..bytes);
        let offset = self.handed_out;
        self.handed_out += bytes as u64;
        Some((offset, buffer))
    }

    /// What names the checkpoint, once everything has been handed out.
    #[must_use]
    pub fn reference(&self) -> Reference {
        debug_assert!(self.is_whole() && self.file.is_empty(), "a checkpoint is named once it is whole");
        Reference {
            number: self.number,
            from: self.from,
            to: self.to,
            bytes: self.handed_out,
            digest: self.position.digest(),
        }
    }
}
