//! Looking into files without a server: `dkc inspect`, `dkc-server --verify`, and what both make of damage.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use dkc::client::batch::Batch;
use dkc::engine::prng::Prng;

use super::server::{Server, build_tool, command};

/// Runs `dkc inspect`. It is built even if it is there, for nothing else would notice that it is out of date.
fn inspect(args: &[&str], path: &Path) -> Output {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| build_tool("dkc"));
    let output = Command::new(&*PATH).arg("inspect").args(args).arg(path).output().expect("dkc runs");
    assert_eq!(output.status.signal(), None, "{args:?} {}: {output:?}", path.display());
    output
}

fn verify(data: &Path) -> Output {
    let output = command(data).arg("--verify").output().expect("the server's binary runs");
    assert_eq!(output.status.signal(), None, "{output:?}");
    output
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(all).expect("text")
}

/// Every file below a folder with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = std::fs::read(&path).unwrap();
                found.insert(path, content);
            }
        }
    }
    found
}

/// A data directory with a few acknowledged increments in its log, of a server that was killed.
fn with_log() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &["--stores", "1"]);
    let mut connection = server.connect();
    connection.increment(&[("apple", 1), ("pear", -2)]).unwrap();
    connection.increment(&[("apple", 5)]).unwrap();
    server.kill();
    folder
}

/// A data directory with two checkpoints of its shard in force, of a server that was killed. Returns the keys there are.
fn with_checkpoints(folder: &Path) -> usize {
    let settings = ["--stores", "1", "--checkpoint-log", "16MiB", "--checkpoint-rate", "1GiB"];
    let mut server = Server::start(folder, &settings);
    let mut connection = server.connect();
    let mut batch = Batch::new();
    (0..2_000).for_each(|key| batch.push(format!("{key:0>400}").as_bytes(), 1).unwrap());
    for _ in 0..500 {
        connection.send_increment(&batch, false).unwrap();
        connection.flush().unwrap();
        connection.receive().unwrap();
        let status = connection.status().unwrap();
        if status.stores[0].checkpoints.completed >= 4 {
            break;
        }
    }
    assert!(connection.status().unwrap().stores[0].checkpoints.completed >= 4, "the log fills, checkpoints are made");
    server.kill();
    2_000
}

fn first_segment(data: &Path) -> PathBuf {
    data.join("store-000/wal/0000000000000001.wal")
}

