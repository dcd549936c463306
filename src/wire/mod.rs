//! What clients and servers say to each other: frames on a TCP stream, flatbuffers in the frames.
//!
//! - [`frame`] cuts a byte stream into frames and checks them for damage.
//! - [`client`] turns the payloads of frames into typed requests and replies, and back.
//!
//! Both are sans-IO: bytes in, values out. The two sides of a connection use the same code, and neither trusts the
//! other: damage is found by checksums, nonsense by the flatbuffer verifier and by the checks on top of it, before
//! any field is used. Nothing outside this folder names the `flatbuffers` crate.
//!
//! `generated/client.rs` is made from `schema/client.fbs`; `schema/README.md` says how.

pub mod client;
pub mod frame;

#[allow(clippy::all, deprecated, missing_docs, unreachable_pub, unsafe_op_in_unsafe_fn, unused)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::needless_pass_by_value, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
mod generated {
    pub(super) mod client;
}
