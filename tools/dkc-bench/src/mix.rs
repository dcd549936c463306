//! What requests ask for: one kind of operation, or several by weight.

use clap::ValueEnum;
use dkc::engine::prng::Prng;
use std::fmt;
use std::str::FromStr;

/// A weight is at most so much, so that the sum of all cannot overflow.
const WEIGHT_MAX: u64 = 1_000_000;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operation {
    /// Add 1 to each key of a batch
    Increment,
    /// Read the count of each key of a batch
    Get,
    /// Read the highest counts
    Top,
}

impl Operation {
    pub(crate) const ALL: [Operation; 3] = [Operation::Increment, Operation::Get, Operation::Top];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Increment => "increment",
            Operation::Get => "get",
            Operation::Top => "top",
        }
    }
}

/// How often which operation is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    /// By the place in [`Operation::ALL`]. At least one is not 0.
    weights: [u64; Operation::ALL.len()],
    total: u64,
}

impl Mix {
    fn new(weights: [u64; Operation::ALL.len()]) -> Mix {
        Mix { weights, total: weights.iter().sum() }
    }

    /// One operation only.
    pub(crate) fn only(operation: Operation) -> Mix {
        Mix::new(Operation::ALL.map(|each| u64::from(each == operation)))
    }

    /// The operation of the next request.
    #[inline]
    pub(crate) fn draw(&self, prng: &mut Prng) -> Operation {
        let mut left = prng.below(self.total);
        for (operation, &weight) in Operation::ALL.into_iter().zip(&self.weights) {
            if left < weight {
                return operation;
            }
            left -= weight;
        }
        unreachable!("a number below the total falls into one of the weights")
    }

    /// The operations that occur.
    pub(crate) fn operations(&self) -> impl Iterator<Item = Operation> + '_ {
        Operation::ALL.into_iter().filter(|&operation| self.has(operation))
    }

    pub(crate) fn has(&self, operation: Operation) -> bool {
        self.weights[operation as usize] > 0
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Mix, String> {
        let mut weights = [0; Operation::ALL.len()];
        for term in text.split(',') {
            let (name, weight) = term.split_once('=').ok_or(format!("{term:?} is not OPERATION=WEIGHT"))?;
            let operation = Operation::from_str(name, false)?;
            let weight = weight.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
            let weight = weight.ok_or(format!("the weight in {term:?} is not a number from 1 to {WEIGHT_MAX}"))?;
            if std::mem::replace(&mut weights[operation as usize], weight) > 0 {
                return Err(format!("{name} is given twice"));
            }
        }
        Ok(Mix::new(weights))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let single = self.operations().count() == 1;
        for (place, operation) in self.operations().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{}", operation.name())?;
            if !single {
                write!(f, "={}", self.weights[operation as usize])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_by_their_weights() {
        let mix: Mix = "increment=90,get=9,top=1".parse().expect("valid");
        let (mut prng, mut counts) = (Prng::new(5), [0u32; 3]);
        const DRAWS: u32 = 200_000;
        (0..DRAWS).for_each(|_| counts[mix.draw(&mut prng) as usize] += 1);
        for (count, share) in counts.into_iter().zip([0.9, 0.09, 0.01]) {
            let tolerance = 5.0 * (share * (1.0 - share) / f64::from(DRAWS)).sqrt();
            assert!((f64::from(count) / f64::from(DRAWS) - share).abs() < tolerance, "{counts:?}");
        }
        assert!((0..100).all(|_| Mix::only(Operation::Top).draw(&mut prng) == Operation::Top));
    }

    #[test]
    fn mixes_are_read_and_printed() {
        for text in ["increment=90,get=9,top=1", "increment=1,top=2"] {
            assert_eq!(text.parse::<Mix>().expect("valid").to_string(), text);
        }
        assert_eq!("top=1,increment=5".parse::<Mix>().expect("valid").to_string(), "increment=5,top=1");
        assert_eq!(Mix::only(Operation::Get).to_string(), "get");
        for text in ["", "increment", "get=0", "get=-1", "put=1", "get=1,get=2", "get=1,", "get=1000001"] {
            assert!(text.parse::<Mix>().is_err(), "{text:?}");
        }
    }
}
