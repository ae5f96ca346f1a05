//! Which request is which: words are translated, nothing is decided. A request that is shorter than it has to be is
//! answered with an error.

use super::super::nearby;
use super::answer::{Answer, Fields, From};
use super::body::{Body, Header};
use super::numbers::*;
use super::{Service, tree};
use crate::fs::types::{Attr, Errno, Ioctl, LockAsk, Opened, Read, SetAttr, SetTime, StatFs, Want, Write};
use crate::fs::{Lent, LlamaFs};
use crate::io::OwnCompletions;
use crate::store::Lends;

/// The read tells whose it is: so does each that goes past the page cache, and none that fills a page.
const READ_LOCKOWNER: u32 = 1 << 1;
/// The writer may not keep set-id bits.
const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// The lock is of flock(2).
const LK_FLOCK: u32 = 1 << 0;
/// The ioctl is one whose arguments only the driver knows.
const IOCTL_UNRESTRICTED: u32 = 1 << 1;

/// What a change of attributes says to change.
const SET_MODE: u32 = 1 << 0;
const SET_UID: u32 = 1 << 1;
const SET_GID: u32 = 1 << 2;
const SET_SIZE: u32 = 1 << 3;
const SET_ATIME: u32 = 1 << 4;
const SET_MTIME: u32 = 1 << 5;
const SET_ATIME_NOW: u32 = 1 << 7;
const SET_MTIME_NOW: u32 = 1 << 8;

impl Service for LlamaFs {
    fn own_completions(&self) -> std::io::Result<Option<OwnCompletions>> {
        Self::own_completions(self)
    }

    fn serve(&self, from: From, header: &Header, body: Body<'_>) {
        if NOT_ANSWERED.contains(&header.opcode) {
            if told(self, header, body).is_none() {
                log::error!("the kernel sent a request (code {}) that is too short", header.opcode);
            }
        } else if asked(self, header, body, Answer::to(from, header.unique)).is_none() {
            log::error!("the kernel sent a request (code {}) that is too short: EIO", header.opcode);
        }
    }
}

fn told(fs: &LlamaFs, header: &Header, mut body: Body<'_>) -> Option<()> {
    match header.opcode {
        OP_FORGET => fs.forget(header.node, body.u64()?),
        OP_INTERRUPT => fs.interrupt(body.u64()?),
        _ => {
            let count = body.u64()? & u64::from(u32::MAX);
            for _ in 0..count {
                fs.forget(body.u64()?, body.u64()?);
            }
        }
    }
    Some(())
}

