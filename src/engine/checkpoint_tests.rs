//! Tests of a store and its checkpoints: each history of the rules C1 to C6, restarts from whole and damaged ones, full and failing disks.

use super::checkpoint::inspection::Manifest;
use super::checkpoint::loader::Loaded;
use super::checkpoint::{CheckpointConfig, CheckpointFile, Notice, Reference};
use super::counters::Pool;
use super::input::Input;
use super::part::{PartAnswer, PartReply};
use super::prng::Prng;
use super::store::{OpenError, Store, StoreConfig};
use super::store_tests::{Subject, config, increments, refusals, stamp};
use super::wal::memory_dir::MemoryDir;
use crate::error::ErrorCode;
use crate::ids::{Index, Micros, ShardId};
use crate::limits::CHECKPOINT_RETRY_MICROS_MIN;

const SHARD: ShardId = ShardId(1);

/// Checkpoints one after another, of small pages.
fn eager() -> StoreConfig {
    let checkpoints = CheckpointConfig { log_bytes: 1, bytes_per_second: u64::MAX };
    StoreConfig { checkpoints, page_keys_max: 2, ..config() }
}

/// No further checkpoints.
fn content() -> StoreConfig {
    StoreConfig { checkpoints: CheckpointConfig { log_bytes: u64::MAX, bytes_per_second: 1 }, ..eager() }
}

impl Subject {
    /// A piece of a checkpoint; returns the answers.
    fn spare(&mut self) -> Vec<PartReply> {
        self.store.step(self.now, Input::Spare);
        self.settle()
    }

    fn completed(&self) -> u64 {
        self.store.status().checkpoints.completed
    }

    /// Lets so many more checkpoints be completed.
    fn complete(&mut self, checkpoints: u64) {
        let wanted = self.completed() + checkpoints;
        for number in 0..10_000 {
            if self.completed() >= wanted {
                return;
            }
            // Something for the next one to hold.
            self.increment(&[(["x", "y", "z"][number % 3], 1)]);
            self.settle();
            self.spare();
        }
        panic!("checkpoints are completed");
    }

    fn digests(&self) -> Vec<(ShardId, Index, u64)> {
        self.store.digests().collect()
    }

    /// A restart from a copy of the disk.
    fn again(&self, config: StoreConfig) -> Subject {
        Subject::open(self.dir.clone(), config)
    }

    /// The shard's files, newest first.
    fn files(&self, shard: ShardId) -> Vec<String> {
        let names = self.dir.checkpoints.keys().rev();
        let own = |name: &&String| CheckpointFile::parse(name).is_some_and(|file| file.shard == shard);
        names.filter(own).cloned().collect()
    }
}

/// What a restart finds is what was there, but for the entry of the new leader.
fn assert_same(before: &mut Subject, after: &mut Subject, keys: &[&str]) {
    for key in keys {
        assert_eq!(before.count(key), after.count(key), "{key}");
    }
}

#[test]
fn a_restart_begins_with_the_newest_checkpoint() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    for number in 0..40 {
        subject.increment(&[(&format!("key {number}"), number)]);
        subject.settle();
    }
    subject.complete(6);
    let mut again = subject.again(content());
    let restored = again.found.shards.iter().find(|one| one.shard == SHARD).expect("it lives here");
    let newest = restored.checkpoint.expect("there are checkpoints");
    assert!(newest.from.index > Index(40) && restored.rejected.is_empty());
    assert!(again.found.log.base[&SHARD].last_index <= newest.from.index);
    let names: Vec<String> = (0..40).map(|number| format!("key {number}")).collect();
    let keys: Vec<&str> = names.iter().map(String::as_str).chain(["x", "y", "z", "absent"]).collect();
    assert_same(&mut subject, &mut again, &keys);
    assert_eq!(again.store.status().shards[1].checkpoint_index, newest.from.index);
}

