//! A page: the counters of one hash prefix, and the unit of everything that must stay short.
//!
//! ```text
//!   index    HashTable<u32>    remixed hash → slot
//!   entries  Vec<Entry>        slot → hash, count, place of the key, member flag     32 bytes each
//!   keys     Vec<u8>           the keys' bytes, one after another
//! ```
//!
//! Counters are never removed, so entries and keys are only appended to, and the order of slots is the order of
//! insertion: the same on every replica that applied the same log, whatever the index looks like.
//!
//! **Index hash.** All hashes of a page begin with the same bits, while hashbrown takes its tag from the top bits and
//! its bucket from the bottom ones; and in a narrow shard the bottom bits are the directory's. So the index is fed
//! [`mix`] of the hash, a bijection after which every bit depends on all of them.
//!
//! **Slots are 32 bits wide.** 16 would do for a page within its limit. But a page at the depth cap of the directory
//! (see [`super::table`]) has no limit, and with 32 bits such a page is an ordinary one that has grown, not a second
//! mechanism. The price is 2 bytes a bucket.

use hashbrown::HashTable;

use crate::engine::prng::mix;
use crate::ids::KeyHash;

/// One counter, but for the bytes of its key, which only its page can reach.
pub(super) struct Entry {
    /// The key's hash, kept so that a split need not compute it again.
    pub(super) hash: KeyHash,
    /// The counter.
    pub(super) count: i64,
    /// Whether the key is in the candidate set. Owned by [`super::top`].
    pub(super) member: bool,
    key_bytes: u32,
    /// 64 bits, because nothing limits the bytes of a page at the depth cap.
    key_start: usize,
}

/// The counters whose positions begin with the `depth` top bits of `prefix`.
pub(super) struct Page {
    prefix: u64,
    depth: u32,
    index: HashTable<u32>,
    entries: Vec<Entry>,
    keys: Vec<u8>,
}

impl Page {
    /// A page without counters, which has allocated nothing. Bits of `prefix` past `depth` are zero.
    pub(super) fn empty(prefix: u64, depth: u32) -> Page {
        Page { prefix, depth, index: HashTable::new(), entries: Vec::new(), keys: Vec::new() }
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
        let positions = 1u64.checked_shl(u64::BITS - self.depth)?;
        self.prefix.checked_add(positions)
    }

    /// Counters in the page.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes the page has allocated, without its own header.
    pub(super) fn heap_bytes(&self) -> usize {
        self.index.allocation_size() + self.entries.capacity() * size_of::<Entry>() + self.keys.capacity()
    }

    /// The entry in a slot that [`Page::find`] or [`Page::insert`] named.
    pub(super) fn entry(&self, slot: u32) -> &Entry {
        &self.entries[slot as usize]
    }

