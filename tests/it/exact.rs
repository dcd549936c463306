//! The client that retries, through `kill -9` after `kill -9`: the sums are exact, not only bounded.
//!
//! Short by default; `DKC_KILLS` makes it longer, as for the test beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dkc::client::batch::Batch;
use dkc::client::blocking::Client;
use dkc::client::core::{Answer, Delivery, Op};
use dkc::engine::prng::Prng;

use super::server::{PATIENCE, Server};

const HOT_KEYS: u64 = 8;
const BATCH: u64 = 32;
const WINDOW: u64 = 16;

/// A batch adds 1 to keys that all batches share, and its number to keys of its own.
fn batch(number: u64) -> Batch {
    let mut batch = Batch::new();
    for place in 0..BATCH / 2 {
        batch.push(format!("hot-{}", place % HOT_KEYS).as_bytes(), 1).expect("there is room");
        batch.push(format!("own-{number}-{place}").as_bytes(), number as i64).expect("there is room");
    }
    batch
}

/// Counts until told to stop: windows of batches, then one increment whose new count shows that none was lost or doubled. Returns how many
/// windows there were.
fn work(mut client: Client, stop: &AtomicBool, acknowledged: &AtomicU64) -> (Client, u64) {
    let mut windows = 0;
    while !stop.load(Ordering::SeqCst) {
        for number in windows * WINDOW..(windows + 1) * WINDOW {
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
        windows += 1;
        assert_eq!(client.increment("windows", 1), Ok(windows as i64), "the original answer, whatever was repeated");
    }
    (client, windows)
}

#[test]
fn sums_are_exact_through_one_kill_after_another() {
    let kills: u64 = std::env::var("DKC_KILLS").map_or(5, |kills| kills.parse().expect("DKC_KILLS is a number"));
    let folder = tempfile::tempdir().unwrap();
    let mut prng = Prng::new(kills);
    let mut server = Server::start(folder.path(), &["--stores", "1", "--shards", "3"]);
    let address = server.address.clone();
    let client = Client::connect(std::slice::from_ref(&address), PATIENCE).expect("the server answers");
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let worker = std::thread::spawn({
        let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        move || work(client, &stop, &acknowledged)
    });
    for _ in 0..kills {
        let until = acknowledged.load(Ordering::SeqCst) + 1 + prng.below(300);
        while acknowledged.load(Ordering::SeqCst) < until && !worker.is_finished() {
            std::thread::yield_now();
        }
        server.kill();
        server = Server::start_again(folder.path(), &address, &[]);
    }
    stop.store(true, Ordering::SeqCst);
    let (mut client, windows) = worker.join().expect("every batch is counted");
    let keys: Vec<String> = (0..HOT_KEYS).map(|key| format!("hot-{key}")).collect();
    let expected = windows * WINDOW * BATCH / 2 / HOT_KEYS;
    assert_eq!(client.get(&keys).unwrap(), vec![Some(expected as i64); keys.len()], "{windows} windows");
    for number in 0..windows * WINDOW {
        let keys: Vec<String> = (0..BATCH / 2).map(|place| format!("own-{number}-{place}")).collect();
        assert_eq!(client.get(&keys).unwrap(), vec![Some(number as i64); keys.len()], "batch {number}");
    }
    println!("{kills} kills: {} batches, each counted once", windows * WINDOW);
}
