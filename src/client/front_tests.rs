//! The blocking front, and the one for tokio, against a server of this process that breaks connections while requests are under way.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests of clients with sockets")]

use super::ClientError;
use super::batch::Batch;
use super::blocking::Client;
use super::core::{Answer, Config, Delivery, Op};
use super::resolved::Fate;
use super::stand_in::Server;
use crate::error::ErrorCode;
use crate::ids::Sequence;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn batch(key: &str, delta: i64) -> Batch {
    let mut batch = Batch::new();
    batch.push(key.as_bytes(), delta).expect("fits");
    batch
}

#[test]
fn single_calls_round_trip() {
    let server = Server::start();
    let endpoints = ["127.0.0.1:1".to_owned(), server.endpoint()];
    let mut client = Client::connect(&endpoints, PATIENCE).expect("the second endpoint serves");
    assert_eq!(client.increment("a", 5), Ok(5));
    assert_eq!(client.increment_many(&[("a", -2), ("b", 7)]).expect("served").values, [3, 7]);
    assert_eq!(client.get(&["a", "b", "c"]), Ok(vec![Some(3), Some(7), None]));
    let top = client.top_k(1).expect("served");
    assert_eq!((top.keys.key(0), top.counts[0]), (&b"b"[..], 7));
    assert!(client.status().is_ok());
    assert_eq!(client.increment("c", i64::MAX), Ok(i64::MAX));
    let overflow = client.increment("c", 1);
    assert!(matches!(overflow, Err(ClientError::Refused { code: ErrorCode::Overflow, .. })), "{overflow:?}");
    assert!(matches!(client.increment("", 1), Err(ClientError::Refused { code: ErrorCode::TooLarge, .. })));
    assert!(matches!(client.top_k(0), Err(ClientError::Refused { .. })));
}

#[test]
fn connections_that_break_cost_no_increment_and_double_none() {
    let server = Server::start_breaking(3);
    let mut client = Client::connect(&[server.endpoint()], PATIENCE).expect("served");
    for count in 1..=40 {
        assert_eq!(client.increment("a", 1), Ok(count));
    }
    for _ in 0..40 {
        let op = Op::Increment { batch: batch("b", 2), want_values: false, delivery: Delivery::ExactlyOnce };
        client.submit(op).expect("room");
    }
    while let Some((_, result)) = client.next_done() {
        assert!(matches!(result, Ok(Answer::Incremented(_))), "{result:?}");
    }
    assert_eq!(client.get(&["a", "b"]), Ok(vec![Some(40), Some(80)]));
}

#[test]
fn a_producer_counts_all_and_merges_when_asked() {
    let server = Server::start_breaking(4);
    let mut client = Client::connect(&[server.endpoint()], PATIENCE).expect("served");
    let mut failed = Vec::new();
    let mut producer = client.producer(|failure| failed.push(failure.key.to_vec())).limits(10, 4);
    for number in 0..1_000 {
        producer.push(format!("key {}", number % 7).as_bytes(), 1).expect("valid");
    }
    producer.push(b"big", i64::MAX).expect("valid");
    producer.push(b"big", 1).expect("valid");
    let tally = producer.finish();
    assert_eq!((tally.acknowledged, tally.refused, tally.unknown), (1_001, 1, 0));
    assert_eq!(failed, [b"big"]);
    let mut producer = client.producer(|_| ()).merging();
    (0..1_000).for_each(|_| producer.push(b"merged", 1).expect("valid"));
    assert_eq!(producer.finish().acknowledged, 1);
    assert_eq!(client.get(&["key 0", "merged"]), Ok(vec![Some(143), Some(1_000)]));
}

#[test]
fn what_is_sent_once_and_lost_is_unknown_and_what_has_an_id_is_resolved() {
    // The second request of each pair breaks the connection: in turns it was applied, and it was not.
    let server = Server::start_breaking(2);
    let mut client = Client::new(Config::new(&[server.endpoint()]), PATIENCE);
    let once = |client: &mut Client| {
        client.call(Op::Increment { batch: batch("a", 1), want_values: false, delivery: Delivery::AtMostOnce })
    };
    let results: Vec<_> = (0..4).map(|_| once(&mut client)).collect();
    assert!(results[0].is_ok() && results[2].is_ok());
    for result in [&results[1], &results[3]] {
        assert!(matches!(result, Err(ClientError::Unknown { increments: 1, id: None, .. })), "{result:?}");
    }
    assert_eq!(client.get(&["a"]), Ok(vec![Some(3)]));
    let server = Server::start_breaking(1);
    let mut client = Client::new(Config::new(&[server.endpoint()]), Duration::from_millis(300));
    let result = client.increment("a", 1);
    // Each copy breaks the connection, so no answer ever comes; the first copy was applied.
    let Err(ClientError::Unknown { id: Some(id), .. }) = result else { panic!("{result:?}") };
    let id = id.to_string().parse().expect("an id reads back");
    let mut client = Client::new(Config::new(&[server.endpoint()]), PATIENCE);
    assert_eq!(client.resolve(id, &["a"]).expect("served").fate, Fate::Applied { overflowed: 0 });
    assert_eq!(client.get(&["a"]), Ok(vec![Some(1)]));
}

