//! One Raft group, as seen by one of its replicas. Sans-IO: no clock, no disk, no network, no randomness of its own.
//!
//! ```text
//!  tick, receive, propose, read, change, transfer, chunk_stored …        next_committed
//!        │                                                                    ▲
//!        ▼                                                                    │
//!  ┌─ Group ────────────────────────────────────────────────────────────────┐ │
//!  │ follower ──deadline──► pre-candidate ──quorum would──► candidate        │ │
//!  │    ▲  ▲                 (nothing changes anywhere)         │ quorum     │ │
//!  │    │  └──────────── higher term, quorum lost, disk stalled ┴──► leader ─┼─┘
//!  └────┼──────────────────────────────────────────────────────────────────┬─┘
//!       │ flush, once a turn                                                │
//!       ▼                                                                   ▼
//!  Effects { records ──► store's log ──► durable ──► send_after }     send_now ──► peers
//! ```
//!
//! # What holds it together
//!
//! - **Durability is the store's one watermark.** A group never hears that "entry 7" is durable. It puts what must wait for the disk into
//!   `send_after`; the owner lets that go once the log is durable beyond the records of the same step. A leader's acknowledgement of
//!   its own entries is such a message to itself. There is no completion that could be taken for that of an entry of the same index.
//! - **What waits**: votes, vote *requests* (they name term, own vote and the end of the log, which must survive), acknowledgements.
//!   What does not: a leader's appends (its term was durable before anybody could vote for it), heartbeats, pre-votes.
//! - **A leader counts itself by what is durable**, one voter or five, and may commit what its own disk has not finished if a quorum of others
//!   has (Ongaro 10.2.1).
//! - **A configuration counts from its append on**; see [`configuration`].
//! - **Reads ask a quorum**, with rounds that the leader numbers; see [`reads`].
//! - **Nobody refuses what may yet be committed.** [`Group::propose`] refuses before it appends; afterwards there are only
//!   commit, and not knowing.
//!
//! # What the owner does
//!
//! After one or more inputs it applies what [`Group::next_committed`] gives, calls [`Group::flush`] once, and takes the
//! [`Effects`]: records into the store's log, `send_now` to the peers, `send_after` behind the records. Before [`Group::deadline`] it
//! need not look at the group again unless something comes for it: one that has nothing to do costs nothing.
//!
//! A replica that finds its own state in contradiction to the group's (it would have to take back what is committed) latches as faulty: it
//! answers nothing from then on and says so in a notice; a debug build panics.
//!
//! How each rule is shown to be kept: [`proof`].
//!
//! Sources: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (extended version, 2014); Ongaro,
//! "Consensus: Bridging Theory and Practice" (2014), chapters 3 to 6 and section 10.2.1.

mod candidate;
pub mod configuration;
mod follower;
pub mod heartbeats;
pub mod install;
mod leader;
mod log;
mod message;
mod progress;
pub mod proof;
pub mod quorum;
pub mod reads;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;

use super::checkpoint::Point;
use super::prng::Prng;
use super::wal::Record;
use crate::ids::{Index, Micros, ReplicaId, Round, ShardId, Term};
use crate::limits::{RAFT_CACHE_BYTES_MAX, RAFT_CACHE_PINNED_BYTES_MAX, RAFT_ELECTION_MICROS, RAFT_HEARTBEAT_MICROS};
use crate::mutant::mutant;
use candidate::Votes;
use configuration::{Configuration, ConfigurationError, History};
use install::Incoming;
use leader::Leader;
use log::Log;
pub use message::{Chunk, Effects, Entry, Envelope, Message, Notice};
use reads::Pending;

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one heartbeat to the next.
    pub heartbeat_micros: u64,
    /// Without word from a leader, before an election: at least this, and less than twice this.
    pub election_micros: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { heartbeat_micros: RAFT_HEARTBEAT_MICROS, election_micros: RAFT_ELECTION_MICROS }
    }
}

/// What a replica is told about itself.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Its group.
    pub shard: ShardId,
    /// Its id.
    pub replica: ReplicaId,
    /// How long things take.
    pub timing: Timing,
    /// Entries in one message, at most: [`APPEND_ENTRIES_MAX`](crate::limits::APPEND_ENTRIES_MAX) but in tests.
    pub batch_entries_max: usize,
    /// What its randomness is made of; another one in each life of the process.
    pub seed: u64,
}

