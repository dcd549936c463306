//! What the fuzzers do with an input, as plain functions: libFuzzer calls them, and so do the tests.
//!
//! | target | hostile bytes go to | what must hold |
//! |---|---|---|
//! | [`client_frame`] | frame decoder, request and reply codec | no slicing matters; what decodes, encodes and decodes again is the same; memory is bounded |
//! | [`gateway`] | a gateway before a store, with answers late and in any order | each request is answered once, by a reply of its kind, and nothing stays in flight |
//! | [`wal_record`] | records, segment headers, log entries, cluster maps | what opens is what was sealed; what decodes, encodes and decodes again is the same |
//! | [`checkpoint`] | the loader of checkpoints | refused or a state, whose image makes it again; pages taken on the way and the rest of a history make the state that was there |
//! | [`recovery`] | recovery, as damage to a log that was written well | refused by name, or a run of the records written; nothing is lost but to zeros and missing files |
//!
//! Whoever adds a format adds a function here, a row in [`Target::ALL`], seeds in [`seeds`], and a
//! file of a few lines in `libfuzzer/targets`; the tests ask for the rest.
//!
//! A check that cannot fail is none, so each target knows one [`Fault`] that can be planted in what it tests:
//! `cargo xtask fuzz --canary` shows that the fuzzer finds it, and `canaries/` keeps an input for each that the tests repeat.
//!
//! The fuzzer itself is a package of a workspace of its own, `libfuzzer`: nobody else needs it.

#![allow(clippy::disallowed_methods, reason = "a tool that is told by a variable whether to plant a fault")]

mod allocator;
mod checkpoint;
mod client_frame;
mod gateway;
mod log_dir;
mod recovery;
mod script;
pub mod seeds;
mod wal_record;

pub use checkpoint::checkpoint;
pub use client_frame::client_frame;
pub use gateway::gateway;
pub use recovery::recovery;
pub use wal_record::wal_record;

/// Bytes of an input, at most; longer ones are ignored.
pub const INPUT_BYTES_MAX: usize = 8 << 10;

/// The variable that plants faults into the fuzzers, if it is set.
pub const CANARY_VARIABLE: &str = "DKC_FUZZ_CANARY";

/// Whether what is tested is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is as it is.
    None,
    /// It has the one fault that the target knows.
    Planted,
}

impl Fault {
    /// What [`CANARY_VARIABLE`] asks for.
    #[must_use]
    pub fn from_environment() -> Fault {
        if std::env::var_os(CANARY_VARIABLE).is_some() { Fault::Planted } else { Fault::None }
    }

    fn is_planted(self) -> bool {
        self == Fault::Planted
    }
}

/// A function that is fuzzed. It panics if the input shows a fault.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder of seeds.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8], Fault),
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 5] = [
        Target { name: "checkpoint", run: checkpoint },
        Target { name: "client_frame", run: client_frame },
        Target { name: "gateway", run: gateway },
        Target { name: "wal_record", run: wal_record },
        Target { name: "recovery", run: recovery },
    ];
}
