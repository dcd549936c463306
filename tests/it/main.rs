//! The integration tests, one binary: real processes, real sockets, real disks; and the simulator's smoke seeds.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests start processes and read clocks")]

mod bench;
mod count;
mod exact;
mod hostile;
mod inspect;
mod kill;
mod killed_checkpoints;
mod raw;
mod server;
mod sim;
mod start;
