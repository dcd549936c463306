//! Tokens: 128 bits that prove a session to be one's own.
//!
//! A token is SipHash-2-4 of the session and its epoch under a secret of the cluster, so a store tells a true one without
//! asking anybody and nothing need be kept; and an id that was never handed out has no token that anyone could know.
//! Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF" (INDOCRYPT 2012).

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::Credentials;
use crate::ids::{SessionEpoch, SessionId, SessionToken};

/// A cluster's secret, chosen at its creation. It does not show itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSecret(pub [u8; 16]);

impl std::fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionSecret")
    }
}

impl SessionSecret {
    /// The token of a session's opening.
    #[must_use]
    pub fn token(&self, session: SessionId, epoch: SessionEpoch) -> SessionToken {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&session.0.to_le_bytes());
        hasher.write(&epoch.0.to_le_bytes());
        SessionToken(hasher.finish128().as_u128())
    }

    /// Whether the credentials are those of a session that was opened.
    #[must_use]
    pub fn proves(&self, credentials: &Credentials) -> bool {
        // Without a branch on single bytes: the time taken says nothing about how much of a guess is right.
        (self.token(credentials.session, credentials.epoch).0 ^ credentials.token.0) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_fits_one_opening_of_one_session_in_one_cluster() {
        let (secret, other) = (SessionSecret([7; 16]), SessionSecret([8; 16]));
        let (session, epoch) = (SessionId(5), SessionEpoch(1));
        let token = secret.token(session, epoch);
        let credentials = Credentials { session, epoch, token };
        assert!(secret.proves(&credentials));
        assert!(!other.proves(&credentials));
        assert!(!secret.proves(&Credentials { session: SessionId(6), ..credentials }));
        assert!(!secret.proves(&Credentials { epoch: SessionEpoch(2), ..credentials }));
        assert!(!secret.proves(&Credentials { token: SessionToken(token.0 ^ 1), ..credentials }));
    }

    #[test]
    fn secrets_do_not_show_themselves() {
        assert_eq!(format!("{:?}", SessionSecret([7; 16])), "SessionSecret");
    }
}