/// What the store's log and checkpoints say of a replica when its process begins.
#[derive(Debug)]
pub struct Restored {
    /// Its term.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: ReplicaId,
    /// An index that is known to be committed.
    pub commit: Index,
    /// Up to here its owner has applied.
    pub applied: Index,
    /// From where on its owner's state is of one moment: the end of a checkpoint's pages; 0 if it always was.
    pub whole_from: Index,
    /// The entry before the first of `entries`; not behind `applied`.
    pub before: Point,
    /// The configuration in force there, and the index of its entry.
    pub configuration: (Index, Configuration),
    /// The entries that follow, to the end of the log.
    pub entries: VecDeque<Entry>,
}

/// What a store says to its groups when it lets them look at the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The store's log has made no progress for too long although something waits for it. Then none of its replicas leads or campaigns.
    pub log_stalled: bool,
    /// As many replicas of the store campaign as may, this one perhaps among them; it has to wait.
    pub campaigns_full: bool,
}

/// Why something was not even begun. Nothing of it will ever happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This replica does not lead.
    #[error("not the leader")]
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<ReplicaId>,
    },
    /// Leadership is being handed over.
    #[error("leadership is being handed over")]
    Transferring,
    /// As much waits as may.
    #[error("too much under way")]
    Overloaded,
    /// Another change of the configuration is under way, or the leader has not committed anything yet.
    #[error("another change is under way")]
    ChangeUnderWay,
    /// The change was computed from a configuration that is no longer in force.
    #[error("the configuration has changed")]
    Moved,
    /// A replica that is to vote lacks too much of the log.
    #[error("a replica is not up to date")]
    NotCaughtUp,
    /// The change is not possible.
    #[error(transparent)]
    Impossible(ConfigurationError),
    /// The replica has stopped for good.
    #[error("the replica is faulty")]
    Faulty,
}

/// What a replica is in its current term.
#[derive(Debug)]
enum Role {
    /// Waits to hear from a leader.
    Follower,
    /// Asks whether it would win.
    PreCandidate(Votes),
    /// Collects votes.
    Candidate(Votes),
    /// Proposes.
    Leader(Box<Leader>),
}

/// One replica's view of its group.
#[derive(Debug)]
pub struct Group {
    shard: ShardId,
    me: ReplicaId,
    timing: Timing,
    batch_entries_max: usize,
    prng: Prng,
    role: Role,
    term: Term,
    vote: ReplicaId,
    /// Term or vote have changed since the last record of them.
    unsaved: bool,
    /// The leader of this term, as far as known.
    leader: Option<ReplicaId>,
    /// When that leader last gave word.
    heard: Micros,
    /// When to campaign.
    election_at: Micros,
    log: Log,
    history: History,
    /// Up to here the log is known to agree with this term's leader's.
    verified: Index,
    /// The newest round heard of that leader.
    round: Round,
    commit: Index,
    applied: Index,
    whole_from: Index,
    incoming: Option<Incoming>,
    /// Reads of this replica's owner.
    pending: Pending,
    faulty: Option<&'static str>,
}

impl Group {
    /// A replica as its store has recovered it.
    #[must_use]
    pub fn new(setup: &Setup, restored: Restored, now: Micros) -> Group {
        let Restored { term, vote, commit, applied, whole_from, before, configuration, entries } = restored;
        let mut prng = Prng::new(setup.seed);
        let mut history = History::new(configuration.0, configuration.1);
        for entry in &entries {
            note_configuration(&mut history, entry);
        }
        let pending = Pending::new(if mutant!("read-numbers-begin-at-one") { 1 } else { prng.bits() });
        let mut group = Group {
            shard: setup.shard,
            me: setup.replica,
            timing: setup.timing,
            batch_entries_max: setup.batch_entries_max,
            prng,
            role: Role::Follower,
            term,
            vote,
            unsaved: false,
            leader: None,
            heard: Micros(0),
            election_at: now,
            log: Log::new(before, entries),
            history,
            verified: Index(0),
            round: Round(0),
            commit: commit.max(applied),
            applied,
            whole_from,
            incoming: None,
            pending,
            faulty: None,
        };
        group.await_leader(now);
        group.assert_invariants();
        group
    }

    /// Looks at the time: due heartbeats leave, and elections begin.
    pub fn tick(&mut self, now: Micros, conditions: Conditions, effects: &mut Effects) {
        if self.faulty.is_some() {
            return;
        }
        self.pending.expire(now, effects);
        match self.role {
            Role::Leader(_) => self.lead_on(now, conditions, effects),
            _ if now < self.election_at || !self.is_promotable() => {}
            _ if conditions.campaigns_full && mutant!("lost-campaigns-keep-their-turn") => self.await_leader(now),
            // One whose campaign came to nothing lets others try.
            _ if conditions.log_stalled || conditions.campaigns_full => self.become_follower(now, None, effects),
            _ => self.pre_campaign(now, effects),
        }
        self.finish(effects);
    }

