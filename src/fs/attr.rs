//! Attributes: what `stat` shows, and what chmod, chown, truncate and utimens may change.
//!
//! Sizes are always the store's: the kernel asks for a log's attributes each time (`valid` is zero), as an append
//! changes them. The kernel itself checks the permission bits and who may change them (`default_permissions`).

use std::time::Duration;

use super::inode::{ControlFile, Node};
use super::types::{Attr, Errno, Kind, Reply, SetAttr, SetTime, StatFs};
use super::{Inner, LlamaFs, now_ns, removed, view};
use crate::store::types::{AttrChange, Change, Changed, LogInfo, NodeInfo, NodeKind, ROOT_ID, StoreError};

/// How long the kernel may keep what never changes while mounted.
const FIXED: Duration = Duration::from_secs(60);
/// Permission bits.
const MODE_BITS: u32 = 0o7777;

/// Attributes of a node.
pub fn attr(inner: &Inner, node: Node) -> Result<Attr, Errno> {
    match node {
        // Removed, and nobody has it open.
        Node::Log(id) => Ok(log_attr(inner, &inner.store.log(id).ok_or(Errno::ESTALE)?)),
        Node::Root => Ok(directory_attr(&inner.store.node(ROOT_ID).ok_or(Errno::EIO)?)),
        Node::Directory(id) => Ok(directory_attr(&removed::directory(inner, id)?)),
        Node::Control => Ok(fixed(inner, node, Kind::Directory, 0o555, 2, 0)),
        Node::File(ControlFile::Device) => {
            let mut attr = fixed(inner, node, Kind::File, device_mode(inner), 1, inner.store.device_bytes());
            attr.valid = Duration::ZERO;
            Ok(attr)
        }
        Node::Moments => Ok(fixed(inner, node, Kind::Directory, 0o555, 2, 0)),
        Node::View(view) => view::attr(inner, view),
        Node::File(_) => Ok(fixed(inner, node, Kind::File, 0o444, 1, 0)),
    }
}

/// Anyone may read the device as long as anyone may read every log on it, those included that were removed; otherwise it
/// would show what a log's own mode hides, and is its owner's alone.
fn device_mode(inner: &Inner) -> u32 {
    if inner.store.is_public() { 0o444 } else { 0o400 }
}

/// What `stat` shows of a directory. Only the kernel's own calls change one, and it knows which.
pub fn directory_attr(info: &NodeInfo) -> Attr {
    let node = Node::in_store(info.id, info.kind);
    Attr {
        ino: node.ino(),
        kind: Kind::Directory,
        mode: info.mode & MODE_BITS,
        uid: info.uid,
        gid: info.gid,
        // The control directory is in the root.
        nlink: info.nlink + u32::from(node == Node::Root),
        size: 0,
        blocks: 0,
        mtime_ns: info.mtime_ns,
        ctime_ns: info.ctime_ns,
        btime_ns: info.btime_ns,
        valid: FIXED,
    }
}

fn fixed(inner: &Inner, node: Node, kind: Kind, mode: u32, nlink: u32, size: u64) -> Attr {
    Attr {
        ino: node.ino(),
        kind,
        mode,
        uid: inner.settings.uid,
        gid: inner.settings.gid,
        nlink,
        size,
        blocks: 0,
        mtime_ns: inner.mounted_ns,
        ctime_ns: inner.mounted_ns,
        btime_ns: inner.mounted_ns,
        valid: FIXED,
    }
}

/// What `stat` shows of a log.
pub fn log_attr(inner: &Inner, info: &LogInfo) -> Attr {
    Attr {
        ino: Node::Log(info.id).ino(),
        kind: Kind::File,
        mode: info.mode & MODE_BITS,
        uid: info.uid,
        gid: info.gid,
        nlink: info.nlink,
        // Not `info.size`: an append in flight must not show before its page is clean; see `tail`.
        size: inner.logs.get(info.id).map_or(info.size, |log| log.tail.visible()),
        blocks: info.device_bytes.div_ceil(512),
        mtime_ns: info.mtime_ns,
        ctime_ns: info.ctime_ns,
        btime_ns: info.btime_ns,
        valid: Duration::ZERO,
    }
}

