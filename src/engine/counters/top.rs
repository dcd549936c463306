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
//! - `members`: the candidates, unordered. A member's entry in the table carries a flag. A member is named by its two hashes
//!   and resolved among flagged entries, never by place, since places change with widening, packing and splits; members
//!   may share their hashes, which are then in the list as often.
//! - `admission`, `certification`: two boundaries, each a pair or minus infinity.
//! - `certified`: a lower bound of the number of members that are not below `certification`.
//! - `rebuild`: none, or the cursor up to which the running rebuild has visited the table.
//! - `head`: none, or some members with a boundary of their own: what the last read found near the top.
//!
//! **Invariants.**
//! - A: every key that is not a member is below `certification`.
//! - B: every key that is not a member, and during a rebuild lies before its cursor, is below `admission`.
//! - C: `admission` ≤ `certification`, and they are equal unless a rebuild runs. A rebuild runs only if
//!   `certification` is finite.
//! - D: every member that is not in the head is below the head's boundary.
//!
//! By A the members that are not below `certification` are the first ones of the whole table: nothing outside the set
//! can stand among them. So if there are at least k of them, the best k *are* the answer. If `certification` is
//! minus infinity, all keys are members, and the same rule answers any k.
//!
//! **Rules, and why each keeps A to D.**
//! - *A count rises, or a key is born, whatever the sign of its count.* A non-member that is now not below `admission`
//!   becomes a member. So a non-member that moved is below `admission`: B; and `admission` ≤ `certification`: A. A
//!   member that rises needs nothing, since A and B speak of non-members. If the newcomer is not below the head's boundary, or
//!   the member has risen through it, it enters the head: D.
//! - *A count falls.* A non-member sinks further below. A member stays one, and `certified` is lowered if
//!   it fell through `certification`, also if its rise was never counted: it is a lower bound. What falls in the head stays there,
//!   or below it: D.
//! - *Compaction*, when the set has twice its target m. If the m-th best member is not below `admission`, its pair
//!   becomes `admission`, and `certification` too if that was lower (also during a rebuild, or else the next step
//!   would drop keys that A vouches for). Then, and only then, all members below `admission` are dropped. What is
//!   dropped is below `admission` ≤ `certification`: A and B. Raising a boundary makes A and B weaker, and D speaks of fewer
//!   keys. At least m members go, so it costs O(1) an admission. A set larger than usual does it in slices ([`super::compaction`]).
//! - *Rebuild*, when too few members are certified. `admission` falls to minus infinity, which admits everything, and
//!   the cursor to the start, so B says nothing; `certification` stays, so A still holds, and what it
//!   certifies can be answered meanwhile. Each step visits a page and admits what is not below `admission`;
//!   compaction raises that again as the set fills, after which nearly every visit is one failed compare. Pages split,
//!   and become crowds, without changing the order that cursors go by, so every key is on one side of the cursor for good. At
//!   the end B covers the whole table, so `certification` may become `admission`.
//! - *k beyond the set* is a rebuild with a quarter more than k as its target, which the next million increments keep, so that
//!   such reads need a scan once in a while only; then a compaction shrinks the set. Reads that come during a scan raise its
//!   target; if it ends short of what they want, they begin another.
//! - *Reading* resolves the head alone. If k of those in it are not below its boundary, then by D no other member
//!   stands among the best k of them; and if the last of those is not below `certification`, by A nothing else does. Else the whole set is
//!   resolved. Either way the best of what was found, half as many more as were asked for, are the new head, and the last
//!   of them its boundary: what was not found is below that. So a read of 100 resolves some 150 members instead of up to
//!   4,096, each of which may be three cache misses. A head into which too many have risen is given up.
//!
//! - *Counts that keep falling* would have a rebuild follow the other. If one comes within a million increments of the last, m doubles,
//!   up to a thousandth of the keys: a rebuild of N keys is then due after some N / 2,000 members have fallen, whatever N
//!   is, for a few hundredths of a byte a key. It costs increments nothing, and reads only when the head has to be
//!   found anew. After a million increments without one, a compaction brings m back.
//!
//! **Counts that only rise** never need a rebuild: compaction leaves m members that are not below `certification`, none
//! of them falls, and each read of k ≤ m is answered from the set for ever.
//!
//! **Ties.** A boundary without its key would fail on a million keys of count 1: "above the boundary's count" would
//! certify nothing, "at least the boundary's count" would certify the wrong keys.