#[test]
fn a_log_is_printed_without_its_keys_unless_they_are_asked_for() {
    let folder = with_log();
    let before = files(folder.path());
    for path in [folder.path().to_path_buf(), folder.path().join("store-000"), first_segment(folder.path())] {
        let output = inspect(&["wal"], &path);
        let printed = text(&output);
        assert!(output.status.success(), "{printed}");
        assert!(printed.contains("end: clean") && printed.contains("2 increments"), "{printed}");
        assert!(
            printed.contains("cluster map of") && printed.contains("vote") && !printed.contains("apple"),
            "{printed}"
        );
        let checked = text(&inspect(&["wal", "--verify"], &path));
        assert!(checked.contains("end: clean") && !checked.contains("record  lsn"), "{checked}");
        assert!(text(&inspect(&["wal", "--keys"], &path)).contains("pear\t-2"));
    }
    let csv = text(&inspect(&["wal", "-o", "csv"], folder.path()));
    assert!(csv.lines().all(|line| line.split(',').count() >= 11) && csv.contains(",entry,1,1,"), "{csv}");
    let keys = text(&inspect(&["wal", "-o", "csv", "--keys"], folder.path()));
    assert!(keys.lines().any(|line| line.ends_with(",apple,5")), "{keys}");
    let json = text(&inspect(&["wal", "-o", "json", "--keys"], folder.path()));
    assert!(json.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{json}");
    assert!(json.contains(r#""key":"apple""#) && json.contains(r#""case":"CleanEnd""#), "{json}");
    assert!(files(folder.path()) == before, "nothing was changed");
}

#[test]
fn wrong_usage_is_exit_code_2_and_a_missing_file_1() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("notes.txt");
    std::fs::write(&other, "not ours").unwrap();
    for (args, path, code) in [
        (&["wal"][..], folder.path(), 2),
        (&["checkpoint"], folder.path(), 2),
        (&["wal"], &other, 2),
        (&["checkpoint"], &other, 2),
        (&["wal", "--verify", "--keys"], folder.path(), 2),
        (&["wal"], &folder.path().join("0000000000000001.wal"), 1),
        (&["checkpoint"], &folder.path().join("00000001-0000000000000002.checkpoint"), 1),
    ] {
        let output = inspect(args, path);
        assert_eq!(output.status.code(), Some(code), "{args:?} {}: {}", path.display(), text(&output));
    }
}

/// Bytes are flipped all over a log: in its used part each is told, and so is each behind it, where zeros belong.
#[test]
fn a_damaged_log_is_told_with_its_place_by_both_programs() {
    let folder = with_log();
    let segment = first_segment(folder.path());
    let whole = std::fs::read(&segment).unwrap();
    let used = whole.iter().rposition(|&byte| byte != 0).unwrap();
    let mut prng = Prng::new(4);
    let mut places: Vec<usize> = (0..24).map(|_| prng.below(used as u64) as usize).collect();
    places.extend([used + 9_000, whole.len() - 1]);
    for place in places {
        let mut damaged = whole.clone();
        damaged[place] ^= 1 << prng.below(8);
        std::fs::write(&segment, &damaged).unwrap();
        for (args, path) in [(&["wal"][..], folder.path()), (&["wal", "--verify"], &segment)] {
            let output = inspect(args, path);
            let printed = text(&output);
            assert_eq!(output.status.code(), Some(1), "byte {place}: {printed}");
            assert!(printed.contains("cannot be trusted") && printed.contains("0000000000000001.wal"), "{printed}");
        }
    }
    let output = verify(folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("store 0: DAMAGED: the log cannot be trusted"), "{}", text(&output));
    // Cut, lengthened, of another name, and of random bytes.
    std::fs::write(&segment, &whole[..10_000]).unwrap();
    assert_eq!(inspect(&["wal"], folder.path()).status.code(), Some(1));
    std::fs::write(&segment, &whole).unwrap();
    let renamed = segment.with_file_name("fffffffffffffffe.wal");
    std::fs::copy(&segment, &renamed).unwrap();
    assert_eq!(inspect(&["wal"], &renamed).status.code(), Some(1), "it is of another place");
    std::fs::write(&renamed, (0..1 << 16).map(|_| prng.bits() as u8).collect::<Vec<_>>()).unwrap();
    assert_eq!(inspect(&["wal"], &renamed).status.code(), Some(1));
    std::fs::remove_file(&renamed).unwrap();
    assert!(inspect(&["wal"], folder.path()).status.success() && verify(folder.path()).status.success());
}

/// What a crash leaves is no damage.
#[test]
fn a_torn_tail_is_clean_and_said() {
    let folder = with_log();
    let segment = first_segment(folder.path());
    let mut torn = std::fs::read(&segment).unwrap();
    let last = torn.iter().rposition(|&byte| byte != 0).unwrap() / 512 * 512;
    torn[last..last + 512].fill(0);
    std::fs::write(&segment, &torn).unwrap();
    let output = inspect(&["wal"], folder.path());
    assert!(output.status.success() && text(&output).contains("end: torn"), "{}", text(&output));
    let output = verify(folder.path());
    assert!(output.status.success() && text(&output).contains("never acknowledged"), "{}", text(&output));
    assert_eq!(std::fs::read(&segment).unwrap(), torn, "nothing was changed");
}

#[test]
fn a_look_says_what_a_start_finds_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &["--stores", "2", "--shards", "3"]);
    let mut connection = server.connect();
    let keys: Vec<String> = (0..1_000).map(|key| format!("key {key}")).collect();
    let increments: Vec<(&str, i64)> = keys.iter().map(|key| (&key[..], 1)).collect();
    connection.increment(&increments).unwrap();
    let refused = verify(folder.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("in use by process"), "{}", text(&refused));
    server.kill();
    let before = files(folder.path());
    let output = verify(folder.path());
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(files(folder.path()) == before, "nothing was changed");
    let counters =
        printed.lines().filter_map(|line| line.strip_suffix(" counters")?.rsplit(' ').next()?.parse::<u64>().ok());
    assert_eq!(counters.sum::<u64>(), 1_000, "{printed}");
    assert_eq!(printed.lines().filter(|line| line.contains("shard")).count(), 4, "{printed}");
    // A directory that is none is not made one.
    let other = tempfile::tempdir().unwrap();
    let output = verify(&other.path().join("not there"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("no data directory") && !other.path().join("not there").exists(),
        "{}",
        text(&output)
    );
}

/// Checkpoints are printed with what the log says of them; flipped bytes of what counts are told, and so is a file that is missing.
#[test]
fn checkpoints_are_printed_verified_and_their_damage_told() {
    let folder = tempfile::tempdir().unwrap();
    let keys = with_checkpoints(folder.path());
    let checkpoints = folder.path().join("store-000/checkpoint");
    let before = files(folder.path());
    let output = inspect(&["checkpoint", "--verify"], folder.path());
    let printed = text(&output);
    assert!(output.status.success(), "{printed}");
    assert_eq!(printed.matches("verified: ").count(), 4, "two of each shard: {printed}");
    assert!(printed.contains("the newest that") && printed.contains("the older one"), "{printed}");
    let csv = text(&inspect(&["checkpoint", "-o", "csv"], folder.path()));
    let newest =
        csv.lines().find(|line| line.starts_with("00000001-") && line.contains(",newest,")).expect("a line for each");
    let fields: Vec<&str> = newest.split(',').collect();
    assert_eq!((fields.len(), fields[9]), (12, &keys.to_string()[..]), "{newest}");
    let file = checkpoints.join(fields[0]);
    let json = text(&inspect(&["checkpoint", "-o", "json", "--verify"], &file));
    assert!(json.contains(r#""verified":true"#) && json.contains(r#""standing":"newest""#), "{json}");
    assert!(verify(folder.path()).status.success());
    assert!(files(folder.path()) == before, "nothing was changed");

    let whole = std::fs::read(&file).unwrap();
    let bytes: u64 = fields[10].parse().unwrap();
    let mut prng = Prng::new(5);
    let mut places: Vec<u64> = (0..16).map(|_| prng.below(bytes)).collect();
    places.extend([0, bytes - 1]);
    for place in places {
        let mut damaged = whole.clone();
        damaged[place as usize] ^= 1 << prng.below(8);
        std::fs::write(&file, &damaged).unwrap();
        let output = inspect(&["checkpoint"], &file);
        assert_eq!(output.status.code(), Some(1), "byte {place}: {}", text(&output));
        assert!(text(&output).contains("DAMAGED"), "{}", text(&output));
    }
    let output = verify(folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains(&format!("DAMAGED: checkpoint {}", fields[0])), "{}", text(&output));
    // Behind the end of what counts, anything may stand.
    let mut longer = whole.clone();
    longer.resize(whole.len() + 8_192, 0xab);
    std::fs::write(&file, &longer).unwrap();
    assert!(inspect(&["checkpoint", "--verify"], &file).status.success());
    std::fs::remove_file(&file).unwrap();
    let output = inspect(&["checkpoint"], folder.path());
    assert_eq!(output.status.code(), Some(1), "named and missing: {}", text(&output));
    std::fs::write(&file, &whole).unwrap();

    // A spare that a start would not read is looked at all the same.
    let older =
        csv.lines().find(|line| line.starts_with("00000001-") && line.contains(",older,")).expect("a line for each");
    let spare = checkpoints.join(older.split(',').next().unwrap());
    let mut damaged = std::fs::read(&spare).unwrap();
    damaged[100] ^= 1;
    std::fs::write(&spare, &damaged).unwrap();
    let output = verify(folder.path());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("DAMAGED"), "{}", text(&output));
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.connect().status().unwrap().stores[0].shards[1].keys, keys as u64, "a start does without it");
}

/// A file by itself, without a log and without a cluster map, says what it holds; where its keys belong cannot be checked.
#[test]
fn a_checkpoint_by_itself_is_printed_and_not_verified() {
    let folder = tempfile::tempdir().unwrap();
    with_checkpoints(folder.path());
    let csv = text(&inspect(&["checkpoint", "-o", "csv"], folder.path()));
    let alone = tempfile::tempdir().unwrap();
    let copied = |shard: &str| {
        let name = csv.lines().find(|line| line.starts_with(shard)).and_then(|line| line.split(',').next()).unwrap();
        let file = alone.path().join(name);
        std::fs::copy(folder.path().join("store-000/checkpoint").join(name), &file).unwrap();
        file
    };
    let (meta, counting) = (copied("00000000-"), copied("00000001-"));
    let printed = text(&inspect(&["checkpoint"], &counting));
    assert!(printed.contains("without a log") && printed.contains("2,000 counters"), "{printed}");
    let output = inspect(&["checkpoint", "--verify"], &counting);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("cluster map"), "{}", text(&output));
    assert!(inspect(&["checkpoint", "--verify"], &meta).status.success());
}
