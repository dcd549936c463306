//! The counting state machine of one shard: its counters, and which of them are the highest.
//!
//! | file | what it holds |
//! |---|---|
//! | `pool` | where memory comes from, in blocks of one size |
//! | `arena` | what each byte of a counter is for |
//! | `page` | some thousand counters: an index over an arena |
//! | `hashing` | which bits of which hash decide what |
//! | `table` | the directory: which page a key belongs to, how pages split, how batches overlap their waits |
//! | `top` | the candidate set, its rules, and the proof that its answers are exact |
//! | `simple` | the same counters without any of this, which tests and benches compare with |
//!
//! A key is any bytes, a count a signed 64-bit integer. A key comes to exist by its first increment, also by 0 or
//! less, and takes part in [`Counters::top`] from then on. An increment that would leave the range of a count is
//! refused by itself: it changes nothing, and those after it in the batch go on. Whether it is refused depends on its
//! own key's count alone, so replaying a part of a log gives the same outcomes as the whole did.
//!
//! **Deterministic.** The same increments in the same order give the same outcomes, the same answers and the same
//! order of scans on every machine. Nothing here reads a clock, draws a number or depends on the order of a hash
//! index. The one thing that depends on the process's secret is the order in which scans show keys whose hashes were chosen to
//! be alike.
//!
//! **Bounded work.** An increment touches one page; it may split or pack that page, some 0.1 ms. Compaction of
//! the candidate set resolves twice its size. The exception is [`Counters::top`] when counts have been lowered or k
//! exceeds the set: it may walk the whole table. [`Counters::begin_top`] leaves that walk to [`Counters::upkeep`], which
//! does it a page at a time.
//!
//! **Memory.** No key has an allocation of its own, but for those of more than [`KEY_INLINE_BYTES_MAX`] bytes. Nothing is ever
//! removed, so memory grows with the number of keys alone. With keys of 16 bytes, in bytes a counter:
//!
//! ```text
//!   18     header, count, key
//!   0.5    ends of blocks; each page's last block; the list of its blocks
//!   5      index: 3 a bucket, at a load of 0.44 to 0.88
//!   0.1    page header, directory, candidate set
//! ```

mod arena;
mod compaction;
#[cfg(test)]
mod differential_tests;
mod hashing;
pub mod image;
mod index_memory;
mod page;
mod pool;
mod scan;
#[cfg(any(test, feature = "sim"))]
pub mod simple;
mod table;
#[cfg(test)]
mod tests;
mod top;
#[cfg(test)]
mod top_tests;

use std::ops::RangeInclusive;

use xxhash_rust::xxh3::xxh3_64;

use crate::engine::part::PackedKeys;
use crate::engine::prng::mix;
use crate::ids::{Index, KeyHash};
#[cfg(doc)]
use crate::limits::KEY_INLINE_BYTES_MAX;
use crate::limits::{APPLY_CHUNK_KEYS, KEY_BYTES_MAX, PAGE_KEYS_MAX, TOP_SLICE_MEMBERS};
use crate::mutant::mutant;

use hashing::Hashing;
use page::Page;
use scan::Scan;
use table::{Cursor, Place, Probe, Sum, Table};
use top::CandidateSet;

pub use hashing::{Route, Secret};
pub use pool::{BlockBytes, Pool, REGION_BYTES_MIN};
pub use scan::Scanned;
pub use top::{Top, candidates_for};

/// One addition to one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Increment<'a> {
    /// The hash of the key; equal keys have equal hashes. It lies in the shard's range.
    pub hash: KeyHash,
    /// The key, of at most [`KEY_BYTES_MAX`] bytes.
    pub key: &'a [u8],
    /// What is added.
    pub delta: i64,
}

/// What became of an [`Increment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was added; this is the new count.
    Applied(i64),
    /// The sum is no signed 64-bit integer; the count was not changed.
    Overflow,
}

/// A place in the walk over all pages. It stays valid while pages split: what lies before it has been walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageCursor(Cursor);

impl PageCursor {
    /// Before the first page.
    pub const START: PageCursor = PageCursor(Cursor::START);
}

/// A counter, as scans show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter<'a> {
    /// The hash of the key.
    pub hash: KeyHash,
    /// The key.
    pub key: &'a [u8],
    /// Its count.
    pub count: i64,
}

/// The counters of one page, at one step of a scan.
#[derive(Clone, Copy)]
pub struct PageView<'a> {
    table: &'a Table,
    page: &'a Page,
}

