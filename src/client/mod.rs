//! What applications use to talk to a cluster.
//!
//! - [`blocking::Connection`] is one TCP connection, driven by the thread that calls it: single requests, and a
//!   pipeline of batches for bulk. No runtime, no threads of its own.
//! - [`batch::Batch`] gathers increments in the shape the wire wants, without an allocation a key.
//! - `pipeline` is the part without I/O: ids, matching replies to requests, checking that they fit together.
//!
//! **A request is never sent twice.** Connections have no session yet, so a server cannot tell a repeated increment
//! from a new one. When a connection breaks, the increments that were sent and not answered are *unknown*: each of
//! them was applied once or not at all. [`ClientError::Unknown`] says how many there are, and whether to count
//! again or to leave a gap is the caller's decision.

pub mod batch;
pub mod blocking;
pub mod core;
mod pipeline;
pub mod request_id;
pub mod resolved;

use crate::error::ErrorCode;
use thiserror::Error;

/// Why a client's call failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection could be made, or the connection broke while no increment was under way.
    #[error("cannot reach a server: {reason}")]
    Unreachable {
        /// What was tried, and how it failed.
        reason: String,
    },
    /// The request was refused, by the server or because it breaks a limit. Nothing was applied.
    #[error("refused with {code:?}: {text}")]
    Refused {
        /// Why; never `Ok` or `Unknown`.
        code: ErrorCode,
        /// One line for people.
        text: String,
    },
    /// Increments were sent and not answered: each was applied once or not at all, or may yet be applied.
    #[error("{increments} increments were sent but not answered, and may have been applied: {reason}")]
    Unknown {
        /// How many increments.
        increments: u64,
        /// What happened to the connection, or what the server said.
        reason: String,
        /// By which to ask later what became of them. `None` if they were sent without a session.
        id: Option<request_id::RequestId>,
    },
    /// The server does not keep to the protocol. No increment was under way.
    #[error("the server does not follow the protocol: {reason}")]
    Protocol {
        /// The rule that was broken.
        reason: String,
    },
}

impl ClientError {
    /// What an error code means to a caller who asked for so many increments (0: who only read).
    #[must_use]
    pub fn from_code(code: ErrorCode, text: String, increments: u64) -> ClientError {
        if code.is_definite() {
            ClientError::Refused { code, text }
        } else if increments > 0 {
            ClientError::Unknown { increments, reason: text, id: None }
        } else {
            ClientError::Unreachable { reason: text }
        }
    }
}
