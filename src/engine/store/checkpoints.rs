//! A store and its checkpoints: which shard's turn it is, and what follows when one is in force.

use super::Store;
use crate::engine::checkpoint::FileDone;
use crate::engine::checkpoint::keeper::Candidate;
use crate::engine::replica::Replica;
use crate::engine::wal::Record;
use crate::ids::ShardId;
use crate::mutant::mutant;

impl Store {
    /// A bounded piece of work on checkpoints.
    pub(super) fn checkpoints_go_on(&mut self) {
        if self.draining || self.wal.latched().is_some() {
            return;
        }
        self.keep_reserve();
        if self.keeper.is_free(self.now) && self.wal.appended() >= self.next_checkpoint_at {
            self.begin_checkpoint();
        }
        if let Some(place) = self.keeper.grows(self.now).and_then(|shard| self.place_of(shard)) {
            let replica = &self.replicas[place];
            self.keeper.grow(&replica.machine, replica.group.applied_point());
        }
    }

    fn place_of(&self, shard: ShardId) -> Option<usize> {
        self.replicas.binary_search_by_key(&shard, |replica| replica.shard).ok()
    }

    fn begin_checkpoint(&mut self) {
        let ready = |replica: &&Replica| replica.group.read_index().is_some() && !replica.machine.lacks_map();
        let candidate =
            |replica: &Replica| Candidate { shard: replica.shard, applied: replica.group.applied_point().index };
        let candidates = self.replicas.iter().filter(ready).map(candidate);
        let appended = self.wal.appended();
        let (due, look_again_at) = self.keeper.due(appended, candidates);
        self.next_checkpoint_at = look_again_at;
        let Some(replica) = due.and_then(|shard| self.place_of(shard)).map(|place| &self.replicas[place]) else {
            return;
        };
        assert!(replica.machine.is_of_one_moment(), "C3: no checkpoint is taken of what is of no single moment");
        let at = replica.group.applied_point();
        let voters: Vec<_> = replica.group.configuration_at(at.index).1.incoming().collect();
        self.keeper.begin(replica.shard, &replica.machine, replica.range(), &voters, at, appended);
    }

    /// Asks for room for a checkpoint of the largest shard, when the store has grown.
    fn keep_reserve(&mut self) {
        if self.memory_bytes <= self.reserve_for_bytes && self.reserve_for_bytes > 0 {
            return;
        }
        let largest = self.replicas.iter().map(|replica| replica.machine.memory_bytes()).max().unwrap_or(0);
        self.keeper.want_reserve(largest);
        self.reserve_for_bytes = self.memory_bytes + self.memory_bytes / 16 + 1;
    }

    /// An operation on a checkpoint's file has ended.
    pub(super) fn checkpoint_file(&mut self, done: FileDone) {
        self.keeper.done(self.now, done);
        if self.wal.latched().is_some() {
            return;
        }
        if let Some((shard, kept)) = self.keeper.to_name() {
            // Its last entry has been applied, so it stands in the log already (rule C4).
            let at = self.wal.append(Record::Checkpoint { shard, kept });
            self.keeper.named(at);
        }
        self.install_checkpoint();
    }

    /// Frees what a checkpoint has made superfluous, once it is in force.
    pub(super) fn install_checkpoint(&mut self) {
        if self.wal.is_end_fixed() || mutant!("leftovers-removed-at-once") {
            self.keeper.give_up_leftovers();
        }
        if let Some(shard) = self.keeper.log_durable(self.wal.durable()) {
            self.wal.release(shard, self.keeper.kept(shard).released());
            self.next_checkpoint_at = self.wal.durable();
        }
    }
}
