//! `dkc-manual FOLDER`: man pages and shell completions of all programs, made from the definitions of their command lines.
//!
//! A program of its own, so that neither the programs nor `xtask` carry what it needs: it links all of them.
//!
//! ```text
//! FOLDER/man1/             a page for each program and each of its commands
//! FOLDER/completions/      a script for each program and shell
//! ```

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a tool that writes files")]

use anyhow::{Context, Result, bail};
use clap::{Command, ValueEnum};
use clap_complete::Shell;
use std::fs;
use std::path::Path;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else { bail!("usage: dkc-manual FOLDER") };
    write(Path::new(&folder))
}

/// The command lines that people type.
fn programs() -> [Command; 4] {
    [dkc::runtime::config::command(), dkc_cli::command(), dkc_bench::command(), dkc_sim::command()]
}

fn write(folder: &Path) -> Result<()> {
    let (pages, completions) = (folder.join("man1"), folder.join("completions"));
    for folder in [&pages, &completions] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    for mut program in programs() {
        let name = program.get_name().to_owned();
        for shell in Shell::value_variants() {
            clap_complete::generate_to(*shell, &mut program, &name, &completions)
                .with_context(|| format!("cannot write the {shell} completions of {name}"))?;
        }
        clap_mangen::generate_to(program, &pages).with_context(|| format!("cannot write the man page of {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command and all commands below it, each with the name of its man page and its flags.
    fn pages(prefix: &str, command: &Command, found: &mut Vec<(String, Vec<String>)>) {
        let page = format!("{prefix}{}", command.get_name());
        let flags = command.get_arguments().filter(|flag| !flag.is_hide_set()).filter_map(|flag| flag.get_long());
        found.push((page.clone(), flags.map(str::to_owned).collect()));
        command.get_subcommands().for_each(|below| pages(&format!("{page}-"), below, found));
    }

    #[test]
    fn every_flag_of_every_program_is_described_and_completed() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        write(folder.path()).expect("written");
        let read =
            |name: String| fs::read_to_string(folder.path().join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut flags_seen = 0;
        for mut program in programs() {
            program.build();
            let name = program.get_name().to_owned();
            let scripts: Vec<(String, String)> = fs::read_dir(folder.path().join("completions"))
                .expect("the folder")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
                .filter(|file| file.trim_start_matches('_').split('.').next() == Some(&name))
                .map(|file| (file.clone(), read(format!("completions/{file}"))))
                .collect();
            assert_eq!(scripts.len(), Shell::value_variants().len(), "{name}");
            let mut found = Vec::new();
            pages("", &program, &mut found);
            for (page, flags) in found.iter().filter(|(page, _)| !page.contains("-help")) {
                let text = read(format!("man1/{page}.1")).replace("\\-", "-");
                for flag in flags {
                    flags_seen += 1;
                    assert!(text.contains(&format!("--{flag}")), "--{flag} is not in {page}.1");
                    for (script, text) in &scripts {
                        let is_there = text.contains(&format!("--{flag}")) || text.contains(&format!("-l {flag}"));
                        assert!(is_there, "--{flag} of {page} is not in {script}");
                    }
                }
            }
        }
        assert!(flags_seen > 50, "{flags_seen} flags were looked for");
    }
}
