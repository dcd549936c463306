//! A token bucket: how fast checkpoints are written, so that the log and everybody who waits for it has the disk.

use crate::ids::Micros;
use crate::limits::CHECKPOINT_BURST_DIVISOR;

/// Bytes that may be made now. A piece is made whole once there is any left, so it may run into debt by one.
#[derive(Debug)]
pub struct Budget {
    bytes_per_second: u64,
    left: i64,
    at: Micros,
}

impl Budget {
    /// A full budget.
    #[must_use]
    pub fn new(bytes_per_second: u64, now: Micros) -> Budget {
        Budget { bytes_per_second, left: burst(bytes_per_second), at: now }
    }

    /// Adds what has come since the last time.
    pub fn refill(&mut self, now: Micros) {
        let micros = now.0.saturating_sub(self.at.0);
        let grown = u128::from(micros) * u128::from(self.bytes_per_second) / 1_000_000;
        // A while too short for a byte counts with the next one.
        if grown > 0 {
            let grown = i64::try_from(grown).unwrap_or(i64::MAX);
            self.left = self.left.saturating_add(grown).min(burst(self.bytes_per_second));
            self.at = now;
        }
    }

    /// Whether something may be made.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.left > 0
    }

    /// Something was made.
    pub fn spend(&mut self, bytes: usize) {
        self.left -= bytes as i64;
    }

    /// When something may be made again; `None` if it may be now.
    #[must_use]
    pub fn opens_at(&self) -> Option<Micros> {
        let debt = u128::from((1 - self.left).max(0) as u64);
        let micros = (debt * 1_000_000).div_ceil(u128::from(self.bytes_per_second.max(1)));
        (!self.is_open()).then(|| self.at.plus(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// The last moment that it was told.
    #[must_use]
    pub fn at(&self) -> Micros {
        self.at
    }
}

fn burst(bytes_per_second: u64) -> i64 {
    i64::try_from(bytes_per_second / CHECKPOINT_BURST_DIVISOR + 1).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_comes_back_at_the_rate() {
        let mut budget = Budget::new(1_000_000, Micros(0));
        assert!(budget.is_open() && budget.opens_at().is_none());
        budget.spend(burst(1_000_000) as usize + 499);
        assert_eq!(budget.opens_at(), Some(Micros(500)));
        for at in [100, 499] {
            budget.refill(Micros(at));
            assert!(!budget.is_open());
        }
        budget.refill(budget.opens_at().expect("a debt"));
        assert!(budget.is_open());
        budget.refill(Micros(u64::MAX));
        assert_eq!(budget.left, burst(1_000_000), "no more than a burst is saved up");
    }

    #[test]
    fn short_whiles_add_up() {
        let mut budget = Budget::new(1_000, Micros(0));
        budget.spend(burst(1_000) as usize + 9);
        (1..=10_000).for_each(|at| budget.refill(Micros(at)));
        assert!(budget.is_open());
    }
}
