//! What a leader knows of one other replica, and what it may send it.
//!
//! ```text
//!               accepted                          next is no longer in memory
//!   ┌─ probe ◄──────────────► replicate ─┐      ┌──────────────────────────────► checkpoint
//!   │  one append, then wait    rejected │      │ probe, replicate                   │
//!   └─ for its answer or a heartbeat's   └──────┘ ◄──────────────────────────────────┘
//!                                                   any acknowledgement from which the log can go on
//!   anything ──► lost: it has less than it acknowledged
//! ```
//!
//! `matched` never goes back and `next` is always above it. Answers are numbered, and one that concerns an append sent before the
//! present state began changes nothing.

use std::collections::VecDeque;

use super::install::Sending;
use crate::ids::{AppendNumber, Index, Micros, ReplicaId, Round};
use crate::limits::{APPEND_WINDOW_BYTES_MAX, APPEND_WINDOW_MESSAGES_MAX};
use crate::mutant::mutant;

/// How a replica is being brought up to date.
#[derive(Debug)]
pub(super) enum Flow {
    /// Where its log agrees is not known; at most one append is under way.
    Probe {
        /// That append.
        sent: Option<AppendNumber>,
    },
    /// It is known, and appends follow one another without waiting.
    Replicate,
    /// It lacks entries that are no longer in memory.
    Checkpoint(Sending),
    /// It has less than it acknowledged. Nothing is sent to it, and it counts for nothing.
    Lost,
}

#[derive(Debug)]
pub(super) struct Progress {
    pub(super) replica: ReplicaId,
    pub(super) flow: Flow,
    /// Nothing is sent to it before this entry, which adds it, is committed.
    pub(super) added_at: Index,
    /// Up to here its durable log agrees.
    matched: Index,
    /// The next entry to send.
    next: Index,
    /// The number of the last append sent.
    number: AppendNumber,
    /// Appends before this one concern an earlier state.
    since: AppendNumber,
    /// The first append sent after `matched` was known.
    matched_since: AppendNumber,
    /// Appends with entries that have not been acknowledged: last index and bytes.
    window: VecDeque<(Index, usize)>,
    window_bytes: usize,
    /// When it last answered, in this term.
    pub(super) heard: Micros,
    /// The last round it has confirmed.
    pub(super) round: Round,
    /// The commit index it was last told by an append.
    pub(super) told: Index,
    /// An append without entries is to find out whether it still follows.
    pub(super) nudge: bool,
}

impl Progress {
    /// A replica of which nothing is known in this term.
    pub(super) fn new(replica: ReplicaId, added_at: Index, last: Index, now: Micros) -> Progress {
        Progress {
            replica,
            added_at,
            flow: Flow::Probe { sent: None },
            matched: Index(0),
            next: last.next(),
            number: AppendNumber(0),
            since: AppendNumber(1),
            matched_since: AppendNumber(1),
            window: VecDeque::new(),
            window_bytes: 0,
            heard: now,
            round: Round(0),
            told: Index(0),
            nudge: false,
        }
    }

    /// What counts of it towards a quorum.
    pub(super) fn matched(&self) -> Index {
        if matches!(self.flow, Flow::Lost) { Index(0) } else { self.matched }
    }

    pub(super) fn next(&self) -> Index {
        self.next
    }

    /// Whether an append with entries may be sent now.
    pub(super) fn may_send(&self) -> bool {
        match self.flow {
            Flow::Probe { sent } => sent.is_none(),
            Flow::Replicate => {
                mutant!("window-ignored")
                    || (self.window.len() < APPEND_WINDOW_MESSAGES_MAX && self.window_bytes < APPEND_WINDOW_BYTES_MAX)
            }
            Flow::Checkpoint(_) | Flow::Lost => false,
        }
    }

    /// Notes that entries up to `last` are being sent, or none; returns the append's number.
    pub(super) fn sends(&mut self, last: Option<Index>, bytes: usize, commit: Index) -> AppendNumber {
        self.number = self.number.next();
        self.told = commit;
        self.nudge = false;
        match &mut self.flow {
            Flow::Probe { sent } => *sent = Some(self.number),
            Flow::Replicate => {
                if let Some(last) = last {
                    self.window.push_back((last, bytes));
                    self.window_bytes += bytes;
                    self.next = last.next();
                }
            }
            Flow::Checkpoint(_) | Flow::Lost => {}
        }
        self.number
    }

