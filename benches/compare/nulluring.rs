//! The file system that does nothing, with requests over io_uring: by the transport that llamafs has for that. What it answers
//! to a read it has to fill with zeros first.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use llamafs::fs::types::{Attr, Errno, Kind};
use llamafs::fuse::wire::numbers::*;
use llamafs::fuse::wire::{Answer, Body, Fields, From, Greeted, Header, Service, Session, Wish};

use super::nullfs::{ATTR_VALID, NAME_VALID};

const ROOT: u64 = 1;
const FILE: u64 = 2;

#[derive(Clone, Default)]
struct Null {
    size: Arc<AtomicU64>,
}

impl Null {
    fn attr(&self, ino: u64) -> Attr {
        let (kind, mode) = if ino == ROOT { (Kind::Directory, 0o755) } else { (Kind::File, 0o644) };
        let size = self.size.load(Ordering::Relaxed);
        Attr {
            ino,
            kind,
            mode,
            uid: 0,
            gid: 0,
            nlink: 1,
            size,
            blocks: size.div_ceil(512),
            mtime_ns: 0,
            ctime_ns: 0,
            btime_ns: 0,
            valid: ATTR_VALID,
        }
    }

    fn entry(&self) -> Fields {
        Fields::default().entry((FILE, NAME_VALID), &self.attr(FILE))
    }

    /// None: a request that is too short, which is answered with an error.
    fn asked(&self, header: &Header, body: &mut Body<'_>, answer: Answer) -> Option<()> {
        let opened = |fields: Fields| fields.u64(1).u32(FOPEN_DIRECT_IO | FOPEN_NOFLUSH).u32(0);
        match header.opcode {
            OP_LOOKUP => answer.fields(self.entry()),
            OP_CREATE => answer.fields(opened(self.entry())),
            OP_OPEN => answer.fields(opened(Fields::default())),
            OP_GETATTR => answer.fields(Fields::default().valid_attr(&self.attr(header.node))),
            OP_READ => {
                let (_handle, offset, len) = (body.u64()?, body.u64()?, body.u32()?);
                let left = self.size.load(Ordering::Relaxed).saturating_sub(offset);
                answer.data(vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(len as usize)]);
            }
            OP_WRITE => {
                let (_handle, _offset, len) = (body.u64()?, body.u64()?, body.u32()?);
                self.size.fetch_add(u64::from(len), Ordering::Relaxed);
                answer.fields(Fields::default().u32(len).u32(0));
            }
            OP_FSYNC | OP_FLUSH | OP_RELEASE => answer.ok(),
            _ => answer.error(Errno(libc::ENOSYS)),
        }
        Some(())
    }
}

impl Service for Null {
    fn serve(&self, from: From, header: &Header, mut body: Body<'_>) {
        if !NOT_ANSWERED.contains(&header.opcode) {
            self.asked(header, &mut body, Answer::to(from, header.unique));
        }
    }
}

/// Serves until it is unmounted.
pub fn serve(device: OwnedFd, threads: usize) -> io::Result<()> {
    let greeted = Greeted::greet(device, Wish { locks: false, uring: true, pieces: true })?;
    if !greeted.by_uring() {
        return Err(io::Error::other("the kernel sends no requests over io_uring"));
    }
    Session::start(&greeted, &Null::default(), threads)?.run()
}
