//! What a server's protocol is to the generator: a way to write requests, and a way to read answers.
//!
//! No I/O here. [`crate::link`] implements it for the servers of this project, [`crate::compare::redis`] for their peer;
//! the loop that drives them is the same, so what it costs is the same.

use crate::mix::Operation;
use crate::plan::Plan;
use crate::socket::{DialError, Socket};
use dkc::engine::part::PackedKeys;
use dkc::error::ErrorCode;
use std::time::Instant;

/// A request to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) operation: Operation,
    /// Not for a top.
    pub(crate) keys: &'a PackedKeys,
    /// One for each key to increment.
    pub(crate) deltas: &'a [i64],
    /// Whether increments shall be answered with the new counts.
    pub(crate) want_values: bool,
    /// How many keys a top shall have.
    pub(crate) top_keys: u32,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// So many increments were acknowledged.
    Acknowledged { keys: usize },
    /// A code for each increment.
    Each(Vec<ErrorCode>),
    /// So many counts were read, so many of them of keys that exist.
    Counts { keys: usize, found: usize },
    /// So many of the highest counts were read.
    Top { keys: usize },
    /// Refused as a whole.
    Refused(ErrorCode),
}

impl Answer {
    /// Whether it answers such a request of so many keys.
    pub(crate) fn fits(&self, operation: Operation, asked: usize) -> bool {
        match self {
            Answer::Acknowledged { keys } => operation == Operation::Increment && *keys == asked,
            Answer::Each(codes) => operation == Operation::Increment && codes.len() == asked,
            Answer::Counts { keys, .. } => operation == Operation::Get && *keys == asked,
            Answer::Top { .. } => operation == Operation::Top,
            Answer::Refused(_) => true,
        }
    }
}

/// One connection's side of a protocol.
pub(crate) trait Protocol: Sized {
    /// What writing needs and connections can share.
    type Writer: Default;

    /// Connects, and does what has to be done before the first request.
    ///
    /// # Errors
    /// Why there is no connection.
    fn open(plan: &Plan, endpoint: &str, deadline: Instant) -> Result<(Socket, Self), DialError>;

    /// Whether the protocol allows for another request before more answers come.
    fn has_room(&self) -> bool {
        true
    }

    /// Appends a request. No other under way has the same id.
    fn write(&mut self, writer: &mut Self::Writer, out: &mut Vec<u8>, id: u64, request: &Request<'_>);

    /// Memory to read into.
    fn space(&mut self) -> &mut [u8];

    /// Says that so many bytes were read into [`space`](Self::space).
    fn filled(&mut self, count: usize);

    /// The next answer with the id of its request, if it is there. Space is asked for again only when there is none.
    ///
    /// # Errors
    /// The rule that the server broke, or its reason to end the connection.
    fn next_answer(&mut self) -> Result<Option<(u64, Answer)>, String>;
}
