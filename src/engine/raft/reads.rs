//! Linearizable reads: at what index, and when.
//!
//! A leader captures its commit index and *then* begins a round of heartbeats; when a quorum has answered that round it still led at the
//! capture, and a state that has applied the index is new enough (Ongaro 6.4). Rounds are numbered by the leader, and one serves all reads
//! that gathered before it; while it is under way the next gather. Before an entry of its own term is committed a leader's commit index
//! may lag behind what its predecessor told clients, so reads wait for that.
//!
//! ```text
//!  read ──► gathered ──(own term committed: capture, new round)──► confirming ──quorum──► pending ──applied──► answer
//!  follower's read ──► ReadRequest ──► the same ──► ReadReply ──► pending at the follower ──applied──► answer
//! ```
//!
//! A follower numbers its questions from a random number on, so that an answer to a question of its former life is none to this one's.

use std::collections::VecDeque;

use super::quorum;
use super::{Effects, Group, Message, Refusal, Role};
use crate::ids::{Index, Micros, ReadNumber, ReadToken, ReplicaId, Round};
use crate::limits::GROUP_READS_MAX;
use crate::mutant::mutant;

/// The answer to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    /// Which read.
    pub token: ReadToken,
    /// The index at which it is linearizable, applied by now; or why it cannot be answered.
    pub result: Result<Index, Refusal>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Owner(ReadToken),
    Follower(ReplicaId, ReadNumber),
}

/// A leader's reads.
#[derive(Debug, Default)]
pub(super) struct Confirming {
    round: Round,
    gathered: Vec<Asker>,
    /// The round under way: what was captured before it, and for whom.
    under_way: Option<(Round, Index, Vec<Asker>)>,
    /// Confirmed for followers, to be told with the next flush.
    answered: Vec<(ReplicaId, ReadNumber, Index)>,
}

impl Confirming {
    /// The newest round.
    pub(super) fn round(&self) -> Round {
        self.round
    }

    /// A request to lead that is still under way belongs to an earlier round than this.
    pub(super) fn give_up_transfer(&mut self) {
        self.round = self.round.next();
    }

    fn len(&self) -> usize {
        self.gathered.len() + self.under_way.as_ref().map_or(0, |(_, _, askers)| askers.len())
    }
}

/// Reads of a replica's own.
#[derive(Debug)]
pub(super) struct Pending {
    /// Confirmed, and waiting to be applied.
    confirmed: VecDeque<(ReadToken, Index)>,
    /// Not yet sent to the leader.
    gathered: Vec<ReadToken>,
    /// The question under way, for whom, and until when.
    asked: Option<(ReadNumber, Vec<ReadToken>, Micros)>,
    number: ReadNumber,
}

impl Pending {
    pub(super) fn new(number: u64) -> Pending {
        Pending { confirmed: VecDeque::new(), gathered: Vec::new(), asked: None, number: ReadNumber(number) }
    }

    fn len(&self) -> usize {
        self.confirmed.len() + self.gathered.len() + self.asked.as_ref().map_or(0, |(_, tokens, _)| tokens.len())
    }

    pub(super) fn deadline(&self) -> Option<Micros> {
        self.asked.as_ref().map(|(_, _, until)| *until)
    }

    /// Gives up a question that has not been answered in time.
    pub(super) fn expire(&mut self, now: Micros, effects: &mut Effects) {
        if let Some((_, tokens, _)) = self.asked.take_if(|(_, _, until)| *until <= now) {
            refuse(tokens, Refusal::NotLeader { leader: None }, effects);
        }
    }
}

fn refuse(tokens: Vec<ReadToken>, refusal: Refusal, effects: &mut Effects) {
    effects.reads.extend(tokens.into_iter().map(|token| ReadAnswer { token, result: Err(refusal) }));
}

impl super::leader::Leader {
    /// Reads that have not been confirmed cannot be any more. Followers ask again when their time is over.
    pub(super) fn refuse_reads(&mut self, effects: &mut Effects, leader: Option<ReplicaId>) {
        let under_way = self.reads.under_way.take().map_or(Vec::new(), |(_, _, askers)| askers);
        for asker in self.reads.gathered.drain(..).chain(under_way) {
            if let Asker::Owner(token) = asker {
                effects.reads.push(ReadAnswer { token, result: Err(Refusal::NotLeader { leader }) });
            }
        }
    }
}

impl Group {
    /// Asks at what index a read is linearizable. The answer comes with [`Effects::reads`], once that index is applied.
    ///
    /// # Errors
    /// Why there will be no answer.
    pub fn read(&mut self, token: ReadToken) -> Result<(), Refusal> {
        if self.faulty.is_some() {
            return Err(Refusal::Faulty);
        }
        if self.pending.len() >= GROUP_READS_MAX {
            return Err(Refusal::Overloaded);
        }
        match &mut self.role {
            Role::Leader(leader) if leader.is_transferring() => return Err(Refusal::Transferring),
            Role::Leader(leader) if leader.reads.len() >= GROUP_READS_MAX => return Err(Refusal::Overloaded),
            Role::Leader(_) if mutant!("reads-not-confirmed") => self.pending.confirmed.push_back((token, self.commit)),
            Role::Leader(leader) => leader.reads.gathered.push(Asker::Owner(token)),
            _ if self.leader.is_none() => return Err(Refusal::NotLeader { leader: None }),
            _ if mutant!("followers-read-by-themselves") => self.pending.confirmed.push_back((token, self.commit)),
            _ => self.pending.gathered.push(token),
        }
        Ok(())
    }

