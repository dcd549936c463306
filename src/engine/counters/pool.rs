//! The pool: where pages get the memory for their counters from, in blocks of one size.
//!
//! The shell hands in the pool, because only a shell can map memory: `Pool::new` takes its door, a function that
//! yields one more region each time it is called. The engine cuts regions into blocks and never asks what they are
//! made of: huge pages mapped for a store, or plain heap.
//!
//! **A block is an exclusive reference that lives as long as the process**, and whoever holds it owns it. So an access
//! to a counter goes from its page to the block and through no table of the pool, and there is no `unsafe` in it. The
//! price is that regions are never unmapped: a pool is as large as its shards were at their largest, what a dropped
//! shard had is used by the next, and a pool should be made once a thread and shared.
//!
//! **One size.** Hash tables of one store grow in lock-step, so with several sizes of blocks, those of the size that every
//! page has just outgrown would lie idle (6 of 26 bytes a counter in an experiment). With one size there is nothing to
//! be left over.
//!
//! **Pieces** are for the indexes of pages ([`super::index_memory`]), in a pool that was made for it. An index is twice
//! as large as before when it grows, so they have sizes, three of them; but a page that splits leaves two whose indexes
//! begin anew, so each size is wanted again all the time, and pages of every fill exist at any time.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::limits::BLOCK_BYTES;

/// The unit of a pool.
pub type BlockBytes = [u8; BLOCK_BYTES];

/// What the places and sizes of pieces are multiples of.
pub(super) const PIECE_ALIGNMENT: usize = 16;
/// Bytes of a piece, at least: smaller indexes are those of tables that have only begun.
const PIECE_BYTES_MIN: usize = 2 << 10;
/// Bytes of a piece, at most: an index of 4,096 buckets.
const PIECE_BYTES_MAX: usize = 4_096 * (size_of::<u16>() + 1) + PIECE_ALIGNMENT;
/// Bytes of a region, at least, if indexes are to be in it.
pub const REGION_BYTES_MIN: usize = 64 << 10;

const _: () = assert!(PIECE_BYTES_MAX <= REGION_BYTES_MIN / 4);

/// A block, owned by who holds it. What is in it when it comes from the pool is of no meaning.
pub(super) type Block = &'static mut BlockBytes;

/// Memory for the counters of all shards of one thread. Clones share it.
#[derive(Clone)]
pub struct Pool {
    blocks: Rc<RefCell<Blocks>>,
}

struct Blocks {
    more: Box<dyn FnMut() -> &'static mut [BlockBytes]>,
    /// Whether the pool has pieces.
    in_pieces: bool,
    /// What remains of the last region that was taken for blocks.
    fresh: std::slice::IterMut<'static, BlockBytes>,
    /// What remains of the last region that was taken for pieces.
    uncut: &'static mut [u8],
    /// Bytes too few for anything, at the ends of such regions.
    scraps_bytes: usize,
    /// Pieces that were given back, by size.
    pieces: Vec<(usize, Vec<NonNull<[u8]>>)>,
    /// Used before; the last one given back is the first to be used again.
    returned: Vec<Block>,
    regions_bytes: usize,
    /// Who gets all blocks when nobody uses this pool any more.
    lender: Option<Pool>,
}

impl Pool {
    /// A pool that calls `more` for a region of at least one block whenever it has none left. There is no way to refuse:
    /// what may not grow is refused before it is proposed.
    #[must_use]
    pub fn new(more: impl FnMut() -> &'static mut [BlockBytes] + 'static) -> Pool {
        Pool::cut(Box::new(more), false)
    }

    /// A pool that has room for the indexes of pages too, from regions of their own; of [`REGION_BYTES_MIN`] at least.
    #[must_use]
    pub fn with_indexes(more: impl FnMut() -> &'static mut [BlockBytes] + 'static) -> Pool {
        Pool::cut(Box::new(more), true)
    }

    fn cut(more: Box<dyn FnMut() -> &'static mut [BlockBytes]>, in_pieces: bool) -> Pool {
        let blocks = Blocks {
            more,
            in_pieces,
            fresh: [].iter_mut(),
            uncut: &mut [],
            scraps_bytes: 0,
            pieces: Vec::new(),
            returned: Vec::new(),
            regions_bytes: 0,
            lender: None,
        };
        Pool { blocks: Rc::new(RefCell::new(blocks)) }
    }