fn asked(fs: &LlamaFs, header: &Header, mut body: Body<'_>, answer: Answer) -> Option<()> {
    let (node, body) = (header.node, &mut body);
    match header.opcode {
        OP_LOOKUP => tree::entry(fs, fs.lookup(node, body.name()?), answer),
        OP_MKNOD => tree::mknod(fs, header, body, answer)?,
        OP_MKDIR => tree::mkdir(fs, header, body, answer)?,
        OP_CREATE => tree::create(fs, header, body, answer)?,
        OP_UNLINK => fs.unlink(node, body.name()?, |result| answer.result(result)),
        OP_RMDIR => fs.rmdir(node, body.name()?, |result| answer.result(result)),
        OP_RENAME | OP_RENAME2 => tree::rename(fs, header, body, header.opcode == OP_RENAME2, answer)?,
        OP_SYMLINK | OP_LINK => answer.error(Errno::EPERM),
        OP_OPENDIR => match fs.opendir(node) {
            Ok(()) => opened(fs, answer, &Opened { fh: 0, direct_io: false, keep_cache: false }),
            Err(errno) => answer.error(errno),
        },
        OP_READDIR => tree::readdir(fs, node, body, answer)?,
        OP_READDIRPLUS => tree::readdirplus(fs, node, body, answer)?,
        OP_GETATTR => {
            let me = fs.clone();
            fs.when_known(node, move |known| attr(answer, known.and_then(|()| me.getattr(node))));
        }
        OP_SETATTR => fs.setattr(node, set_attr(body)?, |result| attr(answer, result)),
        OP_OPEN => {
            let me = fs.clone();
            fs.open(node, body.i32()?, header.uid, move |result| match result {
                Ok(how) => opened(&me, answer, &how),
                Err(errno) => answer.error(errno),
            });
        }
        OP_READ => read(fs, header, body, answer)?,
        OP_WRITE => write(fs, header, body, answer)?,
        OP_FLUSH => {
            let (_fh, _unused, owner) = (body.u64()?, body.u64()?, body.u64()?);
            fs.flush(node, owner);
            answer.ok();
        }
        OP_RELEASE => {
            fs.release(node, body.u64()?);
            answer.ok();
        }
        OP_FSYNC | OP_FSYNCDIR => fs.fsync(node, |result| answer.result(result)),
        OP_GETLK => {
            let ask = lock(header, body)?;
            match fs.getlk(node, &ask) {
                Ok(found) => answer.fields(found_lock(&found.unwrap_or(LockAsk { want: Want::Nothing, ..ask }))),
                Err(errno) => answer.error(errno),
            }
        }
        OP_SETLK | OP_SETLKW => {
            let wait = (header.opcode == OP_SETLKW).then(|| answer.unique());
            fs.setlk(node, &lock(header, body)?, wait, |result| answer.result(result));
        }
        OP_STATFS => answer.fields(stat_fs(fs)),
        OP_SETXATTR => {
            let (len, flags, name) = (body.u32()?, body.i32()?, body.name()?);
            fs.setxattr(node, header.uid, name, body.bytes(len)?, flags, |result| answer.result(result));
        }
        OP_GETXATTR => {
            let (size, _) = (body.u32()?, body.u32()?);
            xattr(answer, size, fs.getxattr(node, body.name()?));
        }
        OP_LISTXATTR => xattr(answer, body.u32()?, fs.listxattr(node)),
        OP_REMOVEXATTR => fs.removexattr(node, header.uid, body.name()?, |result| answer.result(result)),
        OP_ACCESS => answer.result(fs.access(node, body.i32()?)),
        OP_IOCTL => ioctl(fs, node, body, answer)?,
        OP_FALLOCATE => {
            let (_fh, _offset, _len) = (body.u64()?, body.u64()?, body.u64()?);
            answer.error(fs.fallocate(node, body.i32()?));
        }
        OP_LSEEK => {
            let (_fh, offset, whence) = (body.u64()?, body.u64()?, body.i32()?);
            let me = fs.clone();
            let seek =
                move |known: Result<(), Errno>| known.and_then(|()| me.lseek(node, offset.cast_signed(), whence));
            fs.when_known(node, move |known| match seek(known) {
                Ok(place) => answer.fields(Fields::default().u64(place.cast_unsigned())),
                Err(errno) => answer.error(errno),
            });
        }
        OP_RELEASEDIR | OP_DESTROY => answer.ok(),
        // poll, copy_file_range, bmap and what newer kernels have: they do it by other requests, or themselves.
        _ => answer.error(Errno::ENOSYS),
    }
    Some(())
}

/// How a file was opened. Closing it is a request only where that gives locks back.
pub fn open_fields(fs: &LlamaFs, fields: Fields, how: &Opened) -> Fields {
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let flags = flag(how.direct_io, FOPEN_DIRECT_IO)
        | flag(how.keep_cache, FOPEN_KEEP_CACHE)
        | flag(!fs.parallel(), FOPEN_NOFLUSH);
    let backing = 0;
    fields.u64(how.fh).u32(flags).u32(backing)
}

fn opened(fs: &LlamaFs, answer: Answer, how: &Opened) {
    answer.fields(open_fields(fs, Fields::default(), how));
}

fn attr(answer: Answer, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => answer.fields(Fields::default().valid_attr(&attr)),
        Err(errno) => answer.error(errno),
    }
}

fn set_attr(body: &mut Body<'_>) -> Option<SetAttr> {
    let (valid, _, _fh, size, _owner) = (body.u32()?, body.u32()?, body.u64()?, body.u64()?, body.u64()?);
    let (atime, mtime, _ctime) = (body.u64()?, body.u64()?, body.u64()?);
    let (atime_ns, mtime_ns, _ctime_ns) = (body.u32()?, body.u32()?, body.u32()?);
    let (mode, _, uid, gid) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
    let time = |set: u32, now: u32, seconds: u64, ns: u32| {
        if valid & set == 0 {
            return None;
        }
        // Before 1970 is 1970.
        let seconds = u64::try_from(seconds.cast_signed()).unwrap_or_default();
        let at = seconds.saturating_mul(1_000_000_000).saturating_add(u64::from(ns));
        Some(if valid & now != 0 { SetTime::Now } else { SetTime::At(at) })
    };
    Some(SetAttr {
        mode: (valid & SET_MODE != 0).then_some(mode),
        uid: (valid & SET_UID != 0).then_some(uid),
        gid: (valid & SET_GID != 0).then_some(gid),
        size: (valid & SET_SIZE != 0).then_some(size),
        atime: time(SET_ATIME, SET_ATIME_NOW, atime, atime_ns),
        mtime: time(SET_MTIME, SET_MTIME_NOW, mtime, mtime_ns),
    })
}

