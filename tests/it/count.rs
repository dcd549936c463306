//! The whole path with a real text: what `dkc count` counts is what `sort | uniq -c` would.

use std::collections::BTreeMap;
use std::path::Path;

use super::server::{Server, run_dkc, stdout};

/// The first 25 chapters of Genesis in the King James Version: public domain, full of ties.
const TEXT: &str = "tests/it/fixtures/genesis-kjv.txt";

fn expected(keys: impl Iterator<Item = String>) -> Vec<(String, i64)> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    let mut sorted: Vec<(String, i64)> = counts.into_iter().collect();
    // Highest first, ties in ascending byte order: the sort is stable and the map ascends.
    sorted.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    sorted
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty()).map(str::to_string)
}

fn top_csv(server: &Server, k: usize) -> Vec<(String, i64)> {
    let csv = stdout(&run_dkc(server, &["top", "-k", &k.to_string(), "-o", "csv"]));
    let line = |line: &str| {
        let (key, count) = line.rsplit_once(',').expect("key,count");
        let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key).replace("\"\"", "\"");
        (key, count.parse().expect("a number"))
    };
    csv.lines().map(line).collect()
}

#[test]
fn words_of_a_real_text_are_counted_to_the_last_tie_and_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(TEXT)).unwrap();
    let expected = expected(words(&text));
    let mut server = Server::start(folder.path(), &["--stores", "2", "--shards", "5"]);
    let counted = run_dkc(&server, &["count", "--words", TEXT]);
    assert!(counted.status.success(), "{counted:?}");
    assert_eq!(top_csv(&server, 100), expected[..100]);
    assert_eq!(top_csv(&server, 10_000), expected, "every word, to the last tie");
    server.kill();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(top_csv(&server, 10_000), expected, "after kill -9");
    let keys: Vec<&str> = expected.iter().take(1_000).map(|(key, _)| &key[..]).collect();
    let counts = server.connect().get(&keys).unwrap();
    let expected: Vec<Option<i64>> = expected.iter().take(1_000).map(|&(_, count)| Some(count)).collect();
    assert_eq!(counts, expected);
}

#[test]
fn lines_of_a_real_text_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(TEXT)).unwrap();
    let expected = expected(text.lines().filter(|line| !line.is_empty()).map(str::to_string));
    let server = Server::start(folder.path(), &["--stores", "1"]);
    assert!(run_dkc(&server, &["count", TEXT]).status.success());
    assert_eq!(top_csv(&server, 10_000), expected);
}

#[test]
fn single_commands_answer_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "2"]);
    let say = |args: &[&str]| stdout(&run_dkc(&server, args));
    assert_eq!(say(&["incr", "hello"]), "1\n");
    assert_eq!(say(&["incr", "hello", "41"]), "42\n");
    assert_eq!(say(&["incr", "low", "-5"]), "-5\n");
    assert_eq!(say(&["incr", "zero", "0"]), "0\n");
    assert_eq!(say(&["get", "hello"]), "42\n");
    assert_eq!(say(&["get", "never"]), "0\n");
    assert_eq!(say(&["top", "-k", "10", "-o", "csv"]), "hello,42\nzero,0\nlow,-5\n");
    let overflow = run_dkc(&server, &["incr", "hello", "9223372036854775807"]);
    assert_eq!((overflow.status.code(), overflow.stdout.len()), (Some(4), 0), "refused, and nothing on stdout");
    assert_eq!(say(&["get", "hello"]), "42\n");
    assert!(say(&["status"]).contains("leader"));
    assert_eq!(run_dkc(&server, &["no-such-command"]).status.code(), Some(2));
}

#[test]
fn a_missing_server_is_exit_code_3() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &["--stores", "1"]);
    server.kill();
    assert_eq!(run_dkc(&server, &["--timeout", "5", "get", "x"]).status.code(), Some(3));
}

#[test]
fn what_is_exported_while_increments_go_on_is_one_moment_and_can_be_imported() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "2", "--shards", "3"]);
    let lines: String = (0..30_000).map(|line| format!("line {line}\n")).collect();
    let input = folder.path().join("lines");
    std::fs::write(&input, lines).unwrap();
    assert!(run_dkc(&server, &["count", input.to_str().unwrap()]).status.success());
    // All of them again and again, each time in one request: so at any moment the counts of a shard differ by 1 at most,
    // and those of one entry not at all.
    let keys: Vec<String> = (0..1_000).map(|line| format!("line {line}")).collect();
    let increments: Vec<(&str, i64)> = keys.iter().map(|key| (&key[..], 1)).collect();
    let (stop, file) = (std::sync::atomic::AtomicBool::new(false), folder.path().join("counts.csv"));
    let path = file.to_str().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = server.connect();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                connection.increment(&increments).unwrap();
            }
        });
        let exported = run_dkc(&server, &["export", "-o", "csv", path]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(exported.status.success(), "{exported:?}");
    });
    let text = std::fs::read_to_string(&file).unwrap();
    let counts: BTreeMap<&str, i64> = text
        .lines()
        .map(|line| line.rsplit_once(',').unwrap())
        .map(|(key, count)| (key, count.parse().unwrap()))
        .collect();
    assert_eq!((counts.len(), text.lines().count()), (30_000, 30_000), "every key once");
    let busy: std::collections::BTreeSet<i64> = keys.iter().map(|key| counts[&key[..]]).collect();
    assert!(busy.len() <= 3, "a count for each shard, for a shard is read at one index: {busy:?}");
    assert!((1_000..30_000).all(|line| counts[&format!("line {line}")[..]] == 1));
    let other_folder = tempfile::tempdir().unwrap();
    let other = Server::start(other_folder.path(), &["--stores", "1"]);
    for _ in 0..2 {
        assert!(run_dkc(&other, &["import", path]).status.success());
        let again = stdout(&run_dkc(&other, &["export", "-o", "csv"]));
        let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<String>>();
        assert!(sorted(&again) == sorted(&text), "imported twice, counted once");
    }
}