impl<'a> PageView<'a> {
    /// The page's counters. Their order is the same wherever the same was done to the page in the same order.
    pub fn counters(self) -> impl Iterator<Item = Counter<'a>> {
        let PageView { table, page } = self;
        page.offsets().map(move |offset| {
            let entry = page.entry(offset);
            Counter { hash: table.hashing().hash(entry.key), key: entry.key, count: entry.count }
        })
    }

    /// Number of counters.
    #[must_use]
    pub fn len(self) -> usize {
        self.page.len()
    }

    /// Whether there is no counter in the page.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The index that [`Counters::set_applying`] had last named when the page changed. The halves of a page that was split
    /// have both changed.
    #[must_use]
    pub fn last_change(self) -> Index {
        self.page.changed()
    }

    /// Where the scan goes on; `None` after the last page.
    #[must_use]
    pub fn next(self) -> Option<PageCursor> {
        self.table.end_of(self.page).map(PageCursor)
    }
}

/// What a shard's counters are made with.
#[derive(Clone)]
pub struct Setup {
    /// The hashes that the shard owns; at least one.
    pub hashes: RangeInclusive<KeyHash>,
    /// The cluster's seed: the hash of a key is [`KeyHash::of`] it and the key.
    pub routing_seed: u64,
    /// Random bits of the process, which nobody outside it knows. Nothing that is observed depends on them, but for the order in
    /// which scans show keys whose hashes were chosen to be alike.
    pub secret: Secret,
    /// How many of the highest keys are certified (at least 1): up to so many, [`Counters::top`] need not walk the table as long
    /// as counts only rise.
    pub candidates: usize,
    /// Where memory comes from.
    pub pool: Pool,
    /// Members of the candidate set that a slice of a compaction looks at; a set of a few times as many is compacted at once.
    pub top_slice_members: usize,
    /// Keys of a page, at most. What is observed stays the same, but for the extent of pages and the order of scans.
    pub page_keys_max: usize,
}

impl Setup {
    /// For a shard that owns `hashes`, with pages of the usual size in this thread's pool.
    #[must_use]
    pub fn new(hashes: RangeInclusive<KeyHash>, routing_seed: u64, candidates: usize) -> Setup {
        Setup {
            hashes,
            routing_seed,
            secret: Secret::default(),
            candidates,
            pool: Pool::default(),
            top_slice_members: TOP_SLICE_MEMBERS,
            page_keys_max: PAGE_KEYS_MAX,
        }
    }
}

/// The counters of one shard.
pub struct Counters {
    table: Table,
    candidates: CandidateSet,
    scan: Option<Box<Scan>>,
}

impl Counters {
    /// No counters yet.
    #[must_use]
    pub fn new(setup: Setup) -> Counters {
        Counters::hashed_by(setup, KeyHash::of)
    }