use std::cmp::Ordering;

use super::arena::Entry;
use super::compaction::{Compaction, Pairs, named};
use super::table::{Cursor, Member, Place, Table};
use crate::engine::part::PackedKeys;
use crate::limits::{
    APPLY_CHUNK_KEYS, TOP_CANDIDATES, TOP_CANDIDATES_MAX, TOP_CANDIDATES_MIN, TOP_HEAD_GROWN_MIN, TOP_HEAD_MIN,
    TOP_LARGER_INCREMENTS,
};

/// Candidates that each of `shards` shards certifies, so that together they answer for the top [`TOP_CANDIDATES`] / 2 of all
/// without a walk. Keys fall to shards at random: of the top K, one of S shards holds some K / S, and hardly ever more than that
/// and three standard deviations. Twice as many as that leaves room for counts that fall.
#[must_use]
pub fn candidates_for(shards: usize) -> usize {
    let mean = TOP_CANDIDATES / 2 / shards.max(1);
    (2 * (mean + 3 * mean.isqrt() + 2)).clamp(TOP_CANDIDATES_MIN, TOP_CANDIDATES)
}

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
pub(super) struct Boundary {
    /// `i64::MIN` at minus infinity, so that no count is below it.
    count: i64,
    /// [`first_bytes`] of the key, and the highest at minus infinity: with equal counts a key that begins with more is below.
    first_bytes: u64,
    key: Option<Box<[u8]>>,
}

impl Boundary {
    const MINUS_INFINITY: Boundary = Boundary { count: i64::MIN, first_bytes: u64::MAX, key: None };

    pub(super) fn new(count: i64, key: &[u8]) -> Boundary {
        Boundary { count, first_bytes: first_bytes(key), key: Some(key.into()) }
    }

    /// Whether the pair is below the boundary.
    pub(super) fn is_above(&self, count: i64, key: &[u8]) -> bool {
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
    member: Member,
}

/// The best of the members, found by the last read.
struct Head {
    /// All members that are not below `boundary`, and others; some perhaps twice, and some no longer members.
    members: Vec<Member>,
    boundary: Boundary,
    /// How many `members` may become before the head is given up.
    members_max: usize,
}

/// The candidate set of one shard. All of its methods take that shard's table.
pub(super) struct CandidateSet {
    /// Members kept by a compaction, when no larger read asks for more.
    candidates: usize,
    /// Members kept by the next compaction; above `candidates` only for a while, for larger reads or counts that keep falling.
    pub(super) target: usize,
    pub(super) members: Vec<Member>,
    pub(super) admission: Boundary,
    pub(super) certification: Boundary,
    pub(super) certified: usize,
    /// First place not yet visited by the running rebuild.
    pub(super) rebuild: Option<Cursor>,
    /// The compaction under way, if it goes in slices.
    pub(super) compaction: Option<Compaction>,
    /// Members that a slice of background work looks at.
    slice_members: usize,
    head: Option<Head>,
    /// Increments applied so far.
    increments: u64,
    /// Value of `increments` up to which a larger target is kept.
    larger_until: u64,
    /// Value of `increments` up to which another rebuild for counts that fell comes soon after the last.
    fallen_until: u64,
}

impl CandidateSet {
    /// An empty set that certifies `candidates` keys, for an empty table.
    pub(super) fn new(candidates: usize, slice_members: usize) -> CandidateSet {
        assert!(candidates > 0, "a set of no candidates has no boundary");
        assert!(slice_members > 0, "a slice looks at something");
        CandidateSet {
            candidates,
            target: candidates,
            members: Vec::new(),
            admission: Boundary::MINUS_INFINITY,
            certification: Boundary::MINUS_INFINITY,
            certified: 0,
            rebuild: None,
            compaction: None,
            slice_members,
            head: None,
            increments: 0,
            larger_until: 0,
            fallen_until: 0,
        }
    }

