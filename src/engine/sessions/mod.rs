//! Exactly once: sessions, and what shards remember of their requests.
//!
//! A client opens a *session* and numbers its requests in it, from 1 on: one sequence space, whatever shards a request
//! touches. It may send a request as often as it likes under the same number. Each shard touched keeps a *window* of the
//! session: the outcome of every number that was decided there. A number that has an outcome is not applied again; its
//! answer is the original one.
//!
//! | file | what it holds |
//! |---|---|
//! | `token` | what proves that a session is one's own |
//! | `window` | a shard's memory of sessions: part of its replicated state |
//! | `registry` | the meta shard's list of sessions: ids, names, ages |
//!
//! **What ends a memory.** Outcomes would pile up for ever, so two things end them, and neither can turn a retry into a
//! second application:
//! - *The floor*: a client says up to which number it has had all answers, its low-water mark. What is at or under it is
//!   dropped, and answered `Forgotten` from then on. Only the client raises it.
//! - *The mark*: the meta shard moves it over sessions that are old enough, in the order of their ids, by entries of its log.
//!   It reaches each shard as an entry of that shard's own log, which drops the windows of ids at or under it, and refuses exactly
//!   these ids with `SessionExpired`. A session cannot expire before an older one, so no living session is condemned by
//!   another's death; and since ids are never reused, an expired one is never taken for new.
//!
//! **Content.** A digest of the whole request travels with each of its parts. A number that comes again with another digest is
//! refused (`OtherContent`): it is another request. Outcomes are kept by the place of an increment in the original
//! request, so that they fit a retry even if the shard has been split in between.
//!
//! **Resolve.** Who does not want to send a request again can ask what became of it. A shard that has no outcome records
//! `Fenced` for the number: a copy still under way is then refused for good, and "not applied" stays true.
//!
//! **Names.** A named session outlives its client: whoever opens it again gets the next *epoch*, and the shards refuse
//! requests of an earlier one (`SessionTaken`) from the moment they hear of it. Its content is derived from a source that can be read
//! again, so numbers above the floor are sent again and count once.

pub mod registry;
pub mod token;
pub mod window;

use crate::ids::{Sequence, SessionEpoch, SessionId, SessionToken};

/// A session, and the proof of the right to speak for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credentials {
    /// The session.
    pub session: SessionId,
    /// Which opening of it.
    pub epoch: SessionEpoch,
    /// What only the opener was told.
    pub token: SessionToken,
}

/// What the opener of a session is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The session.
    pub credentials: Credentials,
    /// How long it lives at least, microseconds.
    pub age_micros_max: u64,
    /// Sequences go on after this one.
    pub progress: Sequence,
    /// It was open before; its former holder may have sent more than `progress` says.
    pub resumed: bool,
}

/// A request's number, as it travels to the shards it touches. The gateway has checked the right to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The session.
    pub session: SessionId,
    /// Which opening of it.
    pub epoch: SessionEpoch,
    /// The request's number.
    pub sequence: Sequence,
    /// Every request up to this number was answered.
    pub low_water: Sequence,
}
