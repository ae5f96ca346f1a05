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

/// Handle of a descriptor that reads through the page cache; in the lowest bits of those that are given out.
pub const FH_CACHED: u64 = 1;
/// Handle of a descriptor that goes past it; the same.
pub const FH_DIRECT: u64 = 2;
/// Handles of control files' snapshots begin here.
pub const FH_FIRST_SNAPSHOT: u64 = 16;
/// Bit of the handles of all other descriptors. Below it is the user, and below that how it reads, or a number: with
/// `parallel` each has its own, as what is locked through one is unlocked when it is released.
const FH_OPENED: u64 = 1 << 62;
const FH_USER_SHIFT: u32 = 30;
const FH_NUMBERS: u64 = 1 << FH_USER_SHIFT;

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

/// A descriptor that reads through the page cache.
pub fn is_cached(fh: u64) -> bool {
    fh == FH_CACHED || fh & FH_OPENED != 0 && fh % FH_NUMBERS == FH_CACHED
}

/// Whose descriptor it is, if it is counted.
fn user_of(fh: u64) -> Option<u32> {
    u32::try_from((fh & !FH_OPENED) >> FH_USER_SHIFT).ok().filter(|_| fh & FH_OPENED != 0)
}

/// A handle that tells whose it is, for whom it has been taken. With `parallel` it is told from any other.
pub fn own_handle(inner: &Inner, opened: Opened, uid: u32) -> Opened {
    let number = if inner.settings.parallel && opened.fh == FH_DIRECT {
        FH_FIRST_SNAPSHOT + inner.openers.fetch_add(1, Ordering::Relaxed) % (FH_NUMBERS - FH_FIRST_SNAPSHOT)
    } else {
        opened.fh
    };
    Opened { fh: FH_OPENED | u64::from(uid) << FH_USER_SHIFT | number, ..opened }
}

impl LlamaFs {
    /// `open`, by a user.
    pub fn open(&self, ino: u64, flags: i32, uid: u32, reply: impl Reply<Opened>) {
        let me = self.clone();
        self.when_known(ino, move |known| reply.send(known.and_then(|()| me.open_now(ino, flags, uid))));
    }

    pub(super) fn open_now(&self, ino: u64, flags: i32, uid: u32) -> Result<Opened, Errno> {
        if let Some(Node::File(file)) = Node::of(ino).filter(|node| *node != Node::File(ControlFile::Device)) {
            return self.open_text(file, flags, uid);
        }
        self.inner.handles.take(uid)?;
        let opened = self.open_counted(ino, flags);
        if opened.is_err() {
            self.inner.handles.give(uid);
        }
        Ok(own_handle(&self.inner, opened?, uid))
    }

    fn open_text(&self, file: ControlFile, flags: i32, uid: u32) -> Result<Opened, Errno> {
        if writes(flags) || flags & libc::O_TRUNC != 0 {
            return Err(Errno::EACCES);
        }
        self.inner.snapshots.lock().check(uid, 0)?;
        let text = control::text(&self.inner, file);
        let fh = self.inner.snapshots.lock().keep(uid, text.into_bytes())?;
        Ok(Opened { fh, direct_io: true, keep_cache: false })
    }

    fn open_counted(&self, ino: u64, flags: i32) -> Result<Opened, Errno> {
        let direct = Opened { fh: FH_DIRECT, direct_io: true, keep_cache: false };
        match Node::of(ino).ok_or(Errno::ENOENT)? {
            Node::Root | Node::Directory(_) | Node::Control | Node::Moments => Err(Errno::EISDIR),
            Node::View(view) if view.directory => Err(Errno::EISDIR),
            Node::View(_) if writes(flags) || flags & libc::O_TRUNC != 0 => Err(Errno::EACCES),
            Node::View(file) => {
                view::open(&self.inner, file)?;
                Ok(direct)
            }
            Node::Log(id) => {
                // Removed since its name was looked up: the kernel looks again, and may make a new one.
                let log = self.inner.logs.get(id).ok_or(Errno::ESTALE)?;
                let opened = open_log(flags, self.inner.settings.cached_reads)?;
                if log.open() { Ok(opened) } else { Err(Errno::ESTALE) }
            }
            Node::File(_) if writes(flags) || flags & libc::O_TRUNC != 0 => Err(Errno::EACCES),
            Node::File(_) => Ok(direct),
        }
    }

    /// The last descriptor of an `open` is closed.
    pub fn release(&self, ino: u64, fh: u64) {
        let node = Node::of(ino);
        if let Some(node) = node {
            self.inner.locks.released(node.ino(), fh);
        }
        match user_of(fh) {
            Some(uid) => self.inner.handles.give(uid),
            None => self.inner.snapshots.lock().forget(fh),
        }
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
