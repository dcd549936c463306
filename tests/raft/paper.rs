//! A test a paragraph of the Raft paper (Ongaro and Ousterhout, extended version of 2014), where a script does not show it already; the section is
//! cited.

use dkc::engine::raft::{Envelope, Message};
use dkc::ids::{Index, Micros, ReplicaId, Term};

use crate::cluster::{Cluster, configuration};

/// Replicas 1 to `voters` with logs of these terms.
fn cluster(voters: u64, logs: &[&[u64]]) -> Cluster {
    let mut cluster = Cluster { now: Micros(1_000_000), batch: 64, ..Cluster::default() };
    let ids: Vec<u64> = (1..=voters).collect();
    for (place, id) in ids.iter().enumerate() {
        cluster.add(*id, &configuration(&ids, &[]), logs.get(place).copied().unwrap_or_default(), (0, 0));
    }
    cluster
}

fn tick(cluster: &mut Cluster, id: u64) {
    let due = cluster.group(id).deadline().expect("something is due");
    cluster.now = cluster.now.max(due);
    let now = cluster.now;
    cluster.with(id, |group, effects| group.tick(now, Default::default(), effects));
}

/// Everything becomes durable and arrives, a hundred times over: more than any of these needs.
fn settle(cluster: &mut Cluster) {
    for _ in 0..100 {
        let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
        ids.iter().filter(|id| cluster.nodes[id].group.is_some()).copied().collect::<Vec<_>>().into_iter().for_each(
            |id| {
                cluster.sync(id, usize::MAX);
            },
        );
        for envelope in cluster.network.drain(..).collect::<Vec<Envelope>>() {
            cluster.deliver(envelope);
        }
    }
}

fn elect(cluster: &mut Cluster, id: u64) {
    tick(cluster, id);
    settle(cluster);
    assert!(cluster.group(id).is_leader(), "{}", cluster.status());
}

fn send(cluster: &mut Cluster, from: u64, to: u64, term: u64, message: Message) {
    let shard = cluster.group(to).shard();
    cluster.deliver(Envelope { shard, from: ReplicaId(from), to: ReplicaId(to), term: Term(term), message });
}

/// 5.1: "if one server's current term is smaller than the other's, then it updates its current term to the larger value. If a candidate or
/// leader discovers that its term is out of date, it immediately reverts to follower state."
#[test]
fn a_later_term_makes_followers_of_leaders_and_candidates() {
    let mut cluster = cluster(3, &[]);
    elect(&mut cluster, 1);
    send(&mut cluster, 2, 1, 9, Message::TermIsOver);
    assert_eq!((cluster.group(1).role_name(), cluster.group(1).term()), ("follower", Term(9)));
    tick(&mut cluster, 2);
    settle(&mut cluster);
    send(&mut cluster, 3, 2, 30, Message::TermIsOver);
    assert_eq!((cluster.group(2).role_name(), cluster.group(2).term()), ("follower", Term(30)));
}

/// 5.1: "If a server receives a request with a stale term number, it rejects the request."
#[test]
fn requests_of_an_earlier_term_are_refused() {
    let mut cluster = cluster(3, &[&[4], &[4], &[4]]);
    cluster.out.clear();
    send(&mut cluster, 2, 1, 3, Message::VoteRequest { last: cluster_last(4), transfer: false });
    send(&mut cluster, 2, 1, 3, Message::Heartbeat { round: dkc::ids::Round(0), commit: Index(1) });
    assert_eq!(cluster.out, "1→2 term 4: does not vote\n1→2 term 4: your term is over\n");
    assert_eq!((cluster.group(1).commit(), cluster.group(1).leader()), (Index(0), None));
}

fn cluster_last(term: u64) -> dkc::engine::checkpoint::Point {
    dkc::engine::checkpoint::Point { index: Index(1), term: Term(term) }
}

/// 5.2: "When servers start up, they begin as followers."
#[test]
fn servers_begin_as_followers() {
    let mut cluster = cluster(3, &[]);
    assert!((1..=3).all(|id| cluster.group(id).role_name() == "follower"));
}

