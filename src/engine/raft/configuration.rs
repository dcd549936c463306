//! Who belongs to a group: configurations, their encoding in entries, the changes allowed, and the history of those in the log.
//!
//! A configuration is in effect from the moment its entry is *appended*, committed or not, and stops being so if that entry is
//! truncated. So the configurations of the log are kept beside it, and the one in effect is always the last of them.
//!
//! ```text
//!            add (learner, minted id)          voters (both majorities)         leave, by whoever leads
//!  stable ──────────────────────────► stable ──────────────────────────► joint ──────────────────────────► stable
//!                                                                                outgoing only ⇒ learner ──► remove
//! ```
//!
//! Only joint changes alter who votes, one at a time, and only once the configuration in effect is committed: the rules of
//! Ongaro, "Consensus: Bridging Theory and Practice" (2014), sections 4.1 and 4.3, with the correction of 2015 (no change before an entry
//! of the leader's own term is committed). A voter becomes a learner before it can be removed, so that whoever is no longer written to
//! does not campaign either. Replica ids are minted by the entry that adds the replica. Only once that is committed is the new
//! replica written to: an entry that gets lost takes its id with it, and then nobody may have it.
//!
//! ```text
//! u8 2 │ u8 5 │ u64 next id │ u8 members │ members × ( u64 replica │ u64 node │ u16 store │ u8 flags: 1 votes, 2 voted before )
//! ```

use crate::ids::{Index, NodeId, ReplicaId, StoreId};
use crate::limits::{GROUP_MEMBERS_MAX, GROUP_VOTERS_MAX};
use crate::mutant::mutant;

/// How the payload of a configuration's entry begins. No other command does.
pub const CONFIGURATION_PREFIX: [u8; 2] = [2, 5];
/// The payload of a new leader's first entry.
pub const NO_OP: [u8; 2] = [2, 0];

const FLAG_INCOMING: u8 = 1;
const FLAG_OUTGOING: u8 = 2;
const MEMBER_BYTES: usize = 19;

/// Where a replica lives. Node ids are never reused in a cluster: a node that has lost its disk comes back as another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// The store in it.
    pub store: StoreId,
}

/// A replica of a group, and whether it votes. One that is neither incoming nor outgoing is a learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub replica: ReplicaId,
    /// Where it lives.
    pub place: Place,
    /// Whether it votes in the new half of a joint configuration, or in the only one.
    pub incoming: bool,
    /// Whether it votes in the old half.
    pub outgoing: bool,
}

/// A change that a leader is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A replica that learns; its id is minted by the entry.
    Add(Place),
    /// These replicas are to vote, and no others. All are members already.
    Voters(Vec<ReplicaId>),
    /// A learner leaves.
    Remove(ReplicaId),
}

/// Why a configuration is not one, or a change is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// Nobody would vote.
    #[error("a group needs a voter")]
    NoVoters,
    /// More voters or members than the limits allow.
    #[error("too many replicas")]
    TooMany,
    /// A replica is named that is no member.
    #[error("not a member of the group")]
    NotAMember,
    /// A voter must become a learner first.
    #[error("a voter cannot be removed before it is a learner")]
    StillVotes,
    /// Nothing would change.
    #[error("nothing to change")]
    NoChange,
    /// The bytes are no configuration.
    #[error("unreadable configuration")]
    Unreadable,
}

/// Who belongs to a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// In ascending order of their ids.
    members: Vec<Member>,
    /// The id that the next replica gets.
    next: ReplicaId,
}

impl Configuration {
    /// A configuration of these members.
    ///
    /// # Errors
    /// There is no voter, there are too many members, or their ids are not ascending.
    pub fn new(members: Vec<Member>) -> Result<Configuration, ConfigurationError> {
        let next = members.last().map_or(ReplicaId(1), |member| member.replica.next());
        Configuration { members, next }.checked()
    }

    /// A group of voters at these places, with the ids from 1 on: what a group is formatted with.
    ///
    /// # Errors
    /// As [`Configuration::new`].
    pub fn initial(places: &[Place]) -> Result<Configuration, ConfigurationError> {
        let members = places.iter().zip(1..).map(|(&place, id)| Member::voter(ReplicaId(id), place));
        Configuration::new(members.collect())
    }

