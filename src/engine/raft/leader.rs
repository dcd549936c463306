//! Leading: proposals, replication, the commit rule, and when to stop.
//!
//! A leader's appends leave in parallel with its own log write, and it counts itself by what is durable like anybody else (Ongaro 10.2.1). It
//! stops leading when a quorum has not answered for an election timeout, when its own disk stands still, and when a configuration
//! without it is committed.

use super::configuration::{Change, Configuration, ConfigurationError};
use super::install::{Offer, Sending};
use super::progress::{Flow, Progress};
use super::quorum;
use super::reads::Confirming;
use super::{Conditions, Effects, Entry, Group, Message, Notice, Refusal, Role};
use crate::engine::checkpoint::Point;
use crate::engine::raft::configuration::NO_OP;
use crate::ids::{AppendNumber, Index, Micros, ReplicaId, Round};
use crate::limits::{APPEND_ENTRIES_MAX, GROUP_UNCOMMITTED_BYTES_MAX};
use crate::mutant::mutant;
use std::rc::Rc;

/// What only a leader has.
#[derive(Debug)]
pub(super) struct Leader {
    /// The first index of its own term.
    first: Index,
    /// The other members, in ascending order of their ids.
    pub(super) peers: Vec<Progress>,
    /// Its own log is durable up to here.
    durable: Index,
    /// Its own log will be acknowledged up to here.
    acknowledging: Index,
    heartbeat_at: Micros,
    /// Payload bytes of entries behind `released`.
    unsettled_bytes: usize,
    /// Up to here entries are committed and durable here.
    released: Index,
    pub(super) reads: Confirming,
    transfer: Option<Transfer>,
    /// The checkpoint that followers too far behind get.
    pub(super) offer: Option<Rc<Offer>>,
    /// The owner has been asked for one.
    pub(super) offer_wanted: bool,
}

/// Leadership on its way to another replica.
#[derive(Debug)]
struct Transfer {
    to: ReplicaId,
    /// When it is given up.
    until: Micros,
    /// Whether the other has been told to begin.
    told: bool,
}

impl Leader {
    pub(super) fn new(group: &Group, now: Micros) -> Leader {
        let last = group.log.last().index;
        let mut leader = Leader {
            first: last.next(),
            peers: Vec::new(),
            durable: Index(0),
            acknowledging: Index(0),
            heartbeat_at: now,
            // What is inherited counts too, or a new leader could take as much again.
            unsettled_bytes: group.log.payload_bytes_behind(group.commit),
            released: group.commit,
            reads: Confirming::default(),
            transfer: None,
            offer: None,
            offer_wanted: false,
        };
        for (at, configuration) in group.history.since(group.commit) {
            leader.adopt_members(at, configuration, group.me, last, now);
        }
        leader
    }

    /// Brings the peers in line with a configuration.
    fn adopt_members(&mut self, at: Index, configuration: &Configuration, me: ReplicaId, last: Index, now: Micros) {
        self.peers.retain(|peer| configuration.member(peer.replica).is_some());
        for member in configuration.members().iter().filter(|member| member.replica != me) {
            if self.peer(member.replica).is_none() {
                self.peers.push(Progress::new(member.replica, at, last, now));
            }
        }
        self.peers.sort_unstable_by_key(|peer| peer.replica);
    }

    pub(super) fn peer(&mut self, replica: ReplicaId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|peer| peer.replica == replica)
    }

    /// When the next heartbeat is due; never without anybody to hear it.
    pub(super) fn heartbeat_at(&self) -> Option<Micros> {
        (!self.peers.is_empty()).then_some(self.heartbeat_at)
    }

    pub(super) fn released(&self) -> Index {
        self.released
    }

    pub(super) fn sends_checkpoint(&self) -> bool {
        self.peers.iter().any(|peer| matches!(peer.flow, Flow::Checkpoint(_)))
    }

    /// Whether an entry of the own term is committed.
    pub(super) fn has_committed(&self, commit: Index) -> bool {
        commit >= self.first || mutant!("reads-before-the-own-term-commits")
    }

    pub(super) fn is_transferring(&self) -> bool {
        self.transfer.is_some()
    }

    pub(super) fn check(&self, last: Index, commit: Index) -> Result<(), &'static str> {
        if self.durable > last || self.released > commit {
            return Err("a leader counts entries it does not have");
        }
        self.peers.iter().try_for_each(Progress::check)
    }
}

