//! A scan: the counters of a shard as they were at one moment, read page by page while increments go on.
//!
//! Nothing is copied when it begins. The scan's cursor walks the pages in their order; whatever is changed *ahead* of the
//! cursor is remembered as it was (its count, or that it did not exist) before its first change, and a page that the
//! cursor reaches is shown with what is remembered put back. So memory is taken by keys that change while they wait for the
//! cursor, not by the table; past a limit the scan is lost, and says so.
//!
//! **Why it is exact.** Call a key *passed* if its place in the walk is before the cursor. Cursors are page boundaries, and a
//! page boundary stays one for ever, so a page is passed as a whole or not at all, also after it was split. For a key that is
//! not passed, at any time: if it has changed since the beginning, what it was then is remembered; if not, the table
//! has it still. Both hold at the beginning, and every batch is noted before it is applied. When the cursor reaches its page
//! the key is shown once, as it was; then it is passed, and nothing more about it matters.

use std::collections::BTreeMap;

use super::Increment;
use super::table::{Cursor, Table};
use crate::engine::part::PackedKeys;
use crate::limits::{KEY_BYTES_MAX, SCAN_CHANGES_BYTES_MAX};
use crate::mutant::mutant;

/// What a remembered key takes beside its bytes, about.
const CHANGE_BYTES: usize = 64;

/// How far a scan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// There are further pages.
    Partly,
    /// That was the last page.
    Whole,
    /// Too much has changed ahead of the cursor. The scan cannot go on.
    Lost,
}

/// A scan under way.
pub(super) struct Scan {
    /// The page that is shown next; `None` after the last.
    cursor: Option<Cursor>,
    /// What was at the beginning, of the keys ahead that have changed since. `None`: no such key.
    before: BTreeMap<Box<[u8]>, Option<i64>>,
    bytes: usize,
    bytes_max: usize,
}

impl Scan {
    /// Begins now.
    pub(super) fn begin() -> Scan {
        Scan { cursor: Some(Cursor::START), before: BTreeMap::new(), bytes: 0, bytes_max: SCAN_CHANGES_BYTES_MAX }
    }

    #[cfg(test)]
    pub(super) fn with_limit(bytes_max: usize) -> Scan {
        Scan { bytes_max, ..Scan::begin() }
    }

    /// Bytes of what is remembered.
    pub(super) fn memory_bytes(&self) -> usize {
        if self.is_lost() { 0 } else { self.bytes }
    }

