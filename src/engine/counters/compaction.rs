//! Compaction of a large candidate set, a slice at a time.
//!
//! A set of the usual size is compacted at once. One that was enlarged for a read of many keys, or against counts that keep falling,
//! would hold up everything else for milliseconds, so its compaction goes in slices, with increments and reads in between:
//!
//! 1. *Gathering.* The pairs of all members are copied, a slice of members at a time, those of newcomers included.
//! 2. *Raising.* The m-th best of the copies is selected, and becomes the boundary if it is above it; then, and before any flag is
//!    cleared, `certification` follows if it was lower.
//! 3. *Dropping.* Members are looked at once more, a slice at a time, and those below `admission` as they are then are dropped. Members
//!    that were admitted meanwhile need no look.
//!
//! **Why it may be interrupted anywhere.** Gathering changes nothing. The copies may be stale when the boundary is selected among
//! them, but *any* boundary that is raised makes the invariants A and B weaker, whatever pair it is; stale copies only make it
//! worse or better chosen. Of counts that only rose, each copy is at most what it stands for, so at least m members are not
//! below the boundary, as after a compaction at once. A member is dropped while it is below `admission`, which is never above
//! `certification`: A and B hold after every single one. A rebuild that begins in the middle lowers `admission`, and nothing more is
//! dropped. Were flags cleared before the boundaries are raised, a read in between would miss what has been dropped and
//! yet take itself for exact.
//!
//! **Who does it.** Each admission does a small slice, so the set grows by a thirtieth meanwhile; a walk over the table
//! gives its turns to compaction first. Both end it in bounded time, and there is nothing to wait for.
//!
//! A name (both hashes) that several members share is resolved to all of them, each time it stands in the list. It counts as the
//! lowest of them, and each time at most one is dropped, with the name; so the list has the name as often as there are
//! members.

use std::cmp::{Ordering, Reverse};

use super::arena::Entry;
use super::table::{Member, Place, Probe, Table};
use super::top::CandidateSet;
use crate::engine::part::PackedKeys;
use crate::mutant::mutant;

/// How far a sliced compaction has come.
pub(super) enum Compaction {
    /// Members up to a place of the list have been copied.
    Gathering { at: usize, pairs: Pairs },
    /// Members up to a place of the list are still to be looked at.
    Dropping { left: usize },
}

impl Compaction {
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Compaction::Gathering { pairs, .. } => pairs.heap_bytes(),
            Compaction::Dropping { .. } => 0,
        }
    }
}

/// Copies of pairs.
#[derive(Default)]
pub(super) struct Pairs {
    counts: Vec<i64>,
    keys: PackedKeys,
}

impl Pairs {
    fn push(&mut self, count: i64, key: &[u8]) {
        self.counts.push(count);
        self.keys.push(key);
    }

    fn len(&self) -> usize {
        self.counts.len()
    }

    fn heap_bytes(&self) -> usize {
        let PackedKeys { bytes, ends } = &self.keys;
        self.counts.capacity() * size_of::<i64>() + bytes.capacity() + ends.capacity() * size_of::<u32>()
    }

    /// The `m`-th best pair, if there are so many.
    fn select(&self, m: usize) -> Option<(i64, &[u8])> {
        // Few keys are looked at if counts differ, or the keys do early.
        let order = |a: &(i64, u64, u32), b: &(i64, u64, u32)| {
            let keys = |&(_, _, place): &(i64, u64, u32)| self.keys.key(place as usize);
            (Reverse(a.0), a.1).cmp(&(Reverse(b.0), b.1)).then_with(|| keys(a).cmp(keys(b)))
        };
        let mut ranking: Vec<(i64, u64, u32)> = Vec::with_capacity(self.len());
        for (place, (&count, key)) in (0..).zip(self.counts.iter().zip(self.keys.iter())) {
            ranking.push((count, super::top::first_bytes(key), place));
        }
        if ranking.len() < m {
            return None;
        }
        let (_, &mut (count, _, place), _) = ranking.select_nth_unstable_by(m - 1, order);
        Some((count, self.keys.key(place as usize)))
    }
}

