//! What must stay out of a program must stay out of its dependencies.
//!
//! The sources are guarded by `tests/tidy` (who may name what) and by `clippy.toml`; this is about what others bring in.

use crate::check::Outcome;
use crate::process::output;
use anyhow::{Result, ensure};

/// Crates of the server's shell, and of shells that others have.
const SERVER_ONLY: &[&str] = &["glommio", "io-uring", "rustls", "tokio"];

/// What must build without them, as arguments of `cargo tree`.
const WITHOUT_SERVER: &[&[&str]] = &[
    &["--package", "dkc"],
    &["--package", "dkc-bench"],
    &["--package", "dkc-sim"],
    &["--package", "distributed-key-counter", "--no-default-features"],
    &["--package", "distributed-key-counter", "--no-default-features", "--features", "sim"],
];

/// Checks that clients, tools and the library without its server depend on nothing of the server's.
pub(crate) fn trees() -> Result<Outcome> {
    let mut found = Vec::new();
    for selection in WITHOUT_SERVER {
        let args = [&["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"], *selection].concat();
        let tree = output("cargo", &args)?;
        ensure!(tree.contains("flatbuffers"), "cargo tree {} does not look like a tree", selection.join(" "));
        for name in SERVER_ONLY.iter().filter(|name| tree.lines().any(|line| line.split(' ').next() == Some(name))) {
            found.push(format!("{name} is a dependency of {}", selection.join(" ")));
        }
        println!("{}: {} dependencies", selection.join(" "), tree.lines().count());
    }
    ensure!(found.is_empty(), "{}; see `cargo tree --invert`", found.join(", "));
    Ok(Outcome::Passed)
}
