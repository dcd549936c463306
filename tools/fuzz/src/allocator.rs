//! An allocator that knows how much a thread holds, so that a target can demand a bound. It is the system's otherwise, and the
//! sanitizers see through it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

thread_local! {
    /// Bytes this thread has asked for and not given back. Negative if it gave back what others had asked for.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The most it has held since someone asked.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Does something, and says by how many bytes more than before the thread held at its height.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before).unsigned_abs())
}

fn note(change: isize) {
    // A thread that is ending has no counters any more; nobody asks then.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        PEAK.try_with(|peak| peak.set(peak.get().max(held.get())))
    });
}

// SAFETY: every call is handed on, unchanged, to the system's allocator, which keeps the contract. The counting
// touches two thread-local integers that need no memory and no destructor, so it neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may exist for a moment.
        note(size as isize);
        note(-(layout.size() as isize));
        // SAFETY: the caller's promises are those that `System` asks for, and `memory` came from it.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: the caller's promises are those that `System` asks for, and `memory` came from it.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_height_is_told_and_not_the_end() {
        let (kept, peak) = peak_of(|| {
            drop(std::hint::black_box(vec![0u8; 100_000]));
            vec![0u8; 1_000]
        });
        assert_eq!((kept.len(), peak), (1_000, 100_000));
    }
}