    /// Takes a message. One that is for somebody else, or that no longer matters, changes nothing.
    pub fn receive(&mut self, now: Micros, envelope: Envelope, effects: &mut Effects) {
        if (envelope.shard, envelope.to) != (self.shard, self.me) || self.faulty.is_some() {
            return;
        }
        if self.comes_to_pass(now, &envelope, effects) {
            self.dispatch(now, envelope, effects);
        }
        self.finish(effects);
    }

    /// Compares terms. Whether the message still matters.
    fn comes_to_pass(&mut self, now: Micros, envelope: &Envelope, effects: &mut Effects) -> bool {
        let Envelope { from, term, ref message, .. } = *envelope;
        match message {
            // About a term that nobody is in; both are told by what they ask about.
            Message::PreVoteRequest { .. } | Message::PreVoteReply { granted: true, .. } => return true,
            Message::VoteReply { .. } if mutant!("late-votes-count") => return true,
            Message::Appended { .. } if mutant!("late-acknowledgements-count") => return true,
            _ => {}
        }
        if term < self.term {
            match message {
                Message::Append { .. } | Message::Heartbeat { .. } | Message::Chunk(_)
                    if !mutant!("old-leaders-not-answered") =>
                {
                    self.send_after(from, Message::TermIsOver, effects);
                }
                Message::VoteRequest { .. } => self.send_after(from, Message::VoteReply { granted: false }, effects),
                _ => {}
            }
            return false;
        }
        if term > self.term {
            // A leader that is heard is not deposed by whoever does not hear it.
            if let Message::VoteRequest { transfer: false, .. } = message
                && self.hears_leader(now)
                && !mutant!("candidates-depose-a-heard-leader")
            {
                return false;
            }
            self.adopt(now, term, effects);
        }
        true
    }

    fn dispatch(&mut self, now: Micros, envelope: Envelope, effects: &mut Effects) {
        let Envelope { from, term, message, .. } = envelope;
        match message {
            Message::PreVoteRequest { campaign, last } => self.on_pre_vote_request(now, from, campaign, last, effects),
            Message::PreVoteReply { campaign, granted } => {
                self.on_pre_vote_reply(now, from, campaign, granted, effects);
            }
            Message::VoteRequest { last, .. } => self.on_vote_request(now, from, last, effects),
            Message::VoteReply { granted } => self.on_vote_reply(now, from, granted, effects),
            Message::Append { number, previous, commit, entries } => {
                if self.follow(now, from, effects) {
                    self.on_append(from, number, previous, commit, entries, effects);
                }
            }
            Message::Heartbeat { round, commit } => {
                if self.follow(now, from, effects) {
                    self.on_heartbeat(from, round, commit, effects);
                }
            }
            Message::Chunk(chunk) => {
                if self.follow(now, from, effects) {
                    self.on_chunk(from, *chunk, effects);
                }
            }
            Message::TimeoutNow { last, round } => self.on_timeout_now(now, from, last, round, effects),
            Message::Appended { matched } => self.on_appended(now, from, matched, effects),
            Message::Rejected { number, previous, hint, last } => {
                self.on_rejected(now, from, number, previous, hint, last, effects);
            }
            Message::HeartbeatReply { round, verified } => self.on_heartbeat_reply(now, from, round, verified),
            Message::ChunkReply { checkpoint, wanted } => self.on_chunk_reply(now, from, checkpoint, wanted),
            Message::ReadRequest { number } => self.on_read_request(from, number, effects),
            Message::ReadReply { number, index } => self.on_read_reply(number, index, effects),
            Message::TermIsOver => debug_assert!(term <= self.term, "a higher term has been adopted"),
        }
    }

    /// Lets go what has gathered: entries to followers, rounds of reads, answers to reads. To be called once after a number of
    /// inputs, and after what is committed has been applied.
    pub fn flush(&mut self, now: Micros, effects: &mut Effects) {
        if self.faulty.is_some() {
            return;
        }
        self.flush_leader(now, effects);
        self.forward_reads(now, effects);
        self.answer_reads(effects);
        self.finish(effects);
    }

