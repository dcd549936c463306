//! The simulator: a second shell for the same engine, in one thread, from one seed.
//!
//! | file | what it is |
//! |---|---|
//! | `disk` | a disk that keeps what a read sees apart from what survives a power cut, and misbehaves in every way a disk may |
//! | `world` | one node of some stores, its clients, and a scheduler that picks the next event; a crash is possible at every step |
//! | `workload` | what the clients ask |
//! | `ledger` | every entry that was ever in the log, also where it has been recycled |
//! | `replay` | what a log says, by the plainest rules |
//! | `model` | what the answers are checked against: the log itself, replayed |
//! | `consensus` | another world: the Raft core alone, several replicas of several groups |
//! | `sabotage`, `report` | promises that may be broken on purpose; what a run did and found |
//!
//! Everything is drawn from the seed, so a failing run is its seed: `dkc-sim SEED` runs it again, event by event.
//! [`Sabotage`] breaks one promise of the shell on purpose; a test shows that the checks notice each.

pub mod consensus;
mod disk;
mod ledger;
mod model;
mod replay;
mod report;
mod sabotage;
mod workload;
mod world;

pub use disk::Faults;
pub use report::{Report, Violation};
pub use sabotage::Sabotage;
pub use world::{Tracer, World, run, run_sabotaged};
