//! Directories that were removed while somebody may have them open, or stand in them: `fstat`, `fchmod` and the like are of
//! these. The catalog knows nothing of them any more, and nothing of this is on the device. The kernel tells when it has
//! forgotten one.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::types::Errno;
use super::{Inner, now_ns};
use crate::store::types::{AttrChange, NodeId, NodeInfo, NodeKind};

/// So many are kept; of older ones nothing is known (ESTALE).
const MOST: usize = 1024;

/// What they were.
#[derive(Debug, Default)]
pub struct Removed {
    directories: Mutex<BTreeMap<NodeId, NodeInfo>>,
}

/// A directory, also one that was removed while somebody had it open.
pub fn directory(inner: &Inner, id: NodeId) -> Result<NodeInfo, Errno> {
    inner.store.node(id).or_else(|| inner.removed.get(id)).ok_or(Errno::ESTALE)
}

impl Removed {
    /// This was removed, or replaced. Of logs the store knows itself.
    pub fn insert(&self, info: NodeInfo) {
        if info.kind != NodeKind::Directory {
            return;
        }
        let mut directories = self.directories.lock();
        directories.insert(info.id, NodeInfo { nlink: 0, name: Vec::new(), ctime_ns: now_ns(), ..info });
        while directories.len() > MOST {
            directories.pop_first();
        }
    }

    /// One of them.
    fn get(&self, id: NodeId) -> Option<NodeInfo> {
        self.directories.lock().get(&id).cloned()
    }

    /// Change one of them.
    pub fn change(&self, id: NodeId, change: &AttrChange) -> Option<NodeInfo> {
        let mut directories = self.directories.lock();
        let info = directories.get_mut(&id)?;
        info.mode = change.mode.unwrap_or(info.mode);
        info.uid = change.uid.unwrap_or(info.uid);
        info.gid = change.gid.unwrap_or(info.gid);
        info.mtime_ns = change.mtime_ns.unwrap_or(info.mtime_ns);
        info.ctime_ns = now_ns();
        Some(info.clone())
    }

    /// Nobody has it any more.
    pub fn forget(&self, id: NodeId) {
        self.directories.lock().remove(&id);
    }
}
