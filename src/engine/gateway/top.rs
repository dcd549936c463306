//! The top of all shards, from the tops of each.
//!
//! Every key lives in one shard, so nothing has to be added up: the answer is the first `k` of all lists together. Of a hundred
//! shards each has about a hundredth of them, so each is first asked for its even share and a margin, and only those whose
//! list ends above the answer's last place are asked again, for `k`. A list from the second round replaces the first one whole, with
//! its read point: what was read before may have been overtaken since. If a shard's counts have fallen between the rounds, the answer's last place
//! is lower than it was, and others may have to be asked again; each is at most once.

use std::cmp::Ordering;

use crate::engine::part::PackedKeys;
use crate::ids::{Index, ShardId};
use crate::mutant::mutant;
use crate::wire::client::{Part, TopKReply};

/// A shard's highest counts, exact and sorted: highest count first, ties in ascending byte order of the key.
pub(super) struct TopList {
    pub(super) shard: ShardId,
    pub(super) index: Index,
    pub(super) keys: PackedKeys,
    pub(super) counts: Vec<i64>,
    /// Whether the shard has no further keys.
    pub(super) exhausted: bool,
}

/// The lists of a request, as far as they have come.
pub(super) struct Tops {
    k: usize,
    /// Keys that each shard was asked for at first.
    asked: usize,
    /// Lists, and whether each was asked for whole.
    lists: Vec<(TopList, bool)>,
    /// Whether all have answered once.
    asks_again: bool,
}

type Ranked<'a> = (i64, &'a [u8], usize);

fn order(a: &Ranked<'_>, b: &Ranked<'_>) -> Ordering {
    b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1))
}

impl Tops {
    /// For the first `k` of so many shards. The margin is in standard deviations of a shard's share, about.
    pub(super) fn new(k: usize, shards: usize, margin: usize) -> Tops {
        let share = k.div_ceil(shards.max(1));
        let asked = if shards <= 1 { k } else { k.min(share + margin * (share.isqrt() + 1)) };
        Tops { k, asked, lists: Vec::with_capacity(shards), asks_again: false }
    }

    /// Keys to ask each shard for at first.
    pub(super) fn asked(&self) -> usize {
        self.asked
    }

    /// Keys that the answer is to have.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// Takes a shard's list, in place of the one that it may have given before.
    pub(super) fn take(&mut self, list: TopList) {
        if !self.asks_again {
            return self.lists.push((list, self.asked == self.k));
        }
        let known = self.lists.iter_mut().find(|(known, _)| known.shard == list.shard);
        *known.expect("who is asked again has answered before") = (list, true);
    }

    /// Once all have answered: those who have to be asked for `k`.
    pub(super) fn insufficient(&mut self) -> Vec<ShardId> {
        if mutant!("second-round-left-out") {
            return Vec::new();
        }
        let partial = |(list, whole): &&(TopList, bool)| !*whole && !list.exhausted;
        if !self.lists.iter().any(|list| partial(&list)) {
            return Vec::new();
        }
        let mut ranked = self.ranked();
        // Without a last place, anything further belongs into the answer.
        let last = (ranked.len() >= self.k && self.k > 0).then(|| *ranked.select_nth_unstable_by(self.k - 1, order).1);
        let may_have_more = |(list, _): &&(TopList, bool)| {
            let Some(end) = list.counts.len().checked_sub(1) else { return self.k > 0 };
            last.is_none_or(|last| order(&(list.counts[end], list.keys.key(end), 0), &last) == Ordering::Less)
        };
        let shards: Vec<_> =
            self.lists.iter().filter(partial).filter(may_have_more).map(|(list, _)| list.shard).collect();
        self.asks_again |= !shards.is_empty();
        shards
    }

