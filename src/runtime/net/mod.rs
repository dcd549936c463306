//! Clients: listening, accepting, receiving requests and sending replies.
//!
//! ```text
//!            accept            bell            visit                 request
//! listener ────────► Inbox ◄──────── socket   Driver ──► Clients ──► Gateway
//!                                      ▲                    │           │
//!                                      └── one send a turn ─┴── queue ◄─┘
//! ```
//!
//! - **Receiving.** A readable connection is read into the store's one receive decoder, and its frames go to the gateway
//!   from there, without a copy in between. Only a connection that is left with part of a frame takes the decoder with
//!   it; an idle connection owns no buffer at all.
//! - **Sending.** Replies gather in the connection's queue, and the driver sends each queue once, at the end of the turn.
//! - **Back-pressure.** A connection with too many requests or too many reply bytes waiting is not read until that has
//!   changed; TCP tells the client. A peer that stops reading altogether is cut off, by the kernel after a while, or at
//!   once if it stands in everybody's way.
//! - **Ending.** A connection ends when the client closes its side, when the gateway says so, or when a frame is damaged.
//!   What was accepted before is still answered; then the server closes its side and waits a moment for the client to read
//!   the last reply, because closing with unread bytes would make the kernel throw that reply away.

mod clients;
mod connection;
mod listen;
#[cfg(test)]
mod tests;

pub use clients::{Allowance, Clients};
pub use listen::{ListenError, accept_clients, bind};
