//! How often which key is chosen.
//!
//! Zipf's law gives the key of rank r a share proportional to r^-s. Drawing from it must cost far less than a server
//! takes for an increment, for any number of keys, and without a table that would compete for the cache. That is
//! rejection-inversion: W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete
//! distributions", ACM TOMACS 6(3), 1996. The share is bounded by a continuous density whose integral has a closed
//! inverse; fewer than 1.3 draws are needed on average.

use dkc::engine::prng::Prng;
use std::fmt;
use std::str::FromStr;

/// A distribution over numbers, before it is known how many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// All are equally likely.
    Uniform,
    /// Number n is chosen with a share proportional to (n + 1)^-exponent.
    Zipf {
        /// From 0.01 to 10.
        exponent: f64,
    },
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        if text == "uniform" {
            return Ok(Distribution::Uniform);
        }
        match text.strip_prefix("zipf:").map(str::parse) {
            Some(Ok(exponent)) if (0.01..=10.0).contains(&exponent) => Ok(Distribution::Zipf { exponent }),
            _ => Err("uniform, or zipf: with an exponent from 0.01 to 10, is expected".to_owned()),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Zipf { exponent } => write!(f, "zipf:{exponent}"),
        }
    }
}

/// Draws numbers below a bound.
#[derive(Clone, Debug)]
pub enum Sampler {
    Uniform { bound: u64 },
    Zipf(Zipf),
}

impl Sampler {
    /// A sampler of numbers below `bound`, which is at least 1.
    pub fn new(distribution: Distribution, bound: u64) -> Sampler {
        match distribution {
            Distribution::Uniform => Sampler::Uniform { bound },
            Distribution::Zipf { exponent } => Sampler::Zipf(Zipf::new(exponent, bound)),
        }
    }

    #[inline]
    pub fn draw(&self, prng: &mut Prng) -> u64 {
        match self {
            Sampler::Uniform { bound } => prng.below(*bound),
            Sampler::Zipf(zipf) => zipf.rank(prng) - 1,
        }
    }
}

/// Zipf's law, ready to draw from. Names in brackets are the paper's.
#[derive(Clone, Debug)]
pub struct Zipf {
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
            // 53 random bits are all that a float between 0 and 1 can hold.
            let share = (prng.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64);
            let area = self.integral_last + share * (self.integral_first - self.integral_last);
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

    fn frequencies(distribution: Distribution, bound: u64) -> Vec<f64> {
        let (sampler, mut prng) = (Sampler::new(distribution, bound), Prng::new(42));
        let mut counts = vec![0u32; bound as usize];
        for _ in 0..DRAWS {
            counts[sampler.draw(&mut prng) as usize] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / DRAWS as f64).collect()
    }

    /// Compares with the exact shares: each rank that is drawn often, and the rest together, by five standard deviations.
    fn assert_zipf(exponent: f64, bound: u64) {
        let weights: Vec<f64> = (1..=bound).map(|rank| (rank as f64).powf(-exponent)).collect();
        let total: f64 = weights.iter().sum();
        let drawn = frequencies(Distribution::Zipf { exponent }, bound);
        let assert_near = |what: &str, drawn: f64, share: f64| {
            let tolerance = 5.0 * (share * (1.0 - share) / DRAWS as f64).sqrt() + 1e-9;
            assert!((drawn - share).abs() <= tolerance, "s = {exponent}, {what}: drawn {drawn}, expected {share}");
        };
        let often = weights.iter().take_while(|weight| **weight / total * DRAWS as f64 > 400.0).count();
        for rank in 0..often {
            assert_near(&format!("rank {}", rank + 1), drawn[rank], weights[rank] / total);
        }
        assert_near("the rest", drawn[often..].iter().sum(), weights[often..].iter().sum::<f64>() / total);
    }

    #[test]
    fn zipf_gives_each_rank_its_share() {
        for exponent in [0.01, 0.5, 0.99, 1.0, 1.000_000_001, 1.5, 3.0, 10.0] {
            assert_zipf(exponent, 1_000);
        }
        assert_zipf(0.99, 100_000);
        assert_zipf(0.99, 1);
        assert_zipf(1.0, 2);
    }

    #[test]
    fn uniform_gives_all_the_same_share() {
        let drawn = frequencies(Distribution::Uniform, 100);
        let tolerance = 5.0 * (0.01 * 0.99 / DRAWS as f64).sqrt();
        assert!(drawn.iter().all(|share| (share - 0.01).abs() <= tolerance), "{drawn:?}");
    }

    #[test]
    fn names_are_read_and_printed() {
        for text in ["uniform", "zipf:0.99", "zipf:1"] {
            assert_eq!(text.parse::<Distribution>().expect("valid").to_string(), text);
        }
        for text in ["", "zipf", "zipf:", "zipf:0", "zipf:-1", "zipf:NaN", "zipf:11", "Uniform"] {
            assert!(text.parse::<Distribution>().is_err(), "{text:?}");
        }
    }
}
