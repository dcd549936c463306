//! What was measured.

use dkc::error::ErrorCode;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Latencies are told apart to three digits, from a tenth of a microsecond to two minutes; beyond are the bounds.
const LATENCY_NANOS: (u64, u64) = (100, 120_000_000_000);
const LATENCY_DIGITS: u8 = 3;

/// What became of requests, and how long answers took.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Requests that were answered, and not refused as a whole.
    pub(crate) requests: u64,
    /// Increments acknowledged, or keys read.
    pub(crate) keys: u64,
    /// Of the keys read, those that exist.
    pub(crate) found: u64,
    /// Keys of requests, or increments of batches, that were refused, by the number of their [`ErrorCode`].
    pub(crate) refused: BTreeMap<u8, u64>,
    /// Increments that may have been applied or not, or reads without an answer.
    pub(crate) unknown: u64,
    /// Of the requests answered, nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        let latency = Histogram::new_with_bounds(LATENCY_NANOS.0, LATENCY_NANOS.1, LATENCY_DIGITS);
        Tally {
            requests: 0,
            keys: 0,
            found: 0,
            refused: BTreeMap::new(),
            unknown: 0,
            latency: latency.expect("constant bounds, in order, with a valid number of digits"),
        }
    }

    /// Takes in a request that was answered after so long.
    pub(crate) fn note_answer(&mut self, latency: Duration) {
        self.requests += 1;
        self.latency.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Takes in what became of a number of keys.
    pub(crate) fn note_keys(&mut self, code: ErrorCode, count: u64) {
        match code {
            ErrorCode::Ok => self.keys += count,
            ErrorCode::Unknown => self.unknown += count,
            code => *self.refused.entry(code as u8).or_default() += count,
        }
    }

    /// Adds what another connection measured.
    pub(crate) fn merge(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.keys += other.keys;
        self.found += other.found;
        self.unknown += other.unknown;
        for (&code, &count) in &other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
    }

    /// The refused, by the name of their code.
    pub(crate) fn refused_by_name(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.refused.iter().map(|(&number, &count)| {
            let name = ErrorCode::from_u8(number).map_or_else(|| number.to_string(), |code| format!("{code:?}"));
            (name, count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut tally = Tally::new();
        tally.note_answer(Duration::from_micros(5));
        tally.note_keys(ErrorCode::Ok, 7);
        tally.note_keys(ErrorCode::Overloaded, 2);
        tally.note_keys(ErrorCode::Unknown, 1);
        let mut other = tally.clone();
        other.note_answer(Duration::MAX);
        other.note_keys(ErrorCode::Overflow, 3);
        tally.merge(&other);
        assert_eq!((tally.requests, tally.keys, tally.unknown, tally.latency.len()), (3, 14, 2, 3));
        let refused: Vec<_> = tally.refused_by_name().collect();
        assert_eq!(refused, [("Overflow".to_owned(), 3), ("Overloaded".to_owned(), 4)]);
    }
}
