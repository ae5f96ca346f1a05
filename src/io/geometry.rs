//! What a device or file says of its size and alignment. The store's block comes from here, never from a constant.

use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::device::Geometry;

nix::ioctl_read_bad!(blkroget, BLKROGET, c_int);
nix::ioctl_read_bad!(blksszget, libc::BLKSSZGET, c_int);
nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);

/// `_IO(0x12, 94)`, which libc does not name; BLKSSZGET is `_IO(0x12, 104)`.
const BLKROGET: libc::Ioctl = libc::BLKSSZGET - 104 + 94;
/// No device has smaller sectors.
const SECTOR: u32 = 512;

/// What direct I/O on a file asks for, if the kernel says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirectIo {
    /// Alignment of memory; 0: no direct I/O on this file.
    pub(super) memory: u32,
    /// Alignment of offsets and lengths; 0: no direct I/O on this file.
    pub(super) offset: u32,
}

/// The device refuses writes.
pub(super) fn is_read_only(device: &File) -> io::Result<bool> {
    let mut flag: c_int = 0;
    // SAFETY: BLKROGET writes one int.
    unsafe { blkroget(device.as_raw_fd(), &mut flag)? };
    Ok(flag != 0)
}

/// Bytes of an open block device or file.
pub(super) fn bytes_of(file: &File) -> io::Result<u64> {
    let meta = file.metadata()?;
    if !meta.file_type().is_block_device() {
        return Ok(meta.len());
    }
    let mut bytes: usize = 0;
    // SAFETY: BLKGETSIZE64 writes one 64-bit number; its `size_t` is that on the platforms that io_uring runs on.
    unsafe { blkgetsize64(file.as_raw_fd(), &mut bytes)? };
    Ok(bytes as u64)
}

/// Geometry of an open block device.
pub(super) fn of_block_device(device: &File) -> io::Result<Geometry> {
    let bytes = bytes_of(device)?;
    let mut logical: c_int = 0;
    // SAFETY: BLKSSZGET writes one int.
    unsafe { blksszget(device.as_raw_fd(), &mut logical)? };
    let logical = u32::try_from(logical).unwrap_or(SECTOR).max(SECTOR);
    let direct = direct_io(device)?;
    let block = logical.max(direct.map_or(0, |d| d.offset));
    let memory_align = match direct {
        Some(DirectIo { memory, .. }) if memory > 0 => memory,
        _ => block,
    };
    let write_cache = has_write_cache(device.metadata()?.rdev());
    Ok(settle(bytes, block, memory_align, write_cache))
}

/// Geometry of an open regular file; `None`: it can't do direct I/O.
pub(super) fn of_file(file: &File) -> io::Result<Option<Geometry>> {
    let meta = file.metadata()?;
    let (block, memory) = match direct_io(file)? {
        Some(DirectIo { memory: 0, .. } | DirectIo { offset: 0, .. }) => return Ok(None),
        Some(DirectIo { memory, offset }) => (offset, memory),
        // An old kernel or a file system that does not say. A page or the file system's block, whichever is less, is
        // a whole number of sectors on any device.
        None => {
            let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
            let safe = u32::try_from(meta.blksize().min(u64::try_from(page).unwrap_or(4096))).unwrap_or(4096);
            (safe, safe)
        }
    };
    // A file system has something to write back in any case: how long the file is, where its blocks are.
    Ok(Some(settle(meta.len(), block, memory, true)))
}

fn settle(bytes: u64, block: u32, memory_align: u32, write_cache: bool) -> Geometry {
    let block = block.max(SECTOR).next_power_of_two();
    Geometry {
        capacity: bytes - bytes % u64::from(block),
        block,
        memory_align: memory_align.max(1).next_power_of_two(),
        write_cache,
    }
}

/// STATX_DIOALIGN; `None` where it is not known (Linux before 6.1, or the file system does not tell).
fn direct_io(file: &File) -> io::Result<Option<DirectIo>> {
    // SAFETY: all zeros is a valid statx.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor itself; the kernel fills one statx.
    let failed =
        unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &mut stat) }
            != 0;
    if failed {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENOSYS) { Ok(None) } else { Err(error) };
    }
    let told = stat.stx_mask & libc::STATX_DIOALIGN != 0;
    Ok(told.then_some(DirectIo { memory: stat.stx_dio_mem_align, offset: stat.stx_dio_offset_align }))
}

/// The block layer's word on a volatile cache; a partition asks its disk. In doubt there is one.
fn has_write_cache(rdev: u64) -> bool {
    let dir = format!("/sys/dev/block/{}:{}", libc::major(rdev), libc::minor(rdev));
    ["queue/write_cache", "../queue/write_cache"]
        .iter()
        .find_map(|name| fs::read_to_string(format!("{dir}/{name}")).ok())
        .is_none_or(|text| text.trim() != "write through")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_whole_blocks_and_sizes_are_powers_of_two() {
        let g = settle(10_000, 4096, 3, false);
        assert_eq!((g.capacity, g.block, g.memory_align), (8192, 4096, 4));
        let tiny = settle(511, 0, 0, true);
        assert_eq!((tiny.capacity, tiny.block, tiny.memory_align), (0, 512, 1));
    }

    #[test]
    fn a_file_has_the_alignment_that_its_file_system_tells() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        file.set_len(1 << 20).unwrap();
        if let Some(geometry) = of_file(&file).unwrap() {
            assert!(geometry.block.is_power_of_two() && geometry.block >= 512);
            assert!(geometry.memory_align.is_power_of_two());
            assert_eq!(geometry.capacity, 1 << 20);
        }
    }

    #[test]
    fn an_unknown_device_is_taken_to_have_a_cache() {
        assert!(has_write_cache(libc::makedev(4095, 1_048_575)));
    }
}
