//! Tests of a store by itself: what it answers, when, and what it refuses.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::checkpoint::{CheckpointConfig, FileDone, FileOp};
use super::cluster::ClusterMap;
use super::command::{self, Original};
use super::counters::{Pool, Secret};
use super::input::{DiskDone, Input};
use super::part::{PackedKeys, PartAnswer, PartBody, PartReply, PartRequest, Ticket};
use super::prng::mix;
use super::sessions::Stamp;
use super::sessions::registry::Registered;
use super::sessions::window::{Attachment, Fate};
use super::store::{OpenError, Opened, Store, StoreConfig};
use super::wal::memory_dir::MemoryDir;
use super::wal::{DiskOp, WalConfig};
use crate::error::ErrorCode;
use crate::ids::{
    ClusterId, Index, KeyHash, Micros, NodeId, Sequence, SessionEpoch, SessionId, ShardEpoch, ShardId, StoreId, Term,
};
use crate::limits::{PAGE_KEYS_MAX, SCAN_IDLE_MICROS_MAX, TURN_LONG_READ_KEYS_MAX};
use crate::wire::client::{ScanReply, ScanRequest};

const NOW: Micros = Micros(0);
/// Age at which sessions expire here.
const AGE: u64 = 1_000_000;
const SHARD: ShardId = ShardId(1);

pub(super) fn config() -> StoreConfig {
    StoreConfig {
        cluster: ClusterId(1),
        node: NodeId(1),
        store: StoreId(0),
        map: Arc::new(ClusterMap::even(9, NodeId(1), 1, 1)),
        wal: WalConfig { segment_bytes: 64 << 10, write_bytes_max: 8 << 10 },
        memory_bytes_max: u64::MAX,
        checkpoints: CheckpointConfig { log_bytes: u64::MAX, bytes_per_second: u64::MAX },
        page_keys_max: PAGE_KEYS_MAX,
        secret: Secret::default(),
        session_age_micros: AGE,
    }
}

pub(super) struct Subject {
    pub(super) dir: MemoryDir,
    pub(super) store: Store,
    /// What was found when it was opened.
    pub(super) found: Opened,
    next: u32,
    pub(super) now: Micros,
    /// The index of the scan that was last answered.
    scanned_at: Index,
}

impl Subject {
    pub(super) fn open(dir: MemoryDir, config: StoreConfig) -> Subject {
        Subject::open_at(NOW, dir, config)
    }

    pub(super) fn open_at(now: Micros, mut dir: MemoryDir, config: StoreConfig) -> Subject {
        let opened_before = !dir.files.is_empty();
        let (store, found) = Store::open(config, Pool::borrowed(), &mut dir, opened_before, now, &mut |_| {})
            .expect("the log can be trusted");
        let mut subject = Subject { dir, store, found, next: 0, now, scanned_at: Index(0) };
        subject.settle();
        assert!(subject.store.is_ready());
        subject
    }

    pub(super) fn ask(&mut self, body: PartBody) -> u32 {
        self.next += 1;
        let ticket = Ticket { origin: StoreId(0), slot: self.next, generation: 0, part: 0 };
        self.store.step(self.now, Input::Part(PartRequest { ticket, shard: SHARD, body }));
        self.next
    }

    pub(super) fn increment(&mut self, items: &[(&str, i64)]) -> u32 {
        self.ask(increments(items, None))
    }

    /// Sends a request of a session, whose content is its digest.
    pub(super) fn stamped(&mut self, stamp: Stamp, items: &[(&str, i64)]) -> PartAnswer {
        self.ask(increments(items, Some(stamp)));
        self.settle().pop().expect("an answer").body
    }

    fn refused(&mut self, stamp: Stamp, items: &[(&str, i64)]) -> ErrorCode {
        match self.stamped(stamp, items) {
            PartAnswer::Refused { code } => code,
            other => panic!("{other:?}"),
        }
    }

    fn resolve(&mut self, stamp: Stamp) -> Fate {
        self.ask(PartBody::Resolve(stamp));
        match self.settle().pop().expect("an answer").body {
            PartAnswer::Resolved(fate) => fate,
            other => panic!("{other:?}"),
        }
    }

    fn meta(&mut self, body: PartBody) -> PartAnswer {
        let ticket = Ticket { origin: StoreId(0), slot: 0, generation: 0, part: 0 };
        self.store.step(self.now, Input::Part(PartRequest { ticket, shard: ShardId::META, body }));
        self.settle().pop().expect("an answer").body
    }

