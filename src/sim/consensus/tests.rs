//! The core world in small: fixed seeds, each run twice.

use super::*;

#[test]
fn every_short_sequence_of_events_holds() {
    let runs = run_every(4).unwrap_or_else(|violation| panic!("{violation}"));
    assert!(runs > 300, "{runs}");
}

#[test]
fn smoke_seeds_hold_and_repeat_themselves() {
    for seed in 0..60 {
        let first = run(seed).unwrap_or_else(|violation| panic!("{violation}"));
        let second = run(seed).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(first, second, "seed {seed} is not deterministic");
    }
}