fn read(fs: &LlamaFs, header: &Header, body: &mut Body<'_>, answer: Answer) -> Option<()> {
    let (fh, offset, len, how) = (body.u64()?, body.u64()?, body.u32()?, body.u32()?);
    if answer.by_device() {
        nearby::serve(header.pid, len as usize);
    }
    let for_pages = how & READ_LOCKOWNER == 0;
    let read = Read { ino: header.node, fh, offset, len: len as usize, for_pages, lends: Lends::Slices };
    fs.read(read, |result: Result<Lent, Errno>| match result {
        Ok(data) => answer.read(data),
        Err(errno) => answer.error(errno),
    });
    Some(())
}

fn write(fs: &LlamaFs, header: &Header, body: &mut Body<'_>, answer: Answer) -> Option<()> {
    let (_fh, offset, len, how, _owner) = (body.u64()?, body.u64()?, body.u32()?, body.u32()?, body.u64()?);
    let (flags, _) = (body.i32()?, body.u32()?);
    let data = body.bytes(len)?;
    let write = Write { ino: header.node, offset, data, flags, kill_set_id: how & WRITE_KILL_SUIDGID != 0 };
    fs.write(write, |result| match result {
        Ok(written) => answer.fields(Fields::default().u32(written).u32(0)),
        Err(errno) => answer.error(errno),
    });
    Some(())
}

fn lock(header: &Header, body: &mut Body<'_>) -> Option<LockAsk> {
    let (fh, owner, start, end) = (body.u64()?, body.u64()?, body.u64()?, body.u64()?);
    let (want, pid, how) = (body.i32()?, body.u32()?, body.u32()?);
    let want = match want {
        libc::F_RDLCK => Want::Read,
        libc::F_WRLCK => Want::Write,
        libc::F_UNLCK => Want::Nothing,
        _ => return None,
    };
    Some(LockAsk { owner, fh, uid: header.uid, pid, flock: how & LK_FLOCK != 0, start, end, want })
}

fn found_lock(found: &LockAsk) -> Fields {
    let kind = match found.want {
        Want::Read => libc::F_RDLCK,
        Want::Write => libc::F_WRLCK,
        Want::Nothing => libc::F_UNLCK,
    };
    Fields::default().u64(found.start).u64(found.end).i32(kind).u32(found.pid)
}

fn stat_fs(fs: &LlamaFs) -> Fields {
    let figures = fs.statfs();
    let spare = [0; 28];
    let fields = Fields::default().u64(figures.blocks).u64(figures.free).u64(figures.free);
    let fields = fields.u64(figures.files).u64(figures.files_free);
    fields.u32(StatFs::BLOCK).u32(figures.name_max).u32(StatFs::BLOCK).bytes(&spare)
}

/// Extended attributes are asked for twice: once for their size.
fn xattr(answer: Answer, size: u32, result: Result<Vec<u8>, Errno>) {
    match result {
        Err(errno) => answer.error(errno),
        Ok(value) if size == 0 => {
            answer.fields(Fields::default().u32(u32::try_from(value.len()).unwrap_or(u32::MAX)).u32(0));
        }
        Ok(value) if value.len() > size as usize => answer.error(Errno::ERANGE),
        Ok(value) => answer.data(value),
    }
}

fn ioctl(fs: &LlamaFs, node: u64, body: &mut Body<'_>, answer: Answer) -> Option<()> {
    let (_fh, flags, command, _argument) = (body.u64()?, body.u32()?, body.u32()?, body.u64()?);
    let (_in, out) = (body.u32()?, body.u32()?);
    if flags & IOCTL_UNRESTRICTED != 0 {
        answer.error(Errno::ENOSYS);
        return Some(());
    }
    match fs.ioctl(Ioctl { ino: node, command, out: out as usize }) {
        // The call's result, and how much of it is to be done again: nothing.
        Ok(data) => answer.fields(Fields::default().i32(0).u32(0).u32(0).u32(0).bytes(&data)),
        Err(errno) => answer.error(errno),
    }
    Some(())
}
