//! A page: the counters of one prefix, and the unit of everything that must stay short.
//!
//! ```text
//!   index    HashTable<u16>    index hash → offset      3 bytes a bucket, at most 4,096 buckets
//!   arena    blocks of 1 KiB   offset → count, key      18 bytes for a key of 16
//! ```
//!
//! Counters are never removed. Hashes are not stored but computed again from the keys when the index grows, or
//! the page is packed or split: a few nanoseconds each, for 8 bytes saved.

mod image;

use hashbrown::HashTable;

use super::arena::{Added, Arena, Entry, Offsets};
use super::hashing::{Bits, Hashing};
use super::index_memory::IndexMemory;
use super::pool::Pool;
use crate::ids::Index;

/// What the pages of a table have in common.
pub(super) struct Shared {
    pub(super) pool: Pool,
    pub(super) hashing: Hashing,
    /// Keys of a page, at most.
    pub(super) keys_max: usize,
}

/// Buckets of an index that are looked at for one which is taken; all but the last few lie in one cache line.
const INDEX_NEIGHBOURS: usize = 4;

/// The counters whose positions begin with the `depth` top bits of `prefix`.
pub(super) struct Page {
    index: HashTable<u16, IndexMemory>,
    arena: Arena,
    prefix: u64,
    depth: u32,
    /// The crowd whose page this is, if positions are second hashes.
    crowd: Option<u32>,
    /// The log index of the last change.
    changed: Index,
}

const _: () = assert!(size_of::<Page>() <= 144);

impl Page {
    /// A page without counters, which has allocated nothing. Bits of `prefix` past `depth` are zero.
    pub(super) fn empty(pool: &Pool, crowd: Option<u32>, prefix: u64, depth: u32) -> Page {
        let index = HashTable::new_in(IndexMemory::of(pool));
        Page { index, arena: Arena::default(), prefix, depth, crowd, changed: Index(0) }
    }

    /// Gives the page's blocks back.
    pub(super) fn release(&mut self, pool: &Pool) {
        self.arena.release(pool);
    }

    /// The first position that belongs to the page.
    pub(super) fn prefix(&self) -> u64 {
        self.prefix
    }

    /// How many top bits of a position decide that it belongs to the page.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// The first position after the page, if there is one.
    pub(super) fn end(&self) -> Option<u64> {
        end(self.prefix, self.depth)
    }

    /// The crowd that the page is of.
    pub(super) fn crowd(&self) -> Option<u32> {
        self.crowd
    }

    /// The log index of the last change.
    pub(super) fn changed(&self) -> Index {
        self.changed
    }

    /// Notes a change.
    #[inline]
    pub(super) fn set_changed(&mut self, index: Index) {
        self.changed = index;
    }

    /// Counters in the page.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes the page holds, without its own header.
    pub(super) fn heap_bytes(&self) -> usize {
        self.index.allocation_size() + self.arena.heap_bytes()
    }

