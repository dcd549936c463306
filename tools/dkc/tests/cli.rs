//! The command line against a server of a few lines: what is printed, and with which exit code.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests start processes")]

use dkc::client::stand_in::Server;
use dkc::engine::part::PackedKeys;
use dkc::error::ErrorCode;
use dkc::ids::{Sequence, SessionEpoch, SessionId, SessionToken};
use dkc::limits::REQUEST_BYTES_MAX;
use dkc::wire::client::{
    Credentials, Encoder, GetReply, IncrementReply, Opened, Part, Request, Status, TopKReply, Welcome, decode_request,
};
use dkc::wire::frame::{Decoder, Frame};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};

/// Counts, and under the empty key the last session.
type Counts = BTreeMap<Vec<u8>, i64>;

/// Serves connections, one after another, until the test ends; returns the endpoint.
/// A request with the key `hangup` is not answered: the connection ends. The key `full` is refused. Sessions are handed out and not
/// kept: what is sent again counts again.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        let mut counts = Counts::new();
        for stream in listener.incoming() {
            converse(stream.expect("a client"), &mut counts);
        }
    });
    endpoint
}

fn converse(mut stream: TcpStream, counts: &mut Counts) {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new(REQUEST_BYTES_MAX);
    loop {
        let length = stream.read(decoder.space(1 << 16)).unwrap_or(0);
        if length == 0 {
            return;
        }
        decoder.filled(length);
        while let Some(Frame { kind, request_id, payload }) = decoder.next_frame().expect("intact") {
            let request = decode_request(kind, payload).expect("valid");
            let mut out = Vec::new();
            if !answer(&request, counts, &mut encoder, &mut out, request_id) || stream.write_all(&out).is_err() {
                return;
            }
        }
    }
}

/// Answers a request; returns false to end the connection instead.
fn answer(request: &Request<'_>, counts: &mut Counts, encoder: &mut Encoder, out: &mut Vec<u8>, id: u64) -> bool {
    let part = |keys: usize| vec![Part { keys: keys as u32, ..Part::default() }];
    match request {
        Request::Hello(_) => {
            let welcome = Welcome { protocol: 1, ..Welcome::default() };
            encoder.welcome(out, id, &welcome);
        }
        Request::Increment(request) => {
            let mut reply = IncrementReply { parts: part(request.keys.len()), ..IncrementReply::default() };
            for (key, delta) in request.keys.iter().zip(request.deltas()) {
                let outcome = if key == b"full" { ErrorCode::DiskFull } else { ErrorCode::Ok };
                if key == b"hangup" {
                    return false;
                } else if outcome == ErrorCode::Ok {
                    *counts.entry(key.to_vec()).or_default() += delta;
                }
                reply.outcomes.push(outcome as u8);
                if request.want_values {
                    reply.values.push(counts.get(key).copied().unwrap_or(0));
                }
            }
            encoder.increment_reply(out, id, &reply);
        }
        Request::Get(request) => {
            let found: Vec<_> = request.keys.iter().map(|key| counts.get(key).copied()).collect();
            let reply = GetReply {
                parts: part(found.len()),
                order: vec![],
                counts: found.iter().map(|count| count.unwrap_or(0)).collect(),
                found: found.iter().map(|count| count.is_some().into()).collect(),
            };
            encoder.get_reply(out, id, &reply);
        }
        Request::TopK { k } => {
            let mut sorted: Vec<_> = counts.iter().collect();
            sorted.retain(|(key, _)| !key.is_empty());
            sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            sorted.truncate(*k as usize);
            let mut keys = PackedKeys::default();
            sorted.iter().for_each(|(key, _)| keys.push(key));
            let counts: Vec<i64> = sorted.iter().map(|(_, count)| **count).collect();
            let reply = TopKReply { parts: part(counts.len()), keys, counts };
            encoder.top_k_reply(out, id, &reply);
        }
        Request::Status => {
            let status = Status { server_version: "9.8.7".to_owned(), ..Status::default() };
            encoder.status_reply(out, id, &status);
        }
        Request::OpenSession { .. } => {
            let last = counts.entry(Vec::new()).or_default();
            *last += 1;
            let (session, epoch, token) = (SessionId(*last as u64), SessionEpoch(1), SessionToken(0));
            let credentials = Credentials { session, epoch, token };
            let opened = Opened { credentials, age_micros_max: 1 << 40, progress: Sequence(0), resumed: false };
            encoder.open_session_reply(out, id, &opened);
        }
        Request::AttachSession(_) | Request::CloseSession { .. } | Request::Resolve { .. } | Request::Scan(_) => {
            encoder.error(out, id, ErrorCode::Unsupported, "not in this test");
        }
    }
    true
}

