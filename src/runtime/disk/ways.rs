//! Which way small appends are made durable: a write that syncs by itself (`RWF_DSYNC`), or a write with a sync linked behind it.
//!
//! The first is one completion instead of two and spares a hand-over to a worker, and so it is faster by a tenth or two for
//! small writes. But the kernel finishes such a write in a work queue of the core that issued it, and if that core is kept
//! busy by something else, it waits there for a scheduler tick: 4 ms instead of 60 µs. Which it is depends on machine and neighbours, so
//! it is tried: the other way gets a short trial now and then, rarer each time it loses, and a trial that goes badly
//! ends with its first append.

use std::time::Duration;

use crate::limits::{APPEND_TRIAL_EVERY_MAX, APPEND_TRIAL_EVERY_MIN, APPEND_TRIAL_LENGTH};

/// A trial ends at once when an append takes so many times longer than they do the present way.
const BAD: u32 = 8;

/// A way to make an append durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A write, and linked behind it an fdatasync.
    LinkedSync,
    /// A write with `RWF_DSYNC`.
    SyncedWrite,
}

impl Way {
    fn other(self) -> Way {
        match self {
            Way::LinkedSync => Way::SyncedWrite,
            Way::SyncedWrite => Way::LinkedSync,
        }
    }
}

/// What has been learned.
#[derive(Debug)]
pub(super) struct Ways {
    present: Way,
    /// A moving average of how long appends take the present way.
    time: Option<Duration>,
    /// Of a trial of the other way: how many appends have ended, and how long they took together.
    trial: Option<(u32, Duration)>,
    until_trial: u32,
    trial_every: u32,
}

impl Default for Ways {
    fn default() -> Ways {
        Ways {
            present: Way::LinkedSync,
            time: None,
            trial: None,
            until_trial: APPEND_TRIAL_EVERY_MIN,
            trial_every: APPEND_TRIAL_EVERY_MIN,
        }
    }
}

impl Ways {
    /// The way of the next append.
    pub(super) fn choose(&mut self) -> Way {
        if self.trial.is_some() {
            return self.present.other();
        }
        self.until_trial = self.until_trial.saturating_sub(1);
        if self.until_trial == 0 && self.time.is_some() {
            self.trial = Some((0, Duration::ZERO));
        }
        self.present
    }

    /// Takes note of how long an append took.
    pub(super) fn note(&mut self, way: Way, took: Duration) {
        if way == self.present {
            // The core has become busy, maybe: that is found out at once, not after thousands of such appends.
            if way == Way::SyncedWrite && self.time.is_some_and(|time| took > BAD * time) {
                self.until_trial = self.until_trial.min(1);
            }
            self.time = Some(self.time.map_or(took, |time| (15 * time + took) / 16));
            return;
        }
        let (Some((count, sum)), Some(time)) = (self.trial, self.time) else { return };
        let (count, sum) = (count + 1, sum + took);
        self.trial = Some((count, sum));
        if took > BAD * time {
            self.end_trial(None);
        } else if count == APPEND_TRIAL_LENGTH {
            // A tenth is more than noise, over so many.
            self.end_trial(Some(sum / count).filter(|tried| *tried < time * 9 / 10));
        }
    }

    fn end_trial(&mut self, faster: Option<Duration>) {
        self.trial = None;
        match faster {
            Some(time) => {
                (self.present, self.time) = (self.present.other(), Some(time));
                self.trial_every = APPEND_TRIAL_EVERY_MIN;
            }
            None => self.trial_every = (2 * self.trial_every).min(APPEND_TRIAL_EVERY_MAX),
        }
        self.until_trial = self.trial_every;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes appends that take so long; returns how many of them went the other way than linked.
    fn appends(ways: &mut Ways, count: usize, linked: u64, synced: u64) -> usize {
        let mut chosen = 0;
        for _ in 0..count {
            let way = ways.choose();
            let micros = if way == Way::LinkedSync { linked } else { synced };
            chosen += usize::from(way == Way::SyncedWrite);
            ways.note(way, Duration::from_micros(micros));
        }
        chosen
    }

    #[test]
    fn the_faster_way_is_found_and_left_again_when_it_is_no_longer() {
        let mut ways = Ways::default();
        let first = appends(&mut ways, 10_000, 100, 80);
        assert!(first > 9_000, "{first}");
        // Something begins to keep the core busy.
        let then = appends(&mut ways, 10_000, 110, 4_000);
        assert!(then < 30, "{then}");
        let later = appends(&mut ways, 100_000, 110, 4_000);
        assert!(later < 20, "a lost trial is one append, and they become rare: {later}");
    }

    #[test]
    fn ways_that_are_alike_are_not_changed() {
        let mut ways = Ways::default();
        let tried = appends(&mut ways, 100_000, 100, 95);
        assert!(tried < 200, "{tried}");
    }
}
