//! A group of a single voter goes the way of any other; and what a replica does that finds a contradiction.

use std::collections::VecDeque;
use std::rc::Rc;

use super::configuration::{Configuration, Place};
use super::*;

const ME: ReplicaId = ReplicaId(1);
const NOW: Micros = Micros(5);

fn restored(term: u64, commit: u64, entries: &[(u64, u64)]) -> Restored {
    let entry = |&(index, term)| Entry { term: Term(term), index: Index(index), payload: Rc::new(vec![7]) };
    let entries: VecDeque<Entry> = entries.iter().map(entry).collect();
    let applied = entries.front().map_or(Index(0), |first| Index(first.index.0 - 1));
    Restored {
        term: Term(term),
        vote: ReplicaId::NONE,
        commit: Index(commit),
        applied,
        whole_from: Index(0),
        before: Point { index: applied, term: Term(if applied == Index(0) { 0 } else { 1 }) },
        configuration: (Index(0), Configuration::default()),
        entries,
    }
}

fn group(voters: u64, restored: Restored) -> Group {
    let places: Vec<Place> = (0..voters).map(|_| Place::default()).collect();
    let configuration = (Index(0), Configuration::initial(&places).expect("a configuration"));
    let setup = Setup { shard: ShardId(1), replica: ME, timing: Timing::default(), batch_entries_max: 9, seed: 1 };
    Group::new(&setup, Restored { configuration, ..restored }, NOW)
}

fn alone() -> Group {
    group(1, restored(0, 0, &[]))
}

/// Everything that waits for the log becomes durable.
fn durable(group: &mut Group, effects: &mut Effects) {
    for envelope in std::mem::take(&mut effects.send_after) {
        group.receive(NOW, envelope, effects);
    }
    group.flush(NOW, effects);
}

#[test]
fn a_lone_voter_leads_only_once_its_vote_is_durable() {
    let (mut group, mut effects) = (alone(), Effects::default());
    group.campaign_alone(NOW, &mut effects);
    assert!(!group.is_leader());
    assert_eq!(group.propose(Vec::new(), &mut effects), Err(Refusal::NotLeader { leader: None }));
    durable(&mut group, &mut effects);
    assert!(group.is_leader() && group.deadline().is_none(), "and has nothing due");
}

#[test]
fn nothing_is_committed_before_it_is_durable() {
    let (mut group, mut effects) = (alone(), Effects::default());
    group.campaign_alone(NOW, &mut effects);
    durable(&mut group, &mut effects);
    assert_eq!((group.commit(), group.read_index(), group.next_committed()), (Index(0), None, None));
    durable(&mut group, &mut effects);
    assert_eq!((group.commit(), group.read_index()), (Index(1), None), "committed, but not yet applied");
    assert_eq!(group.next_committed().map(|entry| entry.index), Some(Index(1)));
    assert_eq!(group.read_index(), Some(Index(1)));
    assert_eq!(group.before().index, Index(1), "nobody needs it any more");
}

#[test]
fn inherited_entries_are_committed_through_the_own_term() {
    let mut group = group(1, restored(3, 7, &[(8, 3)]));
    let mut effects = Effects::default();
    group.campaign_alone(NOW, &mut effects);
    durable(&mut group, &mut effects);
    assert_eq!((group.term(), group.commit(), group.last()), (Term(4), Index(7), Index(9)));
    durable(&mut group, &mut effects);
    assert_eq!(group.commit(), Index(9));
}

#[test]
fn late_messages_of_an_older_term_change_nothing() {
    let (mut group, mut effects) = (alone(), Effects::default());
    group.campaign_alone(NOW, &mut effects);
    let late = effects.send_after.clone();
    group.campaign_alone(NOW, &mut effects);
    for envelope in late {
        group.receive(NOW, envelope, &mut effects);
    }
    assert!(!group.is_leader());
}

#[test]
fn strangers_have_no_vote() {
    let (mut group, mut effects) = (alone(), Effects::default());
    group.campaign_alone(NOW, &mut effects);
    let mut vote = effects.send_after.pop().expect("the own vote");
    vote.from = ReplicaId(9);
    group.receive(NOW, vote, &mut effects);
    assert!(!group.is_leader());
}

/// Rule A15: a leader that contradicts what is committed is a fault that stops the replica for good, loudly, and not a truncation.
#[test]
fn what_is_committed_is_never_taken_back() {
    let mut group = group(3, restored(3, 8, &[(8, 3), (9, 3)]));
    let mut effects = Effects::default();
    let entries = vec![Entry { term: Term(4), index: Index(8), payload: Rc::new(vec![1]) }];
    let previous = Point { index: Index(7), term: Term(1) };
    let message = Message::Append { number: crate::ids::AppendNumber(1), previous, commit: Index(8), entries };
    let envelope = Envelope { shard: ShardId(1), from: ReplicaId(2), to: ME, term: Term(4), message };
    group.receive(NOW, envelope.clone(), &mut effects);
    assert!(matches!(effects.notices[..], [Notice::Faulty(_)]) && group.faulty().is_some());
    assert!(
        effects.send_after.is_empty()
            && !effects.records.iter().any(|record| matches!(record, Record::Truncate { .. }))
    );
    let mut silent = Effects::default();
    group.receive(NOW, envelope, &mut silent);
    group.tick(Micros(1 << 40), Conditions::default(), &mut silent);
    assert!(
        silent.is_empty() && group.deadline().is_none() && group.propose(vec![1], &mut silent) == Err(Refusal::Faulty)
    );
}

/// Rule B10: what is proposed and not settled is bounded, and what is settled gives its room back.
#[test]
fn proposals_are_bounded_by_what_is_not_settled() {
    let (mut group, mut effects) = (alone(), Effects::default());
    group.campaign_alone(NOW, &mut effects);
    durable(&mut group, &mut effects);
    let quarter = crate::limits::GROUP_UNCOMMITTED_BYTES_MAX / 4;
    for _ in 0..3 {
        group.propose(vec![0; quarter], &mut effects).expect("there is room");
    }
    assert_eq!(group.propose(vec![0; quarter], &mut effects), Err(Refusal::Overloaded));
    group.flush(NOW, &mut effects);
    durable(&mut group, &mut effects);
    for _ in 0..3 {
        group.propose(vec![0; quarter], &mut effects).expect("there is room again");
    }
}
