//! Quorum arithmetic, pure.

use crate::ids::Index;

/// How many of `voters` make a majority.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest index that a majority has made durable, given each voter's highest. Sorts its argument.
#[must_use]
pub fn committed(durable: &mut [Index]) -> Index {
    durable.sort_unstable_by(|a, b| b.cmp(a));
    durable.get(majority(durable.len()) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_more_than_half() {
        assert_eq!([1, 2, 3, 4, 5].map(majority), [1, 2, 2, 3, 3]);
    }

    #[test]
    fn committed_is_what_a_majority_holds() {
        let committed = |indexes: &[u64]| committed(&mut indexes.iter().map(|&i| Index(i)).collect::<Vec<_>>()).0;
        assert_eq!(committed(&[]), 0);
        assert_eq!(committed(&[7]), 7);
        assert_eq!(committed(&[7, 3]), 3);
        assert_eq!(committed(&[3, 9, 5]), 5);
        assert_eq!(committed(&[1, 9, 5, 7]), 5);
    }
}
