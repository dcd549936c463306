//! The same counters, made simply: what tests compare [`super::Counters`] with, and benches measure it against.
//!
//! Extendible hashing over bounded pages too, with none of the economies: an entry of 48 bytes that holds its hash, a
//! 64-bit count and a pointer-sized key; no blocks, widths, crowds, batches or candidate set. The top is a full sort.

use hashbrown::HashTable;

use super::{Increment, Outcome};
use crate::engine::prng::mix;
use crate::ids::KeyHash;
use crate::limits::{DIRECTORY_DEPTH_SLACK, PAGE_KEYS_MAX};

const KEY_INLINE_BYTES: usize = 22;

enum Key {
    Inline { len: u8, bytes: [u8; KEY_INLINE_BYTES] },
    Boxed(Box<[u8]>),
}

impl Key {
    fn new(key: &[u8]) -> Key {
        let mut bytes = [0; KEY_INLINE_BYTES];
        match bytes.get_mut(..key.len()) {
            Some(start) => {
                start.copy_from_slice(key);
                Key::Inline { len: key.len() as u8, bytes }
            }
            None => Key::Boxed(key.into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Key::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Key::Boxed(bytes) => bytes,
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Key::Inline { .. } => 0,
            Key::Boxed(bytes) => bytes.len(),
        }
    }
}

struct Entry {
    hash: KeyHash,
    count: i64,
    key: Key,
}

/// The counters whose hashes begin with the `depth` top bits of `prefix`.
struct Page {
    prefix: u64,
    depth: u32,
    index: HashTable<u32>,
    entries: Vec<Entry>,
}

impl Page {
    fn with_capacity(prefix: u64, depth: u32, keys: usize) -> Page {
        Page { prefix, depth, index: HashTable::with_capacity(keys), entries: Vec::with_capacity(keys) }
    }

    fn find(&self, hash: KeyHash, key: &[u8]) -> Option<u32> {
        let same = |&slot: &u32| {
            let entry = &self.entries[slot as usize];
            entry.hash == hash && entry.key.bytes() == key
        };
        self.index.find(mix(hash.0), same).copied()
    }

    fn push(&mut self, entry: Entry) {
        let slot = self.entries.len() as u32;
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(1 + self.entries.len() / 4);
        }
        let hash = entry.hash;
        self.entries.push(entry);
        let entries = &self.entries;
        self.index.insert_unique(mix(hash.0), slot, |&slot| mix(entries[slot as usize].hash.0));
    }

    fn split(&mut self) -> Page {
        let depth = self.depth + 1;
        let bit = 1 << (u64::BITS - depth);
        let upper_len = self.entries.iter().filter(|entry| entry.hash.0 & bit != 0).count();
        let mut lower = Page::with_capacity(self.prefix, depth, self.entries.len() - upper_len);
        let mut upper = Page::with_capacity(self.prefix | bit, depth, upper_len);
        for entry in self.entries.drain(..) {
            let half = if entry.hash.0 & bit == 0 { &mut lower } else { &mut upper };
            half.push(entry);
        }
        *self = lower;
        upper
    }

    fn memory_bytes(&self) -> usize {
        self.index.allocation_size()
            + self.entries.capacity() * size_of::<Entry>()
            + self.entries.iter().map(|entry| entry.key.heap_bytes()).sum::<usize>()
    }
}

/// The counters of all hashes.
pub struct SimpleCounters {
    depth: u32,
    directory: Vec<u32>,
    pages: Vec<Page>,
    len: u64,
}

impl Default for SimpleCounters {
    fn default() -> SimpleCounters {
        SimpleCounters { depth: 0, directory: vec![0], pages: vec![Page::with_capacity(0, 0, 0)], len: 0 }
    }
}

impl SimpleCounters {
    /// Applies increments in order and appends an outcome for each.
    pub fn apply_batch(&mut self, batch: &[Increment<'_>], outcomes: &mut Vec<Outcome>) {
        outcomes.extend(batch.iter().map(|increment| self.apply(increment)));
    }

    fn apply(&mut self, increment: &Increment<'_>) -> Outcome {
        let page = &mut self.pages[self.directory[top_bits(increment.hash.0, self.depth)] as usize];
        let Some(slot) = page.find(increment.hash, increment.key) else {
            self.insert(increment);
            return Outcome::Applied(increment.delta);
        };
        let entry = &mut page.entries[slot as usize];
        match entry.count.checked_add(increment.delta) {
            Some(count) => {
                entry.count = count;
                Outcome::Applied(count)
            }
            None => Outcome::Overflow,
        }
    }

    fn insert(&mut self, increment: &Increment<'_>) {
        let depth_max = (self.len / PAGE_KEYS_MAX as u64).checked_ilog2().unwrap_or(0) + DIRECTORY_DEPTH_SLACK;
        loop {
            let number = self.directory[top_bits(increment.hash.0, self.depth)];
            let page = &mut self.pages[number as usize];
            // At the cap a page outgrows its limit.
            if page.entries.len() < PAGE_KEYS_MAX || page.depth >= depth_max {
                page.push(Entry { hash: increment.hash, count: increment.delta, key: Key::new(increment.key) });
                self.len += 1;
                return;
            }
            self.split(number);
        }
    }

    fn split(&mut self, number: u32) {
        let upper = self.pages[number as usize].split();
        if upper.depth > self.depth {
            self.directory = self.directory.iter().flat_map(|&page| [page, page]).collect();
            self.depth += 1;
        }
        let first = top_bits(upper.prefix, self.depth);
        let slots = 1 << (self.depth - upper.depth);
        self.directory[first..first + slots].fill(self.pages.len() as u32);
        self.pages.push(upper);
    }

    /// The count of a key; `None` if it was never incremented.
    #[must_use]
    pub fn count(&self, hash: KeyHash, key: &[u8]) -> Option<i64> {
        let page = &self.pages[self.directory[top_bits(hash.0, self.depth)] as usize];
        page.find(hash, key).map(|slot| page.entries[slot as usize].count)
    }

    /// All keys with their counts, in no particular order.
    pub fn counters(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.pages.iter().flat_map(|page| page.entries.iter().map(|entry| (entry.key.bytes(), entry.count)))
    }

    /// The `k` highest keys, ties by ascending bytes.
    #[must_use]
    pub fn top(&self, k: usize) -> Vec<(&[u8], i64)> {
        let mut ranking: Vec<_> = self.counters().collect();
        ranking.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        ranking.truncate(k);
        ranking
    }

    /// Bytes asked of the allocator. Walks all keys.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let pages: usize = self.pages.iter().map(Page::memory_bytes).sum();
        (pages + self.pages.capacity() * size_of::<Page>() + self.directory.capacity() * size_of::<u32>()) as u64
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

fn top_bits(hash: u64, count: u32) -> usize {
    hash.checked_shr(u64::BITS - count).unwrap_or(0) as usize
}
