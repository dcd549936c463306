//! Keys as people see and type them.
//!
//! A key is any bytes; a terminal is not to be trusted with all of them. The escaped form is reversible: printable
//! UTF-8 stands for itself, a backslash is `\\`, and every other byte (not UTF-8, or part of a control character) is
//! `\xNN`.

use crate::args::UsageError;
use dkc::limits::KEY_BYTES_MAX;
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// The escaped form of a key.
pub(crate) fn escape(key: &[u8]) -> String {
    let mut escaped = String::with_capacity(key.len());
    let hex = |escaped: &mut String, bytes: &[u8]| {
        for byte in bytes {
            write!(escaped, "\\x{byte:02x}").expect("a String takes everything");
        }
    };
    for chunk in key.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' {
                escaped.push_str("\\\\");
            } else if character.is_control() {
                hex(&mut escaped, character.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                escaped.push(character);
            }
        }
        hex(&mut escaped, chunk.invalid());
    }
    escaped
}

/// The key of an escaped form. Bytes that need no escape may be escaped all the same.
pub(crate) fn unescape(escaped: &[u8]) -> Result<Vec<u8>, UsageError> {
    let mut key = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    loop {
        match rest {
            [] => return Ok(key),
            [b'\\', b'\\', after @ ..] => {
                key.push(b'\\');
                rest = after;
            }
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
                key.push(digit(*high) << 4 | digit(*low));
                rest = after;
            }
            [b'\\', ..] => return Err(UsageError("a backslash is followed by neither a backslash nor xNN".to_owned())),
            [byte, after @ ..] => {
                key.push(*byte);
                rest = after;
            }
        }
    }
}

/// The key that an argument names: its bytes, or what they are the escaped form of.
pub(crate) fn from_argument(argument: &OsStr, escaped: bool) -> Result<Vec<u8>, UsageError> {
    let key = if escaped { unescape(argument.as_bytes())? } else { argument.as_bytes().to_vec() };
    match key.len() {
        0 => Err(UsageError("a key has at least one byte".to_owned())),
        1..=KEY_BYTES_MAX => Ok(key),
        length => Err(UsageError(format!("the key has {length} bytes, at most {KEY_BYTES_MAX} are allowed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_could_misread_is_escaped() {
        assert_eq!(escape("the Größe".as_bytes()), "the Größe");
        assert_eq!(escape(b"C:\\x41"), "C:\\\\x41");
        assert_eq!(escape(b"\x1b[31m\n\t\0\x7f"), "\\x1b[31m\\x0a\\x09\\x00\\x7f");
        assert_eq!(escape("\u{9b}".as_bytes()), "\\xc2\\x9b");
        assert_eq!(escape(b"a\xff\xc3"), "a\\xff\\xc3");
    }

    #[test]
    fn broken_escapes_and_impossible_keys_are_refused() {
        assert_eq!(unescape(b"\\x41\\xfF").expect("valid"), b"A\xff");
        for broken in ["\\", "\\n", "\\x", "\\x4", "\\x4g", "\\x+1"] {
            assert!(unescape(broken.as_bytes()).is_err(), "{broken}");
        }
        assert_eq!(from_argument(OsStr::new("\\x41"), false).expect("valid"), b"\\x41");
        assert!(from_argument(OsStr::new(""), false).is_err());
        assert!(from_argument(OsStr::new(&"k".repeat(1_025)), false).is_err());
        assert!(from_argument(OsStr::new(&"\\x00".repeat(1_024)), true).is_ok());
    }

    proptest! {
        #[test]
        fn escaping_is_reversible(key in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\\'), Just(b'x')], 0..50)) {
            let escaped = escape(&key);
            prop_assert!(!escaped.chars().any(char::is_control));
            prop_assert_eq!(unescape(escaped.as_bytes()).expect("just escaped"), key);
        }
    }
}
