//! The write-ahead log of a store, bytes only.
mod disk_op;
pub use disk_op::*;
