//! What an answer means for a request of which other copies may be under way.
//!
//! A *copy* is one sending of a request: whole, under its number. It is *in doubt* while it may have been applied, or may yet be,
//! without our knowing: it left whole, and no answer has come that is definite about all of it. Every other copy was refused.
//!
//! | # | what comes | other copies | the request |
//! |--:|---|---|---|
//! | 1 | every increment `Ok`, `Overflow` or `Fenced` | any | ends with it: the shards speak of the number, so of every copy |
//! | 2 | `Fenced` as a whole | any | ends refused: nothing was applied, nothing will be |
//! | 3 | some increments refused for the moment, or `Unknown` | any | goes out again, whole: shards that applied it repeat their answer |
//! | 4 | refused as a whole for the moment | any | goes out again |
//! | 5 | `Unknown` as a whole | any | goes out again; this copy stays in doubt |
//! | 6 | some increments refused for good, the rest decided | none in doubt | ends with it: what was refused was not applied |
//! | 7 | the same | some in doubt | ends unknown |
//! | 8 | refused as a whole for good | none in doubt, nothing applied | ends refused |
//! | 9 | `SessionExpired` as a whole | none in doubt, nothing applied | was not applied: goes out as a new number of a new session |
//! | 10 | refused as a whole for good, expired and forgotten included | some in doubt | ends unknown; under a new session it might count twice |
//! | 11 | refused as a whole for good | none in doubt, but an earlier copy was applied in part | ends with that answer |
//! | 12 | the deadline | none in doubt | ends with what was applied in part, else refused, else unreachable |
//! | 13 | the deadline | some in doubt | ends unknown |
//! | 14 | the connection breaks before all of a copy was sent | | that copy never was: no server acts on half a frame |
//! | 15 | the connection breaks later, or no answer comes in time | | that copy stays in doubt; the request goes out again |
//!
//! Rows 6 and 8 to 11 rest on [`ErrorCode::is_definite`], rows 1 and 2 on [`ErrorCode::settles`].

use crate::error::ErrorCode;
use crate::mutant::mutant;
use crate::wire::client::IncrementReply;

/// What is known of a request's copies.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// How many may have been applied, or may yet be.
    in_doubt: u32,
    /// What was decided in some shards while others refused. Those it names as refused were not applied by that copy.
    partly: Option<IncrementReply>,
    /// The last refusal as a whole.
    refusal: Option<(ErrorCode, String)>,
}

/// What is to become of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It ends with an answer; what is refused in it was not applied.
    Done(IncrementReply),
    /// It ends, and nothing was applied.
    Refused(ErrorCode, String),
    /// It ends, and nothing was sent that could have been applied.
    Unreachable,
    /// It ends, and some of it may have been applied.
    Unknown(String, Option<ErrorCode>),
    /// It goes out again.
    Again,
    /// It was not applied, and its session is over.
    Expired,
}

impl Copies {
    /// A copy is on its way.
    pub(super) fn sent(&mut self) {
        self.in_doubt += 1;
    }

    /// A copy turned out not to have left.
    pub(super) fn never_left(&mut self) {
        self.in_doubt -= 1;
    }

    /// Whether some copy may have been applied, or was.
    pub(super) fn may_be_applied(&self) -> bool {
        self.in_doubt > 0 || self.partly.is_some()
    }

    /// A copy was answered increment by increment.
    pub(super) fn answered(&mut self, reply: IncrementReply) -> Verdict {
        let codes = || (0..reply.len()).map(|position| reply.outcome(position));
        if reply.outcomes.is_empty() || codes().all(is_decided) {
            return Verdict::Done(reply);
        }
        let again = codes().any(ErrorCode::is_transient);
        if codes().all(|code| code.is_definite() || code == ErrorCode::Ok) {
            self.in_doubt -= 1;
        }
        if codes().any(is_decided) {
            self.keep(reply);
        } else {
            let code = codes().find(|code| !is_decided(*code)).unwrap_or(ErrorCode::Unknown);
            self.refusal = Some((code, code.advice().to_owned()));
        }
        if again { Verdict::Again } else { self.end() }
    }

    /// A copy was refused as a whole.
    pub(super) fn refused(&mut self, code: ErrorCode, text: String) -> Verdict {
        if code.is_definite() {
            self.in_doubt -= 1;
        }
        if code == ErrorCode::Fenced {
            return Verdict::Refused(code, text);
        }
        self.refusal = Some((code, text));
        match code {
            code if code.is_transient() => Verdict::Again,
            ErrorCode::SessionExpired if !self.may_be_applied() || mutant!("expired-sent-anew") => Verdict::Expired,
            _ => self.end(),
        }
    }

