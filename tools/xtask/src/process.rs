//! Running other programs.

use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// Runs a program, showing the command line and what it prints. Anything but exit code 0 is an error.
pub(crate) fn run(program: &str, args: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    println!("$ {}", command_line(program, args, environment));
    let mut command = Command::new(program);
    command.args(args).envs(environment.iter().copied()).stdin(Stdio::null());
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{} failed: {status}", command_line(program, args, environment));
    Ok(())
}

/// Runs cargo.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    run("cargo", args, &[])
}

/// Runs a program and returns what it prints. What it complains about is shown.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{} failed: {}", command_line(program, args, &[]), output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed something other than text"))
}

/// The command as one could type it; arguments here hold no spaces, save those given to a variable.
fn command_line(program: &str, args: &[&str], environment: &[(&str, &str)]) -> String {
    let variables = environment.iter().map(|(name, value)| format!("{name}=\"{value}\" "));
    format!("{}{program} {}", variables.collect::<String>(), args.join(" "))
}
