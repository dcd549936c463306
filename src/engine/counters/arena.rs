//! The arena of a page: its counters, packed into blocks. What each byte is for:
//!
//! ```text
//!   offset    16 bits: the block's number in the page (6), the place in the block (10)
//!   block     entries one after another; none crosses the end; the rest begins with a gap
//!
//!   entry     ┌────────┬──────────┬─────────────────┬────────────────────┐
//!             │ header │ (length) │ count           │ key                │
//!             │ 1      │ 0 or 1   │ 1, 2, 4 or 8    │ its bytes, or 2    │
//!             └────────┴──────────┴─────────────────┴────────────────────┘
//!   header    bit 7      the key is in the candidate set
//!             bits 6–5   the count is 1 << n bytes wide, in two's complement, little-endian
//!             bits 4–0   1 to 30: the length of the key
//!                        31: the next byte is the length, or 255: the key is out of line, and the
//!                            two bytes in its place are its number in `long`
//!                        0: not an entry but a gap, and the next byte says how long;
//!                           0 or the block's end: up to the end of the block
//! ```
//!
//! A 16-byte key with a count below 128 takes 18 bytes; 56 of them and a gap of 16 bytes fill a block.
//!
//! **Growing.** Entries are only appended. A count that outgrows its width is appended again, wider, and leaves a gap;
//! when gaps make up an eighth, the page packs its entries anew, and counts become narrower again if they may. That, and
//! a split, are the only times that entries move.
//!
//! **Order.** A walk shows entries as they lie, which depends on the history of the page alone.

use super::pool::{Block, Pool};
use crate::limits::{BLOCK_BYTES, KEY_INLINE_BYTES_MAX, PAGE_BLOCKS_MAX};

const MEMBER: u8 = 0x80;
const WIDTH_SHIFT: u32 = 5;
const LENGTH_MASK: u8 = 0x1f;
/// Value of the header's length bits if a length byte follows.
const LENGTH_FOLLOWS: u8 = 0x1f;
/// Value of the length byte if the key is out of line.
const OUT_OF_LINE: u8 = 0xff;
/// Bytes that are copied at once from one arena to another.
const COPY_BYTES: usize = 32;
/// Bytes of the number of a key that is out of line.
const NUMBER_BYTES: usize = 2;

const PLACE_BITS: u32 = BLOCK_BYTES.ilog2();
const _: () = {
    assert!(BLOCK_BYTES.is_power_of_two() && PAGE_BLOCKS_MAX << PLACE_BITS <= 1 << u16::BITS);
    // A gap's length is one byte, and so is that of a key.
    assert!(2 + 8 + KEY_INLINE_BYTES_MAX <= u8::MAX as usize && KEY_INLINE_BYTES_MAX < OUT_OF_LINE as usize);
};

/// A counter, as it lies in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) count: i64,
    /// Whether the key is in the candidate set. Owned by [`super::top`].
    pub(super) member: bool,
    pub(super) key: &'a [u8],
}

/// What became of [`Arena::add`], with the counts before and after, and whether the key is in the candidate set.
pub(super) enum Added {
    Done {
        old: i64,
        new: i64,
        member: bool,
    },
    /// Nothing was changed: the sum does not fit where the count is.
    Wider {
        old: i64,
        new: i64,
        member: bool,
    },
    /// Nothing was changed: the sum is no signed 64-bit integer.
    Overflow,
}

/// Where the parts of an entry are in its block.
struct Layout {
    count: usize,
    key: usize,
    key_bytes: usize,
    out_of_line: bool,
}

impl Layout {
    /// The layout of the entry at a place of a block.
    #[inline]
    fn at(block: &[u8; BLOCK_BYTES], place: usize) -> Layout {
        let header = block[place];
        let width = width(header);
        let length = header & LENGTH_MASK;
        if length != LENGTH_FOLLOWS {
            let count = place + 1;
            return Layout { count, key: count + width, key_bytes: usize::from(length), out_of_line: false };
        }
        let (count, length) = (place + 2, block[place + 1]);
        let out_of_line = length == OUT_OF_LINE;
        let key_bytes = if out_of_line { NUMBER_BYTES } else { usize::from(length) };
        Layout { count, key: count + width, key_bytes, out_of_line }
    }

    fn end(&self) -> usize {
        self.key + self.key_bytes
    }
}

fn width(header: u8) -> usize {
    1 << (header >> WIDTH_SHIFT & 3)
}