    /// Nothing more is waited for.
    pub(super) fn end(&mut self) -> Verdict {
        if self.in_doubt > 0 && !mutant!("doubt-forgotten") {
            let last = self.refusal.as_ref().map(|(code, _)| *code);
            let said = self.refusal.take().map(|(code, text)| format!("; the last word was {code:?}: {text}"));
            return Verdict::Unknown(format!("no definite answer came{}", said.unwrap_or_default()), last);
        }
        if let Some(reply) = self.partly.take() {
            return Verdict::Done(reply);
        }
        match self.refusal.take() {
            Some((code, text)) => Verdict::Refused(code, text),
            None => Verdict::Unreachable,
        }
    }

    /// Keeps an answer that decides some increments: the one that decides more. A shard that decided once says the same ever after,
    /// or nothing; if neither answer holds all that is known, that is too little to be definite about.
    fn keep(&mut self, reply: IncrementReply) {
        match &self.partly {
            Some(kept) if !covers(&reply, kept) => self.in_doubt += u32::from(!covers(kept, &reply)),
            _ => self.partly = Some(reply),
        }
    }
}

/// Whether the shard has decided about the increment, in whatever copy.
fn is_decided(code: ErrorCode) -> bool {
    code == ErrorCode::Ok || code.settles()
}