    /// When to call [`Group::tick`] at the latest; never, if nothing will be due.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        if self.faulty.is_some() {
            return None;
        }
        let own = match &self.role {
            Role::Leader(leader) => leader.heartbeat_at(),
            _ if self.is_promotable() => Some(self.election_at),
            _ => None,
        };
        own.into_iter().chain(self.pending.deadline()).min()
    }

    /// The next committed entry that has not been applied; it counts as applied from now on.
    pub fn next_committed(&mut self) -> Option<Entry> {
        if self.applied == self.commit && !(mutant!("applied-before-committed") && self.applied < self.log.last().index)
        {
            return None;
        }
        let entry = self.log.get(self.applied.next()).expect("entries above applied are in memory").clone();
        self.applied = entry.index;
        self.trim();
        Some(entry)
    }

    /// Forgets what neither this replica nor, within bounds, its followers need.
    fn trim(&mut self) {
        let (up_to, bytes_max) = match &self.role {
            // Nobody lags behind the only member.
            _ if self.history.latest().1.members().len() <= 1 => (self.applied, 0),
            Role::Leader(leader) if leader.sends_checkpoint() => (leader.released(), RAFT_CACHE_PINNED_BYTES_MAX),
            Role::Leader(leader) => (leader.released(), RAFT_CACHE_BYTES_MAX),
            _ => (self.applied, RAFT_CACHE_BYTES_MAX),
        };
        if self.log.bytes() > bytes_max {
            self.log.trim(up_to.min(self.applied), bytes_max);
            self.history.forget_before(self.log.before().index);
        }
    }

    /// Forgets applied entries beyond so many bytes, also those that followers may still need. They get a checkpoint then.
    pub fn forget(&mut self, bytes_max: usize) {
        let up_to = match &self.role {
            Role::Leader(leader) => leader.released().min(self.applied),
            _ => self.applied,
        };
        self.log.trim(up_to, bytes_max);
        self.history.forget_before(self.log.before().index);
    }

    /// Steps into a later term, as a follower that has not voted.
    fn adopt(&mut self, now: Micros, term: Term, effects: &mut Effects) {
        debug_assert!(term > self.term, "terms only grow");
        self.term = term;
        self.vote = ReplicaId::NONE;
        self.unsaved = true;
        self.become_follower(now, None, effects);
    }

    fn become_follower(&mut self, now: Micros, leader: Option<ReplicaId>, effects: &mut Effects) {
        if let Role::Leader(led) = &mut self.role {
            led.refuse_reads(effects, leader);
            effects.notices.push(Notice::LeadsNoLonger);
        }
        if self.leader != leader {
            (self.verified, self.round) = (Index(0), Round(0));
        }
        if mutant!("vote-cleared-in-its-term") {
            self.vote = ReplicaId::NONE;
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.await_leader(now);
    }

    /// Draws how long to wait for word from a leader.
    fn await_leader(&mut self, now: Micros) {
        let election = self.timing.election_micros;
        self.election_at = now.plus(election + self.prng.below(election));
    }

    /// Whether a leader is there that others should not try to depose.
    fn hears_leader(&self, now: Micros) -> bool {
        match self.role {
            Role::Leader(_) => true,
            _ => self.leader.is_some() && now < self.heard.plus(self.timing.election_micros),
        }
    }

    /// Whether this replica may lead: it votes in the configuration in effect, or did before a change that it does not know to be committed.
    /// Those whom the change keeps may lack its entry, and then none of them can win without those whom it dismisses (Ongaro 4.2.2).
    fn is_promotable(&self) -> bool {
        let of_the_latest = mutant!("dismissed-voters-do-not-lead") && !self.history.latest().1.votes(self.me);
        self.history.since(self.commit).any(|(_, configuration)| configuration.votes(self.me)) && !of_the_latest
    }

    /// Records that entries up to an index are committed.
    fn commit_to(&mut self, index: Index) {
        if index > self.commit {
            self.commit = index.min(self.log.last().index);
        }
    }

    /// Adds an entry to the log, and its record to the effects. Terms are recorded before their entries.
    fn append_entry(&mut self, entry: Entry, effects: &mut Effects) {
        self.save(effects);
        effects.records.push(Record::Entry {
            shard: self.shard,
            term: entry.term,
            index: entry.index,
            commit: self.commit.min(Index(entry.index.0 - 1)),
            payload: Rc::clone(&entry.payload),
        });
        note_configuration(&mut self.history, &entry);
        self.log.append(entry);
    }

    /// Records term and vote, if they have changed.
    fn save(&mut self, effects: &mut Effects) {
        if std::mem::take(&mut self.unsaved) && !(mutant!("terms-not-saved") && self.vote == ReplicaId::NONE) {
            let (shard, term, vote, commit) = (self.shard, self.term, self.vote, self.commit);
            effects.records.push(Record::HardState { shard, term, vote, commit });
        }
    }

    fn finish(&mut self, effects: &mut Effects) {
        self.save(effects);
        self.assert_invariants();
    }

    fn envelope(&self, to: ReplicaId, message: Message) -> Envelope {
        Envelope { shard: self.shard, from: self.me, to, term: self.term, message }
    }

    fn send_now(&self, to: ReplicaId, message: Message, effects: &mut Effects) {
        effects.send_now.push(self.envelope(to, message));
    }

    fn send_after(&self, to: ReplicaId, message: Message, effects: &mut Effects) {
        effects.send_after.push(self.envelope(to, message));
    }

    /// Stops this replica for good: its state and the group's contradict each other.
    fn fault(&mut self, what: &'static str, effects: &mut Effects) {
        if cfg!(debug_assertions) && !cfg!(feature = "sim") {
            panic!("shard {}, replica {}: {what}", self.shard, self.me);
        }
        self.latch(what, effects);
    }

    fn latch(&mut self, what: &'static str, effects: &mut Effects) {
        if self.faulty.is_none() {
            self.faulty = Some(what);
            effects.notices.push(Notice::Faulty(what));
        }
    }

    fn assert_invariants(&self) {
        if cfg!(debug_assertions)
            && !cfg!(feature = "sim")
            && let Err(what) = self.check()
        {
            panic!("shard {}, replica {}: {what}", self.shard, self.me);
        }
    }

    /// Checks what must hold between any two steps.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), &'static str> {
        let last = self.log.last();
        if self.applied > self.commit {
            return Err("applied index after commit index");
        }
        if self.commit > last.index {
            return Err("commit index after last index");
        }
        if last.term > self.term {
            return Err("last entry of a term ahead of the current one");
        }
        if self.log.before().index > self.applied {
            return Err("an entry is gone from memory before it was applied");
        }
        if let Role::Leader(leader) = &self.role {
            leader.check(last.index, self.commit)?;
        }
        self.log.check()
    }
}

