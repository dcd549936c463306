//! The names in a simulated directory: what is seen, and what survives a power cut.

use std::collections::{BTreeMap, BTreeSet};

pub(super) type FileId = u32;

#[derive(Clone, Debug)]
enum Change {
    Link(String, FileId),
    Rename(String, String),
    Unlink(String),
}

/// A directory. Its changes survive a power cut from the first to some last one, as a journalling file system keeps their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    names: BTreeMap<String, FileId>,
    durable: BTreeMap<String, FileId>,
    changes: Vec<Change>,
}

impl Directory {
    pub(super) fn file(&self, name: &str) -> Option<FileId> {
        self.names.get(name).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, FileId)> {
        self.names.iter().map(|(name, id)| (name, *id))
    }

    pub(super) fn link(&mut self, name: String, id: FileId) {
        self.changes.push(Change::Link(name.clone(), id));
        self.names.insert(name, id);
    }

    /// Renames a file, in place of the one that may have the new name.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Option<FileId> {
        let id = self.names.remove(from)?;
        self.names.insert(to.to_string(), id);
        self.changes.push(Change::Rename(from.to_string(), to.to_string()));
        Some(id)
    }

    pub(super) fn unlink(&mut self, name: &str) {
        if self.names.remove(name).is_some() {
            self.changes.push(Change::Unlink(name.to_string()));
        }
    }

    pub(super) fn sync(&mut self) {
        self.apply(usize::MAX);
    }

    /// How many changes a power cut may take.
    pub(super) fn unsynced(&self) -> usize {
        self.changes.len()
    }

    /// The power goes: all but the first `kept` changes are lost.
    pub(super) fn cut_power(&mut self, kept: usize) {
        self.apply(kept);
        self.changes.clear();
        self.names = self.durable.clone();
    }

    pub(super) fn ids(&self) -> BTreeSet<FileId> {
        self.names.values().copied().collect()
    }

    fn apply(&mut self, count: usize) {
        for change in self.changes.drain(..count.min(self.changes.len())) {
            match change {
                Change::Link(name, id) => {
                    self.durable.insert(name, id);
                }
                Change::Rename(from, to) => {
                    if let Some(id) = self.durable.remove(&from) {
                        self.durable.insert(to, id);
                    }
                }
                Change::Unlink(name) => {
                    self.durable.remove(&name);
                }
            }
        }
    }
}