/// Whether all that `less` says to be decided is decided in `more`.
fn covers(more: &IncrementReply, less: &IncrementReply) -> bool {
    (0..less.len()).all(|position| !is_decided(less.outcome(position)) || is_decided(more.outcome(position)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::Part;

    const OK: ErrorCode = ErrorCode::Ok;

    fn reply(codes: &[ErrorCode]) -> IncrementReply {
        let part = Part { keys: codes.len() as u32, ..Part::default() };
        let outcomes = codes.iter().map(|code| *code as u8).collect();
        IncrementReply { parts: vec![part], outcomes, ..IncrementReply::default() }
    }

    /// A request of which so many copies were sent.
    fn sent(copies: u32) -> Copies {
        Copies { in_doubt: copies, ..Copies::default() }
    }

    fn refused(code: ErrorCode) -> Verdict {
        Verdict::Refused(code, "text".to_owned())
    }

    fn is_unknown(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Unknown(..))
    }

    /// Refusals that are neither for the moment nor about the number.
    const FOR_GOOD: [ErrorCode; 8] = [
        ErrorCode::Malformed,
        ErrorCode::TooLarge,
        ErrorCode::Unsupported,
        ErrorCode::Forgotten,
        ErrorCode::SessionExpired,
        ErrorCode::OtherContent,
        ErrorCode::SessionTaken,
        ErrorCode::BadSession,
    ];
    const FOR_THE_MOMENT: [ErrorCode; 6] = [
        ErrorCode::Overloaded,
        ErrorCode::Unavailable,
        ErrorCode::DiskFull,
        ErrorCode::MemoryFull,
        ErrorCode::WrongShard,
        ErrorCode::ShuttingDown,
    ];

    #[test]
    fn row_1_what_every_shard_decided_ends_a_request_whatever_its_other_copies_do() {
        for codes in [vec![], vec![OK, OK], vec![OK, ErrorCode::Overflow], vec![ErrorCode::Fenced, OK]] {
            for copies in [1, 3] {
                assert_eq!(sent(copies).answered(reply(&codes)), Verdict::Done(reply(&codes)));
            }
        }
    }

    #[test]
    fn row_2_a_fence_settles_every_copy() {
        for copies in [1, 3] {
            assert_eq!(sent(copies).refused(ErrorCode::Fenced, "text".into()), refused(ErrorCode::Fenced));
        }
    }

    #[test]
    fn row_3_a_mix_with_refusals_for_the_moment_goes_out_again() {
        for code in FOR_THE_MOMENT.into_iter().chain([ErrorCode::Unknown]) {
            let mut copies = sent(1);
            assert_eq!(copies.answered(reply(&[OK, code])), Verdict::Again);
            copies.sent();
            assert_eq!(copies.answered(reply(&[OK, OK])), Verdict::Done(reply(&[OK, OK])));
        }
    }

    #[test]
    fn row_4_a_refusal_for_the_moment_goes_out_again_and_leaves_no_doubt() {
        for code in FOR_THE_MOMENT {
            let mut copies = sent(1);
            assert_eq!(copies.refused(code, "text".into()), Verdict::Again);
            assert_eq!(copies.end(), refused(code));
        }
    }

    #[test]
    fn row_5_an_unknown_copy_stays_in_doubt() {
        let mut copies = sent(1);
        assert_eq!(copies.refused(ErrorCode::Unknown, "text".into()), Verdict::Again);
        copies.sent();
        assert_eq!(copies.refused(ErrorCode::Overloaded, "text".into()), Verdict::Again);
        assert!(is_unknown(&copies.end()));
    }

    #[test]
    fn row_6_a_definite_mix_of_the_only_copy_ends_a_request() {
        for code in FOR_GOOD {
            assert_eq!(sent(1).answered(reply(&[OK, code])), Verdict::Done(reply(&[OK, code])));
            let advice = Verdict::Refused(code, code.advice().to_owned());
            assert_eq!(sent(1).answered(reply(&[code, code])), advice, "nothing was decided");
        }
    }

    #[test]
    fn row_7_a_definite_mix_says_nothing_of_other_copies() {
        for code in FOR_GOOD {
            assert!(is_unknown(&sent(2).answered(reply(&[OK, code]))), "{code:?}");
        }
    }

    #[test]
    fn rows_8_and_9_a_refusal_of_the_only_copy_means_not_applied() {
        for code in FOR_GOOD {
            let expected = if code == ErrorCode::SessionExpired { Verdict::Expired } else { refused(code) };
            assert_eq!(sent(1).refused(code, "text".into()), expected);
            let mut second = sent(1);
            assert_eq!(second.refused(ErrorCode::Overloaded, "busy".into()), Verdict::Again);
            second.sent();
            assert_eq!(second.refused(code, "text".into()), expected, "the first was refused, too");
        }
    }

    #[test]
    fn row_10_a_refusal_of_one_copy_says_nothing_of_another() {
        for code in FOR_GOOD {
            assert!(is_unknown(&sent(2).refused(code, "text".into())), "{code:?}");
        }
    }

    #[test]
    fn row_11_what_an_earlier_copy_did_in_part_is_the_answer() {
        for code in FOR_GOOD {
            let mut copies = sent(1);
            let mixed = reply(&[OK, ErrorCode::Overloaded]);
            assert_eq!(copies.answered(mixed.clone()), Verdict::Again);
            copies.sent();
            assert_eq!(copies.refused(code, "text".into()), Verdict::Done(mixed), "{code:?}");
        }
    }

    #[test]
    fn row_12_a_deadline_without_doubt_says_what_was_applied() {
        assert_eq!(sent(0).end(), Verdict::Unreachable);
        let busy = ErrorCode::Overloaded;
        let mut copies = sent(1);
        assert_eq!(copies.answered(reply(&[OK, busy, busy])), Verdict::Again);
        copies.sent();
        assert_eq!(copies.refused(busy, "text".into()), Verdict::Again);
        copies.sent();
        assert_eq!(copies.answered(reply(&[OK, OK, busy])), Verdict::Again);
        copies.sent();
        assert_eq!(copies.answered(reply(&[OK, busy, busy])), Verdict::Again, "less than what is known");
        assert_eq!(copies.end(), Verdict::Done(reply(&[OK, OK, busy])));
    }

    #[test]
    fn row_12_answers_that_cannot_be_put_together_are_unknown() {
        let busy = ErrorCode::Overloaded;
        let mut copies = sent(1);
        assert_eq!(copies.answered(reply(&[OK, busy])), Verdict::Again);
        copies.sent();
        assert_eq!(copies.answered(reply(&[busy, OK])), Verdict::Again);
        assert!(is_unknown(&copies.end()));
    }

    #[test]
    fn row_13_a_deadline_with_a_copy_in_doubt_is_unknown() {
        assert!(is_unknown(&sent(1).end()));
        let mut copies = sent(1);
        assert_eq!(copies.answered(reply(&[OK, ErrorCode::Unknown])), Verdict::Again);
        assert!(is_unknown(&copies.end()), "a part may yet be applied");
    }

    #[test]
    fn rows_14_and_15_what_never_left_is_in_no_doubt_and_what_was_lost_is() {
        let mut copies = sent(2);
        copies.never_left();
        assert!(copies.may_be_applied());
        copies.never_left();
        assert!(!copies.may_be_applied());
        assert_eq!(copies.end(), Verdict::Unreachable);
    }
}
