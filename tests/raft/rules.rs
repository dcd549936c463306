//! Rules whose breach the core's world cannot tell from hostility, or has no room for: a direct test each, and the bug put back in that
//! it has to notice. And the table of rules in the core's documentation: everything it names is there.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;

use dkc::engine::checkpoint::Point;
use dkc::engine::raft::configuration::{Change, Place};
use dkc::engine::raft::install::CheckpointId;
use dkc::engine::raft::{
    Chunk, Conditions, Effects, Entry, Envelope, Group, Message, Refusal, Restored, Setup, Timing,
};
use dkc::ids::{AppendNumber, Index, Micros, ReadToken, ReplicaId, Round, ShardId, Term};
use dkc::limits::GROUP_UNCOMMITTED_BYTES_MAX;
use dkc::mutant::{self, Mutant};

use crate::cluster::configuration;

/// Shows that a test holds, and that it fails with a bug put back in.
fn notices(name: &str, test: fn()) {
    test();
    let known = mutant::CORE_CAUGHT_BY_TESTS.iter().find(|mutant| mutant.name == name);
    let mutant: &Mutant = known.expect("the bug is listed");
    let noticed = catch_unwind(AssertUnwindSafe(|| mutant::with(mutant, test))).is_err();
    assert!(noticed, "{name} is not noticed");
}

struct One {
    group: Group,
    effects: Effects,
    now: Micros,
}

impl One {
    /// Replica 1 of these voters, with a log of these terms.
    fn new(voters: &[u64], terms: &[u64]) -> One {
        let entry = |(place, &term): (usize, &u64)| Entry {
            term: Term(term),
            index: Index(place as u64 + 1),
            payload: vec![7].into(),
        };
        let restored = Restored {
            term: Term(terms.last().copied().unwrap_or_default()),
            vote: ReplicaId::NONE,
            commit: Index(0),
            applied: Index(0),
            whole_from: Index(0),
            before: Point::default(),
            configuration: (Index(0), configuration(voters, &[])),
            entries: terms.iter().enumerate().map(entry).collect(),
        };
        let timing = Timing::default();
        let setup = Setup { shard: ShardId(1), replica: ReplicaId(1), timing, batch_entries_max: 8, seed: 1 };
        let now = Micros(1_000_000);
        One { group: Group::new(&setup, restored, now), effects: Effects::default(), now }
    }

    fn receive(&mut self, from: u64, term: u64, message: Message) {
        let envelope =
            Envelope { shard: ShardId(1), from: ReplicaId(from), to: ReplicaId(1), term: Term(term), message };
        self.group.receive(self.now, envelope, &mut self.effects);
        self.settle();
    }

    fn tick(&mut self) {
        self.now = self.now.max(self.group.deadline().expect("something is due"));
        self.group.tick(self.now, Conditions::default(), &mut self.effects);
        self.settle();
    }

    /// Everything becomes durable and is applied.
    fn settle(&mut self) {
        loop {
            while self.group.next_committed().is_some() {}
            self.group.flush(self.now, &mut self.effects);
            let place = self.effects.send_after.iter().position(|envelope| envelope.to == envelope.from);
            let Some(place) = place else { return };
            let own = self.effects.send_after.remove(place);
            self.group.receive(self.now, own, &mut self.effects);
        }
    }

    /// Makes it lead, by the word of replica 2.
    fn lead(&mut self) {
        self.tick();
        let campaign = self.group.term().next();
        self.receive(2, self.group.term().0, Message::PreVoteReply { campaign, granted: true });
        self.receive(2, campaign.0, Message::VoteReply { granted: true });
        assert!(self.group.is_leader(), "it leads");
    }
}

fn appended(matched: u64) -> Message {
    Message::Appended { matched: Index(matched) }
}

fn point(index: u64, term: u64) -> Point {
    Point { index: Index(index), term: Term(term) }
}

/// Rule A7: what an append did not verify is not committed by it, whatever it says is.
#[test]
fn an_append_commits_no_more_than_it_verifies() {
    notices("commit-beyond-what-was-verified", || {
        let mut one = One::new(&[1, 2, 3], &[1, 1, 1]);
        let number = AppendNumber(1);
        one.receive(2, 2, Message::Append { number, previous: point(1, 1), commit: Index(3), entries: Vec::new() });
        assert_eq!(one.group.commit(), Index(1));
    });
}

