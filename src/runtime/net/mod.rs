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
//!   from there, without a copy in between. Only a connection that is left with a large part of a frame takes the decoder
//!   with it (`half_frames`); an idle connection owns no buffer at all.
//! - **Sending.** Replies gather in the connection's queue, and the driver sends each queue once, at the end of the turn.
//! - **Back-pressure.** A connection with too many requests or too many reply bytes waiting is not read until that has
//!   changed; TCP tells the client. A client whose replies or half frames stand in everybody's way is cut off at once.
//! - **Time.** A client has so long to say Hello, to finish a frame it has begun, to take some of the replies that wait for
//!   it, and to ask for something again ([`ClientLimits`](crate::runtime::config::ClientLimits)). Each connection knows from
//!   its own state when that is over; a store keeps one point in time for each at which to look, in order. The point moves
//!   only when it would be too late or has come, so that a busy connection costs nothing and no turn looks at all of them.
//! - **Ending.** A connection ends when the client closes its side, when the gateway says so, or when a frame is damaged.
//!   What was accepted before is still answered; then the server closes its side and waits a moment for the client to read
//!   the last reply, because closing with unread bytes would make the kernel throw that reply away.

mod clients;
mod connection;
mod half_frames;
mod listen;
#[cfg(test)]
mod tests;

pub use clients::{Allowance, Clients, Visit};
pub use listen::{ListenError, accept_clients, bind};
