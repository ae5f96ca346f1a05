//! Paths of logs, from whatever catalog records can still be read. Nothing here believes that they make a tree.

use std::collections::BTreeMap;

use super::MAX_LOGS;
use crate::format::CatalogEntry;
use crate::format::catalog::{ROOT_ID, is_valid_name};
use crate::store::types::LogId;

/// Deepest directory that a log is salvaged in; deeper ones, and circles, have no path.
const MAX_DEPTH: usize = 1024;
/// Bytes of all paths together: a hostile image may have endless ones.
const MAX_PATHS_BYTES: usize = 64 << 20;

/// Parent and name of every log and directory.
#[derive(Debug, Default)]
pub struct Names {
    nodes: BTreeMap<u32, (u32, Vec<u8>)>,
    /// Bytes of the paths given so far.
    given: usize,
    /// Records that were not kept because there are too many nodes.
    pub left_out: u64,
}

impl Names {
    /// A node has this name from now on.
    pub fn named(&mut self, entry: CatalogEntry) {
        if self.nodes.len() >= MAX_LOGS && !self.nodes.contains_key(&entry.id) {
            self.left_out += 1;
        } else if is_valid_name(&entry.name) {
            self.nodes.insert(entry.id, (entry.parent, entry.name));
        }
    }

    /// A node has no name any more.
    pub fn gone(&mut self, id: u32) {
        self.nodes.remove(&id);
    }

    /// The path of a log, from the root; empty if it has none.
    pub fn path(&mut self, log: LogId) -> Vec<Vec<u8>> {
        let mut path = Vec::new();
        let mut id = log;
        while id != ROOT_ID {
            let Some((parent, name)) = self.nodes.get(&id) else { return Vec::new() };
            self.given = self.given.saturating_add(name.len());
            if path.len() >= MAX_DEPTH || self.given > MAX_PATHS_BYTES {
                return Vec::new();
            }
            path.push(name.clone());
            id = *parent;
        }
        path.reverse();
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u32, parent: u32, name: &[u8]) -> CatalogEntry {
        CatalogEntry { id, parent, name: name.to_vec(), ..CatalogEntry::default() }
    }

    #[test]
    fn a_path_leads_to_the_root_or_is_none() {
        let mut names = Names::default();
        for entry in [node(1, ROOT_ID, b"log"), node(2, ROOT_ID, b"www"), node(3, 2, b"access"), node(4, 9, b"lost")] {
            names.named(entry);
        }
        assert_eq!(names.path(1), [b"log".to_vec()]);
        assert_eq!(names.path(3), [b"www".to_vec(), b"access".to_vec()]);
        assert!(names.path(4).is_empty() && names.path(77).is_empty());
        names.named(node(2, 3, b"circle"));
        assert!(names.path(3).is_empty());
        names.gone(1);
        assert!(names.path(1).is_empty());
        names.named(node(5, ROOT_ID, b".."));
        assert!(names.path(5).is_empty());
    }
}
