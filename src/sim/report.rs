//! What a run did, and what it found wrong.

use crate::engine::prng::mix;
use crate::engine::store::Opened;

/// What a run found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The seed that shows it.
    pub seed: u64,
    /// Which event of the run.
    pub event: u64,
    /// What.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Violation { seed, event, what } = self;
        write!(f, "seed {seed} violates at event {event}: {what} (run it again: dkc-sim {seed})")
    }
}

impl Report {
    /// Notes how a store's shards were brought back.
    pub(super) fn restored(&mut self, found: &Opened) {
        for shard in &found.shards {
            self.started_from_checkpoint += u64::from(shard.checkpoint.is_some());
            self.fallbacks += u64::from(!shard.rejected.is_empty());
            self.passed_over += shard.passed_over;
            self.split_in_replay += shard.pages_split;
        }
    }
}

macro_rules! report {
    ($($(#[$doc:meta])* $field:ident: $name:literal,)*) => {
        /// What a run did.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Report {
            /// Events.
            pub events: u64,
            /// Hash over every event and every answer: equal seeds have equal traces.
            pub trace: u64,
            /// Virtual time that passed, microseconds.
            pub virtual_micros: u64,
            $(#[doc = $name] pub $field: u64,)*
        }

        impl Report {
            /// Adds another run's figures; the trace is that of both.
            pub fn add(&mut self, other: &Report) {
                self.trace = mix(self.trace ^ other.trace);
                self.events += other.events;
                self.virtual_micros += other.virtual_micros;
                $(self.$field += other.$field;)*
            }

            /// The rare things that a run should sometimes do, and how often it did.
            #[must_use]
            pub fn marks(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field)),*]
            }
        }
    };
}

report! {
    answered: "requests answered",
    unknown: "requests whose outcome stayed unknown",
    kills: "deaths of the process",
    power_cuts: "power cuts",
    deaths_in_recovery: "deaths within recovery",
    torn_tails: "torn writes cut",
    torn_headers: "torn segment headers dropped",
    flips_refused: "flipped bits refused by name",
    latches: "latches after a failed operation",
    disk_full: "requests refused on a full disk",
    overflows: "increments refused for overflow",
    rotations: "segments opened by rotation",
    checkpoints: "checkpoints completed",
    checkpoints_failed: "checkpoints given up after a failed operation",
    checkpoints_unfinished: "checkpoints abandoned by a death of the process",
    started_from_checkpoint: "shards started from a checkpoint",
    fallbacks: "shards started from an older checkpoint, or from none, because one was damaged",
    passed_over: "increments that replay passed over",
    split_in_replay: "pages split between a checkpoint's image and its end",
    recycled: "segments freed behind checkpoints, used again or removed",
    scans: "scans of a shard in several pieces",
    clock_jumps: "jumps of the server's clock",
    links_made: "connections of real clients made",
    links_broken: "connections of real clients broken",
    ghosts: "late copies of requests delivered",
    forgeries: "requests with other content under a used number",
    numbered: "numbered requests that ended",
    repeats: "copies answered with the original result",
    expired: "copies refused because their session had expired",
    resolved_applied: "unknown requests resolved as applied",
    resolved_fenced: "unknown requests resolved as not applied",
    resolved_otherwise: "unknown requests of which nothing more can be known",
    named: "named sessions opened",
    taken_over: "named sessions taken over",
    client_deaths: "deaths of real clients",
}