/// Rule B10.
#[test]
fn a_leader_that_cannot_commit_takes_only_so_much() {
    notices("proposals-unbounded", || {
        let mut one = One::new(&[1, 2], &[]);
        one.lead();
        let half = GROUP_UNCOMMITTED_BYTES_MAX / 2;
        one.group.propose(vec![0; half], &mut one.effects).expect("there is room");
        assert_eq!(one.group.propose(vec![0; half], &mut one.effects), Err(Refusal::Overloaded));
    });
}

/// Rule B10.
#[test]
fn what_is_settled_gives_its_room_back() {
    notices("room-never-given-back", || {
        let mut one = One::new(&[1], &[]);
        one.group.campaign_alone(one.now, &mut one.effects);
        one.settle();
        for _ in 0..3 {
            one.group.propose(vec![0; GROUP_UNCOMMITTED_BYTES_MAX / 2], &mut one.effects).expect("there is room");
            one.settle();
        }
    });
}

/// Rule E8.
#[test]
fn a_follower_that_has_less_than_it_acknowledged_counts_no_more() {
    notices("amnesia-accepted", || {
        let mut one = One::new(&[1, 2, 3], &[]);
        one.lead();
        one.receive(2, 1, appended(1));
        one.group.propose(vec![9], &mut one.effects).expect("it leads");
        one.settle();
        let rejected =
            Message::Rejected { number: AppendNumber(2), previous: Index(1), hint: point(0, 0), last: Index(0) };
        one.receive(2, 1, rejected);
        one.receive(2, 1, appended(2));
        assert_eq!(one.group.commit(), Index(1), "replica 2 counts for nothing");
    });
}

/// Rule C3.
#[test]
fn a_candidate_does_not_depose_a_leader_that_is_heard() {
    notices("candidates-depose-a-heard-leader", || {
        let mut one = One::new(&[1, 2, 3], &[]);
        one.receive(2, 1, Message::Heartbeat { round: Round(0), commit: Index(0) });
        one.receive(3, 5, Message::VoteRequest { last: point(9, 4), transfer: false });
        assert_eq!((one.group.term(), one.group.leader()), (Term(1), Some(ReplicaId(2))));
        one.receive(3, 5, Message::VoteRequest { last: point(9, 4), transfer: true });
        assert_eq!(one.group.term(), Term(5), "unless the leader has asked it to");
    });
}

/// Rule C7.
#[test]
fn a_request_to_lead_is_followed_in_time_only() {
    notices("late-timeouts-heeded", || {
        let mut one = One::new(&[1, 2, 3], &[1]);
        one.receive(2, 1, Message::Heartbeat { round: Round(4), commit: Index(0) });
        one.receive(2, 1, Message::TimeoutNow { last: point(1, 1), round: Round(3) });
        assert!(!one.group.campaigns(), "the leader has given it up since");
        one.receive(2, 1, Message::TimeoutNow { last: point(2, 1), round: Round(4) });
        assert!(!one.group.campaigns(), "the log is not the leader's");
        one.receive(3, 1, Message::TimeoutNow { last: point(1, 1), round: Round(4) });
        assert!(!one.group.campaigns(), "that is not the leader");
    });
}

/// Rule C5.
#[test]
fn votes_go_by_log_and_term_and_not_by_the_own_configuration() {
    notices("only-members-get-votes", || {
        let mut one = One::new(&[1, 2, 3], &[1]);
        one.receive(7, 2, Message::VoteRequest { last: point(1, 1), transfer: false });
        let granted = |envelope: &Envelope| envelope.message == Message::VoteReply { granted: true };
        assert!(one.effects.send_after.iter().any(granted));
    });
}

