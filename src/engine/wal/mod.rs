//! The write-ahead log of a store, bytes only.
mod disk_op;
mod segment_dir;
pub use disk_op::*;
pub use segment_dir::*;