impl Group {
    /// Proposes an entry. It leaves for the followers with the next [`Group::flush`].
    ///
    /// # Errors
    /// Why it was not taken. It is in no log then.
    pub fn propose(&mut self, payload: Vec<u8>, effects: &mut Effects) -> Result<Index, Refusal> {
        if self.faulty.is_some() {
            return Err(Refusal::Faulty);
        }
        let Role::Leader(leader) = &mut self.role else { return Err(Refusal::NotLeader { leader: self.leader }) };
        if leader.is_transferring() {
            return Err(Refusal::Transferring);
        }
        if leader.unsettled_bytes + payload.len() > GROUP_UNCOMMITTED_BYTES_MAX && !mutant!("proposals-unbounded") {
            return Err(Refusal::Overloaded);
        }
        let index = self.append_own(payload, effects);
        if mutant!("refused-although-appended") && index.0.is_multiple_of(16) {
            return Err(Refusal::Overloaded);
        }
        self.assert_invariants();
        Ok(index)
    }

    /// A leader's first entry. That of a group's log is its configuration, so that a replica which gets the log from its beginning knows at
    /// each index who belonged to the group.
    pub(super) fn append_first(&mut self, effects: &mut Effects) {
        let begins = self.log.last().index == Index(0) && !mutant!("log-begins-without-configuration");
        let payload = if begins { self.history.latest().1.encode() } else { NO_OP.to_vec() };
        self.append_own(payload, effects);
    }

    fn append_own(&mut self, payload: Vec<u8>, effects: &mut Effects) -> Index {
        let index = self.log.last().index.next();
        if let Role::Leader(leader) = &mut self.role {
            leader.unsettled_bytes += payload.len();
        }
        self.append_entry(Entry { term: self.term, index, payload: Rc::new(payload) }, effects);
        index
    }

    /// Changes who belongs to the group. The change is computed from the configuration whose entry is at `based_on`.
    ///
    /// # Errors
    /// Why it was not begun.
    pub fn change(
        &mut self,
        now: Micros,
        change: &Change,
        based_on: Index,
        effects: &mut Effects,
    ) -> Result<Index, Refusal> {
        if self.faulty.is_some() {
            return Err(Refusal::Faulty);
        }
        let Role::Leader(leader) = &mut self.role else { return Err(Refusal::NotLeader { leader: self.leader }) };
        let (at, configuration) = self.history.latest();
        if leader.is_transferring() {
            return Err(Refusal::Transferring);
        }
        let settled = leader.has_committed(self.commit) || mutant!("changed-before-the-own-term-commits");
        let alone = (at <= self.commit && !configuration.is_joint()) || mutant!("changes-overlap");
        if !settled || !alone {
            return Err(Refusal::ChangeUnderWay);
        }
        if based_on != at {
            return Err(Refusal::Moved);
        }
        if let Change::Voters(voters) = change {
            let last = self.log.last().index;
            // Those who are one message behind at most do not hold up what comes after the change.
            let near = Index(last.0.saturating_sub(APPEND_ENTRIES_MAX as u64));
            let mut lagging = leader.peers.iter().filter(|peer| peer.matched() < near.max(Index(1)));
            if lagging.any(|peer| voters.contains(&peer.replica) && !configuration.votes(peer.replica)) {
                return Err(Refusal::NotCaughtUp);
            }
        }
        let to = configuration.changed(change).map_err(Refusal::Impossible)?;
        let index = self.append_configuration(now, &to, effects);
        self.assert_invariants();
        Ok(index)
    }