impl CandidateSet {
    /// Looks at up to `members` members for the compaction under way, if there is one.
    pub(super) fn compact_slice(&mut self, table: &mut Table, members: usize) {
        match self.compaction.take() {
            None => {}
            Some(Compaction::Gathering { at, mut pairs }) => {
                let until = self.members.len().min(at + members);
                table.probe_members(&self.members[at..until], |member, probe| {
                    let lowest =
                        named(table, member, probe).reduce(|a, b| if ranks(&a.1, &b.1).is_gt() { a } else { b });
                    let (_, Entry { count, key, .. }) = lowest.expect("every member is flagged");
                    pairs.push(count, key);
                });
                self.compaction = if until < self.members.len() {
                    Some(Compaction::Gathering { at: until, pairs })
                } else {
                    self.raise_to(&pairs)
                };
            }
            Some(Compaction::Dropping { left }) => {
                let from = left.saturating_sub(members);
                self.drop_slice(table, from, left);
                if from > 0 {
                    self.compaction = Some(Compaction::Dropping { left: from });
                } else {
                    self.end_compaction();
                }
            }
        }
    }

    /// Raises the boundaries for what has been gathered. There is nothing to drop if a larger read has meanwhile asked for more.
    fn raise_to(&mut self, pairs: &Pairs) -> Option<Compaction> {
        let (count, key) = pairs.select(self.target).filter(|_| self.target < pairs.len())?;
        if !mutant!("flags-cleared-first") {
            self.raise(count, key);
        } else if !self.admission.is_above(count, key) {
            self.admission = super::top::Boundary::new(count, key);
        }
        self.certified = 0;
        Some(Compaction::Dropping { left: self.members.len() })
    }

    /// Drops those of the members between two places of the list that are below the boundary. What stands behind the second has
    /// been looked at, or was admitted since.
    fn drop_slice(&mut self, table: &mut Table, from: usize, to: usize) {
        let (admission, certification) = (&self.admission, &self.certification);
        // Members whose names are found again are dropped one at a time, so places are collected before flags are cleared.
        let mut verdicts: Vec<(bool, Option<Place>)> = Vec::with_capacity(to - from);
        table.probe_members(&self.members[from..to], |member, probe| {
            let below = |entry: &Entry<'_>| admission.is_above(entry.count, entry.key);
            let dropped = named(table, member, probe).find(|(_, entry)| below(entry)).map(|(place, _)| place);
            let is_certified = |(_, entry): (Place, Entry<'_>)| !certification.is_above(entry.count, entry.key);
            verdicts.push((named(table, member, probe).all(is_certified), dropped));
        });
        for (at, (is_certified, dropped)) in (from..to).zip(verdicts).rev() {
            match dropped {
                // Two of one name, in one slice: the other may be below too.
                Some(place) if table.entry(place).member => {
                    table.set_member(place, false);
                    self.members.swap_remove(at);
                }
                Some(_) => {}
                None => self.certified += usize::from(is_certified),
            }
        }
    }

    fn end_compaction(&mut self) {
        if mutant!("flags-cleared-first") && self.rebuild.is_none() {
            self.certification = self.admission.clone();
        }
        // A larger read may have left room for more than the target needs.
        self.members.shrink_to(self.target.saturating_mul(2));
    }
}

/// The members with the name of one; nearly always that one alone.
pub(super) fn named(table: &Table, member: Member, probe: Probe) -> impl Iterator<Item = (Place, Entry<'_>)> {
    let mut same = table.flagged(probe).filter(|(_, entry)| table.has_hash(entry.key, member));
    // The second hash is a slow one.
    let alone = match (same.next(), same.next()) {
        (one, None) => one,
        _ => None,
    };
    let all = alone.is_none().then(|| table.members(member));
    alone.into_iter().chain(all.into_iter().flatten())
}

/// Orders entries as answers list them.
fn ranks(a: &Entry<'_>, b: &Entry<'_>) -> Ordering {
    b.count.cmp(&a.count).then_with(|| a.key.cmp(b.key))
}
