//! To be written.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the runtime is where clocks, files and threads belong"
)]

pub mod disk;
pub mod segment_dir;
