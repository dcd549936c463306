//! The candidate set: which counters are the highest, exactly, at the price of one compare an increment.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi 2005) keeps a bounded set of candidates and must guess the history of a
//! newcomer. Here the table knows every count, so a newcomer enters with its true one and nothing is ever guessed:
//! the set is a materialised view with a refill from its base table (Yi et al., "Efficient Maintenance of
//! Materialized Top-k Views", ICDE 2003). It is derived from the table alone; replicas may hold different sets and
//! give equal answers.
//!
//! **Order.** Keys rank by *pair* (count, key): the higher count first, equal counts by ascending bytes. Keys are
//! distinct, so the order is total and strict, and "below" always means below in it.
//!
//! **State.**
//! - `members`: the hashes of the candidates, unordered. A member's entry in the table carries a flag. A hash is
//!   resolved among flagged entries, never by place, since a split moves entries; two members may share a hash, which
//!   is then in the list twice.
//! - `admission`, `certification`: two boundaries, each a pair or minus infinity.
//! - `certified`: a lower bound of the number of members that are not below `certification`.
//! - `rebuild`: none, or the position up to which the running rebuild has visited the table.
//!
//! **Invariants.**
//! - A: every key that is not a member is below `certification`.
//! - B: every key that is not a member, and during a rebuild lies before its cursor, is below `admission`.
//! - C: `admission` ≤ `certification`, and they are equal unless a rebuild runs. A rebuild runs only if
//!   `certification` is finite.
//!
//! By A the members that are not below `certification` are the first ones of the whole table: nothing outside the set
//! can stand among them. So if there are at least k of them, the best k *are* the answer. If `certification` is
//! minus infinity, all keys are members, and the same rule answers any k.
//!
//! **Rules, and why each keeps A, B and C.**
//! - *A count rises, or a key is born, whatever the sign of its count.* A non-member that is now not below `admission`
//!   becomes a member. So a non-member that moved is below `admission`: B; and `admission` ≤ `certification`: A. A
//!   member that rises needs nothing, since A and B speak of non-members.
//! - *A count falls.* A non-member sinks further below. A member stays one, and `certified` is lowered if
//!   it fell through `certification`, also if its rise was never counted: it is a lower bound.
//! - *Compaction*, when the set has twice its target m. If the m-th best member is not below `admission`, its pair
//!   becomes `admission`, and `certification` too if that was lower (also during a rebuild, or else the next step
//!   would drop keys that A vouches for). Then, and only then, all members below `admission` are dropped. What is
//!   dropped is below `admission` ≤ `certification`: A and B. Raising a boundary makes A and B weaker; the order of
//!   the two steps matters only for readers in between, when compaction is sliced. At least m members go, so it costs
//!   O(1) an admission.
//! - *Rebuild*, when too few members are certified. `admission` falls to minus infinity, which admits everything, and
//!   the cursor to the first position, so B says nothing; `certification` stays, so A still holds, and what it
//!   certifies can be answered meanwhile. Each step visits a page and admits what is not below `admission`;
//!   compaction raises that again as the set fills, after which nearly every visit is one failed compare. Positions
//!   never change and pages only split, so every key is on one side of the cursor for good. At the end B covers the
//!   whole table, so `certification` may become `admission`.
//! - *k beyond the set* is a rebuild with k as its target. Afterwards the target is m again, and the next compaction
//!   shrinks the set; until then such reads need no scan.
//!
//! **Counts that only rise** never need a rebuild: compaction leaves m members that are not below `certification`, none
//! of them falls, and each read of k ≤ m is answered from the set for ever.
//!
//! **Ties.** A boundary without its key would fail on a million keys of count 1: "above the boundary's count" would
//! certify nothing, "at least the boundary's count" would certify the wrong keys.

use std::cmp::Ordering;

use super::table::{Place, Table};
use crate::engine::part::PackedKeys;
use crate::ids::KeyHash;

/// The highest counters of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Top {
    /// Keys, highest count first, ties in ascending byte order.
    pub keys: PackedKeys,
    /// Their counts.
    pub counts: Vec<i64>,
    /// Whether the shard has no further keys.
    pub exhausted: bool,
}

