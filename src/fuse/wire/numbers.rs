//! Numbers of linux/fuse.h: which request is which, and what an open answers.
#![allow(missing_docs, reason = "each is the kernel's, under the kernel's name")]

pub const OP_LOOKUP: u32 = 1;
pub const OP_FORGET: u32 = 2;
pub const OP_GETATTR: u32 = 3;
pub const OP_SETATTR: u32 = 4;
pub const OP_SYMLINK: u32 = 6;
pub const OP_MKNOD: u32 = 8;
pub const OP_MKDIR: u32 = 9;
pub const OP_UNLINK: u32 = 10;
pub const OP_RMDIR: u32 = 11;
pub const OP_RENAME: u32 = 12;
pub const OP_LINK: u32 = 13;
pub const OP_OPEN: u32 = 14;
pub const OP_READ: u32 = 15;
pub const OP_WRITE: u32 = 16;
pub const OP_STATFS: u32 = 17;
pub const OP_RELEASE: u32 = 18;
pub const OP_FSYNC: u32 = 20;
pub const OP_SETXATTR: u32 = 21;
pub const OP_GETXATTR: u32 = 22;
pub const OP_LISTXATTR: u32 = 23;
pub const OP_REMOVEXATTR: u32 = 24;
pub const OP_FLUSH: u32 = 25;
pub const OP_INIT: u32 = 26;
pub const OP_OPENDIR: u32 = 27;
pub const OP_READDIR: u32 = 28;
pub const OP_RELEASEDIR: u32 = 29;
pub const OP_FSYNCDIR: u32 = 30;
pub const OP_GETLK: u32 = 31;
pub const OP_SETLK: u32 = 32;
pub const OP_SETLKW: u32 = 33;
pub const OP_ACCESS: u32 = 34;
pub const OP_CREATE: u32 = 35;
pub const OP_INTERRUPT: u32 = 36;
pub const OP_DESTROY: u32 = 38;
pub const OP_IOCTL: u32 = 39;
pub const OP_BATCH_FORGET: u32 = 42;
pub const OP_FALLOCATE: u32 = 43;
pub const OP_READDIRPLUS: u32 = 44;
pub const OP_RENAME2: u32 = 45;
pub const OP_LSEEK: u32 = 46;

/// What `open` answers: reads and writes go past the page cache; pages of earlier opens stay good.
pub const FOPEN_DIRECT_IO: u32 = 1 << 0;
pub const FOPEN_KEEP_CACHE: u32 = 1 << 1;
pub const FOPEN_NOFLUSH: u32 = 1 << 5;

/// Nobody waits for an answer to these.
pub const NOT_ANSWERED: [u32; 3] = [OP_FORGET, OP_BATCH_FORGET, OP_INTERRUPT];
