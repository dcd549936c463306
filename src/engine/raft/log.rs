//! The part of a group's log that is in memory: all entries that have not been applied, and before them a bounded number of
//! applied ones for followers that lag.
//!
//! ```text
//!      (in the store's log, or only in a checkpoint)      before │ first …… applied │ …… commit │ …… last
//!                                                 term known ──┘   └─ cache ───────┘└─ must stay ────────┘
//! ```
//!
//! Entries behind `before` are never read back from disk: a follower that needs one gets the checkpoint.

use std::collections::VecDeque;

use super::message::Entry;
use crate::engine::checkpoint::Point;
use crate::ids::{Index, Term};
use crate::limits::{APPEND_BYTES_TARGET, RAFT_ENTRY_OVERHEAD_BYTES};

#[derive(Debug)]
pub(super) struct Log {
    /// The entry before the first.
    before: Point,
    /// Without gaps.
    entries: VecDeque<Entry>,
    /// What they take in memory, about.
    bytes: usize,
}

impl Log {
    pub(super) fn new(before: Point, entries: VecDeque<Entry>) -> Log {
        let bytes = entries.iter().map(bytes_of).sum();
        Log { before, entries, bytes }
    }

    /// The entry before the first that is in memory.
    pub(super) fn before(&self) -> Point {
        self.before
    }

    /// The last entry.
    pub(super) fn last(&self) -> Point {
        self.entries.back().map_or(self.before, Entry::point)
    }

    /// An entry, if it is in memory.
    pub(super) fn get(&self, index: Index) -> Option<&Entry> {
        let place = index.0.checked_sub(self.before.index.0 + 1)?;
        self.entries.get(place as usize)
    }

    /// An entry's term, if it is known: in memory, or just before what is.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.before.index {
            return Some(self.before.term);
        }
        self.get(index).map(|entry| entry.term)
    }

    /// Whether an entry is known to be in the log.
    pub(super) fn holds(&self, point: Point) -> bool {
        self.term_at(point.index) == Some(point.term)
    }

    pub(super) fn append(&mut self, entry: Entry) {
        debug_assert!(entry.index == self.last().index.next(), "a gap in the log");
        self.bytes += bytes_of(&entry);
        self.entries.push_back(entry);
    }

    /// Removes all entries from an index on.
    pub(super) fn truncate(&mut self, from: Index) {
        while self.entries.back().is_some_and(|entry| entry.index >= from) {
            let removed = self.entries.pop_back();
            self.bytes -= removed.as_ref().map_or(0, bytes_of);
        }
    }

    /// Forgets entries from the front, but none behind `up_to`, until the rest takes at most so many bytes.
    pub(super) fn trim(&mut self, up_to: Index, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= up_to)
        {
            self.bytes -= bytes_of(&entry);
            self.before = entry.point();
        }
    }

    /// Begins anew behind an entry that is not in it.
    pub(super) fn reset(&mut self, before: Point) {
        *self = Log::new(before, VecDeque::new());
    }

    /// Begins behind an entry, whatever it holds there, and keeps what follows: only right if that entry is in it.
    pub(super) fn trim_to(&mut self, before: Point) {
        self.trim(before.index, 0);
        self.before = before;
    }

    /// The last entry at or before an index whose term is not higher than a term: two logs can agree there, and not behind. `None`
    /// if that is before what is in memory.
    pub(super) fn last_with_term_up_to(&self, index: Index, term: Term) -> Option<Point> {
        let in_reach = index.0.saturating_sub(self.before.index.0).min(self.entries.len() as u64) as usize;
        // Terms ascend.
        let with_term = self.entries.partition_point(|entry| entry.term <= term);
        match in_reach.min(with_term) {
            0 => (index >= self.before.index && self.before.term <= term).then_some(self.before),
            count => Some(self.entries[count - 1].point()),
        }
    }

    /// Entries from an index on for one message, with their bytes: at least one if there is one.
    pub(super) fn batch(&self, from: Index, entries_max: usize) -> (Vec<Entry>, usize) {
        let Some(start) = from.0.checked_sub(self.before.index.0 + 1) else { return (Vec::new(), 0) };
        let mut bytes = 0;
        let mut fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += bytes_of(entry);
            first || bytes <= APPEND_BYTES_TARGET
        };
        let rest = self.entries.range((start as usize).min(self.entries.len())..);
        let count = rest.clone().take(entries_max).take_while(&mut fits).count();
        let entries: Vec<Entry> = rest.take(count).cloned().collect();
        let bytes = entries.iter().map(bytes_of).sum();
        (entries, bytes)
    }

    /// Payload bytes of the entries behind an index.
    pub(super) fn payload_bytes_behind(&self, index: Index) -> usize {
        let from = (index.0.saturating_sub(self.before.index.0) as usize).min(self.entries.len());
        self.entries.range(from..).map(|entry| entry.payload.len()).sum()
    }

    /// What the entries take in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        let consistent = self.entries.front().is_none_or(|first| first.index == self.before.index.next())
            && self.last().index.0 == self.before.index.0 + self.entries.len() as u64;
        if consistent { Ok(()) } else { Err("a gap in the log") }
    }
}

