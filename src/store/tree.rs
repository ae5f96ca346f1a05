//! The tree of names: directories, what is in them, and in which order they list it. In memory only; what it is made
//! of lies in the log and in checkpoints.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::types::{Listed, NodeId, NodeInfo};
use crate::format::catalog::entry_len;
use crate::format::checkpoint::entry_in_checkpoint;
use crate::format::{CatalogEntry, Lsn, NodeKind, ROOT_ID};

/// Directories within one another, at most: as many as a path that the kernel can be given names.
pub const MAX_DEPTH: usize = 2048;
/// Bits of a directory's mode that let everybody list it and go into it.
const OPEN_TO_ALL: u32 = 0o005;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// Its id.
    pub id: NodeId,
    /// Log or directory.
    pub kind: NodeKind,
}

/// A directory.
#[derive(Debug, Default)]
pub struct Directory {
    /// Name, attributes and times.
    pub entry: CatalogEntry,
    /// LSN behind the last change of it or of a name in it: `make_stable` of it is its fsync.
    pub changed_lsn: Lsn,
    names: HashMap<Arc<[u8]>, Child>,
    /// By id: a place in it stays good whatever comes and goes.
    order: BTreeMap<NodeId, (Arc<[u8]>, NodeKind)>,
    subdirectories: u32,
}

impl Directory {
    /// Nothing is in it yet.
    pub fn new(entry: CatalogEntry) -> Self {
        Self { entry, ..Self::default() }
    }

    /// What a name in it stands for.
    pub fn child(&self, name: &[u8]) -> Option<Child> {
        self.names.get(name).copied()
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// A name in it has changed.
    pub fn touch(&mut self, now: u64, lsn: Lsn) {
        self.entry.mtime_ns = now;
        self.entry.ctime_ns = now;
        self.changed_lsn = lsn;
    }

    /// What `stat` shows.
    pub fn info(&self) -> NodeInfo {
        let mut info = NodeInfo::of(&self.entry, self.changed_lsn);
        info.nlink = 2 + self.subdirectories;
        info
    }

    fn add(&mut self, name: &[u8], child: Child) -> bool {
        let name: Arc<[u8]> = name.into();
        if self.names.contains_key(&name) {
            return false;
        }
        self.order.insert(child.id, (name.clone(), child.kind));
        self.names.insert(name, child);
        self.subdirectories += u32::from(child.kind == NodeKind::Directory);
        true
    }

    fn take(&mut self, name: &[u8]) -> Option<Child> {
        let child = self.names.remove(name)?;
        self.order.remove(&child.id);
        self.subdirectories -= u32::from(child.kind == NodeKind::Directory);
        Some(child)
    }
}

/// All directories.
#[derive(Debug)]
pub struct Tree {
    directories: HashMap<NodeId, Directory>,
    /// The next node gets this id.
    pub next_id: NodeId,
    /// Bytes that all entries take in a checkpoint.
    pub bytes: u64,
    /// LSN behind the last change of a name or a directory.
    pub changed_lsn: Lsn,
    logs: u64,
}

/// Bytes that a node with this name takes in a checkpoint.
pub fn cost(name: &[u8]) -> u64 {
    entry_in_checkpoint(entry_len(name.len()))
}

impl Tree {
    /// The tree with nothing but this root.
    pub fn new(root: CatalogEntry, next_id: NodeId) -> Self {
        let directories = HashMap::from([(ROOT_ID, Directory::new(root))]);
        Self { directories, next_id, bytes: cost(b""), changed_lsn: 0, logs: 0 }
    }

    /// A directory.
    pub fn get(&self, id: NodeId) -> Option<&Directory> {
        self.directories.get(&id)
    }

    /// A directory, to change it.
    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        self.directories.get_mut(&id)
    }

    /// All directories.
    pub fn directories(&self) -> impl Iterator<Item = &Directory> {
        self.directories.values()
    }

