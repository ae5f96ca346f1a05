//! Making, renaming and removing: what the kernel asks for becomes a change of the store's catalog, and is answered when
//! that is in the log; with `-o sync`, when it is on stable media.
//!
//! The kernel has checked permissions, the sticky bit among them (`default_permissions`). Here the control tree is kept
//! as it is, and a log that is removed while it is open stays for those who have it open.

use super::attr::attr;
use super::inode::{CONTROL_NAME, Node};
use super::open::{open_log, own_handle};
use super::types::{Attr, Errno, New, Opened, Reply};
use super::{Inner, LlamaFs};
use crate::store::types::{Change, Changed, LogId, NodeId, NodeKind, RenameHow, StoreError};

/// An inode and how it was opened, or the error.
type Created = (Attr, Opened);

impl LlamaFs {
    /// The store's directory behind an inode, if `name` may be made, removed or renamed there.
    fn place(&self, parent: u64, name: &[u8]) -> Result<NodeId, Errno> {
        match Node::of(parent).ok_or(Errno::ENOENT)? {
            Node::Root if name == CONTROL_NAME => Err(Errno::EPERM),
            Node::Control | Node::Moments | Node::View(_) => Err(Errno::EPERM),
            node => node.directory().ok_or(Errno::ENOTDIR),
        }
    }

