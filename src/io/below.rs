//! What a loop device lies on: a part of a file, which others may use by its own name or by another loop device.
//!
//! A claim of the one is none of the other. So who uses either holds a lock on the bytes of the file that it uses (an open
//! file description's, fcntl_locking(2)): stores in different parts of one file do not meet.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use super::holder::{self, Identity};

/// ioctl of loop(4).
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
/// Unit of sizes in /sys.
const SECTOR: u64 = 512;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    rest: [u64; 24],
}

/// Bytes of a file; length 0: to its end, wherever that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Bytes {
    pub(super) const ALL: Self = Self { start: 0, len: 0 };
}

/// The file that a loop device, or a partition of one, lies on.
pub(super) struct Below {
    pub(super) file: File,
    pub(super) id: Identity,
    pub(super) bytes: Bytes,
}

/// What `device`, with number `rdev`, lies on; none: it is no loop device, or its file can't be opened by that name any more.
pub(super) fn find(device: &File, rdev: u64, writes: bool) -> Option<Below> {
    let dir = format!("/sys/dev/block/{}", holder::numbers(rdev));
    let number = |name: &str| fs::read_to_string(format!("{dir}/{name}")).ok()?.trim().parse::<u64>().ok();
    let part = number("partition").and_then(|_| Some((number("start")? * SECTOR, number("size")? * SECTOR)));
    let of = if part.is_some() { "/.." } else { "" };
    let name = fs::read_to_string(format!("{dir}{of}/loop/backing_file")).ok()?;
    let name = PathBuf::from(name.trim_end_matches('\n'));
    let info = status(device)?;
    let meta = fs::metadata(&name).ok()?;
    // Another file may have that name by now.
    if (meta.dev(), meta.ino()) != (info.device, info.inode) {
        return None;
    }
    let file = OpenOptions::new().read(true).write(writes).custom_flags(libc::O_CLOEXEC).open(&name).ok()?;
    let bytes = match part {
        Some((start, len)) => Bytes { start: info.offset + start, len },
        None => Bytes { start: info.offset, len: info.size_limit },
    };
    let rdev = meta.file_type().is_block_device().then_some(meta.rdev());
    let id = Identity { dev: meta.dev(), ino: meta.ino(), rdev, name };
    Some(Below { file, id, bytes })
}

fn status(device: &File) -> Option<LoopInfo> {
    let mut info = LoopInfo { device: 0, inode: 0, rdevice: 0, offset: 0, size_limit: 0, rest: [0; 24] };
    // SAFETY: the kernel fills the structure, which is as long as its own (232 bytes) and lives until the call returns.
    let told = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    (told == 0).then_some(info)
}

/// Lock bytes of a file against others that use any of them. False: somebody does.
pub(super) fn lock(file: &File, bytes: Bytes, writes: bool) -> io::Result<bool> {
    let kind = if writes { libc::F_WRLCK } else { libc::F_RDLCK };
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::try_from(bytes.start).map_err(io::Error::other)?,
        l_len: libc::off_t::try_from(bytes.len).map_err(io::Error::other)?,
        l_pid: 0,
    };
    // SAFETY: the structure lives until the call returns, which only reads it.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<LoopInfo>(), 232);
    }

    #[test]
    fn only_who_uses_the_same_bytes_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(dir.path().join("file"))
                .unwrap()
        };
        let (one, other, third) = (open(), open(), open());
        let half = |start| Bytes { start, len: 4096 };
        assert!(lock(&one, half(0), true).unwrap());
        assert!(lock(&other, half(4096), true).unwrap());
        assert!(!lock(&third, Bytes::ALL, false).unwrap());
        assert!(!lock(&third, half(4095), true).unwrap());
        drop(one);
        assert!(lock(&third, half(0), false).unwrap());
        drop(other);
        assert!(lock(&third, Bytes::ALL, true).unwrap());
    }
}
