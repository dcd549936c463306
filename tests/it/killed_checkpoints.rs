//! `kill -9` while a checkpoint is being written, again and again: the sums are exact, and what is left of the checkpoint harms nothing.
//!
//! Checkpoints are written as slowly as can be configured and begun as often, so that one is nearly always under way; a kill comes when a
//! random part of one has been written. Whether it hit is read from the files afterwards: a checkpoint that the log does not name.
//!
//! Short by default; `cargo xtask kill --during-checkpoints` runs the long one (variable `DKC_KILLS`).

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use dkc::client::batch::Batch;
use dkc::client::blocking::Client;
use dkc::client::core::{Answer, Delivery, Op};
use dkc::engine::checkpoint::CheckpointDir;
use dkc::engine::prng::{Prng, mix};
use dkc::engine::wal::Survey;
use dkc::engine::wal::inspection::look_over;
use dkc::ids::StoreId;
use dkc::runtime::checkpoint_dir::CheckpointDirectory;
use dkc::runtime::segment_dir::LogDirectory;

use super::server::{PATIENCE, Server, command};

const SETTINGS: [&str; 6] = ["--stores", "1", "--checkpoint-log", "16MiB", "--checkpoint-rate", "1MiB"];
/// Keys, in groups that are counted together.
const GROUPS: u64 = 8;
const GROUP_KEYS: u64 = 4_000;
/// Batches that are under way together.
const WINDOW: u64 = 4;

/// The keys of each group: long, and not to be compressed much, so that logs and checkpoints grow.
static KEYS: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
    let key = |seed: u64| (0..6).map(|part| format!("{:016x}", mix(seed * 8 + part))).collect();
    let group = |group: u64| (group * GROUP_KEYS..(group + 1) * GROUP_KEYS).map(key).collect();
    (0..GROUPS).map(group).collect()
});

/// Batch `number` adds this to each key of its group.
fn delta(number: u64) -> i64 {
    1 + (number % 3) as i64
}

/// The count of each key of a group once so many batches have been counted.
fn expected(group: u64, batches: u64) -> i64 {
    (0..batches).filter(|number| number % GROUPS == group).map(delta).sum()
}

fn batch(number: u64) -> Batch {
    let mut batch = Batch::new();
    for key in &KEYS[(number % GROUPS) as usize] {
        batch.push(key.as_bytes(), delta(number)).expect("there is room");
    }
    batch
}

/// Counts until told to stop, and looks at some counts whenever nothing is under way. Returns how many batches there were.
fn work(mut client: Client, stop: &AtomicBool, acknowledged: &AtomicU64) -> (Client, u64) {
    let mut batches = 0;
    while !stop.load(Ordering::SeqCst) {
        for number in batches..batches + WINDOW {
            let op = Op::Increment { batch: batch(number), want_values: false, delivery: Delivery::ExactlyOnce };
            client.submit(op).expect("there is room");
        }
        while let Some((_, result)) = client.next_done() {
            match result.expect("the server comes back in time") {
                Answer::Incremented(reply) => assert!(reply.outcomes.is_empty(), "{reply:?}"),
                other => panic!("an increment was answered with {other:?}"),
            }
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        batches += WINDOW;
        let keys: Vec<&String> = KEYS.iter().map(|keys| &keys[(batches % GROUP_KEYS) as usize]).collect();
        let counts = client.get(&keys).expect("the server comes back in time");
        for (group, count) in (0..).zip(counts) {
            assert_eq!(count.unwrap_or(0), expected(group, batches), "group {group} after {batches} batches");
        }
    }
    (client, batches)
}

/// Whether there is a checkpoint that the log does not name.
fn has_unnamed_checkpoint(data: &Path) -> bool {
    let mut log = LogDirectory::open_to_look(data, StoreId(0)).expect("it can be read").expect("it is there");
    let files = CheckpointDirectory::open_to_look(&log).expect("it can be read").expect("it is there").list();
    let owner = look_over(&mut log).expect("it is listed").owner;
    let (identity, config) = owner.expect("the log has a header");
    let survey =
        Survey::read(&mut log, identity, config, true).expect("a killed server leaves a log that can be trusted");
    let named = |file: &dkc::engine::checkpoint::CheckpointFile| {
        survey.end().get(&file.shard).is_some_and(|group| group.kept.iter().any(|one| one.number == file.number))
    };
    files.expect("they are listed").iter().any(|file| !named(file))
}

/// Waits until a random part of a checkpoint has been written, up to `bytes_max`. Returns whether one was; false if the worker has failed.
fn wait_for_checkpoint(server: &Server, prng: &mut Prng, bytes_max: u64, failed: impl Fn() -> bool) -> bool {
    let mut connection = server.connect();
    let wanted = prng.below(bytes_max);
    let began = Instant::now();
    while !failed() {
        assert!(began.elapsed() < PATIENCE, "no checkpoint comes to {wanted} bytes");
        let checkpoints = connection.status().expect("the server answers").stores.remove(0).checkpoints;
        if checkpoints.running.is_some() && checkpoints.running_bytes > 0 && checkpoints.running_bytes >= wanted {
            return true;
        }
    }
    false
}

#[test]
fn sums_are_exact_through_kills_while_checkpoints_are_written() {
    let kills: u64 = std::env::var("DKC_KILLS").map_or(2, |kills| kills.parse().expect("DKC_KILLS is a number"));
    let folder = tempfile::tempdir().unwrap();
    let mut prng = Prng::new(kills);
    let mut server = Server::start(folder.path(), &SETTINGS);
    let address = server.address.clone();
    let client = Client::connect(std::slice::from_ref(&address), PATIENCE).expect("the server answers");
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let worker = std::thread::spawn({
        let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        move || work(client, &stop, &acknowledged)
    });
    let mut hits = 0;
    // Checkpoints come to some three million bytes; the short form does not wait for that.
    let bytes_max = (kills << 17).min(3 << 20);
    for kill in 0..kills {
        if !wait_for_checkpoint(&server, &mut prng, bytes_max, || worker.is_finished()) {
            break;
        }
        server.kill();
        let hit = has_unnamed_checkpoint(folder.path());
        hits += u64::from(hit);
        let look = command(folder.path()).args(SETTINGS).arg("--verify").output().expect("the server's binary runs");
        assert!(look.status.success(), "kill {kill}: {look:?}");
        server = Server::start_again(folder.path(), &address, &SETTINGS);
    }
    stop.store(true, Ordering::SeqCst);
    let (mut client, batches) = worker.join().expect("every batch is counted");
    for (group, keys) in (0..).zip(KEYS.iter()) {
        let count = Some(expected(group, batches)).filter(|_| batches > group);
        assert_eq!(client.get(keys).unwrap(), vec![count; keys.len()], "group {group} after {batches} batches");
    }
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    assert_eq!(acknowledged, batches);
    println!("{kills} kills, {hits} of them while a checkpoint was under way: {batches} batches, each counted once");
    assert!(hits > 0, "kills are aimed at checkpoints");
}
