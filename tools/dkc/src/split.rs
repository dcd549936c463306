//! Cutting a stream of bytes into keys, with memory for one key only.

use dkc::limits::KEY_BYTES_MAX;

/// What keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Lines, without their newline.
    Lines,
    /// Maximal runs of ASCII letters.
    Words,
}

impl Unit {
    #[inline]
    fn contains(self, byte: u8) -> bool {
        match self {
            Unit::Lines => byte != b'\n',
            Unit::Words => byte.is_ascii_alphabetic(),
        }
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A key of 1 to [`KEY_BYTES_MAX`] bytes.
    Key(&'a [u8]),
    /// Something longer was skipped.
    TooLong {
        /// The line it is in, from 1.
        line: u64,
    },
}

/// Takes chunks of a stream, cut anywhere, and finds the keys. A key that is cut is carried over to the next chunk,
/// up to the length a key may have; of anything longer only the line number is kept.
#[derive(Debug)]
pub(crate) struct Splitter {
    unit: Unit,
    /// The start of a key that reaches past the last chunk.
    carried: Vec<u8>,
    /// Whether that key is already too long, in which case `carried` is not used.
    too_long: bool,
    line: u64,
}

impl Splitter {
    pub(crate) fn new(unit: Unit) -> Splitter {
        Splitter { unit, carried: Vec::with_capacity(KEY_BYTES_MAX), too_long: false, line: 1 }
    }

    /// Finds the keys that end in `chunk`. Stops at the first error of `sink`, after which nothing more may be fed.
    pub(crate) fn feed<E>(&mut self, chunk: &[u8], mut sink: impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut rest = chunk;
        while !rest.is_empty() {
            let unit = self.unit;
            let length = rest.iter().position(|&byte| !unit.contains(byte)).unwrap_or(rest.len());
            let (run, after) = rest.split_at(length);
            let Some((&separator, after)) = after.split_first() else {
                self.carry(run);
                return Ok(());
            };
            if self.carried.is_empty() && !self.too_long && run.len() <= KEY_BYTES_MAX {
                if !run.is_empty() {
                    sink(Piece::Key(run))?;
                }
            } else {
                self.carry(run);
                self.end_key(&mut sink)?;
            }
            self.line += u64::from(separator == b'\n');
            rest = after;
        }
        Ok(())
    }

    /// Says that the stream has ended, which ends the last key.
    pub(crate) fn finish<E>(&mut self, mut sink: impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        self.end_key(&mut sink)
    }

    fn carry(&mut self, run: &[u8]) {
        if self.too_long || self.carried.len() + run.len() > KEY_BYTES_MAX {
            self.too_long = true;
        } else {
            self.carried.extend_from_slice(run);
        }
    }

    fn end_key<E>(&mut self, sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        let result = if self.too_long {
            sink(Piece::TooLong { line: self.line })
        } else if self.carried.is_empty() {
            Ok(())
        } else {
            sink(Piece::Key(&self.carried))
        };
        self.carried.clear();
        self.too_long = false;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    type Found = Result<Vec<u8>, u64>;

    fn split(unit: Unit, chunks: &[&[u8]]) -> Vec<Found> {
        let mut found = Vec::new();
        let mut sink = |piece: Piece<'_>| {
            found.push(match piece {
                Piece::Key(key) => Ok(key.to_vec()),
                Piece::TooLong { line } => Err(line),
            });
            Ok::<(), Infallible>(())
        };
        let mut splitter = Splitter::new(unit);
        for chunk in chunks {
            splitter.feed(chunk, &mut sink).expect("infallible");
        }
        splitter.finish(&mut sink).expect("infallible");
        found
    }

    /// The same, from a text that is there as a whole.
    fn naive(unit: Unit, text: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
            for key in line.split(|&byte| !unit.contains(byte)).filter(|key| !key.is_empty()) {
                found.push(if key.len() <= KEY_BYTES_MAX { Ok(key.to_vec()) } else { Err(number) });
            }
        }
        found
    }

    fn keys(keys: &[&str]) -> Vec<Found> {
        keys.iter().map(|key| Ok(key.as_bytes().to_vec())).collect()
    }

    #[test]
    fn lines_are_kept_as_they_are_and_empty_ones_skipped() {
        let text = b"\n one \r\n\ntwo, three\nlast without end";
        assert_eq!(split(Unit::Lines, &[text]), keys(&[" one \r", "two, three", "last without end"]));
        assert_eq!(split(Unit::Lines, &[b"a\n"]), keys(&["a"]));
        assert_eq!(split(Unit::Lines, &[]), keys(&[]));
    }

    #[test]
    fn words_are_runs_of_ascii_letters() {
        let text = "Don't say \u{df}Gr\u{f6}\u{df}e2go_x".as_bytes();
        assert_eq!(split(Unit::Words, &[text]), keys(&["Don", "t", "say", "Gr", "e", "go", "x"]));
    }

    #[test]
    fn the_longest_key_passes_and_a_longer_one_is_reported_by_its_line() {
        let longest = "k".repeat(KEY_BYTES_MAX);
        let text = format!("a\n{longest}k\n{longest}\n{longest}{longest}");
        let expected = vec![Ok(b"a".to_vec()), Err(2), Ok(longest.clone().into_bytes()), Err(4)];
        assert_eq!(split(Unit::Lines, &[text.as_bytes()]), expected);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(split(Unit::Lines, &bytes), expected);
        let (start, end) = text.as_bytes().split_at(KEY_BYTES_MAX + 3);
        assert_eq!(split(Unit::Words, &[start, end]), expected);
    }

    #[test]
    fn memory_does_not_grow_with_a_line() {
        let mut splitter = Splitter::new(Unit::Lines);
        for _ in 0..1_000 {
            splitter.feed(&[b'x'; 1_000], |_| Err(())).expect("no key ends here");
        }
        assert_eq!(splitter.carried.capacity(), KEY_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn any_chunking_finds_the_same(
            runs in prop::collection::vec(("[a-cA-C]{0,3}|[k]{500,1500}", "[\n ,\u{e4}1]"), 0..12),
            chunk_bytes in 1_usize..1_200,
            words in any::<bool>(),
        ) {
            let text: String = runs.iter().flat_map(|(run, separator)| [run.as_str(), separator.as_str()]).collect();
            let unit = if words { Unit::Words } else { Unit::Lines };
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(chunk_bytes).collect();
            prop_assert_eq!(split(unit, &chunks), naive(unit, text.as_bytes()));
        }
    }
}
