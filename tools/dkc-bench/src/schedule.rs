//! When requests are meant to leave in an open loop.
//!
//! A schedule is fixed before anything is sent: nothing that a server or a generator does moves it. Latency counts from
//! the moment of the schedule, so a request that could not leave because earlier ones stood in the way has waited, as
//! the users it stands for would have. A closed loop leaves that wait out ("coordinated omission", G. Tene).

use crate::distribution::{Share, unit};
use clap::ValueEnum;
use dkc::engine::prng::Prng;
use std::time::Duration;

/// How requests follow each other at a fixed rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arrivals {
    /// At equal distances
    Constant,
    /// Independent of each other, as from many users: distances are exponentially distributed
    Poisson,
}

impl Arrivals {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Arrivals::Constant => "constant",
            Arrivals::Poisson => "poisson",
        }
    }
}

/// The moments at which one of several generators is meant to send; together they reach the rate.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    rate: u64,
    share: Share,
    times: Times,
    /// The next moment, after the start.
    next: Duration,
}

#[derive(Clone, Debug)]
enum Times {
    /// How many came before: each moment is computed from the number, so that no error adds up.
    Constant { passed: u64 },
    /// Independent streams of a share of the rate each are together one of the whole rate.
    Poisson { prng: Prng, nanos: f64 },
}

impl Schedule {
    pub(crate) fn new(rate: u64, arrivals: Arrivals, share: Share, seed: u64) -> Schedule {
        let times = match arrivals {
            Arrivals::Constant => Times::Constant { passed: 0 },
            Arrivals::Poisson => Times::Poisson { prng: Prng::new(seed), nanos: 0.0 },
        };
        let mut schedule = Schedule { rate, share, times, next: Duration::ZERO };
        schedule.next = schedule.draw();
        schedule
    }

    /// The next moment, after the start.
    pub(crate) fn next(&self) -> Duration {
        self.next
    }

    /// Goes on to the moment after that.
    pub(crate) fn advance(&mut self) {
        self.next = self.draw();
    }

    fn draw(&mut self) -> Duration {
        match &mut self.times {
            Times::Constant { passed } => {
                let place = u128::from(self.share.number) + u128::from(*passed) * u128::from(self.share.of);
                *passed += 1;
                Duration::from_nanos((place * 1_000_000_000 / u128::from(self.rate)) as u64)
            }
            Times::Poisson { prng, nanos } => {
                let mean = 1e9 * self.share.of as f64 / self.rate as f64;
                *nanos -= (1.0 - unit(prng)).ln() * mean;
                Duration::from_nanos(*nanos as u64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(schedule: &mut Schedule, count: usize) -> Vec<Duration> {
        let step = |_| {
            let next = schedule.next();
            schedule.advance();
            next
        };
        (0..count).map(step).collect()
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_and_never_drift() {
        let mut all: Vec<Duration> = Vec::new();
        for number in 0..3 {
            let mut schedule = Schedule::new(7, Arrivals::Constant, Share { number, of: 3 }, 0);
            all.extend(times(&mut schedule, 700));
        }
        all.sort_unstable();
        assert_eq!(all.len(), 2_100);
        for (place, time) in all.into_iter().enumerate() {
            assert_eq!(time, Duration::from_nanos(place as u64 * 1_000_000_000 / 7));
        }
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_exponential_distances() {
        const COUNT: usize = 100_000;
        for share in [Share { number: 0, of: 1 }, Share { number: 1, of: 4 }] {
            let mut schedule = Schedule::new(1_000_000, Arrivals::Poisson, share, 9);
            let times = times(&mut schedule, COUNT);
            let mean = 1e-6 * share.of as f64;
            assert!(times.is_sorted());
            let measured = times[COUNT - 1].as_secs_f64() / COUNT as f64;
            assert!((measured / mean - 1.0).abs() < 5.0 / (COUNT as f64).sqrt(), "mean {measured}");
            // A share of e^-x of the distances is longer than x times the mean.
            for x in [0.5f64, 1.0, 3.0] {
                let longer = times.windows(2).filter(|pair| (pair[1] - pair[0]).as_secs_f64() > x * mean).count();
                let (share, expected) = (longer as f64 / (COUNT - 1) as f64, (-x).exp());
                // A nanosecond of rounding is a thousandth of the mean here.
                let tolerance = 5.0 * (expected * (1.0 - expected) / COUNT as f64).sqrt() + 0.002;
                assert!((share - expected).abs() < tolerance, "{share} longer than {x} means, expected {expected}");
            }
        }
    }
}
