//! The file system: inodes, append-only rules, the control tree. It knows nothing of `fuser`; a transport calls
//! [`LlamaFs`] with the types of [`types`], and every answer is a one-shot [`Reply`] that may be sent later, from
//! another thread, so that no worker of a transport ever waits for the device.

mod append;
mod attr;
mod changes;
mod control;
mod directory;
mod finder;
mod flags;
mod gate;
mod held;
mod inode;
mod lent;
mod limits;
mod locks;
mod logs;
mod open;
pub mod policy;
mod read;
mod removed;
pub mod size;
mod snapshots;
mod tail;
pub mod time;
mod turns;
pub mod types;
mod view;
mod views;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;

use crate::store::LogStructuredStore;
use finder::Finder;
use gate::{Backlog, Gate};
pub use lent::Lent;
use limits::Handles;
pub use limits::Limits;
use locks::Locks;
pub use locks::{ALL_LOCKS, USER_LOCKS};
use logs::Logs;
use removed::Removed;
use snapshots::Snapshots;
pub use snapshots::USERS;
pub use tail::{NoPageCache, PageCache};
use turns::Turns;
pub use types::{Errno, Reply};
use views::Views;
pub use views::{MOMENTS, VIEW_FILES};

/// What a mount decides about its file system.
#[derive(Debug, Clone, Default)]
pub struct FsSettings {
    /// Owner of the control tree: the user who mounted.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// `-o sync`: every append is durable before it is answered.
    pub sync: bool,
    /// Readers go through the kernel's page cache, which also lets them map a log shared. Right without a doubt only
    /// while nothing is appended; see `open`.
    pub cached_reads: bool,
    /// `-o parallel`: each opener of a log gets an inode of its own in the kernel, so that no lock of the kernel's keeps
    /// one from appending while another does. The transport has to give `LlamaFs::entry`'s numbers and to pass locks on.
    pub parallel: bool,
    /// What nobody may exhaust.
    pub limits: Limits,
    /// Where it is mounted, for `status`.
    pub mountpoint: String,
    /// The mount options as given, for `status`.
    pub options: String,
    /// What requests come by, for `status`.
    pub transport: &'static str,
}

/// The file system over one store.
#[derive(Clone)]
pub struct LlamaFs {
    inner: Arc<Inner>,
}

/// What the answers in flight share.
struct Inner {
    store: Arc<LogStructuredStore>,
    settings: FsSettings,
    logs: Logs,
    page_cache: Box<dyn PageCache>,
    gate: Gate,
    backlog: Backlog,
    turns: Turns,
    handles: Handles,
    snapshots: Mutex<Snapshots>,
    views: Mutex<Views>,
    finder: Finder,
    removed: Removed,
    locks: Locks,
    /// Openers that were given a number or handle of their own.
    openers: AtomicU64,
    mounted_ns: u64,
    /// A trim or grow is under way.
    working: AtomicBool,
}

impl LlamaFs {
    /// The file system of `store`. `page_cache` is the kernel's cache of what readers have read.
    pub fn new(store: Arc<LogStructuredStore>, settings: FsSettings, page_cache: Box<dyn PageCache>) -> Self {
        let logs = Logs::new(&store.logs());
        let (limits, uid) = (settings.limits, settings.uid);
        let snapshots = Snapshots::new(uid, limits.control_files);
        Self {
            inner: Arc::new(Inner {
                store,
                settings,
                logs,
                page_cache,
                gate: Gate::default(),
                backlog: Backlog::new(limits.append_memory),
                turns: Turns::new(limits.read_memory),
                handles: Handles::new(&limits, uid),
                snapshots: Mutex::new(snapshots),
                views: Mutex::new(Views::new()),
                finder: Finder::default(),
                removed: Removed::default(),
                locks: Locks::default(),
                openers: AtomicU64::new(0),
                mounted_ns: now_ns(),
                working: AtomicBool::new(false),
            }),
        }
    }

    /// Take no further request that needs the store: they are answered `ESHUTDOWN`. Those taken go on, but for those that
    /// wait for a lock.
    pub fn shut_gate(&self) {
        self.inner.gate.shut();
        self.inner.locks.shut();
    }

    /// Wait until every request that was taken is answered, but no longer than `limit`. True if so.
    pub fn wait_answered(&self, limit: std::time::Duration) -> bool {
        self.inner.gate.wait_empty(limit)
    }
}

/// Now, in ns since 1970.
fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
