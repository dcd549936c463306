//! What simulated clients ask: few keys, so that they collide; deltas of every sign and size, so that counts tie, sink below zero and overflow.

use crate::engine::prng::Prng;
use crate::limits::KEY_BYTES_MAX;
use crate::wire::client::ScanRequest;

/// A request in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Increment { items: Vec<(Vec<u8>, i64)>, want_values: bool },
    Get { keys: Vec<Vec<u8>> },
    TopK { k: u32 },
    Scan(ScanRequest),
    Status,
}

/// The source of requests of one run.
#[derive(Debug)]
pub(super) struct Workload {
    keys: Vec<Vec<u8>>,
    next_delta: i64,
    batch_max: u64,
}

impl Workload {
    pub(super) fn new(prng: &mut Prng) -> Workload {
        let count = 1 + prng.below(24);
        let long = prng.chance(1, 8);
        let key = |number: u64, prng: &mut Prng| {
            let mut key = format!("k{number}").into_bytes();
            if long && prng.chance(1, 3) {
                key.resize(KEY_BYTES_MAX, b'x');
            }
            key
        };
        let keys = (0..count).map(|number| key(number, prng)).collect();
        Workload { keys, next_delta: 1, batch_max: 1 + prng.below(12) }
    }

    pub(super) fn keys(&self) -> &[Vec<u8>] {
        &self.keys
    }

    pub(super) fn next(&mut self, prng: &mut Prng) -> Ask {
        match prng.below(20) {
            0..=12 => {
                let count = 1 + prng.below(self.batch_max);
                let items = (0..count).map(|_| (self.key(prng), self.delta(prng))).collect();
                Ask::Increment { items, want_values: prng.chance(1, 2) }
            }
            13..=16 => Ask::Get { keys: (0..1 + prng.below(4)).map(|_| self.key(prng)).collect() },
            17..=18 => Ask::TopK { k: 1 + prng.below(30) as u32 },
            _ => Ask::Status,
        }
    }

    fn key(&self, prng: &mut Prng) -> Vec<u8> {
        self.keys[prng.below(self.keys.len() as u64) as usize].clone()
    }

    /// Deltas other than 0 never repeat within a run, so an increment is recognised in the log by its delta.
    fn delta(&mut self, prng: &mut Prng) -> i64 {
        self.next_delta += 1;
        match prng.below(24) {
            0 => 0,
            1 => i64::MAX - self.next_delta,
            2 => i64::MIN + self.next_delta,
            3..=8 => -self.next_delta,
            _ => self.next_delta,
        }
    }
}
