//! A connection against servers of a few lines, each in a thread, on loopback.

use super::*;
use crate::limits::{BATCH_KEYS_MAX, REQUEST_BYTES_MAX};
use crate::wire::client::{Encoder, GetReply, Part, Request, decode_request};
use crate::wire::frame::{Decoder, Frame};
use std::net::TcpListener;
use std::thread::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a server does with a request: write an answer and go on (true), or end the connection.
type Answer = fn(&mut Encoder, &mut Vec<u8>, u64, &Request<'_>) -> bool;

/// Serves one connection, one request after another, with blocking reads and writes.
fn serve(answer: Answer) -> (Vec<String>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = listener.local_addr().expect("bound").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new(REQUEST_BYTES_MAX);
        let mut out = Vec::new();
        loop {
            let count = stream.read(decoder.space(1 << 16)).unwrap_or(0);
            if count == 0 {
                return;
            }
            decoder.filled(count);
            while let Some(Frame { kind, request_id, payload }) = decoder.next_frame().expect("intact") {
                let request = decode_request(kind, payload).expect("valid");
                let goes_on = match request {
                    Request::Hello(_) => {
                        let welcome = Welcome { protocol: PROTOCOL_VERSION, ..Welcome::default() };
                        encoder.welcome(&mut out, request_id, &welcome);
                        true
                    }
                    request => answer(&mut encoder, &mut out, request_id, &request),
                };
                if stream.write_all(&out).is_err() || !goes_on {
                    return;
                }
                out.clear();
            }
        }
    });
    (vec![endpoint], server)
}

fn increment_reply(values: Vec<i64>) -> IncrementReply {
    let part = Part { keys: values.len() as u32, ..Part::default() };
    IncrementReply { parts: vec![part], values, ..IncrementReply::default() }
}

/// Endpoints where nobody listens: a privileged port that no service of today uses.
const DESERTED: [&str; 2] = ["127.0.0.1:1", "127.0.0.2:1"];

fn batch_of(count: usize) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..count {
        batch.push(b"key", 1).expect("fits");
    }
    batch
}

#[test]
fn single_requests_round_trip_and_a_deserted_endpoint_is_passed_over() {
    let (endpoints, server) = serve(|encoder, out, id, request| {
        match request {
            Request::Increment(request) => {
                encoder.increment_reply(out, id, &increment_reply(request.deltas().collect()));
            }
            Request::Get(request) => {
                let part = Part { keys: request.keys.len() as u32, ..Part::default() };
                let reply = GetReply { parts: vec![part], order: vec![], counts: vec![4, 0], found: vec![1, 0] };
                encoder.get_reply(out, id, &reply);
            }
            Request::TopK { .. } => encoder.error(out, id, ErrorCode::Unavailable, "no leader"),
            _ => encoder.status_reply(out, id, &Status::default()),
        }
        true
    });
    let endpoints = [DESERTED[0].to_owned(), endpoints[0].clone()];
    let mut connection = Connection::connect(&endpoints, PATIENCE).expect("the second endpoint serves");
    assert_eq!(connection.endpoint(), endpoints[1]);
    assert_eq!(connection.increment(&[("a", 5), ("b", -7)]).expect("served").values, [5, -7]);
    assert_eq!(connection.get(&["a", "b"]), Ok(vec![Some(4), None]));
    assert_eq!(connection.status(), Ok(Status::default()));
    let refusal = ClientError::Refused { code: ErrorCode::Unavailable, text: "no leader".into() };
    assert_eq!(connection.top_k(3), Err(refusal));
    for refused in [connection.increment(&[("", 1)]), connection.increment::<&str>(&[])] {
        assert!(matches!(refused, Err(ClientError::Refused { .. })));
    }
    assert!(matches!(connection.receive(), Err(ClientError::Protocol { .. })), "nothing to wait for");
    drop(connection);
    server.join().expect("a server that ends well");
}

#[test]
fn every_endpoint_that_failed_is_named() {
    let endpoints = DESERTED.map(str::to_owned);
    let Err(ClientError::Unreachable { reason }) = Connection::connect(&endpoints, PATIENCE) else {
        panic!("nobody listens");
    };
    assert!(endpoints.iter().all(|endpoint| reason.contains(endpoint.as_str())), "{reason}");
    assert!(matches!(Connection::connect(&[], PATIENCE), Err(ClientError::Unreachable { .. })));
}

// The server writes each answer before it reads on, and the client takes no answer before all is written: far more
// than what socket buffers hold is under way in both directions.
#[test]
fn full_buffers_on_both_sides_are_no_deadlock() {
    let (endpoints, server) = serve(|encoder, out, id, _| {
        encoder.increment_reply(out, id, &increment_reply(vec![1; BATCH_KEYS_MAX]));
        true
    });
    let mut connection = Connection::connect(&endpoints, PATIENCE).expect("served");
    let batch = batch_of(BATCH_KEYS_MAX);
    let sent: Vec<u64> = (0..150).map(|_| connection.send_increment(&batch, true).expect("sent")).collect();
    connection.flush().expect("flushed");
    assert_eq!(connection.in_flight(), 150);
    let received: Vec<u64> = (0..150).map(|_| connection.receive().expect("answered").0).collect();
    assert_eq!(received, sent);
    drop(connection);
    server.join().expect("a server that ends well");
}

#[test]
fn after_a_break_the_answers_that_came_are_delivered_and_the_rest_is_unknown() {
    let (endpoints, server) = serve(|encoder, out, id, request| match request {
        Request::Increment(request) if request.keys.len() == 10 => {
            encoder.increment_reply(out, id, &IncrementReply { values: vec![], ..increment_reply(vec![0; 10]) });
            true
        }
        _ => false,
    });
    let mut connection = Connection::connect(&endpoints, PATIENCE).expect("served");
    let answered = connection.send_increment(&batch_of(10), false).expect("sent");
    connection.send_increment(&batch_of(3), false).expect("sent");
    connection.send_increment(&batch_of(4), false).expect("sent");
    assert_eq!(connection.receive().expect("answered").0, answered);
    let failure = connection.receive().expect_err("the server went away");
    assert!(matches!(failure, ClientError::Unknown { increments: 7, .. }), "{failure}");
    assert_eq!(connection.receive(), Err(failure));
    assert!(matches!(connection.send_increment(&batch_of(1), false), Err(ClientError::Unreachable { .. })));
    server.join().expect("a server that ends well");
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
    let (endpoints, server) = serve(|_, _, _, _| true);
    let mut connection = Connection::connect(&endpoints, PATIENCE).expect("served");
    connection.timeout = Duration::from_millis(20);
    let failure = connection.increment(&[("key", 1)]).expect_err("no answer");
    assert!(matches!(failure, ClientError::Unknown { increments: 1, .. }), "{failure}");
    drop(connection);
    server.join().expect("a server that ends well");
}

#[test]
fn requests_in_flight_are_bounded() {
    let (endpoints, server) = serve(|_, _, _, _| true);
    let mut connection = Connection::connect(&endpoints, PATIENCE).expect("served");
    let batch = batch_of(1);
    for _ in 0..CONNECTION_REQUESTS_MAX {
        connection.send_increment(&batch, false).expect("room");
    }
    let refusal = connection.send_increment(&batch, false).expect_err("no room");
    assert!(matches!(refusal, ClientError::Refused { code: ErrorCode::Overloaded, .. }));
    drop(connection);
    server.join().expect("a server that ends well");
}
