//! What became of a request, as [`Resolve`](super::core::Op::Resolve) finds it.

use super::request_id::RequestId;
use crate::wire::client::{Resolution, ResolveReply, ResolvedPart};

/// What became of a request. Nothing more will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The verdict over all shards asked.
    pub fate: Fate,
    /// Each shard's word.
    pub parts: Vec<ResolvedPart>,
}

/// The verdict over all shards that were asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Every increment of the request was decided: it was applied, but for those that overflowed.
    Applied {
        /// Increments refused because the count would have left its range.
        overflowed: u32,
    },
    /// Nothing of it was applied, and nothing ever will be.
    NotApplied,
    /// Some shards applied their part, and the others never will.
    Partly {
        /// Increments that were decided, those that overflowed included.
        applied: u32,
        /// Increments refused because the count would have left its range.
        overflowed: u32,
    },
    /// It was answered once, and its client said so: the outcome is kept no more.
    Forgotten,
}

impl Resolved {
    /// Puts the shards' words together. Shards that the request did not touch say that it was not applied there; so that all of it
    /// was is told by the number of its increments.
    pub(super) fn new(id: &RequestId, reply: ResolveReply) -> Resolved {
        let parts = reply.parts;
        let applied = || parts.iter().filter(|part| part.resolution == Resolution::Applied);
        let sum =
            |number: fn(&ResolvedPart) -> u32| applied().fold(0_u32, |sum, part| sum.saturating_add(number(part)));
        let (increments, overflowed) = (sum(|part| part.increments), sum(|part| part.overflowed));
        let fate = if parts.is_empty() || parts.iter().any(|part| part.resolution == Resolution::Forgotten) {
            Fate::Forgotten
        } else if applied().next().is_none() {
            Fate::NotApplied
        } else if increments >= id.increments {
            Fate::Applied { overflowed }
        } else {
            Fate::Partly { applied: increments, overflowed }
        };
        Resolved { fate, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sessions::Credentials;
    use crate::ids::{Sequence, SessionEpoch, SessionId, SessionToken};

    fn fate(parts: &[(Resolution, u32, u32)]) -> Fate {
        let credentials = Credentials { session: SessionId(1), epoch: SessionEpoch(1), token: SessionToken(0) };
        let id = RequestId { credentials, sequence: Sequence(1), increments: 10 };
        let part = |&(resolution, increments, overflowed): &(Resolution, u32, u32)| ResolvedPart {
            resolution,
            increments,
            overflowed,
            ..ResolvedPart::default()
        };
        Resolved::new(&id, ResolveReply { parts: parts.iter().map(part).collect() }).fate
    }

    #[test]
    fn the_words_of_all_shards_make_one_verdict() {
        use Resolution::{Applied, Fenced, Forgotten};
        assert_eq!(fate(&[(Applied, 10, 1)]), Fate::Applied { overflowed: 1 });
        assert_eq!(fate(&[(Applied, 7, 1), (Fenced, 0, 0), (Applied, 3, 2)]), Fate::Applied { overflowed: 3 });
        assert_eq!(fate(&[(Fenced, 0, 0), (Fenced, 0, 0)]), Fate::NotApplied);
        assert_eq!(fate(&[(Applied, 7, 1), (Fenced, 0, 0)]), Fate::Partly { applied: 7, overflowed: 1 });
        assert_eq!(fate(&[(Applied, 7, 0), (Forgotten, 0, 0)]), Fate::Forgotten);
        assert_eq!(fate(&[]), Fate::Forgotten);
        assert_eq!(fate(&[(Applied, u32::MAX, 0), (Applied, u32::MAX, 0)]), Fate::Applied { overflowed: 0 });
    }
}