/// A pair that other pairs are compared with; without a key it is minus infinity.
#[derive(Clone)]
struct Boundary {
    /// `i64::MIN` at minus infinity, so that no count is below it.
    count: i64,
    key: Option<Box<[u8]>>,
}

impl Boundary {
    const MINUS_INFINITY: Boundary = Boundary { count: i64::MIN, key: None };

    /// Whether the pair is below the boundary.
    fn is_above(&self, count: i64, key: &[u8]) -> bool {
        match count.cmp(&self.count) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => self.key.as_deref().is_some_and(|boundary| key > boundary),
        }
    }

    fn is_finite(&self) -> bool {
        self.key.is_some()
    }

    fn heap_bytes(&self) -> usize {
        self.key.as_ref().map_or(0, |key| key.len())
    }
}

/// A member, resolved.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    count: i64,
    place: Place,
}

/// The candidate set of one shard. All of its methods take that shard's table.
pub(super) struct CandidateSet {
    /// Members kept by a compaction, when no larger read asks for more.
    candidates: usize,
    /// Members kept by the next compaction; above `candidates` only during a rebuild for a larger read.
    target: usize,
    members: Vec<KeyHash>,
    admission: Boundary,
    certification: Boundary,
    certified: usize,
    /// First position not yet visited by the running rebuild.
    rebuild: Option<u64>,
    /// Members resolved by the last [`CandidateSet::gather`]; kept for its allocation.
    gathered: Vec<Candidate>,
}

impl CandidateSet {
    /// An empty set that certifies `candidates` keys, for an empty table.
    pub(super) fn new(candidates: usize) -> CandidateSet {
        assert!(candidates > 0, "a set of no candidates has no boundary");
        CandidateSet {
            candidates,
            target: candidates,
            members: Vec::new(),
            admission: Boundary::MINUS_INFINITY,
            certification: Boundary::MINUS_INFINITY,
            certified: 0,
            rebuild: None,
            gathered: Vec::new(),
        }
    }

    /// The count below which no key is admitted: what the hot path compares with before it calls
    /// [`CandidateSet::consider`].
    pub(super) fn admission_count(&self) -> i64 {
        self.admission.count
    }