    /// Opens a session.
    pub(super) fn session(&mut self, name: &[u8]) -> (SessionId, SessionEpoch) {
        match self.meta(PartBody::OpenSession { name: name.to_vec() }) {
            PartAnswer::Registered(Registered::Opened { session, epoch, .. }) => (session, epoch),
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, micros: u64) {
        self.now = self.now.plus(micros);
        self.store.step(self.now, Input::Tick);
        self.settle();
    }

    fn restart(self) -> Subject {
        self.restart_after(0)
    }

    fn restart_after(self, micros: u64) -> Subject {
        Subject::open_at(self.now.plus(micros), self.dir, config())
    }

    pub(super) fn count(&mut self, key: &str) -> Option<i64> {
        let mut keys = PackedKeys::default();
        keys.push(key.as_bytes());
        self.ask(PartBody::Get { keys });
        match self.settle().pop().expect("an answer").body {
            PartAnswer::Counts { counts, .. } => counts[0],
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn perform(&mut self, ops: Vec<DiskOp>) {
        for op in ops {
            let (result, buffer) = self.dir.perform(op.action);
            self.store.step(self.now, Input::Disk(DiskDone { id: op.id, result, buffer }));
        }
    }

    pub(super) fn perform_files(&mut self, ops: Vec<FileOp>) {
        for op in ops {
            let (result, buffer) = self.dir.perform_file(op.action);
            self.store.step(self.now, Input::Checkpoint(FileDone { id: op.id, result, buffer }));
        }
    }

    /// Performs all disk operations; returns the answers.
    pub(super) fn settle(&mut self) -> Vec<PartReply> {
        let mut replies = Vec::new();
        loop {
            let output = self.store.take_output();
            replies.extend(output.replies);
            self.perform_files(output.checkpoint);
            if let Some(mark) = output.session_mark {
                self.store.step(self.now, Input::SessionMark(mark));
            } else if output.disk.is_empty() {
                return replies;
            }
            self.perform(output.disk);
        }
    }
}

/// The part of a whole request.
pub(super) fn increments(items: &[(&str, i64)], stamp: Option<Stamp>) -> PartBody {
    let count = items.len() as u32;
    let mut encoded = Vec::new();
    let digest =
        items.iter().fold(0, |hash, (key, delta)| mix(hash ^ KeyHash::of(0, key.as_bytes()).0 ^ mix(*delta as u64)));
    let original = Original { digest, want_values: true, places: None };
    command::begin_part(&mut encoded, count, stamp.as_ref().map(|stamp| (stamp, original)));
    items.iter().for_each(|&(key, delta)| command::push_increment(&mut encoded, key.as_bytes(), delta));
    PartBody::Increment { count, encoded, want_values: true, stamp }
}

pub(super) fn stamp((session, epoch): (SessionId, SessionEpoch), sequence: u64, low_water: u64) -> Stamp {
    Stamp { session, epoch, sequence: Sequence(sequence), low_water: Sequence(low_water) }
}

pub(super) fn refusals(replies: &[PartReply]) -> Vec<ErrorCode> {
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
    let (store, found) =
        Store::open(other, Pool::borrowed(), &mut subject.dir.clone(), true, NOW, &mut |_| {}).expect("not known yet");
    let mut unready = Subject { dir: subject.dir.clone(), store, found, next: 0, now: NOW, scanned_at: Index(0) };
    unready.settle();
    assert!(!unready.store.is_ready());
    let mut subject = Subject::open(subject.dir, config());
    subject.increment(&[("a", 1)]);
    subject.settle();
    let elsewhere = StoreConfig { map: Arc::new(ClusterMap::even(9, NodeId(2), 1, 1)), ..config() };
    assert!(matches!(
        Store::open(elsewhere, Pool::borrowed(), &mut subject.dir, true, NOW, &mut |_| {}),
        Err(OpenError::StrangeShard(SHARD))
    ));
}

#[test]
fn the_meta_shard_writes_the_map_down_once() {
    let subject = Subject::open(MemoryDir::default(), config());
    let applied = |subject: &Subject| subject.store.status().shards[0].applied_index;
    assert_eq!(applied(&subject), Index(2), "the no-op and the map");
    let subject = Subject::open(subject.dir, config());
    assert_eq!(applied(&subject), Index(3), "only another no-op");
}

/// H1, H5: a request that is sent again, also after a crash, is answered with the original result and counts once.
#[test]
fn a_retry_is_answered_with_the_original_result_also_after_a_restart() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    let session = subject.session(b"");
    let items = [("a", 5), ("b", i64::MAX), ("b", 1)];
    let original = subject.stamped(stamp(session, 1, 0), &items);
    assert!(matches!(&original, PartAnswer::Incremented { overflowed, values, .. }
        if *overflowed == [2] && *values == [5, i64::MAX, 0]));
    subject.stamped(stamp(session, 2, 0), &[("a", 10)]);
    assert_eq!(subject.stamped(stamp(session, 1, 0), &items), original);
    let mut subject = subject.restart();
    assert_eq!(subject.stamped(stamp(session, 1, 0), &items), original);
    assert_eq!((subject.count("a"), subject.count("b")), (Some(15), Some(i64::MAX)));
}

#[test]
fn copies_in_one_entry_count_once() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    let session = subject.session(b"");
    for _ in 0..3 {
        subject.ask(increments(&[("a", 1)], Some(stamp(session, 1, 0))));
    }
    subject.ask(PartBody::Resolve(stamp(session, 1, 0)));
    subject.ask(increments(&[("a", 1)], Some(stamp(session, 2, 1))));
    let answers: Vec<PartAnswer> = subject.settle().into_iter().map(|reply| reply.body).collect();
    // The low-water mark at the end of the entry says that the answer has come: the copies before it need none.
    let forgotten = PartAnswer::Refused { code: ErrorCode::Forgotten };
    assert!(matches!(&answers[0], PartAnswer::Incremented { first_position: 0, values, .. } if *values == [1]));
    assert_eq!(answers[1..3], [forgotten.clone(), forgotten]);
    assert_eq!(answers[3], PartAnswer::Resolved(Fate::Forgotten));
    assert!(matches!(&answers[4], PartAnswer::Incremented { first_position: 3, values, .. } if *values == [2]));
    assert_eq!(subject.count("a"), Some(2));
}

/// S2: what is at or under the floor is answered `Forgotten`, and never as success.
#[test]
fn what_the_client_has_settled_is_forgotten_and_never_counted_again() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    let session = subject.session(b"");
    subject.stamped(stamp(session, 1, 0), &[("a", 1)]);
    subject.stamped(stamp(session, 2, 1), &[("a", 1)]);
    assert_eq!(subject.refused(stamp(session, 1, 0), &[("a", 1)]), ErrorCode::Forgotten);
    assert_eq!(subject.refused(stamp(session, 2, 0), &[("a", 7)]), ErrorCode::OtherContent);
    let mut subject = subject.restart();
    assert_eq!(subject.refused(stamp(session, 1, 0), &[("a", 1)]), ErrorCode::Forgotten);
    assert_eq!(subject.count("a"), Some(2));
}

