//! Images: pages as a checkpoint holds them, and counters made of them again.
//!
//! An image is a page's place in the walk, the last log entry that had been applied to it (a), and its counters in the order in which they
//! lay. Flags of the candidate set are not in it: which keys are the highest is found out anew once all pages are there, for
//! another page may have been taken before a key rose and this one after (rule C2).
//!
//! Images are taken one by one while increments go on, so each has an a of its own. What is left of the log is therefore
//! applied with a look at [`AppliedUpTo`]: an entry is passed over by the keys of a page that is past it. Where a key belongs is
//! asked by its place in the walk and not by its page of now, so pages that split meanwhile inherit their a (rule C6).

use super::table::image::Pages;
use super::table::{Cursor, Table};
use super::{CandidateSet, Counters, Hashing, Increment, PageView, Secret, Setup};
use crate::ids::{Index, KeyHash};
use crate::mutant::mutant;

pub use super::table::image::{Extent, Proportion};

impl PageView<'_> {
    /// What the page covers of the walk.
    #[must_use]
    pub fn extent(self) -> Extent {
        self.table.extent(self.page)
    }

    /// Calls `each` for key and count of every counter, in the order in which they lie.
    pub fn for_each(self, mut each: impl FnMut(&[u8], i64)) {
        for offset in self.page.offsets() {
            let entry = self.page.entry(offset);
            each(entry.key, entry.count);
        }
    }
}

/// Up to which entry each part of a table had been applied when its image was taken.
#[derive(Debug, Default)]
pub struct AppliedUpTo {
    /// By where it begins, ascending; the first begins at the start.
    parts: Vec<(Cursor, Index)>,
}

impl AppliedUpTo {
    /// Whether every image was taken between two entries.
    #[must_use]
    pub fn lies_within(&self, first: Index, last: Index) -> bool {
        self.parts.iter().all(|(_, applied)| (first..=last).contains(applied))
    }

    fn at(&self, cursor: Cursor) -> Index {
        let after = self.parts.partition_point(|(start, _)| *start <= cursor);
        after.checked_sub(1).map_or(Index(0), |place| self.parts[place].1)
    }
}

impl Counters {
    /// Whether the image of a key's page is past an entry.
    #[must_use]
    pub fn is_past(&self, applied: &AppliedUpTo, increment: &Increment<'_>, index: Index) -> bool {
        self.page_applied(applied, increment.hash, increment.key) >= index
    }

    fn page_applied(&self, applied: &AppliedUpTo, hash: KeyHash, key: &[u8]) -> Index {
        applied.at(self.table.cursor_of(hash, key))
    }

    /// What tells the keys of crowds apart, and orders their pages.
    #[must_use]
    pub fn secret(&self) -> Secret {
        self.table.hashing().secret()
    }

    /// Number of pages.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.table.page_count()
    }
}

/// Counters in the making.
pub struct Restoring {
    setup: Setup,
    pages: Pages,
    applied: AppliedUpTo,
}

impl Restoring {
    /// No images yet. The secret of `setup` is the one that the pages were ordered by.
    #[must_use]
    pub fn new(setup: Setup) -> Restoring {
        let hashing = Hashing::new(&setup.hashes, setup.routing_seed, setup.secret, KeyHash::of);
        let pages = Pages::new(hashing, setup.pool.clone(), setup.page_keys_max);
        Restoring { setup, pages, applied: AppliedUpTo::default() }
    }

    /// Adds the next image in the order of the walk, of `keys` counters.
    ///
    /// # Errors
    /// It is not the next one, or not of such a page.
    pub fn page<'a>(
        &mut self,
        extent: Extent,
        applied: Index,
        keys: usize,
        counters: impl Iterator<Item = (&'a [u8], i64)>,
    ) -> Result<(), &'static str> {
        let start = self.pages.push(extent, applied, keys, counters)?;
        self.applied.parts.push((start, applied));
        Ok(())
    }

    /// The counters, with what to look at while the rest of the log is applied.
    ///
    /// # Errors
    /// The images do not make up a table.
    pub fn finish(self) -> Result<(Counters, AppliedUpTo), &'static str> {
        let mut table = self.pages.finish()?;
        let candidates = candidates_of(&mut table, &self.setup);
        Ok((Counters { table, candidates, scan: None }, self.applied))
    }
}

