//! A file system that does nothing: it answers every append at once and keeps no byte, and reads are of zeros. With the
//! same transport, the same number of threads and the same flags as llamafs, it is as fast as any file system can be there
//! (over io_uring nearly, for reads).

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::num::NonZero;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    Session, SessionACL, WriteFlags,
};
use nix::mount::MsFlags;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::setsid;

use super::nulluring;

/// The argument that makes this program that file system.
pub const NULLFS: &str = "nullfs";
/// Another, with which its requests come over io_uring.
pub const URING: &str = "uring";
const REQUEST_BYTES: u32 = 1 << 20;
const PAGE: u32 = 4096;
const MAX_BACKGROUND: u16 = 64;
const FILE: INodeNo = INodeNo(2);
/// Names hold for a while, attributes do not, as those of a log.
pub const NAME_VALID: Duration = Duration::from_secs(1);
pub const ATTR_VALID: Duration = Duration::ZERO;

struct Null {
    size: AtomicU64,
    zeros: Vec<u8>,
}

impl Null {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm) =
            if ino == INodeNo::ROOT { (FileType::Directory, 0o755) } else { (FileType::RegularFile, 0o644) };
        let size = self.size.load(Ordering::Relaxed);
        FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE,
            flags: 0,
        }
    }
}

fn how() -> FopenFlags {
    FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_DIRECT_IO
}

impl Filesystem for Null {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.set_max_write(REQUEST_BYTES + PAGE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.entry_with_ttls(&ATTR_VALID, &NAME_VALID, &self.attr(FILE), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&ATTR_VALID, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), how());
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.created(&ATTR_VALID, &self.attr(FILE), Generation(0), FileHandle(1), how());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.size.load(Ordering::Relaxed).saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(size as usize).min(self.zeros.len());
        reply.data(&self.zeros[..len]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.size.fetch_add(data.len() as u64, Ordering::Relaxed);
        reply.written(u32::try_from(data.len()).unwrap_or_default());
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

/// Mounts it and serves until it is unmounted.
pub fn serve(mountpoint: &Path, uring: bool) -> Result<(), String> {
    let say = |error: std::io::Error| format!("the do-nothing file system: {error}");
    // A session of its own, as any daemon has: within that of its callers a request of 8 µs costs 0.5 less, since the kernel
    // shares processors out by sessions (autogroup).
    setsid().map_err(|errno| say(errno.into()))?;
    set_pdeathsig(Signal::SIGTERM).map_err(|errno| say(errno.into()))?;
    let device = mount(mountpoint).map_err(say)?;
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    if uring {
        return nulluring::serve(device, threads).map_err(say);
    }
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads);
    config.clone_fd = true;
    let null = Null { size: AtomicU64::new(0), zeros: vec![0; (REQUEST_BYTES + PAGE) as usize] };
    let session = Session::from_fd(null, device, SessionACL::All, config);
    session.and_then(Session::run).map_err(say)
}

fn mount(mountpoint: &Path) -> std::io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read={REQUEST_BYTES}",
        device.as_raw_fd()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("nullfs"), mountpoint, Some("fuse.nullfs"), flags, Some(options.as_str()))?;
    Ok(OwnedFd::from(device))
}
