//! `fuser`'s trait over [`LlamaFs`]: words are translated, nothing is decided.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::{MAX_BACKGROUND, PAGE, REQUEST_BYTES, nearby};
use crate::fs::types::{Attr, Errno, Ioctl, Kind, New, Opened, Read, SetAttr, SetTime, StatFs, Write};
use crate::fs::{Lent, LlamaFs};
use crate::store::Lends;

/// The file system as `fuser` sees it.
pub struct Adapter {
    fs: LlamaFs,
}

impl Adapter {
    /// Over this.
    pub fn new(fs: LlamaFs) -> Self {
        Self { fs }
    }
}

fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.0)
}

fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    }
}

fn time(ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns)
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.mtime_ns),
        mtime: time(attr.mtime_ns),
        ctime: time(attr.ctime_ns),
        crtime: time(attr.btime_ns),
        kind: kind(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or_default(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: PAGE,
        flags: 0,
    }
}

fn set_time(time: Option<TimeOrNow>) -> Option<SetTime> {
    time.map(|time| match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            SetTime::At(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
        }
    })
}

/// Closing has nothing to report: what `write` answered is taken, and `fsync` is its own request.
fn open_flags(opened: &Opened) -> FopenFlags {
    let mut how = FopenFlags::FOPEN_NOFLUSH;
    how.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    how.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    how
}

/// The kernel has applied the umask.
fn new<'a>(req: &Request, parent: INodeNo, name: &'a OsStr, mode: u32) -> New<'a> {
    New { parent: parent.0, name: name.as_bytes(), mode, uid: req.uid(), gid: req.gid() }
}

/// Each entry that the kernel gets is one that it will forget.
fn entry_reply(fs: &LlamaFs, result: Result<Attr, Errno>, reply: ReplyEntry) {
    match result {
        Ok(attr) if !fs.remember(attr.ino) => reply.error(errno(Errno::ENOENT)),
        Ok(attr) => reply.entry_with_ttls(&attr.valid, &fs.entry(attr.ino).1, &file_attr(&attr), Generation(0)),
        Err(error) => reply.error(errno(error)),
    }
}

fn attr_reply(result: Result<Attr, Errno>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&attr.valid, &file_attr(&attr)),
        Err(error) => reply.error(errno(error)),
    }
}

