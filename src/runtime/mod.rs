//! To be written.

pub mod disk;
pub mod segment_dir;
