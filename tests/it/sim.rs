//! The simulator's smoke: fixed seeds, each run twice, each broken promise noticed, and each known bug caught. The long run is `dkc-sim`.

use std::panic::catch_unwind;

use dkc::mutant;
use dkc::sim::{Sabotage, run, run_sabotaged};

#[test]
fn smoke_seeds_hold_and_repeat_themselves() {
    for seed in 0..100 {
        let first = run(seed).unwrap_or_else(|violation| panic!("{violation}"));
        let second = run(seed).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(first, second, "seed {seed} is not deterministic");
    }
}

#[test]
fn every_broken_promise_is_noticed() {
    for sabotage in Sabotage::ALL {
        let noticed = (0..200).find(|&seed| run_sabotaged(seed, sabotage).is_err());
        assert!(noticed.is_some(), "200 seeds did not notice {sabotage:?}");
    }
}

#[test]
fn every_mutant_is_caught() {
    for mutant in mutant::ALL {
        // An assertion that a bug runs into has noticed it too.
        let noticed = |seed| !matches!(catch_unwind(|| mutant::with(mutant, || run(seed))), Ok(Ok(_)));
        let caught = (0..6_000).find(|&seed| noticed(seed));
        assert!(caught.is_some(), "6,000 seeds did not catch {mutant:?}");
    }
}
