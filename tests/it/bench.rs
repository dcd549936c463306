//! `dkc-bench` against a real server: every way to load it ends with counts that equal what was acknowledged.

use super::server::{Server, bench, stdout};

#[test]
fn every_kind_of_load_is_counted_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "2", "--shards", "3"]);
    let run = |args: &[&str]| {
        let common = ["run", "--validate", "--keys", "2000", "--batch", "50", "--json"];
        stdout(&bench(&server, &[&common, args].concat()))
    };
    let loads: [&[&str]; 5] = [
        &["--mix", "increment=6,get=3,top=1", "--connections", "5", "--threads", "2", "--requests", "300"],
        &["--distribution", "latest", "--mix", "increment=1,get=1", "--requests", "200", "--warmup", "0"],
        &["--distribution", "hot:0.01:0.9", "--depth", "64", "--values", "--seconds", "0.1", "--warmup", "0.1"],
        &["--distribution", "zipf:1.2", "--rate", "2000", "--arrivals", "poisson", "--requests", "200"],
        &["--distribution", "sequential", "--connections", "3"],
    ];
    for load in loads {
        let report = run(load);
        assert!(report.contains("\"valid\":true") && report.contains("\"failures\":[]"), "{load:?}: {report}");
    }
    let sequential = run(loads[4]);
    assert!(sequential.contains("\"acknowledged\":2000,"), "each key once: {sequential}");
}

#[test]
fn a_validation_finds_what_somebody_else_counted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "1"]);
    let args = ["run", "--prefix", "twice", "--keys", "100", "--requests", "10", "--warmup", "0", "--validate"];
    assert!(stdout(&bench(&server, &args)).contains("every count equals what was acknowledged"));
    let second = bench(&server, &args);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stdout).contains("NOT VALID"), "{second:?}");
}

#[test]
fn a_comparison_has_a_floor_and_needs_no_peer() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--stores", "1"]);
    let disk = folder.path().to_str().expect("a plain path");
    let report = stdout(&bench(&server, &["compare", "--seconds", "6", "--rounds", "1", "--dir", disk]));
    assert!(
        ["dkc", "library"].iter().all(|who| report.contains(&format!("{who} / (write + echo)")))
            && !report.contains("redis"),
        "{report}"
    );
}
