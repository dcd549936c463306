//! The style of the repository, as a test: what a reviewer should not have to say twice.
//!
//! - [`source`] takes Rust text apart into code, comments and literals, and finds functions.
//! - [`modules`] follows `mod` declarations, to find files that nothing compiles.
//!
//! Each test below is one rule. Where a rule has exceptions, they stand beside it, each with its reason.
//! The linter does what a linter can (`clippy.toml`, `[workspace.lints]`); this is the rest.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test that reads the repository's files")]

mod modules;
mod source;

use source::Source;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const FUNCTION_LINES_MAX: usize = 120;
const FILE_LINES_MAX: usize = 1_200;

/// Functions that may be longer: path, name, reason.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];
/// Files that may be longer: path, reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Where `unsafe` may stand: start of the path, reason.
const UNSAFE: &[(&str, &str)] = &[
    (GENERATED, "written by flatc; every frame is verified before it is read"),
    ("src/engine/counters/index_memory.rs", "puts the indexes of pages on the pool's huge pages: a fifth of a lookup"),
    ("src/runtime/disk", "hands buffers to io_uring and takes them back when it is done with them"),
    ("src/runtime/net/connection.rs", "borrows the socket of a glommio stream, which gives out nothing but its number"),
    ("src/runtime/net/listen.rs", "hands a socket bound by socket2 to glommio, whose own bind would share the port"),
    ("benches/raw.rs", "measures the bare ring that src/runtime/disk is compared with"),
    ("tools/fuzz/src/allocator.rs", "counts what decoders allocate, so that fuzzing can demand a bound"),
];

/// Names that only some places may use.
const NAMES: &[NameRule] = &[
    NameRule {
        names: &["glommio", "io_uring"],
        inside: &[""],
        except: &["src/runtime/", "benches/raw.rs"],
        reason: "the shell alone knows how I/O is done; clients, tools and the simulator build without it",
    },
    NameRule {
        names: &["flatbuffers"],
        inside: &[""],
        except: &["src/wire/"],
        reason: "one place turns bytes of peers into values, and verifies them first",
    },
    NameRule {
        names: &[
            "std::env",
            "std::fs",
            "std::net",
            "std::process",
            "std::thread",
            "std::time",
            "HashMap",
            "HashSet",
            "Instant",
            "SystemTime",
            "rand",
            "tokio",
        ],
        inside: &["src/engine/", "src/sim/", "src/wire/", "src/client/core/", "src/ids.rs", "src/limits.rs"],
        except: &[GENERATED],
        reason: "deterministic: time and randomness are inputs, I/O is an output, nothing is iterated in hash order",
    },
];

struct NameRule {
    /// Identifiers, or modules of the standard library as `std::module`.
    names: &'static [&'static str],
    /// Starts of the paths the rule is about.
    inside: &'static [&'static str],
    /// Starts of the paths it is not about after all.
    except: &'static [&'static str],
    reason: &'static str,
}

/// Macros and marks of unfinished work.
const UNFINISHED_MACROS: &[&str] = &["dbg", "todo", "unimplemented"];
const UNFINISHED_MARKS: &[&str] = &["FIXME", "TODO", "XXX"];

/// Names that say nothing about what is inside.
const VAGUE_MODULES: &[&str] = &["common", "helper", "helpers", "misc", "util", "utils"];

/// Where files are looked at.
const FOLDERS: &[&str] = &[".cargo", ".ci", "benches", "schema", "src", "tests", "tools"];
/// What git may track at the top, beside names that begin with a dot.
const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "clippy.toml",
    "deny.toml",
    "rustfmt.toml",
    "schema",
    "src",
    "tests",
    "tools",
];

/// Inputs of fuzzers: bytes, whatever they look like.
const BINARY: &[&str] = &["tools/fuzz/canaries", "tools/fuzz/corpus"];

/// Code of which nothing is expected but that it is fresh (`cargo xtask codegen`).
const GENERATED: &str = "src/wire/generated/";

#[test]
fn every_file_begins_by_saying_what_it_is() {
    check(
        sources()
            .iter()
            .filter(|file| !file.text.starts_with("//!"))
            .map(|file| format!("{}: begins without `//!`", file.path)),
    );
}

#[test]
fn functions_and_files_are_short() {
    let mut violations = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX && !LONG_FILES.iter().any(|(path, _)| *path == file.path) {
            violations.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX} are allowed", file.path));
        }
        for function in file.functions() {
            let (name, lines) = (function.name, function.lines);
            let allowed = LONG_FUNCTIONS.iter().any(|(path, long, _)| *path == file.path && *long == name);
            if lines > FUNCTION_LINES_MAX && !allowed {
                let at = file.at(function.offset);
                violations.push(format!("{at}: `{name}` has {lines} lines, at most {FUNCTION_LINES_MAX} are allowed"));
            }
        }
    }
    check(violations);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut violations = Vec::new();
    for file in sources() {
        for (offset, word) in file.words() {
            if UNFINISHED_MACROS.contains(&word) && file.code[offset + word.len()..].starts_with('!') {
                violations.push(format!("{}: {word}!", file.at(offset)));
            }
        }
        for (offset, word) in source::words(&file.comments) {
            if UNFINISHED_MARKS.contains(&word) {
                violations.push(format!("{}: {word}", file.at(offset)));
            }
        }
    }
    check(violations);
}

#[test]
fn names_stay_where_they_belong() {
    let mut violations = Vec::new();
    for rule in NAMES {
        let concerned = |path: &str| {
            rule.inside.iter().any(|start| path.starts_with(start))
                && !rule.except.iter().any(|start| path.starts_with(start))
        };
        for file in sources().iter().filter(|file| concerned(&file.path)) {
            let words = file.words().map(|(offset, word)| (offset, word.to_owned()));
            let modules = file.std_modules().into_iter().map(|(offset, module)| (offset, format!("std::{module}")));
            for (offset, name) in words.chain(modules).filter(|(_, name)| rule.names.contains(&name.as_str())) {
                violations.push(format!("{}: names {name} ({})", file.at(offset), rule.reason));
            }
        }
    }
    check(violations);
}

