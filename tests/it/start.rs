//! Starting and stopping: what a server refuses, by name, and how it ends.

use std::path::{Path, PathBuf};
use std::process::Output;

use dkc::client::batch::Batch;
use dkc::wire::client::Reply;

use super::server::{Server, command};

fn refusal(data_dir: &Path, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(data_dir).args(args).output().expect("the server's binary runs");
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success() && !String::from_utf8_lossy(&stdout).contains("ready"), "it should refuse: {text}");
    text
}

fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let wal = data_dir.join("store-000/wal");
    let mut files: Vec<PathBuf> = std::fs::read_dir(wal).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A data directory whose log holds a few acknowledged increments.
fn used() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &["--stores", "1"]);
    server.connect().increment(&[("a", 1), ("b", 2)]).unwrap();
    server.kill();
    folder
}

#[test]
fn a_data_directory_has_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let _server = Server::start(folder.path(), &["--stores", "1"]);
    assert!(refusal(folder.path(), &[]).contains("in use"));
}

#[test]
fn other_machines_are_not_let_in_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let text = refusal(folder.path(), &["--listen", "0.0.0.0:0"]);
    assert!(text.contains("--insecure"), "{text}");
}

#[test]
fn settings_come_from_flags_environment_and_file_and_are_printed_with_their_source() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dkc.toml");
    std::fs::write(&file, "shards = 5\nstores = 1\nlog_level = \"warn\"\n").unwrap();
    let said = |command: &mut std::process::Command| {
        command.env("DKC_CONFIG", &file).env("DKC_STORES", "2").args(["--log-level", "error"]).output().unwrap()
    };
    let data_dir = folder.path().join("data");
    let Output { status, stdout, .. } = said(command(&data_dir).arg("--print-config"));
    let printed = String::from_utf8(stdout).unwrap();
    assert!(status.success() && !data_dir.exists(), "it prints and does nothing else");
    let has = |line: &str, source: &str| printed.lines().any(|l| l.starts_with(line) && l.ends_with(source));
    assert!(has("stores = 2 ", "# environment: DKC_STORES"), "{printed}");
    assert!(has("shards = 5 ", "dkc.toml:1"), "{printed}");
    assert!(has("log_level = \"error\" ", "# flag"), "{printed}");
    assert!(has("session_age = \"24h\" ", "# default"), "{printed}");
    // A server that is given the printed file and nothing else has what was printed.
    std::fs::write(&file, printed).unwrap();
    let server = Server::start(&data_dir, &["--config", file.to_str().unwrap()]);
    let status = server.connect().status().unwrap();
    let shards = status.stores.iter().flat_map(|store| &store.shards).count();
    assert_eq!((status.stores.len(), shards), (2, 5 + 1), "the meta shard comes on top");
}

#[test]
fn a_mistake_in_the_configuration_file_is_wrong_usage_and_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dkc.toml");
    std::fs::write(&file, "shards = 5\nshard = 7\n").unwrap();
    let output = command(folder.path()).env("DKC_CONFIG", &file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("dkc.toml:2: there is no setting shard"), "{text}");
}

#[test]
fn a_flipped_bit_is_refused_by_name_and_nothing_is_touched() {
    let folder = used();
    let first = segments(folder.path()).remove(0);
    let whole = std::fs::read(&first).unwrap();
    // In the middle of the header, of a record, and where nothing was written yet.
    for place in [100, 4_096 + 60, 12 << 20] {
        let mut damaged = whole.clone();
        damaged[place] ^= 4;
        std::fs::write(&first, &damaged).unwrap();
        let text = refusal(folder.path(), &[]);
        assert!(text.contains("cannot be trusted") && text.contains("0000000000000001.wal"), "{text}");
        assert_eq!(std::fs::read(&first).unwrap(), damaged);
    }
    std::fs::write(&first, &whole).unwrap();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.connect().get(&["a", "b"]).unwrap(), [Some(1), Some(2)]);
}

#[test]
fn a_cut_file_is_refused_by_name() {
    let folder = used();
    let first = segments(folder.path()).remove(0);
    std::fs::OpenOptions::new().write(true).open(&first).unwrap().set_len(10_000).unwrap();
    assert!(refusal(folder.path(), &[]).contains("WrongSize"));
}

#[test]
fn a_lost_log_is_not_an_empty_one() {
    let folder = used();
    segments(folder.path()).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    assert!(refusal(folder.path(), &[]).contains("LogMissing"));
}

#[test]
fn another_shape_than_the_formatted_one_is_refused() {
    let folder = used();
    assert!(refusal(folder.path(), &["--shards", "7"]).contains("shards"));
}

#[test]
fn sigterm_finishes_what_is_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &["--stores", "2"]);
    let mut connection = server.connect();
    let mut batch = Batch::new();
    (0..1_000).for_each(|key| batch.push(format!("key-{key}").as_bytes(), 1).unwrap());
    let mut acknowledged = 0;
    for _ in 0..8 {
        connection.send_increment(&batch, false).unwrap();
    }
    connection.flush().unwrap();
    // One answer shows that the requests have arrived or are on their way.
    assert!(matches!(connection.receive(), Ok((_, Reply::Increment(_)))));
    acknowledged += 1;
    server.signal();
    while let Ok((_, reply)) = connection.receive() {
        acknowledged += i64::from(matches!(reply, Reply::Increment(_)));
    }
    assert!(server.wait().success(), "a graceful end");
    let server = Server::start(folder.path(), &[]);
    let count = server.connect().get(&["key-0"]).unwrap()[0].unwrap();
    assert!(count >= acknowledged && count <= 8, "{acknowledged} acknowledged, {count} found");
    assert!(server.terminate().success());
}