/// 5.2: "If a follower receives no communication over a period of time called the election timeout, then it assumes there is no viable leader
/// and begins an election"; the timeout is "chosen randomly from a fixed interval".
#[test]
fn election_timeouts_are_spread_over_an_interval() {
    let mut cluster = cluster(7, &[]);
    let election = cluster.timing.election_micros;
    let now = cluster.now;
    let mut waits: Vec<u64> = (1..=7).map(|id| cluster.group(id).deadline().expect("an election").0 - now.0).collect();
    assert!(waits.iter().all(|wait| (election..2 * election).contains(wait)), "{waits:?}");
    waits.sort_unstable();
    waits.dedup();
    assert_eq!(waits.len(), 7, "no two alike");
}

/// 5.2: "A server remains in follower state as long as it receives valid RPCs from a leader."
#[test]
fn heartbeats_keep_elections_away() {
    let mut cluster = cluster(3, &[]);
    elect(&mut cluster, 1);
    for _ in 0..50 {
        tick(&mut cluster, 1);
        settle(&mut cluster);
        let now = cluster.now;
        assert!((2..=3).all(|id| cluster.group(id).deadline().is_some_and(|due| due > now)));
    }
    assert_eq!(cluster.group(1).term(), Term(1));
}

/// 5.2: "A candidate wins an election if it receives votes from a majority of the servers in the full cluster for the same term."
#[test]
fn a_majority_of_all_elects() {
    for (up, wins) in [(2, false), (3, true)] {
        let mut cluster = cluster(5, &[]);
        (up + 1..=5).for_each(|id| cluster.crash(id, 0));
        tick(&mut cluster, 1);
        settle(&mut cluster);
        assert_eq!(cluster.group(1).is_leader(), wins);
    }
}

/// 5.2: "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis."
#[test]
fn the_first_who_asks_gets_the_vote() {
    let mut cluster = cluster(3, &[&[1], &[1], &[1]]);
    let ask = |cluster: &mut Cluster, from| {
        send(cluster, from, 1, 2, Message::VoteRequest { last: cluster_last(1), transfer: false });
        cluster.sync(1, usize::MAX);
    };
    cluster.out.clear();
    ask(&mut cluster, 2);
    ask(&mut cluster, 3);
    ask(&mut cluster, 2);
    let votes: Vec<&str> = cluster.out.lines().filter(|line| line.contains('→')).collect();
    assert_eq!(votes, ["1→2 term 2: votes", "1→3 term 2: does not vote", "1→2 term 2: votes"]);
}

/// 5.2: "While waiting for votes, a candidate may receive an AppendEntries RPC from another server claiming to be leader. If the leader's term is
/// at least as large as the candidate's current term, then the candidate recognizes the leader as legitimate."
#[test]
fn a_candidate_follows_a_leader_of_its_term() {
    let mut cluster = cluster(3, &[]);
    tick(&mut cluster, 1);
    for from in [2, 3] {
        send(&mut cluster, from, 1, 0, Message::PreVoteReply { campaign: Term(1), granted: true });
    }
    assert_eq!(cluster.group(1).role_name(), "candidate");
    send(&mut cluster, 2, 1, 1, Message::Heartbeat { round: dkc::ids::Round(0), commit: Index(0) });
    assert_eq!((cluster.group(1).role_name(), cluster.group(1).leader()), ("follower", Some(ReplicaId(2))));
}

/// 5.2: split votes "time out and start a new election".
#[test]
fn a_split_vote_is_followed_by_another_election() {
    let mut cluster = cluster(2, &[]);
    tick(&mut cluster, 1);
    tick(&mut cluster, 2);
    settle(&mut cluster);
    for _ in 0..20 {
        if (1..=2).any(|id| cluster.group(id).is_leader()) {
            return;
        }
        let next = (1..=2).min_by_key(|id| cluster.group(*id).deadline()).expect("two");
        tick(&mut cluster, next);
        settle(&mut cluster);
    }
    panic!("nobody leads: {}", cluster.status());
}

