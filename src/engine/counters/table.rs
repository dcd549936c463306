//! The table: extendible hashing over bounded pages.
//!
//! ```text
//!   hash ── (hash − start) << shift ──► position ── its top bits ──► directory ──► page
//! ```
//!
//! Source: Fagin, Nievergelt, Pippenger, Strong, "Extendible Hashing" (ACM TODS 1979).
//!
//! **Position.** A shard owns a contiguous range of the hash space, so its hashes share their top bits and a
//! directory indexed by those would use a fraction of its slots. A hash's *position* is its distance from the start
//! of the range, shifted left until the last hash of the range uses the top bit. The map keeps the order of
//! hashes, so pages walked by position are walked in hash order, and a split of the shard cuts between pages or
//! through one. In a range that is not a power of two the positions past the last hash stay empty, at most
//! half of them: a few directory slots lost, for a map that is one subtraction and one shift.
//!
//! **Growth.** A page that fills splits in two; no step rehashes more than one page. What doubles is the
//! directory (4 bytes a slot) and the vector of page headers (80 bytes a page, moved and not rehashed): together a
//! thousandth of the table.
//!
//! **Depth cap.** The routing seed is public, so keys may be chosen to share a long prefix, and each split that
//! leaves all keys on one side would double the directory for nothing. The depth therefore never exceeds log2(keys /
//! page limit) + [`DIRECTORY_DEPTH_SLACK`], which uniform hashes do not reach, and a page at the cap grows past its
//! limit instead: a lookup in it remains one probe, and memory remains in proportion to the keys. When the table has
//! grown enough to raise the cap, the page splits at the next insert. What such keys do obtain is time: the index of an
//! outgrown page is rehashed as a whole when it doubles, and keys that share all 64 bits of their hash are compared one
//! after another.

use super::page::{Entry, Page};
use crate::ids::KeyHash;
use crate::limits::DIRECTORY_DEPTH_SLACK;

/// Where an entry is, until the next insert: a split moves entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    page: u32,
    slot: u32,
}

/// The map from hashes to positions, which decides the order of pages: see the module's text.
#[derive(Clone, Copy)]
struct Scale {
    start: u64,
    shift: u32,
}

impl Scale {
    fn position(self, hash: KeyHash) -> u64 {
        debug_assert!(hash.0 >= self.start, "the hash is in the shard's range");
        // A range of one hash has a shift of 64, and one position.
        hash.0.wrapping_sub(self.start).checked_shl(self.shift).unwrap_or(0)
    }
}

/// One shard's counters by key.
pub(super) struct Table {
    scale: Scale,
    page_keys_max: usize,
    /// Top bits of a position that index the directory.
    depth: u32,
    /// `1 << depth` page numbers.
    directory: Vec<u32>,
    pages: Vec<Page>,
    len: u64,
    /// Sum of [`Page::heap_bytes`] over all pages.
    page_bytes: usize,
}

impl Table {
    /// An empty table for hashes from `start` to `last`, whose pages split when they hold `page_keys_max` keys.
    pub(super) fn new(start: KeyHash, last: KeyHash, page_keys_max: usize) -> Table {
        assert!(start <= last, "a shard owns at least one hash");
        assert!(page_keys_max > 0, "a page holds at least one key");
        Table {
            scale: Scale { start: start.0, shift: (last.0 - start.0).leading_zeros() },
            page_keys_max,
            depth: 0,
            directory: vec![0],
            pages: vec![Page::empty(0, 0)],
            len: 0,
            page_bytes: 0,
        }
    }

    /// Keys in the table.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes allocated, as asked of the allocator.
    pub(super) fn memory_bytes(&self) -> usize {
        self.page_bytes + self.pages.capacity() * size_of::<Page>() + self.directory.capacity() * size_of::<u32>()
    }

    /// The entry at a place.
    pub(super) fn entry(&self, place: Place) -> &Entry {
        self.pages[place.page as usize].entry(place.slot)
    }

    /// Like [`Table::entry`], to be changed.
    pub(super) fn entry_mut(&mut self, place: Place) -> &mut Entry {
        self.pages[place.page as usize].entry_mut(place.slot)
    }

    /// The key of the entry at a place.
    pub(super) fn key(&self, place: Place) -> &[u8] {
        self.entry(place).key()
    }

    /// Where a key is.
    pub(super) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<Place> {
        let page = self.page_number(self.position(hash));
        self.pages[page as usize].find(hash, key).map(|slot| Place { page, slot })
    }