    /// Everything that is in a directory.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.directories.values().flat_map(|directory| directory.order.keys().copied())
    }

    /// Logs, directories.
    pub fn counts(&self) -> (u64, u64) {
        (self.logs, self.directories.len() as u64)
    }

    /// A directory is there, though not yet in any other.
    pub fn insert_directory(&mut self, directory: Directory) {
        self.directories.insert(directory.entry.id, directory);
    }

    /// A directory is no more.
    pub fn remove_directory(&mut self, id: NodeId) {
        self.directories.remove(&id);
    }

    /// A new node is in a directory. False if the name is taken or the directory is none.
    pub fn add(&mut self, parent: NodeId, name: &[u8], child: Child) -> bool {
        let added = self.directories.get_mut(&parent).is_some_and(|directory| directory.add(name, child));
        if added {
            self.bytes += cost(name);
            self.logs += u64::from(child.kind == NodeKind::Log);
        }
        added
    }

    /// A node is in its directory no more.
    pub fn take(&mut self, parent: NodeId, name: &[u8]) -> Option<Child> {
        let child = self.directories.get_mut(&parent)?.take(name)?;
        self.bytes -= cost(name);
        self.logs -= u64::from(child.kind == NodeKind::Log);
        Some(child)
    }

    /// What a path from the root stands for; slashes before, between and behind names do not count.
    pub fn resolve(&self, path: &[u8]) -> Option<Child> {
        let mut at = Child { id: ROOT_ID, kind: NodeKind::Directory };
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at = self.get(at.id).filter(|_| at.kind == NodeKind::Directory)?.child(name)?;
        }
        Some(at)
    }

    /// What is in a directory behind the node `after`, at most `most` of it, by id.
    pub fn list(&self, id: NodeId, after: NodeId, most: usize) -> Option<Vec<Listed>> {
        let directory = self.get(id)?;
        let range = directory.order.range((Bound::Excluded(after), Bound::Unbounded));
        Some(range.take(most).map(|(&id, (name, kind))| Listed { id, kind: *kind, name: name.clone() }).collect())
    }

    /// The directories above `id`, itself first, up to the root.
    fn upwards(&self, id: NodeId) -> impl Iterator<Item = &Directory> {
        std::iter::successors(self.get(id), |directory| self.get(directory.entry.parent)).take(MAX_DEPTH + 1)
    }

    /// `id` is `above` or lies somewhere below it.
    pub fn is_within(&self, id: NodeId, above: NodeId) -> bool {
        self.upwards(id).any(|directory| directory.entry.id == above)
    }

    /// Directories from the root to `id`, the root not counted.
    pub fn depth(&self, id: NodeId) -> usize {
        self.upwards(id).count().saturating_sub(1)
    }

    /// Directories below `id`, within one another.
    pub fn height(&self, id: NodeId) -> usize {
        let (mut level, mut height) = (vec![id], 0);
        loop {
            let below = level.iter().filter_map(|id| self.get(*id)).filter(|directory| directory.subdirectories > 0);
            let below = below.flat_map(|directory| directory.order.iter());
            level = below.filter(|(_, (_, kind))| *kind == NodeKind::Directory).map(|(id, _)| *id).collect();
            if level.is_empty() || height >= MAX_DEPTH {
                return height;
            }
            height += 1;
        }
    }

    /// Everybody can list `id` and all above it, and go into them.
    pub fn is_open_to_all(&self, id: NodeId) -> bool {
        self.upwards(id).all(|directory| directory.entry.mode & OPEN_TO_ALL == OPEN_TO_ALL)
    }

    /// The path from the root of a name in directory `parent`, without the first slash.
    pub fn path(&self, parent: NodeId, name: &[u8]) -> Vec<u8> {
        let mut names: Vec<&[u8]> = vec![name];
        names.extend(self.upwards(parent).filter(|d| !d.entry.is_root()).map(|d| d.entry.name.as_slice()));
        names.reverse();
        names.join(&b'/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let root = CatalogEntry { id: ROOT_ID, kind: NodeKind::Directory, mode: 0o755, ..CatalogEntry::default() };
        Tree::new(root, 1)
    }

    fn directory(tree: &mut Tree, parent: NodeId, name: &[u8]) -> NodeId {
        let id = tree.next_id;
        tree.next_id += 1;
        let entry = CatalogEntry {
            id,
            parent,
            kind: NodeKind::Directory,
            mode: 0o755,
            name: name.into(),
            ..Default::default()
        };
        tree.insert_directory(Directory::new(entry));
        assert!(tree.add(parent, name, Child { id, kind: NodeKind::Directory }));
        id
    }

    #[test]
    fn a_path_leads_to_a_node_and_back() {
        let mut tree = tree();
        let a = directory(&mut tree, ROOT_ID, b"a");
        let b = directory(&mut tree, a, b"b\xff");
        assert!(tree.add(b, b"log", Child { id: 77, kind: NodeKind::Log }));
        assert_eq!(tree.resolve(b"/a//b\xff/log").map(|child| child.id), Some(77));
        assert_eq!(tree.resolve(b"").map(|child| child.id), Some(ROOT_ID));
        assert_eq!(tree.resolve(b"a/log"), None);
        assert_eq!(tree.resolve(b"a/b\xff/log/x"), None);
        assert_eq!(tree.path(b, b"log"), b"a/b\xff/log");
        assert_eq!((tree.depth(b), tree.height(ROOT_ID), tree.height(b)), (2, 2, 0));
        assert!(tree.is_within(b, a) && tree.is_within(a, a) && !tree.is_within(a, b));
    }

    #[test]
    fn a_listing_goes_on_where_it_was_whatever_comes_and_goes() {
        let mut tree = tree();
        for id in 10..20u32 {
            assert!(tree.add(ROOT_ID, format!("log{id}").as_bytes(), Child { id, kind: NodeKind::Log }));
        }
        let first = tree.list(ROOT_ID, 0, 4).unwrap();
        assert_eq!(first.iter().map(|listed| listed.id).collect::<Vec<_>>(), [10, 11, 12, 13]);
        assert!(tree.take(ROOT_ID, b"log13").is_some() && tree.take(ROOT_ID, b"log15").is_some());
        assert!(tree.add(ROOT_ID, b"new", Child { id: 20, kind: NodeKind::Log }));
        let rest = tree.list(ROOT_ID, 13, 100).unwrap();
        assert_eq!(rest.iter().map(|listed| listed.id).collect::<Vec<_>>(), [14, 16, 17, 18, 19, 20]);
    }

    #[test]
    fn bytes_and_links_are_counted_to_the_last() {
        let mut tree = tree();
        let empty = tree.bytes;
        let a = directory(&mut tree, ROOT_ID, b"a");
        assert_eq!(tree.get(ROOT_ID).unwrap().info().nlink, 3);
        assert!(!tree.add(ROOT_ID, b"a", Child { id: 9, kind: NodeKind::Log }), "taken");
        assert_eq!(tree.counts(), (0, 2));
        tree.take(ROOT_ID, b"a");
        tree.remove_directory(a);
        assert_eq!((tree.bytes, tree.counts()), (empty, (0, 1)));
        assert_eq!(tree.get(ROOT_ID).unwrap().info().nlink, 2);
    }
}