    /// Like [`Counters::new`], with another routing hash: an enemy's.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn with_hash(setup: Setup, route: Route) -> Counters {
        Counters::hashed_by(setup, route)
    }

    fn hashed_by(setup: Setup, route: Route) -> Counters {
        let hashing = Hashing::new(&setup.hashes, setup.routing_seed, setup.secret, route);
        Counters {
            table: Table::new(hashing, setup.pool, setup.page_keys_max),
            candidates: CandidateSet::new(setup.candidates, setup.top_slice_members),
            scan: None,
        }
    }

    /// Names the log entry whose increments are applied from now on, for [`PageView::last_change`].
    pub fn set_applying(&mut self, index: Index) {
        self.table.set_applying(index);
    }

    /// Applies increments in order and appends an outcome for each. There is no other way to write.
    pub fn apply_batch(&mut self, batch: &[Increment<'_>], outcomes: &mut Vec<Outcome>) {
        self.candidates.note_increments(batch.len());
        if let Some(scan) = &mut self.scan {
            scan.note(&self.table, batch);
        }
        if let [increment] = batch {
            outcomes.push(self.apply(increment, self.table.find(increment.hash, increment.key)));
            return;
        }
        for chunk in batch.chunks(APPLY_CHUNK_KEYS) {
            self.apply_chunk(chunk, outcomes);
        }
    }

    fn apply_chunk(&mut self, chunk: &[Increment<'_>], outcomes: &mut Vec<Outcome>) {
        let mut probes = [Probe::default(); APPLY_CHUNK_KEYS];
        self.table.probe(chunk.iter().map(|increment| (increment.hash, increment.key)), &mut probes);
        let moves = self.table.moves();
        for (increment, probe) in chunk.iter().zip(&probes) {
            let place = if self.table.moves() == moves {
                self.table.probed(probe, increment.key)
            } else {
                self.table.find(increment.hash, increment.key)
            };
            outcomes.push(self.apply(increment, place));
        }
    }

    #[inline]
    fn apply(&mut self, increment: &Increment<'_>, place: Option<Place>) -> Outcome {
        let &Increment { hash, key, delta } = increment;
        debug_assert!(key.len() <= KEY_BYTES_MAX, "the wire refuses longer keys");
        debug_assert_eq!(hash, self.table.hashing().hash(key), "the hash is that of the key");
        let Some(place) = place else {
            let place = self.table.insert(hash, key, delta);
            if mutant!("birth-below-zero-not-tested") && delta < 0 {
                return Outcome::Applied(delta);
            }
            if self.candidates.may_admit(delta, key) {
                self.candidates.consider(&mut self.table, place);
            }
            return Outcome::Applied(delta);
        };
        let Some(Sum { place, old, new, member }) = self.table.add(place, hash, delta) else {
            return Outcome::Overflow;
        };
        // Nearly every increment ends at one of these compares: a cold key in the first call, a hot one in the second.
        if delta >= 0 {
            if !member {
                if self.candidates.may_admit(new, key) {
                    self.candidates.consider(&mut self.table, place);
                }
            } else if self.candidates.may_enter_head(old, new) {
                self.candidates.risen(&self.table, place, old);
            }
        } else if member {
            self.candidates.lowered(&self.table, place, old);
        }
        Outcome::Applied(new)
    }

    /// The count of a key; `None` if it was never incremented.
    #[must_use]
    pub fn count(&self, hash: KeyHash, key: &[u8]) -> Option<i64> {
        self.table.find(hash, key).map(|place| self.table.entry(place).count)
    }

    /// Appends the count of each key, as [`Counters::count`] has it, in less time.
    pub fn counts(&self, keys: &[(KeyHash, &[u8])], counts: &mut Vec<Option<i64>>) {
        let mut probes = [Probe::default(); APPLY_CHUNK_KEYS];
        for chunk in keys.chunks(APPLY_CHUNK_KEYS) {
            self.table.probe(chunk.iter().copied(), &mut probes);
            counts.extend(
                chunk
                    .iter()
                    .zip(&probes)
                    .map(|((_, key), probe)| self.table.probed(probe, key).map(|place| self.table.entry(place).count)),
            );
        }
    }

    /// The `k` highest counts, exact; fewer if there are fewer keys. The caller bounds `k`.
    /// If the candidate set cannot vouch for so many, the whole table is walked first.
    pub fn top(&mut self, k: usize) -> Top {
        self.candidates.top(&mut self.table, k)
    }

    /// Like [`Counters::top`], but without a walk: `None` if the candidate set cannot vouch for so many. Then a walk has begun,
    /// or been joined, which [`Counters::upkeep`] carries on; when it returns false, ask again.
    pub fn begin_top(&mut self, k: usize) -> Option<Top> {
        self.candidates.begin_top(&self.table, k)
    }

    /// Does one slice of background work, about a page's, if lowered counts have left few candidates certified or a walk
    /// is under way. Returns whether there is more to do. Answers do not depend on it, only how soon there are any.
    pub fn upkeep(&mut self) -> bool {
        self.candidates.upkeep(&mut self.table)
    }

    /// Begins a scan of the counters as they are now. It replaces one that is under way.
    pub fn begin_scan(&mut self) {
        self.scan = Some(Box::new(Scan::begin()));
    }

    /// Appends the keys of the scan's next page, and their counts, as they were when it began. Without a scan it is lost.
    pub fn scan_page(&mut self, keys: &mut PackedKeys, counts: &mut Vec<i64>) -> Scanned {
        match &mut self.scan {
            Some(scan) => scan.page(&self.table, keys, counts),
            None => Scanned::Lost,
        }
    }

    /// Ends the scan: from now on nothing is remembered for it.
    pub fn end_scan(&mut self) {
        self.scan = None;
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.table.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in use: directory, pages with their index, the blocks they hold, keys out of line, candidate set. What the
    /// allocator adds is not in it, and neither is what is free in the pool. Takes constant time.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let scan = self.scan.as_ref().map_or(0, |scan| scan.memory_bytes());
        (self.table.memory_bytes() + self.candidates.memory_bytes() + scan) as u64
    }

    /// The page at a cursor. A scan from [`PageCursor::START`] along [`PageView::next`] shows the pages in the order of
    /// their hashes (several pages, if keys were chosen to have nearly the same), and each key that existed from its start
    /// exactly once, also if there are increments in between.
    #[must_use]
    pub fn page(&self, cursor: PageCursor) -> PageView<'_> {
        PageView { table: &self.table, page: self.table.page_at(cursor.0) }
    }

    /// All pages in the order of their hashes.
    pub fn pages(&self) -> impl Iterator<Item = PageView<'_>> {
        std::iter::successors(Some(self.page(PageCursor::START)), |page| page.next().map(|cursor| self.page(cursor)))
    }

    /// A hash of the set of keys with their counts: equal for equal sets, whatever order and layout they came to have.
    /// Walks all keys.
    #[must_use]
    pub fn digest(&self) -> u64 {
        // The count is mixed by itself: as a seed of the hash it would cancel against the bytes of short keys.
        let pair = |counter: Counter<'_>| mix(xxh3_64(counter.key) ^ mix(counter.count as u64));
        self.pages().flat_map(PageView::counters).map(pair).fold(0, u64::wrapping_add)
    }

    /// Asserts everything that must hold between the parts; walks all keys.
    pub fn invariants(&self) {
        self.table.invariants();
        self.candidates.invariants(&self.table);
    }
}