    /// Like [`Page::entry`], to be changed.
    pub(super) fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.entries[slot as usize]
    }

    /// The bytes of an entry's key.
    pub(super) fn key(&self, entry: &Entry) -> &[u8] {
        &self.keys[entry.key_start..entry.key_start + entry.key_bytes as usize]
    }

    /// All entries, in order of insertion.
    pub(super) fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The slot of a key.
    pub(super) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<u32> {
        let same = |&slot: &u32| {
            let entry = self.entry(slot);
            entry.hash == hash && self.key(entry) == key
        };
        self.index.find(mix(hash.0), same).copied()
    }

    /// The slots of all members of the candidate set with this hash.
    pub(super) fn members(&self, hash: KeyHash) -> impl Iterator<Item = u32> {
        let member = move |slot: &u32| {
            let entry = self.entry(*slot);
            entry.hash == hash && entry.member
        };
        self.index.iter_hash(mix(hash.0)).copied().filter(member)
    }

    /// Adds a key that is not in the page; returns its slot.
    pub(super) fn insert(&mut self, hash: KeyHash, key: &[u8], count: i64, member: bool) -> u32 {
        let slot = u32::try_from(self.entries.len()).expect("2^32 entries of one page would be 128 GiB");
        make_room(&mut self.entries, 1);
        make_room(&mut self.keys, key.len());
        self.entries.push(Entry {
            hash,
            count,
            member,
            key_bytes: key.len() as u32, // at most KEY_BYTES_MAX
            key_start: self.keys.len(),
        });
        self.keys.extend_from_slice(key);
        let entries = &self.entries;
        self.index.insert_unique(mix(hash.0), slot, |&slot| mix(entries[slot as usize].hash.0));
        slot
    }

    /// Divides the page by the next bit of its counters' positions: the lower half stays, the upper one is returned.
    /// Both are allocated afresh and to measure, and keep the order of their entries.
    pub(super) fn split(&mut self, position: impl Fn(KeyHash) -> u64) -> Page {
        debug_assert!(self.depth < u64::BITS, "a page of one position cannot be split");
        let depth = self.depth + 1;
        let bit = 1 << (u64::BITS - depth);
        let (upper_len, upper_key_bytes) = self
            .entries()
            .filter(|entry| position(entry.hash) & bit != 0)
            .fold((0, 0), |(len, bytes), entry| (len + 1, bytes + entry.key_bytes as usize));
        let sized = |prefix, len, key_bytes| Page {
            prefix,
            depth,
            index: HashTable::with_capacity(len),
            entries: Vec::with_capacity(len),
            keys: Vec::with_capacity(key_bytes),
        };
        let mut lower = sized(self.prefix, self.len() - upper_len, self.keys.len() - upper_key_bytes);
        let mut upper = sized(self.prefix | bit, upper_len, upper_key_bytes);
        for entry in self.entries() {
            let half = if position(entry.hash) & bit == 0 { &mut lower } else { &mut upper };
            half.insert(entry.hash, self.key(entry), entry.count, entry.member);
        }
        *self = lower;
        upper
    }

    /// Asserts what must hold between the three parts.
    pub(super) fn invariants(&self) {
        assert_eq!(self.index.len(), self.entries.len(), "every entry is in the index once");
        let mut key_end = 0;
        for (slot, entry) in (0..).zip(&self.entries) {
            assert_eq!(entry.key_start, key_end, "keys lie in the order of their entries");
            key_end += entry.key_bytes as usize;
            assert_eq!(self.find(entry.hash, self.key(entry)), Some(slot), "an entry is found under its key");
        }
        assert_eq!(self.keys.len(), key_end, "no key bytes without an entry");
    }
}

/// Grows by a quarter rather than by doubling: pages split at a fixed size, and what a page reserved beyond that
/// size would never be used.
fn make_room<T>(vec: &mut Vec<T>, additional: usize) {
    if vec.capacity() - vec.len() < additional {
        vec.reserve_exact(additional.max(vec.len() / 4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_hash_are_told_apart() {
        let mut page = Page::empty(0, 0);
        let hash = KeyHash(42);
        assert_eq!(page.insert(hash, b"a", 1, false), 0);
        assert_eq!(page.insert(hash, b"b", 2, true), 1);
        assert_eq!(page.insert(hash, b"", 3, true), 2);
        page.invariants();
        assert_eq!(page.find(hash, b"b"), Some(1));
        assert_eq!(page.find(hash, b""), Some(2));
        assert_eq!(page.find(hash, b"c"), None);
        assert_eq!(page.find(KeyHash(43), b"a"), None);
        let mut members: Vec<u32> = page.members(hash).collect();
        members.sort_unstable();
        assert_eq!(members, [1, 2]);
    }

    #[test]
    fn a_split_keeps_order_counts_and_flags() {
        let mut page = Page::empty(0, 0);
        for i in 0..1_000u64 {
            page.insert(KeyHash(mix(i)), &i.to_le_bytes(), i as i64, i % 3 == 0);
        }
        let upper = page.split(|hash| hash.0);
        assert_eq!((page.prefix(), page.depth(), page.end()), (0, 1, Some(1 << 63)));
        assert_eq!((upper.prefix(), upper.depth(), upper.end()), (1 << 63, 1, None));
        assert_eq!(page.len() + upper.len(), 1_000);
        for half in [&page, &upper] {
            half.invariants();
            let numbers: Vec<u64> =
                half.entries().map(|e| u64::from_le_bytes(half.key(e).try_into().expect("8 bytes"))).collect();
            assert!(numbers.is_sorted());
            for (number, entry) in numbers.iter().zip(half.entries()) {
                assert_eq!(entry.hash.0 >> 63, u64::from(half.prefix() != 0));
                assert_eq!((entry.count, entry.member), (*number as i64, number % 3 == 0));
            }
        }
    }
}
