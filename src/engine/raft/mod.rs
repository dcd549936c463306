//! One Raft group, as seen by one of its replicas. Sans-IO: no clock, no disk, no network.
//!
//! This is the part of Raft that a group with a single voter exercises: terms, votes, the log, commit. Nothing is cut short because
//! the voter is alone: its vote for itself and its acknowledgement of its own entries are messages that wait for
//! the log, like those of any other voter will; it counts itself by what is durable, never by what it has
//! merely appended; and it commits entries of former terms only through an entry of its own.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), sections 3.4 to 3.8 and 10.2.1.
//!
//! ```text
//!             campaign            self-vote durable           step down (higher term)
//!  follower ───────────► candidate ────────────────► leader ─────────────────────────► follower
//! ```

pub mod quorum;

use std::collections::VecDeque;
use std::rc::Rc;

use super::checkpoint::Point;
use super::command;
use super::wal::{GroupState, Record};
use crate::ids::{Index, ReplicaId, ShardId, Term};

/// What one replica says to another, or to itself once the log is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A vote.
    VoteReply {
        /// Term voted in.
        term: Term,
        /// Whether the vote was granted.
        granted: bool,
    },
    /// An acknowledgement of entries.
    AppendReply {
        /// Term of the leader they came from.
        term: Term,
        /// Everything up to here is durable at the sender.
        matched: Index,
    },
}

/// A message with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The group.
    pub shard: ShardId,
    /// Sender.
    pub from: ReplicaId,
    /// Receiver.
    pub to: ReplicaId,
    /// Content.
    pub message: Message,
}

/// What a step of a group asks for.
#[derive(Debug, Default)]
pub struct Effects {
    /// Records to append, in order.
    pub records: Vec<Record>,
    /// Messages that wait until the last of `records` is durable.
    pub send_after: Vec<Envelope>,
}

/// An entry that has not been applied yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term it was proposed in.
    pub term: Term,
    /// Its index.
    pub index: Index,
    /// What it says.
    pub payload: Rc<Vec<u8>>,
}

/// What a replica is in its current term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Waits to hear from a leader.
    Follower,
    /// Collects votes; these have been granted.
    Candidate {
        /// Replicas that voted for this one.
        votes: Vec<ReplicaId>,
    },
    /// Proposes.
    Leader {
        /// What each voter is known to have made durable.
        durable: Vec<(ReplicaId, Index)>,
        /// First index of the leader's own term.
        first: Index,
    },
}

/// One replica's view of its group.
#[derive(Debug)]
pub struct Group {
    shard: ShardId,
    replica: ReplicaId,
    voters: Vec<ReplicaId>,
    role: Role,
    term: Term,
    vote: ReplicaId,
    /// Entries above `applied`, in order.
    entries: VecDeque<Entry>,
    last: Index,
    last_term: Term,
    commit: Index,
    applied: Index,
    applied_term: Term,
}

impl Group {
    /// A replica as recovered: `state` is its group's state at the end of the log, `entries` what is known to
    /// be in the log and was not applied while reading it; everything below has been applied, the last of it in `applied_term`.
    #[must_use]
    pub fn new(
        shard: ShardId,
        replica: ReplicaId,
        voters: Vec<ReplicaId>,
        state: GroupState,
        entries: VecDeque<Entry>,
        applied_term: Term,
    ) -> Group {
        assert!(voters.contains(&replica), "a replica of this version is a voter");
        let applied = Index(state.last_index.0 - entries.len() as u64);
        let group = Group {
            shard,
            replica,
            voters,
            role: Role::Follower,
            term: state.term,
            vote: state.vote,
            entries,
            last: state.last_index,
            last_term: state.last_term,
            commit: state.commit.max(applied),
            applied,
            applied_term,
        };
        group.invariants();
        group
    }

    /// Starts an election: the vote request and the own vote wait for the new term to be durable.
    pub fn campaign(&mut self, effects: &mut Effects) {
        self.term = self.term.next();
        self.vote = self.replica;
        self.role = Role::Candidate { votes: Vec::new() };
        effects.records.push(Record::HardState {
            shard: self.shard,
            term: self.term,
            vote: self.vote,
            commit: self.commit,
        });
        self.send_self(effects, Message::VoteReply { term: self.term, granted: true });
    }

    /// Takes a message. Messages of another term, or that no longer matter, change nothing.
    pub fn step(&mut self, envelope: &Envelope, effects: &mut Effects) {
        debug_assert_eq!((envelope.shard, envelope.to), (self.shard, self.replica), "a message reaches its addressee");
        let from = envelope.from;
        if !self.voters.contains(&from) {
            return;
        }
        match envelope.message {
            Message::VoteReply { term, granted } if term == self.term && granted => {
                let Role::Candidate { votes } = &mut self.role else { return };
                if !votes.contains(&from) {
                    votes.push(from);
                }
                if votes.len() >= quorum::majority(self.voters.len()) {
                    self.lead(effects);
                }
            }
            Message::AppendReply { term, matched } if term == self.term => {
                let Role::Leader { durable, first } = &mut self.role else { return };
                if let Some((_, index)) = durable.iter_mut().find(|(replica, _)| *replica == from) {
                    *index = matched.max(*index);
                }
                let mut indexes: Vec<Index> = durable.iter().map(|&(_, index)| index).collect();
                let committed = quorum::committed(&mut indexes);
                // Only an entry of the own term is committed by counting; those before it are committed with it.
                if committed >= *first && committed > self.commit {
                    self.commit = committed;
                }
            }
            Message::VoteReply { .. } | Message::AppendReply { .. } => {}
        }
        self.invariants();
    }