    /// Whether a non-member may have to be admitted: what the hot path asks before it calls [`CandidateSet::consider`]. Most
    /// keys end at the first compare, and where all counts are equal at the second.
    #[inline]
    pub(super) fn may_admit(&self, count: i64, key: &[u8]) -> bool {
        count > self.admission.count || count == self.admission.count && first_bytes(key) <= self.admission.first_bytes
    }

    /// Whether a member whose count rises from `old` to `new` may enter the head: what the hot path asks before it
    /// calls [`CandidateSet::risen`].
    #[inline]
    pub(super) fn may_enter_head(&self, old: i64, new: i64) -> bool {
        self.head.as_ref().is_some_and(|head| old <= head.boundary.count && new >= head.boundary.count)
    }

    /// Notes how many increments are being applied.
    pub(super) fn note_increments(&mut self, increments: usize) {
        self.increments += increments as u64;
    }

    /// Bytes allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        let head = self
            .head
            .as_ref()
            .map_or(0, |head| head.members.capacity() * size_of::<Member>() + head.boundary.heap_bytes());
        self.members.capacity() * size_of::<Member>()
            + self.admission.heap_bytes()
            + self.certification.heap_bytes()
            + head
            + self.compaction.as_ref().map_or(0, Compaction::heap_bytes)
    }

    /// Admits a non-member that was born or has risen, unless it is below the boundary.
    pub(super) fn consider(&mut self, table: &mut Table, place: Place) {
        if self.admit(table, place) {
            self.contain(table);
        }
    }

    /// Admits a non-member unless it is below the boundary; returns whether it did. The set may then be too large.
    fn admit(&mut self, table: &mut Table, place: Place) -> bool {
        let Entry { count, key, member } = table.entry(place);
        debug_assert!(!member, "only a non-member can be admitted");
        if self.admission.is_above(count, key) {
            return false;
        }
        if !self.certification.is_above(count, key) {
            self.certified += 1;
        }
        let enters_head = self.head.as_ref().is_some_and(|head| !head.boundary.is_above(count, key));
        let member = table.member(place);
        table.set_member(place, true);
        self.members.push(member);
        if enters_head {
            self.enter_head(member);
        }
        true
    }

    /// Looks after the size of the set when one more has become a member.
    fn contain(&mut self, table: &mut Table) {
        if self.compaction.is_some() {
            // Each admission adds a member: it has to look at several, or there would be no end.
            self.compact_slice(table, self.slice_members.clamp(4, APPLY_CHUNK_KEYS));
        } else if self.members.len() >= self.target.saturating_mul(2) {
            self.begin_compaction(table);
        }
    }

    /// Begins to keep the best members and drop the others, as the module's text says; and ends it, unless the set is large.
    fn begin_compaction(&mut self, table: &mut Table) {
        if self.rebuild.is_none() && self.increments >= self.larger_until {
            self.target = self.candidates;
        }
        if self.members.len() <= 4 * self.slice_members {
            self.compact(table);
        } else {
            self.compaction = Some(Compaction::Gathering { at: 0, pairs: Pairs::default() });
        }
    }

    /// Notes that a member's count has risen from `old`.
    #[cold]
    pub(super) fn risen(&mut self, table: &Table, place: Place, old: i64) {
        let Entry { count, key, .. } = table.entry(place);
        let crosses = |boundary: &Boundary| boundary.is_above(old, key) && !boundary.is_above(count, key);
        if self.head.as_ref().is_some_and(|head| crosses(&head.boundary)) {
            self.enter_head(table.member(place));
        }
    }

    fn enter_head(&mut self, member: Member) {
        let Some(head) = &mut self.head else { return };
        head.members.push(member);
        if head.members.len() > head.members_max {
            self.head = None;
        }
    }

    /// Notes that a member's count was lowered from `old`.
    pub(super) fn lowered(&mut self, table: &Table, place: Place, old: i64) {
        let Entry { count, key, .. } = table.entry(place);
        if self.certification.is_above(count, key) && !self.certification.is_above(old, key) {
            self.certified = self.certified.saturating_sub(1);
        }
    }