    fn checked(self) -> Result<Configuration, ConfigurationError> {
        let ascending = self.members.is_sorted_by(|a, b| a.replica < b.replica);
        let ids_fit = self.members.iter().all(|member| ReplicaId::NONE < member.replica && member.replica < self.next);
        if !ascending || !ids_fit {
            return Err(ConfigurationError::Unreadable);
        }
        if self.incoming().next().is_none() {
            return Err(ConfigurationError::NoVoters);
        }
        let most = self.incoming().count().max(self.outgoing().count());
        if self.members.len() > GROUP_MEMBERS_MAX || most > GROUP_VOTERS_MAX {
            return Err(ConfigurationError::TooMany);
        }
        Ok(self)
    }

    /// All members, in ascending order of their ids.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// One member.
    #[must_use]
    pub fn member(&self, replica: ReplicaId) -> Option<&Member> {
        self.members.iter().find(|member| member.replica == replica)
    }

    /// The id that the next replica gets.
    #[must_use]
    pub fn next_id(&self) -> ReplicaId {
        self.next
    }

    /// Those who vote, in the new half if there are two.
    pub fn incoming(&self) -> impl Iterator<Item = ReplicaId> {
        let counts = |member: &&Member| member.incoming || mutant!("learners-are-counted");
        self.members.iter().filter(counts).map(|member| member.replica).take(GROUP_VOTERS_MAX + 1)
    }

    /// Those who vote in the old half; nobody unless the configuration is joint.
    pub fn outgoing(&self) -> impl Iterator<Item = ReplicaId> {
        self.members.iter().filter(|member| member.outgoing).map(|member| member.replica)
    }

    /// Whether majorities of two halves are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.members.iter().any(|member| member.outgoing)
    }

    /// Whether a replica votes, in either half.
    #[must_use]
    pub fn votes(&self, replica: ReplicaId) -> bool {
        self.member(replica).is_some_and(|member| member.incoming || member.outgoing)
    }

    /// Whether a replica alone makes every quorum.
    #[must_use]
    pub fn is_sole_voter(&self, replica: ReplicaId) -> bool {
        self.members.iter().all(|member| (member.incoming || member.outgoing) == (member.replica == replica))
    }

    /// The configuration after a change.
    ///
    /// # Errors
    /// Why the change is not possible, whatever the state of the group.
    pub fn changed(&self, change: &Change) -> Result<Configuration, ConfigurationError> {
        let mut to = self.clone();
        match change {
            Change::Add(place) => {
                let free = (1..).map(ReplicaId).find(|id| self.member(*id).is_none());
                let minted = free.filter(|_| mutant!("replica-ids-reused")).unwrap_or(to.next);
                let member = Member { replica: minted, place: *place, incoming: false, outgoing: false };
                to.members.push(member);
                to.members.sort_unstable_by_key(|member| member.replica);
                to.next = to.next.max(minted.next());
            }
            Change::Voters(voters) => {
                if voters.iter().any(|voter| self.member(*voter).is_none()) {
                    return Err(ConfigurationError::NotAMember);
                }
                for member in &mut to.members {
                    member.outgoing = member.incoming;
                    member.incoming = voters.contains(&member.replica);
                }
                if to.members.iter().all(|member| member.incoming == member.outgoing) {
                    return Err(ConfigurationError::NoChange);
                }
                if mutant!("voters-changed-in-one-step") {
                    to = to.left();
                }
            }
            Change::Remove(replica) => {
                let member = self.member(*replica).ok_or(ConfigurationError::NotAMember)?;
                if member.incoming || member.outgoing {
                    return Err(ConfigurationError::StillVotes);
                }
                to.members.retain(|member| member.replica != *replica);
            }
        }
        to.checked()
    }

    /// The configuration in which a joint one ends.
    #[must_use]
    pub fn left(&self) -> Configuration {
        let mut to = self.clone();
        to.members.iter_mut().for_each(|member| member.outgoing = false);
        to
    }

    /// The payload of its entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(11 + self.members.len() * MEMBER_BYTES);
        bytes.extend_from_slice(&CONFIGURATION_PREFIX);
        bytes.extend_from_slice(&self.next.0.to_le_bytes());
        bytes.push(self.members.len() as u8);
        for member in &self.members {
            bytes.extend_from_slice(&member.replica.0.to_le_bytes());
            bytes.extend_from_slice(&member.place.node.0.to_le_bytes());
            bytes.extend_from_slice(&member.place.store.0.to_le_bytes());
            let incoming = if member.incoming { FLAG_INCOMING } else { 0 };
            bytes.push(incoming | if member.outgoing { FLAG_OUTGOING } else { 0 });
        }
        bytes
    }

    /// Reads an entry's payload: `None` if it is of another kind.
    ///
    /// # Errors
    /// It claims to be a configuration, and is none.
    pub fn decode(payload: &[u8]) -> Option<Result<Configuration, ConfigurationError>> {
        let content = payload.strip_prefix(&CONFIGURATION_PREFIX)?;
        Some(Configuration::decode_content(content))
    }

    fn decode_content(content: &[u8]) -> Result<Configuration, ConfigurationError> {
        let unreadable = ConfigurationError::Unreadable;
        let (next, rest) = content.split_first_chunk::<8>().ok_or(unreadable)?;
        let (count, rest) = rest.split_first().ok_or(unreadable)?;
        if usize::from(*count) > GROUP_MEMBERS_MAX || rest.len() != usize::from(*count) * MEMBER_BYTES {
            return Err(unreadable);
        }
        let member = |bytes: &[u8]| {
            let (replica, rest) = bytes.split_first_chunk::<8>()?;
            let (node, rest) = rest.split_first_chunk::<8>()?;
            let (store, rest) = rest.split_first_chunk::<2>()?;
            let &[flags @ 0..=3] = rest else { return None };
            Some(Member {
                replica: ReplicaId(u64::from_le_bytes(*replica)),
                place: Place { node: NodeId(u64::from_le_bytes(*node)), store: StoreId(u16::from_le_bytes(*store)) },
                incoming: flags & FLAG_INCOMING != 0,
                outgoing: flags & FLAG_OUTGOING != 0,
            })
        };
        let members: Option<Vec<Member>> = rest.chunks_exact(MEMBER_BYTES).map(member).collect();
        let next = ReplicaId(u64::from_le_bytes(*next));
        Configuration { members: members.ok_or(unreadable)?, next }.checked().map_err(|_| unreadable)
    }
}