/// Rule D1: a round that a change leaves with all the answers it needs is over.
#[test]
fn a_read_does_not_wait_for_those_who_are_dismissed() {
    notices("rounds-not-looked-at-after-changes", || {
        let mut one = One::new(&[1, 2], &[]);
        one.lead();
        one.receive(2, 1, appended(1));
        let change = Change::Voters(vec![ReplicaId(1)]);
        one.group.change(one.now, &change, Index(1), &mut one.effects).expect("nothing else is under way");
        one.settle();
        one.group.read(ReadToken(7)).expect("it leads");
        one.settle();
        assert!(one.effects.reads.is_empty(), "replica 2 still votes");
        one.receive(2, 1, appended(2));
        one.receive(2, 1, appended(3));
        one.settle();
        assert_eq!(one.effects.reads.len(), 1);
    });
}

/// Rule R1: a place where nobody was is written to only once the entry that puts somebody there is committed.
#[test]
fn a_replica_is_written_to_when_it_is_added_for_good() {
    let mut one = One::new(&[1, 2], &[]);
    one.lead();
    one.receive(2, 1, appended(1));
    one.effects = Effects::default();
    one.group
        .change(one.now, &Change::Add(Place::default()), Index(1), &mut one.effects)
        .expect("nothing is under way");
    one.settle();
    let written = |one: &One| one.effects.send_now.iter().any(|envelope| envelope.to == ReplicaId(3));
    assert!(!written(&one));
    one.receive(2, 1, appended(2));
    assert!(written(&one));
}

/// Rule F4: a checkpoint of an entry that is committed with another term.
#[test]
fn a_checkpoint_that_contradicts_what_is_committed_is_a_fault() {
    let mut one = One::new(&[1, 2, 3], &[1, 1]);
    let number = AppendNumber(1);
    one.receive(2, 2, Message::Append { number, previous: point(2, 1), commit: Index(2), entries: Vec::new() });
    assert_eq!(one.group.commit(), Index(2));
    let chunk = Chunk {
        checkpoint: CheckpointId::default(),
        from: point(2, 2),
        to: point(2, 2),
        configuration: (Index(0), Rc::new(configuration(&[1, 2, 3], &[]))),
        total: 1,
        offset: 0,
        bytes: Rc::new(vec![1]),
    };
    one.receive(2, 2, Message::Chunk(Box::new(chunk)));
    assert!(one.group.faulty().is_some());
}

/// The text of all sources in a folder and below.
fn gather(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            gather(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *text += &fs::read_to_string(path).expect("a source");
        }
    }
}

/// The table in the core's documentation names scripts, tests and bugs; all of them exist, and each rule that may not wait has one.
#[test]
fn every_proof_that_the_table_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let essay = read("src/engine/raft/proof.rs");
    let mut tests = String::new();
    for folder in ["src", "tests"] {
        gather(&root.join(folder), &mut tests);
    }
    let mut rules = Vec::new();
    for line in essay.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells = line.split(" | ");
        let (Some(rule), Some(_), Some(proofs)) = (cells.next(), cells.next(), cells.next()) else { continue };
        if !rule.ends_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        rules.push(rule.to_owned());
        let mut named = 0;
        for proof in proofs.split('`').skip(1).step_by(2) {
            named += 1;
            let script = root.join("tests/raft/scripts").join(proof);
            let known = mutant::CORE.iter().chain(mutant::CORE_CAUGHT_BY_TESTS).chain(mutant::ALL);
            let is_mutant = known.into_iter().any(|mutant| mutant.name == proof);
            let is_test = tests.contains(&format!("fn {proof}("));
            assert!(script.exists() || is_mutant || is_test, "{rule}: there is no {proof}");
        }
        assert!(named > 0 || proofs.contains("waits"), "{rule}: nothing shows it");
    }
    let letters = [('A', 17), ('B', 13), ('C', 12), ('D', 7), ('E', 10), ('F', 10), ('G', 8), ('H', 7), ('I', 6)];
    for (letter, last) in letters {
        for number in 1..=last {
            let rule = format!("{letter}{number}");
            assert!(rules.contains(&rule), "the table lacks {rule}");
        }
    }
    let scripts = fs::read_dir(root.join("tests/raft/scripts")).expect("scripts");
    for script in scripts {
        let name = script.expect("an entry").file_name().into_string().expect("a plain name");
        assert!(essay.contains(&format!("`{name}`")), "the table does not name {name}");
    }
}
