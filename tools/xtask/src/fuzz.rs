//! `cargo xtask fuzz`: fuzzes what reads bytes of strangers and of disks.
//!
//! Targets and their committed inputs are in `tools/fuzz`. What a run finds new goes to `target/fuzz/corpus`, what it finds
//! wrong to `target/fuzz/artifacts`; both are kept for the next run. `--minimize` takes what covers something new over into
//! the committed corpus.

use crate::process::{output, run as run_program};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Fuzzes decoders, gateway and recovery. Needs cargo-fuzz.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// How long each target is fuzzed.
    #[arg(long, value_name = "N", default_value_t = 5)]
    minutes: u64,
    /// Plants a fault in each target, which must be found within a minute: so the checks can fail.
    #[arg(long, conflicts_with_all = ["minutes", "minimize"])]
    canary: bool,
    /// Adds to the committed corpus what earlier runs found to cover something new, instead of fuzzing.
    #[arg(long, conflicts_with = "minutes")]
    minimize: bool,
    /// Fuzzes these targets only.
    targets: Vec<String>,
}

const FUZZERS: &str = "tools/fuzz/libfuzzer";
const CORPUS: &str = "tools/fuzz/corpus";
/// Everything here is made by runs.
const WORK: &str = "target/fuzz";
const CANARY_SECONDS: u64 = 60;
/// The memory of counters is never given back (`engine::counters::Pool`), which the sanitizer would call a leak at the end of a run. What
/// grows from input to input is noticed by libFuzzer's own limit.
const SANITIZER: (&str, &str) = ("ASAN_OPTIONS", "detect_leaks=0");
/// Committed inputs are small, and few: they cover every edge, not every count of it.
const COMMITTED_BYTES_MAX: u64 = 512;
const INPUT_BYTES_MAX: u64 = 4_096;

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let all = targets()?;
    if let Some(unknown) = flags.targets.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    let chosen: Vec<&String> =
        all.iter().filter(|name| flags.targets.is_empty() || flags.targets.contains(name)).collect();
    let fuzzers = build()?;
    for target in chosen {
        let fuzzer = Fuzzer { target, program: fuzzers.join(target) };
        if flags.canary {
            fuzzer.find_canary()?;
        } else if flags.minimize {
            fuzzer.minimize()?;
        } else {
            fuzzer.fuzz(flags.minutes * 60)?;
        }
    }
    Ok(())
}

/// Names of all targets, in order.
fn targets() -> Result<Vec<String>> {
    let folder = format!("{FUZZERS}/targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Builds the fuzzers with the stable toolchain. Returns their folder.
fn build() -> Result<PathBuf> {
    let found = Command::new("cargo").args(["fuzz", "--version"]).output();
    ensure!(
        found.is_ok_and(|output| output.status.success()),
        "cargo-fuzz not found; cargo install --locked cargo-fuzz --version 0.13.2 (it also needs a C++ compiler)"
    );
    let rustc = output("rustc", &["-vV"])?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not name its host")?;
    // The coverage that libFuzzer wants is not stable; the variable lets the stable compiler do it.
    let args = ["fuzz", "build", "--fuzz-dir", FUZZERS, "--target-dir", WORK, "--target", host];
    run_program("cargo", &args, &[("RUSTC_BOOTSTRAP", "1")])?;
    Ok(Path::new(WORK).join(host).join("release"))
}

struct Fuzzer<'a> {
    target: &'a str,
    program: PathBuf,
}

impl Fuzzer<'_> {
    fn committed(&self) -> String {
        format!("{CORPUS}/{}", self.target)
    }

    /// A folder of this target below [`WORK`].
    fn folder(&self, what: &str) -> Result<String> {
        let folder = format!("{WORK}/{what}/{}", self.target);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
        Ok(folder)
    }

    /// Fuzzes for so long. An error names the input that shows a fault.
    fn fuzz(&self, seconds: u64) -> Result<()> {
        let (found, artifacts) = (self.folder("corpus")?, self.folder("artifacts")?);
        println!("\n== {} for {seconds} seconds", self.target);
        let limits = [format!("-max_total_time={seconds}"), format!("-max_len={INPUT_BYTES_MAX}")];
        let quiet = ["-print_final_stats=1", "-verbosity=0", "-timeout=10"].map(str::to_owned);
        let args = [&limits[..], &quiet, &[format!("-artifact_prefix={artifacts}/"), found, self.committed()]].concat();
        let before = files(&artifacts)?;
        let program = self.program.display().to_string();
        let ended = run_program(&program, &args.iter().map(String::as_str).collect::<Vec<_>>(), &[SANITIZER]);
        let fresh: Vec<PathBuf> = files(&artifacts)?.into_iter().filter(|path| !before.contains(path)).collect();
        for path in &fresh {
            println!("found: {}\nrepeat: {program} {}", path.display(), path.display());
        }
        ensure!(fresh.is_empty(), "{} found {}", self.target, fresh[0].display());
        ended
    }

    /// Runs the fuzzer on a target that is broken on purpose, from the committed corpus.
    fn find_canary(&self) -> Result<()> {
        let artifact = format!("{}/found", self.folder("canaries")?);
        let scratch = self.folder("canary-corpus")?;
        fs::remove_dir_all(&scratch).and_then(|()| fs::create_dir(&scratch)).context("cannot empty a folder")?;
        let start = Instant::now();
        let mut fuzzer = Command::new(&self.program);
        fuzzer.args([format!("-max_total_time={CANARY_SECONDS}"), format!("-max_len={INPUT_BYTES_MAX}")]);
        fuzzer.arg(format!("-exact_artifact_path={artifact}")).args([&scratch, &self.committed()]);
        fuzzer.env("DKC_FUZZ_CANARY", "1").env(SANITIZER.0, SANITIZER.1).stdin(Stdio::null()).stderr(Stdio::null());
        let status = fuzzer.status().with_context(|| format!("cannot run {}", self.program.display()))?;
        ensure!(
            !status.success() && Path::new(&artifact).exists(),
            "{} did not notice in {CANARY_SECONDS} seconds that it is broken on purpose",
            self.target
        );
        // What is found must be the planted fault and no other.
        let mut unbroken = Command::new(&self.program);
        unbroken.arg(&artifact).env(SANITIZER.0, SANITIZER.1).stdin(Stdio::null()).stderr(Stdio::null());
        let unbroken = unbroken.status()?;
        ensure!(unbroken.success(), "{} fails on {artifact} although nothing is planted", self.target);
        println!("{}: the planted fault was found in {:.1} s: {artifact}", self.target, start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Takes over what covers something new and is small.
    fn minimize(&self) -> Result<()> {
        let found = self.folder("corpus")?;
        let program = self.program.display().to_string();
        let length = format!("-max_len={COMMITTED_BYTES_MAX}");
        let artifacts = format!("-artifact_prefix={}/", self.folder("artifacts")?);
        let how = ["-set_cover_merge=1", "-use_counters=0", "-use_cmp=0", &length, &artifacts];
        run_program(&program, &[&how[..], &[&self.committed(), &found]].concat(), &[SANITIZER])
    }
}

fn files(folder: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {folder}"))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
