//! The committed inputs, without a fuzzer: each passes, and each planted fault is still noticed.

#![allow(clippy::disallowed_methods, reason = "a test that reads the repository's files")]

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use dkc_fuzz::{Fault, INPUT_BYTES_MAX, Target, seeds};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The files of a folder, in order.
fn inputs(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder is being read").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("the file was just listed"))).collect()
}

#[test]
fn every_committed_input_passes() {
    for target in Target::ALL {
        let corpus = inputs(&folder("corpus").join(target.name));
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        for (path, input) in corpus {
            // With --nocapture, the last line names what failed.
            println!("{}", path.display());
            assert!(input.len() <= INPUT_BYTES_MAX, "{}: longer than targets read", path.display());
            (target.run)(&input, Fault::None);
        }
    }
}

#[test]
fn seeds_are_those_of_the_formats_as_they_are() {
    for target in Target::ALL {
        for (name, seed) in seeds::of(target.name) {
            let path = folder("corpus").join(target.name).join(format!("seed-{name}"));
            let committed = fs::read(&path).unwrap_or_default();
            assert_eq!(committed, seed, "{} is not fresh; run `cargo run -p dkc-fuzz`", path.display());
        }
    }
}

#[test]
fn every_planted_fault_is_noticed() {
    for target in Target::ALL {
        let input = fs::read(folder("canaries").join(target.name)).expect("each target has a canary");
        (target.run)(&input, Fault::None);
        let noticed = catch_unwind(|| (target.run)(&input, Fault::Planted));
        assert!(noticed.is_err(), "{} does not notice the fault that is planted in it", target.name);
    }
}

#[test]
fn every_target_has_a_fuzzer() {
    let mut fuzzers: Vec<String> = inputs(&folder("libfuzzer/targets"))
        .iter()
        .map(|(path, _)| path.file_stem().expect("a file has a name").to_string_lossy().into_owned())
        .collect();
    let mut targets = Target::ALL.map(|target| target.name.to_owned());
    targets.sort();
    fuzzers.sort();
    assert_eq!(fuzzers, targets);
}