/// What a change of a log's attributes comes to, by the rules of the append-only flag; of a directory's, by the usual
/// ones.
fn change(set: &SetAttr, kind: NodeKind) -> Result<Option<AttrChange>, Errno> {
    let explicit = [set.atime, set.mtime].iter().any(|time| matches!(time, Some(SetTime::At(_))));
    match kind {
        NodeKind::Log if set.size.is_some() || explicit => return Err(Errno::EPERM),
        NodeKind::Directory if set.size.is_some() => return Err(Errno::EISDIR),
        NodeKind::Log | NodeKind::Directory => {}
    }
    if set.mode.is_none() && set.uid.is_none() && set.gid.is_none() && set.mtime.is_none() {
        return Ok(None);
    }
    let mtime = |time| match time {
        SetTime::Now => now_ns(),
        SetTime::At(ns) => ns,
    };
    Ok(Some(AttrChange {
        mode: set.mode.map(|mode| mode & MODE_BITS),
        uid: set.uid,
        gid: set.gid,
        mtime_ns: set.mtime.map(mtime),
        ..AttrChange::default()
    }))
}

impl LlamaFs {
    /// `stat`.
    pub fn getattr(&self, ino: u64) -> Result<Attr, Errno> {
        attr(&self.inner, Node::of(ino).ok_or(Errno::ENOENT)?)
    }

    /// `chmod`, `chown`, `truncate`, `utimens`.
    pub fn setattr(&self, ino: u64, set: SetAttr, reply: impl Reply<Attr>) {
        let node = Node::of(ino);
        let (id, kind) = match node {
            Some(Node::Log(id)) => (id, NodeKind::Log),
            Some(Node::Directory(id)) => (id, NodeKind::Directory),
            Some(Node::Root) => (ROOT_ID, NodeKind::Directory),
            Some(Node::Control | Node::File(_) | Node::Moments | Node::View(_)) => {
                return reply.send(Err(Errno::EPERM));
            }
            None => return reply.send(Err(Errno::ENOENT)),
        };
        let change = match change(&set, kind) {
            Ok(Some(change)) => change,
            Ok(None) => return reply.send(self.getattr(ino)),
            Err(errno) => return reply.send(Err(errno)),
        };
        if let Some(info) = self.inner.removed.change(id, &change) {
            return reply.send(Ok(directory_attr(&info)));
        }
        let then = move |inner: &Inner, result: Result<Changed, StoreError>| {
            let info = match result {
                // As `stat` says of it.
                Err(StoreError::NotFound) => return Err(Errno::ESTALE),
                result => result?.node,
            };
            if let Some(log) = inner.logs.get(info.id) {
                log.set_mode(info.mode);
            }
            attr(inner, Node::in_store(id, kind))
        };
        self.change(Change::Attributes { id, change }, then, reply);
    }

    /// `statfs`.
    pub fn statfs(&self) -> StatFs {
        let (capacity, available) = self.inner.store.usage();
        let (nodes, nodes_free) = self.inner.store.node_counts();
        let block = u64::from(StatFs::BLOCK);
        StatFs {
            blocks: capacity / block,
            free: available / block,
            files: nodes + nodes_free,
            files_free: nodes_free,
            name_max: u32::try_from(self.inner.settings.limits.name_max).unwrap_or(u32::MAX),
        }
    }

    /// `access`, where the kernel asks: it checks the bits itself under `default_permissions`.
    pub fn access(&self, ino: u64, mask: i32) -> Result<(), Errno> {
        match Node::of(ino).ok_or(Errno::ENOENT)? {
            Node::Control | Node::File(_) | Node::Moments | Node::View(_) if mask & libc::W_OK != 0 => {
                Err(Errno::EACCES)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_never_set_not_even_the_same() {
        for size in [0, 1, u64::MAX] {
            let set = SetAttr { size: Some(size), ..SetAttr::default() };
            assert_eq!(change(&set, NodeKind::Log).err(), Some(Errno::EPERM));
        }
    }

    #[test]
    fn only_the_present_may_be_set_as_time() {
        let now = SetAttr { atime: Some(SetTime::Now), mtime: Some(SetTime::Now), ..SetAttr::default() };
        assert!(change(&now, NodeKind::Log).unwrap().unwrap().mtime_ns.is_some());
        let past = SetAttr { mtime: Some(SetTime::At(7)), ..now };
        assert_eq!(change(&past, NodeKind::Log).err(), Some(Errno::EPERM));
        let atime = SetAttr { atime: Some(SetTime::At(7)), ..SetAttr::default() };
        assert_eq!(change(&atime, NodeKind::Log).err(), Some(Errno::EPERM));
        assert_eq!(change(&past, NodeKind::Directory).unwrap().unwrap().mtime_ns, Some(7), "but a directory's any");
    }

    #[test]
    fn mode_and_owner_go_through() {
        let set = SetAttr { mode: Some(0o100_600), uid: Some(7), gid: Some(8), ..SetAttr::default() };
        let change = change(&set, NodeKind::Log).unwrap().unwrap();
        assert_eq!((change.mode, change.uid, change.gid), (Some(0o600), Some(7), Some(8)));
    }
}
