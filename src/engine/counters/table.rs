//! The table: extendible hashing over bounded pages.
//!
//! ```text
//!   position ── its top bits ──► directory ─┬─► page
//!                                           └─► crowd ── top bits of the second hash ──► page
//! ```
//!
//! Source: Fagin, Nievergelt, Pippenger, Strong, "Extendible Hashing" (ACM TODS 1979).
//!
//! **Growth.** A page that fills splits in two; no step rehashes more than one page. What doubles is the
//! directory (4 bytes a slot) and the vector of page headers (144 bytes a page, moved and not rehashed): together
//! a thousandth of the table.
//!
//! **Depth cap and crowds.** The routing seed is public, so keys may be chosen to share a long prefix, and each split
//! that leaves all keys on one side would double the directory for nothing. The depth therefore never exceeds log2(keys /
//! page limit) + [`DIRECTORY_DEPTH_SLACK`], which uniform hashes do not reach. A page that fills at the cap becomes a
//! *crowd*: from then on the keys of its prefix are divided by a second hash, keyed with a secret of the process, in a
//! small directory of its own. Against that nobody can choose keys, so a crowd behaves as a table of uniform keys does,
//! and needs no cap. What hostile keys obtain is, before their page becomes a crowd, lookups that compare with every key of one
//! page, and afterwards the price of a second hash.
//!
//! A crowd stays one: its order of pages is (prefix, second prefix), so a scan's cursor keeps every key on one side for good.
//!
//! **Batches.** One access by itself waits for memory three times: for the tags of the page's index, for the slot that holds the
//! offset, and for the entry. [`Table::probe`] goes through a batch in four passes, each of which asks for one thing that
//! the next one needs. No branch depends on what is read, but for the rare wrong tag, so the processor does not wait for one key before
//! it begins with the next, and as the passes are short, many keys fit into its window: in one pass they took twice as long.
//! What is found is a hint, to be checked against the key, and void once anything has moved. (Prefetch instructions
//! need `unsafe` and gained 5 %.)

pub(super) mod image;

use std::hint::black_box;

use super::arena::{Added, Entry};
use super::hashing::{Hashing, index_hash};
use super::page::{Page, Shared, end};
use super::pool::Pool;
use crate::ids::{Index, KeyHash};
use crate::limits::{APPLY_CHUNK_KEYS, DIRECTORY_DEPTH_SLACK};

/// Where an entry is, until something moves: an insert, or a count that outgrows its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    page: u32,
    offset: u16,
}

/// A place in the walk over all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cursor {
    position: u64,
    /// Position in the crowd that the directory has for `position`, if it has one.
    second: u64,
}

impl Cursor {
    pub(super) const START: Cursor = Cursor { position: 0, second: 0 };
}

/// A key of the candidate set, by its hashes: places change too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) hash: KeyHash,
    second: u64,
}

/// What [`Table::add`] has done.
pub(super) struct Sum {
    pub(super) place: Place,
    pub(super) old: i64,
    pub(super) new: i64,
    /// Whether the key is in the candidate set.
    pub(super) member: bool,
}

/// What a probe has learned about a key.
#[derive(Clone, Copy, Default)]
pub(super) struct Probe {
    page: u32,
    index_hash: u64,
    candidate: Option<u16>,
}

/// Pages by the top bits of positions.
struct Directory {
    depth: u32,
    /// `1 << depth` page numbers; in the main directory also numbers of crowds, marked with [`CROWD`].
    slots: Vec<u32>,
}

const CROWD: u32 = 1 << 31;

/// The pages of one prefix, by second hash.
struct Crowd {
    prefix: u64,
    depth: u32,
    directory: Directory,
}

impl Directory {
    fn new(page: u32) -> Directory {
        Directory { depth: 0, slots: vec![page] }
    }

    #[inline]
    fn slot(&self, position: u64) -> u32 {
        self.slots[top_bits(position, self.depth)]
    }

    /// Names `value` in all slots of a prefix.
    fn set(&mut self, prefix: u64, depth: u32, value: u32) {
        while depth > self.depth {
            self.slots = self.slots.iter().flat_map(|&slot| [slot, slot]).collect();
            self.depth += 1;
        }
        let first = top_bits(prefix, self.depth);
        self.slots[first..first + (1 << (self.depth - depth))].fill(value);
    }

    fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }
}

/// One shard's counters by key.
pub(super) struct Table {
    shared: Shared,
    directory: Directory,
    pages: Vec<Page>,
    crowds: Vec<Crowd>,
    len: u64,
    /// Sum of [`Page::heap_bytes`] over all pages, and of the crowds' directories.
    page_bytes: usize,
    /// How often entries have moved.
    moves: u64,
    /// The log index of the entry that is being applied.
    applying: Index,
}

impl Table {
    /// An empty table whose pages split at up to `keys_max` keys.
    pub(super) fn new(hashing: Hashing, pool: Pool, keys_max: usize) -> Table {
        assert!((1..=usize::from(u16::MAX)).contains(&keys_max), "a page holds at least one key");
        let shared = Shared { pool, hashing, keys_max };
        let first = Page::empty(&shared.pool, None, 0, 0);
        Table {
            shared,
            directory: Directory::new(0),
            pages: vec![first],
            crowds: Vec::new(),
            len: 0,
            page_bytes: 0,
            moves: 0,
            applying: Index(0),
        }
    }

    /// Pages that change from now on are changed at this log index.
    pub(super) fn set_applying(&mut self, index: Index) {
        self.applying = index;
    }

    /// Keys in the table.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How keys are hashed.
    pub(super) fn hashing(&self) -> &Hashing {
        &self.shared.hashing
    }

    /// Bytes held, without what is free in the pool.
    pub(super) fn memory_bytes(&self) -> usize {
        self.page_bytes
            + self.pages.capacity() * size_of::<Page>()
            + self.directory.heap_bytes()
            + self.crowds.capacity() * size_of::<Crowd>()
    }

