//! The append-only flag where programs look for it: `lsattr`, extended attributes, and the calls that would go
//! round it.

use super::LlamaFs;
use super::inode::Node;
use super::policy;
use super::types::{Errno, Ioctl};
use crate::store::types::{NodeInfo, ROOT_ID};

/// `_IOR('f', 1, long)`: the kernel asks with room for an int.
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC32_GETFLAGS: u32 = 0x8004_6601;
/// `_IOW('f', 2, long)`.
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;
/// `_IOR('X', 31, struct fsxattr)`, 28 bytes.
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
/// `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
/// The `a` of `lsattr`.
const FS_APPEND_FL: u32 = 0x20;
/// The same in `struct fsxattr`.
const FS_XFLAG_APPEND: u32 = 0x10;
/// Extended attributes of a log that are figures.
const FIGURES: [&str; 6] = ["id", "size", policy::HEAD, "end_lsn", "stable_lsn", "device_bytes"];

/// Names as `listxattr` gives them, each closed by a zero byte.
fn listed<'a>(names: impl Iterator<Item = &'a &'a str>) -> Vec<u8> {
    names.flat_map(|name| policy::PREFIX.bytes().chain(name.bytes()).chain([0])).collect()
}

/// What an ioctl answers. `append`: the inode is a log.
fn ioctl(append: bool, request: Ioctl) -> Result<Vec<u8>, Errno> {
    let flag = |flag: u32| if append { flag } else { 0 };
    let word = match request.command {
        FS_IOC_GETFLAGS | FS_IOC32_GETFLAGS => flag(FS_APPEND_FL),
        // The flags come first in `struct fsxattr`; the rest is zero.
        FS_IOC_FSGETXATTR => flag(FS_XFLAG_APPEND),
        FS_IOC_SETFLAGS | FS_IOC32_SETFLAGS | FS_IOC_FSSETXATTR => return Err(Errno::EPERM),
        _ => return Err(Errno::ENOTTY),
    };
    // The kernel wants exactly as many bytes as it has room for.
    let mut answer = word.to_ne_bytes().to_vec();
    answer.resize(request.out, 0);
    Ok(answer)
}

/// `fallocate`: what changes bytes or size is refused as on an append-only file; mere allocation is not supported,
/// which callers take as a hint refused (`posix_fallocate` does).
fn fallocate(mode: i32) -> Errno {
    if mode & !libc::FALLOC_FL_KEEP_SIZE == 0 { Errno::EOPNOTSUPP } else { Errno::EPERM }
}

impl LlamaFs {
    /// `ioctl`: the bytes to hand back.
    pub fn ioctl(&self, request: Ioctl) -> Result<Vec<u8>, Errno> {
        let node = Node::of(request.ino).ok_or(Errno::ENOENT)?;
        ioctl(matches!(node, Node::Log(_)), request)
    }

    /// `fallocate`.
    pub fn fallocate(&self, ino: u64, mode: i32) -> Errno {
        match Node::of(ino) {
            Some(Node::Log(_)) => fallocate(mode),
            _ => Errno::EOPNOTSUPP,
        }
    }

    /// Names of the extended attributes, each closed by a zero byte.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        match Node::of(ino).ok_or(Errno::ENOENT)? {
            Node::Log(_) => Ok(listed(FIGURES.iter().chain(&policy::SETTINGS))),
            Node::Root => Ok(listed(policy::SETTINGS.iter().chain([&policy::ON_FULL]))),
            _ => Ok(Vec::new()),
        }
    }

    /// The value of an extended attribute.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let name = name.strip_prefix(policy::PREFIX.as_bytes()).ok_or(Errno::ENODATA)?;
        let setting = |info: &NodeInfo| std::str::from_utf8(name).ok().and_then(|name| policy::shown(info, name));
        let id = match Node::of(ino).ok_or(Errno::ENOENT)? {
            Node::Log(id) => id,
            Node::Root => {
                let info = self.inner.store.node(ROOT_ID).ok_or(Errno::EIO)?;
                return setting(&info).map(String::into_bytes).ok_or(Errno::ENODATA);
            }
            _ => return Err(Errno::ENODATA),
        };
        let info = self.inner.store.log(id).ok_or(Errno::ENOENT)?;
        if let Some(value) = setting(&info) {
            return Ok(value.into_bytes());
        }
        let value = match name {
            b"id" => u64::from(info.id),
            b"size" => self.inner.logs.get(id).map_or(info.size, |log| log.tail.visible()),
            b"head" => info.head,
            b"end_lsn" => info.end_lsn,
            b"stable_lsn" => self.inner.store.stable_lsn(),
            b"device_bytes" => info.device_bytes,
            _ => return Err(Errno::ENODATA),
        };
        Ok(value.to_string().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(append: bool, command: u32, out: usize) -> Result<Vec<u8>, Errno> {
        ioctl(append, Ioctl { ino: 0x101, command, out })
    }

    #[test]
    fn logs_show_the_append_flag_and_nothing_else_does() {
        assert_eq!(ask(true, FS_IOC_GETFLAGS, 4), Ok(vec![0x20, 0, 0, 0]));
        assert_eq!(ask(true, FS_IOC_GETFLAGS, 8), Ok(vec![0x20, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(ask(false, FS_IOC_GETFLAGS, 4), Ok(vec![0; 4]));
        let fsxattr = ask(true, FS_IOC_FSGETXATTR, 28).unwrap();
        assert_eq!((fsxattr.len(), fsxattr[0]), (28, 0x10));
    }

    #[test]
    fn flags_cannot_be_changed_and_other_ioctls_are_none() {
        assert_eq!(ask(true, FS_IOC_SETFLAGS, 0), Err(Errno::EPERM));
        assert_eq!(ask(true, FS_IOC_FSSETXATTR, 0), Err(Errno::EPERM));
        assert_eq!(ask(true, 0x5401, 60), Err(Errno::ENOTTY));
    }

    #[test]
    fn fallocate_is_refused_by_the_custom() {
        assert_eq!(fallocate(0), Errno::EOPNOTSUPP);
        assert_eq!(fallocate(libc::FALLOC_FL_KEEP_SIZE), Errno::EOPNOTSUPP);
        assert_eq!(fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE), Errno::EPERM);
        assert_eq!(fallocate(libc::FALLOC_FL_ZERO_RANGE), Errno::EPERM);
    }
}
