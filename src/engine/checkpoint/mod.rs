//! Checkpoints: the state of a shard on disk, made while it changes, so that a restart need not read the whole log.
//!
//! | file | what it holds |
//! |---|---|
//! | `keeper` | when a checkpoint is made, and which are in force: a store's one hand for them |
//! | `builder` | one in the making, piece by piece |
//! | `budget` | how fast |
//! | `archive` | the words of the format: rkyv archives |
//! | `envelope` | how archives lie in a file: checksums, compression, bounds |
//! | `kept` | how the log names checkpoints |
//! | `loader` | how one is read and checked |
//! | `files` | operations on files, and the door to them |
//! | `inspection` | what tools see of a file |
//!
//! ```text
//! file       head │ sessions at A │ page │ page │ … │ page │ sessions at B │ foot
//! a                               ≥ A                ≤ B
//! log        ─────A────────────────────────────────────────B──────[A, B, digest of the file]────►
//!                 └─── replayed, page by page, from a ───┘       named here: in force from here on
//! ```
//!
//! A checkpoint is *fuzzy*: nothing is copied on write and nobody waits. Note the last applied entry A, write the sessions of that
//! moment, then one page of the table after another, each together with the last entry that had been applied when it was taken (its
//! a, A ≤ a ≤ B; ARIES calls it pageLSN: Mohan et al., ACM TODS 1992), and when the last page is taken, at B, the sessions once
//! more. Pages of one file are of different moments; together with the log from A to B they are a state all the same.
//!
//! # Why that is enough
//!
//! *Claim.* Load the pages; apply the entries after A in order, but let an increment of entry i pass over a key whose page has a ≥ i; after B
//! replace the sessions by the copy at B. Then the state is the one that was there after B, and any further entry does what it did.
//!
//! *Three facts* hold of the state machine (`engine::machine`), and the proof needs nothing else of it:
//! 1. Whether an increment is accepted depends on its part's session and on the count of its own key, on nothing else: not on another key, a page,
//!    memory or a queue (rule C1). Overflow is decided by one key's count; what can refuse for want of room refuses before the log.
//! 2. Sessions never depend on counters, but for what they remember of single increments: which overflowed, which counts came out. No decision
//!    reads that memory; it is only shown to who asks again.
//! 3. An entry is applied whole before a page is taken, or after (rule C6).
//!
//! *Sessions.* They start as at A, exactly. By 2 every decision about a part between A and B is made as it was made the first time,
//! whatever the counters are; only what is remembered of increments that were passed over is wrong, and the copy at B replaces it (rule C3).
//! Before that nobody is shown anything: a store replays up to B while it opens.
//!
//! *Counters.* Take a key k. The pages tile the walk over the table exactly once, so exactly one image covers k's place, with some a.
//! If a < i, entry i had not been applied when the image was taken, by 3, and replay applies it to k; if a ≥ i it had been, and replay does
//! not. So k's count goes through the entries after a, in order, starting from what it was after a. By 1 each is accepted or refused as the first time.
//! If k is in no image, it did not exist at a; every entry that touches it is after a. A page that splits during replay changes
//! no key's a, for a key's a is looked up by its place in the walk. And a page that split while the images were taken had been either taken as a whole or
//! not at all: the walk is a cursor over places, and places do not move.
//!
//! *Top-k.* The candidate set is a function of the counters of *one* moment, so none is saved: it is made anew from all keys once the pages are there,
//! and kept by replay like by anything else that changes counts (rule C2). It need not be the set that was there, for its answers are exact whichever
//! it is.
//!
//! *The log.* Entries up to B have been committed: they were applied. That they are *in this log* is proven by where the record
//! stands that names the checkpoint: behind entry B (rule C4). Recovery believes no checkpoint that no record or segment header names,
//! and checks index and term of A and B against the entries that it reads.
//!
//! # What is in force
//!
//! A checkpoint is in force once the record that names it is durable; its file and the file's name were durable before that record was
//! appended. The record names two: the new one and the one before, and every segment header repeats them (rule W4). Log is kept from the *older* one's
//! A on, so that either can be started from. What neither names is not a checkpoint, and is removed. A crash at any step leaves the two of before, or
//! the two of after.
//!
//! A damaged checkpoint is refused as a whole, whatever is damaged; then the older one is read, and if that is damaged too, the log from its
//! very beginning, if it still begins there. If nothing can be shown to be whole, the store refuses to open, by name.
//!
//! # Room
//!
//! A full disk must not prevent the checkpoint that would free the log (rule W6). So a file is kept whose blocks are already allocated, as many as
//! the largest shard's state takes in memory (its image takes less), and a checkpoint that has become superfluous is not removed but becomes that reserve. Where the
//! reserve cannot be had, new keys are refused (`DiskFull`) until it can: what is there already fits where a checkpoint of it was. The
//! increments of existing keys are bounded by the log, as ever.
//!
//! # Caveats
//!
//! Sessions are copied at one moment, A and B: a millisecond for ten thousand windows. Nothing is left out of a checkpoint
//! because it has not changed since the last.

pub mod archive;
pub mod budget;
pub mod builder;
pub mod envelope;
pub mod files;
pub mod inspection;
pub mod keeper;
pub mod kept;
pub mod loader;

pub use files::{CheckpointDir, FileAction, FileDone, FileOp, FileOpId, Opening, RESERVE_FILE_NAME, StoreDir};
pub use keeper::{Keeper, Notice};
pub use kept::{CheckpointFile, Kept, Point, Reference};

use crate::limits::{CHECKPOINT_LOG_BYTES_DEFAULT, CHECKPOINT_RATE_DEFAULT};

/// When checkpoints are made, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// Bytes of the store's log from one checkpoint of a shard to the next; more if the last one was larger than that, so that as
    /// much is written to checkpoints as to the log at most.
    pub log_bytes: u64,
    /// Bytes that are written to checkpoints in a second, at most.
    pub bytes_per_second: u64,
}

impl Default for CheckpointConfig {
    fn default() -> CheckpointConfig {
        CheckpointConfig { log_bytes: CHECKPOINT_LOG_BYTES_DEFAULT, bytes_per_second: CHECKPOINT_RATE_DEFAULT }
    }
}
