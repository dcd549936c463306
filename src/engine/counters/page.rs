//! A page: the counters of one hash prefix, and the unit of everything that must stay short.
//!
//! ```text
//!   index    HashTable<u32>    remixed hash → slot
//!   entries  Vec<Entry>        slot → hash, count, key, member flag     48 bytes each
//! ```
//!
//! Counters are never removed, so entries are only appended to, and the order of slots is the order of insertion: the
//! same on every replica that applied the same log, whatever the index looks like.
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

/// The bytes of a key: in place if they fit beside a tag and a length in three words, which saves most keys a cache
/// miss.
enum Key {
    Inline { len: u8, bytes: [u8; KEY_BYTES_INLINE] },
    Boxed(Box<[u8]>),
}

const KEY_BYTES_INLINE: usize = 22;
const _: () = assert!(size_of::<Key>() <= 24 && size_of::<Entry>() <= 48 && size_of::<Page>() <= 80);

impl Key {
    fn new(key: &[u8]) -> Key {
        let mut bytes = [0; KEY_BYTES_INLINE];
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

/// One counter.
pub(super) struct Entry {
    /// The key's hash, kept so that a split need not compute it again.
    pub(super) hash: KeyHash,
    /// The counter.
    pub(super) count: i64,
    /// Whether the key is in the candidate set. Owned by [`super::top`].
    pub(super) member: bool,
    key: Key,
}

impl Entry {
    /// The bytes of the key.
    pub(super) fn key(&self) -> &[u8] {
        self.key.bytes()
    }
}

/// The counters whose positions begin with the `depth` top bits of `prefix`.
pub(super) struct Page {
    prefix: u64,
    depth: u32,
    index: HashTable<u32>,
    entries: Vec<Entry>,
    /// Sum of [`Key::heap_bytes`] over all entries.
    key_heap_bytes: usize,
}

impl Page {
    /// A page without counters, which has allocated nothing. Bits of `prefix` past `depth` are zero.
    pub(super) fn empty(prefix: u64, depth: u32) -> Page {
        Page { prefix, depth, index: HashTable::new(), entries: Vec::new(), key_heap_bytes: 0 }
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
        self.index.allocation_size() + self.entries.capacity() * size_of::<Entry>() + self.key_heap_bytes
    }

    /// The entry in a slot that [`Page::find`] or [`Page::insert`] named.
    pub(super) fn entry(&self, slot: u32) -> &Entry {
        &self.entries[slot as usize]
    }

    /// Like [`Page::entry`], to be changed.
    pub(super) fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.entries[slot as usize]
    }

    /// All entries, in order of insertion.
    pub(super) fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The slot of a key.
    pub(super) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<u32> {
        let same = |&slot: &u32| {
            let entry = self.entry(slot);
            entry.hash == hash && entry.key() == key
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
    pub(super) fn insert(&mut self, hash: KeyHash, key: &[u8], count: i64) -> u32 {
        self.push(Entry { hash, count, member: false, key: Key::new(key) })
    }

    fn push(&mut self, entry: Entry) -> u32 {
        let slot = u32::try_from(self.entries.len()).expect("2^32 entries of one page would be 192 GiB");
        if slot as usize == self.entries.capacity() {
            // By a quarter, not by doubling: a page splits at a fixed size, and would never use what it had reserved
            // past it.
            self.entries.reserve_exact(1 + self.entries.len() / 4);
        }
        let hash = entry.hash;
        self.key_heap_bytes += entry.key.heap_bytes();
        self.entries.push(entry);
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
        let is_upper = |entry: &Entry| position(entry.hash) & bit != 0;
        let upper_len = self.entries().filter(|entry| is_upper(entry)).count();
        let sized = |prefix, len| Page {
            prefix,
            depth,
            index: HashTable::with_capacity(len),
            entries: Vec::with_capacity(len),
            key_heap_bytes: 0,
        };
        let mut lower = sized(self.prefix, self.len() - upper_len);
        let mut upper = sized(self.prefix | bit, upper_len);
        for entry in self.entries.drain(..) {
            let half = if is_upper(&entry) { &mut upper } else { &mut lower };
            half.push(entry);
        }
        *self = lower;
        upper
    }

    /// Asserts what must hold between index and entries.
    pub(super) fn invariants(&self) {
        assert_eq!(self.index.len(), self.entries.len(), "every entry is in the index once");
        for (slot, entry) in (0..).zip(&self.entries) {
            assert_eq!(self.find(entry.hash, entry.key()), Some(slot), "an entry is found under its key");
        }
        let key_heap_bytes: usize = self.entries.iter().map(|entry| entry.key.heap_bytes()).sum();
        assert_eq!(self.key_heap_bytes, key_heap_bytes, "the sum is that of the keys");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_hash_are_told_apart() {
        let mut page = Page::empty(0, 0);
        let hash = KeyHash(42);
        let keys: Vec<Vec<u8>> = (0..60).map(|len| vec![7; len]).collect();
        for (slot, key) in (0..).zip(&keys) {
            assert_eq!(page.find(hash, key), None);
            assert_eq!(page.insert(hash, key, i64::from(slot)), slot);
            page.entry_mut(slot).member = slot % 2 == 0;
            page.invariants();
        }
        for (slot, key) in (0..).zip(&keys) {
            assert_eq!(page.find(hash, key), Some(slot));
            assert_eq!((page.entry(slot).key(), page.entry(slot).count), (key.as_slice(), i64::from(slot)));
        }
        assert_eq!(page.find(KeyHash(43), &keys[1]), None);
        let mut members: Vec<u32> = page.members(hash).collect();
        members.sort_unstable();
        assert_eq!(members, (0..60).step_by(2).collect::<Vec<u32>>());
    }

    #[test]
    fn a_split_keeps_order_counts_and_flags() {
        let mut page = Page::empty(0, 0);
        for i in 0..1_000u64 {
            let slot = page.insert(KeyHash(mix(i)), &i.to_le_bytes(), i as i64);
            page.entry_mut(slot).member = i % 3 == 0;
        }
        let upper = page.split(|hash| hash.0);
        assert_eq!((page.prefix(), page.depth(), page.end()), (0, 1, Some(1 << 63)));
        assert_eq!((upper.prefix(), upper.depth(), upper.end()), (1 << 63, 1, None));
        assert_eq!(page.len() + upper.len(), 1_000);
        for half in [&page, &upper] {
            half.invariants();
            assert!(half.entries().is_sorted_by_key(|entry| entry.count));
            for entry in half.entries() {
                assert_eq!(entry.hash.0 >> 63, u64::from(half.prefix() != 0));
                assert_eq!(entry.key(), entry.count.to_le_bytes());
                assert_eq!(entry.member, entry.count % 3 == 0);
            }
        }
    }
}
