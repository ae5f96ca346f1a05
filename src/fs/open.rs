//! Opening and closing: where a descriptor for writing is made append-only, and where the kernel is told how to
//! treat its pages.
//!
//! Writers go past the page cache, so that one `write` is one request and no page is ever dirty; that also refuses
//! shared mappings of a writer's descriptor.
//!
//! Readers go past it too where appends are possible. The kernel moves a file's size in the writer's context and in
//! that of whoever asks for the attributes, holds no lock over it that a reader takes, and cuts the last page to the
//! size it was told, late. A reader of the cached last page then finds zeros where a record has been answered: rarely
//! (`tail` closes what can be closed from here), but a log never shows bytes that nobody wrote. Where nothing is
//! appended, readers share the page cache and keep it between opens.

use std::sync::atomic::Ordering;

use super::inode::{ControlFile, Node};
use super::types::{Errno, Opened, Reply};
use super::{Inner, LlamaFs, changes, control, view};

/// Handle of a descriptor that reads through the page cache.
pub const FH_CACHED: u64 = 1;
/// Handle of a descriptor that goes past it.
pub const FH_DIRECT: u64 = 2;
/// Handles of control files' snapshots begin here.
pub const FH_FIRST_SNAPSHOT: u64 = 16;
/// Handles of descriptors that go past the page cache, each its own, begin here: what is locked through one is unlocked
/// when it is released.
const FH_FIRST_OPENER: u64 = 1 << 62;

/// Whether these flags open for writing.
fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// What `open` answers for a log: the rule of the append-only flag.
pub fn open_log(flags: i32, cached_reads: bool) -> Result<Opened, Errno> {
    if flags & libc::O_TRUNC != 0 {
        return Err(Errno::EPERM);
    }
    if !writes(flags) && cached_reads {
        return Ok(Opened { fh: FH_CACHED, direct_io: false, keep_cache: true });
    }
    if writes(flags) && flags & libc::O_APPEND == 0 {
        return Err(Errno::EPERM);
    }
    Ok(Opened { fh: FH_DIRECT, direct_io: true, keep_cache: false })
}

/// What is locked through a descriptor must be told from what is locked through another.
pub fn own_handle(inner: &Inner, opened: Opened) -> Opened {
    if !inner.settings.parallel {
        return opened;
    }
    Opened { fh: FH_FIRST_OPENER + inner.openers.fetch_add(1, Ordering::Relaxed), ..opened }
}

impl LlamaFs {
    /// `open`, by a user.
    pub fn open(&self, ino: u64, flags: i32, uid: u32, reply: impl Reply<Opened>) {
        let me = self.clone();
        self.when_known(ino, move |known| reply.send(known.and_then(|()| me.open_now(ino, flags, uid))));
    }

    pub(super) fn open_now(&self, ino: u64, flags: i32, uid: u32) -> Result<Opened, Errno> {
        match Node::of(ino).ok_or(Errno::ENOENT)? {
            Node::Root | Node::Directory(_) | Node::Control | Node::Moments => Err(Errno::EISDIR),
            Node::View(view) if view.directory => Err(Errno::EISDIR),
            Node::View(_) if writes(flags) || flags & libc::O_TRUNC != 0 => Err(Errno::EACCES),
            Node::View(file) => {
                view::open(&self.inner, file)?;
                Ok(own_handle(&self.inner, Opened { fh: FH_DIRECT, direct_io: true, keep_cache: false }))
            }
            Node::Log(id) => {
                // Removed since its name was looked up: the kernel looks again, and may make a new one.
                let log = self.inner.logs.get(id).ok_or(Errno::ESTALE)?;
                let opened = open_log(flags, self.inner.settings.cached_reads)?;
                if log.open() { Ok(own_handle(&self.inner, opened)) } else { Err(Errno::ESTALE) }
            }
            Node::File(_) if writes(flags) || flags & libc::O_TRUNC != 0 => Err(Errno::EACCES),
            Node::File(ControlFile::Device) => {
                Ok(own_handle(&self.inner, Opened { fh: FH_DIRECT, direct_io: true, keep_cache: false }))
            }
            Node::File(file) => {
                self.inner.snapshots.lock().check(uid, 0)?;
                let text = control::text(&self.inner, file);
                let fh = self.inner.snapshots.lock().keep(uid, text.into_bytes())?;
                Ok(Opened { fh, direct_io: true, keep_cache: false })
            }
        }
    }

    /// The last descriptor of an `open` is closed.
    pub fn release(&self, ino: u64, fh: u64) {
        if let Some(node) = Node::of(ino) {
            self.inner.locks.released(node.ino(), fh);
        }
        if (FH_FIRST_SNAPSHOT..FH_FIRST_OPENER).contains(&fh) {
            self.inner.snapshots.lock().forget(fh);
        }
        let node = Node::of(ino);
        if let Some(Node::View(file)) = node {
            self.inner.views.lock().close(file);
        }
        if let Some(id) = node.and_then(Node::log)
            && self.inner.logs.get(id).is_some_and(|log| log.close())
        {
            changes::forget(&self.inner, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_needs_append_and_forbids_truncation() {
        for mode in [libc::O_WRONLY, libc::O_RDWR] {
            for cached in [false, true] {
                assert_eq!(open_log(mode, cached), Err(Errno::EPERM));
                assert_eq!(open_log(mode | libc::O_APPEND | libc::O_TRUNC, cached), Err(Errno::EPERM));
                assert!(open_log(mode | libc::O_APPEND, cached).unwrap().direct_io);
            }
        }
        assert_eq!(open_log(libc::O_RDONLY | libc::O_TRUNC, true), Err(Errno::EPERM));
    }

    #[test]
    fn readers_share_the_page_cache_where_nothing_is_appended() {
        for flags in [libc::O_RDONLY, libc::O_RDONLY | libc::O_APPEND] {
            assert!(open_log(flags, true).unwrap().keep_cache);
            assert!(open_log(flags, false).unwrap().direct_io);
        }
    }
}