/// The width bits of a header for a count.
#[inline]
fn width_bits(count: i64) -> u8 {
    let bits = match count {
        -0x80..=0x7f => 0,
        -0x8000..=0x7fff => 1,
        -0x8000_0000..=0x7fff_ffff => 2,
        _ => 3,
    };
    bits << WIDTH_SHIFT
}

#[inline]
fn read_count(bytes: &[u8]) -> i64 {
    match *bytes {
        [a] => i64::from(a as i8),
        [a, b] => i64::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => unreachable!("counts have four widths"),
    }
}

/// A key as an entry holds it.
enum Stored<'a> {
    Inline(&'a [u8]),
    OutOfLine(u16),
}

/// The packed counters of one page. Its blocks must go back to their pool: [`Arena::release`].
#[derive(Default)]
pub(super) struct Arena {
    blocks: Vec<Block>,
    /// Bytes used of the last block.
    fill: u16,
    /// Bytes in the gaps that outgrown counts have left.
    gaps: u32,
    /// The keys that are out of line.
    long: Vec<Box<[u8]>>,
    long_bytes: usize,
}

impl Arena {
    /// Gives all blocks back, and leaves the arena empty.
    pub(super) fn release(&mut self, pool: &Pool) {
        pool.give_back(self.blocks.drain(..));
        *self = Arena::default();
    }

    /// Bytes held, without the arena itself.
    pub(super) fn heap_bytes(&self) -> usize {
        self.blocks.len() * BLOCK_BYTES
            + self.blocks.capacity() * size_of::<Block>()
            + self.long.capacity() * size_of::<Box<[u8]>>()
            + self.long_bytes
    }

    /// Whether enough of the arena is gaps for packing it anew.
    pub(super) fn is_worn(&self) -> bool {
        self.gaps as usize * 8 > self.blocks.len() * BLOCK_BYTES
    }

