//! The meta shard's list of sessions: which ids were handed out, how old they are, and which names they have.
//!
//! Part of the replicated state: it changes by entries alone, and time is in the entries. *Log time* is the sum of what
//! leaders measured between their entries, each step capped; it stands still while there is no leader, so a cluster that was
//! switched off finds its sessions as young as it left them.

mod image;

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{Micros, Sequence, SessionEpoch, SessionId};
use crate::limits::LOG_TIME_STEP_MICROS_MAX;

/// What became of an entry that asked the registry for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// A session was opened.
    Opened {
        /// Its id.
        session: SessionId,
        /// Which opening.
        epoch: SessionEpoch,
        /// Sequences go on after this one.
        progress: Sequence,
        /// Whether it was open before.
        resumed: bool,
    },
    /// A named session was closed.
    Closed,
    /// The session of that name expired while it was open: what its holder sent last can no longer be known.
    Expired,
    /// The session was opened again since.
    Taken,
}

/// A named session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    session: SessionId,
    epoch: SessionEpoch,
    /// Settled by its last closing.
    progress: Sequence,
    /// No request after `progress` was sent.
    closed: bool,
}

/// The sessions of a cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Registry {
    last: SessionId,
    mark: SessionId,
    log_time: Micros,
    /// When each session above the mark was opened, in log time, in id order.
    opened: VecDeque<Micros>,
    names: BTreeMap<Vec<u8>, Named>,
    /// The name of each session that has one and is above the mark.
    named: BTreeMap<SessionId, Vec<u8>>,
}

impl Registry {
    /// Advances log time by what a leader measured since its last entry.
    pub fn advance(&mut self, elapsed_micros: u64) {
        self.log_time = self.log_time.plus(elapsed_micros.min(LOG_TIME_STEP_MICROS_MAX));
    }

    /// Opens a session without a name.
    pub fn open(&mut self) -> Registered {
        let session = self.mint();
        Registered::Opened { session, epoch: SessionEpoch(1), progress: Sequence(0), resumed: false }
    }

    /// Opens the session of a name: a new one if there was none or it was closed, else the same under the next epoch.
    pub fn open_named(&mut self, name: &[u8]) -> Registered {
        match self.names.get_mut(name) {
            Some(named) if !named.closed && named.session <= self.mark => Registered::Expired,
            Some(named) if !named.closed => {
                named.epoch.0 += 1;
                let Named { session, epoch, progress, .. } = *named;
                Registered::Opened { session, epoch, progress, resumed: true }
            }
            before => {
                let progress = before.map_or(Sequence(0), |named| named.progress);
                let session = self.mint();
                let epoch = SessionEpoch(1);
                self.names.insert(name.to_vec(), Named { session, epoch, progress, closed: false });
                self.named.insert(session, name.to_vec());
                Registered::Opened { session, epoch, progress, resumed: false }
            }
        }
    }

    /// Closes a named session. Closing it again changes nothing.
    pub fn close(&mut self, session: SessionId, epoch: SessionEpoch, progress: Sequence) -> Registered {
        let Some(named) = self.named.get(&session).and_then(|name| self.names.get_mut(name)) else {
            return if session <= self.mark { Registered::Expired } else { Registered::Closed };
        };
        if (named.session, named.epoch) != (session, epoch) {
            return Registered::Taken;
        }
        named.progress = named.progress.max(progress);
        named.closed = true;
        Registered::Closed
    }

    /// Moves the mark up to a session that was handed out. It never goes back.
    pub fn expire(&mut self, up_to: SessionId) {
        let up_to = up_to.min(self.last);
        while self.mark < up_to {
            self.mark.0 += 1;
            self.opened.pop_front();
        }
        self.named = self.named.split_off(&SessionId(self.mark.0 + 1));
    }

    /// Sessions up to this one have expired.
    #[must_use]
    pub fn mark(&self) -> SessionId {
        self.mark
    }

    /// Sessions that have not expired.
    #[must_use]
    pub fn len(&self) -> usize {
        self.opened.len()
    }