    /// The entry at an offset that [`Page::find`], [`Page::insert`] or [`Page::offsets`] named.
    #[inline]
    pub(super) fn entry(&self, offset: u16) -> Entry<'_> {
        self.arena.entry(offset)
    }

    /// The offsets of all entries, in the arena's order.
    pub(super) fn offsets(&self) -> Offsets<'_> {
        self.arena.offsets()
    }

    /// The offset of a key.
    #[inline]
    pub(super) fn find(&self, index_hash: u64, key: &[u8]) -> Option<u16> {
        self.index.find(index_hash, |&offset| self.arena.is_of(offset, key)).copied()
    }

    /// Reads a tag of the index where the search for a hash begins, so that the processor fetches it.
    #[inline]
    pub(super) fn touch_index(&self, index_hash: u64) -> bool {
        let bucket = index_hash as usize & self.index.num_buckets().wrapping_sub(1);
        self.index.get_bucket(bucket).is_some()
    }

    /// Where the search for a hash would look first.
    #[inline]
    pub(super) fn first_candidate(&self, index_hash: u64) -> Option<u16> {
        self.index.iter_hash(index_hash).next().copied()
    }

    /// Reads what the key that a search looks for would be compared with, or, if there is nothing like it, what an insert of it
    /// would write: the end of the arena and the neighbourhood of its place in the index. So the processor fetches them.
    #[inline]
    pub(super) fn touch_entry(&self, index_hash: u64, candidate: Option<u16>) -> u8 {
        let mut near = 0;
        if candidate.is_none() {
            let mask = self.index.num_buckets().wrapping_sub(1);
            let slots = (0..INDEX_NEIGHBOURS).map(|step| (index_hash as usize).wrapping_add(step) & mask);
            near = slots.filter_map(|bucket| self.index.get_bucket(bucket)).next().map_or(0, |&slot| slot as u8);
        }
        near ^ self.arena.touch(candidate.unwrap_or_else(|| self.arena.end()))
    }

    /// The offsets of the members of the candidate set that the index may hold under a hash: all that have it,
    /// and perhaps others.
    pub(super) fn members(&self, index_hash: u64) -> impl Iterator<Item = u16> {
        self.index.iter_hash(index_hash).copied().filter(|&offset| self.arena.entry(offset).member)
    }

    /// Adds a key that is not in the page; returns its offset. `None` if the page is full.
    pub(super) fn insert(&mut self, shared: &Shared, index_hash: u64, entry: Entry<'_>) -> Option<u16> {
        if self.len() >= shared.keys_max {
            return None;
        }
        let offset = self.arena.push(&shared.pool, entry)?;
        self.list(shared, index_hash, offset);
        Some(offset)
    }

    /// Puts an entry into the index.
    #[inline]
    fn list(&mut self, shared: &Shared, index_hash: u64, offset: u16) {
        let (arena, crowded) = (&self.arena, self.crowd.is_some());
        let hasher = |&offset: &u16| shared.hashing.bits(crowded, arena.entry(offset).key).index;
        self.index.insert_unique(index_hash, offset, hasher);
    }

    /// Marks a key as in the candidate set, or not.
    pub(super) fn set_member(&mut self, offset: u16, member: bool) {
        self.arena.set_member(offset, member);
    }

    /// Adds to a count, if the sum fits where it is.
    #[inline]
    pub(super) fn add(&mut self, offset: u16, delta: i64) -> Added {
        self.arena.add(offset, delta)
    }

    /// Whether the entry at an offset is that of a key.
    #[inline]
    pub(super) fn is_of(&self, offset: u16, key: &[u8]) -> bool {
        self.arena.is_of(offset, key)
    }

    /// Overwrites a count that does not fit where it is; returns the new offset. `None` if the arena is full.
    pub(super) fn widen(&mut self, shared: &Shared, index_hash: u64, offset: u16, count: i64) -> Option<u16> {
        let new = self.arena.widen(&shared.pool, offset, count)?;
        let slot = self.index.find_mut(index_hash, |&slot| slot == offset);
        *slot.expect("an entry is in the index") = new;
        Some(new)
    }

    /// Whether enough of the arena is gaps for packing it anew.
    pub(super) fn is_worn(&self) -> bool {
        self.arena.is_worn()
    }

    /// Packs the entries anew, without gaps and with counts as narrow as they may be. All offsets change.
    pub(super) fn pack(&mut self, shared: &Shared) {
        let mut packed = self.fresh(shared, self.crowd, self.prefix, self.depth, self.len());
        for offset in self.arena.offsets() {
            let entry = self.arena.entry(offset);
            packed.take(shared, shared.hashing.bits(self.crowd.is_some(), entry.key), entry);
        }
        self.replace(shared, packed);
    }

    /// Makes the page the first one of a crowd: from now on its positions are second hashes. All offsets change.
    pub(super) fn begin_crowd(&mut self, shared: &Shared, crowd: u32) {
        let mut first = self.fresh(shared, Some(crowd), 0, 0, self.len());
        for offset in self.arena.offsets() {
            let entry = self.arena.entry(offset);
            first.take(shared, shared.hashing.bits(true, entry.key), entry);
        }
        self.replace(shared, first);
    }

    /// Divides the page by the next bit of its counters' positions: the lower half stays, the upper one is returned.
    /// Both keep the order of their entries.
    pub(super) fn split(&mut self, shared: &Shared) -> Page {
        assert!(self.depth < u64::BITS, "64 bits of a hash have told all keys apart");
        let depth = self.depth + 1;
        let bit = 1 << (u64::BITS - depth);
        // About as many on each side.
        let keys = self.len() / 2 + self.len() / 32;
        let mut lower = self.fresh(shared, self.crowd, self.prefix, depth, keys);
        let mut upper = self.fresh(shared, self.crowd, self.prefix | bit, depth, keys);
        for offset in self.arena.offsets() {
            let bits = shared.hashing.bits(self.crowd.is_some(), self.arena.entry(offset).key);
            let half = if bits.position & bit == 0 { &mut lower } else { &mut upper };
            let copied = half.arena.copy(&shared.pool, &self.arena, offset);
            half.list(shared, bits.index, copied.expect("some of the entries of a page fit into a page"));
        }
        self.replace(shared, lower);
        upper
    }

    /// An empty page with room for `keys` keys in its index, changed when this one was.
    fn fresh(&self, shared: &Shared, crowd: Option<u32>, prefix: u64, depth: u32, keys: usize) -> Page {
        let index = HashTable::with_capacity_in(keys, IndexMemory::of(&shared.pool));
        Page { index, arena: Arena::default(), prefix, depth, crowd, changed: self.changed }
    }

    /// Adds an entry of the page that this one replaces or halves. There is room: blocks are
    /// filled in order ("next fit"), and leaving out or shortening entries never makes that take more blocks.
    fn take(&mut self, shared: &Shared, bits: Bits, entry: Entry<'_>) {
        let offset = self.insert(shared, bits.index, entry);
        offset.expect("some of the entries of a page fit into a page");
    }

    fn replace(&mut self, shared: &Shared, page: Page) {
        self.release(&shared.pool);
        *self = page;
    }

    /// Asserts what must hold between index and arena.
    pub(super) fn invariants(&self, shared: &Shared) {
        self.arena.invariants();
        assert_eq!(self.index.len(), self.offsets().count(), "every entry is in the index once");
        for offset in self.offsets() {
            let key = self.entry(offset).key;
            let bits = shared.hashing.bits(self.crowd.is_some(), key);
            assert_eq!(self.find(bits.index, key), Some(offset), "an entry is found under its key");
            let shared_bits = (bits.position ^ self.prefix).leading_zeros();
            assert!(shared_bits >= self.depth, "an entry lies in the page of its prefix");
        }
    }
}

/// The first position that does not begin with the `depth` top bits of `prefix` but is above it, if there is one.
pub(super) fn end(prefix: u64, depth: u32) -> Option<u64> {
    let positions = 1u64.checked_shl(u64::BITS - depth)?;
    prefix.checked_add(positions)
}
