//! Why readers of a writable mount go past the page cache: a file of no zero byte that grows by one writer, past the page
//! cache, and is read through it. Every zero that a reader gets was never there.
//!
//! `cargo bench --bench page_cache` (root), or `make page-cache`. Three ways of a FUSE file system to keep the last page
//! right are tried, for PAGE_CACHE_SECONDS each (20): none but the kernel's own; having the page dropped before the append
//! is answered and the size moves, as llamafs does where it has to; and having the new bytes stored in the page then.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may panic")]

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, SessionACL,
    WriteFlags,
};
use nix::mount::{MntFlags, MsFlags};

/// What the file holds, over and over.
const BYTE: u8 = 0xaa;
/// Bytes of an append: pages end anywhere in it.
const RECORD: usize = 100;
const FILE: INodeNo = INodeNo(2);
const READERS: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Kernel,
    Drop,
    Store,
}

/// An append that is not answered yet: where it begins.
type Append = (u64, ReplyWrite);

struct Growing {
    size: Arc<AtomicU64>,
    appends: Mutex<Sender<Append>>,
    bytes: Vec<u8>,
}

impl Growing {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm) =
            if ino == INodeNo::ROOT { (FileType::Directory, 0o755) } else { (FileType::RegularFile, 0o644) };
        let size = self.size.load(Ordering::SeqCst);
        let times = (UNIX_EPOCH, UNIX_EPOCH + Duration::from_nanos(size));
        let (atime, mtime, ctime, crtime) = (times.0, times.1, times.1, times.0);
        let (blocks, nlink, uid, gid, rdev, blksize, flags) = (size.div_ceil(512), 1, 0, 0, 0, 4096, 0);
        FileAttr { ino, size, blocks, atime, mtime, ctime, crtime, kind, perm, nlink, uid, gid, rdev, blksize, flags }
    }
}

impl Filesystem for Growing {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_AUTO_INVAL_DATA);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.entry_with_ttls(&Duration::ZERO, &Duration::from_secs(60), &self.attr(FILE), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        let how = if writes { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::FOPEN_KEEP_CACHE };
        reply.opened(FileHandle(1), how);
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
        let left = self.size.load(Ordering::SeqCst).saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(size as usize).min(self.bytes.len());
        reply.data(&self.bytes[..len]);
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
        assert_eq!(data.len(), RECORD);
        // By a thread that serves no request: dropping a page waits for reads of it.
        self.appends.lock().unwrap().send((self.size.load(Ordering::SeqCst), reply)).unwrap();
    }
}

/// Mounts it; the thread that answers appends goes on until it is unmounted.
fn mount(point: &Path, way: Way) {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let fd = device.as_raw_fd();
    let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,max_read=1048576");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("growing"), point, Some("fuse.growing"), flags, Some(options.as_str())).unwrap();
    let (sender, appends) = channel::<Append>();
    let size = Arc::new(AtomicU64::new(1));
    let growing = Growing { size: size.clone(), appends: Mutex::new(sender), bytes: vec![BYTE; 1 << 20] };
    let mut config = Config::default();
    config.n_threads = Some(2);
    config.clone_fd = true;
    let session = Session::from_fd(growing, OwnedFd::from(device), SessionACL::All, config).unwrap();
    let notifier = session.notifier();
    std::thread::spawn(move || {
        for (end, reply) in appends {
            // The bytes are there for whoever reads from now on; the kernel learns of the size by the answer.
            size.store(end + RECORD as u64, Ordering::SeqCst);
            let _ = match way {
                Way::Kernel => Ok(()),
                Way::Drop => notifier.inval_inode(FILE, i64::try_from(end).unwrap(), RECORD as i64),
                Way::Store => notifier.store(FILE, end, &[BYTE; RECORD]),
            };
            reply.written(RECORD as u32);
        }
    });
    std::thread::spawn(move || drop(session.run()));
}

/// Appends and readings for so long: appends, readings, and those with a zero in them.
fn race(file: &Path, lasts: Duration) -> (u64, u64, u64) {
    let (stop, readings, wrong) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut appends = 0;
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let reader = OpenOptions::new().read(true).open(file).unwrap();
                let mut room = vec![0; 8192];
                while !stop.load(Ordering::Relaxed) {
                    // From the page before the last one to wherever it ends by now.
                    let size = reader.metadata().unwrap().len();
                    let len = reader.read_at(&mut room, size.saturating_sub(4096)).unwrap();
                    readings.fetch_add(1, Ordering::Relaxed);
                    wrong.fetch_add(u64::from(room[..len].iter().any(|byte| *byte != BYTE)), Ordering::Relaxed);
                }
            });
        }
        let writer = OpenOptions::new().append(true).open(file).unwrap();
        let until = std::time::Instant::now() + lasts;
        while std::time::Instant::now() < until {
            std::io::Write::write_all(&mut &writer, &[BYTE; RECORD]).unwrap();
            appends += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    (appends, readings.into_inner(), wrong.into_inner())
}

fn main() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("page_cache: only root may mount here");
        std::process::exit(1);
    }
    let seconds = std::env::var("PAGE_CACHE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20.0);
    println!("| how the last page is kept right | appends | readings | with zeros that were never there |");
    println!("|---|---|---|---|");
    for (way, name) in [
        (Way::Kernel, "by the kernel alone"),
        (Way::Drop, "dropped before the append is answered"),
        (Way::Store, "the bytes stored in it before the append is answered"),
    ] {
        let point = tempfile::tempdir().unwrap();
        mount(point.path(), way);
        let (appends, readings, wrong) = race(&point.path().join("file"), Duration::from_secs_f64(seconds));
        nix::mount::umount2(point.path(), MntFlags::MNT_DETACH).unwrap();
        println!("| {name} | {appends} | {readings} | {wrong} |");
    }
}