    /// The `k` highest keys, or all if there are fewer. Scans the table if the set cannot vouch for them.
    pub(super) fn top(&mut self, table: &mut Table, k: usize) -> Top {
        // At most two rounds. A rebuild that was already running may end short of k: it aimed lower, or counts fell on
        // its way. One that runs from start to end within this call leaves at least k members, none below its boundary.
        loop {
            if let Some(top) = self.begin_top(table, k) {
                return top;
            }
            while self.rebuild.is_some() {
                self.walk(table);
            }
        }
    }

    /// The `k` highest keys, or all if there are fewer, if the set can vouch for them. If not, there is a rebuild under
    /// way that aims at them.
    pub(super) fn begin_top(&mut self, table: &Table, k: usize) -> Option<Top> {
        let k = usize::try_from(table.len()).map_or(k, |len| k.min(len));
        let top = self.top_of_head(table, k).or_else(|| self.top_of_members(table, k));
        if top.is_none() {
            if self.rebuild.is_none() {
                self.begin_rebuild(table, k);
            }
            self.target = self.target.max(k + k / 4);
        }
        if top.is_none() || k > self.candidates {
            self.larger_until = self.increments + TOP_LARGER_INCREMENTS;
        }
        top
    }

    /// The answer to a read, if the head holds it.
    fn top_of_head(&mut self, table: &Table, k: usize) -> Option<Top> {
        let mut head = self.head.take()?;
        head.members.sort_unstable();
        let best = resolve_head(table, &head);
        let top = if best.len() < k { None } else { self.answer(table, best, k) };
        if top.is_none() {
            // What is known of the head is still true.
            self.head = Some(head);
        }
        top
    }

    /// The answer to a read, if the set can vouch for it.
    fn top_of_members(&mut self, table: &Table, k: usize) -> Option<Top> {
        let certified = self.recount(table);
        if certified.len() < k { None } else { self.answer(table, certified, k) }
    }

    /// Makes the best `k` of at least so many an answer, if none of them is below certification, and of some more
    /// the new head. Every member that is not among `best` is below the last of them.
    fn answer(&mut self, table: &Table, mut best: Vec<Candidate>, k: usize) -> Option<Top> {
        let order = |a: &Candidate, b: &Candidate| highest_first(table, a, b);
        let kept = (k + k / 2).max(TOP_HEAD_MIN);
        if kept < best.len() {
            best.select_nth_unstable_by(kept, order);
            best.truncate(kept);
        }
        best.sort_unstable_by(order);
        let key = |candidate: &Candidate| table.entry(candidate.place).key;
        if k > 0 && self.certification.is_above(best[k - 1].count, key(&best[k - 1])) {
            return None;
        }
        let mut top = Top { exhausted: k as u64 == table.len(), ..Top::default() };
        for candidate in &best[..k] {
            top.keys.push(key(candidate));
            top.counts.push(candidate.count);
        }
        self.head = best.last().map(|last| Head {
            members: best.iter().map(|candidate| candidate.member).collect(),
            boundary: Boundary::new(last.count, key(last)),
            members_max: (2 * kept).max(TOP_HEAD_GROWN_MIN),
        });
        Some(top)
    }

    /// One slice of background work: a piece of a compaction that is under way, or a page of a rebuild, if one is running or due.
    /// Returns whether there is more.
    pub(super) fn upkeep(&mut self, table: &mut Table) -> bool {
        if self.rebuild.is_none() && self.compaction.is_none() {
            let low_water = self.candidates / 2;
            let may_be_low = self.certification.is_finite() && self.certified < low_water;
            if !may_be_low || self.certifies(table, low_water) {
                return false;
            }
            self.begin_rebuild(table, self.candidates);
        }
        self.walk(table);
        self.rebuild.is_some() || self.compaction.is_some()
    }

    /// A piece of the compaction that is under way, or else visits the page at the cursor of the running rebuild.
    fn walk(&mut self, table: &mut Table) {
        if self.compaction.is_some() {
            self.compact_slice(table, self.slice_members);
        } else {
            self.visit_page(table);
        }
    }