    /// A pool of plain heap memory, in regions that begin small and double.
    #[must_use]
    pub fn heap() -> Pool {
        const BLOCKS_MIN: usize = 16;
        const BLOCKS_MAX: usize = (256 << 10) / BLOCK_BYTES;
        let mut blocks = BLOCKS_MIN;
        Pool::new(move || {
            let region = vec![[0; BLOCK_BYTES]; blocks].leak();
            blocks = (2 * blocks).min(BLOCKS_MAX);
            region
        })
    }

    /// A pool that borrows each of its blocks from the one that this thread shares, and leaves them all to it in the end: for
    /// shells that make and drop many stores. What it counts is its own.
    #[must_use]
    pub fn borrowed() -> Pool {
        let lender = Pool::default();
        let door = lender.clone();
        let pool = Pool::new(move || std::slice::from_mut(door.take()));
        pool.blocks.borrow_mut().lender = Some(lender);
        pool
    }

    /// Bytes of all regions.
    #[must_use]
    pub fn regions_bytes(&self) -> usize {
        self.blocks.borrow().regions_bytes
    }

    /// Bytes of the blocks that no page holds, and of the list of them.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        let blocks = self.blocks.borrow();
        let pieces = |(size, pieces): &(usize, Vec<NonNull<[u8]>>)| {
            pieces.len() * size + pieces.capacity() * size_of::<NonNull<[u8]>>()
        };
        (blocks.fresh.len() + blocks.returned.len()) * BLOCK_BYTES
            + blocks.returned.capacity() * size_of::<Block>()
            + blocks.uncut.len()
            + blocks.scraps_bytes
            + blocks.pieces.iter().map(pieces).sum::<usize>()
    }

    /// A piece of a size, a multiple of [`PIECE_ALIGNMENT`] and aligned to it; `None` if the pool has no pieces, or none so large.
    pub(super) fn take_piece(&self, size: usize) -> Option<NonNull<[u8]>> {
        let mut blocks = self.blocks.borrow_mut();
        if blocks.has_pieces(size) { Some(blocks.take_piece(size)) } else { None }
    }

    /// Takes a piece back; false if it cannot be one of this pool's, by its size.
    pub(super) fn give_back_piece(&self, piece: NonNull<[u8]>) -> bool {
        let mut blocks = self.blocks.borrow_mut();
        let is_ours = blocks.has_pieces(piece.len());
        if is_ours {
            blocks.pieces_of(piece.len()).push(piece);
        }
        is_ours
    }

    pub(super) fn take(&self) -> Block {
        self.blocks.borrow_mut().take()
    }

    pub(super) fn give_back(&self, blocks: impl Iterator<Item = Block>) {
        self.blocks.borrow_mut().returned.extend(blocks);
    }
}

impl Blocks {
    fn take(&mut self) -> Block {
        if let Some(block) = self.returned.pop() {
            return block;
        }
        if self.fresh.len() == 0 {
            self.fresh = self.region().iter_mut();
        }
        self.fresh.next().expect("the shell's regions have at least one block")
    }

    fn region(&mut self) -> &'static mut [BlockBytes] {
        let region = (self.more)();
        self.regions_bytes += size_of_val(region);
        region
    }

    fn has_pieces(&self, size: usize) -> bool {
        self.in_pieces && (PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(&size)
    }

    fn pieces_of(&mut self, size: usize) -> &mut Vec<NonNull<[u8]>> {
        let place = self.pieces.iter().position(|(of, _)| *of == size);
        let place = place.unwrap_or_else(|| {
            self.pieces.push((size, Vec::new()));
            self.pieces.len() - 1
        });
        &mut self.pieces[place].1
    }

    fn take_piece(&mut self, size: usize) -> NonNull<[u8]> {
        if let Some(piece) = self.pieces_of(size).pop() {
            return piece;
        }
        if self.uncut.len() < size {
            let (rest, scraps) = std::mem::take(&mut self.uncut).as_chunks_mut();
            self.returned.extend(rest);
            let region = self.region().as_flattened_mut();
            let skipped = region.as_ptr().align_offset(PIECE_ALIGNMENT);
            self.scraps_bytes += scraps.len() + skipped;
            self.uncut = &mut region[skipped..];
        }
        let (piece, rest) = std::mem::take(&mut self.uncut).split_at_mut(size);
        self.uncut = rest;
        NonNull::from(piece)
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        // Tables hold the pool, so all of their blocks are back.
        if let Some(lender) = &self.lender {
            lender.give_back(self.returned.drain(..));
        }
    }
}

