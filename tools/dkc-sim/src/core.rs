//! `dkc-sim core`: runs the world of the Raft core.

use std::panic::catch_unwind;

use dkc::mutant;
use dkc::sim::consensus::{self, Report};
use dkc_sim::CoreArgs;

use super::swarm::{Found, Span, print_marks, swarm};

/// Strings of bytes that shrinking tries.
const SHRINK_TRIES_MAX: usize = 50_000;

/// Whether no law was broken, or no bug survived.
pub(crate) fn run(args: &CoreArgs) -> bool {
    if args.mutants {
        return catch_mutants(args.seed.unwrap_or(0), args.runs.unwrap_or(20_000));
    }
    if let Some(choices) = args.every {
        return every(choices);
    }
    match (args.seed, args.runs, args.minutes) {
        (Some(seed), None, None) => one(seed, args.shrink),
        _ => many(args),
    }
}

/// Runs a seed and prints what happens; of one that fails, what is left of it when it has been made small.
fn one(seed: u64, shrink: bool) -> bool {
    let mut bytes = consensus::bytes_of(seed);
    if shrink && consensus::run(seed).is_err() {
        let fails = |bytes: &[u8]| consensus::run_bytes(bytes.to_vec(), None).is_err();
        bytes = consensus::shrink(bytes, SHRINK_TRIES_MAX, fails);
        println!("{} bytes: {bytes:?}", bytes.len());
    }
    match consensus::run_bytes(bytes, Some(Box::new(|event| println!("{event}")))) {
        Ok(report) => {
            println!("{report:#?}");
            true
        }
        Err(violation) => {
            println!("{violation}");
            false
        }
    }
}

/// Tries every sequence of so many choices.
fn every(choices: usize) -> bool {
    match consensus::run_every(choices) {
        Ok(runs) => {
            println!("{runs} sequences of up to {choices} choices, no violation");
            true
        }
        Err(violation) => {
            println!("{violation}");
            false
        }
    }
}

fn many(args: &CoreArgs) -> bool {
    let &CoreArgs { seed: first, runs, minutes, jobs, .. } = args;
    let span = Span { first, runs, minutes, runs_else: 10_000, jobs };
    let Found { runs, mut report, violations, seconds, jobs } = swarm(&span, consensus::run, Report::add);
    println!("{:.1} million steps a minute, on {jobs} threads", report.steps as f64 / seconds * 60.0 / 1e6);
    print_marks(report.marks());
    println!("{runs} runs, highest term {}, {} violations", report.term_max, violations.len());
    violations.is_empty()
}

/// Prints, for each bug of the core, how many runs and steps it took to notice it.
fn catch_mutants(first: u64, budget: u64) -> bool {
    println!("{:<46} {:>6} {:>10}  caught by", "mutant", "runs", "steps");
    let (mut survivors, mut took) = (0, Vec::new());
    for mutant in mutant::CORE {
        let mut steps = 0;
        // An assertion that a bug runs into has noticed it too (if panics unwind, as in the profile `sim`).
        let run = |number| catch_unwind(|| mutant::with(mutant, || consensus::run(first + number)));
        let caught = (0..budget).find_map(|number| match run(number) {
            Ok(Ok(report)) => {
                steps += report.steps;
                None
            }
            Ok(Err(violation)) => Some((number + 1, steps + violation.step, violation.what)),
            Err(_) => Some((number + 1, steps, "an assertion".into())),
        });
        match caught {
            Some((runs, steps, what)) => {
                let what = what.lines().next().unwrap_or_default();
                println!("{:<46} {runs:>6} {steps:>10}  {what}", mutant.name);
                took.push(steps);
            }
            None => {
                survivors += 1;
                println!("{:<46} {budget:>6} {steps:>10}  SURVIVES: {}", mutant.name, mutant.what);
            }
        }
    }
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    println!("{} mutants of the core, {survivors} survivors, caught after {median} steps (median)", mutant::CORE.len());
    survivors == 0
}
