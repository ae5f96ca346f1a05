//! Changes of the catalog: logs and directories are made, renamed and removed.

use std::sync::Arc;

use llamafs::format::{NodeKind, ROOT_ID};
use llamafs::store::{Change, LogStructuredStore, RenameHow};

use super::model::{NEW_MODE, Node, What};
use super::plan::{Disk, Op};
use super::states::State;
use super::world::{LOG, World};

/// Logs and directories at one time, at most.
const MOST: usize = 12;

impl World {
    /// One of these operations, on a disk that does not lie: what a liar may lose of names, the model does not know.
    pub fn change(&mut self, store: &Arc<LogStructuredStore>, op: Op) {
        if self.setup.disk == Disk::Lying {
            return;
        }
        // What waits for room is of the present log.
        self.settle(store);
        match op {
            Op::Log { which } => self.log = self.pick(which, false).unwrap_or(LOG),
            Op::Make { directory } => self.make(store, directory),
            Op::Rename { which, replace } => self.rename(store, which, replace),
            Op::Remove { which, directory } => self.remove(store, which, directory),
            _ => {}
        }
    }

    /// One of the logs, or of the directories.
    pub fn pick(&self, which: u32, directory: bool) -> Option<u32> {
        let nodes = self.model.shown().nodes.iter().filter(|(_, node)| node.directory == directory);
        let ids: Vec<u32> = nodes.map(|(id, _)| *id).collect();
        ids.get(which as usize % ids.len().max(1)).copied()
    }

    fn new_name(&mut self) -> Vec<u8> {
        self.names += 1;
        // Lengths that make frames of every kind of end.
        format!("{}{}", self.names, "n".repeat(self.names as usize * 7 % 60)).into_bytes()
    }

    /// `ROOT_ID` or a directory.
    fn place(&self, which: u32) -> u32 {
        if which.is_multiple_of(3) { ROOT_ID } else { self.pick(which, true).unwrap_or(ROOT_ID) }
    }

    fn make(&mut self, store: &Arc<LogStructuredStore>, directory: bool) {
        if self.model.shown().nodes.len() >= MOST {
            return;
        }
        let (name, parent) = (self.new_name(), if directory { ROOT_ID } else { self.place(self.names) });
        let kind = if directory { NodeKind::Directory } else { NodeKind::Log };
        let change = Change::Create { parent, name: name.clone(), kind, mode: NEW_MODE, uid: 0, gid: 0 };
        match store.change_now(change) {
            Ok(changed) => {
                let id = changed.node.id;
                self.changed();
                self.accept(changed.lsn, What::Named { id, node: Node { parent, name, directory }, replaced: None });
                if !directory {
                    self.log = id;
                }
            }
            Err(error) => self.refused(store, &error),
        }
    }

    fn rename(&mut self, store: &Arc<LogStructuredStore>, which: u32, replace: bool) {
        let id = self.log;
        if self.model.open.contains_key(&id) {
            return;
        }
        let from = self.model.shown().nodes[&id].clone();
        let other = self.pick(which, false).filter(|other| replace && *other != id);
        let (new_parent, new_name) = match other.map(|other| self.model.shown().nodes[&other].clone()) {
            Some(target) => (target.parent, target.name),
            None => (self.place(which), self.new_name()),
        };
        let change = Change::Rename {
            parent: from.parent,
            name: from.name,
            new_parent,
            new_name: new_name.clone(),
            how: if other.is_some() { RenameHow::Replace } else { RenameHow::NoReplace },
        };
        match store.change_now(change) {
            Ok(changed) => {
                assert_eq!(changed.gone, other, "what a rename has replaced");
                self.changed();
                self.hits.hit_if(State::Replaced, other.is_some());
                self.hits.hit_if(State::InDirectory, new_parent != ROOT_ID);
                let node = Node { parent: new_parent, name: new_name, directory: false };
                self.accept(changed.lsn, What::Named { id, node, replaced: other });
                if let Some(other) = other {
                    self.forget(store, other);
                }
            }
            Err(error) => self.refused(store, &error),
        }
    }

    fn remove(&mut self, store: &Arc<LogStructuredStore>, which: u32, directory: bool) {
        let id = if directory { self.pick(which, true) } else { Some(self.log) };
        let Some(id) = id.filter(|id| !self.model.open.contains_key(id)) else { return };
        let inside = self.model.shown().nodes.values().any(|node| node.parent == id);
        let node = self.model.shown().nodes[&id].clone();
        if inside || self.model.shown().logs.len() + usize::from(directory) < 2 {
            return;
        }
        let kind = if directory { NodeKind::Directory } else { NodeKind::Log };
        match store.change_now(Change::Remove { parent: node.parent, name: node.name, kind }) {
            Ok(changed) => {
                self.changed();
                self.accept(changed.lsn, What::Gone { id });
                if !directory {
                    self.forget(store, id);
                    self.log = self.pick(which, false).unwrap_or(LOG);
                }
            }
            Err(error) => self.refused(store, &error),
        }
    }
}
