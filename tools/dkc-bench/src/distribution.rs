//! Which key comes next: how often which number is chosen.
//!
//! Zipf's law gives the key of rank r a share proportional to r^-s. Drawing from it must cost far less than a server
//! takes for an increment, for any number of keys, and without a table that would compete for the cache. That is
//! rejection-inversion: W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete
//! distributions", ACM TOMACS 6(3), 1996. The share is bounded by a continuous density whose integral has a closed
//! inverse; fewer than 1.3 draws are needed on average. Unlike the usual approximation by a power of a uniform
//! number (Gray et al., SIGMOD 1994), it is exact, and holds for exponents below 1, at 1 and above.

use dkc::engine::prng::Prng;
use std::fmt;
use std::str::FromStr;

/// Of the keys that increments choose under [`Distribution::Latest`], one in so many is a new one: the share of inserts
/// in YCSB's workload D (Cooper et al., SoCC 2010).
const LATEST_NEW_ONE_IN: u64 = 20;
/// How the choice of the others falls off with their age; YCSB's as well.
const LATEST_EXPONENT: f64 = 0.99;

/// A distribution over numbers, before it is known how many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Distribution {
    /// All are equally likely.
    Uniform,
    /// Number n is chosen with a share proportional to (n + 1)^-exponent.
    Zipf {
        /// From 0.01 to 10.
        exponent: f64,
    },
    /// A few are hot: chosen together with some probability, and equally likely among themselves, like the rest.
    Hot {
        /// Which part of the numbers is hot, above 0 and at most 1.
        fraction: f64,
        /// How likely one of them is chosen, from 0 to 1.
        probability: f64,
    },
    /// The numbers grow while the run goes on, and the newer one is, the likelier.
    Latest,
    /// Each once, in order.
    Sequential,
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let number = |text: &str, min: f64, max: f64| -> Result<f64, String> {
            let within = text.parse().ok().filter(|number| (min..=max).contains(number));
            within.ok_or(format!("{text:?} in {name} is not a number from {min} to {max}"))
        };
        match (name, rest.split_once(':')) {
            ("uniform", None) if rest.is_empty() => Ok(Distribution::Uniform),
            ("latest", None) if rest.is_empty() => Ok(Distribution::Latest),
            ("sequential", None) if rest.is_empty() => Ok(Distribution::Sequential),
            ("zipf", None) => Ok(Distribution::Zipf { exponent: number(rest, 0.01, 10.0)? }),
            ("hot", Some((fraction, probability))) => Ok(Distribution::Hot {
                fraction: number(fraction, 1e-12, 1.0)?,
                probability: number(probability, 0.0, 1.0)?,
            }),
            _ => Err("uniform, zipf:EXPONENT, hot:FRACTION:PROBABILITY, latest or sequential is expected".to_owned()),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Zipf { exponent } => write!(f, "zipf:{exponent}"),
            Distribution::Hot { fraction, probability } => write!(f, "hot:{fraction}:{probability}"),
            Distribution::Latest => f.write_str("latest"),
            Distribution::Sequential => f.write_str("sequential"),
        }
    }
}

/// Which of how many streams of numbers a sampler is for. Together the streams cover what grows or comes in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) number: u64,
    pub(crate) of: u64,
}

/// Draws numbers. All are below the bound, but those that [`Distribution::Latest`] adds.
#[derive(Clone, Debug)]
pub(crate) enum Sampler {
    Uniform { bound: u64 },
    Zipf(Zipf),
    Hot { hot: u64, bound: u64, probability: f64 },
    Latest { newest: u64, next: u64, step: u64, ages: Zipf },
    Sequential { next: u64, step: u64, bound: u64 },
}

impl Sampler {
    /// A sampler of numbers below `bound`, which is at least 1.
    pub(crate) fn new(distribution: Distribution, bound: u64, share: Share) -> Sampler {
        match distribution {
            Distribution::Uniform => Sampler::Uniform { bound },
            Distribution::Zipf { exponent } => Sampler::Zipf(Zipf::new(exponent, bound)),
            Distribution::Hot { fraction, probability } => {
                let hot = ((fraction * bound as f64).round() as u64).clamp(1, bound);
                Sampler::Hot { hot, bound, probability: if hot == bound { 1.0 } else { probability } }
            }
            Distribution::Latest => Sampler::Latest {
                newest: bound - 1,
                next: bound + share.number,
                step: share.of,
                ages: Zipf::new(LATEST_EXPONENT, bound),
            },
            Distribution::Sequential => Sampler::Sequential { next: share.number, step: share.of, bound },
        }
    }

