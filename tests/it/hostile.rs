//! Clients that send nonsense, too much, too slowly or nothing are told so, and hurt nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use dkc::client::blocking::Connection;
use dkc::engine::prng::Prng;
use dkc::error::ErrorCode;
use dkc::limits::{BATCH_KEYS_MAX, KEY_BYTES_MAX, REQUEST_BYTES_MAX, STORE_HALF_FRAME_BYTES_MAX, TOP_KEYS_MAX};
use dkc::wire::client::Reply;
use dkc::wire::frame::{Kind, push_frame};

use super::raw::{Raw, get, hello, increment, top};
use super::server::{PATIENCE, Server};

/// Sends bytes and reads until the server closes the connection; says whether it did.
fn is_shut_out(server: &Server, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| true)
}

fn still_serves(connection: &mut Connection) {
    connection.increment(&[("well", 1)]).expect("others are served");
}

/// Waits until only so many connections are left at the server, the asking one included.
fn until_connections_are(connection: &mut Connection, wanted: u32) {
    let count = |connection: &mut Connection| {
        let status = connection.status().expect("others are served");
        status.stores.iter().map(|store| store.connections).sum::<u32>()
    };
    while count(connection) != wanted {}
}

/// Runs `hostile` while another client increments one key, one request after another; every one of these must be acknowledged
/// and counted, and some of them must be.
fn while_others_are_served(server: &Server, hostile: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let mut other = server.connect();
    still_serves(&mut other);
    let counted = std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let mut counted = 0;
            while !done.load(Ordering::Relaxed) || counted == 0 {
                still_serves(&mut other);
                counted += 1;
            }
            counted
        });
        // The other client must end even if this one fails.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(hostile));
        done.store(true, Ordering::Relaxed);
        let counted = served.join().expect("others are served");
        result.map_or_else(|panic| std::panic::resume_unwind(panic), |()| counted)
    });
    assert_eq!(server.connect().get(&["well"]).unwrap(), [Some(counted + 1)]);
}

#[test]
fn nonsense_closes_its_own_connection_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "1"]);
    let mut other = server.connect();
    let mut prng = Prng::new(1);
    for _ in 0..50 {
        let bytes: Vec<u8> = (0..24 + prng.below(300)).map(|_| prng.bits() as u8).collect();
        assert!(is_shut_out(&server, &bytes));
        still_serves(&mut other);
    }
    // Well-formed frames with nonsense in them, and a first frame that is not Hello.
    for kind in [Kind::Hello, Kind::Increment, Kind::Get, Kind::TopK, Kind::Status] {
        let mut frame = Vec::new();
        push_frame(&mut frame, kind, 7, &[0xff; 64]);
        assert!(is_shut_out(&server, &frame), "{kind:?}");
        still_serves(&mut other);
    }
}

#[test]
fn half_frames_and_sudden_ends_leak_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "2"]);
    let mut other = server.connect();
    for round in 0..200 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let mut frame = Vec::new();
        push_frame(&mut frame, Kind::Status, 1, &[0; 100]);
        stream.write_all(&frame[..round % frame.len()]).unwrap();
    }
    still_serves(&mut other);
    // Closed connections are forgotten as soon as their ends have been read.
    until_connections_are(&mut other, 1);
}

#[test]
fn a_frame_past_the_limit_is_refused_before_anything_of_it_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "1"]);
    while_others_are_served(&server, || {
        let mut large = Vec::new();
        push_frame(&mut large, Kind::Increment, 7, &vec![0; REQUEST_BYTES_MAX + 1]);
        for _ in 0..100 {
            let mut raw = Raw::greeted(&server.address);
            raw.send(&large[..24]);
            raw.expect_end_with(7, ErrorCode::TooLarge);
        }
    });
}

#[test]
fn requests_past_a_limit_are_refused_by_name_and_the_connection_lives() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "1", "--memory-max", "64MiB"]);
    let mut raw = Raw::greeted(&server.address);
    for (id, request) in (2..).zip([
        increment(2, BATCH_KEYS_MAX + 1, 8),
        increment(3, 1, KEY_BYTES_MAX + 1),
        increment(4, 1, KEY_BYTES_MAX)[..].into(),
        get(5, BATCH_KEYS_MAX + 1, 8),
        get(6, 1, KEY_BYTES_MAX + 1),
        top(7, TOP_KEYS_MAX as u32 + 1),
        top(8, TOP_KEYS_MAX as u32),
    ]) {
        raw.send(&request);
        match raw.reply() {
            Some((got, Reply::Error { code: ErrorCode::TooLarge, text })) => {
                assert!(got == id && ![4, 8].contains(&id) && text.contains("the limit is"), "{id}: {text}");
            }
            Some((got, Reply::Increment(_) | Reply::TopK(_))) => assert!(got == id && [4, 8].contains(&id), "{id}"),
            other => panic!("{id}: {other:?}"),
        }
    }
}

#[test]
fn a_client_that_does_not_say_hello_is_shut_out_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "2", "--hello-timeout", "2s"]);
    while_others_are_served(&server, || {
        Raw::silent(&server.address).expect_end_with(0, ErrorCode::Malformed);
        // Half of a Hello is none.
        let mut raw = Raw::silent(&server.address);
        raw.send(&hello()[..30]);
        raw.expect_end_with(1, ErrorCode::Malformed);
    });
}