    /// Where the members of the candidate set with this hash are.
    pub(super) fn members(&self, hash: KeyHash) -> impl Iterator<Item = Place> {
        let page = self.page_number(self.position(hash));
        self.pages[page as usize].members(hash).map(move |slot| Place { page, slot })
    }

    /// Adds a key that [`Table::find`] did not find. No place obtained before is valid afterwards.
    pub(super) fn insert(&mut self, hash: KeyHash, key: &[u8], count: i64) -> Place {
        let position = self.position(hash);
        let mut number = self.page_number(position);
        while self.must_split(number) {
            self.split(number);
            number = self.page_number(position);
        }
        let page = &mut self.pages[number as usize];
        let bytes_before = page.heap_bytes();
        let slot = page.insert(hash, key, count);
        self.page_bytes += page.heap_bytes() - bytes_before;
        self.len += 1;
        Place { page: number, slot }
    }

    /// The page that holds a position.
    pub(super) fn page_at(&self, position: u64) -> &Page {
        &self.pages[self.page_number(position) as usize]
    }

    /// The places of the page that holds a position, in order of insertion.
    pub(super) fn places_at(&self, position: u64) -> impl Iterator<Item = Place> + use<> {
        let page = self.page_number(position);
        // `insert` has checked that slots fit 32 bits.
        (0..self.pages[page as usize].len() as u32).map(move |slot| Place { page, slot })
    }

    /// A hash's place in the order of pages.
    pub(super) fn position(&self, hash: KeyHash) -> u64 {
        self.scale.position(hash)
    }

    fn page_number(&self, position: u64) -> u32 {
        self.directory[top_bits(position, self.depth)]
    }

    fn must_split(&self, number: u32) -> bool {
        let page = &self.pages[number as usize];
        page.len() >= self.page_keys_max && page.depth() < self.depth_max()
    }

    /// The depth that the table's present size allows.
    fn depth_max(&self) -> u32 {
        let full_pages = self.len / self.page_keys_max as u64;
        full_pages.checked_ilog2().unwrap_or(0) + DIRECTORY_DEPTH_SLACK
    }

    fn split(&mut self, number: u32) {
        let scale = self.scale;
        let page = &mut self.pages[number as usize];
        let bytes_before = page.heap_bytes();
        let upper = page.split(|hash| scale.position(hash));
        self.page_bytes = self.page_bytes - bytes_before + page.heap_bytes() + upper.heap_bytes();

        if upper.depth() > self.depth {
            self.directory = self.directory.iter().flat_map(|&page| [page, page]).collect();
            self.depth += 1;
        }
        let upper_number = u32::try_from(self.pages.len()).expect("2^32 page headers would be 320 GiB");
        let first = top_bits(upper.prefix(), self.depth);
        let slots = 1 << (self.depth - upper.depth());
        self.directory[first..first + slots].fill(upper_number);
        self.pages.push(upper);
    }

    /// Asserts what must hold between directory, pages and sums.
    pub(super) fn invariants(&self) {
        assert_eq!(self.directory.len(), 1 << self.depth, "the directory has a slot for every prefix");
        assert!(self.depth <= self.depth_max(), "the directory is in proportion to the keys");
        let (mut pages, mut len, mut bytes) = (0, 0, 0);
        let mut position = Some(0);
        while let Some(start) = position {
            let page = self.page_at(start);
            page.invariants();
            assert_eq!(page.prefix(), start, "pages tile the positions");
            let first = top_bits(start, self.depth);
            let slots = &self.directory[first..first + (1 << (self.depth - page.depth()))];
            assert!(slots.iter().all(|&slot| slot == slots[0]), "the slots of a page name it");
            assert!(
                page.len() <= self.page_keys_max || page.depth() >= DIRECTORY_DEPTH_SLACK,
                "only the depth cap lets a page outgrow its limit"
            );
            for entry in page.entries() {
                let position = self.position(entry.hash);
                assert_eq!(top_bits(position ^ start, page.depth()), 0, "an entry lies in the page of its prefix");
            }
            pages += 1;
            len += page.len() as u64;
            bytes += page.heap_bytes();
            position = page.end();
        }
        assert_eq!(pages, self.pages.len(), "every page is in the directory");
        assert_eq!((len, bytes), (self.len, self.page_bytes), "the sums are those of the pages");
    }
}