    fn begin_rebuild(&mut self, table: &Table, target: usize) {
        debug_assert!(self.certification.is_finite(), "a set that holds every key needs no rebuild");
        if target <= self.candidates {
            // Counts have fallen. If they did not long ago, a set that is twice as large lasts longer.
            if self.increments < self.fallen_until {
                let candidates_max = usize::try_from(table.len() / 1_000).unwrap_or(usize::MAX).min(TOP_CANDIDATES_MAX);
                self.target = (2 * self.target).min(candidates_max).max(self.target);
                self.larger_until = self.increments + TOP_LARGER_INCREMENTS;
            }
            self.fallen_until = self.increments + TOP_LARGER_INCREMENTS;
        }
        self.target = self.target.max(target);
        self.admission = Boundary::MINUS_INFINITY;
        self.rebuild = Some(Cursor::START);
    }

    /// Visits the page at the cursor of the running rebuild. What it admits is contained by the next slices, or the last of it: so
    /// a large set exceeds twice its target by a page at most.
    fn visit_page(&mut self, table: &mut Table) {
        let Some(cursor) = self.rebuild else { return };
        // Compaction raises the boundary on the way; what was found above a lower one is asked again.
        let boundary = self.admission.count;
        let visited = table.places_at(cursor);
        let found: Vec<Place> =
            visited.filter(|(_, entry)| entry.count >= boundary && !entry.member).map(|(place, _)| place).collect();
        for place in found {
            if table.entry(place).count >= self.admission.count {
                let admitted = self.admit(table, place);
                if admitted && self.target <= 2 * self.slice_members {
                    self.contain(table);
                }
            }
        }
        if self.compaction.is_none() && self.members.len() >= self.target.saturating_mul(2) {
            self.begin_compaction(table);
        }
        self.rebuild = table.end_of(table.page_at(cursor));
        if self.rebuild.is_none() {
            // What was not below the former boundary is not below this one: `certified` is still a lower bound.
            self.certification = self.admission.clone();
        }
    }

    /// Whether so many members are not below `certification`; counts them, up to that number.
    fn certifies(&mut self, table: &Table, wanted: usize) -> bool {
        self.certified = 0;
        for slice in self.members.chunks(self.slice_members) {
            let (certification, certified) = (&self.certification, &mut self.certified);
            table.probe_members(slice, |member, probe| {
                let below = named(table, member, probe).any(|(_, one)| certification.is_above(one.count, one.key));
                *certified += usize::from(!below);
            });
            if self.certified >= wanted {
                return true;
            }
        }
        false
    }

    /// Keeps the best members and drops the others, as the module's text says.
    fn compact(&mut self, table: &mut Table) {
        let mut gathered = gather(table, &self.members);
        debug_assert_eq!(gathered.len(), self.members.len(), "every member is flagged, and nothing else");
        let (_, &mut last, _) = gathered.select_nth_unstable_by(self.target - 1, |a, b| highest_first(table, a, b));
        self.raise(last.count, table.entry(last.place).key);
        self.members.clear();
        self.certified = 0;
        for candidate in gathered {
            let key = table.entry(candidate.place).key;
            if self.admission.is_above(candidate.count, key) {
                table.set_member(candidate.place, false);
                continue;
            }
            if !self.certification.is_above(candidate.count, key) {
                self.certified += 1;
            }
            self.members.push(candidate.member);
        }
        // A larger read may have left room for more than the target needs.
        self.members.shrink_to(self.target.saturating_mul(2));
    }

    /// Raises `admission` to a pair, unless that is below it, and `certification` with it if it was lower.
    pub(super) fn raise(&mut self, count: i64, key: &[u8]) {
        if !self.admission.is_above(count, key) {
            self.admission = Boundary::new(count, key);
            if !self.certification.is_above(count, key) {
                self.certification = self.admission.clone();
            }
        }
    }

    /// Gathers the members that are not below `certification`, and counts them.
    fn recount(&mut self, table: &Table) -> Vec<Candidate> {
        let mut certified = gather(table, &self.members);
        debug_assert_eq!(certified.len(), self.members.len(), "every member is flagged, and nothing else");
        let boundary = &self.certification;
        certified.retain(|candidate| !boundary.is_above(candidate.count, table.entry(candidate.place).key));
        if self.compaction.is_none() {
            // Otherwise they are being counted.
            self.certified = certified.len();
        }
        certified
    }

