//! The ledger: every entry that was ever found in the log, also after the store has recycled what held it.
//!
//! Truth is the log, and a checkpoint lets the store throw parts of it away. So the log is read whenever a segment is opened,
//! when what will be freed by that is still there, and after every death; what is read again must be what was read before.

use std::collections::BTreeMap;

use crate::engine::wal::{GroupState, Record};
use crate::ids::{Index, ShardId};

/// By shard: the entries from index 1 on.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    logs: BTreeMap<ShardId, Vec<Record>>,
}

impl Ledger {
    /// Adds what was read from a log.
    pub(super) fn add(&mut self, records: &[Record]) -> Result<(), String> {
        for record in records {
            let Record::Entry { shard, index, term, payload, .. } = record else { continue };
            let log = self.logs.entry(*shard).or_default();
            let place = (index.0 as usize).checked_sub(1).ok_or("an entry has index 0")?;
            match log.get(place) {
                None if place == log.len() => log.push(record.clone()),
                None => {
                    return Err(format!("shard {shard}: the log goes on with entry {index}, {} was known", log.len()));
                }
                Some(Record::Entry { term: before, payload: known, .. }) if (before, known) == (term, payload) => {}
                Some(_) => return Err(format!("shard {shard}: entry {index} is another one than before")),
            }
        }
        Ok(())
    }

    /// Checks that a log ends no earlier than was known.
    pub(super) fn check_ends(&self, groups: &BTreeMap<ShardId, GroupState>) -> Result<(), String> {
        for (shard, group) in groups {
            let known = self.logs.get(shard).map_or(0, Vec::len);
            if group.last_index < Index(known as u64) {
                let last = group.last_index;
                return Err(format!("shard {shard}: entries after {last} that were found before are gone"));
            }
        }
        Ok(())
    }

    /// The entries of one shard, in order.
    pub(super) fn entries(&self, shard: ShardId) -> &[Record] {
        self.logs.get(&shard).map_or(&[], |log| log)
    }

    /// All entries.
    pub(super) fn records(&self) -> Vec<Record> {
        self.logs.values().flatten().cloned().collect()
    }
}