/// C1, C3: entries go on between the pages. Replay passes over what pages have, decides no overflow again, and finds in the sessions
/// at the end what it could not know: retries get their original answers.
#[test]
fn entries_between_pages_are_applied_once_and_answered_as_ever() {
    for seed in 0..60 {
        let mut prng = Prng::new(seed);
        let mut subject = Subject::open(MemoryDir::default(), eager());
        let session = subject.session(b"");
        let mut answers = Vec::new();
        let names: Vec<String> = (0..12).map(|number| format!("key {number}")).collect();
        for sequence in 1..=40 {
            let count = 1 + prng.below(4);
            let items: Vec<(&str, i64)> = (0..count)
                .map(|_| {
                    let delta = [1, i64::MAX, -5, i64::MIN][prng.below(4) as usize];
                    (&names[prng.below(12) as usize][..], delta)
                })
                .collect();
            let stamp = stamp(session, sequence, 0);
            answers.push((stamp, items.clone(), subject.stamped(stamp, &items)));
            for _ in 0..prng.below(3) {
                subject.spare();
            }
        }
        let before = subject.digests();
        let mut again = subject.again(content());
        let keys: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_same(&mut subject, &mut again, &keys);
        assert!(before.iter().zip(again.digests()).all(|(before, after)| before.2 == after.2), "seed {seed}");
        for (stamp, items, answer) in answers {
            assert_eq!(again.stamped(stamp, &items), answer, "seed {seed}: a retry gets the original answer");
        }
    }
}

/// C4: a checkpoint whose record is not in the log is none, however whole its file; and the file goes once the log's end is fixed.
#[test]
fn a_checkpoint_that_the_log_does_not_name_is_not_used() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    subject.increment(&[("a", 7)]);
    subject.settle();
    // Everything but the log's writes is performed.
    let (mut withheld, mut written) = (0, subject.files(SHARD).len());
    for _ in 0..200 {
        subject.store.step(subject.now, Input::Spare);
        let output = subject.store.take_output();
        withheld += output.disk.len();
        subject.perform_files(output.checkpoint);
        written = written.max(subject.files(SHARD).len() + subject.files(ShardId::META).len());
    }
    assert!(withheld > 0 && written > 0, "a whole file waits for its record");
    assert_eq!(subject.completed(), 0);
    let mut again = subject.again(content());
    assert!(again.found.shards.iter().all(|shard| shard.checkpoint.is_none()));
    assert_eq!(again.count("a"), Some(7));
    again.settle();
    assert_eq!(again.files(SHARD).len() + again.files(ShardId::META).len(), 0);
}

/// The newest checkpoint damaged anywhere: the one before is used, and the log from there. Both damaged: refused by name.
#[test]
fn a_damaged_checkpoint_is_passed_over_and_two_are_refused() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    for _ in 0..300 {
        subject.increment(&[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]);
        subject.settle();
    }
    subject.complete(12);
    let newest = subject.store.status().shards[1].clone();
    let files = subject.files(SHARD);
    assert_eq!(files.len(), 2, "two are kept");
    let bytes = newest.checkpoint_bytes as usize;
    for byte in (0..bytes).step_by(7).chain([bytes - 1]) {
        let mut dir = subject.dir.clone();
        dir.checkpoints.get_mut(&files[0]).expect("it is there")[byte] ^= 0x10;
        let mut again = Subject::open(dir, content());
        let restored = again.found.shards.iter().find(|one| one.shard == SHARD).expect("it lives here").clone();
        assert_eq!(restored.rejected.len(), 1, "byte {byte}");
        assert!(restored.checkpoint.expect("the one before").from.index < newest.checkpoint_index);
        assert_same(&mut subject, &mut again, &["a", "b", "c", "d", "e", "x", "absent"]);
    }
    // One that is gone is like one that is damaged.
    let mut dir = subject.dir.clone();
    dir.checkpoints.remove(&files[0]);
    assert_same(&mut subject, &mut Subject::open(dir.clone(), content()), &["a", "x"]);
    dir.checkpoints.get_mut(&files[1]).expect("it is there")[100] ^= 1;
    let refused = Store::open(content(), Pool::borrowed(), &mut dir, true, Micros(0), &mut |_| {}).err();
    assert!(matches!(&refused, Some(OpenError::NoCheckpoint(SHARD, _, why)) if why.contains(&files[1])), "{refused:?}");
}

