//! DistributedKeyCounter: a key → count service that is durable before it answers and exact in what it answers.
//!
//! The modules, in the order data flows through them:
//!
//! 1. [`wire`]: frames and flatbuffers payloads between clients and servers.
//! 2. [`client`]: what applications use.
//! 3. [`engine`]: every decision. Deterministic: no clock, no file, no socket, no ambient randomness.
//! 4. `runtime` (feature `server`): the shell that drives one engine store per core with glommio and io_uring.
//! 5. `sim` (feature `sim`): a second shell, with a hostile disk and scheduler, all from one seed.
//!
//! [`ids`], [`limits`] and [`error`] are shared by all. [`mutant`] puts bugs back in, to see them found.

pub mod client;
pub mod engine;
pub mod error;
pub mod ids;
pub mod limits;
pub mod mutant;
pub mod wire;

#[cfg(feature = "server")]
pub mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