    /// Proposes an entry, or returns `None` if this replica does not lead.
    pub fn propose(&mut self, payload: Vec<u8>, effects: &mut Effects) -> Option<Index> {
        if !matches!(self.role, Role::Leader { .. }) {
            return None;
        }
        let entry = Entry { term: self.term, index: self.last.next(), payload: Rc::new(payload) };
        self.last = entry.index;
        self.last_term = entry.term;
        effects.records.push(Record::Entry {
            shard: self.shard,
            term: entry.term,
            index: entry.index,
            commit: self.commit,
            payload: Rc::clone(&entry.payload),
        });
        self.entries.push_back(entry);
        self.send_self(effects, Message::AppendReply { term: self.term, matched: self.last });
        Some(self.last)
    }

    /// The next committed entry that has not been applied; it counts as applied from now on.
    pub fn next_committed(&mut self) -> Option<Entry> {
        if self.applied == self.commit {
            return None;
        }
        let entry = self.entries.pop_front().expect("entries above applied are kept");
        (self.applied, self.applied_term) = (entry.index, entry.term);
        Some(entry)
    }

    /// The index at which a read is linearizable now, if this replica can tell: it leads, has committed and applied an entry of
    /// its own term, and a majority (itself, in a group of one) has confirmed that it still leads.
    #[must_use]
    pub fn read_index(&self) -> Option<Index> {
        match self.role {
            Role::Leader { first, .. } if self.voters.len() == 1 && self.applied >= first => Some(self.applied),
            _ => None,
        }
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader { .. })
    }

    /// The role as a word.
    #[must_use]
    pub fn role_name(&self) -> &'static str {
        match self.role {
            Role::Follower => "follower",
            Role::Candidate { .. } => "candidate",
            Role::Leader { .. } => "leader",
        }
    }

    /// Current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Last index in the log.
    #[must_use]
    pub fn last(&self) -> Index {
        self.last
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
        Point { index: self.applied, term: self.applied_term }
    }

    /// The replicas that vote.
    #[must_use]
    pub fn voters(&self) -> &[ReplicaId] {
        &self.voters
    }

    fn lead(&mut self, effects: &mut Effects) {
        self.role = Role::Leader {
            durable: self.voters.iter().map(|&voter| (voter, Index(0))).collect(),
            first: self.last.next(),
        };
        // Without an entry of its own term a leader can neither commit what it inherited nor answer reads.
        self.propose(command::no_op(), effects).expect("a leader proposes");
    }

    fn send_self(&self, effects: &mut Effects, message: Message) {
        effects.send_after.push(Envelope { shard: self.shard, from: self.replica, to: self.replica, message });
    }

    fn invariants(&self) {
        assert!(self.applied <= self.commit, "applied index after commit index");
        assert!(self.commit <= self.last, "commit index after last index");
        assert!(self.last_term <= self.term, "last entry of a term ahead of the current one");
        assert!(self.entries.len() as u64 == self.last.0 - self.applied.0, "a gap between applied and last index");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: ReplicaId = ReplicaId(1);

    fn group() -> Group {
        Group::new(ShardId(1), ME, vec![ME], GroupState::default(), VecDeque::new(), Term(0))
    }

    fn deliver(group: &mut Group, effects: &mut Effects) {
        for envelope in std::mem::take(&mut effects.send_after) {
            group.step(&envelope, effects);
        }
    }

    #[test]
    fn a_lone_voter_leads_only_once_its_vote_is_durable() {
        let (mut group, mut effects) = (group(), Effects::default());
        group.campaign(&mut effects);
        assert!(!group.is_leader());
        assert_eq!(group.propose(Vec::new(), &mut effects), None);
        deliver(&mut group, &mut effects);
        assert!(group.is_leader());
    }

    #[test]
    fn nothing_is_committed_before_it_is_durable() {
        let (mut group, mut effects) = (group(), Effects::default());
        group.campaign(&mut effects);
        deliver(&mut group, &mut effects);
        assert_eq!((group.commit(), group.read_index()), (Index(0), None));
        assert_eq!(group.next_committed(), None);
        deliver(&mut group, &mut effects);
        assert_eq!(group.commit(), Index(1));
        assert_eq!(group.read_index(), None, "committed, but not yet applied");
        assert_eq!(group.next_committed().map(|entry| entry.index), Some(Index(1)));
        assert_eq!(group.read_index(), Some(Index(1)));
    }

    #[test]
    fn inherited_entries_are_committed_through_the_own_term() {
        let inherited = Entry { term: Term(3), index: Index(8), payload: Rc::new(Vec::new()) };
        let state = GroupState {
            term: Term(3),
            vote: ME,
            commit: Index(7),
            first_index: Index(1),
            last_index: Index(8),
            last_term: Term(3),
            ..GroupState::default()
        };
        let mut group = Group::new(ShardId(1), ME, vec![ME], state, VecDeque::from([inherited]), Term(3));
        let mut effects = Effects::default();
        group.campaign(&mut effects);
        deliver(&mut group, &mut effects);
        assert_eq!((group.term(), group.commit(), group.last()), (Term(4), Index(7), Index(9)));
        deliver(&mut group, &mut effects);
        assert_eq!(group.commit(), Index(9));
    }

    #[test]
    fn late_messages_of_an_older_term_change_nothing() {
        let (mut group, mut effects) = (group(), Effects::default());
        group.campaign(&mut effects);
        let late = effects.send_after.clone();
        group.campaign(&mut effects);
        for envelope in late {
            group.step(&envelope, &mut effects);
        }
        assert!(!group.is_leader());
    }

    #[test]
    fn strangers_have_no_vote() {
        let (mut group, mut effects) = (group(), Effects::default());
        group.campaign(&mut effects);
        let mut vote = effects.send_after.pop().expect("the own vote");
        vote.from = ReplicaId(9);
        group.step(&vote, &mut effects);
        assert!(!group.is_leader());
    }
}