/// 5.3: "the leader retries AppendEntries RPCs indefinitely (even after it has responded to the client) until all followers eventually store all
/// log entries", "in parallel".
#[test]
fn a_follower_that_was_down_gets_everything() {
    let mut cluster = cluster(3, &[]);
    elect(&mut cluster, 1);
    cluster.crash(3, 0);
    for number in 0..20 {
        cluster.with(1, |group, effects| group.propose(vec![number], effects)).expect("it leads");
        settle(&mut cluster);
    }
    assert_eq!(cluster.group(1).commit(), Index(21));
    cluster.start(3, 0);
    for _ in 0..3 {
        tick(&mut cluster, 1);
        settle(&mut cluster);
    }
    assert_eq!((cluster.group(3).last(), cluster.group(3).commit()), (Index(21), Index(21)));
}

/// 5.3: "If a follower's log is inconsistent with the leader's … The leader handles inconsistencies by forcing the followers' logs to duplicate its
/// own."
#[test]
fn a_followers_log_becomes_the_leaders() {
    let logs: [&[u64]; 3] = [&[1, 1, 3, 3], &[1, 1, 2, 2, 2, 2], &[1]];
    let mut cluster = cluster(3, &logs);
    elect(&mut cluster, 1);
    for id in 2..=3 {
        let terms: Vec<_> = (1..=5).map(|index| cluster.group(id).term_at(Index(index))).collect();
        assert_eq!(terms, [1, 1, 3, 3, 4].map(|term| Some(Term(term))));
        assert_eq!(cluster.group(id).last(), Index(5));
    }
}

/// 5.4.1: "the voter denies its vote if its own log is more up-to-date than that of the candidate".
#[test]
fn a_log_that_lacks_something_wins_nothing() {
    for (candidate, voters, wins) in [
        (&[1, 1][..], &[1, 1, 1][..], false),
        (&[1, 1, 1], &[2], false),
        (&[2], &[1, 1, 1], true),
        (&[1, 1], &[1, 1], true),
    ] {
        let mut cluster = cluster(3, &[candidate, voters, voters]);
        tick(&mut cluster, 1);
        settle(&mut cluster);
        assert_eq!(cluster.group(1).is_leader(), wins, "{candidate:?} against {voters:?}");
    }
}

/// 5.5: "Raft RPCs are idempotent": what arrives twice does no more than what arrives once.
#[test]
fn what_arrives_twice_changes_nothing_more() {
    let mut cluster = cluster(3, &[]);
    elect(&mut cluster, 1);
    cluster.with(1, |group, effects| group.propose(vec![1], effects)).expect("it leads");
    for envelope in cluster.network.clone() {
        cluster.deliver(envelope);
    }
    settle(&mut cluster);
    assert!((1..=3).all(|id| cluster.group(id).last() == Index(2) && cluster.group(id).commit() == Index(2)));
}

/// 5.6: "the broadcast time should be an order of magnitude less than the election timeout": a leader's heartbeat may get lost, and another.
#[test]
fn two_lost_heartbeats_depose_nobody() {
    let mut cluster = cluster(3, &[]);
    elect(&mut cluster, 1);
    for lost in [true, true, false] {
        tick(&mut cluster, 1);
        if lost {
            cluster.network.clear();
        }
        settle(&mut cluster);
    }
    let now = cluster.now;
    assert!(cluster.group(1).is_leader());
    assert!((2..=3).all(|id| cluster.group(id).deadline().is_some_and(|due| due > now)));
}

/// 6: "a server always uses the latest configuration in its log, regardless of whether the entry is committed".
#[test]
fn the_latest_configuration_counts_committed_or_not() {
    let mut cluster = cluster(3, &[]);
    elect(&mut cluster, 1);
    let change = dkc::engine::raft::configuration::Change::Voters(vec![ReplicaId(1), ReplicaId(2)]);
    cluster.change(1, &change).expect("nothing else is under way");
    assert!(cluster.group(1).configuration().1.is_joint() && cluster.group(1).commit() == Index(1));
    cluster.network.retain(|envelope| envelope.to == ReplicaId(2));
    for envelope in cluster.network.drain(..).collect::<Vec<_>>() {
        cluster.deliver(envelope);
    }
    assert!(cluster.group(2).configuration().1.is_joint() && !cluster.group(3).configuration().1.is_joint());
}