/// What tools read of a file is what the log names it by, they make the state of it that a restart makes, and every flipped byte is told.
#[test]
fn a_manifest_is_what_the_log_names_and_notices_every_flipped_byte() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    let session = subject.session(b"job");
    for sequence in 1..=20 {
        subject.stamped(stamp(session, sequence, 0), &[(["a", "b", "c", "d", "e"][sequence as usize % 5], 1)]);
        subject.spare();
    }
    subject.complete(8);
    let again = subject.again(content());
    let mut dir = subject.dir.clone();
    for restored in &again.found.shards {
        let shard = restored.shard;
        let reference = restored.checkpoint.expect("there are checkpoints");
        let file = CheckpointFile { shard, number: reference.number };
        let bytes = dir.checkpoints[&file.name()].len() as u64;
        let manifest = Manifest::read(&mut dir, file, bytes).expect("it is whole");
        assert_eq!(manifest.reference, reference);
        let sessions = if shard == SHARD { manifest.contents.windows.1 } else { manifest.contents.registry.1 };
        assert_eq!((sessions, manifest.contents.names), (1, u64::from(shard == ShardId::META)));
        if let Loaded::Counters(loaded) = manifest.verify(&mut dir, &reference, &content().map).expect("it is whole") {
            assert_eq!(loaded.counters.len(), manifest.contents.pages.1);
        }
        let other = Reference { digest: reference.digest ^ 1, ..reference };
        assert!(manifest.verify(&mut dir, &other, &content().map).is_err(), "not the one that is named");
        for byte in 0..reference.bytes as usize {
            let mut damaged = dir.clone();
            damaged.checkpoints.get_mut(&file.name()).expect("it is there")[byte] ^= 0x20;
            assert!(Manifest::read(&mut damaged, file, bytes).is_err(), "byte {byte}");
        }
        for blocks in 0..reference.bytes / 4_096 {
            assert!(Manifest::read(&mut dir, file, blocks * 4_096).is_err(), "cut after {blocks} blocks");
        }
    }
}

/// After a damaged checkpoint was passed over, the next ones replace it, and the log is kept for the older one that is left.
#[test]
fn a_damaged_checkpoint_is_replaced() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    subject.increment(&[("a", 1), ("b", 2)]);
    subject.settle();
    subject.complete(8);
    let damaged = subject.files(SHARD)[0].clone();
    subject.dir.checkpoints.get_mut(&damaged).expect("it is there")[60] ^= 1;
    let mut again = subject.again(eager());
    again.complete(3);
    assert!(!again.files(SHARD).contains(&damaged));
    let mut third = again.again(content());
    assert!(third.found.shards.iter().all(|shard| shard.rejected.is_empty()));
    assert_same(&mut again, &mut third, &["a", "b", "x"]);
}

/// As long as the log begins at its beginning, it alone will do.
#[test]
fn a_whole_log_needs_no_checkpoint() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    subject.increment(&[("a", 1)]);
    subject.settle();
    subject.complete(3);
    subject.dir.checkpoints.values_mut().for_each(|content| content.fill(0));
    let mut again = subject.again(content());
    assert!(again.found.shards.iter().all(|shard| shard.checkpoint.is_none()));
    assert_same(&mut subject, &mut again, &["a", "x", "y"]);
}

#[test]
fn checkpoints_without_their_log_are_refused() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    subject.complete(2);
    subject.dir.files.clear();
    let refused = Store::open(content(), Pool::borrowed(), &mut subject.dir, false, Micros(0), &mut |_| {}).err();
    assert_eq!(refused, Some(OpenError::LogMissing));
}

/// The log behind the older checkpoint is freed, an idle shard's too.
#[test]
fn the_log_stays_bounded() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    let mut segments = 0;
    for number in 0..2_000 {
        subject.increment(&[(["a", "b", "c"][number % 3], 1)]);
        subject.settle();
        subject.spare();
        segments = segments.max(subject.dir.files.len());
    }
    assert!(subject.completed() > 20 && subject.store.status().segment > 60);
    assert!(segments < 20, "{segments} segment files");
    assert_same(&mut subject.again(content()), &mut subject, &["a", "b", "c"]);
}

