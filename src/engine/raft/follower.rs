//! Following: entries, heartbeats, and what is answered to them.

use super::{Effects, Entry, Group, Message, Role};
use crate::engine::checkpoint::Point;
use crate::engine::raft::configuration::Configuration;
use crate::engine::wal::Record;
use crate::ids::{AppendNumber, Index, Micros, ReplicaId, Round, Term};
use crate::mutant::mutant;

impl Group {
    /// Word from the leader of this term. Whether it can be one.
    pub(super) fn follow(&mut self, now: Micros, from: ReplicaId, effects: &mut Effects) -> bool {
        let other = match self.role {
            Role::Leader(_) => true,
            _ => self.leader.is_some_and(|leader| leader != from),
        };
        if other {
            self.fault("two leaders in one term", effects);
            return false;
        }
        if self.leader.is_none() || !matches!(self.role, Role::Follower) {
            self.become_follower(now, Some(from), effects);
        } else {
            self.await_leader(now);
        }
        self.heard = now;
        true
    }

    pub(super) fn on_append(
        &mut self,
        from: ReplicaId,
        number: AppendNumber,
        previous: Point,
        commit: Index,
        entries: Vec<Entry>,
        effects: &mut Effects,
    ) {
        if !are_entries(previous, &entries, self.term) {
            return;
        }
        let known = previous.index < self.log.before().index || self.log.holds(previous);
        if !known {
            let hint = self.log.last_with_term_up_to(previous.index, previous.term).unwrap_or(self.log.before());
            let last = self.log.last().index;
            return self.send_after(from, Message::Rejected { number, previous: previous.index, hint, last }, effects);
        }
        let end = Index(previous.index.0 + entries.len() as u64);
        if mutant!("stale-appends-truncate") && end < self.log.last().index && end >= self.commit {
            self.truncate(end.next(), effects);
        }
        for entry in entries {
            // What is before memory has been applied, so it is the leader's too.
            if entry.index <= self.log.before().index || self.log.holds(entry.point()) {
                continue;
            }
            if entry.index <= self.log.last().index {
                self.truncate(entry.index, effects);
                if self.faulty.is_some() {
                    return;
                }
            }
            self.append_entry(entry, effects);
        }
        // What is committed agrees with every later leader's log.
        self.verified = self.verified.max(end).max(self.commit);
        let seen = if mutant!("commit-beyond-what-was-verified") { self.log.last().index } else { end };
        self.commit_to(commit.min(seen));
        let reply = Message::Appended { matched: end.max(self.commit) };
        if mutant!("appends-acknowledged-at-once") {
            return self.send_now(from, reply, effects);
        }
        self.send_after(from, reply, effects);
    }

    /// Removes the entries from the first conflict on.
    fn truncate(&mut self, from: Index, effects: &mut Effects) {
        if from <= self.commit {
            return self.fault("a leader's log contradicts what is committed", effects);
        }
        self.save(effects);
        self.log.truncate(from);
        if !mutant!("truncation-not-logged") {
            effects.records.push(Record::Truncate { shard: self.shard, last: self.log.last() });
        }
        self.history.truncate(from);
    }

    pub(super) fn on_heartbeat(&mut self, from: ReplicaId, round: Round, commit: Index, effects: &mut Effects) {
        let verified = if mutant!("heartbeats-commit-anything") { self.log.last().index } else { self.verified };
        self.commit_to(commit.min(verified));
        self.round = self.round.max(round);
        let reply = Message::HeartbeatReply { round, verified: self.verified };
        self.send_now(from, reply, effects);
    }
}

/// Whether these can be entries of a leader of this term: without gaps, of ascending terms, and readable where the group itself
/// has to read them.
fn are_entries(previous: Point, entries: &[Entry], term: Term) -> bool {
    let mut before = previous;
    entries.iter().all(|entry| {
        let follows = entry.index == before.index.next() && entry.term >= before.term && entry.term <= term;
        before = entry.point();
        follows && !matches!(Configuration::decode(&entry.payload), Some(Err(_)))
    })
}
