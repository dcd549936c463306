//! `dkc-sim`: runs the simulator from the command line.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a tool reads clocks and starts threads")]

mod core;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use dkc::mutant;
use dkc::sim::{Report, Sabotage, Violation, World, run};
use dkc_sim::{Args, OtherWorld};

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
    let started = Instant::now();
    let first = args.seed.unwrap_or(0);
    let runs = args.runs.unwrap_or(if args.minutes.is_some() { u64::MAX } else { 1_000 });
    let until = args.minutes.map(|minutes| started + Duration::from_secs_f64(minutes * 60.0));
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new((0u64, Report::default(), Vec::<Violation>::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut mine = (0, Report::default(), Vec::new());
                while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= runs {
                        break;
                    }
                    let outcome = match sabotage {
                        Sabotage::None => run(first + number),
                        _ => dkc::sim::run_sabotaged(first + number, sabotage),
                    };
                    mine.0 += 1;
                    match outcome {
                        Ok(report) => mine.1.add(&report),
                        Err(violation) => {
                            println!("{violation}");
                            mine.2.push(violation);
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
                let mut total = total.lock().expect("no thread panics while it holds the lock");
                total.0 += mine.0;
                total.1.add(&mine.1);
                total.2.extend(mine.2);
            });
        }
    });
    let (runs, report, violations) = total.into_inner().expect("no thread panics while it holds the lock");
    let seconds = started.elapsed().as_secs_f64();
    println!("{:.0} runs/s, {:.0} events a run", runs as f64 / seconds, report.events as f64 / runs.max(1) as f64);
    for (what, count) in report.marks() {
        println!("{count:>12} {what}{}", if count == 0 { "  <- never reached" } else { "" });
    }
    let hours = report.virtual_micros as f64 / 3.6e9;
    println!("{runs} runs, {hours:.1} virtual hours, {} violations", violations.len());
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
