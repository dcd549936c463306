//! The engine: every decision of a store, without I/O.

pub mod counters;
pub mod gateway;
pub mod input;
pub mod output;
pub mod part;
pub mod prng;
pub mod raft;
pub mod status;
pub mod store;
pub mod wal;