#[test]
fn unsafe_stands_only_where_it_must() {
    let mut violations = Vec::new();
    for file in all_sources() {
        let allowed = UNSAFE.iter().any(|(start, _)| file.path.starts_with(start));
        if let Some((offset, _)) = file.words().find(|(_, word)| *word == "unsafe" && !allowed) {
            violations.push(format!("{}: `unsafe` in a file that is not listed for it", file.at(offset)));
        }
    }
    check(violations);
}

#[test]
fn modules_have_names_that_say_something() {
    check(sources().iter().map(|file| &file.path).filter_map(|path| {
        let mut names = path.trim_end_matches(".rs").split('/');
        let vague = names.find(|name| VAGUE_MODULES.contains(name))?;
        Some(format!("{path}: `{vague}` says nothing about what is inside"))
    }));
}

#[test]
fn every_file_is_compiled_by_something() {
    let manifests: Vec<(String, String)> = paths()
        .into_iter()
        .filter_map(|path| Some((path.strip_suffix("Cargo.toml")?.to_owned(), read(&path))))
        .collect();
    let files = all_sources();
    let live = modules::live(&files, &manifests);
    check(
        files
            .iter()
            .filter(|file| !live.contains(&file.path))
            .map(|file| format!("{}: no `mod` and no target of a Cargo.toml leads here", file.path)),
    );
}

#[test]
fn text_has_no_tabs_and_no_trailing_spaces() {
    let concerned = |path: &str| match path.rsplit_once('/').map_or(path, |(_, name)| name).rsplit_once('.') {
        Some((_, extension)) => ["fbs", "md", "rs", "toml"].contains(&extension),
        None => true,
    };
    let mut violations = Vec::new();
    for path in paths().into_iter().filter(|path| concerned(path) && !path.starts_with(GENERATED)) {
        for (index, line) in read(&path).lines().enumerate() {
            if line.contains('\t') || line.ends_with([' ', '\r']) {
                violations.push(format!("{path}:{}: a tab or trailing space", index + 1));
            }
        }
    }
    check(violations);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut violations = Vec::new();
    for path in paths().into_iter().filter(|path| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in relative_links(&read(&path)) {
            if !root().join(folder).join(&link).exists() {
                violations.push(format!("{path}: links to {link}, which does not exist"));
            }
        }
    }
    check(violations);
}

#[test]
fn the_top_level_stays_small() {
    // Asked of git, so that a file a user keeps beside ours is not held against us. Without git there is nothing to ask.
    let Ok(listing) = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output() else { return };
    let listing = String::from_utf8_lossy(&listing.stdout);
    let top: BTreeSet<&str> = listing.split('\0').filter_map(|path| path.split('/').next()).collect();
    check(
        top.into_iter()
            .filter(|name| !name.starts_with('.') && !name.is_empty() && !TOP_LEVEL.contains(name))
            .map(|name| format!("{name}: the top level is for the names listed in this test")),
    );
}

#[test]
fn links_are_found_outside_of_code() {
    let text = "[a](a.md) [b](https://b) [c](#c) [d](d.md#part)\n`[e](e.md)`\n```\n[f](f.md)\n```\n![g](<g h.png>)\n";
    assert_eq!(relative_links(text), ["a.md", "d.md", "g h.png"]);
}

/// Fails with all violations at once.
fn check(violations: impl IntoIterator<Item = String>) {
    let violations: Vec<String> = violations.into_iter().collect();
    assert!(violations.is_empty(), "\n  {}\n", violations.join("\n  "));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The repository's files, from its root, in order: known files at the top, and everything in the source folders.
fn paths() -> Vec<String> {
    let mut paths: Vec<String> =
        TOP_LEVEL.iter().filter(|name| root().join(name).is_file()).map(|name| (*name).to_owned()).collect();
    for folder in FOLDERS.iter().filter(|folder| root().join(folder).is_dir()) {
        walk(folder, &mut paths);
    }
    paths.sort();
    paths
}

/// Adds the files under `folder`, without hidden ones, build output and binary ones.
fn walk(folder: &str, paths: &mut Vec<String>) {
    for entry in fs::read_dir(root().join(folder)).expect("the folder was just seen") {
        let entry = entry.expect("the folder is being read");
        let name = entry.file_name().into_string().expect("names in the repository are plain");
        let path = format!("{folder}/{name}");
        if name.starts_with('.') || name == "target" || BINARY.contains(&path.as_str()) {
            continue;
        }
        if entry.file_type().expect("the entry was just seen").is_dir() {
            walk(&path, paths);
        } else {
            paths.push(path);
        }
    }
}

fn all_sources() -> Vec<Source> {
    let rust = paths().into_iter().filter(|path| path.ends_with(".rs"));
    rust.map(|path| Source::new(path.clone(), read(&path))).collect()
}

/// All Rust sources written by people.
fn sources() -> Vec<Source> {
    all_sources().into_iter().filter(|file| !file.path.starts_with(GENERATED)).collect()
}

/// Targets of the Markdown links to other files, without the part after `#`.
fn relative_links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect();
        for rest in prose.split("](").skip(1) {
            let target = match rest.strip_prefix('<') {
                Some(quoted) => quoted.split('>').next(),
                None => rest.split([')', ' ']).next(),
            };
            let file = target.and_then(|target| target.split('#').next()).unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") {
                links.push(file.to_owned());
            }
        }
    }
    links
}
