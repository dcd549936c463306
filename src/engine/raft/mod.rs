//! To be written.
/// A message from one replica to another.
#[derive(Clone, Debug)]
pub struct Envelope {}
