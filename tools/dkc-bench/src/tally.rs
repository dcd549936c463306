//! What was measured.

use crate::mix::Operation;
use dkc::error::ErrorCode;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Latencies are told apart to three digits, from a tenth of a microsecond to two minutes; beyond are the bounds.
const LATENCY_NANOS: (u64, u64) = (100, 120_000_000_000);
const LATENCY_DIGITS: u8 = 3;

/// A histogram of times, in nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(LATENCY_NANOS.0, LATENCY_NANOS.1, LATENCY_DIGITS);
    histogram.expect("constant bounds, in order, with a valid number of digits")
}

/// Takes in a time.
#[inline]
pub(crate) fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

/// What became of requests, and how long answers took.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Requests that were answered, and not refused as a whole.
    pub(crate) requests: u64,
    /// Increments acknowledged, or keys read.
    pub(crate) keys: u64,
    /// Of the keys read, those that exist.
    pub(crate) found: u64,
    /// Keys of requests, or increments of batches, that were refused, by the number of their [`ErrorCode`]. A top counts
    /// as one key.
    pub(crate) refused: BTreeMap<u8, u64>,
    /// Increments that may have been applied or not, or reads without an answer.
    pub(crate) unknown: u64,
    /// Of the requests answered, nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally { requests: 0, keys: 0, found: 0, refused: BTreeMap::new(), unknown: 0, latency: histogram() }
    }

    /// Takes in a request that was answered after so long.
    #[inline]
    pub(crate) fn note_answer(&mut self, latency: Duration) {
        self.requests += 1;
        record(&mut self.latency, latency);
    }

    /// Takes in what became of a number of keys.
    #[inline]
    pub(crate) fn note_keys(&mut self, code: ErrorCode, count: u64) {
        match code {
            ErrorCode::Ok => self.keys += count,
            ErrorCode::Unknown => self.unknown += count,
            code => *self.refused.entry(code as u8).or_default() += count,
        }
    }

    /// Adds what another one measured.
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

/// A tally for each operation.
#[derive(Clone, Debug)]
pub(crate) struct Tallies(Vec<Tally>);

impl Tallies {
    pub(crate) fn new() -> Tallies {
        Tallies(vec![Tally::new(); Operation::ALL.len()])
    }

    pub(crate) fn of(&self, operation: Operation) -> &Tally {
        &self.0[operation as usize]
    }

    pub(crate) fn of_mut(&mut self, operation: Operation) -> &mut Tally {
        &mut self.0[operation as usize]
    }

    pub(crate) fn merge(&mut self, other: &Tallies) {
        self.0.iter_mut().zip(&other.0).for_each(|(tally, other)| tally.merge(other));
    }

    /// All operations together.
    pub(crate) fn total(&self) -> Tally {
        let mut total = Tally::new();
        self.0.iter().for_each(|tally| total.merge(tally));
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut tallies = Tallies::new();
        let tally = tallies.of_mut(Operation::Increment);
        tally.note_answer(Duration::from_micros(5));
        tally.note_keys(ErrorCode::Ok, 7);
        tally.note_keys(ErrorCode::Overloaded, 2);
        tally.note_keys(ErrorCode::Unknown, 1);
        let mut other = tallies.clone();
        other.of_mut(Operation::Increment).note_keys(ErrorCode::Overflow, 3);
        other.of_mut(Operation::Get).note_answer(Duration::MAX);
        tallies.merge(&other);
        let of = |operation| (tallies.of(operation).requests, tallies.of(operation).keys);
        assert_eq!(Operation::ALL.map(of), [(2, 14), (1, 0), (0, 0)]);
        let total = tallies.total();
        assert_eq!((total.requests, total.keys, total.unknown, total.latency.len()), (3, 14, 2, 3));
        let refused: Vec<_> = total.refused_by_name().collect();
        assert_eq!(refused, [("Overflow".to_owned(), 3), ("Overloaded".to_owned(), 4)]);
    }

    #[test]
    fn percentiles_are_right_to_three_digits_and_out_of_range_is_the_bound() {
        let mut latency = histogram();
        (1..=100_000u64).for_each(|micros| record(&mut latency, Duration::from_micros(micros)));
        for (percent, micros) in [(50.0, 50_000.0), (90.0, 90_000.0), (99.9, 99_900.0), (99.99, 99_990.0)] {
            let value = latency.value_at_percentile(percent) as f64 / 1e3;
            assert!((value / micros - 1.0).abs() <= 1e-3, "p{percent}: {value}");
        }
        assert!((latency.mean() / 1e3 / 50_000.5 - 1.0).abs() < 1e-3);
        record(&mut latency, Duration::from_secs(1_000_000));
        assert!(latency.max() >= LATENCY_NANOS.1);
    }
}
