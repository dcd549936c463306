//! The counting state machine of one shard: its counters, and which of them are the highest.
//!
//! | file | what it holds |
//! |---|---|
//! | `table` | the directory: which page a hash belongs to, and how pages split |
//! | `page` | some thousand counters and their index |
//! | `top` | the candidate set, its rules, and the proof that its answers are exact |
//!
//! A key is any bytes, a count a signed 64-bit integer. A key comes to exist by its first increment, also by 0 or
//! less, and takes part in [`Counters::top`] from then on. An increment that would leave the range of a count is
//! refused by itself: it changes nothing, and those after it in the batch go on. Whether it is refused depends on its
//! own key's count alone, so replaying a part of a log gives the same outcomes as the whole did.
//!
//! **Deterministic.** The same increments in the same order give the same outcomes, the same answers and the same
//! order of scans on every machine. Nothing here reads a clock, draws a number or depends on the order of a hash
//! index.
//!
//! **Bounded work.** An increment touches one page; an insert may split it, which rehashes that page. Compaction of
//! the candidate set resolves twice its size. The exception is [`Counters::top`] when counts have been lowered or k
//! exceeds the set: it may walk the whole table. [`Counters::upkeep`] does that walk ahead of need, a page at a time.
//!
//! **Memory.** An existing key is incremented without allocation. Nothing is ever removed, so memory grows with the
//! number of keys alone.

mod page;
mod table;
#[cfg(test)]
mod tests;
mod top;

use std::ops::RangeInclusive;

use xxhash_rust::xxh3::xxh3_64;

use crate::engine::prng::mix;
use crate::ids::KeyHash;
use crate::limits::{KEY_BYTES_MAX, PAGE_KEYS_MAX};

use page::Page;
use table::Table;
use top::CandidateSet;

pub use top::Top;

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
pub struct PageCursor(u64);

impl PageCursor {
    /// Before the first page.
    pub const START: PageCursor = PageCursor(0);
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

/// The counters of one hash prefix, at one step of a scan.
#[derive(Clone, Copy)]
pub struct PageView<'a> {
    page: &'a Page,
}

impl<'a> PageView<'a> {
    /// The page's counters, in the order in which their keys first appeared.
    pub fn counters(self) -> impl ExactSizeIterator<Item = Counter<'a>> {
        self.page.entries().map(|entry| Counter { hash: entry.hash, key: entry.key(), count: entry.count })
    }

    /// Where the scan goes on; `None` after the last page.
    #[must_use]
    pub fn next(self) -> Option<PageCursor> {
        self.page.end().map(PageCursor)
    }
}

/// The counters of one shard.
pub struct Counters {
    table: Table,
    candidates: CandidateSet,
}

impl Counters {
    /// No counters yet, for a shard that owns `hashes` (not an empty range) and certifies its `candidates` (at least 1)
    /// highest keys: up to so many, [`Counters::top`] need not walk the table as long as counts only rise.
    #[must_use]
    pub fn new(hashes: RangeInclusive<KeyHash>, candidates: usize) -> Counters {
        Counters::with_page_keys(hashes, candidates, PAGE_KEYS_MAX)
    }

    /// Like [`Counters::new`], with pages that split at another size: what is observed stays the same, but for the
    /// extent of pages.
    #[must_use]
    pub fn with_page_keys(hashes: RangeInclusive<KeyHash>, candidates: usize, page_keys_max: usize) -> Counters {
        Counters {
            table: Table::new(*hashes.start(), *hashes.end(), page_keys_max),
            candidates: CandidateSet::new(candidates),
        }
    }

    /// Applies increments in order and appends an outcome for each. There is no other way to write.
    pub fn apply_batch(&mut self, batch: &[Increment<'_>], outcomes: &mut Vec<Outcome>) {
        outcomes.extend(batch.iter().map(|increment| self.apply(increment)));
    }

    fn apply(&mut self, increment: &Increment<'_>) -> Outcome {
        let &Increment { hash, key, delta } = increment;
        debug_assert!(key.len() <= KEY_BYTES_MAX, "the wire refuses longer keys");
        let Some(place) = self.table.find(hash, key) else {
            let place = self.table.insert(hash, key, delta);
            if delta >= self.candidates.admission_count() {
                self.candidates.consider(&mut self.table, place);
            }
            return Outcome::Applied(delta);
        };
        let entry = self.table.entry_mut(place);
        let old = entry.count;
        let Some(new) = old.checked_add(delta) else {
            return Outcome::Overflow;
        };
        entry.count = new;
        // Nearly every increment ends at one of these compares: a cold key at the first, a hot one at the second.
        if delta >= 0 {
            if new >= self.candidates.admission_count() && !entry.member {
                self.candidates.consider(&mut self.table, place);
            }
        } else if entry.member {
            self.candidates.lowered(&self.table, place, old);
        }
        Outcome::Applied(new)
    }

    /// The count of a key; `None` if it was never incremented.
    #[must_use]
    pub fn count(&self, hash: KeyHash, key: &[u8]) -> Option<i64> {
        self.table.find(hash, key).map(|place| self.table.entry(place).count)
    }

    /// The `k` highest counts, exact; fewer if there are fewer keys. The caller bounds `k`.
    /// If the candidate set cannot vouch for so many, the whole table is walked first.
    pub fn top(&mut self, k: usize) -> Top {
        self.candidates.top(&mut self.table, k)
    }

    /// Does one slice of background work, about a page's, if lowered counts have left few candidates certified.
    /// Returns whether there is more to do. Answers do not depend on it, only how soon [`Counters::top`] has them.
    pub fn upkeep(&mut self) -> bool {
        self.candidates.upkeep(&mut self.table)
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

    /// Bytes asked of the allocator: directory, pages with their index, entries and keys, candidate set, with what is
    /// reserved for growth. What the allocator adds is not in it. Takes constant time.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        (self.table.memory_bytes() + self.candidates.memory_bytes()) as u64
    }

    /// The page at a cursor. A scan from [`PageCursor::START`] along [`PageView::next`] shows the pages in the order of
    /// their hashes, and each key that existed from its start exactly once, also if there are increments in between.
    #[must_use]
    pub fn page(&self, cursor: PageCursor) -> PageView<'_> {
        PageView { page: self.table.page_at(cursor.0) }
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