    fn append_configuration(&mut self, now: Micros, to: &Configuration, effects: &mut Effects) -> Index {
        let last = self.log.last().index;
        let index = self.append_own(to.encode(), effects);
        if let Role::Leader(leader) = &mut self.role {
            leader.adopt_members(index, to, self.me, last, now);
            // It may have had nobody to send to, and nothing due.
            leader.heartbeat_at = leader.heartbeat_at.max(now);
        }
        index
    }

    /// Hands leadership to a voter, once that has the whole log. Meanwhile nothing is proposed; if the other does not lead in time,
    /// this replica goes on.
    ///
    /// # Errors
    /// Why that was not begun.
    pub fn transfer(&mut self, now: Micros, to: ReplicaId) -> Result<(), Refusal> {
        if self.faulty.is_some() {
            return Err(Refusal::Faulty);
        }
        let Role::Leader(leader) = &mut self.role else { return Err(Refusal::NotLeader { leader: self.leader }) };
        if leader.is_transferring() {
            return Err(Refusal::Transferring);
        }
        let votes = self.history.latest().1.member(to).is_some_and(|member| member.incoming);
        if !votes || to == self.me {
            return Err(Refusal::Impossible(ConfigurationError::NotAMember));
        }
        leader.transfer = Some(Transfer { to, until: now.plus(self.timing.election_micros), told: false });
        Ok(())
    }

    /// What is due at a leader.
    pub(super) fn lead_on(&mut self, now: Micros, conditions: Conditions, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.peers.is_empty() || now < leader.heartbeat_at {
            return;
        }
        let (me, election) = (self.me, self.timing.election_micros);
        let configuration = self.history.latest().1;
        let sole = configuration.is_sole_voter(me);
        let peers = &leader.peers;
        let heard = |replica| match peers.iter().find(|peer| peer.replica == replica) {
            Some(peer) => peer.heard,
            None if replica == me => now,
            None => Micros(0),
        };
        let cut_off = quorum::reached(configuration, heard).plus(election) < now && !mutant!("leads-without-a-quorum");
        if !sole && (cut_off || (conditions.log_stalled && !mutant!("leads-with-a-stalled-log"))) {
            return self.become_follower(now, None, effects);
        }
        if leader.transfer.as_ref().is_some_and(|transfer| transfer.until <= now) && !mutant!("transfers-never-end") {
            leader.transfer = None;
            leader.reads.give_up_transfer();
        }
        leader.heartbeat_at = now.plus(self.timing.heartbeat_micros);
        leader.peers.iter_mut().for_each(Progress::interval);
        leader.offer_wanted = false;
        self.send_heartbeats(effects);
    }

    /// Says to everybody that it leads, and in which round.
    pub(super) fn send_heartbeats(&self, effects: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        let hears = |peer: &&Progress| !matches!(peer.flow, Flow::Lost) && peer.added_at <= self.commit;
        for peer in leader.peers.iter().filter(hears) {
            let message = Message::Heartbeat { round: leader.reads.round(), commit: self.commit };
            self.send_now(peer.replica, message, effects);
        }
    }

    /// Lets go what has gathered at a leader.
    pub(super) fn flush_leader(&mut self, now: Micros, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        let last = self.log.last();
        if leader.acknowledging < last.index {
            leader.acknowledging = last.index;
            if mutant!("leader-counts-what-is-not-durable") {
                self.own_durable(last.index);
                self.advance(now, effects);
            } else {
                self.send_after(self.me, Message::Appended { matched: last.index }, effects);
            }
        }
        // A change of the configuration may have left a round with all the answers it needs.
        if !mutant!("rounds-not-looked-at-after-changes") {
            self.confirm_reads();
        }
        self.begin_round(effects);
        let Role::Leader(leader) = &mut self.role else { return };
        for place in 0..leader.peers.len() {
            self.replicate(place, effects);
        }
        self.hand_over(last, effects);
    }