    /// Whether every session has expired.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty()
    }

    /// Names that are remembered.
    #[must_use]
    pub fn names(&self) -> usize {
        self.names.len()
    }

    /// Whether a name is known.
    #[must_use]
    pub fn knows(&self, name: &[u8]) -> bool {
        self.names.contains_key(name)
    }

    /// The last session that is older than `age_micros` once `elapsed_micros` more have passed, if any is.
    #[must_use]
    pub fn due(&self, elapsed_micros: u64, age_micros: u64) -> Option<SessionId> {
        let now = self.log_time.plus(elapsed_micros.min(LOG_TIME_STEP_MICROS_MAX));
        let old = self.opened.partition_point(|opened| opened.plus(age_micros) <= now);
        (old > 0).then(|| SessionId(self.mark.0 + old as u64))
    }

    /// Microseconds of log time until the oldest session reaches an age, or until log time has to be advanced to keep up;
    /// `None` if no session is open.
    #[must_use]
    pub fn next_due(&self, age_micros: u64) -> Option<u64> {
        let oldest = self.opened.front()?;
        Some(oldest.plus(age_micros).0.saturating_sub(self.log_time.0).min(LOG_TIME_STEP_MICROS_MAX))
    }

    fn mint(&mut self) -> SessionId {
        self.last.0 += 1;
        self.opened.push_back(self.log_time);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(registered: Registered) -> (u64, u32, u64, bool) {
        match registered {
            Registered::Opened { session, epoch, progress, resumed } => (session.0, epoch.0, progress.0, resumed),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sessions_expire_by_age_in_the_order_of_their_ids() {
        let mut registry = Registry::default();
        assert_eq!(opened(registry.open()), (1, 1, 0, false));
        registry.advance(10);
        assert_eq!(opened(registry.open()), (2, 1, 0, false));
        assert_eq!(registry.due(89, 100), None);
        assert_eq!(registry.due(90, 100), Some(SessionId(1)));
        assert_eq!(registry.due(100, 100), Some(SessionId(2)));
        assert_eq!(registry.next_due(100), Some(90));
        registry.advance(90);
        registry.expire(SessionId(1));
        assert_eq!((registry.mark(), registry.len()), (SessionId(1), 1));
        registry.expire(SessionId(1));
        registry.expire(SessionId(99));
        assert_eq!((registry.mark(), registry.len()), (SessionId(2), 0), "only what was handed out expires");
        assert_eq!(registry.next_due(100), None);
    }

    /// S1: a leader whose clock jumps ages sessions by no more than the cap.
    #[test]
    fn log_time_is_capped_an_entry() {
        let mut registry = Registry::default();
        registry.open();
        assert_eq!(registry.due(u64::MAX, LOG_TIME_STEP_MICROS_MAX + 1), None);
        registry.advance(u64::MAX);
        assert_eq!(registry.due(0, LOG_TIME_STEP_MICROS_MAX + 1), None);
        assert_eq!(registry.due(1, LOG_TIME_STEP_MICROS_MAX + 1), Some(SessionId(1)));
    }

    #[test]
    fn a_name_is_taken_over_while_open_and_goes_on_where_it_was_closed() {
        let mut registry = Registry::default();
        assert_eq!(opened(registry.open_named(b"job")), (1, 1, 0, false));
        assert_eq!(opened(registry.open_named(b"job")), (1, 2, 0, true));
        assert_eq!(registry.close(SessionId(1), SessionEpoch(1), Sequence(7)), Registered::Taken);
        assert_eq!(registry.close(SessionId(1), SessionEpoch(2), Sequence(7)), Registered::Closed);
        assert_eq!(registry.close(SessionId(1), SessionEpoch(2), Sequence(7)), Registered::Closed);
        assert_eq!(opened(registry.open_named(b"job")), (2, 1, 7, false));
        assert_eq!(registry.close(SessionId(1), SessionEpoch(2), Sequence(9)), Registered::Taken);
        assert_eq!(registry.names(), 1);
    }

    #[test]
    fn a_name_that_expired_while_open_is_refused_and_one_that_was_closed_goes_on() {
        let mut registry = Registry::default();
        registry.open_named(b"open");
        registry.open_named(b"closed");
        registry.close(SessionId(2), SessionEpoch(1), Sequence(5));
        registry.expire(SessionId(2));
        assert_eq!(registry.open_named(b"open"), Registered::Expired);
        assert_eq!(opened(registry.open_named(b"closed")), (3, 1, 5, false));
        assert_eq!(registry.close(SessionId(1), SessionEpoch(1), Sequence(5)), Registered::Expired);
    }
}