/// The pool that shards of this thread share if the shell has not handed in another.
impl Default for Pool {
    fn default() -> Pool {
        thread_local! {
            static SHARED: Pool = Pool::heap();
        }
        SHARED.with(Pool::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_from_regions_and_are_used_again() {
        let pool = Pool::new(|| vec![[0; BLOCK_BYTES]; 3].leak());
        let blocks: Vec<Block> = (0..4).map(|_| pool.take()).collect();
        assert_eq!(pool.regions_bytes(), 6 * BLOCK_BYTES);
        assert_eq!(pool.free_bytes(), 2 * BLOCK_BYTES);
        pool.give_back(blocks.into_iter());
        let again: Vec<Block> = (0..6).map(|_| pool.clone().take()).collect();
        assert_eq!(pool.regions_bytes(), 6 * BLOCK_BYTES);
        assert!(pool.free_bytes() < BLOCK_BYTES, "only the list is left");
        drop(again);
    }

    #[test]
    fn pieces_are_cut_from_regions_of_their_own_and_used_again() {
        const REGION_BLOCKS: usize = REGION_BYTES_MIN / BLOCK_BYTES;
        let pool = Pool::with_indexes(|| vec![[0; BLOCK_BYTES]; REGION_BLOCKS].leak());
        assert!([PIECE_BYTES_MIN - 16, PIECE_BYTES_MAX + 16].iter().all(|&size| pool.take_piece(size).is_none()));
        assert!(Pool::heap().take_piece(PIECE_BYTES_MAX).is_none(), "a pool without pieces");
        let mut taken: Vec<NonNull<[u8]>> = Vec::new();
        for size in [PIECE_BYTES_MAX, PIECE_BYTES_MIN, 6_160].into_iter().cycle().take(60) {
            let piece = pool.take_piece(size).expect("it is no larger than the largest");
            assert_eq!((piece.len(), piece.cast::<u8>().align_offset(PIECE_ALIGNMENT)), (size, 0));
            taken.push(piece);
        }
        let bytes = |pieces: &[NonNull<[u8]>]| pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let regions_bytes = pool.regions_bytes();
        assert!(bytes(&taken) < regions_bytes && regions_bytes <= bytes(&taken) * 2);
        let mut ranges: Vec<(usize, usize)> = taken.iter().map(|piece| (piece.addr().get(), piece.len())).collect();
        ranges.sort_unstable();
        assert!(ranges.is_sorted_by(|a, b| a.0 + a.1 <= b.0), "no two overlap");
        assert!(taken.iter().all(|&piece| pool.give_back_piece(piece)));
        assert!(pool.free_bytes() >= regions_bytes);
        for &piece in &taken {
            assert!(pool.take_piece(piece.len()).is_some());
        }
        assert_eq!(pool.regions_bytes(), regions_bytes, "all were used again");
    }

    #[test]
    fn what_was_borrowed_goes_back() {
        let shared = Pool::default();
        for _ in 0..3 {
            let pool = Pool::borrowed();
            let blocks: Vec<Block> = (0..10).map(|_| pool.take()).collect();
            assert_eq!((pool.regions_bytes(), pool.free_bytes()), (10 * BLOCK_BYTES, 0));
            pool.give_back(blocks.into_iter());
            assert!(pool.free_bytes() >= 10 * BLOCK_BYTES);
            let regions_bytes = shared.regions_bytes();
            drop(pool);
            assert_eq!(shared.regions_bytes(), regions_bytes);
            assert!(shared.free_bytes() >= 10 * BLOCK_BYTES);
        }
    }
}