    /// The index at which a read is linearizable now, if this replica can tell without asking: it alone makes the quorum, and has
    /// committed and applied an entry of its own term.
    #[must_use]
    pub fn read_index(&self) -> Option<Index> {
        match &self.role {
            Role::Leader(leader)
                if leader.has_committed(self.applied)
                    && self.applied >= self.whole_from
                    && self.history.latest().1.is_sole_voter(self.me) =>
            {
                Some(self.applied)
            }
            _ => None,
        }
    }

    /// Begins a round for the reads that have gathered, if none is under way.
    pub(super) fn begin_round(&mut self, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        let is_known = leader.has_committed(self.commit) && !leader.is_transferring();
        let reads = &mut leader.reads;
        if mutant!("reads-join-the-round-under-way")
            && let Some((_, index, askers)) = &mut reads.under_way
        {
            *index = (*index).max(self.commit);
            askers.append(&mut reads.gathered);
        }
        if reads.gathered.is_empty() || reads.under_way.is_some() || !is_known {
            return;
        }
        if !mutant!("rounds-not-numbered") {
            reads.round = reads.round.next();
        }
        reads.under_way = Some((reads.round, self.commit, std::mem::take(&mut reads.gathered)));
        self.send_heartbeats(effects);
        self.confirm_reads();
    }

    /// Moves the round under way on, if a quorum has answered it.
    pub(super) fn confirm_reads(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.reads.under_way.is_none() {
            return;
        }
        let (me, configuration, peers) = (self.me, self.history.latest().1, &leader.peers);
        let newest = leader.reads.round;
        let of = |replica| match peers.iter().find(|peer| peer.replica == replica) {
            Some(peer) => peer.round,
            None if replica == me => newest,
            None => Round(0),
        };
        let mut confirmed = quorum::reached(configuration, of);
        if mutant!("one-answer-confirms-reads") {
            confirmed = peers.iter().map(|peer| peer.round).max().unwrap_or(confirmed);
        }
        let Some((_, index, askers)) = leader.reads.under_way.take_if(|(round, _, _)| *round <= confirmed) else {
            return;
        };
        for asker in askers {
            match asker {
                Asker::Owner(token) => self.pending.confirmed.push_back((token, index)),
                Asker::Follower(replica, number) => leader.reads.answered.push((replica, number, index)),
            }
        }
    }

    /// As a follower: asks the leader for the reads that have gathered, one question at a time.
    pub(super) fn forward_reads(&mut self, now: Micros, effects: &mut Effects) {
        if let Role::Leader(leader) = &mut self.role {
            // What had gathered before this replica led is asked of itself.
            leader.reads.gathered.extend(self.pending.gathered.drain(..).map(Asker::Owner));
            return;
        }
        if self.pending.gathered.is_empty() || self.pending.asked.is_some() {
            return;
        }
        let tokens = std::mem::take(&mut self.pending.gathered);
        let Some(leader) = self.leader else { return refuse(tokens, Refusal::NotLeader { leader: None }, effects) };
        let number = self.pending.number;
        self.pending.number = number.next();
        self.pending.asked = Some((number, tokens, now.plus(self.timing.election_micros)));
        self.send_now(leader, Message::ReadRequest { number }, effects);
    }

    pub(super) fn on_read_request(&mut self, from: ReplicaId, number: ReadNumber, effects: &mut Effects) {
        let can = match &mut self.role {
            Role::Leader(leader) if !leader.is_transferring() && leader.reads.len() < GROUP_READS_MAX => {
                leader.reads.gathered.push(Asker::Follower(from, number));
                true
            }
            _ => false,
        };
        if !can {
            self.send_now(from, Message::ReadReply { number, index: None }, effects);
        }
    }

    pub(super) fn on_read_reply(&mut self, number: ReadNumber, index: Option<Index>, effects: &mut Effects) {
        let Some((_, tokens, _)) = self.pending.asked.take_if(|(asked, _, _)| *asked == number) else { return };
        match index {
            Some(index) => self.pending.confirmed.extend(tokens.into_iter().map(|token| (token, index))),
            None => refuse(tokens, Refusal::NotLeader { leader: None }, effects),
        }
    }

    /// Answers reads whose index is applied.
    pub(super) fn answer_reads(&mut self, effects: &mut Effects) {
        if let Role::Leader(leader) = &mut self.role {
            for (replica, number, index) in std::mem::take(&mut leader.reads.answered) {
                self.send_now(replica, Message::ReadReply { number, index: Some(index) }, effects);
            }
        }
        let applied = if mutant!("reads-do-not-await-apply") { Index(u64::MAX) } else { self.applied };
        // A state put together from pages of different moments is none yet.
        if self.applied < self.whole_from {
            return;
        }
        let mut waiting = VecDeque::new();
        for (token, index) in self.pending.confirmed.drain(..) {
            if index <= applied {
                effects.reads.push(ReadAnswer { token, result: Ok(index) });
            } else {
                waiting.push_back((token, index));
            }
        }
        self.pending.confirmed = waiting;
    }
}