    /// The next number, or `None` if each was drawn. `grows` says whether it may be a new one.
    #[inline]
    pub(crate) fn draw(&mut self, prng: &mut Prng, grows: bool) -> Option<u64> {
        match self {
            Sampler::Uniform { bound } => Some(prng.below(*bound)),
            Sampler::Zipf(zipf) => Some(zipf.rank(prng) - 1),
            Sampler::Hot { hot, bound, probability } => {
                Some(if unit(prng) < *probability { prng.below(*hot) } else { *hot + prng.below(*bound - *hot) })
            }
            Sampler::Latest { newest, next, step, ages } => {
                if grows && prng.chance(1, LATEST_NEW_ONE_IN) {
                    *newest = *next;
                    *next += *step;
                    return Some(*newest);
                }
                // No age reaches further back than the numbers there were in the beginning.
                Some(*newest - (ages.rank(prng) - 1))
            }
            Sampler::Sequential { next, step, bound } => {
                let number = *next;
                *next = number.saturating_add(*step);
                (number < *bound).then_some(number)
            }
        }
    }
}

/// A number from 0 to below 1, of the 53 random bits that such a float can hold.
#[inline]
pub(crate) fn unit(prng: &mut Prng) -> f64 {
    (prng.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Zipf's law, ready to draw from. Names in brackets are the paper's.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    exponent: f64,
    ranks: f64,
    /// Where the integral of the density is cut off on the left [H(1.5) - h(1)].
    integral_first: f64,
    /// And on the right [H(n + 0.5)].
    integral_last: f64,
    /// A draw that is rounded up by no more than this is accepted without a further look [s].
    rounding_accepted: f64,
}

impl Zipf {
    fn new(exponent: f64, ranks: u64) -> Zipf {
        let ranks = ranks as f64;
        let (second, density) = (integral(exponent, 2.5), 2f64.powf(-exponent));
        Zipf {
            exponent,
            ranks,
            integral_first: integral(exponent, 1.5) - 1.0,
            integral_last: integral(exponent, ranks + 0.5),
            rounding_accepted: 2.0 - integral_inverse(exponent, second - density),
        }
    }

    fn rank(&self, prng: &mut Prng) -> u64 {
        loop {
            let area = self.integral_last + unit(prng) * (self.integral_first - self.integral_last);
            let point = integral_inverse(self.exponent, area);
            let rank = point.round().clamp(1.0, self.ranks);
            if rank - point <= self.rounding_accepted
                || area >= integral(self.exponent, rank + 0.5) - rank.powf(-self.exponent)
            {
                return rank as u64;
            }
        }
    }
}

/// The integral of x^-s from 1 to x [H(x), up to a constant]: (x^(1-s) - 1) / (1-s), and ln x where s is 1.
fn integral(exponent: f64, x: f64) -> f64 {
    let log = x.ln();
    let scaled = (1.0 - exponent) * log;
    if scaled.abs() > 1e-8 { scaled.exp_m1() / scaled * log } else { log * (1.0 + scaled / 2.0) }
}

/// The inverse of [`integral`]: (1 + (1-s) y)^(1/(1-s)).
fn integral_inverse(exponent: f64, y: f64) -> f64 {
    // Rounding may lead below -1, where the logarithm ends.
    let scaled = ((1.0 - exponent) * y).max(-1.0);
    if scaled.abs() > 1e-8 { (scaled.ln_1p() / scaled * y).exp() } else { (y * (1.0 - scaled / 2.0)).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 400_000;
    const ONLY: Share = Share { number: 0, of: 1 };

    /// The share that each number below `bound` had of many draws that may not grow.
    fn frequencies(distribution: Distribution, bound: u64) -> Vec<f64> {
        let (mut sampler, mut prng) = (Sampler::new(distribution, bound, ONLY), Prng::new(42));
        let mut counts = vec![0u32; bound as usize];
        for _ in 0..DRAWS {
            counts[sampler.draw(&mut prng, false).expect("no end") as usize] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / DRAWS as f64).collect()
    }

    /// Compares with the exact shares: each number that is drawn often, and the rest together, by five standard
    /// deviations. The weights descend.
    fn assert_shares(distribution: Distribution, drawn: &[f64], weights: &[f64]) {
        let total: f64 = weights.iter().sum();
        let assert_near = |what: &str, drawn: f64, share: f64| {
            let tolerance = 5.0 * (share * (1.0 - share) / DRAWS as f64).sqrt() + 1e-9;
            assert!((drawn - share).abs() <= tolerance, "{distribution}, {what}: drawn {drawn}, expected {share}");
        };
        let often = weights.iter().take_while(|weight| **weight / total * DRAWS as f64 > 400.0).count();
        for number in 0..often {
            assert_near(&format!("number {number}"), drawn[number], weights[number] / total);
        }
        assert_near("the rest", drawn[often..].iter().sum(), weights[often..].iter().sum::<f64>() / total);
    }

    fn zipf_weights(exponent: f64, bound: u64) -> Vec<f64> {
        (1..=bound).map(|rank| (rank as f64).powf(-exponent)).collect()
    }

    #[test]
    fn zipf_gives_each_rank_its_share() {
        let bounds = [(0.99, 100_000), (0.99, 1), (1.0, 2)];
        let exponents = [0.01, 0.5, 0.99, 1.0, 1.000_000_001, 1.5, 3.0, 10.0].map(|exponent| (exponent, 1_000));
        for (exponent, bound) in exponents.into_iter().chain(bounds) {
            let distribution = Distribution::Zipf { exponent };
            assert_shares(distribution, &frequencies(distribution, bound), &zipf_weights(exponent, bound));
        }
    }

    #[test]
    fn uniform_gives_all_the_same_share() {
        assert_shares(Distribution::Uniform, &frequencies(Distribution::Uniform, 100), &[1.0; 100]);
    }

    #[test]
    fn the_hot_set_has_its_probability_and_the_rest_the_rest() {
        for (fraction, probability) in [(0.01, 0.9), (0.25, 0.5), (1e-9, 1.0)] {
            let distribution = Distribution::Hot { fraction, probability };
            let hot = ((fraction * 400.0).round() as usize).max(1);
            let weight =
                |number| if number < hot { probability / hot as f64 } else { (1.0 - probability) / (400 - hot) as f64 };
            let weights: Vec<f64> = (0..400).map(weight).collect();
            assert_shares(distribution, &frequencies(distribution, 400), &weights);
        }
        let all = Distribution::Hot { fraction: 1.0, probability: 0.1 };
        assert_shares(all, &frequencies(all, 50), &[1.0; 50]);
    }

    #[test]
    fn the_latest_are_likelier_by_zipf_s_law_and_one_in_twenty_is_new() {
        let mut drawn = frequencies(Distribution::Latest, 1_000);
        drawn.reverse();
        assert_shares(Distribution::Latest, &drawn, &zipf_weights(LATEST_EXPONENT, 1_000));

        let mut sampler = Sampler::new(Distribution::Latest, 1_000, Share { number: 1, of: 3 });
        let (mut prng, mut newest, mut new) = (Prng::new(7), 999, 0);
        let mut ages = vec![0.0; 1_000];
        for _ in 0..DRAWS {
            let number = sampler.draw(&mut prng, true).expect("no end");
            if number > newest {
                new += 1;
                newest = number;
                assert_eq!(number, 1_000 + 1 + (new - 1) * 3, "the share of one of three");
            } else {
                ages[(newest - number) as usize] += 1.0;
            }
        }
        assert!((new as f64 / DRAWS as f64 - 0.05).abs() < 5.0 * (0.05f64 * 0.95 / DRAWS as f64).sqrt(), "{new} new");
        let old = DRAWS as f64 - new as f64;
        let first = ages[0] / old;
        let expected = 1.0 / zipf_weights(LATEST_EXPONENT, 1_000).iter().sum::<f64>();
        assert!((first - expected).abs() < 5.0 * (expected / old).sqrt(), "{first} of the newest, expected {expected}");
    }

    #[test]
    fn in_sequence_the_streams_together_draw_each_number_once() {
        let mut all: Vec<u64> = Vec::new();
        for number in 0..3 {
            let mut sampler = Sampler::new(Distribution::Sequential, 100, Share { number, of: 3 });
            let mut prng = Prng::new(1);
            all.extend(std::iter::from_fn(|| sampler.draw(&mut prng, true)));
            assert_eq!(sampler.draw(&mut prng, true), None);
        }
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<u64>>());
    }

    #[test]
    fn a_great_number_of_keys_costs_nothing() {
        for distribution in [Distribution::Uniform, Distribution::Zipf { exponent: 0.5 }, Distribution::Latest] {
            let mut sampler = Sampler::new(distribution, 1_000_000_000_000, ONLY);
            let mut prng = Prng::new(3);
            let beyond = (0..1_000).filter(|_| sampler.draw(&mut prng, false) > Some(1_000_000)).count();
            assert!(beyond > 500, "{distribution}: {beyond}");
        }
    }

    #[test]
    fn names_are_read_and_printed() {
        for text in ["uniform", "zipf:0.99", "zipf:1", "hot:0.01:0.9", "latest", "sequential"] {
            assert_eq!(text.parse::<Distribution>().expect("valid").to_string(), text);
        }
        for text in [
            "",
            "zipf",
            "zipf:",
            "zipf:0",
            "zipf:-1",
            "zipf:NaN",
            "zipf:11",
            "zipf:1:1",
            "Uniform",
            "uniform:1",
            "hot",
            "hot:0.1",
            "hot:0:0.5",
            "hot:1.1:0.5",
            "hot:0.5:1.1",
            "hot:0.1:0.1:0.1",
            "latest:1",
        ] {
            assert!(text.parse::<Distribution>().is_err(), "{text:?}");
        }
    }
}
