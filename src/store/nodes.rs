//! What can be asked of a running store's logs and directories.

use super::LogStructuredStore;
use super::tree::Tree;
use super::types::{Listed, LogId, LogInfo, NodeId, NodeInfo, NodeKind, ROOT_ID, StoreError};

impl LogStructuredStore {
    /// A log or a directory.
    pub fn node(&self, id: NodeId) -> Option<NodeInfo> {
        self.catalog.info(id)
    }

    /// A log.
    pub fn log(&self, id: LogId) -> Option<LogInfo> {
        self.catalog.lock(id).map(|log| log.info())
    }

    /// What `name` stands for in directory `parent`.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<NodeInfo, StoreError> {
        let tree = self.catalog.tree.read();
        let Some(directory) = tree.get(parent) else {
            let is_log = self.catalog.lock(parent).is_some();
            return Err(if is_log { StoreError::NotADirectory } else { StoreError::NotFound });
        };
        let child = directory.child(name).ok_or(StoreError::NotFound)?;
        let info = match child.kind {
            NodeKind::Log => self.log(child.id),
            NodeKind::Directory => tree.get(child.id).map(|directory| directory.info()),
        };
        info.ok_or(StoreError::NotFound)
    }

    /// What a path from the root stands for.
    pub fn resolve(&self, path: &[u8]) -> Option<NodeInfo> {
        let child = self.catalog.tree.read().resolve(path)?;
        self.node(child.id)
    }

    /// The log with this path.
    pub fn log_by_name(&self, path: &[u8]) -> Option<LogId> {
        self.resolve(path).filter(|node| node.kind == NodeKind::Log).map(|node| node.id)
    }

    /// What is in a directory behind the node `after` (0: from the start), at most `most` of it, by id: a place stays
    /// good whatever comes and goes.
    pub fn list(&self, id: NodeId, after: NodeId, most: usize) -> Result<Vec<Listed>, StoreError> {
        self.catalog.tree.read().list(id, after, most).ok_or(StoreError::NotFound)
    }

    /// All logs, by id, with their paths as names.
    pub fn logs(&self) -> Vec<LogInfo> {
        self.some_logs(usize::MAX, false)
    }

    /// The first `most` of the logs whose directories everybody may look into.
    pub fn public_logs(&self, most: usize) -> Vec<LogInfo> {
        self.some_logs(most, true)
    }

    fn some_logs(&self, most: usize, public: bool) -> Vec<LogInfo> {
        let tree = self.catalog.tree.read();
        let mut found: Vec<(LogId, NodeId)> = Vec::new();
        for directory in tree.directories() {
            let id = directory.entry.id;
            if public && !tree.is_open_to_all(id) {
                continue;
            }
            let listed = tree.list(id, 0, usize::MAX).unwrap_or_default();
            found.extend(listed.into_iter().filter(|listed| listed.kind == NodeKind::Log).map(|log| (log.id, id)));
        }
        found.sort_unstable();
        found.truncate(most);
        let info = |(id, parent): (LogId, NodeId)| {
            let info = self.log(id)?;
            let name = tree.path(parent, &info.name);
            Some(LogInfo { name, ..info })
        };
        found.into_iter().filter_map(info).collect()
    }

    /// Logs and directories, the root not counted, and how many more there may be with names of usual length.
    pub fn node_counts(&self) -> (u64, u64) {
        let tree = self.catalog.tree.read();
        let (logs, directories) = tree.counts();
        let left = self.catalog.limit.saturating_sub(tree.bytes) / super::create::BYTES_PER_NODE;
        let allowed = [NodeKind::Log, NodeKind::Directory].map(|kind| self.nodes_left(&tree, kind));
        (logs + directories - 1, left.min(allowed.into_iter().fold(0, u64::saturating_add)))
    }

    /// How many more logs or directories the mount allows; the root is none of them.
    pub(super) fn nodes_left(&self, tree: &Tree, kind: NodeKind) -> u64 {
        let (logs, directories) = tree.counts();
        match kind {
            NodeKind::Log => self.options.max_logs.saturating_sub(logs),
            NodeKind::Directory => self.options.max_dirs.saturating_sub(directories - 1),
        }
    }

    /// Everybody may read every log that the device holds, or held.
    pub fn is_public(&self) -> bool {
        self.catalog.is_public()
    }

    /// The root directory.
    pub const ROOT: NodeId = ROOT_ID;
}