    /// Do a change, go on with `then`, and answer.
    pub(super) fn change<T: Send + 'static>(
        &self,
        change: Change,
        then: impl FnOnce(&Inner, Result<Changed, StoreError>) -> Result<T, Errno> + Send + 'static,
        reply: impl Reply<T>,
    ) {
        if !self.inner.gate.enter() {
            return reply.send(Err(Errno::ESHUTDOWN));
        }
        let inner = self.inner.clone();
        let done = move |result: Result<Changed, StoreError>| {
            let lsn = result.as_ref().ok().map(|changed| changed.lsn).filter(|_| inner.settings.sync);
            match (lsn, then(&inner, result)) {
                (Some(lsn), Ok(value)) => {
                    let store = inner.store.clone();
                    let durable = move |stable: Result<(), StoreError>| {
                        reply.send(stable.map(|()| value).map_err(Errno::from));
                        inner.gate.leave();
                    };
                    store.make_stable(lsn, Box::new(durable));
                }
                (_, answer) => {
                    reply.send(answer);
                    inner.gate.leave();
                }
            }
        };
        self.inner.store.change(change, Box::new(done));
    }

    /// A name that nothing had before. What has a longer one, from another mount, keeps it.
    fn check_name(&self, name: &[u8]) -> Result<(), Errno> {
        if name.len() > self.inner.settings.limits.name_max { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
    }

    fn create_change(&self, new: &New<'_>, kind: NodeKind) -> Result<Change, Errno> {
        self.check_name(new.name)?;
        Ok(Change::Create {
            parent: self.place(new.parent, new.name)?,
            name: new.name.to_vec(),
            kind,
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
        })
    }

    /// `open` with `O_CREAT`, where the kernel found no such name. What is new may be opened in any way: a descriptor
    /// without `O_APPEND` writes exactly at the end, or not at all.
    pub fn create(&self, new: &New<'_>, flags: i32, reply: impl Reply<Created>) {
        let change = self.create_change(new, NodeKind::Log);
        let change = match change.and_then(|change| self.inner.handles.take(new.uid).map(|()| change)) {
            Ok(change) => change,
            Err(errno) => return reply.send(Err(errno)),
        };
        let (parent, name, uid, fs) = (new.parent, new.name.to_vec(), new.uid, self.clone());
        let opened = move |inner: &Inner, changed: &Changed| {
            let log = inner.logs.insert(&changed.node).ok_or(Errno::EIO)?;
            let opened = open_log(flags & libc::O_ACCMODE | libc::O_APPEND, inner.settings.cached_reads)?;
            let attr = attr(inner, Node::Log(log.id))?;
            log.open();
            Ok((attr, own_handle(inner, opened, uid)))
        };
        let then = move |inner: &Inner, result: Result<Changed, StoreError>| match result {
            Ok(changed) => opened(inner, &changed).inspect_err(|_| inner.handles.give(uid)),
            // Somebody else was faster.
            Err(StoreError::Exists) if flags & libc::O_EXCL == 0 => {
                inner.handles.give(uid);
                let attr = fs.lookup(parent, &name)?;
                let opened = fs.open_now(attr.ino, flags, uid)?;
                Ok((attr, opened))
            }
            Err(error) => {
                inner.handles.give(uid);
                Err(error.into())
            }
        };
        self.change(change, then, reply);
    }

    /// `mknod`: a log, if it is a regular file.
    pub fn mknod(&self, new: &New<'_>, reply: impl Reply<Attr>) {
        let kind = new.mode & libc::S_IFMT;
        if ![0, libc::S_IFREG].contains(&kind) {
            return reply.send(Err(Errno::EPERM));
        }
        self.make(new, NodeKind::Log, reply);
    }

    /// `mkdir`.
    pub fn mkdir(&self, new: &New<'_>, reply: impl Reply<Attr>) {
        self.make(new, NodeKind::Directory, reply);
    }

    fn make(&self, new: &New<'_>, kind: NodeKind, reply: impl Reply<Attr>) {
        let change = match self.create_change(new, kind) {
            Ok(change) => change,
            Err(errno) => return reply.send(Err(errno)),
        };
        let then = |inner: &Inner, result: Result<Changed, StoreError>| {
            let node = result?.node;
            if node.kind == NodeKind::Log {
                inner.logs.insert(&node);
            }
            attr(inner, Node::in_store(node.id, node.kind))
        };
        self.change(change, then, reply);
    }

    /// `unlink`.
    pub fn unlink(&self, parent: u64, name: &[u8], reply: impl Reply<()>) {
        self.remove(parent, name, NodeKind::Log, reply);
    }

    /// `rmdir`.
    pub fn rmdir(&self, parent: u64, name: &[u8], reply: impl Reply<()>) {
        self.remove(parent, name, NodeKind::Directory, reply);
    }

    fn remove(&self, parent: u64, name: &[u8], kind: NodeKind, reply: impl Reply<()>) {
        let parent = match self.place(parent, name) {
            Ok(parent) => parent,
            Err(errno) => return reply.send(Err(errno)),
        };
        let then = |inner: &Inner, result: Result<Changed, StoreError>| {
            if let Ok(changed) = &result {
                inner.removed.insert(changed.node.clone());
            }
            gone(inner, result)
        };
        self.change(Change::Remove { parent, name: name.to_vec(), kind }, then, reply);
    }

    /// `rename`, `renameat2`.
    pub fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32, reply: impl Reply<()>) {
        let how = match flags {
            0 => RenameHow::Replace,
            libc::RENAME_NOREPLACE => RenameHow::NoReplace,
            libc::RENAME_EXCHANGE => RenameHow::Exchange,
            _ => return reply.send(Err(Errno::EINVAL)),
        };
        let target = self.check_name(to.1).and_then(|()| self.place(to.0, to.1));
        let (parent, new_parent) = match (self.place(from.0, from.1), target) {
            (Ok(parent), Ok(new_parent)) => (parent, new_parent),
            (Err(errno), _) | (_, Err(errno)) => return reply.send(Err(errno)),
        };
        // The kernel holds both directories still meanwhile.
        let replaced = self.inner.store.lookup(new_parent, to.1).ok().filter(|_| how == RenameHow::Replace);
        let then = move |inner: &Inner, result: Result<Changed, StoreError>| {
            if let (Ok(changed), Some(replaced)) = (&result, replaced)
                && changed.node.id != replaced.id
            {
                inner.removed.insert(replaced);
            }
            gone(inner, result)
        };
        let change = Change::Rename { parent, name: from.1.to_vec(), new_parent, new_name: to.1.to_vec(), how };
        self.change(change, then, reply);
    }
}

/// A log that was removed or replaced stays as long as somebody has it open.
fn gone(inner: &Inner, result: Result<Changed, StoreError>) -> Result<(), Errno> {
    if let Some(id) = result?.gone
        && inner.logs.get(id).is_none_or(|log| log.unlink())
    {
        forget(inner, id);
    }
    Ok(())
}

/// Nobody can reach a log any more.
pub fn forget(inner: &Inner, id: LogId) {
    inner.store.forget(id);
    inner.logs.remove(id);
}