/// Keeps a configuration that an entry holds.
fn note_configuration(history: &mut History, entry: &Entry) {
    // One that cannot be read is refused where entries come in; what is in the log was read by the version that wrote it.
    if let Some(Ok(configuration)) = Configuration::decode(&entry.payload) {
        history.append(entry.index, configuration);
    }
}

/// What can be seen of a group.
impl Group {
    /// Its shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// This replica's id.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.me
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whether this replica asks for votes.
    #[must_use]
    pub fn campaigns(&self) -> bool {
        matches!(self.role, Role::PreCandidate(_) | Role::Candidate(_))
    }

    /// Who leads, as far as this replica knows.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        self.leader
    }

    /// The role as a word.
    #[must_use]
    pub fn role_name(&self) -> &'static str {
        match self.role {
            Role::Follower if !self.is_promotable() => "learner",
            Role::Follower => "follower",
            Role::PreCandidate(_) => "pre-candidate",
            Role::Candidate(_) => "candidate",
            Role::Leader(_) => "leader",
        }
    }

    /// Current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whom this replica has voted for in it.
    #[must_use]
    pub fn vote(&self) -> ReplicaId {
        self.vote
    }

    /// Last index in the log.
    #[must_use]
    pub fn last(&self) -> Index {
        self.log.last().index
    }

    /// The last entry.
    #[must_use]
    pub fn last_point(&self) -> Point {
        self.log.last()
    }

    /// The entry before the first that is in memory.
    #[must_use]
    pub fn before(&self) -> Point {
        self.log.before()
    }

    /// The term of an entry, if it is in memory.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// An entry, if it is in memory.
    #[must_use]
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.get(index)
    }

    /// Highest index known to be committed.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// Highest index applied.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The last entry applied, with its term.
    #[must_use]
    pub fn applied_point(&self) -> Point {
        let term = self.log.term_at(self.applied).expect("the term of the last applied entry is known");
        Point { index: self.applied, term }
    }

    /// The configuration in effect, and the index of its entry.
    #[must_use]
    pub fn configuration(&self) -> (Index, &Configuration) {
        self.history.latest()
    }

    /// The configuration in force at an index that is in memory, and the index of its entry.
    #[must_use]
    pub fn configuration_at(&self, index: Index) -> (Index, &Configuration) {
        self.history.at(index)
    }

    /// Why this replica has stopped for good.
    #[must_use]
    pub fn faulty(&self) -> Option<&'static str> {
        self.faulty
    }
}
