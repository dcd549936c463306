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

use std::cell::RefCell;
use std::rc::Rc;

use crate::limits::BLOCK_BYTES;

/// The unit of a pool.
pub type BlockBytes = [u8; BLOCK_BYTES];

/// A block, owned by who holds it. What is in it when it comes from the pool is of no meaning.
pub(super) type Block = &'static mut BlockBytes;

/// Memory for the counters of all shards of one thread. Clones share it.
#[derive(Clone)]
pub struct Pool {
    blocks: Rc<RefCell<Blocks>>,
}

struct Blocks {
    more: Box<dyn FnMut() -> &'static mut [BlockBytes]>,
    /// What remains of the last region.
    fresh: std::slice::IterMut<'static, BlockBytes>,
    /// Used before; the last one given back is the first to be used again.
    returned: Vec<Block>,
    regions_bytes: usize,
}

impl Pool {
    /// A pool that calls `more` for a region of at least one block whenever it has none left. There is no way to refuse:
    /// what may not grow is refused before it is proposed.
    #[must_use]
    pub fn new(more: impl FnMut() -> &'static mut [BlockBytes] + 'static) -> Pool {
        let blocks = Blocks { more: Box::new(more), fresh: [].iter_mut(), returned: Vec::new(), regions_bytes: 0 };
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

    /// Bytes of all regions.
    #[must_use]
    pub fn regions_bytes(&self) -> usize {
        self.blocks.borrow().regions_bytes
    }

    /// Bytes of the blocks that no page holds, and of the list of them.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        let blocks = self.blocks.borrow();
        (blocks.fresh.len() + blocks.returned.len()) * BLOCK_BYTES + blocks.returned.capacity() * size_of::<Block>()
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
            let region = (self.more)();
            self.regions_bytes += size_of_val(region);
            self.fresh = region.iter_mut();
        }
        self.fresh.next().expect("the shell's regions have at least one block")
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
}