/// S1: sessions expire by age, in id order; a late copy of an expired one is refused, also in a shard that never saw it.
#[test]
fn sessions_expire_by_age_and_their_late_copies_are_refused() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    let old = subject.session(b"");
    subject.stamped(stamp(old, 1, 0), &[("a", 1)]);
    subject.pass(AGE / 2);
    let young = subject.session(b"");
    subject.stamped(stamp(young, 1, 0), &[("a", 1)]);
    subject.pass(AGE / 2);
    assert_eq!(subject.store.status().shards.iter().map(|shard| shard.session_mark).max(), Some(old.0));
    assert_eq!(subject.refused(stamp(old, 1, 0), &[("a", 1)]), ErrorCode::SessionExpired);
    assert_eq!(subject.refused(stamp(old, 2, 0), &[("a", 1)]), ErrorCode::SessionExpired);
    let mut subject = subject.restart();
    assert_eq!(subject.refused(stamp(old, 2, 0), &[("a", 1)]), ErrorCode::SessionExpired);
    assert!(matches!(subject.stamped(stamp(young, 1, 0), &[("a", 1)]), PartAnswer::Incremented { .. }));
    assert_eq!(subject.count("a"), Some(2));
}

/// S1: a clock that jumps ages no session by more than a step; time without a leader ages none.
#[test]
fn sessions_do_not_age_while_the_node_is_down() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    let session = subject.session(b"");
    subject.stamped(stamp(session, 1, 0), &[("a", 1)]);
    let mut subject = subject.restart_after(100 * AGE);
    subject.pass(AGE - 1);
    assert!(matches!(subject.stamped(stamp(session, 1, 0), &[("a", 1)]), PartAnswer::Incremented { .. }));
    subject.pass(1);
    assert_eq!(subject.refused(stamp(session, 1, 0), &[("a", 1)]), ErrorCode::SessionExpired);
}