    /// Asserts the invariants of the module's text against every key of the table.
    pub(super) fn invariants(&self, table: &Table) {
        assert!(self.candidates <= self.target, "no target is below the configured one");
        match (self.rebuild, &self.certification.key) {
            (None, key) => {
                let equal = self.admission.count == self.certification.count && self.admission.key == *key;
                assert!(equal, "C: the boundaries are equal unless a rebuild runs");
            }
            (Some(_), Some(key)) => {
                let ordered = !self.admission.is_above(self.certification.count, key);
                assert!(ordered, "C: admission is not above certification");
            }
            (Some(_), None) => panic!("C: a rebuild runs only if certification is finite"),
        }

        let mut flagged = Vec::new();
        let mut certified = 0;
        let mut cursor = Some(Cursor::START);
        while let Some(start) = cursor {
            let visited = self.rebuild.is_none_or(|cursor| start < cursor);
            for (place, Entry { count, key, member }) in table.places_at(start) {
                let below_certification = self.certification.is_above(count, key);
                if member {
                    let in_head =
                        |head: &Head| head.boundary.is_above(count, key) || head.members.contains(&table.member(place));
                    assert!(self.head.as_ref().is_none_or(in_head), "D: a member outside the head is below it");
                    flagged.push(table.member(place));
                    certified += usize::from(!below_certification);
                } else {
                    assert!(below_certification, "A: a non-member is below certification");
                    assert!(
                        !visited || self.admission.is_above(count, key),
                        "B: a visited non-member is below admission"
                    );
                }
            }
            cursor = table.end_of(table.page_at(start));
        }
        assert!(self.certified <= certified, "certified is a lower bound");
        let mut members = self.members.clone();
        members.sort_unstable();
        flagged.sort_unstable();
        assert_eq!(members, flagged, "the members are the flagged keys");
    }
}

/// The first eight bytes of a key, as a number that orders as they do; zeros follow a shorter one.
#[inline]
pub(super) fn first_bytes(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(first) => u64::from_be_bytes(*first),
        None => key.iter().rev().fold(0, |number, &byte| number >> 8 | u64::from(byte) << 56),
    }
}

/// Resolves members, in no particular order.
fn gather(table: &Table, members: &[Member]) -> Vec<Candidate> {
    let mut gathered = Vec::with_capacity(members.len());
    let mut shared = Vec::new();
    table.probe_members(members, |member, probe| {
        let mut same = table.flagged(probe).filter(|(_, entry)| table.has_hash(entry.key, member));
        match (same.next(), same.next()) {
            (Some((place, entry)), None) => gathered.push(Candidate { count: entry.count, place, member }),
            _ => shared.push(member),
        }
    });
    // Members that share a hash are told apart by the second; those that share both are in the list as often as there
    // are of them, and resolved once.
    shared.sort_unstable();
    shared.dedup();
    gathered.extend(shared.into_iter().flat_map(|member| all_of(table, member)));
    gathered
}

/// Resolves those of a sorted head that are not below its boundary. A hash in it once stands for one of them at most, since any
/// other member with the same hashes that was not below the boundary would be in the head too: the first one found is it.
fn resolve_head(table: &Table, head: &Head) -> Vec<Candidate> {
    let mut best = Vec::with_capacity(head.members.len());
    let mut once = Vec::with_capacity(head.members.len());
    let in_head = |entry: &Entry<'_>| !head.boundary.is_above(entry.count, entry.key);
    for same in head.members.chunk_by(|a, b| a == b) {
        match *same {
            [member] => once.push(member),
            _ => best.extend(all_of(table, same[0]).filter(|candidate| in_head(&table.entry(candidate.place)))),
        }
    }
    table.probe_members(&once, |member, probe| {
        let found = table.flagged(probe).find(|(_, entry)| in_head(entry) && table.has_hashes(entry.key, member));
        best.extend(found.map(|(place, entry)| Candidate { count: entry.count, place, member }));
    });
    best
}

/// All members with the hashes of one.
fn all_of(table: &Table, member: Member) -> impl Iterator<Item = Candidate> {
    table.members(member).map(move |(place, entry)| Candidate { count: entry.count, place, member })
}

