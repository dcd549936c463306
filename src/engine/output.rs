//! What a store wants done, in classes that say what each thing must wait for.
//!
//! | class | waits for |
//! |---|---|
//! | `send_now` | nothing of ours being durable |
//! | `send_after` | this store's log being durable up to the LSN beside it |
//! | `disk` | nothing; operations that must follow one another are handed out one after another |
//! | `checkpoint` | nothing; they give way to `disk` |
//! | `replies` | nothing: they are produced only once the entry is committed and applied |
//!
//! The store itself holds back what waits for an LSN: `send_after` is drained into the output when the
//! watermark has passed, so the shell has nothing to decide.

use super::checkpoint::{FileOp, Notice};
use super::part::PartReply;
use super::raft::Envelope;
use super::wal::DiskOp;
use crate::ids::{Micros, SessionId};

/// Everything a store wants done since the last time it was asked.
#[derive(Debug, Default)]
pub struct Output {
    /// Messages to other stores' replicas that may leave at once.
    pub send_now: Vec<Envelope>,
    /// Messages whose LSN has become durable, in the order they were produced.
    pub send_after: Vec<Envelope>,
    /// Disk operations to start. At most one log write is under way at a time.
    pub disk: Vec<DiskOp>,
    /// Operations on the files of checkpoints to start. At most one is under way at a time.
    pub checkpoint: Vec<FileOp>,
    /// What has become of checkpoints, for people.
    pub notices: Vec<Notice>,
    /// Answers to parts.
    pub replies: Vec<PartReply>,
    /// The meta shard, which lives here, has expired sessions up to this one: every store is to be told.
    pub session_mark: Option<SessionId>,
    /// Whether work other than long reads was put off: the next turn is wanted soon.
    pub turn_wanted: bool,
    /// When to step with `Tick` at the latest, if nothing else happens.
    pub deadline: Option<Micros>,
    /// Set once, when a log write or sync has failed: the store has stopped for good and the process must exit.
    pub latched: Option<String>,
}

impl Output {
    /// Whether there is nothing to do but wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.send_now.is_empty()
            && self.send_after.is_empty()
            && self.disk.is_empty()
            && self.checkpoint.is_empty()
            && self.notices.is_empty()
            && self.replies.is_empty()
            && self.session_mark.is_none()
            && self.latched.is_none()
    }
}
