//! Scripts of the Raft core: each file in `scripts` is a scenario, named as the sentence that it shows. What it says after `---` is what
//! the groups do; `UPDATE_GOLDENFILES=1 cargo test --test raft` writes that anew, and the difference is to be read.
//!
//! [`cluster`] is what the scripts drive: replicas, a log and a network that do nothing unasked.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test that reads the repository's files")]

mod cluster;
mod commands;
mod paper;
mod rules;

use std::fs;
use std::path::Path;

use commands::Script;

#[test]
fn scripts_say_what_happens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/raft/scripts");
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("scripts").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() > 30, "the scripts are where they are looked for");
    let mut failures = Vec::new();
    for path in paths {
        if let Err(error) = goldenscript::run(&mut Script::default(), &path) {
            failures.push(format!("{}: {error}", path.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