fn dkc_with_input<A: AsRef<OsStr>>(endpoint: &str, args: &[A], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dkc"))
        .args(args)
        .env("DKC_ENDPOINTS", endpoint)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // A tool that has stopped early closes its end; what it says is checked by the caller.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("the binary ends")
}

fn dkc(endpoint: &str, args: &[&str]) -> Output {
    dkc_with_input(endpoint, args, b"")
}

/// Standard output of a call that succeeds and has nothing to say.
fn printed(endpoint: &str, args: &[&str]) -> String {
    let output = dkc(endpoint, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, said: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(said), "{stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn keys_are_incremented_and_read() {
    let endpoint = serve();
    assert_eq!(printed(&endpoint, &["incr", "apples"]), "1\n");
    assert_eq!(printed(&endpoint, &["incr", "apples", "-5"]), "-4\n");
    assert_eq!(printed(&endpoint, &["incr", "--escaped", "\\xff", "7", "-o", "csv"]), "\\xff,7\n");
    assert_eq!(printed(&endpoint, &["get", "apples"]), "-4\n");
    assert_eq!(printed(&endpoint, &["get", "pears"]), "0\n");
    assert_eq!(printed(&endpoint, &["get", "apples", "pears"]), "apples\t-4\npears\t0\n");
    assert_eq!(
        printed(&endpoint, &["get", "pears", "-o", "json"]),
        "{\"count\":0,\"found\":false,\"key\":\"pears\"}\n"
    );
    assert_eq!(printed(&endpoint, &["top", "-k", "1", "-o", "csv"]), "\\xff,7\n");
    assert_eq!(printed(&endpoint, &["top"]), "\\xff\t7\napples\t-4\n");
    assert!(printed(&endpoint, &["status"]).contains("version 9.8.7"));
    let raw = [OsStr::new("get"), OsStr::from_bytes(b"\xff")];
    assert_eq!(dkc_with_input(&endpoint, &raw, b"").stdout, b"7\n");
}

#[test]
fn text_is_counted_across_batches() {
    let endpoint = serve();
    let text = "to be, or not\nTo be!\n".repeat(3_000);
    let output = dkc_with_input(&endpoint, &["count", "--words"], text.as_bytes());
    assert_eq!(output.status.code(), Some(0));
    let totals = String::from_utf8(output.stderr).expect("text");
    assert!(totals.starts_with("dkc: 18,000 keys counted, ") && totals.lines().count() == 1, "{totals}");
    assert_eq!(printed(&endpoint, &["top", "-o", "csv"]), "be,6000\nTo,3000\nnot,3000\nor,3000\nto,3000\n");
}

#[test]
fn skipped_input_is_reported_and_the_rest_is_counted() {
    let endpoint = serve();
    let text = format!("a\n{}\n\nb\n", "k".repeat(1_025));
    let output = dkc_with_input(&endpoint, &["count", "-", "/nonexistent"], text.as_bytes());
    assert_fails(&output, 1, "-, line 2: a key of over 1024 bytes is skipped");
    assert_fails(&output, 1, "/nonexistent: No such file");
    assert_fails(&output, 1, "2 keys counted");
    assert_eq!(printed(&endpoint, &["get", "a", "b"]), "a\t1\nb\t1\n");
}

#[test]
fn what_is_never_answered_is_unknown() {
    let endpoint = serve();
    let output = dkc(&endpoint, &["--timeout", "1", "incr", "hangup"]);
    assert_fails(&output, 5, "may have been applied");
    assert_fails(&output, 5, "what became of it: dkc resolve 1_1_1_1_");
    // The second request is answered with silence, so only the first is acknowledged.
    let text = format!("{}hangup\n{}", "a\n".repeat(4_096), "b\n".repeat(4_095));
    let output = dkc_with_input(&endpoint, &["--timeout", "2", "count"], text.as_bytes());
    assert_fails(&output, 5, "4,096 keys counted");
    assert_fails(&output, 5, "4,096 increments are unknown");
}

#[test]
fn refusals_are_counted_and_stop_the_counting() {
    let endpoint = serve();
    assert_fails(&dkc(&endpoint, &["--timeout", "0.2", "incr", "full"]), 4, "DiskFull");
    let output = dkc_with_input(&endpoint, &["--timeout", "0.2", "count"], b"a\nfull\nfull\nb\n");
    assert_fails(&output, 4, "2 keys counted");
    assert_fails(&output, 4, "2 increments were refused");
}

#[test]
fn connections_that_break_cost_no_count_and_double_none() {
    let server = Server::start_breaking(3);
    let text = "to be, or not\nTo be!\n".repeat(7_000);
    let output = dkc_with_input(&server.endpoint(), &["count", "--words"], text.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(printed(&server.endpoint(), &["top", "-o", "csv"]), "be,14000\nTo,7000\nnot,7000\nor,7000\nto,7000\n");
}

#[test]
fn a_named_session_counts_an_input_once_however_often_it_is_run() {
    let server = Server::start_breaking(4);
    let endpoint = server.endpoint();
    let count = |text: &str| dkc_with_input(&endpoint, &["count", "--session", "job"], text.as_bytes());
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    // A first run that dies on the way, having sent three requests, of which it knows that two are settled.
    let text = "a\nb\n".repeat(10_000);
    let mut dead =
        dkc::client::blocking::Client::connect(std::slice::from_ref(&endpoint), std::time::Duration::from_secs(60))
            .expect("served");
    dead.open(b"job").expect("served");
    for number in 1..=3 {
        let mut batch = dkc::client::batch::Batch::new();
        (0..4_096).for_each(|place| batch.push(if place % 2 == 0 { b"a" } else { b"b" }, 1).expect("fits"));
        let delivery = dkc::client::core::Delivery::Numbered(Sequence(number));
        dead.call(dkc::client::core::Op::Increment { batch, want_values: false, delivery }).expect("counted");
    }
    let second = count(&text);
    assert!(second.status.success(), "{}", said(&second));
    assert!(said(&second).contains("8,192 keys were counted before"), "{}", said(&second));
    assert_eq!(printed(&endpoint, &["get", "a", "b"]), "a\t10000\nb\t10000\n");
    let third = count(&text);
    assert!(third.status.success() && said(&third).contains("dkc: 0 keys counted"), "{}", said(&third));
    assert!(said(&third).contains("20,000 keys were counted before"), "{}", said(&third));
    let shorter = count("a\n");
    assert_eq!(shorter.status.code(), Some(4), "{}", said(&shorter));
    assert!(said(&shorter).contains("the input is not what it was"), "{}", said(&shorter));
    assert_eq!(printed(&endpoint, &["get", "a", "b"]), "a\t10000\nb\t10000\n");
}

#[test]
fn other_input_under_a_name_and_an_expired_name_are_refused() {
    let server = Server::start();
    let endpoint = server.endpoint();
    let mut dead =
        dkc::client::blocking::Client::connect(std::slice::from_ref(&endpoint), std::time::Duration::from_secs(60))
            .expect("served");
    dead.open(b"job").expect("served");
    let mut batch = dkc::client::batch::Batch::new();
    batch.push(b"x", 1).expect("fits");
    let delivery = dkc::client::core::Delivery::Numbered(Sequence(1));
    dead.call(dkc::client::core::Op::Increment { batch, want_values: false, delivery }).expect("counted");
    let other = dkc_with_input(&endpoint, &["count", "--session", "job"], b"y\n");
    // The number was used before the run began, by a request of which this run cannot know whether all of it was applied.
    assert_fails(&other, 5, "the input is not what it was when session job began");
    server.expire_sessions();
    let expired = dkc_with_input(&endpoint, &["count", "--session", "job"], b"x\n");
    assert_fails(&expired, 4, "session job expired before it was through");
    let unreadable = dkc(&endpoint, &["count", "--session", "files", "/nonexistent"]);
    assert_fails(&unreadable, 1, "/nonexistent: No such file");
}

#[test]
fn what_is_exported_can_be_imported_once() {
    let (from, folder) = (Server::start(), tempfile::tempdir().expect("a directory"));
    let text = "b\na,b\na,b\n\u{e9}\nsay \"hi\"\nd\ne\nb\n";
    assert!(dkc_with_input(&from.endpoint(), &["count"], text.as_bytes()).status.success());
    assert_eq!(printed(&from.endpoint(), &["incr", "low", "-5"]), "-5\n");
    let expected = printed(&from.endpoint(), &["top", "-k", "100"]);
    for (name, format) in [("counts.csv", "csv"), ("counts.jsonl", "json"), ("counts.txt", "text")] {
        let to = Server::start_breaking(2);
        let file = folder.path().join(name);
        let path = file.to_str().expect("UTF-8");
        let exported = dkc(&from.endpoint(), &["export", "-o", format, path]);
        let said = String::from_utf8_lossy(&exported.stderr).into_owned();
        assert!(
            exported.status.success() && said.contains("7 keys exported in") && said.contains("shard 1 at "),
            "{said}"
        );
        let printed_too = dkc(&from.endpoint(), &["export", "-o", format]).stdout;
        assert_eq!(std::fs::read(&file).expect("written"), printed_too);
        for before in [false, true] {
            let imported = dkc(&to.endpoint(), &["import", path]);
            let said = String::from_utf8_lossy(&imported.stderr).into_owned();
            assert!(imported.status.success(), "{said}");
            assert_eq!(said.contains("nothing was counted"), before, "{said}");
            assert_eq!(printed(&to.endpoint(), &["top", "-k", "100"]), expected, "{format}");
        }
        let again = dkc(&to.endpoint(), &["import", "--session", "second", path]);
        assert!(again.status.success());
        assert_eq!(printed(&to.endpoint(), &["get", "b", "low"]), "b\t4\nlow\t-10\n");
    }
    let leftovers = std::fs::read_dir(folder.path()).expect("a directory").count();
    assert_eq!(leftovers, 3);
}

#[test]
fn what_cannot_be_exported_or_imported_is_said() {
    let server = Server::start();
    let endpoint = server.endpoint();
    assert_fails(&dkc(&endpoint, &["export", "/nonexistent/counts.csv"]), 1, "/nonexistent/counts.csv was not written");
    assert_fails(&dkc(&endpoint, &["import", "/nonexistent/counts.csv"]), 1, "/nonexistent/counts.csv: No such file");
    assert_fails(&dkc(&endpoint, &["import", "-"]), 1, "give it one with --session");
    let broken = dkc_with_input(&endpoint, &["import", "--session", "s", "--format", "csv", "-"], b"a,1\nb,many\n");
    assert_fails(&broken, 1, "line 2: a count is a whole number");
    let mended = dkc_with_input(&endpoint, &["import", "--session", "s", "--format", "csv", "-"], b"a,1\nb,2\n");
    assert!(mended.status.success(), "{}", String::from_utf8_lossy(&mended.stderr));
    assert_eq!(printed(&endpoint, &["get", "a", "b"]), "a\t1\nb\t2\n");
    assert_fails(&dkc(&serve(), &["export"]), 1, "the server names no shard");
}

#[test]
fn an_unknown_outcome_is_resolved() {
    let server = Server::start_breaking(1);
    let endpoint = server.endpoint();
    let output = dkc(&endpoint, &["--timeout", "0.5", "incr", "apples"]);
    assert_fails(&output, 5, "dkc resolve ");
    let said = String::from_utf8(output.stderr).expect("text");
    let id = said.split("dkc resolve ").nth(1).expect("an id").trim();
    assert_eq!(printed(&endpoint, &["resolve", id, "apples"]), "applied\n");
    assert_eq!(printed(&endpoint, &["resolve", id]), "applied\n");
    assert!(printed(&endpoint, &["resolve", id, "-o", "csv"]).starts_with("1,applied,"));
    assert!(printed(&endpoint, &["resolve", id, "-o", "json"]).contains("\"fate\":\"applied\""));
    assert_eq!(printed(&endpoint, &["get", "apples"]), "1\n");
    // A request of the same session that was never sent: it never will be applied.
    let unsent = id.replacen("1_1_1_", "1_1_9_", 1);
    assert_eq!(printed(&endpoint, &["resolve", &unsent]), "not applied, and never will be\n");
    assert_fails(&dkc(&endpoint, &["resolve", "1_2_3"]), 2, "not the id of a request");
}

#[test]
fn wrong_usage_and_missing_servers_have_codes_of_their_own() {
    // A privileged port that no service of today uses.
    let deserted = "127.0.0.1:1";
    assert_fails(&dkc(deserted, &["--timeout", "0.2", "get", "a"]), 3, deserted);
    assert_fails(&dkc(deserted, &["--timeout", "0.2", "incr", "a"]), 3, deserted);
    assert_fails(&dkc(deserted, &["--timeout", "0.2", "count"]), 3, deserted);
    assert_fails(&dkc(deserted, &[]), 2, "a command is expected");
    assert_fails(&dkc(deserted, &["get"]), 2, "Usage");
    assert_fails(&dkc(deserted, &["incr", "a", "much"]), 2, "DELTA");
    assert_fails(&dkc(deserted, &["get", "--escaped", "\\n"]), 2, "backslash");
    assert_fails(&dkc(deserted, &["get", ""]), 2, "at least one byte");
    assert_fails(&dkc("foo", &["get", "a"]), 2, "HOST:PORT");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let endpoint = serve();
    dkc_with_input(&endpoint, &["count"], b"a\nb\n");
    let mut child = Command::new(env!("CARGO_BIN_EXE_dkc"))
        .args(["top", "--endpoints", &endpoint])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the binary ends");
    assert!(output.status.success() && output.stderr.is_empty());
}