    /// A number that changes whenever entries have moved.
    #[inline]
    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    /// The entry at a place.
    #[inline]
    pub(super) fn entry(&self, place: Place) -> Entry<'_> {
        self.pages[place.page as usize].entry(place.offset)
    }

    /// What names the key at a place in the candidate set.
    pub(super) fn member(&self, place: Place) -> Member {
        let key = self.entry(place).key;
        Member { hash: self.shared.hashing.hash(key), second: self.shared.hashing.second(key) }
    }

    /// Marks a key as in the candidate set, or not.
    pub(super) fn set_member(&mut self, place: Place, member: bool) {
        self.pages[place.page as usize].set_member(place.offset, member);
    }

    /// Looks for all of up to [`APPLY_CHUNK_KEYS`] keys, as far as can be done without waiting for one after another.
    pub(super) fn probe<'a>(
        &self,
        keys: impl Iterator<Item = (KeyHash, &'a [u8])>,
        probes: &mut [Probe; APPLY_CHUNK_KEYS],
    ) {
        let bits = keys.map(|(hash, key)| self.locate(hash, || self.shared.hashing.second(key)));
        self.probe_located(bits, probes);
    }

    fn probe_located(&self, bits: impl Iterator<Item = (u32, u64)>, probes: &mut [Probe; APPLY_CHUNK_KEYS]) {
        let mut count = 0;
        for (probe, (page, index_hash)) in probes.iter_mut().zip(bits) {
            *probe = Probe { page, index_hash, candidate: None };
            count += 1;
        }
        let probes = &mut probes[..count];
        let page = |probe: &Probe| &self.pages[probe.page as usize];
        black_box(probes.iter().fold(false, |sum, probe| sum ^ page(probe).touch_index(probe.index_hash)));
        for probe in &mut *probes {
            probe.candidate = page(probe).first_candidate(probe.index_hash);
        }
        let touch = |probe: &Probe| page(probe).touch_entry(probe.index_hash, probe.candidate);
        black_box(probes.iter().fold(0, |sum, probe| sum ^ touch(probe)));
    }

    /// Where a key is, by what a probe found. Nothing has moved since.
    #[inline]
    pub(super) fn probed(&self, probe: &Probe, key: &[u8]) -> Option<Place> {
        let page = &self.pages[probe.page as usize];
        let offset = match probe.candidate {
            Some(candidate) if page.is_of(candidate, key) => candidate,
            _ => page.find(probe.index_hash, key)?,
        };
        Some(Place { page: probe.page, offset })
    }

    /// Where a key is.
    #[inline]
    pub(super) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<Place> {
        let (page, index_hash) = self.locate(hash, || self.shared.hashing.second(key));
        self.pages[page as usize].find(index_hash, key).map(|offset| Place { page, offset })
    }

    /// The page of a key, and what its index is asked for.
    #[inline]
    fn locate(&self, hash: KeyHash, second: impl FnOnce() -> u64) -> (u32, u64) {
        let slot = self.directory.slot(self.shared.hashing.position(hash));
        if slot & CROWD == 0 {
            return (slot, index_hash(hash.0));
        }
        let second = second();
        (self.crowds[(slot ^ CROWD) as usize].directory.slot(second), index_hash(second))
    }

    /// Calls `each` for every member in turn, with where the index should be searched for it.
    pub(super) fn probe_members(&self, members: &[Member], mut each: impl FnMut(Member, Probe)) {
        let mut probes = [Probe::default(); APPLY_CHUNK_KEYS];
        for chunk in members.chunks(APPLY_CHUNK_KEYS) {
            self.probe_located(chunk.iter().map(|member| self.locate(member.hash, || member.second)), &mut probes);
            chunk.iter().zip(&probes).for_each(|(member, probe)| each(*member, *probe));
        }
    }

    /// The flagged entries that a search would find: all whose key has the hash that was probed for, and perhaps others.
    pub(super) fn flagged(&self, probe: Probe) -> impl Iterator<Item = (Place, Entry<'_>)> {
        let number = probe.page;
        let page = &self.pages[number as usize];
        page.members(probe.index_hash).map(move |offset| (Place { page: number, offset }, page.entry(offset)))
    }

    /// Whether a key has the first hash of a member.
    pub(super) fn has_hash(&self, key: &[u8], member: Member) -> bool {
        self.shared.hashing.hash(key) == member.hash
    }

    /// Whether a key has both hashes of a member.
    pub(super) fn has_hashes(&self, key: &[u8], member: Member) -> bool {
        self.has_hash(key, member) && self.shared.hashing.second(key) == member.second
    }

    /// The flagged entries whose keys have both hashes of a member.
    pub(super) fn members(&self, member: Member) -> impl Iterator<Item = (Place, Entry<'_>)> {
        let (page, index_hash) = self.locate(member.hash, || member.second);
        self.flagged(Probe { page, index_hash, candidate: None })
            .filter(move |(_, entry)| self.has_hashes(entry.key, member))
    }

    /// Adds a key that [`Table::find`] did not find. No place obtained before is valid afterwards.
    pub(super) fn insert(&mut self, hash: KeyHash, key: &[u8], count: i64) -> Place {
        let entry = Entry { count, member: false, key };
        loop {
            let (number, index_hash) = self.locate(hash, || self.shared.hashing.second(key));
            let page = &mut self.pages[number as usize];
            let bytes_before = page.heap_bytes();
            if let Some(offset) = page.insert(&self.shared, index_hash, entry) {
                page.set_changed(self.applying);
                self.page_bytes = self.page_bytes + page.heap_bytes() - bytes_before;
                self.len += 1;
                return Place { page: number, offset };
            }
            self.make_room(number);
        }
    }

    /// Adds to the count of a key, and returns where it is then: if its count has outgrown its width, no place obtained
    /// before is valid afterwards. `None` if the sum is no signed 64-bit integer; then nothing has changed.
    #[inline]
    pub(super) fn add(&mut self, place: Place, hash: KeyHash, delta: i64) -> Option<Sum> {
        let page = &mut self.pages[place.page as usize];
        match page.add(place.offset, delta) {
            Added::Done { old, new, member } => {
                page.set_changed(self.applying);
                Some(Sum { place, old, new, member })
            }
            Added::Wider { old, new, member } => {
                page.set_changed(self.applying);
                Some(Sum { place: self.widen(place, hash, new), old, new, member })
            }
            Added::Overflow => None,
        }
    }

    #[cold]
    fn widen(&mut self, place: Place, hash: KeyHash, count: i64) -> Place {
        self.moves += 1;
        let (key, mut place) = (self.entry(place).key.to_vec(), place);
        loop {
            let (number, index_hash) = self.locate(hash, || self.shared.hashing.second(&key));
            debug_assert_eq!(number, place.page, "the place is that of the key");
            let page = &mut self.pages[number as usize];
            let bytes_before = page.heap_bytes();
            let offset = page.widen(&self.shared, index_hash, place.offset, count);
            self.page_bytes = self.page_bytes + page.heap_bytes() - bytes_before;
            match offset {
                Some(offset) if !page.is_worn() => return Place { page: number, offset },
                Some(_) => self.pack(number),
                None => self.make_room(number),
            }
            place = self.find(hash, &key).expect("packing and splitting lose no key");
            if offset.is_some() {
                return place;
            }
        }
    }

    /// Makes room in a full page.
    fn make_room(&mut self, number: u32) {
        if self.pages[number as usize].is_worn() {
            self.pack(number);
        } else {
            self.divide(number);
        }
    }

    fn pack(&mut self, number: u32) {
        self.moves += 1;
        let page = &mut self.pages[number as usize];
        let bytes_before = page.heap_bytes();
        page.pack(&self.shared);
        self.page_bytes = self.page_bytes + page.heap_bytes() - bytes_before;
    }

    /// Splits a page, or makes it a crowd if the directory may not tell its keys apart. An insert of one of its keys
    /// must then look again.
    fn divide(&mut self, number: u32) {
        self.moves += 1;
        let depth_max = self.depth_max();
        let page = &mut self.pages[number as usize];
        page.set_changed(self.applying);
        let bytes_before = page.heap_bytes();
        match page.crowd() {
            None if page.depth() >= depth_max => {
                let crowd = self.crowds.len() as u32;
                let (prefix, depth) = (page.prefix(), page.depth());
                page.begin_crowd(&self.shared, crowd);
                self.page_bytes = self.page_bytes + page.heap_bytes() - bytes_before;
                let directory = Directory::new(number);
                self.page_bytes += directory.heap_bytes();
                self.crowds.push(Crowd { prefix, depth, directory });
                self.directory.set(prefix, depth, CROWD | crowd);
            }
            crowd => {
                let upper = page.split(&self.shared);
                self.page_bytes = self.page_bytes + page.heap_bytes() + upper.heap_bytes() - bytes_before;
                let upper_number = self.pages.len() as u32;
                assert!(upper_number < CROWD, "2^31 page headers would be 272 GiB");
                let (prefix, depth) = (upper.prefix(), upper.depth());
                self.pages.push(upper);
                match crowd {
                    None => self.directory.set(prefix, depth, upper_number),
                    Some(crowd) => {
                        let directory = &mut self.crowds[crowd as usize].directory;
                        let bytes_before = directory.heap_bytes();
                        directory.set(prefix, depth, upper_number);
                        self.page_bytes = self.page_bytes + directory.heap_bytes() - bytes_before;
                    }
                }
            }
        }
    }

    /// The depth that the table's present size allows.
    fn depth_max(&self) -> u32 {
        let full_pages = self.len / self.shared.keys_max as u64;
        full_pages.checked_ilog2().unwrap_or(0) + DIRECTORY_DEPTH_SLACK
    }

    /// The page at a cursor.
    pub(super) fn page_at(&self, cursor: Cursor) -> &Page {
        &self.pages[self.page_number(cursor) as usize]
    }

    fn page_number(&self, cursor: Cursor) -> u32 {
        let slot = self.directory.slot(cursor.position);
        if slot & CROWD == 0 { slot } else { self.crowds[(slot ^ CROWD) as usize].directory.slot(cursor.second) }
    }

    /// The cursor at which a page begins.
    fn start_of(&self, page: &Page) -> Cursor {
        match page.crowd() {
            None => Cursor { position: page.prefix(), second: 0 },
            Some(crowd) => Cursor { position: self.crowds[crowd as usize].prefix, second: page.prefix() },
        }
    }

    /// The cursor after a page; `None` after the last.
    pub(super) fn end_of(&self, page: &Page) -> Option<Cursor> {
        let position = match page.crowd().map(|crowd| &self.crowds[crowd as usize]) {
            None => page.end()?,
            Some(crowd) => match page.end() {
                Some(second) => return Some(Cursor { position: crowd.prefix, second }),
                None => end(crowd.prefix, crowd.depth)?,
            },
        };
        Some(Cursor { position, second: 0 })
    }

    /// The places of the page at a cursor.
    pub(super) fn places_at(&self, cursor: Cursor) -> impl Iterator<Item = (Place, Entry<'_>)> {
        let number = self.page_number(cursor);
        let page = &self.pages[number as usize];
        page.offsets().map(move |offset| (Place { page: number, offset }, page.entry(offset)))
    }

    /// Asserts what must hold between directories, pages and sums.
    pub(super) fn invariants(&self) {
        assert_eq!(self.directory.slots.len(), 1 << self.directory.depth, "the directory has a slot for every prefix");
        assert!(self.directory.depth <= self.depth_max(), "the directory is in proportion to the keys");
        let (mut pages, mut len, mut bytes) = (0, 0, 0);
        let mut cursor = Some(Cursor::START);
        while let Some(start) = cursor {
            let page = self.page_at(start);
            page.invariants(&self.shared);
            assert_eq!(self.start_of(page), start, "pages tile the positions");
            let directory = page.crowd().map_or(&self.directory, |crowd| &self.crowds[crowd as usize].directory);
            let first = top_bits(page.prefix(), directory.depth);
            let slots = &directory.slots[first..first + (1 << (directory.depth - page.depth()))];
            assert!(slots.iter().all(|&slot| slot == slots[0]), "the slots of a page name it");
            assert!(page.len() <= self.shared.keys_max, "no page outgrows the limit");
            pages += 1;
            len += page.len() as u64;
            bytes += page.heap_bytes();
            cursor = self.end_of(page);
        }
        bytes += self.crowds.iter().map(|crowd| crowd.directory.heap_bytes()).sum::<usize>();
        assert_eq!(pages, self.pages.len(), "every page is in a directory");
        assert_eq!((len, bytes), (self.len, self.page_bytes), "the sums are those of the pages");
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for page in &mut self.pages {
            page.release(&self.shared.pool);
        }
    }
}

