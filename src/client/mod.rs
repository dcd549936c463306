//! What applications use to talk to a cluster.
//!
//! | module | what it is |
//! |---|---|
//! | [`blocking`] | a client for the thread that calls it: no runtime, no threads of its own |
//! | `tokio` | a client for tokio, with the feature of that name: a handle to be cloned, and one task |
//! | [`core`] | what both of them drive: the client without I/O, which numbers, routes, resends and judges |
//! | [`batch`], [`request_id`], [`resolved`] | increments of one request; its id; what became of it |
//! | [`blocking::Connection`] | one bare connection without a session: a tool for tests and measurements |
//!
//! **Exactly once.** Increments are sent under a number of the client's session, as often as it takes, until the call's time-out. Each counts
//! once, however often it was sent, and the answer is that of the first time. The outcome of a call is one of four:
//!
//! | result | the increments |
//! |---|---|
//! | an answer | were decided, each by itself; a refused one was not counted |
//! | [`ClientError::Refused`] | were not counted, and never will be |
//! | [`ClientError::Unreachable`] | were not sent |
//! | [`ClientError::Unknown`] | were counted once or not at all; its id tells later which (`resolve`) |
//!
//! A time-out is never called a failure: past it, what was sent and not answered is unknown. To resolve it also ends it: what was not counted
//! by then never will be. The server keeps what it needs for that as long as the session may live.
//!
//! Increments can also be sent once and without a session ([`core::Delivery::AtMostOnce`]): the server keeps nothing then, nobody sends them
//! again, and whatever breaks under way leaves them unknown for good.

pub mod batch;
pub mod blocking;
pub mod core;
mod gather;
mod pipeline;
pub mod request_id;
pub mod resolved;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod stand_in;
#[cfg(feature = "tokio")]
pub mod tokio;

#[cfg(all(test, feature = "sim"))]
mod front_tests;

use crate::engine::part::PackedKeys;
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
        /// The last refusal of a copy, where the server refused one: that of another copy may be unknown all the same.
        last: Option<ErrorCode>,
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
            ClientError::Unknown { increments, reason: text, last: Some(code), id: None }
        } else {
            ClientError::Unreachable { reason: text }
        }
    }

    /// What the server said last, if it refused anything.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused { code, .. } => Some(*code),
            ClientError::Unknown { last, .. } => *last,
            _ => None,
        }
    }
}

/// Keys in the shape the wire wants.
fn pack<K: AsRef<[u8]>>(keys: &[K]) -> Result<PackedKeys, ClientError> {
    let mut packed = PackedKeys::default();
    for key in keys {
        batch::check_key(&packed, key.as_ref())?;
        packed.push(key.as_ref());
    }
    Ok(packed)
}

/// The core lets only fitting answers through; the type does not say so.
fn unfitting() -> ClientError {
    ClientError::Protocol { reason: "an answer of another kind".to_owned() }
}
