//! The engine: every decision of a store, without I/O. It is told what happened and says what is to be done.
//!
//! ```text
//! gateway   takes client requests apart, puts answers together          a front a store
//! store     replicas of one core and their log                          `step(input)`, `take_output()`
//! replica   one shard's copy: requests, Raft group, state machine
//! raft      one Raft group                                              terms, votes, commit
//! checkpoint  images of a shard on disk                                 what a restart begins with
//! wal       the log: one stream a store                                 bytes, writes, recovery
//! machine   the state machines: what entries change
//! command   what log entries say
//! counters  the counting state machine: table and exact top-k
//! sessions  exactly once: windows, registry, tokens
//! cluster   who owns what
//! ```
//!
//! The same inputs in the same order give the same outputs, on every machine: time and randomness are inputs, and nothing is
//! iterated in hash order. The runtime and the simulator are two shells around it.

pub mod checkpoint;
pub mod cluster;
pub mod command;
pub mod counters;
pub mod gateway;
pub mod input;
mod machine;
pub mod output;
pub mod part;
pub mod prng;
pub mod raft;
mod replica;
pub mod sessions;
pub mod status;
pub mod store;
pub mod wal;

#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod store_tests;
