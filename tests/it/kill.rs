//! `kill -9` under pipelined load: every acknowledged increment is there afterwards, each unanswered one at most once.
//!
//! Short by default; `cargo xtask kill --times 50` runs the long one (variable `DKC_KILLS`).

use dkc::client::batch::Batch;
use dkc::client::blocking::Connection;
use dkc::engine::prng::Prng;
use dkc::wire::client::Reply;

use super::server::Server;

const HOT_KEYS: u64 = 16;
const WINDOW: usize = 16;
const BATCH: u64 = 40;

/// What became of the batches of one life.
#[derive(Default)]
struct Life {
    acknowledged: Vec<u64>,
    unknown: Vec<u64>,
}

/// A batch increments some hot keys, and as many keys of its own, so that a batch applied twice or in part shows.
fn batch(number: u64) -> Batch {
    let mut batch = Batch::new();
    for place in 0..BATCH / 2 {
        batch.push(format!("hot-{}", (number + place) % HOT_KEYS).as_bytes(), 1).expect("there is room");
        batch.push(format!("own-{number}-{place}").as_bytes(), 1).expect("there is room");
    }
    batch
}

/// Sends batches from `first` on, and kills the server once `kill_after` are acknowledged.
fn load(server: &mut Server, connection: &mut Connection, first: u64, kill_after: usize) -> Life {
    let mut life = Life::default();
    let mut flying: Vec<(u64, u64)> = Vec::new();
    let mut next = first;
    let mut killed = false;
    loop {
        while !killed && flying.len() < WINDOW {
            let Ok(id) = connection.send_increment(&batch(next), false) else { break };
            flying.push((id, next));
            next += 1;
        }
        if !killed && connection.flush().is_err() {
            break;
        }
        match connection.receive() {
            Ok((id, Reply::Increment(reply))) => {
                assert!(reply.outcomes.is_empty(), "every increment was applied");
                let place = flying.iter().position(|&(flying, _)| flying == id).expect("an answer to a question");
                life.acknowledged.push(flying.swap_remove(place).1);
            }
            Ok((_, other)) => panic!("an increment was answered with {other:?}"),
            Err(_) => break,
        }
        if !killed && life.acknowledged.len() >= kill_after {
            server.kill();
            killed = true;
        }
        if flying.is_empty() {
            break;
        }
    }
    life.unknown = flying.into_iter().map(|(_, number)| number).collect();
    life
}

fn counts(connection: &mut Connection, keys: &[String]) -> Vec<i64> {
    let chunks = keys.chunks(4_096);
    chunks.flat_map(|keys| connection.get(keys).expect("the server answers")).map(Option::unwrap_or_default).collect()
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_unanswered_counts_twice() {
    let kills: u64 = std::env::var("DKC_KILLS").map_or(4, |kills| kills.parse().expect("DKC_KILLS is a number"));
    let folder = tempfile::tempdir().unwrap();
    let mut prng = Prng::new(kills);
    let mut next = 0;
    let mut hot_low = [0i64; HOT_KEYS as usize];
    let mut hot_high = [0i64; HOT_KEYS as usize];
    let (mut acknowledged, mut unknown, mut landed) = (0, 0, 0);
    for life in 0..=kills {
        let mut server = Server::start(folder.path(), &["--stores", "2", "--shards", "3"]);
        let mut connection = server.connect();
        let keys: Vec<String> = (0..HOT_KEYS).map(|key| format!("hot-{key}")).collect();
        for (key, count) in counts(&mut connection, &keys).into_iter().enumerate() {
            let allowed = hot_low[key]..=hot_high[key];
            assert!(allowed.contains(&count), "life {life}: hot-{key} is {count}, allowed is {allowed:?}");
            // Whatever was unknown is decided now: it cannot change any more.
            (hot_low[key], hot_high[key]) = (count, count);
        }
        if life == kills {
            break;
        }
        let kill_after = 1 + prng.below(400) as usize;
        let outcome = load(&mut server, &mut connection, next, kill_after);
        next += (outcome.acknowledged.len() + outcome.unknown.len()) as u64;
        drop(server);
        let server = Server::start(folder.path(), &[]);
        let mut connection = server.connect();
        for (numbers, known) in [(&outcome.acknowledged, true), (&outcome.unknown, false)] {
            for &number in numbers {
                let keys: Vec<String> = (0..BATCH / 2).map(|place| format!("own-{number}-{place}")).collect();
                let counts = counts(&mut connection, &keys);
                let fine = |count: &i64| *count == 1 || (!known && *count == 0);
                assert!(counts.iter().all(fine), "life {life}: batch {number} (acknowledged: {known}) is {counts:?}");
                landed += u64::from(!known && counts.iter().all(|&count| count == 1));
                for place in 0..BATCH / 2 {
                    let key = ((number + place) % HOT_KEYS) as usize;
                    hot_low[key] += i64::from(known);
                    hot_high[key] += 1;
                }
            }
        }
        acknowledged += outcome.acknowledged.len();
        unknown += outcome.unknown.len();
    }
    println!(
        "{kills} kills: {acknowledged} batches acknowledged and found, {unknown} unanswered of which {landed} landed"
    );
}