#[test]
fn a_checkpoint_that_fails_leaves_the_store_serving_says_so_once_and_is_tried_again() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    subject.increment(&[("a", 1)]);
    subject.settle();
    let mut failures = Vec::new();
    for _ in 0..400 {
        // Operations fail now and then, so that no checkpoint becomes whole.
        subject.dir.checkpoint_fails = true;
        subject.store.step(subject.now, Input::Spare);
        let output = subject.store.take_output();
        failures.extend(output.notices.into_iter().filter(|notice| matches!(notice, Notice::Failed { .. })));
        subject.perform(output.disk);
        subject.perform_files(output.checkpoint);
        subject.now = subject.now.plus(CHECKPOINT_RETRY_MICROS_MIN);
    }
    let status = subject.store.status().checkpoints;
    assert!(status.failed > 3 && status.completed == 0 && status.last_failure.contains("EIO"), "{status:?}");
    assert_eq!(failures.len(), 1, "it is said once");
    subject.dir.checkpoint_fails = false;
    subject.increment(&[("a", 1)]);
    subject.settle();
    assert_eq!(subject.count("a"), Some(2), "the store serves");
    subject.now = subject.now.plus(100 * CHECKPOINT_RETRY_MICROS_MIN);
    subject.complete(2);
    assert_eq!(subject.store.status().checkpoints.last_failure, "");
    assert!(subject.files(SHARD).len() <= 2, "nothing is left of those that failed");
}

/// W6: a disk that has filled up does not prevent the checkpoints that free the log again.
#[test]
fn a_full_disk_is_no_end() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    subject.increment(&[("a", 1), ("b", 1)]);
    subject.settle();
    subject.complete(4);
    subject.dir.full = true;
    let mut accepted = 0;
    for _ in 0..3_000 {
        subject.increment(&[("a", 1)]);
        let replies = subject.settle();
        accepted += replies.iter().filter(|reply| matches!(reply.body, PartAnswer::Incremented { .. })).count();
        subject.spare();
        subject.pass(1_000_000);
    }
    assert!(accepted > 2_500, "{accepted} of 3,000 were accepted");
    assert!(subject.store.status().segment > 60);
    subject.dir.full = false;
    let mut again = subject.again(content());
    assert_same(&mut subject, &mut again, &["a", "b"]);
}

/// W6: where the next checkpoint would have no room, the state does not grow; what exists goes on.
#[test]
fn without_room_for_a_checkpoint_there_are_no_new_keys() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    subject.increment(&[("old", 1)]);
    subject.settle();
    subject.spare();
    subject.dir.reserve_full = true;
    let mut number = 0;
    let refused = loop {
        number += 1;
        assert!(number < 20_000, "new keys are refused in the end");
        let long = format!("{number:0>1000}");
        subject.increment(&[(&long, 1)]);
        let replies = subject.settle();
        if let [code] = refusals(&replies)[..] {
            break code;
        }
        subject.spare();
    };
    assert_eq!(refused, ErrorCode::DiskFull);
    subject.increment(&[("old", 1)]);
    assert!(refusals(&subject.settle()).is_empty());
    subject.dir.reserve_full = false;
    subject.pass(2_000_000);
    subject.spare();
    subject.increment(&[("new", 1)]);
    assert!(refusals(&subject.settle()).is_empty(), "there is room again");
    assert_eq!((subject.count("old"), subject.count("new")), (Some(2), Some(1)));
}

/// Sessions expire, names and openings come back, with the meta shard's own checkpoint.
#[test]
fn the_meta_shard_is_restored_too() {
    let mut subject = Subject::open(MemoryDir::default(), eager());
    let first = subject.session(b"job");
    for _ in 0..10 {
        subject.session(b"");
    }
    subject.complete(8);
    let mut again = subject.again(content());
    let meta = again.found.shards.iter().find(|one| one.shard == ShardId::META).expect("it lives here");
    assert!(meta.checkpoint.is_some());
    let resumed = again.session(b"job");
    assert_eq!((resumed.0, resumed.1.0), (first.0, 2));
    assert_eq!(again.session(b"").0, crate::ids::SessionId(12));
    let encoded = increments(&[("a", 1)], Some(stamp(resumed, 1, 0)));
    again.ask(encoded);
    assert!(refusals(&again.settle()).is_empty());
}