/// S4: a number that was resolved as not applied stays so, whatever arrives later; one that was applied is not fenced.
#[test]
fn resolving_settles_a_number_for_good() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    let session = subject.session(b"");
    subject.stamped(stamp(session, 1, 0), &[("a", 1)]);
    assert!(matches!(subject.resolve(stamp(session, 1, 0)), Fate::Applied { increments: 1, overflowed: 0, .. }));
    assert!(matches!(subject.resolve(stamp(session, 2, 0)), Fate::Fenced(_)));
    let mut subject = subject.restart();
    assert_eq!(subject.refused(stamp(session, 2, 0), &[("a", 1)]), ErrorCode::Fenced);
    assert_eq!(subject.count("a"), Some(1));
}

#[test]
fn a_named_session_is_taken_over_with_what_its_holder_had_settled() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    let first = subject.session(b"job");
    subject.stamped(stamp(first, 5, 4), &[("a", 1)]);
    let mut subject = subject.restart();
    let second = subject.session(b"job");
    assert_eq!((second.0, second.1), (first.0, SessionEpoch(2)));
    subject.ask(PartBody::Attach { session: second.0, epoch: second.1 });
    let attached = subject.settle().pop().expect("an answer").body;
    assert!(matches!(
        attached,
        PartAnswer::Attached { attachment: Attachment { floor: Sequence(4), reached: Sequence(5) }, .. }
    ));
    assert_eq!(subject.refused(stamp(first, 6, 4), &[("a", 1)]), ErrorCode::SessionTaken);
    assert!(matches!(subject.stamped(stamp(second, 5, 4), &[("a", 1)]), PartAnswer::Incremented { .. }));
    assert_eq!(subject.count("a"), Some(1));
    let (session, epoch) = second;
    let closed = subject.meta(PartBody::CloseSession { session, epoch, progress: Sequence(5) });
    assert_eq!(closed, PartAnswer::Registered(Registered::Closed));
    let opened = subject.meta(PartBody::OpenSession { name: b"job".to_vec() });
    assert!(matches!(opened, PartAnswer::Registered(Registered::Opened { progress: Sequence(5), resumed: false, .. })));
}

/// S3: an entry of another epoch of the shard decides nothing and takes no number.
#[test]
fn an_entry_of_another_epoch_takes_no_number() {
    use super::machine::{Effects, Machine, Settled};
    use super::raft::Entry;
    let range = (KeyHash(0), KeyHash(u64::MAX));
    let setup = Machine::setup(range, &config().map, Secret::default(), PAGE_KEYS_MAX, &Pool::borrowed());
    let mut machine = Machine::new(SHARD, Some(setup));
    let mut effects = Effects::default();
    let mut apply = |epoch, index| {
        let mut payload = Vec::new();
        command::begin_batch(&mut payload, ShardEpoch(epoch));
        let session = (SessionId(1), SessionEpoch(1));
        let PartBody::Increment { encoded, .. } = increments(&[("a", 1)], Some(stamp(session, 1, 0))) else {
            return None;
        };
        payload.extend(encoded);
        let entry = Entry { term: Term(1), index: Index(index), payload: Rc::new(payload) };
        machine.apply(9, &entry, &mut effects).expect("a valid entry");
        effects.settled.pop()
    };
    assert_eq!(apply(2, 1), Some(Settled::Refused(ErrorCode::WrongShard)));
    assert_eq!(apply(1, 2), Some(Settled::Applied { outcomes: 0..1, first_position: 0 }));
}

#[test]
fn full_memory_refuses_sessions_that_the_shard_does_not_know() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    let (known, unknown) = (subject.session(b""), subject.session(b""));
    subject.stamped(stamp(known, 1, 0), &[("a", 1)]);
    let mut subject = Subject::open(subject.dir, StoreConfig { memory_bytes_max: 1, ..config() });
    assert!(matches!(subject.stamped(stamp(known, 2, 1), &[("a", 1)]), PartAnswer::Incremented { .. }));
    assert_eq!(subject.refused(stamp(unknown, 1, 0), &[("a", 1)]), ErrorCode::MemoryFull);
    assert_eq!(subject.count("a"), Some(2));
}

/// A read of many keys is put off to a turn of its own, so that nobody waits behind several.
#[test]
fn tops_take_turns_with_everything_else() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    subject.increment(&[("a", 5), ("b", 7)]);
    subject.settle();
    let k = TURN_LONG_READ_KEYS_MAX as u32;
    for _ in 0..3 {
        subject.ask(PartBody::TopK { k });
    }
    subject.increment(&[("a", 1)]);
    for left in (0..3).rev() {
        subject.store.step(subject.now, Input::Turn);
        let output = subject.store.take_output();
        assert_eq!((output.replies.len(), subject.store.has_reads_waiting()), (1, left > 0));
        assert!(matches!(&output.replies[0].body, PartAnswer::Top { counts, .. } if *counts == [7, 5]));
        assert_eq!(output.disk.is_empty(), left < 2, "the increment does not wait for the reads");
    }
    assert!(!subject.store.is_quiet(), "the write is still under way");
}