/// The `count` top bits of a position, as a number.
#[inline]
fn top_bits(position: u64, count: u32) -> usize {
    position.checked_shr(u64::BITS - count).unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::counters::Secret;
    use crate::engine::prng::Prng;

    /// The hash that a key begins with.
    fn first_bytes(_: u64, key: &[u8]) -> KeyHash {
        KeyHash(u64::from_be_bytes(key[..8].try_into().expect("test keys begin with their hash")))
    }

    fn empty(start: u64, last: u64, keys_max: usize) -> Table {
        let secret = Secret([1, 2]);
        let hashing = Hashing::new(&(KeyHash(start)..=KeyHash(last)), 0, secret, first_bytes);
        Table::new(hashing, Pool::default(), keys_max)
    }

    fn key(hash: u64, number: u64) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&hash.to_be_bytes());
        key[8..].copy_from_slice(&number.to_be_bytes());
        key
    }

    /// Inserts keys under the hashes given and returns the table, checked after every insert.
    fn filled(start: u64, last: u64, keys_max: usize, hashes: impl Iterator<Item = u64>) -> Table {
        let mut table = empty(start, last, keys_max);
        for (number, hash) in (0u64..).zip(hashes) {
            let key = key(hash, number);
            assert_eq!(table.find(KeyHash(hash), &key), None);
            let place = table.insert(KeyHash(hash), &key, number as i64);
            assert_eq!(table.find(KeyHash(hash), &key), Some(place));
            assert_eq!(table.entry(place), Entry { count: number as i64, member: false, key: &key });
            table.invariants();
        }
        table
    }

    /// The hashes of the table in the order of a walk over its pages.
    fn walk(table: &Table) -> Vec<Vec<u64>> {
        std::iter::successors(Some(table.page_at(Cursor::START)), |page| table.end_of(page).map(|at| table.page_at(at)))
            .map(|page| page.offsets().map(|offset| first_bytes(0, page.entry(offset).key).0).collect())
            .collect()
    }

    #[test]
    fn pages_split_at_every_limit() {
        for keys_max in [1, 2, 3, 4, 7, 16, 28, 64] {
            let mut prng = Prng::new(keys_max as u64);
            let table = filled(0, u64::MAX, keys_max, (0..400).map(|_| prng.bits()));
            assert!(table.pages.len() >= 400 / keys_max, "pages of {keys_max} keys");
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
            if table.crowds.is_empty() {
                let mut before = None;
                for page in pages.iter().filter(|page| !page.is_empty()) {
                    assert!(before < page.iter().min(), "pages are in hash order");
                    before = page.iter().max();
                }
            }
            if width > 300 {
                let directory_max = 64 * hashes.len() / 8;
                assert!(pages.len() > 20 && table.directory.slots.len() <= directory_max, "range {start}..={last}");
                assert!(table.crowds.is_empty(), "range {start}..={last}");
            }
        }
    }

    #[test]
    fn keys_that_share_a_prefix_become_a_crowd_of_bounded_pages() {
        // All keys have one hash: no depth would separate them.
        let table = filled(0, u64::MAX, 4, (0..300).map(|_| 0));
        assert_eq!(walk(&table).concat().len(), 300);
        assert_eq!(table.crowds.len(), 1);
        assert!(table.directory.slots.len() <= 64, "the directory is no larger than that of a small table");
        assert!(table.crowds[0].directory.slots.len() <= 64 * 300 / 4);

        // Keys that differ in their last bits only, between ordinary ones.
        let mut prng = Prng::new(1);
        let others = std::iter::repeat_with(|| prng.bits());
        let mixed = (0..100).zip(others).flat_map(|(hash, other)| [hash, other]);
        let table = filled(0, u64::MAX, 4, mixed);
        assert_eq!(table.crowds.len(), 1);
        assert!(table.directory.slots.len() <= 64 * 200 / 4);
    }

    #[test]
    fn a_crowd_stays_one_and_takes_ordinary_keys_too() {
        let shared = (0..64u64).map(|i| i << 46);
        let mut prng = Prng::new(2);
        let others = (0..2_000).map(|_| prng.bits());
        let table = filled(0, u64::MAX, 4, shared.chain(others));
        let crowded = table.pages.iter().filter(|page| page.crowd().is_some());
        assert!(table.crowds.len() == 1 && crowded.map(Page::len).sum::<usize>() > 64);
    }

    #[test]
    fn wider_counts_move_and_pages_are_packed() {
        let mut table = empty(0, u64::MAX, 64);
        let mut prng = Prng::new(4);
        let keys: Vec<[u8; 16]> = (0..500).map(|number| key(prng.bits(), number)).collect();
        for key in &keys {
            table.insert(first_bytes(0, key), key, 0);
        }
        let place = table.find(first_bytes(0, &keys[0]), &keys[0]).expect("it was inserted");
        table.set_member(place, true);
        let mut count = 0;
        for delta in [1 << 7, 1 << 15, 1 << 31, 3 - (1 << 31), 1 << 7] {
            count += delta;
            for key in &keys {
                let place = table.find(first_bytes(0, key), key).expect("it was inserted");
                let place = table.add(place, first_bytes(0, key), delta).expect("it fits").place;
                assert_eq!(table.entry(place), Entry { count, member: *key == keys[0], key });
                assert_eq!(table.find(first_bytes(0, key), key), Some(place));
            }
            table.invariants();
        }
        assert!(table.moves() > 3 * 500);
    }

    #[test]
    fn a_dropped_table_gives_its_blocks_back() {
        let pool = Pool::heap();
        let hashing = Hashing::new(&(KeyHash(0)..=KeyHash(u64::MAX)), 0, Secret::default(), KeyHash::of);
        for _ in 0..3 {
            let mut table = Table::new(hashing.clone(), pool.clone(), 100);
            for number in 0..5_000u64 {
                let key = number.to_be_bytes();
                table.insert(KeyHash::of(0, &key), &key, 1);
            }
            assert!(pool.free_bytes() < pool.regions_bytes());
            let regions_bytes = pool.regions_bytes();
            drop(table);
            assert!(pool.free_bytes() >= regions_bytes && pool.regions_bytes() == regions_bytes);
        }
    }
}
