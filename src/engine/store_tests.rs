//! Tests of a store by itself: what it answers, when, and what it refuses.

use std::sync::Arc;

use super::cluster::ClusterMap;
use super::command;
use super::input::{DiskDone, Input};
use super::part::{PackedKeys, PartAnswer, PartBody, PartReply, PartRequest, Ticket};
use super::store::{OpenError, Store, StoreConfig};
use super::wal::memory_dir::MemoryDir;
use super::wal::{DiskOp, WalConfig};
use crate::error::ErrorCode;
use crate::ids::{ClusterId, Index, Micros, NodeId, ShardId, StoreId};

const NOW: Micros = Micros(0);
const SHARD: ShardId = ShardId(1);

fn config() -> StoreConfig {
    StoreConfig {
        cluster: ClusterId(1),
        node: NodeId(1),
        store: StoreId(0),
        map: Arc::new(ClusterMap::even(9, NodeId(1), 1, 1)),
        wal: WalConfig { segment_bytes: 64 << 10, write_bytes_max: 8 << 10 },
        memory_bytes_max: u64::MAX,
    }
}

struct Subject {
    dir: MemoryDir,
    store: Store,
    next: u32,
}

impl Subject {
    fn open(dir: MemoryDir, config: StoreConfig) -> Subject {
        let mut dir = dir;
        let opened_before = !dir.files.is_empty();
        let (store, _) = Store::open(config, &mut dir, opened_before, NOW).expect("the log can be trusted");
        let mut subject = Subject { dir, store, next: 0 };
        subject.settle();
        assert!(subject.store.is_ready());
        subject
    }

    fn ask(&mut self, body: PartBody) -> u32 {
        self.next += 1;
        let ticket = Ticket { origin: StoreId(0), slot: self.next, generation: 0, part: 0 };
        self.store.step(NOW, Input::Part(PartRequest { ticket, shard: SHARD, body }));
        self.next
    }

    fn increment(&mut self, items: &[(&str, i64)]) -> u32 {
        let mut encoded = Vec::new();
        items.iter().for_each(|&(key, delta)| command::push_increment(&mut encoded, key.as_bytes(), delta));
        self.ask(PartBody::Increment { count: items.len() as u32, encoded, want_values: true })
    }

    fn count(&mut self, key: &str) -> Option<i64> {
        let mut keys = PackedKeys::default();
        keys.push(key.as_bytes());
        self.ask(PartBody::Get { keys });
        match self.settle().pop().expect("an answer").body {
            PartAnswer::Counts { counts, .. } => counts[0],
            other => panic!("{other:?}"),
        }
    }

    fn perform(&mut self, ops: Vec<DiskOp>) {
        for op in ops {
            let (result, buffer) = self.dir.perform(op.action);
            self.store.step(NOW, Input::Disk(DiskDone { id: op.id, result, buffer }));
        }
    }

    /// Performs all disk operations; returns the answers.
    fn settle(&mut self) -> Vec<PartReply> {
        let mut replies = Vec::new();
        loop {
            let output = self.store.take_output();
            replies.extend(output.replies);
            if output.disk.is_empty() {
                return replies;
            }
            self.perform(output.disk);
        }
    }
}

fn refusals(replies: &[PartReply]) -> Vec<ErrorCode> {
    let code = |reply: &PartReply| match reply.body {
        PartAnswer::Refused { code } => Some(code),
        _ => None,
    };
    replies.iter().filter_map(code).collect()
}

#[test]
fn nothing_is_answered_or_visible_before_it_is_durable() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    subject.increment(&[("a", 5)]);
    let output = subject.store.take_output();
    assert!(output.replies.is_empty(), "the write is only under way");
    assert_eq!(output.disk.len(), 1);
    let mut keys = PackedKeys::default();
    keys.push(b"a");
    subject.ask(PartBody::Get { keys });
    let early = subject.store.take_output().replies;
    assert!(matches!(&early[0].body, PartAnswer::Counts { counts, .. } if counts[0].is_none()));
    subject.perform(output.disk);
    let replies = subject.store.take_output().replies;
    assert!(matches!(&replies[0].body, PartAnswer::Incremented { values, .. } if *values == [5]));
    assert_eq!(subject.count("a"), Some(5));
}