/// The candidate set of a table without flags. Whatever is left out on the way is below the boundary of that moment, and the boundary
/// only rises, so at the end of the walk it stands above all that is not in the set; before that nothing is read.
fn candidates_of(table: &mut Table, setup: &Setup) -> CandidateSet {
    let mut set = CandidateSet::new(setup.candidates, setup.top_slice_members);
    let mut cursor = Some(Cursor::START);
    let mut found = Vec::new();
    while let Some(at) = cursor {
        let admitted = table.places_at(at).filter(|(_, entry)| set.may_admit(entry.count, entry.key));
        found.extend(admitted.map(|(place, _)| place));
        for place in found.drain(..) {
            let entry = table.entry(place);
            if set.may_admit(entry.count, entry.key) {
                set.consider(table, place);
            }
        }
        cursor = table.end_of(table.page_at(at)).filter(|_| !mutant!("candidates-of-some-pages"));
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::counters::{Outcome, PageCursor, Pool, Secret};
    use crate::engine::prng::Prng;
    use crate::mutant;

    struct Image {
        extent: Extent,
        applied: Index,
        counters: Vec<(Vec<u8>, i64)>,
    }

    fn take(page: PageView<'_>, applied: Index) -> Image {
        let mut counters = Vec::new();
        page.for_each(|key, count| counters.push((key.to_vec(), count)));
        Image { extent: page.extent(), applied, counters }
    }

    fn setup(keys_max: usize) -> Setup {
        let hashes = KeyHash(0)..=KeyHash(u64::MAX);
        Setup { page_keys_max: keys_max, secret: Secret([3, 4]), pool: Pool::default(), ..Setup::new(hashes, 9, 4) }
    }

    fn restored(images: &[Image], keys_max: usize) -> Result<(Counters, AppliedUpTo), &'static str> {
        let mut restoring = Restoring::new(setup(keys_max));
        for image in images {
            let counters = image.counters.iter().map(|(key, count)| (&key[..], *count));
            restoring.page(image.extent, image.applied, image.counters.len(), counters)?;
        }
        restoring.finish()
    }

    /// A history of single increments, by index from 1 on.
    fn history(seed: u64, keys: u64, entries: u64) -> Vec<(Vec<u8>, i64)> {
        let mut prng = Prng::new(seed);
        (0..entries)
            .map(|_| {
                let delta = match prng.below(12) {
                    0 => i64::MAX - prng.below(3) as i64,
                    1 => i64::MIN,
                    _ => prng.below(600) as i64 - 200,
                };
                (format!("key {}", prng.below(keys)).into_bytes(), delta)
            })
            .collect()
    }

    fn apply(
        counters: &mut Counters,
        index: u64,
        (key, delta): &(Vec<u8>, i64),
        up_to: Option<&AppliedUpTo>,
    ) -> Outcome {
        let increment = Increment { hash: KeyHash::of(9, key), key, delta: *delta };
        if up_to.is_some_and(|up_to| counters.is_past(up_to, &increment, Index(index))) {
            return Outcome::Applied(0);
        }
        let mut outcomes = Vec::new();
        counters.set_applying(Index(index));
        counters.apply_batch(&[increment], &mut outcomes);
        outcomes[0]
    }

    /// The proof in `engine::checkpoint`, tried out: images taken between increments, the rest of the log applied over them.
    #[test]
    fn images_taken_on_the_way_and_the_rest_of_the_log_make_the_same_counters() {
        for seed in 0..150 {
            let mut prng = Prng::new(seed);
            let (keys, keys_max) = (1 + prng.below(200), 1 + prng.below(6) as usize);
            let history = history(seed, keys, 600);
            let (start, pace) = (prng.below(400), 1 + prng.below(4));
            let mut live = Counters::new(setup(keys_max));
            let mut images = Vec::new();
            let mut cursor = Some(PageCursor::START);
            for (index, entry) in (1..).zip(&history) {
                apply(&mut live, index, entry, None);
                if let Some(at) = cursor.filter(|_| index > start && index % pace == 0) {
                    let page = live.page(at);
                    images.push(take(page, Index(index)));
                    cursor = page.next();
                }
            }
            if cursor.is_some() {
                continue;
            }
            let (mut again, up_to) = restored(&images, keys_max).expect("the images of a walk tile the table");
            again.candidates.invariants(&again.table);
            for (index, entry) in (1..).zip(&history).skip(start as usize) {
                apply(&mut again, index, entry, Some(&up_to));
            }
            assert_eq!(again.digest(), live.digest(), "seed {seed}");
            again.invariants();
            assert_eq!(again.top(10), live.top(10), "seed {seed}");
        }
    }

    /// C2: a key that rose before its own page was taken and after another's is among the highest all the same.
    #[test]
    fn the_highest_keys_are_found_anew() {
        let mut live = Counters::new(setup(4));
        let history: Vec<_> = (0..200u64).map(|number| (number.to_be_bytes().to_vec(), number as i64)).collect();
        for (index, entry) in (1..).zip(&history) {
            apply(&mut live, index, entry, None);
        }
        let mut images: Vec<Image> = live.pages().map(|page| take(page, Index(200))).collect();
        let last = images.last_mut().expect("there are pages");
        last.applied = Index(201);
        last.counters[0].1 += 1_000_000;
        let risen = last.counters[0].0.clone();
        let (mut again, up_to) = restored(&images, 4).expect("whole");
        assert_eq!(apply(&mut again, 201, &(risen.clone(), 1_000_000), Some(&up_to)), Outcome::Applied(0));
        assert_eq!(again.top(1).keys.key(0), risen);
        again.invariants();
        let mutant = mutant::caught_here("candidates-of-some-pages");
        let (mut wrong, _) = mutant::with(mutant, || restored(&images, 4)).expect("whole");
        assert_ne!(wrong.top(1).keys.key(0), risen, "the test notices the bug");
    }

    /// C6: what does not tile the table exactly once is refused.
    #[test]
    fn a_missing_a_repeated_and_a_misplaced_page_are_refused() {
        let mut live = Counters::new(setup(3));
        for (index, entry) in (1..).zip(&history(5, 100, 300)) {
            apply(&mut live, index, entry, None);
        }
        let images = || live.pages().map(|page| take(page, Index(300))).collect::<Vec<_>>();
        let count = images().len();
        assert!(count > 20 && restored(&images(), 3).is_ok());
        for place in 0..count {
            let mut missing = images();
            missing.remove(place);
            assert!(restored(&missing, 3).is_err(), "without page {place}");
            let mut repeated = images();
            repeated.insert(place, take(live.pages().nth(place).expect("a page"), Index(300)));
            assert!(restored(&repeated, 3).is_err(), "page {place} twice");
            let mut moved = images();
            if let Some(counter) = moved[place].counters.pop() {
                moved[(place + 1) % count].counters.push(counter);
                assert!(restored(&moved, 3).is_err(), "a counter of page {place} in another");
            }
        }
        let mut twice = images();
        let full = twice.iter().position(|image| (1..3).contains(&image.counters.len())).expect("a page with room");
        let again = twice[full].counters[0].clone();
        twice[full].counters.push(again);
        assert!(restored(&twice, 3).is_err());
    }

    #[test]
    fn pages_of_crowds_come_back() {
        let same = |_: u64, _: &[u8]| KeyHash(5);
        let mut live = Counters::with_hash(setup(3), same);
        let key = |number: u64| number.to_be_bytes();
        let mut outcomes = Vec::new();
        for number in 0..200 {
            live.apply_batch(&[Increment { hash: KeyHash(5), key: &key(number), delta: 1 }], &mut outcomes);
        }
        let hashing = Hashing::new(&(KeyHash(0)..=KeyHash(u64::MAX)), 9, Secret([3, 4]), same);
        let mut pages = Pages::new(hashing, Pool::default(), 3);
        for page in live.pages() {
            let image = take(page, Index(1));
            let counters = image.counters.iter().map(|(key, count)| (&key[..], *count));
            pages.push(image.extent, image.applied, image.counters.len(), counters).expect("the next page");
        }
        let table = pages.finish().expect("whole");
        table.invariants();
        assert_eq!(table.len(), 200);
    }

    #[test]
    fn directories_out_of_proportion_are_refused() {
        // Each page is half of what is left, so few pages have a deep directory.
        let image = |position, depth| Image {
            extent: Extent { position, depth, second: None },
            applied: Index(1),
            counters: Vec::new(),
        };
        let chain = |deepest: u32| {
            let halves = (1..=deepest).rev().map(|depth| image(1 << (u64::BITS - depth), depth));
            std::iter::once(image(0, deepest)).chain(halves).collect::<Vec<Image>>()
        };
        assert!(restored(&chain(3), 3).is_ok());
        assert!(restored(&chain(60), 3).is_err());
    }

    /// Each crowd by itself is cut as finely as all pages would allow; together they would ask for memory out of any proportion.
    #[test]
    fn many_deep_crowds_are_refused() {
        const PREFIXES: u32 = 64;
        for (crowds, deepest, fine) in [(1, 20, true), (2, 20, false), (PREFIXES, 20, false), (PREFIXES, 10, true)] {
            let extents = (0..PREFIXES).flat_map(|number| {
                let position = u64::from(number) << (u64::BITS - PREFIXES.ilog2());
                let halves = (1..=deepest).rev().map(|depth| Some((1 << (u64::BITS - depth), depth)));
                let crowd: Vec<_> = std::iter::once(Some((0, deepest))).chain(halves).collect();
                let seconds = if number < crowds { crowd } else { vec![None] };
                seconds.into_iter().map(move |second| Extent { position, depth: PREFIXES.ilog2(), second })
            });
            let mut proportion = Proportion::default();
            let mut restoring = Restoring::new(setup(3));
            for extent in extents {
                proportion.note(extent);
                restoring.page(extent, Index(1), 0, std::iter::empty()).expect("the next page");
            }
            assert_eq!((proportion.holds(), restoring.finish().is_ok()), (fine, fine), "{crowds} crowds of {deepest}");
        }
        let mut proportion = Proportion::default();
        proportion.note(Extent { position: 0, depth: 0, second: Some((0, u64::BITS)) });
        assert!(!proportion.holds(), "no directory is that deep");
    }
}