fn bytes_of(entry: &Entry) -> usize {
    entry.payload.len() + RAFT_ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    fn log(before: (u64, u64), terms: &[u64]) -> Log {
        let entry = |(place, &term): (usize, &u64)| Entry {
            term: Term(term),
            index: Index(before.0 + 1 + place as u64),
            payload: Rc::new(vec![7; 10]),
        };
        Log::new(Point { index: Index(before.0), term: Term(before.1) }, terms.iter().enumerate().map(entry).collect())
    }

    fn hint(log: &Log, index: u64, term: u64) -> Option<(u64, u64)> {
        log.last_with_term_up_to(Index(index), Term(term)).map(|point| (point.index.0, point.term.0))
    }

    #[test]
    fn terms_are_known_from_the_entry_before_the_first_on() {
        let log = log((5, 2), &[2, 3, 3]);
        assert_eq!(
            [4, 5, 6, 8, 9].map(|i| log.term_at(Index(i)).map(|term| term.0)),
            [None, Some(2), Some(2), Some(3), None]
        );
        assert_eq!(log.last(), Point { index: Index(8), term: Term(3) });
    }

    #[test]
    fn a_hint_is_the_last_place_where_logs_can_agree() {
        let log = log((5, 2), &[2, 3, 3, 6]);
        assert_eq!(
            [hint(&log, 9, 6), hint(&log, 9, 5), hint(&log, 20, 2), hint(&log, 6, 9)],
            [Some((9, 6)), Some((8, 3)), Some((6, 2)), Some((6, 2))]
        );
        assert_eq!([hint(&log, 5, 2), hint(&log, 9, 1), hint(&log, 4, 9)], [Some((5, 2)), None, None]);
    }

    #[test]
    fn only_what_may_go_is_forgotten() {
        let mut log = log((0, 0), &[1, 1, 2, 2]);
        log.trim(Index(3), log.bytes() - 1);
        assert_eq!(log.before(), Point { index: Index(1), term: Term(1) });
        log.trim(Index(3), 0);
        assert_eq!(log.before(), Point { index: Index(3), term: Term(2) });
        log.truncate(Index(4));
        assert_eq!((log.last().index, log.bytes()), (Index(3), 0));
        log.check().expect("no gap");
    }

    #[test]
    fn a_batch_holds_at_least_one_entry_and_not_too_many() {
        let mut log = log((0, 0), &[]);
        for index in 1..=5 {
            let payload = Rc::new(vec![0; APPEND_BYTES_TARGET / 2]);
            log.append(Entry { term: Term(1), index: Index(index), payload });
        }
        let batch = |from| log.batch(Index(from), 9).0.iter().map(|entry| entry.index.0).collect::<Vec<_>>();
        assert_eq!((batch(1), batch(5), batch(6), batch(0)), (vec![1], vec![5], vec![], vec![]));
        assert_eq!(log.payload_bytes_behind(Index(3)), APPEND_BYTES_TARGET);
    }
}
