//! Quorum arithmetic, pure: what a majority has, in one set of voters or in both halves of a joint one.
//!
//! Everything is computed from the members at the moment of asking; nothing is kept that a change of the configuration could leave
//! behind. There are at most a handful of voters, so the plainest way is also the fast one.

use super::configuration::Configuration;
use crate::ids::ReplicaId;
use crate::limits::GROUP_VOTERS_MAX;
use crate::mutant::mutant;

/// How many of `voters` make a majority.
#[must_use]
pub fn majority(voters: usize) -> usize {
    if mutant!("half-is-a-majority") {
        return voters.div_ceil(2).max(1);
    }
    voters / 2 + 1
}

/// What came of a vote so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Neither side has a quorum.
    Open,
    /// A quorum has granted.
    Won,
    /// So many have refused that no quorum can be had.
    Lost,
}

/// The highest value that a majority of both halves has reached, given what each replica has reached; the lowest possible value if
/// there are no voters.
pub fn reached<T: Copy + Default + Ord>(configuration: &Configuration, of: impl Fn(ReplicaId) -> T) -> T {
    let incoming = half_reached(configuration.incoming(), &of);
    if !configuration.is_joint() || mutant!("joint-commits-by-the-incoming-half") {
        return incoming;
    }
    let outgoing = half_reached(configuration.outgoing(), &of);
    if mutant!("joint-commits-by-either-half") { incoming.max(outgoing) } else { incoming.min(outgoing) }
}

fn half_reached<T: Copy + Default + Ord>(half: impl Iterator<Item = ReplicaId>, of: impl Fn(ReplicaId) -> T) -> T {
    let mut values = [T::default(); GROUP_VOTERS_MAX];
    let mut voters = 0;
    for (place, voter) in values.iter_mut().zip(half) {
        *place = of(voter);
        voters += 1;
    }
    let values = &mut values[..voters];
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(majority(voters) - 1).copied().unwrap_or_default()
}

/// Counts votes: what each replica said, if anything. Both halves must agree.
pub fn tally(configuration: &Configuration, of: impl Fn(ReplicaId) -> Option<bool>) -> Tally {
    let incoming = half_tally(configuration.incoming(), &of);
    if !configuration.is_joint() || mutant!("joint-elects-by-the-incoming-half") {
        return incoming;
    }
    match (incoming, half_tally(configuration.outgoing(), &of)) {
        (Tally::Won, Tally::Won) => Tally::Won,
        (Tally::Lost, _) | (_, Tally::Lost) => Tally::Lost,
        _ => Tally::Open,
    }
}

fn half_tally(half: impl Iterator<Item = ReplicaId>, of: impl Fn(ReplicaId) -> Option<bool>) -> Tally {
    let (mut voters, mut granted, mut refused) = (0, 0, 0);
    for voter in half {
        voters += 1;
        match of(voter) {
            Some(true) => granted += 1,
            Some(false) => refused += 1,
            None => {}
        }
    }
    if voters == 0 || voters - refused < majority(voters) {
        Tally::Lost
    } else if granted >= majority(voters) {
        Tally::Won
    } else {
        Tally::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prng::Prng;
    use crate::engine::raft::configuration::{Member, Place};

    fn configuration(incoming: &[u64], outgoing: &[u64]) -> Configuration {
        let mut ids: Vec<u64> = incoming.iter().chain(outgoing).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let member = |id: u64| Member {
            replica: ReplicaId(id),
            place: Place::default(),
            incoming: incoming.contains(&id),
            outgoing: outgoing.contains(&id),
        };
        Configuration::new(ids.into_iter().map(member).collect()).expect("a sound configuration")
    }

    #[test]
    fn a_majority_is_more_than_half() {
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(majority), [1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn what_a_majority_has_reached_is_committed() {
        let reached = |indexes: &[u64]| {
            let ids: Vec<u64> = (1..=indexes.len() as u64).collect();
            reached(&configuration(&ids, &[]), |replica| indexes[replica.0 as usize - 1])
        };
        assert_eq!([reached(&[7]), reached(&[7, 3]), reached(&[3, 9, 5]), reached(&[1, 9, 5, 7])], [7, 3, 5, 5]);
    }

    #[test]
    fn a_joint_quorum_is_a_quorum_of_both_halves() {
        let joint = configuration(&[1, 2, 3], &[3, 4, 5]);
        let reached = |has: [u64; 5]| reached(&joint, |replica| has[replica.0 as usize - 1]);
        assert_eq!([reached([9, 9, 0, 0, 0]), reached([9, 9, 0, 9, 9]), reached([9, 0, 9, 7, 0])], [0, 9, 7]);
        let tally = |votes: [Option<bool>; 5]| tally(&joint, |replica| votes[replica.0 as usize - 1]);
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(tally([yes, yes, None, None, None]), Tally::Open);
        assert_eq!(tally([yes, yes, None, no, no]), Tally::Lost);
        assert_eq!(tally([yes, None, yes, yes, None]), Tally::Won);
    }

    /// Every answer against one that looks at every subset of the voters.
    #[test]
    fn quorums_are_what_counting_subsets_says() {
        let mut prng = Prng::new(5);
        for _ in 0..20_000 {
            let mut half = |least: u64| -> Vec<u64> { (1..=7).filter(|_| prng.chance(1, 2)).chain([least]).collect() };
            let (mut incoming, mut outgoing) = (half(7), half(1));
            incoming.dedup();
            outgoing.sort_unstable();
            outgoing.dedup();
            if prng.chance(1, 3) {
                outgoing.clear();
            }
            let values: Vec<u64> = (0..8).map(|_| prng.below(4)).collect();
            let votes: Vec<Option<bool>> =
                (0..8).map(|_| [None, Some(true), Some(false)][prng.below(3) as usize]).collect();
            let joint = configuration(&incoming, &outgoing);
            let has_quorum = |holds: &dyn Fn(u64) -> bool| {
                [&incoming, &outgoing]
                    .into_iter()
                    .filter(|half| !half.is_empty())
                    .all(|half| half.iter().filter(|&&id| holds(id)).count() * 2 > half.len())
            };
            let highest = (0..4).filter(|&least| has_quorum(&|id| values[id as usize] >= least)).max().unwrap_or(0);
            assert_eq!(reached(&joint, |replica| values[replica.0 as usize]), highest);
            let expected = if has_quorum(&|id| votes[id as usize] == Some(true)) {
                Tally::Won
            } else if !has_quorum(&|id| votes[id as usize] != Some(false)) {
                Tally::Lost
            } else {
                Tally::Open
            };
            assert_eq!(tally(&joint, |replica| votes[replica.0 as usize]), expected);
        }
    }
}
