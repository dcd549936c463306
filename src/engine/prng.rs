//! The engine's only source of randomness: SplitMix64, seeded by the shell.
//!
//! Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators" (OOPSLA 2014). Not for secrets.

/// A seeded generator; equal seeds give equal numbers on every platform.
#[derive(Clone, Debug)]
pub struct Prng {
    state: u64,
}

impl Prng {
    /// A generator that starts at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Prng {
        Prng { state: seed }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `bound`, which is at least 1. The bias is below 2^-32 for the small bounds used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0, "an empty range has no number");
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// True `numerator` times in `denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }
}

/// SplitMix64's finaliser: a bijection that spreads every bit of its input over all bits of its output.
#[must_use]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::Prng;

    // Reference outputs of SplitMix64 for seed 1234567, as published with the algorithm.
    #[test]
    fn matches_the_published_sequence() {
        let mut prng = Prng::new(1_234_567);
        assert_eq!(prng.bits(), 6_457_827_717_110_365_317);
        assert_eq!(prng.bits(), 3_203_168_211_198_807_973);
        assert_eq!(prng.bits(), 9_817_491_932_198_370_423);
    }
}
