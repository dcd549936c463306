//! The simulator: a second shell for the same engine, in one thread, from one seed.
//!
//! | file | what it is |
//! |---|---|
//! | `disk` | a disk that keeps what a read sees apart from what survives a power cut, and misbehaves in every way a disk may |
//! | `world` | one node of some stores, its clients, and a scheduler that picks the next event; a crash is possible at every step |
//! | `workload` | what the clients ask |
//! | `model` | what the answers are checked against: the log itself, replayed by a plain map |
//!
//! Everything is drawn from the seed, so a failing run is its seed: `dkc-sim SEED` runs it again, event by event.
//! [`Sabotage`] breaks one promise of the shell on purpose; a test shows that the checks notice each.

mod disk;
mod model;
mod workload;
mod world;

pub use disk::Faults;
pub use world::{Report, Sabotage, Tracer, Violation, World, run, run_sabotaged};