/// Orders candidates as answers list them.
fn highest_first(table: &Table, a: &Candidate, b: &Candidate) -> Ordering {
    b.count.cmp(&a.count).then_with(|| table.entry(a.place).key.cmp(table.entry(b.place).key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::counters::hashing::Hashing;
    use crate::engine::counters::{Pool, Secret};
    use crate::engine::prng::Prng;
    use crate::ids::KeyHash;
    use crate::limits::TOP_SLICE_MEMBERS;

    fn table(keys_max: usize) -> Table {
        let hashing = Hashing::new(&(KeyHash(0)..=KeyHash(u64::MAX)), 0, Secret::default(), KeyHash::of);
        Table::new(hashing, Pool::default(), keys_max)
    }

    fn add(set: &mut CandidateSet, table: &mut Table, number: u64, delta: i64) {
        let key = number.to_be_bytes();
        let hash = KeyHash::of(0, &key);
        let place = match table.find(hash, &key) {
            Some(place) => table.add(place, hash, delta).expect("it fits").place,
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
            let mut set = CandidateSet::new(target, TOP_SLICE_MEMBERS);
            let mut table = table(8);
            for _ in 0..500 {
                add(&mut set, &mut table, prng.below(keys), prng.below(3) as i64);
                assert!(set.recount(&table).len() >= target.min(table.len() as usize), "seed {seed}");
            }
            set.invariants(&table);
        }
    }

    #[test]
    fn equal_counts_in_descending_key_order_admit_every_key_and_stay_bounded() {
        let mut set = CandidateSet::new(5, TOP_SLICE_MEMBERS);
        let mut table = table(16);
        for number in (0..2_000).rev() {
            add(&mut set, &mut table, number, 1);
            assert!(set.members.len() < 10);
        }
        set.invariants(&table);
        let top = set.top(&mut table, 3);
        assert_eq!(top.keys.iter().collect::<Vec<_>>(), [0u64, 1, 2].map(u64::to_be_bytes));
    }

    #[test]
    fn a_larger_read_is_answered_again_without_a_scan_until_its_set_shrinks() {
        let mut set = CandidateSet::new(4, TOP_SLICE_MEMBERS);
        let mut table = table(16);
        for number in 0..1_000 {
            add(&mut set, &mut table, number, (number % 50) as i64);
        }
        assert!(set.recount(&table).len() < 100);
        let first = set.top(&mut table, 100);
        for _ in 0..3 {
            assert_eq!(set.begin_top(&table, 100), Some(first.clone()), "the larger set is still there");
        }
        for number in 1_000..1_300 {
            add(&mut set, &mut table, number, 1_000);
            assert!(set.members.len() < 2 * 125);
        }
        assert!(set.begin_top(&table, 100).is_some(), "compaction has kept the larger set");
        set.note_increments(1 << 20);
        for number in 1_300..1_600 {
            add(&mut set, &mut table, number, 2_000);
        }
        assert!(set.members.len() < 2 * 4, "once nobody asks for it, the set shrinks");
        set.invariants(&table);
    }

    #[test]
    fn a_scan_for_a_larger_read_is_driven_from_outside() {
        let mut set = CandidateSet::new(4, TOP_SLICE_MEMBERS);
        let mut table = table(16);
        for number in 0..1_000 {
            add(&mut set, &mut table, number, 7);
        }
        assert_eq!(set.begin_top(&table, 200), None);
        assert_eq!(set.begin_top(&table, 300), None, "a second read joins the scan");
        let mut slices = 0;
        while set.upkeep(&mut table) {
            slices += 1;
            add(&mut set, &mut table, 1_000 + slices, 7);
            set.invariants(&table);
        }
        assert!(slices > 20);
        for k in [200, 300] {
            let top = set.begin_top(&table, k).expect("the scan has found enough");
            assert_eq!(top.keys.iter().collect::<Vec<_>>(), (0..k as u64).map(u64::to_be_bytes).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_sliced_compaction_keeps_the_set_bounded_and_the_best_in_it() {
        for (target, slice) in [(100, 1), (100, 7), (64, 16), (300, 100)] {
            let mut set = CandidateSet::new(target, slice);
            let mut table = table(64);
            let (mut sliced, mut largest) = (0, 0);
            for number in (0..30_000).rev() {
                add(&mut set, &mut table, number, 1);
                largest = largest.max(set.members.len());
                sliced += usize::from(set.compaction.is_some());
                if number % 97 == 0 {
                    set.invariants(&table);
                    assert!(set.recount(&table).len() >= target.min(table.len() as usize));
                }
            }
            assert!(sliced > 1_000, "slices of {slice}: {sliced} increments");
            assert!(largest <= 4 * target, "slices of {slice}: {largest} members of {target}");
            let best: Vec<[u8; 8]> = (0..target as u64).map(u64::to_be_bytes).collect();
            assert_eq!(
                set.begin_top(&table, target).expect("they are certified").keys.iter().collect::<Vec<_>>(),
                best
            );
        }
    }

    #[test]
    fn a_walk_lets_compaction_go_first_and_exceeds_its_target_by_a_page_at_most() {
        let (page, target) = (64, 200);
        let mut set = CandidateSet::new(4, 16);
        let mut table = table(page);
        for number in 0..10_000 {
            add(&mut set, &mut table, number, (number % 10) as i64);
        }
        assert_eq!(set.begin_top(&table, target), None);
        let (mut compacting, mut longest) = (0, 0);
        while set.upkeep(&mut table) {
            compacting += usize::from(set.compaction.is_some());
            longest = longest.max(set.members.len());
            set.invariants(&table);
        }
        assert!(compacting > 10 && longest <= 2 * set.target + page, "{compacting} slices, {longest} members");
        assert_eq!(set.begin_top(&table, target).map(|top| top.counts), Some(vec![9; target]));
    }

    #[test]
    fn a_set_whose_counts_keep_falling_grows_up_to_a_thousandth_of_the_keys() {
        let candidates = 8;
        let mut set = CandidateSet::new(candidates, TOP_SLICE_MEMBERS);
        let mut table = table(512);
        for number in 0..40_000 {
            add(&mut set, &mut table, number, number as i64);
        }
        let mut scans = [0, 0];
        for lowered in 0..400 {
            let number = 39_999 - lowered;
            add(&mut set, &mut table, number, -(number as i64));
            let begun = set.begin_top(&table, 1).is_none();
            scans[usize::from(lowered >= 200)] += usize::from(begun);
            while set.upkeep(&mut table) {}
            assert!(set.target <= 40);
        }
        assert_eq!(set.target, 40);
        assert!(scans[1] <= 200 / 20 && scans[0] > scans[1], "{scans:?}");
        set.note_increments(2 * TOP_LARGER_INCREMENTS as usize);
        for number in 40_000..40_100 {
            add(&mut set, &mut table, number, number as i64);
        }
        assert_eq!(set.target, candidates, "it shrinks when counts fall no more");
        set.invariants(&table);
    }

    #[test]
    fn candidates_fall_with_the_number_of_shards() {
        assert_eq!([0, 1, 4, 16, 64, 256, 4_096].map(candidates_for), [2_048, 2_048, 612, 180, 128, 128, 128]);
    }

    #[test]
    fn the_head_answers_and_gives_up_when_it_grows() {
        let mut set = CandidateSet::new(1_000, TOP_SLICE_MEMBERS);
        let mut table = table(64);
        for number in 0..5_000 {
            add(&mut set, &mut table, number, number as i64);
        }
        assert!(set.top_of_head(&table, 10).is_none(), "there has been no read");
        let first = set.top(&mut table, 10);
        assert_eq!(set.top_of_head(&table, 10), Some(first));
        assert!(set.top_of_head(&table, 200).is_none());
        set.invariants(&table);
        // Newcomers at the very top.
        for number in 5_000..5_050 {
            add(&mut set, &mut table, number, number as i64);
        }
        let top = set.top_of_head(&table, 10).expect("the head has them too");
        assert_eq!(top.counts, (5_040..5_050).rev().collect::<Vec<i64>>());
        for number in 6_000..6_300 {
            add(&mut set, &mut table, number, number as i64);
        }
        assert!(set.head.is_none());
        assert_eq!(set.top(&mut table, 1).counts, [6_299]);
    }
}
