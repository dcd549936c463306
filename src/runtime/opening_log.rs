//! What the log says of a store that opens: how far it has come, once a second, and what it found.

use super::clock::Clock;
use crate::engine::checkpoint::Opening;
use crate::engine::store::Opened;
use crate::ids::{Micros, StoreId};

/// Time between two words on how far a store has come.
const PROGRESS_MICROS: u64 = 1_000_000;

/// Tells how a store opens.
pub(super) struct OpeningLog {
    store: u16,
    clock: Clock,
    started: Micros,
    told: Micros,
    /// When the first record of the log was read.
    replaying: Option<Micros>,
}

impl OpeningLog {
    pub(super) fn new(store: StoreId, clock: Clock) -> OpeningLog {
        let now = clock.now();
        OpeningLog { store: store.0, clock, started: now, told: now, replaying: None }
    }

    /// Hears how far it has come.
    pub(super) fn hear(&mut self, at: Opening) {
        let now = self.clock.now();
        if matches!(at, Opening::Replaying { .. }) {
            self.replaying.get_or_insert(now);
        }
        if now < self.told.plus(PROGRESS_MICROS) {
            return;
        }
        self.told = now;
        let store = self.store;
        match at {
            Opening::Loading { file, done, bytes } => {
                let (shard, percent) = (file.shard.0, done * 100 / bytes.max(1));
                tracing::info!(store, shard, done, bytes, percent, "loading a checkpoint");
            }
            Opening::Replaying { records } => tracing::info!(store, records, "replaying the log"),
        }
    }

    /// Says what was found.
    pub(super) fn tell(&self, found: &Opened) {
        let (store, now) = (self.store, self.clock.now());
        for shard in &found.shards {
            for (_, error) in &shard.rejected {
                tracing::warn!(store, shard = shard.shard.0, %error, "a checkpoint cannot be used; an older state and more log were");
            }
            if let Some(reference) = &shard.checkpoint {
                let (from, to, bytes) = (reference.from.index.0, reference.to.index.0, reference.bytes);
                tracing::info!(store, shard = shard.shard.0, from, to, bytes, "started from a checkpoint");
            }
        }
        let log = &found.log;
        let (case, records, log_bytes) = (log.case, log.records, log.lsn.0);
        let micros = now.0 - self.started.0;
        let replay_micros = self.replaying.map_or(0, |began| now.0 - began.0);
        tracing::info!(store, ?case, records, log_bytes, micros, replay_micros, "read the log");
    }
}