    /// Takes note of increments that are about to be applied.
    pub(super) fn note(&mut self, table: &Table, batch: &[Increment<'_>]) {
        for &Increment { hash, key, .. } in batch {
            let ahead = self.cursor.is_some_and(|cursor| table.cursor_of(hash, key) >= cursor);
            if !ahead || self.is_lost() || self.before.contains_key(key) || mutant!("scan-shows-changes") {
                continue;
            }
            let count = table.find(hash, key).map(|place| table.entry(place).count);
            self.bytes += key.len() + CHANGE_BYTES;
            self.before.insert(key.into(), count);
            if self.is_lost() {
                // It is of no use any more. The bytes stay counted: they say that it is lost.
                self.before = BTreeMap::new();
            }
        }
    }

    /// Shows the next page: appends its keys and their counts, as they were at the beginning.
    pub(super) fn page(&mut self, table: &Table, keys: &mut PackedKeys, counts: &mut Vec<i64>) -> Scanned {
        let Some(cursor) = self.cursor else { return Scanned::Whole };
        if self.is_lost() {
            return Scanned::Lost;
        }
        let page = table.page_at(cursor);
        for entry in page.offsets().map(|offset| page.entry(offset)) {
            let count = match self.before.is_empty() {
                true => Some(entry.count),
                false => self.recall(entry.key).unwrap_or(Some(entry.count)),
            };
            if let Some(count) = count {
                keys.push(entry.key);
                counts.push(count);
            }
        }
        self.cursor = table.end_of(page);
        if self.cursor.is_some() { Scanned::Partly } else { Scanned::Whole }
    }

    fn recall(&mut self, key: &[u8]) -> Option<Option<i64>> {
        let count = self.before.remove(key)?;
        self.bytes -= key.len() + CHANGE_BYTES;
        Some(count)
    }

    fn is_lost(&self) -> bool {
        self.bytes > self.bytes_max
    }
}

const _: () = assert!(SCAN_CHANGES_BYTES_MAX > KEY_BYTES_MAX + CHANGE_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::counters::{Counters, Secret, Setup};
    use crate::engine::prng::Prng;
    use crate::ids::KeyHash;

    /// Keys whose hash is their first byte spread out, so that many share one, and pages become crowds.
    fn crowded(_: u64, key: &[u8]) -> KeyHash {
        KeyHash(u64::from(key[0] % 7) << 61 | u64::from(key[0] % 3))
    }

    fn increment(prng: &mut Prng, counters: &mut Counters, route: fn(u64, &[u8]) -> KeyHash, keys: u64) {
        let batch: Vec<(Vec<u8>, i64)> = (0..1 + prng.below(20))
            .map(|_| (prng.below(keys).to_le_bytes()[..3].to_vec(), prng.below(2_000) as i64 - 900))
            .collect();
        let batch: Vec<Increment<'_>> =
            batch.iter().map(|(key, delta)| Increment { hash: route(0, key), key, delta: *delta }).collect();
        counters.apply_batch(&batch, &mut Vec::new());
    }

    fn all(counters: &Counters) -> BTreeMap<Vec<u8>, i64> {
        let pages = counters.pages().flat_map(crate::engine::counters::PageView::counters);
        pages.map(|counter| (counter.key.to_vec(), counter.count)).collect()
    }

    #[test]
    fn a_scan_shows_what_was_when_it_began_whatever_happens_meanwhile() {
        for seed in 0..300 {
            let mut prng = Prng::new(seed);
            let route = if seed % 2 == 0 { KeyHash::of } else { crowded };
            let all_hashes = KeyHash(0)..=KeyHash(u64::MAX);
            let setup = Setup { secret: Secret([seed, 7]), page_keys_max: 8, ..Setup::new(all_hashes, 0, 4) };
            let mut counters = Counters::with_hash(setup, route);
            let keys = 1 + prng.below(400);
            for _ in 0..prng.below(60) {
                increment(&mut prng, &mut counters, route, keys);
            }
            let expected = all(&counters);
            counters.begin_scan();
            let (mut packed, mut counts) = (PackedKeys::default(), Vec::new());
            let busy = prng.below(4);
            loop {
                for _ in 0..prng.below(1 + 3 * busy) {
                    increment(&mut prng, &mut counters, route, 2 * keys);
                }
                match counters.scan_page(&mut packed, &mut counts) {
                    Scanned::Partly => {}
                    Scanned::Whole => break,
                    Scanned::Lost => panic!("seed {seed}: the limit is far"),
                }
            }
            let shown: BTreeMap<Vec<u8>, i64> = packed.iter().map(<[u8]>::to_vec).zip(counts).collect();
            assert_eq!((shown.len(), &shown), (packed.len(), &expected), "seed {seed}");
            let scan = counters.scan.take().expect("it is there until it is ended");
            assert_eq!((scan.bytes, scan.before.len()), (0, 0), "seed {seed}: nothing is remembered for nothing");
        }
    }

    #[test]
    fn a_scan_that_forgets_changes_is_noticed() {
        let test = a_scan_shows_what_was_when_it_began_whatever_happens_meanwhile;
        let mutant = crate::mutant::caught_here("scan-shows-changes");
        assert!(std::panic::catch_unwind(|| crate::mutant::with(mutant, test)).is_err());
    }

    #[test]
    fn a_scan_that_cannot_remember_all_changes_is_lost_and_holds_nothing() {
        let mut counters =
            Counters::new(Setup { page_keys_max: 8, ..Setup::new(KeyHash(0)..=KeyHash(u64::MAX), 0, 4) });
        let mut prng = Prng::new(1);
        for _ in 0..50 {
            increment(&mut prng, &mut counters, KeyHash::of, 1_000);
        }
        counters.scan = Some(Box::new(Scan::with_limit(1_000)));
        let (mut keys, mut counts) = (PackedKeys::default(), Vec::new());
        assert_eq!(counters.scan_page(&mut keys, &mut counts), Scanned::Partly);
        for _ in 0..20 {
            increment(&mut prng, &mut counters, KeyHash::of, 1_000);
        }
        let shown = counts.len();
        assert_eq!(counters.scan_page(&mut keys, &mut counts), Scanned::Lost);
        assert_eq!(counts.len(), shown);
        assert!(counters.scan.as_ref().is_some_and(|scan| scan.before.is_empty() && scan.memory_bytes() == 0));
        counters.end_scan();
        assert_eq!(counters.scan_page(&mut keys, &mut counts), Scanned::Lost);
    }
}
