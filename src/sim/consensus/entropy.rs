//! Where the world's choices come from: a finite string of bytes. When it is used up, the hostile part of a run ends; so a shorter string
//! is a shorter run, a string with more zeros a tamer one, and a failing run can be made small without knowing what it means.
//!
//! The other source enumerates: run after run it tries every sequence of choices, like an odometer.

use crate::engine::prng::Prng;

/// A source of choices.
#[derive(Clone, Debug)]
pub enum Entropy {
    /// Bytes, and how many of them are used.
    Bytes(Vec<u8>, usize),
    /// All sequences of so many choices at most.
    Every(Odometer),
}

/// Sequences of choices, each with its number of alternatives.
#[derive(Clone, Debug, Default)]
pub struct Odometer {
    digits: Vec<(u64, u64)>,
    at: usize,
    digits_max: usize,
}

impl Entropy {
    /// As many bytes as wanted, made of a seed.
    #[must_use]
    pub fn of_seed(seed: u64, bytes: usize) -> Entropy {
        let mut prng = Prng::new(seed);
        let words = std::iter::repeat_with(|| prng.bits().to_le_bytes());
        Entropy::Bytes(words.take(bytes.div_ceil(8)).flatten().take(bytes).collect(), 0)
    }

    /// A choice of one in `bound`, which is at least 1; `None` when there are no more.
    pub fn below(&mut self, bound: u64) -> Option<u64> {
        debug_assert!(bound > 0, "an empty range has no number");
        match self {
            Entropy::Bytes(bytes, at) => {
                let mut number = 0;
                for _ in 0..if bound <= 64 { 1 } else { 2 } {
                    number = (number << 8) | u64::from(*bytes.get(*at)?);
                    *at += 1;
                }
                Some(number % bound)
            }
            Entropy::Every(odometer) => odometer.below(bound),
        }
    }

    /// True `numerator` times in `denominator`, and false if there are no more choices.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        // Zeros say no, so that they make a run tamer.
        numerator > 0 && self.below(denominator).is_some_and(|number| number >= denominator - numerator)
    }

    /// Whether all choices are used up.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self {
            Entropy::Bytes(bytes, at) => *at >= bytes.len(),
            Entropy::Every(odometer) => odometer.at >= odometer.digits_max,
        }
    }
}

impl Odometer {
    /// Begins with the sequence of zeros.
    #[must_use]
    pub fn new(choices_max: usize) -> Odometer {
        Odometer { digits: Vec::new(), at: 0, digits_max: choices_max }
    }

    fn below(&mut self, bound: u64) -> Option<u64> {
        if self.at >= self.digits_max {
            return None;
        }
        if self.at == self.digits.len() {
            self.digits.push((0, bound));
        }
        let (digit, known) = self.digits[self.at];
        debug_assert_eq!(known, bound, "the same choices lead to the same alternatives");
        self.at += 1;
        Some(digit)
    }

    /// Turns to the next sequence; false if that was the last.
    pub fn advance(&mut self) -> bool {
        // Choices that were not come to do not count.
        self.digits.truncate(self.at);
        self.at = 0;
        while let Some((digit, bound)) = self.digits.pop() {
            if digit + 1 < bound {
                self.digits.push((digit + 1, bound));
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odometer_tries_every_sequence_once() {
        let mut odometer = Odometer::new(3);
        let mut seen = Vec::new();
        loop {
            let mut entropy = Entropy::Every(odometer.clone());
            // The number of alternatives depends on what was chosen before.
            let first = entropy.below(2).unwrap();
            let rest: Vec<u64> = std::iter::from_fn(|| entropy.below(first + 1)).collect();
            seen.push((first, rest));
            let Entropy::Every(used) = entropy else { unreachable!("it was an odometer") };
            odometer = used;
            if !odometer.advance() {
                break;
            }
        }
        let expected = [(0, vec![0, 0]), (1, vec![0, 0]), (1, vec![0, 1]), (1, vec![1, 0]), (1, vec![1, 1])];
        assert_eq!(seen, expected);
    }

    #[test]
    fn bytes_run_out() {
        let mut entropy = Entropy::of_seed(1, 5);
        assert!((0..4).all(|_| entropy.below(10).is_some_and(|number| number < 10)));
        assert_eq!((entropy.below(300), entropy.is_over()), (None, true));
    }
}