    /// The entry at an offset that [`Arena::push`], [`Arena::widen`] or [`Arena::offsets`] named.
    #[inline]
    pub(super) fn entry(&self, offset: u16) -> Entry<'_> {
        let (block, place) = self.at(offset);
        let layout = Layout::at(block, place);
        let mut key = &block[layout.key..layout.end()];
        if layout.out_of_line {
            key = &self.long[usize::from(number(key))];
        }
        let count = read_count(&block[layout.count..layout.key]);
        Entry { count, member: block[place] & MEMBER != 0, key }
    }

    /// Whether the entry at an offset is that of a key.
    #[inline]
    pub(super) fn is_of(&self, offset: u16, key: &[u8]) -> bool {
        let (block, place) = self.at(offset);
        let header = block[place];
        let length = usize::from(header & LENGTH_MASK);
        if length == usize::from(LENGTH_FOLLOWS) {
            return self.entry(offset).key == key;
        }
        let start = place + 1 + width(header);
        length == key.len() && block[start..start + length] == *key
    }

    /// Some bytes of the entry at an offset, so that the processor fetches it; any offset will do.
    #[inline]
    pub(super) fn touch(&self, offset: u16) -> u8 {
        let Some(block) = self.blocks.get(usize::from(offset >> PLACE_BITS)) else { return 0 };
        let place = usize::from(offset) % BLOCK_BYTES;
        // Most entries are short: where they end may be the next cache line.
        block[place] ^ block[(place + 17) % BLOCK_BYTES]
    }

    /// About where the next entry will be.
    #[inline]
    pub(super) fn end(&self) -> u16 {
        (self.blocks.len().wrapping_sub(1) << PLACE_BITS) as u16 | (self.fill % BLOCK_BYTES as u16)
    }

    /// Marks the key of an entry as in the candidate set, or not.
    pub(super) fn set_member(&mut self, offset: u16, member: bool) {
        let (block, place) = self.at_mut(offset);
        block[place] = block[place] & !MEMBER | if member { MEMBER } else { 0 };
    }

    /// Adds to the count of an entry, if it is its key's and the sum fits where it is.
    #[inline]
    pub(super) fn add(&mut self, offset: u16, delta: i64) -> Added {
        let (block, place) = self.at_mut(offset);
        let Layout { count: from, key: to, .. } = Layout::at(block, place);
        let member = block[place] & MEMBER != 0;
        let count = &mut block[from..to];
        let old = read_count(count);
        let Some(new) = old.checked_add(delta) else { return Added::Overflow };
        if width(width_bits(new)) > count.len() {
            return Added::Wider { old, new, member };
        }
        copy_short(count, new.to_le_bytes());
        Added::Done { old, new, member }
    }

    /// Appends an entry; `None` if that would take a block too many.
    pub(super) fn push(&mut self, pool: &Pool, entry: Entry<'_>) -> Option<u16> {
        if (1..=KEY_INLINE_BYTES_MAX).contains(&entry.key.len()) {
            return self.append(pool, &Stored::Inline(entry.key), entry.count, entry.member);
        }
        let number = u16::try_from(self.long.len()).expect("a page has fewer entries than offsets");
        let offset = self.append(pool, &Stored::OutOfLine(number), entry.count, entry.member)?;
        self.long_bytes += entry.key.len();
        self.long.push(entry.key.into());
        Some(offset)
    }

    /// Appends the entry at an offset once more, with another count, and leaves a gap in its old place. `None`, and
    /// nothing has happened, if that would take a block too many.
    pub(super) fn widen(&mut self, pool: &Pool, offset: u16, count: i64) -> Option<u16> {
        let (block, place) = self.at(offset);
        let layout = Layout::at(block, place);
        let member = block[place] & MEMBER != 0;
        let mut copy = [0; KEY_INLINE_BYTES_MAX];
        let copy = &mut copy[..layout.key_bytes];
        copy.copy_from_slice(&block[layout.key..layout.end()]);
        let stored = if layout.out_of_line { Stored::OutOfLine(number(copy)) } else { Stored::Inline(copy) };
        let new = self.append(pool, &stored, count, member)?;
        let bytes = layout.end() - place;
        let (block, place) = self.at_mut(offset);
        block[place..place + 2].copy_from_slice(&[0, bytes as u8]);
        self.gaps += bytes as u32;
        Some(new)
    }

    fn append(&mut self, pool: &Pool, key: &Stored<'_>, count: i64, member: bool) -> Option<u16> {
        let mut head = [width_bits(count) | if member { MEMBER } else { 0 }, 0];
        let number;
        let (head_bytes, key) = match *key {
            Stored::Inline(key) if key.len() < usize::from(LENGTH_FOLLOWS) => {
                head[0] |= key.len() as u8;
                (1, key)
            }
            Stored::Inline(key) => {
                head = [head[0] | LENGTH_FOLLOWS, key.len() as u8];
                (2, key)
            }
            Stored::OutOfLine(value) => {
                head = [head[0] | LENGTH_FOLLOWS, OUT_OF_LINE];
                number = value.to_le_bytes();
                (2, number.as_slice())
            }
        };
        let count_bytes = width(head[0]);
        let bytes = head_bytes + count_bytes + key.len();
        if self.blocks.is_empty() || usize::from(self.fill) + bytes > BLOCK_BYTES {
            self.begin_block(pool)?;
        }
        let place = usize::from(self.fill);
        let number = self.blocks.len() - 1;
        let (start, rest) = self.blocks[number][place..place + bytes].split_at_mut(head_bytes);
        copy_short(start, head);
        let (start, rest) = rest.split_at_mut(count_bytes);
        copy_short(start, count.to_le_bytes());
        rest.copy_from_slice(key);
        self.fill += bytes as u16;
        Some((number << PLACE_BITS | place) as u16)
    }

    /// Appends the entry at an offset of another arena as it lies there; `None` if that would take a block too many.
    #[inline]
    pub(super) fn copy(&mut self, pool: &Pool, from: &Arena, offset: u16) -> Option<u16> {
        let (source, start) = from.at(offset);
        let layout = Layout::at(source, start);
        let bytes = layout.end() - start;
        if layout.out_of_line {
            return self.push(pool, from.entry(offset));
        }
        if self.blocks.is_empty() || usize::from(self.fill) + bytes > BLOCK_BYTES {
            self.begin_block(pool)?;
        }
        let place = usize::from(self.fill);
        let number = self.blocks.len() - 1;
        let block = &mut *self.blocks[number];
        // Most entries are short, and a copy of a fixed size takes no call. What follows is overwritten, or never read.
        match (block[place..].first_chunk_mut::<COPY_BYTES>(), source[start..].first_chunk::<COPY_BYTES>()) {
            (Some(to), Some(from)) if bytes <= COPY_BYTES => *to = *from,
            _ => block[place..place + bytes].copy_from_slice(&source[start..start + bytes]),
        }
        self.fill += bytes as u16;
        Some((number << PLACE_BITS | place) as u16)
    }

    fn begin_block(&mut self, pool: &Pool) -> Option<()> {
        if self.blocks.len() == PAGE_BLOCKS_MAX {
            return None;
        }
        if let Some(last) = self.blocks.last_mut() {
            // A gap up to the end.
            last[usize::from(self.fill)..].iter_mut().take(2).for_each(|byte| *byte = 0);
        }
        if self.blocks.len() == self.blocks.capacity() {
            // Not by doubling: a page ends at a fixed number.
            self.blocks.reserve_exact(1 + self.blocks.len() / 4);
        }
        self.blocks.push(pool.take());
        self.fill = 0;
        Some(())
    }

    /// The offsets of all entries, as they lie.
    pub(super) fn offsets(&self) -> Offsets<'_> {
        Offsets { arena: self, block: 0, place: 0 }
    }

    fn at(&self, offset: u16) -> (&[u8; BLOCK_BYTES], usize) {
        (self.blocks[usize::from(offset >> PLACE_BITS)], usize::from(offset) % BLOCK_BYTES)
    }

    fn at_mut(&mut self, offset: u16) -> (&mut [u8; BLOCK_BYTES], usize) {
        (self.blocks[usize::from(offset >> PLACE_BITS)], usize::from(offset) % BLOCK_BYTES)
    }

    /// Asserts that the sums are those of the entries.
    pub(super) fn invariants(&self) {
        let long = self.offsets().filter(|&offset| {
            let (block, place) = self.at(offset);
            Layout::at(block, place).out_of_line
        });
        assert_eq!(long.count(), self.long.len(), "a key out of line belongs to one entry");
        assert_eq!(self.long.iter().map(|key| key.len()).sum::<usize>(), self.long_bytes);
        assert!(self.blocks.len() <= PAGE_BLOCKS_MAX, "offsets reach every block");
    }
}