    fn hand_over(&mut self, last: Point, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let has_all = leader.peers.iter().any(|peer| peer.replica == transfer.to && peer.matched() == last.index);
        if has_all && !transfer.told {
            transfer.told = true;
            let to = transfer.to;
            let round = leader.reads.round();
            self.send_now(to, Message::TimeoutNow { last, round }, effects);
        }
    }

    /// Sends one peer what may be sent to it.
    fn replicate(&mut self, place: usize, effects: &mut Effects) {
        loop {
            let Role::Leader(leader) = &mut self.role else { return };
            let peer = &mut leader.peers[place];
            let not_yet = peer.added_at > self.commit && !mutant!("replicas-written-to-before-they-are-added");
            if matches!(peer.flow, Flow::Lost) || not_yet {
                return;
            }
            let previous = Index(peer.next().0 - 1);
            if previous < self.log.before().index && !matches!(peer.flow, Flow::Checkpoint(_)) {
                peer.needs_checkpoint();
            }
            if matches!(peer.flow, Flow::Checkpoint(_)) {
                return self.send_checkpoint(place, effects);
            }
            let probes = matches!(peer.flow, Flow::Probe { .. });
            let more = peer.next() <= self.log.last().index;
            // A probe goes out also without entries. Commit index and nudge go around a full window.
            let with_entries = peer.may_send() && (more || probes);
            if !with_entries && (probes || !(peer.nudge || peer.told < self.commit)) {
                return;
            }
            let (entries, bytes) =
                if with_entries { self.log.batch(peer.next(), self.batch_entries_max) } else { (Vec::new(), 0) };
            let last = entries.last().map(|entry| entry.index);
            let number = peer.sends(last, bytes, self.commit);
            let to = peer.replica;
            let term = self.log.term_at(previous).expect("the entry before is at least at the edge of memory");
            let previous = Point { index: previous, term };
            let append = Message::Append { number, previous, commit: self.commit, entries };
            self.send_now(to, append, effects);
        }
    }

    pub(super) fn on_appended(&mut self, now: Micros, from: ReplicaId, matched: Index, effects: &mut Effects) {
        let (first, last) = (self.log.before().index.next(), self.log.last().index);
        if from == self.me {
            if !matches!(self.role, Role::Leader(_)) {
                return;
            }
            self.own_durable(matched.min(last));
        } else {
            let Role::Leader(leader) = &mut self.role else { return };
            let Some(peer) = leader.peer(from) else { return };
            if matched > last || matches!(peer.flow, Flow::Lost) {
                return;
            }
            peer.heard = now;
            peer.acknowledged(matched, first);
        }
        self.advance(now, effects);
    }

    fn own_durable(&mut self, matched: Index) {
        if let Role::Leader(leader) = &mut self.role {
            leader.durable = leader.durable.max(matched);
        }
    }

    /// Commits what a quorum has made durable. Only an entry of the own term is committed by counting; those before it are committed
    /// with it (Raft paper 5.4.2).
    fn advance(&mut self, now: Micros, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        let (me, configuration) = (self.me, self.history.latest().1);
        let (peers, durable) = (&leader.peers, leader.durable);
        let of = |replica| match peers.iter().find(|peer| peer.replica == replica) {
            Some(peer) => peer.matched(),
            None if replica == me => durable,
            None => Index(0),
        };
        let mut committed = quorum::reached(configuration, of);
        debug_assert!(!cfg!(debug_assertions) || cfg!(feature = "mutants") || is_quorum(configuration, committed, of));
        if mutant!("leader-counts-itself-always") && !configuration.votes(me) {
            let mut all: Vec<Index> = configuration.incoming().map(of).chain([durable]).collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            committed = committed.max(all[quorum::majority(all.len() - 1) - 1]);
        }
        if committed >= leader.first || mutant!("old-terms-committed-by-counting") {
            self.commit_to(committed);
        }
        self.release();
        self.configuration_committed(now, effects);
    }