    /// Bytes allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.members.capacity() * size_of::<KeyHash>()
            + self.gathered.capacity() * size_of::<Candidate>()
            + self.admission.heap_bytes()
            + self.certification.heap_bytes()
    }

    /// Admits a non-member that was born, has risen or is visited by a rebuild, unless it is below the boundary.
    pub(super) fn consider(&mut self, table: &mut Table, place: Place) {
        let (count, key) = (table.entry(place).count, table.key(place));
        debug_assert!(!table.entry(place).member, "only a non-member can be admitted");
        if self.admission.is_above(count, key) {
            return;
        }
        if !self.certification.is_above(count, key) {
            self.certified += 1;
        }
        let entry = table.entry_mut(place);
        entry.member = true;
        self.members.push(entry.hash);
        if self.members.len() >= self.target.saturating_mul(2) {
            self.compact(table);
        }
    }

    /// Notes that a member's count was lowered from `old`.
    pub(super) fn lowered(&mut self, table: &Table, place: Place, old: i64) {
        let (count, key) = (table.entry(place).count, table.key(place));
        if self.certification.is_above(count, key) && !self.certification.is_above(old, key) {
            self.certified = self.certified.saturating_sub(1);
        }
    }

    /// The `k` highest keys, or all if there are fewer. Scans the table if the set cannot vouch for them.
    pub(super) fn top(&mut self, table: &mut Table, k: usize) -> Top {
        let k = usize::try_from(table.len()).map_or(k, |len| k.min(len));
        // At most two rounds. A rebuild that was already running may end short of k: it aimed lower, or counts fell on
        // its way. One that runs from start to end within this call leaves at least k members, none below its boundary.
        while self.recount(table) < k {
            self.rebuild_for(table, k);
        }

        let mut best = std::mem::take(&mut self.gathered);
        if k < best.len() {
            best.select_nth_unstable_by(k, |a, b| highest_first(table, a, b));
            best.truncate(k);
        }
        best.sort_unstable_by(|a, b| highest_first(table, a, b));
        let mut top = Top { exhausted: k as u64 == table.len(), ..Top::default() };
        for candidate in &best {
            top.keys.push(table.key(candidate.place));
            top.counts.push(candidate.count);
        }
        self.gathered = best;
        top
    }

    /// One slice of background work: a page of a rebuild, if one is running or due. Returns whether there is more.
    pub(super) fn upkeep(&mut self, table: &mut Table) -> bool {
        if self.rebuild.is_none() {
            let low_water = self.candidates / 2;
            let may_be_low = self.certification.is_finite() && self.certified < low_water;
            if !may_be_low || self.recount(table) >= low_water {
                return false;
            }
            self.begin_rebuild(self.candidates);
        }
        self.rebuild_step(table);
        self.rebuild.is_some()
    }

    fn rebuild_for(&mut self, table: &mut Table, k: usize) {
        if self.rebuild.is_none() {
            self.begin_rebuild(k.max(self.candidates));
        }
        while self.rebuild.is_some() {
            self.rebuild_step(table);
        }
    }

    fn begin_rebuild(&mut self, target: usize) {
        debug_assert!(self.certification.is_finite(), "a set that holds every key needs no rebuild");
        self.target = target;
        self.admission = Boundary::MINUS_INFINITY;
        self.rebuild = Some(0);
    }

    /// Visits the page at the cursor of the running rebuild.
    fn rebuild_step(&mut self, table: &mut Table) {
        let Some(position) = self.rebuild else { return };
        for place in table.places_at(position) {
            let entry = table.entry(place);
            if entry.count >= self.admission.count && !entry.member {
                self.consider(table, place);
            }
        }
        self.rebuild = table.page_at(position).end();
        if self.rebuild.is_none() {
            self.certification = self.admission.clone();
            self.target = self.candidates;
            self.recount(table);
        }
    }

    /// Keeps the best members and drops the others, as the module's text says.
    fn compact(&mut self, table: &mut Table) {
        self.gather(table);
        let mut gathered = std::mem::take(&mut self.gathered);
        let (_, &mut last, _) = gathered.select_nth_unstable_by(self.target - 1, |a, b| highest_first(table, a, b));
        let key = table.key(last.place);
        if !self.admission.is_above(last.count, key) {
            self.admission = Boundary { count: last.count, key: Some(key.into()) };
            if !self.certification.is_above(last.count, key) {
                self.certification = self.admission.clone();
            }
        }

        self.members.clear();
        self.certified = 0;
        for candidate in gathered.drain(..) {
            let key = table.key(candidate.place);
            if self.admission.is_above(candidate.count, key) {
                table.entry_mut(candidate.place).member = false;
                continue;
            }
            if !self.certification.is_above(candidate.count, key) {
                self.certified += 1;
            }
            self.members.push(table.entry(candidate.place).hash);
        }
        // A larger read may have left room for more than the target needs.
        self.members.shrink_to(self.target.saturating_mul(2));
        gathered.shrink_to(self.target.saturating_mul(2));
        self.gathered = gathered;
    }

    /// Gathers the members that are not below `certification`, and returns how many there are.
    fn recount(&mut self, table: &Table) -> usize {
        self.gather(table);
        let certification = &self.certification;
        self.gathered.retain(|candidate| !certification.is_above(candidate.count, table.key(candidate.place)));
        self.certified = self.gathered.len();
        self.certified
    }

    /// Resolves every member, in no particular order.
    fn gather(&mut self, table: &Table) {
        let candidate = |place| Candidate { count: table.entry(place).count, place };
        let mut shared = Vec::new();
        self.gathered.clear();
        for &hash in &self.members {
            let mut places = table.members(hash);
            match (places.next(), places.next()) {
                (Some(place), None) => self.gathered.push(candidate(place)),
                _ => shared.push(hash),
            }
        }
        // A hash of n members is in the list n times; it is resolved once.
        shared.sort_unstable();
        shared.dedup();
        self.gathered.extend(shared.into_iter().flat_map(|hash| table.members(hash)).map(candidate));
        debug_assert_eq!(self.gathered.len(), self.members.len(), "every member is flagged, and nothing else");
    }

    /// Asserts the invariants of the module's text against every key of the table.
    pub(super) fn invariants(&self, table: &Table) {
        assert!(self.candidates <= self.target, "no target is below the configured one");
        match (self.rebuild, &self.certification.key) {
            (None, key) => {
                let equal = self.admission.count == self.certification.count && self.admission.key == *key;
                assert!(equal, "C: the boundaries are equal unless a rebuild runs");
                assert_eq!(self.target, self.candidates, "a larger target lasts as long as its rebuild");
            }
            (Some(_), Some(key)) => {
                let ordered = !self.admission.is_above(self.certification.count, key);
                assert!(ordered, "C: admission is not above certification");
            }
            (Some(_), None) => panic!("C: a rebuild runs only if certification is finite"),
        }

        let mut flagged = Vec::new();
        let mut certified = 0;
        let mut position = Some(0);
        while let Some(start) = position {
            let visited = self.rebuild.is_none_or(|cursor| start < cursor);
            for place in table.places_at(start) {
                let (entry, key) = (table.entry(place), table.key(place));
                let below_certification = self.certification.is_above(entry.count, key);
                if entry.member {
                    flagged.push(entry.hash);
                    certified += usize::from(!below_certification);
                } else {
                    assert!(below_certification, "A: a non-member is below certification");
                    assert!(
                        !visited || self.admission.is_above(entry.count, key),
                        "B: a visited non-member is below admission"
                    );
                }
            }
            position = table.page_at(start).end();
        }
        assert!(self.certified <= certified, "certified is a lower bound");
        let mut members = self.members.clone();
        members.sort_unstable();
        flagged.sort_unstable();
        assert_eq!(members, flagged, "the members are the flagged keys");
    }
}

