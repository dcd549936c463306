//! The error codes that cross the wire.
//!
//! Each layer has its own small error type beside its code; this one is what clients see.

use std::fmt;

/// Why a request, or one increment of it, was refused. The numbers are those of `schema/common.fbs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum ErrorCode {
    /// No error.
    Ok = 0,
    /// The frame or the request does not follow the protocol.
    Malformed = 1,
    /// A key, a batch, a k or a frame is larger than its limit (or a key is empty).
    TooLarge = 2,
    /// The server does not know this request or protocol version.
    Unsupported = 3,
    /// The count would leave the range of a signed 64-bit integer.
    Overflow = 4,
    /// Too much is under way.
    Overloaded = 5,
    /// The shard has no leader that can commit at the moment.
    Unavailable = 6,
    /// The configured memory is used up.
    MemoryFull = 7,
    /// The disk is full.
    DiskFull = 8,
    /// No answer in time; the increment may have been applied, or may yet be.
    Unknown = 9,
    /// The shard does not own the key.
    WrongShard = 10,
    /// The server is stopping.
    ShuttingDown = 11,
    /// The sequence is at or under the session's floor: the request was decided, its client said so, and its outcome is
    /// kept no more.
    Forgotten = 12,
    /// The session has ended by age. This copy was not applied; an earlier one may have been.
    SessionExpired = 13,
    /// The session has used the sequence for a request with other content.
    OtherContent = 14,
    /// The sequence was resolved before this request came: it was not applied, and never will be.
    Fenced = 15,
    /// The named session was opened again by somebody else. This copy was not applied; an earlier one may have been.
    SessionTaken = 16,
    /// The session does not exist, or the token is not its own.
    BadSession = 17,
    /// The scan cannot be gone on with: its client let it wait too long, the server was started again, or too much changed meanwhile.
    ScanLost = 18,
}

impl ErrorCode {
    const ALL: [ErrorCode; 19] = [
        ErrorCode::Ok,
        ErrorCode::Malformed,
        ErrorCode::TooLarge,
        ErrorCode::Unsupported,
        ErrorCode::Overflow,
        ErrorCode::Overloaded,
        ErrorCode::Unavailable,
        ErrorCode::MemoryFull,
        ErrorCode::DiskFull,
        ErrorCode::Unknown,
        ErrorCode::WrongShard,
        ErrorCode::ShuttingDown,
        ErrorCode::Forgotten,
        ErrorCode::SessionExpired,
        ErrorCode::OtherContent,
        ErrorCode::Fenced,
        ErrorCode::SessionTaken,
        ErrorCode::BadSession,
        ErrorCode::ScanLost,
    ];

    /// The code with this number, if this version knows it.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<ErrorCode> {
        Self::ALL.get(number as usize).copied()
    }

    /// Whether the refusal promises that this copy of the request was not applied and never will be. Of an earlier copy
    /// under the same session and sequence only [`ErrorCode::settles`] says something.
    #[must_use]
    pub fn is_definite(self) -> bool {
        !matches!(self, ErrorCode::Ok | ErrorCode::Unknown)
    }

    /// Whether the refusal speaks of the sequence, and so of every copy of the request: none was applied, none will be.
    #[must_use]
    pub fn settles(self) -> bool {
        matches!(self, ErrorCode::Overflow | ErrorCode::Fenced)
    }

    /// Whether the same request may be answered otherwise later, so that sending it again is worth while.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            ErrorCode::Overloaded
                | ErrorCode::Unavailable
                | ErrorCode::DiskFull
                | ErrorCode::MemoryFull
                | ErrorCode::Unknown
                | ErrorCode::WrongShard
                | ErrorCode::ShuttingDown
        )
    }

    /// One sentence for people: what happened, and what to do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            ErrorCode::Ok => "no error",
            ErrorCode::Malformed => {
                "the request does not follow the protocol; the client has a bug or is of another version"
            }
            ErrorCode::TooLarge => {
                "a key is empty or too long, or a batch, a k or a frame is too large; send less at once"
            }
            ErrorCode::Unsupported => {
                "the server does not know this request or protocol version; upgrade the older side"
            }
            ErrorCode::Overflow => "the count would leave the range of a signed 64-bit integer; it was not changed",
            ErrorCode::Overloaded => "too much is under way; nothing was applied; try again later",
            ErrorCode::Unavailable => {
                "the shard has no leader that can commit at the moment; nothing was applied; try again"
            }
            ErrorCode::MemoryFull => {
                "the configured memory is used up, so no new keys; raise --memory-max or add stores"
            }
            ErrorCode::DiskFull => "the log's disk is full; nothing was applied; free space and try again",
            ErrorCode::Unknown => "no answer in time: the increment may have been applied, or may yet be",
            ErrorCode::WrongShard => "the shard does not own the key; fetch the map again",
            ErrorCode::ShuttingDown => {
                "the server is stopping; nothing was applied; try another node or try again later"
            }
            ErrorCode::Forgotten => {
                "the session said that it had the answer to this request, and the outcome is kept no more; it was decided once"
            }
            ErrorCode::SessionExpired => {
                "the session has ended by age; this copy was not applied, an earlier one may have been; open a new session"
            }
            ErrorCode::OtherContent => {
                "the session has used this sequence for a request with other content; nothing was applied; the client has a \
                 bug, or its source has changed"
            }
            ErrorCode::Fenced => "the request was resolved before it arrived: it was not applied, and never will be",
            ErrorCode::SessionTaken => {
                "the named session was opened again elsewhere; this copy was not applied, an earlier one may have been"
            }
            ErrorCode::BadSession => "the session does not exist, or its token is wrong; nothing was applied",
            ErrorCode::ScanLost => {
                "the scan was left waiting too long, or overtaken by too many changes, or its server was started again; begin \
                 anew"
            }
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}: {}", self.advice())
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn numbers_and_codes_agree() {
        for number in 0..=u8::MAX {
            if let Some(code) = ErrorCode::from_u8(number) {
                assert_eq!(code as u8, number);
            }
        }
        assert_eq!(ErrorCode::from_u8(ErrorCode::ALL.len() as u8), None);
    }
}