impl Member {
    /// One that votes.
    #[must_use]
    pub fn voter(replica: ReplicaId, place: Place) -> Member {
        Member { replica, place, incoming: true, outgoing: false }
    }
}

/// The configurations of a log, by the index of their entries: the first is in force where the log begins.
#[derive(Debug)]
pub(super) struct History {
    /// Ascending, never empty.
    configurations: Vec<(Index, Configuration)>,
}

impl History {
    pub(super) fn new(at: Index, configuration: Configuration) -> History {
        History { configurations: vec![(at, configuration)] }
    }

    /// The one in effect, and the index of its entry.
    pub(super) fn latest(&self) -> (Index, &Configuration) {
        let (index, configuration) = self.configurations.last().expect("a history is never empty");
        (*index, configuration)
    }

    /// The one in force at an index, and the index of its entry: that of the last entry up to there.
    pub(super) fn at(&self, index: Index) -> (Index, &Configuration) {
        let found = self.configurations.iter().rfind(|(at, _)| *at <= index);
        let (at, configuration) = found.unwrap_or(&self.configurations[0]);
        (*at, configuration)
    }

    /// The one in force at an index, and all that follow, with the indexes of their entries.
    pub(super) fn since(&self, index: Index) -> impl Iterator<Item = (Index, &Configuration)> {
        let first = self.configurations.iter().rposition(|(at, _)| *at <= index).unwrap_or(0);
        self.configurations[first..].iter().map(|(at, configuration)| (*at, configuration))
    }

    pub(super) fn append(&mut self, index: Index, configuration: Configuration) {
        debug_assert!(self.latest().0 < index, "configurations are appended in the order of the log");
        self.configurations.push((index, configuration));
    }

    /// The entries from an index on are gone.
    pub(super) fn truncate(&mut self, from: Index) {
        if mutant!("configuration-not-reverted") {
            return;
        }
        let kept = self.configurations.iter().take_while(|(at, _)| *at < from).count();
        self.configurations.truncate(kept.max(1));
    }