fn empty_reply(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

/// Extended attributes are asked for twice: once for their size.
fn xattr_reply(result: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match result {
        Err(error) => reply.error(errno(error)),
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(errno(Errno::ERANGE)),
        Ok(value) => reply.data(&value),
    }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // One page more than a record: a record whose bytes do not begin on a page lies in one page more, and must
        // still come as one request. What is too long for one record is split by the file system.
        let _ = config.set_max_write(REQUEST_BYTES + PAGE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        // Pages of readers are dropped when we say so, not whenever the size has changed: a log only grows, and the
        // one page that goes stale is looked after (fs/tail.rs). Capabilities that change what we would have to
        // serve are not asked for; nor is FUSE_ASYNC_DIO, with which the parts of one large aio write come side by side,
        // and would be appended in any order.
        for wanted in
            [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_DO_READDIRPLUS, InitFlags::FUSE_READDIRPLUS_AUTO]
        {
            if let Err(missing) = config.add_capabilities(wanted) {
                log::debug!("this kernel lacks {missing:?}");
            }
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry_reply(&self.fs, self.fs.lookup(parent.0, name.as_bytes()), reply);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, lookups: u64) {
        self.fs.forget(ino.0, lookups);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs.clone();
        self.fs.when_known(ino.0, move |known| attr_reply(known.and_then(|()| fs.getattr(ino.0)), reply));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
        self.fs.setattr(ino.0, set, move |result| attr_reply(result, reply));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let fs = self.fs.clone();
        self.fs.mknod(&new(req, parent, name, mode), move |result| entry_reply(&fs, result, reply));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let fs = self.fs.clone();
        self.fs.mkdir(&new(req, parent, name, mode), move |result| entry_reply(&fs, result, reply));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.fs.unlink(parent.0, name.as_bytes(), move |result| empty_reply(result, reply));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.fs.rmdir(parent.0, name.as_bytes(), move |result| empty_reply(result, reply));
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name.as_bytes()), (new_parent.0, new_name.as_bytes()));
        self.fs.rename(from, to, flags.bits(), move |result| empty_reply(result, reply));
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(fuser::Errno::EPERM);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let fs = self.fs.clone();
        let done = move |result: Result<(Attr, Opened), Errno>| match result {
            Err(error) => reply.error(errno(error)),
            Ok((attr, opened)) => {
                // It is open, so it is there.
                fs.remember(attr.ino);
                // The time for which the attributes hold is taken for the name's too.
                let handle = FileHandle(opened.fh);
                reply.created(&attr.valid, &file_attr(&attr), Generation(0), handle, open_flags(&opened));
            }
        };
        self.fs.create(&new(req, parent, name, mode), flags, done);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.fs.open(ino.0, flags.0, req.uid(), move |result: Result<Opened, Errno>| match result {
            Err(error) => reply.error(errno(error)),
            Ok(opened) => reply.opened(FileHandle(opened.fh), open_flags(&opened)),
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        nearby::serve(req.pid(), size as usize);
        // Whoever reads past the page cache is named; who fills a page is not.
        let for_pages = lock_owner.is_none();
        let read = Read { ino: ino.0, fh: fh.0, offset, len: size as usize, for_pages, lends: Lends::Whole };
        self.fs.read(read, move |result: Result<Lent, Errno>| match result {
            Ok(data) => match data.in_one() {
                Some(bytes) => reply.data(&bytes),
                None => reply.error(errno(Errno::ENOMEM)),
            },
            Err(error) => reply.error(errno(error)),
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill_set_id = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let write = Write { ino: ino.0, offset, data, flags: flags.0, kill_set_id };
        self.fs.write(write, move |result| match result {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(ino.0, fh.0);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.fs.fsync(ino.0, move |result| empty_reply(result, reply));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.opendir(ino.0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.fs.readdir(ino.0, offset, |entry| {
            reply.add(INodeNo(entry.ino), entry.next, kind(entry.kind), OsStr::from_bytes(&entry.name))
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let result = self.fs.readdirplus(ino.0, offset, |entry, attr| {
            let name = OsStr::from_bytes(&entry.name);
            // The kernel takes no entry of `.` and `..`. What is gone meanwhile is left out.
            let counted = entry.name != b"." && entry.name != b"..";
            if counted && !self.fs.remember(entry.ino) {
                return false;
            }
            let full = reply.add(INodeNo(entry.ino), entry.next, name, &attr.valid, &file_attr(attr), Generation(0));
            if full && counted {
                self.fs.forget(entry.ino, 1);
            }
            full
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.fs.fsync(ino.0, move |result| empty_reply(result, reply));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let fs = self.fs.statfs();
        reply.statfs(fs.blocks, fs.free, fs.free, fs.files, fs.files_free, StatFs::BLOCK, fs.name_max, StatFs::BLOCK);
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let done = move |result| empty_reply(result, reply);
        self.fs.setxattr(ino.0, req.uid(), name.as_bytes(), value, flags, done);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr_reply(self.fs.getxattr(ino.0, name.as_bytes()), size, reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        xattr_reply(self.fs.listxattr(ino.0), size, reply);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.fs.removexattr(ino.0, req.uid(), name.as_bytes(), move |result| empty_reply(result, reply));
    }

    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        empty_reply(self.fs.access(ino.0, mask.bits()), reply);
    }

    fn ioctl(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        _in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        match self.fs.ioctl(Ioctl { ino: ino.0, command: cmd, out: out_size as usize }) {
            Ok(data) => reply.ioctl(0, &data),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // As for any regular file the kernel then answers by itself: always ready.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(self.fs.fallocate(ino.0, mode)));
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let fs = self.fs.clone();
        self.fs.when_known(ino.0, move |known| match known.and_then(|()| fs.lseek(ino.0, offset, whence)) {
            Ok(place) => reply.offset(place),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel copies by reads and writes instead.
        reply.error(fuser::Errno::ENOSYS);
    }
}
