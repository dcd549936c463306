//! Increments gathered for one request.

use crate::engine::part::PackedKeys;
use crate::error::ErrorCode;
use crate::limits::{BATCH_KEYS_MAX, FLATBUFFER_TABLE_OVERHEAD_BYTES, KEY_BYTES_MAX, REQUEST_BYTES_MAX};
use thiserror::Error;

/// Increments that fit in one request. Cleared and filled again, it stops allocating.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    keys: PackedKeys,
    deltas: Vec<i64>,
}

/// Why an increment was not added to a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The request would become too large: send the batch, clear it, and add the increment then.
    #[error("the batch is full")]
    Full,
    /// A key has at least one byte.
    #[error("the key is empty")]
    KeyEmpty,
    /// A key has at most [`KEY_BYTES_MAX`] bytes.
    #[error("the key has {0} bytes, at most {KEY_BYTES_MAX} are allowed")]
    KeyTooLong(usize),
}

impl From<BatchError> for super::ClientError {
    fn from(error: BatchError) -> Self {
        super::ClientError::Refused { code: ErrorCode::TooLarge, text: error.to_string() }
    }
}

impl Batch {
    /// A batch without increments.
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds an increment.
    ///
    /// # Errors
    /// The key breaks a limit, or the batch is full; the batch is as before.
    #[inline]
    pub fn push(&mut self, key: &[u8], delta: i64) -> Result<(), BatchError> {
        check_key(&self.keys, key)?;
        self.keys.push(key);
        self.deltas.push(delta);
        Ok(())
    }

    /// Number of increments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.deltas.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deltas.is_empty()
    }

    /// Removes all increments and keeps the memory.
    pub fn clear(&mut self) {
        self.keys.bytes.clear();
        self.keys.ends.clear();
        self.deltas.clear();
    }

    /// The keys, one for each increment.
    #[must_use]
    pub fn keys(&self) -> &PackedKeys {
        &self.keys
    }

    /// Adds to the delta at a place, if that stays within its range. Whether it did.
    pub(super) fn add(&mut self, place: usize, delta: i64) -> bool {
        let sum = self.deltas[place].checked_add(delta);
        self.deltas[place] = sum.unwrap_or(self.deltas[place]);
        sum.is_some()
    }

    /// The deltas, one for each key.
    #[must_use]
    pub fn deltas(&self) -> &[i64] {
        &self.deltas
    }
}

/// Whether a request with these keys, and as many deltas, has room for one more.
#[inline]
pub(super) fn check_key(keys: &PackedKeys, key: &[u8]) -> Result<(), BatchError> {
    /// What each key takes beside its bytes: where it ends, and a delta.
    const COLUMN_BYTES: usize = size_of::<u32>() + size_of::<i64>();
    match key.len() {
        0 => return Err(BatchError::KeyEmpty),
        1..=KEY_BYTES_MAX => {}
        length => return Err(BatchError::KeyTooLong(length)),
    }
    let count = keys.len() + 1;
    let bytes = keys.bytes.len() + key.len() + count * COLUMN_BYTES + FLATBUFFER_TABLE_OVERHEAD_BYTES;
    if count > BATCH_KEYS_MAX || bytes > REQUEST_BYTES_MAX { Err(BatchError::Full) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::{Encoder, decode_request};
    use crate::wire::frame::{Decoder, Frame};

    /// Fills a batch with keys of one length and has it encoded and decoded.
    fn fill(key_bytes: usize) -> usize {
        let mut batch = Batch::new();
        while batch.push(&vec![b'k'; key_bytes], -1).is_ok() {}
        assert_eq!(batch.push(&vec![b'k'; key_bytes], -1), Err(BatchError::Full));
        let mut out = Vec::new();
        Encoder::new().increment(&mut out, 1, batch.keys(), batch.deltas(), true, None);
        let mut decoder = Decoder::new(REQUEST_BYTES_MAX);
        decoder.space(out.len())[..out.len()].copy_from_slice(&out);
        decoder.filled(out.len());
        let Frame { kind, payload, .. } = decoder.next_frame().expect("within the limit").expect("complete");
        assert!(decode_request(kind, payload).is_ok());
        batch.len()
    }

    #[test]
    fn a_full_batch_is_a_request_that_servers_accept() {
        assert_eq!(fill(1), BATCH_KEYS_MAX);
        assert!(fill(KEY_BYTES_MAX) > 1_000);
        fill(53);
    }

    #[test]
    fn keys_beyond_the_limits_are_refused_and_change_nothing() {
        let mut batch = Batch::new();
        assert_eq!(batch.push(b"", 1), Err(BatchError::KeyEmpty));
        assert_eq!(batch.push(&[0; 1_025], 1), Err(BatchError::KeyTooLong(1_025)));
        assert!(batch.is_empty());
        assert_eq!(batch.push(&[0; 1_024], 1), Ok(()));
        batch.clear();
        assert_eq!(batch, Batch::new());
    }
}