/// Fills a few bytes, most often one, with the first of others.
#[inline]
fn copy_short<const N: usize>(to: &mut [u8], from: [u8; N]) {
    match to {
        [one] => *one = from[0],
        more => more.copy_from_slice(&from[..more.len()]),
    }
}

/// The number of a key that is out of line.
fn number(bytes: &[u8]) -> u16 {
    bytes.try_into().map(u16::from_le_bytes).expect("a number has two bytes")
}

/// See [`Arena::offsets`].
#[derive(Clone)]
pub(super) struct Offsets<'a> {
    arena: &'a Arena,
    block: usize,
    place: usize,
}

impl Iterator for Offsets<'_> {
    type Item = u16;

    #[inline]
    fn next(&mut self) -> Option<u16> {
        loop {
            let block = self.arena.blocks.get(self.block)?;
            let is_last = self.block + 1 == self.arena.blocks.len();
            let end = if is_last { usize::from(self.arena.fill) } else { BLOCK_BYTES };
            if self.place >= end {
                (self.block, self.place) = (self.block + 1, 0);
                continue;
            }
            if block[self.place] & LENGTH_MASK == 0 {
                match block.get(self.place + 1) {
                    None | Some(0) => self.place = BLOCK_BYTES,
                    Some(&bytes) => self.place += usize::from(bytes),
                }
                continue;
            }
            let offset = (self.block << PLACE_BITS | self.place) as u16;
            self.place = Layout::at(block, self.place).end();
            return Some(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prng::Prng;

    const COUNTS: [i64; 14] = [
        0,
        -1,
        i8::MAX as i64,
        i8::MIN as i64,
        i8::MAX as i64 + 1,
        i8::MIN as i64 - 1,
        i16::MAX as i64,
        i16::MIN as i64,
        i16::MIN as i64 - 1,
        i32::MAX as i64,
        i32::MIN as i64,
        i32::MAX as i64 + 1,
        i64::MAX,
        i64::MIN,
    ];

    fn key(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + len) as u8).collect()
    }

    #[test]
    fn entries_of_every_length_and_width_come_back() {
        let pool = Pool::heap();
        for len in (0..=KEY_INLINE_BYTES_MAX + 2).chain([1_024]) {
            let mut arena = Arena::default();
            let key = key(len);
            let entries: Vec<Entry<'_>> =
                COUNTS.iter().map(|&count| Entry { count, member: count % 3 == 0, key: &key }).collect();
            let offsets: Vec<u16> =
                entries.iter().map(|&entry| arena.push(&pool, entry).expect("there is room")).collect();
            assert_eq!(arena.offsets().collect::<Vec<_>>(), offsets);
            for (&offset, &entry) in offsets.iter().zip(&entries) {
                assert_eq!(arena.entry(offset), entry);
                assert!(arena.is_of(offset, &key) && !arena.is_of(offset, &[&key[..], b"more"].concat()));
                arena.set_member(offset, !entry.member);
                assert_eq!(arena.entry(offset), Entry { member: !entry.member, ..entry });
            }
            arena.invariants();
            arena.release(&pool);
        }
    }

    #[test]
    fn a_count_that_outgrows_its_width_moves_and_leaves_a_gap() {
        let pool = Pool::heap();
        for len in [1, 2, 16, 30, 31, KEY_INLINE_BYTES_MAX, KEY_INLINE_BYTES_MAX + 1] {
            let mut arena = Arena::default();
            let mut expected: Vec<(u16, i64)> = Vec::new();
            let mut prng = Prng::new(len as u64);
            for _ in 0..200 {
                let entry = Entry { count: 0, member: false, key: &key(len) };
                expected.push((arena.push(&pool, entry).expect("there is room"), 0));
            }
            for _ in 0..300 {
                let at = prng.below(200) as usize;
                let count = COUNTS[prng.below(COUNTS.len() as u64) as usize];
                let before = expected[at].0;
                let sum = expected[at].1.checked_add(count);
                match arena.add(before, count) {
                    Added::Done { old, new, .. } => assert_eq!((old, Some(new)), (expected[at].1, sum)),
                    Added::Wider { old, new, .. } => {
                        assert_eq!((old, Some(new)), (expected[at].1, sum));
                        expected[at].0 = arena.widen(&pool, before, new).expect("there is room");
                        assert_ne!(expected[at].0, before);
                    }
                    Added::Overflow => assert_eq!(sum, None),
                }
                expected[at].1 = sum.unwrap_or(expected[at].1);
            }
            for &(offset, count) in &expected {
                assert_eq!(arena.entry(offset), Entry { count, member: false, key: &key(len) });
            }
            let mut offsets: Vec<u16> = expected.iter().map(|(offset, _)| *offset).collect();
            offsets.sort_unstable();
            assert_eq!(arena.offsets().collect::<Vec<_>>(), offsets);
            assert!(arena.gaps > 0);
            arena.invariants();
            arena.release(&pool);
        }
    }

    #[test]
    fn a_copy_holds_what_the_original_does() {
        let pool = Pool::heap();
        let (mut arena, mut copy) = (Arena::default(), Arena::default());
        let keys: Vec<Vec<u8>> =
            (1..=KEY_INLINE_BYTES_MAX + 2).chain((0..600).map(|number| 1 + number % 40)).map(key).collect();
        let entries = keys.iter().zip(COUNTS.iter().cycle());
        for (number, (key, &count)) in entries.enumerate() {
            arena.push(&pool, Entry { count, member: number % 5 == 0, key }).expect("there is room");
        }
        // Not the first ones, so that every entry lies elsewhere.
        let offsets: Vec<u16> = arena.offsets().skip(3).collect();
        let copies: Vec<u16> =
            offsets.iter().map(|&offset| copy.copy(&pool, &arena, offset).expect("there is room")).collect();
        assert_eq!(copy.offsets().collect::<Vec<_>>(), copies);
        assert!(offsets.iter().zip(&copies).all(|(&offset, &twin)| arena.entry(offset) == copy.entry(twin)));
        copy.invariants();
        arena.release(&pool);
        copy.release(&pool);
    }

    #[test]
    fn a_full_arena_refuses_and_changes_nothing() {
        let pool = Pool::heap();
        let mut arena = Arena::default();
        let entry = Entry { count: 5, member: true, key: &key(16) };
        let mut pushed = 0;
        while arena.push(&pool, entry).is_some() {
            pushed += 1;
        }
        assert_eq!(pushed, PAGE_BLOCKS_MAX * (BLOCK_BYTES / 18));
        let offset = arena.offsets().last().expect("it is full");
        assert!(matches!(arena.add(offset, 1 << 40), Added::Wider { old: 5, member: true, .. }));
        assert_eq!(arena.widen(&pool, offset, 1 << 40), None);
        assert_eq!(arena.entry(offset), entry);
        assert_eq!(arena.offsets().count(), pushed);
        arena.release(&pool);
        assert_eq!((arena.offsets().count(), arena.heap_bytes()), (0, 0));
    }
}