    /// Gives room for proposals back, for what is both committed and durable here.
    fn release(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let to = self.commit.min(leader.durable);
        while leader.released < to {
            leader.released = leader.released.next();
            let entry = self.log.get(leader.released).expect("what is not released is in memory");
            if !mutant!("room-never-given-back") {
                leader.unsettled_bytes -= entry.payload.len();
            }
        }
    }

    /// What follows when the configuration in effect is committed: a joint one is left, and a leader that is not in it goes.
    fn configuration_committed(&mut self, now: Micros, effects: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        let (at, configuration) = self.history.latest();
        let committed = (at <= self.commit && leader.has_committed(self.commit)) || mutant!("joint-left-at-once");
        if !committed {
            return;
        }
        if configuration.is_joint() {
            let left = configuration.left();
            if !mutant!("joint-never-left") {
                self.append_configuration(now, &left, effects);
            }
        } else if !configuration.votes(self.me) && !mutant!("removed-leader-stays") {
            let last = self.log.last();
            let votes = |peer: &&Progress| configuration.votes(peer.replica);
            let best = leader.peers.iter().filter(votes).max_by_key(|peer| peer.matched());
            let best = best.filter(|peer| peer.matched() == last.index).map(|peer| peer.replica);
            if let Some(to) = best {
                let round = leader.reads.round();
                self.send_now(to, Message::TimeoutNow { last, round }, effects);
            }
            // The others have to learn that it is committed; without it they would find out only from the next leader.
            self.send_heartbeats(effects);
            self.become_follower(now, None, effects);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn on_rejected(
        &mut self,
        now: Micros,
        from: ReplicaId,
        number: AppendNumber,
        previous: Index,
        hint: Point,
        last: Index,
        effects: &mut Effects,
    ) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peer(from) else { return };
        peer.heard = now;
        if matches!(peer.flow, Flow::Lost) {
            return;
        }
        if peer.has_lost(number, last) {
            peer.give_up();
            effects.notices.push(Notice::Lost(from));
            return;
        }
        if !peer.concerns(number, previous) {
            return;
        }
        // Above the hint's term the follower has nothing: the logs agree at or before the last entry here that is not above it either.
        let agree = self.log.last_with_term_up_to(hint.index.min(Index(previous.0.saturating_sub(1))), hint.term);
        let next = agree.map_or(self.log.before().index, |point| point.index.next());
        peer.probe_from(next);
    }

    pub(super) fn on_heartbeat_reply(&mut self, now: Micros, from: ReplicaId, round: Round, verified: Index) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peer(from) else { return };
        if matches!(peer.flow, Flow::Lost) {
            return;
        }
        peer.heard = now;
        peer.round = peer.round.max(round);
        let behind = peer.matched() < last || verified < peer.matched();
        match &mut peer.flow {
            Flow::Probe { sent } if !mutant!("probe-never-repeated") => *sent = None,
            // It lacks entries that may have been lost on the way, or it has restarted and does not know what of its log is good.
            Flow::Replicate if behind => peer.nudge = !mutant!("lost-appends-not-noticed"),
            Flow::Probe { .. } | Flow::Replicate | Flow::Checkpoint(_) | Flow::Lost => {}
        }
        self.confirm_reads();
    }

    /// The checkpoint under way to a peer.
    pub(super) fn sending(&mut self, to: ReplicaId) -> Option<&mut Sending> {
        let Role::Leader(leader) = &mut self.role else { return None };
        match &mut leader.peer(to)?.flow {
            Flow::Checkpoint(sending) => Some(sending),
            Flow::Probe { .. } | Flow::Replicate | Flow::Lost => None,
        }
    }
}

/// The plain meaning of what [`quorum::reached`] computes.
fn is_quorum(configuration: &Configuration, index: Index, of: impl Fn(ReplicaId) -> Index) -> bool {
    let holds = |half: Vec<ReplicaId>| 2 * half.iter().filter(|&&voter| of(voter) >= index).count() > half.len();
    holds(configuration.incoming().collect())
        && (!configuration.is_joint() || holds(configuration.outgoing().collect()))
}
