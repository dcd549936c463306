//! The id of a request: all it takes to ask later what became of it.

use crate::engine::sessions::Credentials;
use crate::ids::{Sequence, SessionEpoch, SessionId, SessionToken};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Names one request of a session, with the right to speak for it. As text it is one word: five hexadecimal numbers (session,
/// epoch, sequence, increments, token) with `_` between them, so that it can be written down and typed.
///
/// Whoever has it can resolve the request, and could send requests under its session; it is as secret as the session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId {
    /// The session, and the right to speak for it.
    pub credentials: Credentials,
    /// The request's number.
    pub sequence: Sequence,
    /// How many increments it has: who asks without its keys can tell by it whether all of them were applied.
    pub increments: u32,
}

/// A text that is not the id of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not the id of a request: five hexadecimal numbers with `_` between them are expected")]
pub struct RequestIdError;

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Credentials { session, epoch, token } = self.credentials;
        let (sequence, increments) = (self.sequence.0, self.increments);
        write!(f, "{:x}_{:x}_{sequence:x}_{increments:x}_{:032x}", session.0, epoch.0, token.0)
    }
}

impl FromStr for RequestId {
    type Err = RequestIdError;

    fn from_str(text: &str) -> Result<RequestId, RequestIdError> {
        let number = |word: Option<&str>, digits_max: usize| {
            let word = word.filter(|word| (1..=digits_max).contains(&word.len())).ok_or(RequestIdError)?;
            if !word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(RequestIdError);
            }
            u128::from_str_radix(word, 16).map_err(|_| RequestIdError)
        };
        let mut words = text.split('_');
        let session = SessionId(number(words.next(), 16)? as u64);
        let epoch = SessionEpoch(number(words.next(), 8)? as u32);
        let sequence = Sequence(number(words.next(), 16)? as u64);
        let increments = number(words.next(), 8)? as u32;
        let token = SessionToken(number(words.next(), 32)?);
        if words.next().is_some() || session == SessionId::NONE || sequence == Sequence(0) {
            return Err(RequestIdError);
        }
        Ok(RequestId { credentials: Credentials { session, epoch, token }, sequence, increments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_word_and_reads_back() {
        let credentials =
            Credentials { session: SessionId(77), epoch: SessionEpoch(1), token: SessionToken(u128::MAX / 3) };
        let id = RequestId { credentials, sequence: Sequence(4_096), increments: 16_384 };
        let text = id.to_string();
        assert_eq!(text, "4d_1_1000_4000_55555555555555555555555555555555");
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "1",
            "1_1_1_1",
            "0_1_1_1_1",
            "1_1_0_1_1",
            "1_1_1_1_1_1",
            "1_1_1_1_",
            "1_+1_1_1_1",
            "1_1_1_1_g",
            "1_123456789_1_1_1",
            "12345678123456789_1_1_1_1",
        ] {
            assert_eq!(text.parse::<RequestId>(), Err(RequestIdError), "{text}");
        }
    }
}
