//! What the Raft core costs by itself: entries through groups over disks that are done at once, and groups that have nothing to do.
//!
//! `cargo bench --bench raft`; run as a test it does a little of each.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark reads clocks")]

use std::hint::black_box;
use std::time::Instant;

use dkc::engine::raft::configuration::{Configuration, Place};
use dkc::engine::raft::{Conditions, Effects, Entry, Envelope, Group, Restored, Setup, Timing};
use dkc::ids::{Index, Micros, NodeId, ReplicaId, ShardId, StoreId, Term};
use dkc::limits::APPEND_ENTRIES_MAX;

/// Replicas of one group; whatever waits for a disk waits for nothing.
struct Three {
    groups: Vec<Group>,
    effects: Effects,
    under_way: Vec<Envelope>,
    now: Micros,
}

fn group(shard: u32, voters: u64, replica: u64) -> Group {
    let places: Vec<Place> = (1..=voters).map(|node| Place { node: NodeId(node), store: StoreId(0) }).collect();
    let configuration = (Index(0), Configuration::initial(&places).expect("a sound configuration"));
    let restored = Restored {
        term: Term(0),
        vote: ReplicaId::NONE,
        commit: Index(0),
        applied: Index(0),
        whole_from: Index(0),
        before: dkc::engine::checkpoint::Point::default(),
        configuration,
        entries: std::collections::VecDeque::<Entry>::new(),
    };
    let setup = Setup {
        shard: ShardId(shard),
        replica: ReplicaId(replica),
        timing: Timing::default(),
        batch_entries_max: APPEND_ENTRIES_MAX,
        seed: replica,
    };
    Group::new(&setup, restored, Micros(1))
}

impl Three {
    fn elected(voters: u64) -> Three {
        let groups = (1..=voters).map(|replica| group(1, voters, replica)).collect();
        let mut three = Three { groups, effects: Effects::default(), under_way: Vec::new(), now: Micros(1) };
        three.now = three.groups[0].deadline().expect("an election");
        let now = three.now;
        three.act(0, |group, effects| group.tick(now, Conditions::default(), effects));
        three.settle();
        assert!(three.groups[0].is_leader(), "the first leads");
        three
    }

    fn act(&mut self, at: usize, act: impl FnOnce(&mut Group, &mut Effects)) {
        let group = &mut self.groups[at];
        act(group, &mut self.effects);
        while let Some(entry) = group.next_committed() {
            black_box(entry);
        }
        group.flush(self.now, &mut self.effects);
        self.effects.records.clear();
        self.effects.notices.clear();
        self.under_way.append(&mut self.effects.send_now);
        self.under_way.append(&mut self.effects.send_after);
    }

    fn settle(&mut self) {
        let mut arriving = Vec::new();
        while !self.under_way.is_empty() {
            std::mem::swap(&mut arriving, &mut self.under_way);
            for envelope in arriving.drain(..) {
                let now = self.now;
                let at = envelope.to.0 as usize - 1;
                self.act(at, |group, effects| group.receive(now, envelope, effects));
            }
        }
    }

    /// Proposes so many entries of 100 bytes, so many before each flush.
    fn propose(&mut self, entries: usize, at_a_time: usize) {
        for _ in 0..entries / at_a_time {
            self.act(0, |group, effects| {
                for _ in 0..at_a_time {
                    group.propose(vec![7; 100], effects).expect("it leads and has room");
                }
            });
            self.settle();
        }
    }
}

fn main() {
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let entries = if is_test { 1_024 } else { 2_000_000 };
    for (voters, at_a_time) in [(1, 1), (1, 64), (3, 1), (3, 64), (5, 64)] {
        let mut three = Three::elected(voters);
        three.propose(1_024, at_a_time);
        let began = Instant::now();
        three.propose(entries, at_a_time);
        let rate = entries as f64 / began.elapsed().as_secs_f64() / 1e6;
        println!("{voters} voters, {at_a_time:>2} entries a turn: {rate:>6.2} M entries/s");
    }
    idle(if is_test { 2 } else { 2_000 });
}

/// What a store's groups of three cost when nothing happens to them but heartbeats: a leader's tick and flush, and each follower's answer.
fn idle(intervals: u32) {
    for count in [1, 100, 1_000] {
        let mut groups: Vec<Three> = (0..count).map(|_| Three::elected(3)).collect();
        let beat = |three: &mut Three| {
            three.now = three.groups[0].deadline().expect("a heartbeat");
            let now = three.now;
            three.act(0, |group, effects| group.tick(now, Conditions::default(), effects));
            three.settle();
        };
        groups.iter_mut().for_each(beat);
        let began = Instant::now();
        for _ in 0..intervals {
            groups.iter_mut().for_each(beat);
        }
        let each = began.elapsed().as_secs_f64() / f64::from(intervals) / f64::from(count);
        let heartbeats = 1e6 / Timing::default().heartbeat_micros as f64;
        println!(
            "{count:>5} idle groups of 3: {:>6.0} ns a group and interval, {:.4} % of a core for all",
            each * 1e9,
            each * f64::from(count) * heartbeats * 100.0,
        );
    }
    let alone: Vec<Group> = (0..1_000).map(|shard| group(shard, 1, 1)).collect();
    let mut effects = Effects::default();
    let mut due = 0;
    for mut group in alone {
        group.campaign_alone(Micros(1), &mut effects);
        while let Some(own) = effects.send_after.pop() {
            group.receive(Micros(1), own, &mut effects);
            while group.next_committed().is_some() {}
            group.flush(Micros(1), &mut effects);
        }
        due += usize::from(group.deadline().is_some());
    }
    println!("1000 idle groups of 1: {due} ever due");
}
