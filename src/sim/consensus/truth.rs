//! What is true of a group, whatever its replicas believe: every entry ever written, what is committed, who led and who voted. Each
//! law of Raft is checked against it, by the plainest means, as soon as a step could have broken it.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::checkpoint::Point;
use crate::engine::prng::mix;
use crate::engine::raft::Group;
use crate::engine::raft::configuration::Configuration;
use crate::ids::{Index, ReplicaId, Term};

/// What an entry is: its term and the digest of what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) term: Term,
    pub(super) digest: u64,
}

#[derive(Debug, Default)]
pub(super) struct Truth {
    /// By index: every entry that any replica ever appended, with the term of the one before it.
    written: Vec<Vec<(Content, Term)>>,
    /// From index 1 on.
    committed: Vec<Content>,
    /// The term of the leader that committed each of them.
    committed_in: Vec<Term>,
    /// The state after each committed entry, from that before the first on.
    states: Vec<u64>,
    /// The configurations among them, from the initial one on.
    configurations: Vec<(Index, Configuration)>,
    leaders: BTreeMap<Term, ReplicaId>,
    votes: BTreeMap<(Term, ReplicaId), ReplicaId>,
    /// The last event in which a voter heard the leader of a term, and took it for that.
    confirmed: BTreeMap<(Term, ReplicaId), u64>,
    /// Terms that replicas have told others of, durably.
    promised: BTreeMap<ReplicaId, Term>,
    /// Proposals that were refused.
    refused: BTreeSet<u64>,
    /// Where each proposal was appended.
    proposed: BTreeMap<u64, Index>,
    /// The nodes of replicas that have begun.
    places: BTreeMap<ReplicaId, u64>,
    /// The nodes of replicas by the latest entry that names them, whatever becomes of it.
    rumoured: BTreeMap<ReplicaId, u64>,
}

/// The plain meaning of a quorum: more than half of each half.
pub(super) fn is_quorum(configuration: &Configuration, has: impl Fn(&ReplicaId) -> bool) -> bool {
    let half = |half: Vec<ReplicaId>| 2 * half.iter().filter(|voter| has(voter)).count() > half.len();
    let members = configuration.members().iter();
    let voters = |outgoing: bool| {
        let votes = members.clone().filter(move |member| if outgoing { member.outgoing } else { member.incoming });
        votes.map(|member| member.replica).collect()
    };
    half(voters(false)) && (!configuration.is_joint() || half(voters(true)))
}

/// The digest of what an entry says.
pub(super) fn digest(payload: &[u8]) -> u64 {
    payload.chunks(8).fold(payload.len() as u64, |digest, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(digest ^ u64::from_le_bytes(word))
    })
}

/// The state after an entry.
pub(super) fn next_state(state: u64, index: Index, content: u64) -> u64 {
    mix(state ^ mix(index.0 ^ content))
}

impl Truth {
    pub(super) fn new(initial: Configuration) -> Truth {
        let places = initial.members().iter().map(|member| (member.replica, member.place.node.0)).collect();
        Truth { states: vec![0], configurations: vec![(Index(0), initial)], places, ..Truth::default() }
    }