#[test]
fn a_frame_that_does_not_become_whole_in_time_is_refused_however_much_of_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "2", "--frame-timeout", "200ms"]);
    let whole = increment(7, 900, 1_000);
    while_others_are_served(&server, || {
        for (length, id) in [(1, 0), (23, 0), (24, 7), (1_000, 7), (10_000, 7), (whole.len() - 1, 7)] {
            let mut raw = Raw::greeted(&server.address);
            raw.send(&whole[..length]);
            raw.expect_end_with(id, ErrorCode::Malformed);
        }
        // A byte now and then does not make it better.
        let mut dribbling = Raw::greeted(&server.address);
        let sent = whole.iter().take_while(|byte| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            dribbling.stream.write_all(&[**byte]).is_ok()
        });
        assert!(sent.count() < whole.len(), "it is cut off before it is through");
    });
}

#[test]
fn half_frames_take_a_bounded_memory_and_the_oldest_pays() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "1", "--frame-timeout", "1h"]);
    let whole = increment(7, 1_000, 1_000);
    while_others_are_served(&server, || {
        // Each half takes at least what was sent of it.
        let enough = STORE_HALF_FRAME_BYTES_MAX / (whole.len() - 1) + 1;
        let mut halves: Vec<Raw> = (0..enough)
            .map(|_| {
                let mut raw = Raw::greeted(&server.address);
                raw.send(&whole[..whole.len() - 1]);
                raw
            })
            .collect();
        // The last one is young, and becomes whole in time.
        let mut youngest = halves.pop().expect("there are many");
        halves.remove(0).expect_end_with(7, ErrorCode::Overloaded);
        youngest.send(&whole[whole.len() - 1..]);
        assert!(matches!(youngest.reply(), Some((7, Reply::Increment(_)))));
    });
}

#[test]
fn a_client_that_takes_no_replies_is_cut_off_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "2", "--reply-timeout", "300ms"]);
    let mut other = server.connect();
    while_others_are_served(&server, || {
        let mut raw = Raw::greeted(&server.address);
        raw.send(&increment(2, 1_000, 1_000));
        // Large answers, until no buffer between here and the server takes more, and the server none of ours.
        let asked: Vec<u8> = (3..103).flat_map(|id| top(id, 10_000)).collect();
        raw.send_until_closed(&asked);
    });
    until_connections_are(&mut other, 1);
}

#[test]
fn a_connection_without_requests_ends_in_time_and_without_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "2", "--idle-timeout", "300ms"]);
    while_others_are_served(&server, || {
        let mut idle = Raw::greeted(&server.address);
        assert_eq!(idle.reply(), None);
        let mut asked_once = Raw::greeted(&server.address);
        asked_once.send(&increment(2, 1, 8));
        assert!(matches!(asked_once.reply(), Some((2, Reply::Increment(_)))));
        assert_eq!(asked_once.reply(), None);
    });
}

#[test]
fn connections_past_the_limit_are_refused_by_name_and_have_their_turn_later() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "1", "--connections-max", "20"]);
    let mut other = server.connect();
    let mut inside: Vec<Raw> = (1..20).map(|_| Raw::greeted(&server.address)).collect();
    for _ in 0..500 {
        Raw::silent(&server.address).expect_end_with(0, ErrorCode::Overloaded);
        still_serves(&mut other);
    }
    // Many at once, more than are waited for.
    let crowd: Vec<Raw> = (0..500).map(|_| Raw::silent(&server.address)).collect();
    still_serves(&mut other);
    // None of them is left to take the place that becomes free.
    crowd.into_iter().for_each(|raw| raw.expect_end_with(0, ErrorCode::Overloaded));
    inside.pop();
    until_connections_are(&mut other, 19);
    let mut late = Raw::greeted(&server.address);
    late.send(&increment(2, 1, 8));
    assert!(matches!(late.reply(), Some((2, Reply::Increment(_)))));
}

#[test]
fn as_many_requests_as_a_client_likes_are_pipelined_and_each_is_answered() {
    const REQUESTS: u64 = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "2"]);
    while_others_are_served(&server, || {
        let mut raw = Raw::greeted(&server.address);
        let mut writer = raw.stream.try_clone().unwrap();
        let mut answered = vec![false; REQUESTS as usize];
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for first in (0..REQUESTS).step_by(1_000) {
                    let requests: Vec<u8> = (first..first + 1_000).flat_map(|id| increment(id, 1, 16)).collect();
                    writer.write_all(&requests).expect("the server takes all of them, in its time");
                }
            });
            for _ in 0..REQUESTS {
                let (id, reply) = raw.reply().expect("the connection lives");
                assert!(matches!(reply, Reply::Increment(_)), "{reply:?}");
                assert!(!std::mem::replace(&mut answered[id as usize], true), "{id} is answered once");
            }
        });
        assert!(answered.iter().all(|answered| *answered));
    });
}

#[test]
fn one_client_cannot_have_all_of_a_stores_requests_under_way() {
    const REQUESTS: u64 = 100;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "1"]);
    while_others_are_served(&server, || {
        let mut greedy = Raw::greeted(&server.address);
        greedy.send(&increment(2, 1_000, 1_000));
        assert!(matches!(greedy.reply(), Some((2, Reply::Increment(_)))));
        // Each may have an answer of 10 MB. More than a store takes in at once is not refused: it is not read yet.
        greedy.send(&(0..REQUESTS).flat_map(|id| top(id, 10_000)).collect::<Vec<u8>>());
        let mut other = Raw::greeted(&server.address);
        for id in 0..REQUESTS {
            other.send(&top(id, 10_000));
            assert!(matches!(other.reply(), Some((got, Reply::TopK(_))) if got == id));
            assert!(matches!(greedy.reply(), Some((_, Reply::TopK(_)))));
        }
    });
}
