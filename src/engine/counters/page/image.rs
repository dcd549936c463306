//! A page out of its image: built at its final size, so that nothing of it is moved or grown on the way.

use hashbrown::HashTable;

use super::{Page, Shared};
use crate::engine::counters::arena::Entry;
use crate::engine::counters::index_memory::IndexMemory;
use crate::ids::Index;
use crate::limits::KEY_BYTES_MAX;

impl Page {
    /// The page of `keys` counters that was last changed at `changed`. No key is flagged as a candidate.
    ///
    /// # Errors
    /// The counters are not those of such a page. What was taken from the pool is back in it.
    pub(in crate::engine::counters) fn of_counters<'a>(
        shared: &Shared,
        (crowd, prefix, depth): (Option<u32>, u64, u32),
        changed: Index,
        keys: usize,
        counters: impl Iterator<Item = (&'a [u8], i64)>,
    ) -> Result<Page, &'static str> {
        if keys > shared.keys_max {
            return Err("a page has more counters than pages hold");
        }
        let mut page = Page::empty(&shared.pool, crowd, prefix, depth);
        page.index = HashTable::with_capacity_in(keys, IndexMemory::of(&shared.pool));
        page.changed = changed;
        let filled = page.fill(shared, counters);
        if filled.is_err() {
            page.release(&shared.pool);
        }
        filled.map(|()| page)
    }

    fn fill<'a>(
        &mut self,
        shared: &Shared,
        counters: impl Iterator<Item = (&'a [u8], i64)>,
    ) -> Result<(), &'static str> {
        for (key, count) in counters {
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err("a key has a length that keys cannot have");
            }
            let bits = shared.hashing.bits(self.crowd.is_some(), key);
            if (bits.position ^ self.prefix).leading_zeros() < self.depth {
                return Err("a key does not belong to the page that it is in");
            }
            if self.find(bits.index, key).is_some() {
                return Err("a key is in a page twice");
            }
            // Entries come in the order in which they lay, and no longer than they were: they take no more blocks.
            let entry = Entry { count, member: false, key };
            self.insert(shared, bits.index, entry).ok_or("the counters of a page do not fit into one")?;
        }
        Ok(())
    }
}