/// Orders candidates as answers list them.
fn highest_first(table: &Table, a: &Candidate, b: &Candidate) -> Ordering {
    b.count.cmp(&a.count).then_with(|| table.key(a.place).cmp(table.key(b.place)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prng::{Prng, mix};

    fn add(set: &mut CandidateSet, table: &mut Table, number: u64, delta: i64) {
        let (hash, key) = (KeyHash(mix(number)), number.to_be_bytes());
        let place = match table.find(hash, &key) {
            Some(place) => {
                table.entry_mut(place).count += delta;
                place
            }
            None => table.insert(hash, &key, delta),
        };
        if !table.entry(place).member {
            set.consider(table, place);
        }
    }

    #[test]
    fn rising_counts_certify_the_target_for_ever() {
        for seed in 0..200 {
            let mut prng = Prng::new(seed);
            let target = 1 + prng.below(12) as usize;
            let keys = 1 + prng.below(100);
            let mut set = CandidateSet::new(target);
            let mut table = Table::new(KeyHash(0), KeyHash(u64::MAX), 8);
            for _ in 0..500 {
                add(&mut set, &mut table, prng.below(keys), prng.below(3) as i64);
                assert!(set.recount(&table) >= target.min(table.len() as usize), "seed {seed}");
            }
            set.invariants(&table);
        }
    }

    #[test]
    fn equal_counts_in_descending_key_order_admit_every_key_and_stay_bounded() {
        let mut set = CandidateSet::new(5);
        let mut table = Table::new(KeyHash(0), KeyHash(u64::MAX), 16);
        for number in (0..2_000).rev() {
            add(&mut set, &mut table, number, 1);
            assert!(set.members.len() < 10);
        }
        set.invariants(&table);
        let top = set.top(&mut table, 3);
        assert_eq!(top.keys.iter().collect::<Vec<_>>(), [0u64, 1, 2].map(u64::to_be_bytes));
    }

    #[test]
    fn a_larger_read_is_answered_twice_by_one_scan_and_its_set_shrinks() {
        let mut set = CandidateSet::new(4);
        let mut table = Table::new(KeyHash(0), KeyHash(u64::MAX), 16);
        for number in 0..1_000 {
            add(&mut set, &mut table, number, (number % 50) as i64);
        }
        assert!(set.recount(&table) < 100);
        let first = set.top(&mut table, 100);
        assert!(set.recount(&table) >= 100, "the larger set is still there");
        assert_eq!(set.top(&mut table, 100), first);
        add(&mut set, &mut table, 1_000, 1_000);
        assert_eq!(set.members.len(), 4, "the next admission compacts to the configured size");
        set.invariants(&table);
    }
}