    /// Its durable log agrees up to an index. `first` is the lowest index from which its log could go on.
    pub(super) fn acknowledged(&mut self, matched: Index, first: Index) {
        if mutant!("match-goes-back") {
            self.matched = matched;
        }
        if matched > self.matched {
            self.matched = matched;
            self.matched_since = self.number.next();
        }
        while self.window.front().is_some_and(|(last, _)| *last <= self.matched) {
            self.window_bytes -= self.window.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        match self.flow {
            // What it acknowledges late may be less than it had before: only the highest counts.
            Flow::Probe { .. } => self.turn_to(Flow::Replicate, self.matched.next()),
            Flow::Checkpoint(_) if self.matched.next() >= first => self.turn_to(Flow::Replicate, self.matched.next()),
            Flow::Replicate | Flow::Checkpoint(_) | Flow::Lost => self.next = self.next.max(self.matched.next()),
        }
    }

    /// Whether an append's rejection still concerns it.
    pub(super) fn concerns(&self, number: AppendNumber, previous: Index) -> bool {
        match self.flow {
            Flow::Probe { sent } => sent == Some(number),
            Flow::Replicate => number >= self.since && previous > self.matched,
            Flow::Checkpoint(_) | Flow::Lost => false,
        }
    }

    /// Whether its log's end shows that it has lost what it acknowledged: when this append was sent, that was known already.
    pub(super) fn has_lost(&self, number: AppendNumber, last: Index) -> bool {
        number >= self.matched_since && last < self.matched && !mutant!("amnesia-accepted")
    }

    /// Tries from `next` on, or from what is known to agree.
    pub(super) fn probe_from(&mut self, next: Index) {
        self.turn_to(Flow::Probe { sent: None }, next.max(self.matched.next()));
    }

    /// It needs what is no longer in memory.
    pub(super) fn needs_checkpoint(&mut self) {
        self.turn_to(Flow::Checkpoint(Sending::default()), self.next);
    }

    /// It counts for nothing from now on.
    pub(super) fn give_up(&mut self) {
        self.turn_to(Flow::Lost, self.next);
    }

    fn turn_to(&mut self, flow: Flow, next: Index) {
        self.flow = flow;
        self.next = next;
        self.since = self.number.next();
        self.window.clear();
        self.window_bytes = 0;
    }

    /// An interval has passed: what was lost may be sent again.
    pub(super) fn interval(&mut self) {
        match &mut self.flow {
            Flow::Probe { sent } if !mutant!("probe-never-repeated") => *sent = None,
            Flow::Checkpoint(sending) => sending.interval(),
            Flow::Probe { .. } | Flow::Replicate | Flow::Lost => {}
        }
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.next <= self.matched {
            return Err("the next entry for a replica is one it has");
        }
        if self.window.len() > APPEND_WINDOW_MESSAGES_MAX {
            return Err("more appends under way than the window allows");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        Progress::new(ReplicaId(2), Index(0), Index(10), Micros(0))
    }

    #[test]
    fn a_probe_waits_for_its_answer() {
        let mut peer = progress();
        assert!(peer.may_send());
        peer.sends(Some(Index(11)), 100, Index(0));
        assert!(!peer.may_send(), "one at a time");
        peer.interval();
        assert!(peer.may_send(), "it may have been lost");
        peer.acknowledged(Index(11), Index(1));
        assert!(matches!(peer.flow, Flow::Replicate) && peer.next() == Index(12));
    }

    #[test]
    fn the_window_bounds_what_is_under_way() {
        let mut peer = progress();
        peer.acknowledged(Index(10), Index(1));
        let mut sent = 0;
        while peer.may_send() {
            sent += 1;
            peer.sends(Some(Index(10 + sent)), 10, Index(0));
        }
        assert_eq!(sent, APPEND_WINDOW_MESSAGES_MAX as u64);
        peer.acknowledged(Index(12), Index(1));
        assert!(peer.may_send());
        peer.sends(Some(Index(10 + sent + 1)), APPEND_WINDOW_BYTES_MAX, Index(0));
        assert!(!peer.may_send(), "bytes count too");
    }

    #[test]
    fn late_answers_change_nothing() {
        let mut peer = progress();
        let first = peer.sends(Some(Index(11)), 10, Index(0));
        peer.interval();
        let second = peer.sends(Some(Index(11)), 10, Index(0));
        assert!(!peer.concerns(first, Index(10)) && peer.concerns(second, Index(10)));
        peer.acknowledged(Index(11), Index(1));
        peer.acknowledged(Index(4), Index(1));
        assert_eq!((peer.matched(), peer.next()), (Index(11), Index(12)));
        assert!(!peer.concerns(second, Index(12)), "it was sent before the logs agreed");
        peer.probe_from(Index(3));
        assert_eq!(peer.next(), Index(12), "never below what is known to agree");
    }

    #[test]
    fn only_what_was_sent_after_an_acknowledgement_can_contradict_it() {
        let mut peer = progress();
        let before = peer.sends(Some(Index(11)), 10, Index(0));
        peer.acknowledged(Index(11), Index(1));
        let after = peer.sends(Some(Index(12)), 10, Index(0));
        assert!(!peer.has_lost(before, Index(3)));
        assert!(peer.has_lost(after, Index(3)) && !peer.has_lost(after, Index(11)));
    }
}
