//! Names: lookup and reading directories. Nothing can be made, removed or renamed yet: `EPERM`.

use std::time::Duration;

use super::inode::{CONTROL_NAME, ControlFile, Node};
use super::types::{Attr, Entry, Errno, Kind};
use super::{LlamaFs, attr};

/// How long the kernel may keep a name: only its own calls change names.
pub const NAME_VALID: Duration = Duration::from_secs(60);

impl LlamaFs {
    /// The inode of a name.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr, Errno> {
        let node = match Node::of(parent).ok_or(Errno::ENOENT)? {
            Node::Root if name == CONTROL_NAME => Node::Control,
            Node::Root => {
                let id = self.inner.store.log_by_name(name).ok_or(Errno::ENOENT)?;
                self.inner.logs.get(id).ok_or(Errno::ENOENT)?;
                Node::Log(id)
            }
            Node::Control => {
                let file = ControlFile::ALL.into_iter().find(|file| file.name().as_bytes() == name);
                Node::File(file.ok_or(Errno::ENOENT)?)
            }
            Node::Log(_) | Node::File(_) => return Err(Errno::ENOTDIR),
        };
        attr::attr(&self.inner, node)
    }

    /// Entries of a directory behind the place `from`, until `add` says that it is full.
    pub fn readdir(&self, ino: u64, from: u64, mut add: impl FnMut(&Entry) -> bool) -> Result<(), Errno> {
        let node = Node::of(ino).ok_or(Errno::ENOENT)?;
        let mut entries = vec![
            Entry { ino, next: 1, kind: Kind::Directory, name: b".".to_vec() },
            Entry { ino: Node::Root.ino(), next: 2, kind: Kind::Directory, name: b"..".to_vec() },
        ];
        // The place behind an entry is made of its inode number, so it stays good if others come and go.
        let mut push = |node: Node, kind, name: &[u8]| {
            entries.push(Entry { ino: node.ino(), next: node.ino(), kind, name: name.to_vec() });
        };
        match node {
            Node::Root => {
                let mut logs = self.inner.store.logs();
                logs.retain(|info| self.inner.logs.get(info.id).is_some());
                logs.sort_by_key(|info| info.id);
                for info in logs {
                    push(Node::Log(info.id), Kind::File, &info.name);
                }
                push(Node::Control, Kind::Directory, CONTROL_NAME);
            }
            Node::Control => {
                for file in ControlFile::ALL {
                    push(Node::File(file), Kind::File, file.name().as_bytes());
                }
            }
            Node::Log(_) | Node::File(_) => return Err(Errno::ENOTDIR),
        }
        for entry in entries.iter().filter(|entry| entry.next > from) {
            if add(entry) {
                break;
            }
        }
        Ok(())
    }
}
