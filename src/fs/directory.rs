//! Names: lookup and reading directories.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::inode::{CONTROL_NAME, ControlFile, MOMENTS_NAME, Node, RETAINED_NAME, View};
use super::types::{Attr, Entry, Errno, Kind};
use super::views::RETAINED;
use super::{Limits, LlamaFs, attr, changes, removed, view};
use crate::store::types::{NodeId, NodeKind, ROOT_ID};

/// How long the kernel may keep a name: only its own calls change names.
const NAME_VALID: Duration = Duration::from_secs(60);
/// Places in a directory: behind `.`, behind `..`, behind `/.llamafs/retained` and `/.llamafs/at`, behind the node with id n
/// (this and n), behind `/.llamafs`.
const BEHIND_SELF: u64 = 1;
const BEHIND_PARENT: u64 = 2;
const BEHIND_RETAINED: u64 = 3;
const BEHIND_MOMENTS: u64 = 4;
const BEHIND_NODE: u64 = 0x100;
const BEHIND_CONTROL: u64 = 1 << 40;
/// Names taken from the store at a time: its tree is held still meanwhile.
const BATCH: usize = 512;

impl LlamaFs {
    /// The inode of a name.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr, Errno> {
        if name.len() > Limits::NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let node = match Node::of(parent).ok_or(Errno::ENOENT)? {
            Node::Root if name == CONTROL_NAME => Node::Control,
            Node::Control if name == RETAINED_NAME => Node::View(View::root(RETAINED)),
            Node::Control if name == MOMENTS_NAME => Node::Moments,
            Node::Moments => view::moment(&self.inner, name)?,
            Node::View(directory) => view::lookup(&self.inner, directory, name)?,
            Node::Control => {
                let file = ControlFile::ALL.into_iter().find(|file| file.name().as_bytes() == name);
                Node::File(file.ok_or(Errno::ENOENT)?)
            }
            node => {
                let found = self.inner.store.lookup(node.directory().ok_or(Errno::ENOTDIR)?, name)?;
                if found.kind == NodeKind::Log {
                    // It may be so new that its maker is not answered yet.
                    self.inner.logs.insert(&found);
                }
                Node::in_store(found.id, found.kind)
            }
        };
        attr::attr(&self.inner, node)
    }

    /// Under which number, and for how long, the kernel is told of an inode by its name.
    ///
    /// With `-o parallel` each time of a log is a new one, which stands for no longer than this one call: so each `open`
    /// makes an inode of its own in the kernel, whose lock its appends and syncs share with no other opener's.
    pub fn entry(&self, ino: u64) -> (u64, Duration) {
        match Node::of(ino) {
            Some(Node::Log(id)) if self.inner.settings.parallel => {
                (Node::opener(id, self.inner.openers.fetch_add(1, Ordering::Relaxed)), Duration::ZERO)
            }
            // Changes to other inodes change these names.
            Some(Node::View(_)) => (ino, Duration::ZERO),
            _ => (ino, NAME_VALID),
        }
    }

    /// Each opener of a log has a number of its own, and locks are asked of us: the kernel's are of a number.
    pub fn parallel(&self) -> bool {
        self.inner.settings.parallel
    }

    /// The kernel is about to be told of this inode, by an entry that it will forget one day: until then it may open it,
    /// also when its name is gone. False: it is gone already.
    pub fn remember(&self, ino: u64) -> bool {
        match Node::of(ino) {
            Some(Node::Log(id)) => self.inner.logs.get(id).is_some_and(|log| log.know()),
            // Of a view it asks for each name before it opens it.
            _ => true,
        }
    }

    /// The kernel has forgotten an inode that it was told of so many times.
    pub fn forget(&self, ino: u64, times: u64) {
        // In one message, as a rule; else nothing is known of what was removed.
        if let Some(Node::Directory(id)) = Node::of(ino) {
            self.inner.removed.forget(id);
        }
        if let Some(Node::Log(id)) = Node::of(ino)
            && self.inner.logs.get(id).is_some_and(|log| log.unknow(times))
        {
            changes::forget(&self.inner, id);
        }
    }

    /// `opendir`.
    pub fn opendir(&self, ino: u64) -> Result<(), Errno> {
        match Node::of(ino).ok_or(Errno::ENOENT)? {
            Node::Root | Node::Control | Node::Moments => Ok(()),
            Node::Directory(id) | Node::View(View { directory: true, id, .. }) => {
                removed::directory(&self.inner, id).map(drop)
            }
            Node::Log(_) | Node::File(_) | Node::View(_) => Err(Errno::ENOTDIR),
        }
    }

    /// Entries of a directory behind the place `from`, until `add` says that it is full. What comes and goes meanwhile
    /// may be there or not; what stays is there exactly once, under its old name or its new one.
    pub fn readdir(&self, ino: u64, from: u64, mut add: impl FnMut(&Entry) -> bool) -> Result<(), Errno> {
        let node = Node::of(ino).ok_or(Errno::ENOENT)?;
        let parent = match node {
            // Removed while it was open: nothing is in it.
            Node::Directory(id) => match self.inner.store.node(id) {
                Some(info) => Node::in_store(info.parent, NodeKind::Directory),
                None => return Ok(()),
            },
            Node::View(View { id: ROOT_ID, slot: RETAINED, .. }) => Node::Control,
            Node::View(View { id: ROOT_ID, .. }) => Node::Moments,
            Node::View(View { directory: true, id, slot, .. }) => match self.inner.store.node(id) {
                Some(info) => Node::View(View::in_view(slot, info.parent, NodeKind::Directory)),
                None => return Ok(()),
            },
            Node::Root | Node::Control => Node::Root,
            Node::Moments => Node::Control,
            Node::Log(_) | Node::File(_) | Node::View(_) => return Err(Errno::ENOTDIR),
        };
        for (next, ino, name) in [(BEHIND_SELF, ino, b".".to_vec()), (BEHIND_PARENT, parent.ino(), b"..".to_vec())] {
            if next > from && add(&Entry { ino, next, kind: Kind::Directory, name }) {
                return Ok(());
            }
        }
        match node {
            Node::View(View { id, .. }) => self.list(node, id, from, add),
            // Any time may be looked up: none is listed.
            Node::Moments => Ok(()),
            _ if node.directory().is_some() => self.list(node, node.directory().unwrap_or_default(), from, add),
            _ => {
                let retained = Node::View(View::root(RETAINED));
                for (next, node, name) in
                    [(BEHIND_RETAINED, retained, RETAINED_NAME), (BEHIND_MOMENTS, Node::Moments, MOMENTS_NAME)]
                {
                    let entry = Entry { ino: node.ino(), next, kind: Kind::Directory, name: name.to_vec() };
                    if from < next && add(&entry) {
                        return Ok(());
                    }
                }
                for file in ControlFile::ALL {
                    let ino = Node::File(file).ino();
                    if ino > from && add(&Entry { ino, next: ino, kind: Kind::File, name: file.name().into() }) {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    fn list(&self, node: Node, id: NodeId, from: u64, mut add: impl FnMut(&Entry) -> bool) -> Result<(), Errno> {
        let mut after = NodeId::try_from(from.saturating_sub(BEHIND_NODE)).unwrap_or(NodeId::MAX);
        loop {
            // A directory that is removed meanwhile has come to its end.
            let batch = self.inner.store.list(id, after, BATCH).unwrap_or_default();
            let Some(last) = batch.last() else { break };
            after = last.id;
            for listed in batch {
                if node == Node::Root && *listed.name == *CONTROL_NAME {
                    continue;
                }
                let listed_node = match node {
                    Node::View(View { slot, .. }) => Node::View(View::in_view(slot, listed.id, listed.kind)),
                    _ => Node::in_store(listed.id, listed.kind),
                };
                let entry = Entry {
                    ino: listed_node.ino(),
                    next: BEHIND_NODE + u64::from(listed.id),
                    kind: if listed.kind == NodeKind::Directory { Kind::Directory } else { Kind::File },
                    name: listed.name.to_vec(),
                };
                if add(&entry) {
                    return Ok(());
                }
            }
        }
        if node == Node::Root && from < BEHIND_CONTROL {
            let (ino, name) = (Node::Control.ino(), CONTROL_NAME.to_vec());
            add(&Entry { ino, next: BEHIND_CONTROL, kind: Kind::Directory, name });
        }
        Ok(())
    }

    /// As [`LlamaFs::readdir`], with the attributes of each entry.
    pub fn readdirplus(&self, ino: u64, from: u64, mut add: impl FnMut(&Entry, &Attr) -> bool) -> Result<(), Errno> {
        self.readdir(ino, from, |entry| {
            let node = Node::of(entry.ino);
            match node.and_then(|node| attr::attr(&self.inner, node).ok()) {
                Some(attr) => add(entry, &attr),
                // Gone meanwhile.
                None => false,
            }
        })
    }
}