impl Subject {
    fn scan(&mut self, scan: u64, piece: u64) -> Result<ScanReply, ErrorCode> {
        self.scan_at(scan, piece, self.scanned_at)
    }

    fn scan_at(&mut self, scan: u64, piece: u64, applied_index: Index) -> Result<ScanReply, ErrorCode> {
        self.ask(PartBody::Scan(ScanRequest { shard: SHARD, scan, piece, applied_index }));
        self.store.step(self.now, Input::Turn);
        match self.settle().pop().expect("an answer").body {
            PartAnswer::Scanned(reply) => {
                self.scanned_at = reply.applied_index;
                Ok(reply)
            }
            PartAnswer::Refused { code } => Err(code),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_scan_is_one_moment_of_a_shard_and_its_pieces_can_be_asked_for_again() {
    let mut subject = Subject::open(MemoryDir::default(), config());
    let names: Vec<String> = (0..20_000).map(|number| format!("key {number}")).collect();
    for names in names.chunks(200) {
        let items: Vec<(&str, i64)> = names.iter().map(|name| (&name[..], 1)).collect();
        subject.increment(&items);
        subject.settle();
    }
    let begun = subject.scan(7, 0).expect("nobody else scans");
    assert!(!begun.last && begun.keys_total == 20_000, "several pages take several pieces");
    let mut shown: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    let (mut piece, mut reply, mut keys) = (0, begun.clone(), 0);
    loop {
        subject.increment(&[("key 1", 5), ("key 2", -5), (&names[piece as usize * 997], 3), ("new", 1)]);
        subject.settle();
        assert!(subject.scan(7, piece) == Ok(reply.clone()), "its answer may have been lost");
        assert!(reply.last || subject.scan(8, 0) == Err(ErrorCode::Overloaded), "one at a time");
        assert!(subject.scan(7, piece + 2) == Err(ErrorCode::ScanLost));
        assert_eq!(reply.applied_index, begun.applied_index);
        keys += reply.counts.len();
        shown.extend(reply.keys.iter().map(<[u8]>::to_vec).zip(reply.counts.iter().copied()));
        if reply.last {
            break;
        }
        piece += 1;
        reply = subject.scan(7, piece).expect("its turn");
    }
    assert!(piece >= 1 && keys == 20_000, "every key once");
    assert!(shown.len() == 20_000 && shown.values().all(|&count| count == 1), "as it was when it began");
    assert!(subject.scan(7, piece + 1) == Err(ErrorCode::ScanLost), "that was all");
    assert!(subject.scan(8, 1) == Err(ErrorCode::ScanLost), "never begun");
    let next = subject.scan(8, 0).expect("the other one is over");
    assert!(next.applied_index > begun.applied_index && next.keys_total == 20_001);
    assert!(subject.scan(9, 0) == Err(ErrorCode::Overloaded));
    // A client that is gone does not keep others waiting for ever, nor memory.
    subject.pass(SCAN_IDLE_MICROS_MAX);
    assert!(subject.scan(9, 0).is_ok());
    assert!(subject.scan(7, piece) == Err(ErrorCode::ScanLost));
    let mut subject = subject.restart();
    assert!(subject.scan(9, 1) == Err(ErrorCode::ScanLost), "a restart has forgotten it");
    // A late copy of the request for its first piece begins another scan of the same number, which the client never heard of.
    let before = subject.scanned_at;
    subject.increment(&[("new", 1)]);
    subject.settle();
    assert!(subject.scan(9, 0).is_ok_and(|begun| begun.applied_index != before));
    assert!(subject.scan_at(9, 1, before) == Err(ErrorCode::ScanLost), "its pieces do not fit to those of before");
    for shard in [ShardId::META, ShardId(9)] {
        let ticket = Ticket { origin: StoreId(0), slot: 0, generation: 0, part: 0 };
        let body = PartBody::Scan(ScanRequest { shard, scan: 1, piece: 0, applied_index: Index(0) });
        subject.store.step(subject.now, Input::Part(PartRequest { ticket, shard, body }));
        subject.store.step(subject.now, Input::Turn);
        assert_eq!(refusals(&subject.settle()), [ErrorCode::WrongShard]);
    }
}