/// The `count` top bits of a position, as a number.
fn top_bits(position: u64, count: u32) -> usize {
    position.checked_shr(u64::BITS - count).unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prng::Prng;

    /// Inserts keys under the hashes given and returns the table, checked after every insert.
    fn filled(start: u64, last: u64, page_keys_max: usize, hashes: impl Iterator<Item = u64>) -> Table {
        let mut table = Table::new(KeyHash(start), KeyHash(last), page_keys_max);
        for (number, hash) in (0u64..).zip(hashes) {
            let key = number.to_be_bytes();
            assert_eq!(table.find(KeyHash(hash), &key), None);
            let place = table.insert(KeyHash(hash), &key, number as i64);
            assert_eq!(table.find(KeyHash(hash), &key), Some(place));
            assert_eq!((table.key(place), table.entry(place).count), (key.as_slice(), number as i64));
            table.invariants();
        }
        table
    }

    /// The hashes of the table in the order of a walk over its pages.
    fn walk(table: &Table) -> Vec<Vec<u64>> {
        std::iter::successors(Some(table.page_at(0)), |page| page.end().map(|end| table.page_at(end)))
            .map(|page| page.entries().map(|entry| entry.hash.0).collect())
            .collect()
    }

    #[test]
    fn pages_split_at_every_limit() {
        for page_keys_max in [1, 2, 3, 4, 7, 16, 28, 64] {
            let mut prng = Prng::new(page_keys_max as u64);
            let table = filled(0, u64::MAX, page_keys_max, (0..400).map(|_| prng.bits()));
            assert!(table.pages.len() >= 400 / page_keys_max, "pages of {page_keys_max} keys");
        }
    }

    #[test]
    fn walks_in_hash_order_in_any_range() {
        let ranges = [
            (0, u64::MAX),
            (0, 999),
            (5, 5),
            (7, 8),
            (u64::MAX - 1_000, u64::MAX),
            (u64::MAX, u64::MAX),
            (3 << 61, (5 << 61) + 12_345),
            (1 << 63, u64::MAX),
            (0, 1 << 63),
        ];
        for (start, last) in ranges {
            let mut prng = Prng::new(start ^ last);
            let width = u128::from(last - start) + 1;
            let hashes: Vec<u64> = [start, last]
                .into_iter()
                .chain((0..300).map(|_| start + ((u128::from(prng.bits()) * width) >> 64) as u64))
                .collect();
            let table = filled(start, last, 8, hashes.iter().copied());
            let pages = walk(&table);
            assert_eq!(pages.iter().map(Vec::len).sum::<usize>(), hashes.len());
            let mut before = None;
            for page in pages.iter().filter(|page| !page.is_empty()) {
                assert!(before < page.iter().min(), "pages are in hash order");
                before = page.iter().max();
            }
            if width > 300 {
                let directory_max = 64 * hashes.len() / 8;
                assert!(pages.len() > 20 && table.directory.len() <= directory_max, "range {start}..={last}");
            }
        }
    }

    #[test]
    fn hostile_prefixes_meet_the_depth_cap() {
        // All keys have one hash: no depth would separate them.
        let table = filled(0, u64::MAX, 4, (0..300).map(|_| 0));
        assert_eq!(walk(&table).concat().len(), 300);
        assert!(table.directory.len() <= 64 * 300 / 4);
        assert!(table.page_at(0).len() == 300);

        // Keys that differ in their last bits only; then enough ordinary ones to raise the cap.
        let mut prng = Prng::new(1);
        let table = filled(0, u64::MAX, 4, (0..100).chain((0..1_000).map(|_| prng.bits())));
        assert!(table.page_at(0).len() >= 100);
        assert!(table.directory.len() <= 64 * 1_100 / 4);
    }

    #[test]
    fn an_outgrown_page_splits_once_the_cap_allows() {
        // 64 keys share 12 bits, more than a table of their size may tell apart.
        let shared = (0..64u64).map(|i| i << 46);
        let outgrown = filled(0, u64::MAX, 4, shared.clone());
        assert_eq!(outgrown.page_at(0).len(), 64);
        let mut prng = Prng::new(2);
        let others = (0..2_000).map(|_| prng.bits() | 1 << 63);
        let table = filled(0, u64::MAX, 4, shared.chain(others).chain([1]));
        assert!(table.page_at(0).len() < 64, "the last insert divides the page");
    }
}