#[test]
fn parts_of_one_turn_share_an_entry_and_keep_their_places() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    subject.increment(&[("a", 1), ("b", i64::MAX)]);
    subject.increment(&[("b", 1), ("a", 1), ("b", 0)]);
    let replies = subject.settle();
    let parts: Vec<_> = replies
        .iter()
        .map(|reply| match &reply.body {
            PartAnswer::Incremented { index, first_position, overflowed, values } => {
                (*index, *first_position, overflowed.clone(), values.clone())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let index = parts[0].0;
    assert_eq!(parts[0], (index, 0, vec![], vec![1, i64::MAX]));
    assert_eq!(parts[1], (index, 2, vec![0], vec![0, 2, i64::MAX]), "an overflow is refused by itself");
}

#[test]
fn a_restart_finds_counts_and_goes_on() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    subject.increment(&[("a", 1), ("b", 2)]);
    subject.settle();
    let mut subject = Subject::open(subject.dir, config());
    assert_eq!((subject.count("a"), subject.count("b"), subject.count("c")), (Some(1), Some(2), None));
    subject.increment(&[("a", 1)]);
    subject.settle();
    assert_eq!(Subject::open(subject.dir, config()).count("a"), Some(2));
}

#[test]
fn full_memory_refuses_new_keys_only() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    subject.increment(&[("old", 1)]);
    subject.settle();
    let mut subject = Subject::open(subject.dir, StoreConfig { memory_bytes_max: 1, ..config() });
    subject.increment(&[("old", 1)]);
    subject.increment(&[("new", 1)]);
    subject.increment(&[("old", 1), ("new", 1)]);
    let replies = subject.settle();
    assert_eq!(refusals(&replies), [ErrorCode::MemoryFull; 2]);
    assert_eq!((subject.count("old"), subject.count("new")), (Some(2), None));
}

#[test]
fn a_full_disk_refuses_increments_and_answers_reads() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    subject.increment(&[("a", 1)]);
    subject.settle();
    subject.dir.full = true;
    let mut accepted = 1;
    loop {
        subject.increment(&[("a", 1)]);
        let replies = subject.settle();
        if !refusals(&replies).is_empty() {
            assert_eq!(refusals(&replies), [ErrorCode::DiskFull]);
            break;
        }
        accepted += 1;
        assert!(accepted < 1_000, "the disk must show that it is full");
    }
    assert_eq!(subject.count("a"), Some(accepted));
    assert!(subject.store.status().disk_full);
}

#[test]
fn draining_finishes_what_was_accepted() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    subject.increment(&[("a", 1)]);
    subject.store.step(NOW, Input::Drain);
    subject.increment(&[("a", 1)]);
    assert!(!subject.store.is_quiet());
    let replies = subject.settle();
    assert_eq!(refusals(&replies), [ErrorCode::ShuttingDown]);
    assert_eq!((subject.count("a"), subject.store.is_quiet()), (Some(1), true));
}

#[test]
fn another_map_or_another_shape_is_refused() {
    let subject = Subject::open(MemoryDir::default(), config());
    let other = StoreConfig { map: Arc::new(ClusterMap::even(10, NodeId(1), 1, 1)), ..config() };
    // Nothing in so short a log says yet that the map is committed: it shows when the next leader commits it.
    let (store, _) = Store::open(other, &mut subject.dir.clone(), true, NOW).expect("not known yet");
    let mut unready = Subject { dir: subject.dir.clone(), store, next: 0 };
    unready.settle();
    assert!(!unready.store.is_ready());
    let mut subject = Subject::open(subject.dir, config());
    subject.increment(&[("a", 1)]);
    subject.settle();
    let elsewhere = StoreConfig { map: Arc::new(ClusterMap::even(9, NodeId(2), 1, 1)), ..config() };
    assert!(matches!(Store::open(elsewhere, &mut subject.dir, true, NOW), Err(OpenError::StrangeShard(SHARD))));
}

#[test]
fn the_meta_shard_writes_the_map_down_once() {
    let subject = Subject::open(MemoryDir::default(), config());
    let applied = |subject: &Subject| subject.store.status().shards[0].applied_index;
    assert_eq!(applied(&subject), Index(2), "the no-op and the map");
    let subject = Subject::open(subject.dir, config());
    assert_eq!(applied(&subject), Index(3), "only another no-op");
}