    /// How many entries are committed.
    pub(super) fn committed(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// The term of a committed entry.
    pub(super) fn term_of_committed(&self, index: Index) -> Option<Term> {
        let place = (index.0 as usize).checked_sub(1);
        place.map_or(Some(Term(0)), |place| self.committed.get(place).map(|content| content.term))
    }

    /// The state after an entry, which is committed.
    pub(super) fn state_at(&self, index: Index) -> Option<u64> {
        self.states.get(index.0 as usize).copied()
    }

    /// The configuration in force at a committed index.
    pub(super) fn configuration_at(&self, index: Index) -> &(Index, Configuration) {
        self.configurations.iter().rfind(|(at, _)| *at <= index).expect("the initial one is at index 0")
    }

    /// The node a replica lives on, or is said to.
    pub(super) fn place(&self, replica: ReplicaId) -> Option<u64> {
        self.places.get(&replica).or_else(|| self.rumoured.get(&replica)).copied()
    }

    /// A replica begins on a node: the only one of its id, ever, and a member.
    pub(super) fn begins(&mut self, replica: ReplicaId, node: u64) -> Result<(), String> {
        if !self.configurations.iter().any(|(_, configuration)| configuration.member(replica).is_some()) {
            return Err(format!("replica {replica} begins, and the entry that adds it may yet get lost"));
        }
        match self.places.insert(replica, node) {
            Some(other) if other != node => Err(format!("replica {replica} lives on nodes {other} and {node}")),
            _ => Ok(()),
        }
    }

    /// Log matching: equal index and term mean equal content, and equal entries before. By induction over the entry before.
    pub(super) fn appended(&mut self, at: Point, before: Term, payload: &[u8]) -> Result<(), String> {
        let content = Content { term: at.term, digest: digest(payload) };
        if self.refused.contains(&content.digest) {
            return Err(format!("entry {} holds a proposal that was refused", at.index));
        }
        if let Some(Ok(configuration)) = Configuration::decode(payload) {
            let places = configuration.members().iter().map(|member| (member.replica, member.place.node.0));
            self.rumoured.extend(places);
        }
        let place = at.index.0 as usize;
        if self.written.len() <= place {
            self.written.resize(place + 1, Vec::new());
        }
        match self.written[place].iter().find(|(known, _)| known.term == at.term) {
            Some(known) if *known == (content, before) => Ok(()),
            Some(_) => Err(format!("log matching: two entries {} of term {}", at.index, at.term)),
            None => {
                self.written[place].push((content, before));
                Ok(())
            }
        }
    }

    /// A proposal was taken: it is at one index, and at no other.
    pub(super) fn took(&mut self, payload: &[u8], index: Index) -> Result<(), String> {
        match self.proposed.insert(digest(payload), index) {
            None => Ok(()),
            Some(other) => Err(format!("a proposal stands at {other} and at {index}")),
        }
    }

    /// A proposal was refused definitely: it is nowhere, and never will be.
    pub(super) fn refused(&mut self, payload: &[u8]) -> Result<(), String> {
        let digest = digest(payload);
        self.refused.insert(digest);
        if self.written.iter().flatten().any(|(content, _)| content.digest == digest) {
            return Err("a proposal was refused although it had been appended".into());
        }
        Ok(())
    }

    /// Entries behind `last` were taken out of a log. None of them is committed.
    pub(super) fn truncated(&self, last: Index, term_of: impl Fn(Index) -> Option<Term>) -> Result<(), String> {
        for index in last.0 + 1..=self.committed().0 {
            match term_of(Index(index)) {
                Some(term) if term == self.committed[index as usize - 1].term => {
                    return Err(format!("entry {index} was taken back, and is committed"));
                }
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    /// Election safety: one leader a term. Leader completeness: it has all that is committed.
    pub(super) fn leads(&mut self, group: &Group) -> Result<(), String> {
        let (term, replica) = (group.term(), group.replica());
        let known = *self.leaders.entry(term).or_insert(replica);
        if known != replica {
            return Err(format!("election safety: replicas {known} and {replica} lead in term {term}"));
        }
        let voted = |voter: &ReplicaId| self.votes.get(&(term, *voter)) == Some(&replica);
        if !is_quorum(group.configuration().1, voted) {
            return Err(format!("the leader of term {term} has no quorum's votes"));
        }
        // Late votes may yet make a leader of an earlier term, who has nothing of later ones. Terms of commits ascend.
        let committed = self.committed_in.partition_point(|by| *by < term) as u64;
        if group.last() < Index(committed) {
            return Err(format!("leader completeness: the leader of term {term} lacks entry {committed}"));
        }
        for index in group.before().index.0.max(1)..=committed {
            if group.term_at(Index(index)) != Some(self.committed[index as usize - 1].term) {
                return Err(format!("leader completeness: the leader of term {term} has another entry {index}"));
            }
        }
        Ok(())
    }

    /// One vote a term, also across crashes.
    pub(super) fn votes(&mut self, term: Term, voter: ReplicaId, candidate: ReplicaId) -> Result<(), String> {
        let known = *self.votes.entry((term, voter)).or_insert(candidate);
        if known == candidate {
            Ok(())
        } else {
            Err(format!("replica {voter} voted for {known} and for {candidate} in term {term}"))
        }
    }

    /// Whether a leader of a term may change the configuration of an entry.
    pub(super) fn may_change(&self, based_on: Index, term: Term) -> bool {
        based_on <= self.committed() && self.committed.last().is_some_and(|content| content.term >= term)
    }

    /// A voter has heard the leader of a term, in this event.
    pub(super) fn confirms(&mut self, term: Term, voter: ReplicaId, event: u64) {
        self.confirmed.insert((term, voter), event);
    }

    /// Whether the leader of a term was confirmed by a quorum since an event.
    pub(super) fn is_confirmed(&self, leader: &Group, since: u64) -> bool {
        let confirmed = |voter: &ReplicaId| self.confirmed.get(&(leader.term(), *voter)).is_some_and(|at| *at >= since);
        is_quorum(leader.configuration().1, |voter| *voter == leader.replica() || confirmed(voter))
    }

    /// A replica told others, behind its log, of a term: it never goes back behind it.
    pub(super) fn promises(&mut self, replica: ReplicaId, term: Term) {
        let promised = self.promised.entry(replica).or_default();
        *promised = term.max(*promised);
    }

    /// A replica begins again.
    pub(super) fn restarts(&self, replica: ReplicaId, term: Term) -> Result<(), String> {
        match self.promised.get(&replica) {
            Some(promised) if *promised > term => {
                Err(format!("replica {replica} was in term {promised}, and came back in {term}"))
            }
            _ => Ok(()),
        }
    }

    /// A replica holds an index for committed. Whether it is the first to do so; entries before it are checked or added.
    pub(super) fn commits(
        &mut self,
        index: Index,
        content: Content,
        by: Term,
        payload: impl FnOnce() -> Option<Configuration>,
    ) -> Result<bool, String> {
        let place = index.0 as usize - 1;
        match self.committed.get(place) {
            Some(known) if *known == content => Ok(false),
            Some(known) => {
                let (before, now) = (known.term, content.term);
                Err(format!("entry {index} was committed with term {before}, and is now with term {now}"))
            }
            None if place > self.committed.len() => Err(format!("entry {index} is committed before the one before it")),
            None => {
                self.states.push(next_state(self.states[place], index, content.digest));
                self.committed.push(content);
                self.committed_in.push(by);
                if let Some(configuration) = payload() {
                    self.configurations.push((index, configuration));
                }
                Ok(true)
            }
        }
    }
}