#[test]
fn an_expired_session_is_followed_by_another() {
    let server = Server::start();
    let mut client = Client::connect(&[server.endpoint()], PATIENCE).expect("served");
    assert_eq!(client.increment("a", 1), Ok(1));
    server.expire_sessions();
    assert_eq!(client.increment("a", 1), Ok(2));
    assert_eq!(client.increment("a", 1), Ok(3));
}

fn numbered(client: &mut Client, number: u64) -> Result<Answer, ClientError> {
    let delivery = Delivery::Numbered(Sequence(number));
    client.call(Op::Increment { batch: batch("a", number as i64), want_values: false, delivery })
}

#[test]
fn a_named_session_goes_on_after_its_holder_died_and_after_it_was_closed() {
    let server = Server::start_breaking(5);
    let mut first = Client::new(Config::new(&[server.endpoint()]), PATIENCE);
    assert!(numbered(&mut first, 1).is_err(), "nothing is open");
    let named = first.open(b"job").expect("served");
    assert_eq!((named.settled, named.resumed), (Sequence(0), false));
    for number in 1..=7 {
        assert!(matches!(numbered(&mut first, number), Ok(Answer::Incremented(_))));
    }
    assert!(numbered(&mut first, 9).is_err(), "before its turn");

    let mut second = Client::new(Config::new(&[server.endpoint()]), PATIENCE);
    let named = second.open(b"job").expect("served");
    assert!(named.resumed && named.settled == Sequence(6), "{named:?}");
    assert_eq!(numbered(&mut second, 3), Ok(Answer::Settled));
    for number in 7..=9 {
        assert!(matches!(numbered(&mut second, number), Ok(Answer::Incremented(_))));
    }
    assert_eq!(second.get(&["a"]), Ok(vec![Some(45)]), "each number counts once");
    let taken = numbered(&mut first, 8);
    assert!(matches!(taken, Err(ClientError::Refused { code: ErrorCode::SessionTaken, .. })), "{taken:?}");
    assert_eq!(second.close(), Ok(()));

    let mut third = Client::new(Config::new(&[server.endpoint()]), PATIENCE);
    let named = third.open(b"job").expect("served");
    assert_eq!((named.settled, named.resumed), (Sequence(9), false));
    assert_eq!(numbered(&mut third, 9), Ok(Answer::Settled));
    assert!(matches!(numbered(&mut third, 10), Ok(Answer::Incremented(_))));
    assert_eq!(third.close(), Ok(()));
    assert_eq!(third.get(&["a"]), Ok(vec![Some(55)]));
}

#[test]
fn nobody_to_talk_to_is_said_with_every_endpoint() {
    let endpoints = ["127.0.0.1:1".to_owned(), "127.0.0.2:1".to_owned()];
    let mut client = Client::new(Config::new(&endpoints), Duration::from_millis(200));
    let Err(ClientError::Unreachable { reason }) = client.increment("a", 1) else { panic!("nobody listens") };
    assert!(endpoints.iter().all(|endpoint| reason.contains(endpoint.as_str())), "{reason}");
    assert!(matches!(Client::connect(&[], Duration::from_millis(50)), Err(ClientError::Unreachable { .. })));
}

#[cfg(feature = "tokio")]
#[test]
fn the_client_for_tokio_counts_exactly_through_broken_connections() {
    let server = Server::start_breaking(3);
    let runtime = ::tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = super::tokio::Client::connect(&[server.endpoint()], PATIENCE).await.expect("served");
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let client = client.clone();
                ::tokio::spawn(async move { client.increment("a", 1).await })
            })
            .collect();
        let mut values = Vec::new();
        for task in tasks {
            values.push(task.await.expect("no panic").expect("counted"));
        }
        values.sort_unstable();
        assert_eq!(values, (1..=50).collect::<Vec<i64>>());
        // A future that is dropped takes nothing back once it was sent.
        let mut dropped = Box::pin(client.increment("b", 1));
        assert!(
            std::future::poll_fn(|context| std::task::Poll::Ready(dropped.as_mut().poll(context).is_pending())).await
        );
        drop(dropped);
        assert_eq!(client.increment("a", 1).await, Ok(51));
        assert_eq!(client.get(&["b"]).await, Ok(vec![Some(1)]));
    });
}
