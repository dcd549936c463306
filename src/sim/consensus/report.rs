//! What runs of the core world did and found.

use std::fmt;

/// What a run did, in numbers. Sums over runs make sense too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Actions, of the hostile part and of the healing.
    pub steps: u64,
    /// Starts of stores.
    pub starts: u64,
    /// Deaths of stores.
    pub crashes: u64,
    /// Times a replica began to lead.
    pub elections: u64,
    /// Times one ceased to.
    pub depositions: u64,
    /// The highest term.
    pub term_max: u64,
    /// Entries appended, on all replicas.
    pub entries: u64,
    /// Entries applied, on all replicas.
    pub applied: u64,
    /// Logs that were cut.
    pub truncations: u64,
    /// Log writes.
    pub writes: u64,
    /// Looks at the time.
    pub ticks: u64,
    /// Reads answered.
    pub reads: u64,
    /// Links cut.
    pub cuts: u64,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Checkpoints installed.
    pub installs: u64,
    /// Changes of configuration begun.
    pub changes: u64,
    /// Replicas added.
    pub added: u64,
    /// Transfers begun.
    pub transfers: u64,
    /// Digest of everything that could be seen.
    pub digest: u64,
}

impl Report {
    /// Adds another run.
    pub fn add(&mut self, other: &Report) {
        let digest = self.digest ^ other.digest;
        let term_max = self.term_max.max(other.term_max);
        for ((_, mine), (_, others)) in self.fields().into_iter().zip(other.clone().fields()) {
            *mine += *others;
        }
        (self.digest, self.term_max) = (digest, term_max);
    }

    fn fields(&mut self) -> [(&'static str, &mut u64); 17] {
        [
            ("steps", &mut self.steps),
            ("starts", &mut self.starts),
            ("crashes", &mut self.crashes),
            ("elections", &mut self.elections),
            ("depositions", &mut self.depositions),
            ("entries appended", &mut self.entries),
            ("entries applied", &mut self.applied),
            ("logs cut", &mut self.truncations),
            ("log writes", &mut self.writes),
            ("ticks", &mut self.ticks),
            ("reads answered", &mut self.reads),
            ("partitions", &mut self.cuts),
            ("checkpoints", &mut self.checkpoints),
            ("installations", &mut self.installs),
            ("changes", &mut self.changes),
            ("replicas added", &mut self.added),
            ("transfers", &mut self.transfers),
        ]
    }

    /// What was counted, by name: things that never happened show that the world is too tame.
    pub fn marks(&mut self) -> impl Iterator<Item = (&'static str, u64)> {
        self.fields().into_iter().map(|(name, count)| (name, *count))
    }
}

/// A law that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The seed, if the run was made of one.
    pub seed: Option<u64>,
    /// In which step.
    pub step: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(seed) = self.seed {
            write!(f, "core seed {seed}, ")?;
        }
        write!(f, "step {}: {}", self.step, self.what)
    }
}
