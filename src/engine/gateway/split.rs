//! How a request falls to shards.

use crate::engine::cluster::ClusterMap;
use crate::ids::KeyHash;
use crate::wire::client::Keys;

/// How the keys of one request fall to shards; reused from request to request.
#[derive(Default)]
pub(super) struct Split {
    /// Part of each key, in the order of the request.
    part_of: Vec<u16>,
    /// Part of each shard of the map, by place; `NO_PART` if the request does not touch it.
    part_of_place: Vec<u16>,
    /// Place of each part's shard, and how many keys are its own.
    pub(super) parts: Vec<(usize, u32)>,
}

const NO_PART: u16 = u16::MAX;

impl Split {
    /// Finds the part of each key.
    pub(super) fn keys(&mut self, map: &ClusterMap, keys: &Keys<'_>) {
        self.part_of_place.resize(map.shards.len(), NO_PART);
        for (place, _) in self.parts.drain(..) {
            self.part_of_place[place] = NO_PART;
        }
        self.part_of.clear();
        if map.shards.len() == 1 {
            self.part_of_place[0] = 0;
            self.parts.push((0, keys.len() as u32));
            return;
        }
        for key in keys.iter() {
            let place = map.place_of(KeyHash::of(map.routing_seed, key));
            let part = &mut self.part_of_place[place];
            if *part == NO_PART {
                *part = self.parts.len() as u16;
                self.parts.push((place, 0));
            }
            self.parts[*part as usize].1 += 1;
            self.part_of.push(*part);
        }
    }

    /// Places of the keys in the request, part after part. Empty if there is one part.
    pub(super) fn order(&self) -> Vec<u32> {
        if self.parts.len() == 1 {
            return Vec::new();
        }
        let mut next = Vec::with_capacity(self.parts.len());
        let mut start = 0;
        for &(_, keys) in &self.parts {
            next.push(start);
            start += keys;
        }
        let mut order = vec![0; self.part_of.len()];
        for (position, &part) in self.part_of.iter().enumerate() {
            let slot = &mut next[part as usize];
            order[*slot as usize] = position as u32;
            *slot += 1;
        }
        order
    }

    /// The part of the key at a place of the request.
    pub(super) fn part(&self, position: usize) -> usize {
        self.part_of.get(position).map_or(0, |&part| part as usize)
    }
}