    fn ranked(&self) -> Vec<Ranked<'_>> {
        let keys = self.lists.iter().map(|(list, _)| list.counts.len()).sum();
        let mut ranked = Vec::with_capacity(keys);
        for (place, (list, _)) in self.lists.iter().enumerate() {
            ranked.extend(list.keys.iter().zip(&list.counts).map(|(key, &count)| (count, key, place)));
        }
        ranked
    }

    /// The answer.
    pub(super) fn merge(mut self) -> TopKReply {
        self.lists.sort_by_key(|(list, _)| list.shard);
        let mut ranked = self.ranked();
        if ranked.len() > self.k {
            if self.k > 0 {
                ranked.select_nth_unstable_by(self.k - 1, order);
            }
            ranked.truncate(self.k);
        }
        ranked.sort_unstable_by(order);
        let mut reply = TopKReply::default();
        let mut own = vec![0u32; self.lists.len()];
        for (count, key, place) in ranked {
            reply.keys.push(key);
            reply.counts.push(count);
            own[place] += 1;
        }
        let part = |((list, _), keys): (&(TopList, bool), u32)| Part {
            shard: list.shard,
            keys,
            applied_index: list.index,
            first_position: 0,
        };
        reply.parts = self.lists.iter().zip(own).map(part).collect();
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::prng::Prng;

    /// A shard's list of its first `asked` keys.
    fn list(shard: u32, index: u64, counters: &[(String, i64)], asked: usize) -> TopList {
        let mut sorted = counters.to_vec();
        sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let exhausted = sorted.len() <= asked;
        let mut keys = PackedKeys::default();
        sorted.iter().take(asked).for_each(|(key, _)| keys.push(key.as_bytes()));
        let counts = sorted.iter().take(asked).map(|&(_, count)| count).collect();
        TopList { shard: ShardId(shard), index: Index(index), keys, counts, exhausted }
    }

    fn named(reply: &TopKReply) -> Vec<(String, i64)> {
        let keys = reply.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned());
        keys.zip(reply.counts.iter().copied()).collect()
    }

    #[test]
    fn a_shard_is_asked_for_its_share_and_a_margin() {
        let asked = |k, shards, margin| Tops::new(k, shards, margin).asked();
        assert_eq!([asked(100, 1, 4), asked(100, 2, 4), asked(100, 16, 4), asked(100, 256, 4)], [100, 82, 19, 9]);
        assert_eq!([asked(1, 9, 4), asked(0, 9, 0), asked(10, 3, 0)], [1, 0, 4]);
    }

    // Whatever the counts, and however few are asked for at first: the same answer as from whole lists.
    #[test]
    fn two_rounds_find_what_one_of_everything_finds() {
        let mut prng = Prng::new(7);
        let mut rounds = 0;
        for _ in 0..2_000 {
            let shards = 1 + prng.below(6) as usize;
            let spread = 1 + prng.below(30);
            let shard = |prng: &mut Prng, shard: usize| -> Vec<(String, i64)> {
                (0..prng.below(20)).map(|n| (format!("{n}-{shard}"), prng.below(spread) as i64 - 5)).collect()
            };
            let counters: Vec<_> = (0..shards).map(|number| shard(&mut prng, number)).collect();
            let k = prng.below(25) as usize;
            let mut tops = Tops::new(k, shards, 0);
            for (number, own) in counters.iter().enumerate() {
                tops.take(list(number as u32, 1, own, tops.asked()));
            }
            loop {
                let again = tops.insufficient();
                if again.is_empty() {
                    break;
                }
                rounds += 1;
                again.iter().for_each(|shard| tops.take(list(shard.0, 2, &counters[shard.0 as usize], k)));
            }
            let mut all: Vec<_> = counters.concat();
            all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            all.truncate(k);
            assert_eq!(named(&tops.merge()), all);
        }
        assert!(rounds > 500, "{rounds}");
    }

    // T3: the second round's list is read afresh and stands for itself.
    #[test]
    fn what_rose_between_the_rounds_is_where_it_is_now() {
        let counters = |counts: &[(&str, i64)]| -> Vec<(String, i64)> {
            counts.iter().map(|&(key, count)| (key.to_owned(), count)).collect()
        };
        let before = counters(&[("a", 9), ("b", 8), ("c", 7)]);
        let after = counters(&[("a", 9), ("b", 8), ("c", 70)]);
        let mut tops = Tops::new(3, 2, 0);
        assert_eq!(tops.asked(), 2);
        tops.take(list(0, 4, &before, 2));
        tops.take(list(1, 5, &counters(&[("x", 1), ("y", 0), ("z", -1)]), 2));
        assert_eq!(tops.insufficient(), [ShardId(0)]);
        tops.take(list(0, 6, &after, 3));
        assert!(tops.insufficient().is_empty());
        let reply = tops.merge();
        assert_eq!(named(&reply), counters(&[("c", 70), ("a", 9), ("b", 8)]));
        let points: Vec<_> = reply.parts.iter().map(|part| (part.applied_index.0, part.keys)).collect();
        assert_eq!(points, [(6, 3), (5, 0)]);
    }

    #[test]
    fn what_fell_between_the_rounds_lets_others_in() {
        let counters = |counts: &[(&str, i64)]| -> Vec<(String, i64)> {
            counts.iter().map(|&(key, count)| (key.to_owned(), count)).collect()
        };
        let mut tops = Tops::new(4, 2, 0);
        tops.take(list(0, 1, &counters(&[("a", 9), ("b", 8), ("c", 7)]), 2));
        tops.take(list(1, 1, &counters(&[("x", 6), ("y", 5), ("z", 4)]), 2));
        assert_eq!(tops.insufficient(), [ShardId(0)]);
        tops.take(list(0, 2, &counters(&[("a", 3), ("b", 2), ("c", 1)]), 4));
        assert_eq!(tops.insufficient(), [ShardId(1)]);
        tops.take(list(1, 3, &counters(&[("x", 6), ("y", 5), ("z", 4)]), 4));
        assert!(tops.insufficient().is_empty());
        assert_eq!(named(&tops.merge()), counters(&[("x", 6), ("y", 5), ("z", 4), ("a", 3)]));
    }
}
