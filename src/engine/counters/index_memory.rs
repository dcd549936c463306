//! Where the indexes of pages have their memory from: the pool, if it has pieces, else the heap.
//!
//! An index is looked at by every access to its page, and at another place each time. On pages of 4 KiB nearly each of these looks
//! misses the processor's cache of addresses too, and on a virtual machine that miss alone costs more than the memory. So
//! what is won by huge pages is won here as much as in the arenas, and only an allocator of one's own can put a
//! hashbrown table there; its trait is `unsafe` to implement, which is all that is so here.

use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator, Global, Layout};

use super::pool::{PIECE_ALIGNMENT, Pool};

/// Allocates the indexes of pages out of a pool.
#[derive(Clone)]
pub(super) struct IndexMemory(Pool);

impl IndexMemory {
    pub(super) fn of(pool: &Pool) -> IndexMemory {
        IndexMemory(pool.clone())
    }
}

/// Whether a pool may have a piece for a layout.
fn is_piece(layout: Layout) -> bool {
    layout.align() <= PIECE_ALIGNMENT && layout.size().is_multiple_of(PIECE_ALIGNMENT)
}

// SAFETY:
// - A piece is cut from a region that the shell has handed over as an exclusive reference for the life of the process, and
//   that the pool never touches again as a slice: it is valid memory for as long as anybody may hold it, which is longer than the
//   pool, its clones and this allocator may live or be moved.
// - It is handed out again only after it was given back, by who was its only owner, so no two pieces in use overlap.
// - It is as large as was asked for and aligned to `PIECE_ALIGNMENT`, which `is_piece` has compared: the place and size of
//   each piece are multiples of it.
// - A piece and a block of the heap are told apart by the layout alone and by what the pool was made as, which never changes;
//   all clones share the pool. So memory goes back to where it came from.
unsafe impl Allocator for IndexMemory {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let piece = if is_piece(layout) { self.0.take_piece(layout.size()) } else { None };
        piece.map_or_else(|| Global.allocate(layout), Ok)
    }

    unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
        let piece = NonNull::slice_from_raw_parts(memory, layout.size());
        if !(is_piece(layout) && self.0.give_back_piece(piece)) {
            // SAFETY: as above, `allocate` has decided as this does, so the memory is of the heap; the rest the caller promises.
            unsafe { Global.deallocate(memory, layout) }
        }
    }
}
