//! `dkc-sim`: runs the simulator from the command line.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a tool reads clocks and starts threads")]

mod core;
mod swarm;

use std::process::ExitCode;

use clap::Parser;
use dkc::mutant;
use dkc::sim::{Report, Sabotage, World, run};
use dkc_sim::{Args, OtherWorld};

use swarm::{Found, Span, print_marks, swarm};

fn main() -> ExitCode {
    let args = Args::parse();
    let sabotage = args.sabotage.unwrap_or_default();
    let has_mutants = cfg!(feature = "mutants");
    let wants_mutants = args.mutants || matches!(&args.world, Some(OtherWorld::Core(core)) if core.mutants);
    if wants_mutants && !has_mutants {
        eprintln!(
            "error: this build has no bugs to put back in; run cargo run --release -p dkc-sim --features mutants"
        );
        return ExitCode::from(2);
    }
    if let Some(OtherWorld::Core(args)) = &args.world {
        return if core::run(args) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if args.mutants {
        return catch_mutants(args.seed.unwrap_or(0), args.runs.unwrap_or(1_000));
    }
    match (args.seed, args.runs, args.minutes) {
        (Some(seed), None, None) => one(seed, sabotage),
        _ => many(&args, sabotage),
    }
}

fn one(seed: u64, sabotage: Sabotage) -> ExitCode {
    let world = World::new(seed, sabotage, Some(Box::new(|event| println!("{event}"))));
    match world.run() {
        Ok(report) => {
            println!("{report:#?}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}

/// Prints, for each bug, how many runs and events it took to notice it.
fn catch_mutants(first: u64, budget: u64) -> ExitCode {
    let mut survivors = 0;
    println!("{:<26} {:>6} {:>9}  caught by", "mutant", "runs", "events");
    for mutant in mutant::ALL {
        let mut events = 0;
        let caught = (0..budget).find_map(|number| match mutant::with(mutant, || run(first + number)) {
            Ok(report) => {
                events += report.events;
                None
            }
            Err(violation) => Some((number + 1, events + violation.event, violation)),
        });
        match caught {
            Some((runs, events, violation)) => {
                println!("{:<26} {runs:>6} {events:>9}  {}", mutant.name, violation.what);
            }
            None => {
                survivors += 1;
                println!("{:<26} {budget:>6} {events:>9}  SURVIVES: {}", mutant.name, mutant.what);
            }
        }
    }
    println!("{} mutants, {survivors} survivors", mutant::ALL.len());
    if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn many(args: &Args, sabotage: Sabotage) -> ExitCode {
    let &Args { seed: first, runs, minutes, jobs, .. } = args;
    let span = Span { first, runs, minutes, runs_else: 1_000, jobs };
    let run = |seed| match sabotage {
        Sabotage::None => run(seed),
        _ => dkc::sim::run_sabotaged(seed, sabotage),
    };
    let Found { runs, report, violations, seconds, .. } = swarm(&span, run, Report::add);
    println!("{:.0} runs/s, {:.0} events a run", runs as f64 / seconds, report.events as f64 / runs.max(1) as f64);
    print_marks(report.marks());
    let hours = report.virtual_micros as f64 / 3.6e9;
    println!("{runs} runs, {hours:.1} virtual hours, {} violations", violations.len());
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
