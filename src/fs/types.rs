//! Requests and replies in our own words, so that a transport can be exchanged.

use std::time::Duration;

use crate::store::Lends;
use crate::store::types::StoreError;

/// The error of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Not permitted: what an append-only file answers.
    pub const EPERM: Self = Self(libc::EPERM);
    /// No such file.
    pub const ENOENT: Self = Self(libc::ENOENT);
    /// Device error or damage.
    pub const EIO: Self = Self(libc::EIO);
    /// The inode is no more: the kernel looks its name up again.
    pub const ESTALE: Self = Self(libc::ESTALE);
    /// The name is taken.
    pub const EEXIST: Self = Self(libc::EEXIST);
    /// The name is too long.
    pub const ENAMETOOLONG: Self = Self(libc::ENAMETOOLONG);
    /// Beyond the end.
    pub const ENXIO: Self = Self(libc::ENXIO);
    /// The descriptor is not one of ours.
    pub const EBADF: Self = Self(libc::EBADF);
    /// Permission denied.
    pub const EACCES: Self = Self(libc::EACCES);
    /// No memory for it just now.
    pub const ENOMEM: Self = Self(libc::ENOMEM);
    /// The user has too many of them open.
    pub const EMFILE: Self = Self(libc::EMFILE);
    /// All users together have.
    pub const ENFILE: Self = Self(libc::ENFILE);
    /// Not a directory.
    pub const ENOTDIR: Self = Self(libc::ENOTDIR);
    /// A directory.
    pub const EISDIR: Self = Self(libc::EISDIR);
    /// Senseless argument.
    pub const EINVAL: Self = Self(libc::EINVAL);
    /// No such ioctl.
    pub const ENOTTY: Self = Self(libc::ENOTTY);
    /// The caller's buffer is too small.
    pub const ERANGE: Self = Self(libc::ERANGE);
    /// No such attribute.
    pub const ENODATA: Self = Self(libc::ENODATA);
    /// Not supported.
    pub const EOPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    /// Not built: the kernel does not ask again.
    pub const ENOSYS: Self = Self(libc::ENOSYS);
    /// Somebody else has it locked.
    pub const EAGAIN: Self = Self(libc::EAGAIN);
    /// A signal came.
    pub const EINTR: Self = Self(libc::EINTR);
    /// The caller would wait for itself.
    pub const EDEADLK: Self = Self(libc::EDEADLK);
    /// Too many locks.
    pub const ENOLCK: Self = Self(libc::ENOLCK);
    /// The daemon is going.
    pub const ESHUTDOWN: Self = Self(libc::ESHUTDOWN);
}

impl From<StoreError> for Errno {
    fn from(error: StoreError) -> Self {
        Self(error.errno())
    }
}

impl From<&StoreError> for Errno {
    fn from(error: &StoreError) -> Self {
        Self(error.errno())
    }
}

/// The answer to one request: sent once, from any thread. Any closure that takes the result is one.
pub trait Reply<T>: Send + 'static {
    /// Send it.
    fn send(self, result: Result<T, Errno>);
}

impl<T, F: FnOnce(Result<T, Errno>) + Send + 'static> Reply<T> for F {
    fn send(self, result: Result<T, Errno>) {
        self(result);
    }
}

/// Kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Directory.
    Directory,
    /// Regular file.
    File,
}

/// What `stat` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// Kind.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links.
    pub nlink: u32,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes that it takes on the device.
    pub blocks: u64,
    /// Modification, ns since 1970.
    pub mtime_ns: u64,
    /// Change of attributes, ns since 1970.
    pub ctime_ns: u64,
    /// Birth, ns since 1970.
    pub btime_ns: u64,
    /// How long the kernel may take these for true without asking.
    pub valid: Duration,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The present.
    Now,
    /// An explicit time, ns since 1970.
    At(u64),
}

/// What chmod, chown, truncate and utimens ask for.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size: truncate, or open with `O_TRUNC`.
    pub size: Option<u64>,
    /// Time of access.
    pub atime: Option<SetTime>,
    /// Time of modification.
    pub mtime: Option<SetTime>,
}

/// An open file: what the kernel hands back with each request, and how it treats the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Handle.
    pub fh: u64,
    /// Reads and writes go past the page cache.
    pub direct_io: bool,
    /// Pages of earlier opens stay good.
    pub keep_cache: bool,
}

/// One write request.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Inode.
    pub ino: u64,
    /// Where the kernel believes that it goes.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// The descriptor's flags as they are now, with what `RWF_DSYNC` and `RWF_SYNC` add.
    pub flags: i32,
    /// The writer may not keep set-id bits.
    pub kill_set_id: bool,
}

/// One read request.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// Inode.
    pub ino: u64,
    /// Handle from [`Opened`].
    pub fh: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes wanted.
    pub len: usize,
    /// They go to the kernel's page cache, however the file was opened: sendfile(2), splice(2) and private mappings go
    /// there also where `read` goes past it.
    pub for_pages: bool,
    /// In which shape the transport takes them.
    pub lends: Lends,
}

/// Who makes something, and what.
#[derive(Debug, Clone, Copy)]
pub struct New<'a> {
    /// Inode of the directory.
    pub parent: u64,
    /// Its name.
    pub name: &'a [u8],
    /// Permission bits; the kernel has taken off what the caller's umask forbids.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Inode number.
    pub ino: u64,
    /// Where the next read of the directory goes on: stays good whatever comes and goes.
    pub next: u64,
    /// Kind.
    pub kind: Kind,
    /// Name.
    pub name: Vec<u8>,
}

/// What `df` shows, in blocks of [`StatFs::BLOCK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Capacity.
    pub blocks: u64,
    /// Free.
    pub free: u64,
    /// Logs and directories.
    pub files: u64,
    /// How many more there may be.
    pub files_free: u64,
    /// Bytes in a name.
    pub name_max: u32,
}

impl StatFs {
    /// Unit of the counts.
    pub const BLOCK: u32 = 4096;
}

/// What is to be done to some bytes' lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Lock them for reading, beside others.
    Read,
    /// Lock them for writing, alone.
    Write,
    /// Unlock them.
    Nothing,
}

/// A lock that is asked for, or one that is in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockAsk {
    /// Whose: the kernel's name for a process, or for an open file.
    pub owner: u64,
    /// Handle of the open file.
    pub fh: u64,
    /// User.
    pub uid: u32,
    /// Process.
    pub pid: u32,
    /// By flock(2), and not by fcntl(2).
    pub flock: bool,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// How.
    pub want: Want,
}

/// One ioctl request.
#[derive(Debug, Clone, Copy)]
pub struct Ioctl {
    /// Inode.
    pub ino: u64,
    /// Command.
    pub command: u32,
    /// Bytes that the caller takes back.
    pub out: usize,
}