    /// Nobody will ask for what was in force before an index.
    pub(super) fn forget_before(&mut self, index: Index) {
        let last = self.configurations.iter().rposition(|(at, _)| *at <= index).unwrap_or(0);
        self.configurations.drain(..last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(count: u64) -> Vec<Place> {
        (1..=count).map(|node| Place { node: NodeId(node), store: StoreId(0) }).collect()
    }

    fn voters(configuration: &Configuration) -> (Vec<u64>, Vec<u64>) {
        (configuration.incoming().map(|id| id.0).collect(), configuration.outgoing().map(|id| id.0).collect())
    }

    #[test]
    fn voters_change_through_a_joint_configuration() {
        let three = Configuration::initial(&places(3)).unwrap();
        let four = three.changed(&Change::Add(places(4)[3])).unwrap();
        assert_eq!((voters(&four), four.next_id()), ((vec![1, 2, 3], vec![]), ReplicaId(5)));
        let joint = four.changed(&Change::Voters(vec![ReplicaId(2), ReplicaId(3), ReplicaId(4)])).unwrap();
        assert_eq!(voters(&joint), (vec![2, 3, 4], vec![1, 2, 3]));
        assert!(joint.is_joint() && joint.votes(ReplicaId(1)));
        let stable = joint.left();
        assert_eq!(voters(&stable), (vec![2, 3, 4], vec![]));
        assert!(!stable.votes(ReplicaId(1)), "it learns");
        let removed = stable.changed(&Change::Remove(ReplicaId(1))).unwrap();
        let again = removed.changed(&Change::Add(places(1)[0])).unwrap();
        assert!(again.member(ReplicaId(5)).is_some() && again.member(ReplicaId(1)).is_none(), "ids are not reused");
    }

    #[test]
    fn impossible_changes_are_refused_by_name() {
        let three = Configuration::initial(&places(3)).unwrap();
        let refused = |change| three.changed(&change).unwrap_err();
        assert_eq!(refused(Change::Remove(ReplicaId(1))), ConfigurationError::StillVotes);
        assert_eq!(refused(Change::Remove(ReplicaId(9))), ConfigurationError::NotAMember);
        assert_eq!(refused(Change::Voters(vec![ReplicaId(4)])), ConfigurationError::NotAMember);
        assert_eq!(refused(Change::Voters(vec![])), ConfigurationError::NoVoters);
        assert_eq!(refused(Change::Voters((1..=3).map(ReplicaId).collect())), ConfigurationError::NoChange);
        assert_eq!(Configuration::initial(&places(8)), Err(ConfigurationError::TooMany));
    }

    #[test]
    fn configurations_round_trip_and_nothing_else_is_one() {
        let three = Configuration::initial(&places(3)).unwrap();
        let joint = three.changed(&Change::Voters(vec![ReplicaId(1)])).unwrap();
        let bytes = joint.encode();
        assert_eq!(Configuration::decode(&bytes), Some(Ok(joint)));
        assert_eq!(Configuration::decode(&NO_OP), None);
        for cut in 2..bytes.len() {
            assert_eq!(Configuration::decode(&bytes[..cut]), Some(Err(ConfigurationError::Unreadable)), "{cut}");
        }
        for at in 2..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let _ = Configuration::decode(&flipped).expect("it still claims to be one").map(|other| other.encode());
            }
        }
    }

    #[test]
    fn a_history_gives_back_what_was_in_force() {
        let one = Configuration::initial(&places(1)).unwrap();
        let two = one.changed(&Change::Add(places(2)[1])).unwrap();
        let three = two.changed(&Change::Add(places(3)[2])).unwrap();
        let mut history = History::new(Index(0), one.clone());
        history.append(Index(4), two.clone());
        history.append(Index(9), three);
        assert_eq!((history.at(Index(3)), history.at(Index(8))), ((Index(0), &one), (Index(4), &two)));
        history.truncate(Index(9));
        assert_eq!(history.latest(), (Index(4), &two));
        history.forget_before(Index(5));
        assert_eq!(history.at(Index(5)), (Index(4), &two));
    }
}
