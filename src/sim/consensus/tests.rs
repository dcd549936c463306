//! The core world in small: fixed seeds, each run twice.

use std::panic::catch_unwind;

use super::*;
use crate::mutant;

#[test]
fn every_bug_of_the_core_is_noticed() {
    let mut survivors = Vec::new();
    for mutant in mutant::CORE {
        // An assertion that a bug runs into has noticed it too.
        let noticed = |seed| !matches!(catch_unwind(|| mutant::with(mutant, || run(seed))), Ok(Ok(_)));
        if !(0..20_000).any(noticed) {
            survivors.push(mutant.name);
        }
    }
    assert!(survivors.is_empty(), "20,000 seeds did not notice {survivors:?}");
}

#[test]
fn every_short_sequence_of_events_holds() {
    let runs = run_every(4).unwrap_or_else(|violation| panic!("{violation}"));
    assert!(runs > 300, "{runs}");
}

/// Votes that came late made a leader of an earlier term than the last entry was committed in: the law had been written too strictly.
#[test]
fn a_late_leader_of_an_earlier_term_breaks_no_law() {
    let bytes = include_bytes!("late_leader.bytes").to_vec();
    run_bytes(bytes, None).unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn smoke_seeds_hold_and_repeat_themselves() {
    for seed in 0..60 {
        let first = run(seed).unwrap_or_else(|violation| panic!("{violation}"));
        let second = run(seed).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(first, second, "seed {seed} is not deterministic");
    }
}
