//! Elections: asking first, then for votes, and answering both.
//!
//! A replica that hears no leader *asks* whether it would win; only if a quorum would vote for it does it begin a term. So one that
//! was cut off comes back without having raised its term, and deposes nobody. Voters answer by log and term alone and not by their
//! own configuration, which may be the older one (Ongaro 4.1, 4.2.3, 9.6).

use super::leader::Leader;
use super::quorum::{self, Tally};
use super::{Effects, Group, Message, Notice, Role};
use crate::engine::checkpoint::Point;
use crate::ids::{Index, Micros, ReplicaId, Round, Term};
use crate::mutant::mutant;

/// Who has said what. Belongs to one term and one kind of vote, and dies with the role that holds it.
pub(super) type Votes = Vec<(ReplicaId, bool)>;

impl Group {
    /// Begins an election at once, as the only voter of its group may: it has nobody to ask first.
    ///
    /// # Panics
    /// There are others.
    pub fn campaign_alone(&mut self, now: Micros, effects: &mut Effects) {
        assert!(self.history.latest().1.is_sole_voter(self.me), "only the sole voter need not ask");
        self.campaign(now, false, effects);
        self.finish(effects);
    }

    /// Asks whether it would win.
    pub(super) fn pre_campaign(&mut self, now: Micros, effects: &mut Effects) {
        if self.history.latest().1.is_sole_voter(self.me) {
            return self.campaign(now, false, effects);
        }
        self.leader = None;
        self.role = Role::PreCandidate(vec![(self.me, true)]);
        self.await_leader(now);
        let message = Message::PreVoteRequest { campaign: self.term.next(), last: self.log.last() };
        self.send_to_voters(&message, |group, to, message| group.send_now(to, message, effects));
    }

    /// Begins a term with a vote for itself. The requests leave once term, vote and log are durable: otherwise votes for this log could be
    /// counted, after a crash, for a shorter one.
    pub(super) fn campaign(&mut self, now: Micros, transfer: bool, effects: &mut Effects) {
        self.term = self.term.next();
        self.vote = self.me;
        self.unsaved = true;
        self.leader = None;
        (self.verified, self.round) = (Index(0), Round(0));
        self.role = Role::Candidate(Votes::new());
        self.await_leader(now);
        self.save(effects);
        let message = Message::VoteRequest { last: self.log.last(), transfer };
        if mutant!("vote-requests-not-awaited") {
            self.send_to_voters(&message, |group, to, message| group.send_now(to, message, effects));
            return self.on_vote_reply(now, self.me, true, effects);
        }
        self.send_to_voters(&message, |group, to, message| group.send_after(to, message, effects));
        self.send_after(self.me, Message::VoteReply { granted: true }, effects);
    }

    fn send_to_voters(&self, message: &Message, mut send: impl FnMut(&Group, ReplicaId, Message)) {
        let members = self.history.latest().1.members();
        for voter in members.iter().filter(|member| member.incoming || member.outgoing) {
            if voter.replica != self.me {
                send(self, voter.replica, message.clone());
            }
        }
    }

    /// Whether a log that ends so has all that could be committed in this one (Raft paper 5.4.1).
    fn is_up_to_date(&self, last: Point) -> bool {
        let own = self.log.last();
        if mutant!("longer-logs-win") {
            return last.index >= own.index;
        }
        if mutant!("later-terms-win-at-any-length") {
            return last.term >= own.term;
        }
        if mutant!("any-log-wins") {
            return true;
        }
        (last.term, last.index) >= (own.term, own.index)
    }

    pub(super) fn on_pre_vote_request(
        &mut self,
        now: Micros,
        from: ReplicaId,
        campaign: Term,
        last: Point,
        effects: &mut Effects,
    ) {
        let granted = campaign > self.term && self.is_up_to_date(last) && !self.hears_leader(now);
        self.send_now(from, Message::PreVoteReply { campaign, granted }, effects);
    }

    pub(super) fn on_pre_vote_reply(
        &mut self,
        now: Micros,
        from: ReplicaId,
        campaign: Term,
        granted: bool,
        effects: &mut Effects,
    ) {
        if mutant!("pre-votes-count-as-votes") && campaign == self.term {
            return self.on_vote_reply(now, from, granted, effects);
        }
        let Role::PreCandidate(votes) = &mut self.role else { return };
        if campaign != self.term.next() || !self.history.latest().1.votes(from) {
            return;
        }
        note(votes, from, granted);
        match self.tally() {
            Tally::Won => self.campaign(now, false, effects),
            Tally::Lost => self.become_follower(now, None, effects),
            Tally::Open => {}
        }
    }

    pub(super) fn on_vote_request(&mut self, now: Micros, from: ReplicaId, last: Point, effects: &mut Effects) {
        let free = self.vote == from || (self.vote == ReplicaId::NONE && self.leader.is_none());
        let free = free || (mutant!("votes-twice") && !self.is_leader());
        let stranger = mutant!("only-members-get-votes") && !self.history.latest().1.votes(from);
        let granted = free && self.is_up_to_date(last) && !stranger;
        if granted {
            self.vote = from;
            self.unsaved = true;
            self.await_leader(now);
        }
        let reply = Message::VoteReply { granted };
        if mutant!("votes-not-awaited") {
            return self.send_now(from, reply, effects);
        }
        self.send_after(from, reply, effects);
    }

    pub(super) fn on_vote_reply(&mut self, now: Micros, from: ReplicaId, granted: bool, effects: &mut Effects) {
        let Role::Candidate(votes) = &mut self.role else { return };
        // What strangers say is not even remembered.
        if from != self.me && !self.history.latest().1.votes(from) {
            return;
        }
        note(votes, from, granted);
        match self.tally() {
            Tally::Won => self.lead(now, effects),
            Tally::Lost => self.become_follower(now, None, effects),
            Tally::Open => {}
        }
    }

    fn tally(&self) -> Tally {
        let (Role::PreCandidate(votes) | Role::Candidate(votes)) = &self.role else { return Tally::Open };
        let said = |replica| votes.iter().find(|(voter, _)| *voter == replica).map(|(_, granted)| *granted);
        quorum::tally(self.history.latest().1, said)
    }

    /// The leader of this term wants this replica to lead. If leader or log are others by now, the request is late.
    pub(super) fn on_timeout_now(
        &mut self,
        now: Micros,
        from: ReplicaId,
        last: Point,
        round: Round,
        effects: &mut Effects,
    ) {
        let in_time = self.leader == Some(from) && self.log.last() == last && round >= self.round;
        let meant = matches!(self.role, Role::Follower) && in_time;
        if (meant || mutant!("late-timeouts-heeded")) && self.is_promotable() && !self.is_leader() {
            self.campaign(now, true, effects);
        }
    }

    fn lead(&mut self, now: Micros, effects: &mut Effects) {
        self.leader = Some(self.me);
        self.role = Role::Leader(Box::new(Leader::new(self, now)));
        effects.notices.push(Notice::Leads);
        // Without an entry of its own term a leader can neither commit what it has inherited nor answer reads.
        if !mutant!("no-entry-of-the-own-term") {
            self.append_first(effects);
        }
    }
}

/// A replica's first word counts.
fn note(votes: &mut Votes, from: ReplicaId, granted: bool) {
    if !votes.iter().any(|(voter, _)| *voter == from) {
        votes.push((from, granted));
    }
}
