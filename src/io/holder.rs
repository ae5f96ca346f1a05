//! Who has the device: for the one message that a person needs when it is busy.
//!
//! Everything is read from /proc and /sys, and nothing there is certain: the answer is a help, never a decision.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The identity of a file or device, as `stat` gives it.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Device of the file system that the name lies in.
    pub(super) dev: u64,
    /// Inode of the name.
    pub(super) ino: u64,
    /// The device itself, if it is one.
    pub(super) rdev: Option<u64>,
    /// Its name with no link in it.
    pub(super) name: PathBuf,
}

/// Who has it.
#[derive(Debug)]
pub(super) struct Holder {
    /// One clause, such as `llamafs (process 4711) has it open`.
    pub(super) text: String,
    /// It may let go in a moment: the kernel takes down the rings of a process after its death, and udev looks at
    /// every device that changes.
    pub(super) passing: bool,
}

/// Who has it; `own` is the caller's descriptor of it, which does not count.
pub(super) fn find(id: &Identity, own: Option<RawFd>) -> Holder {
    if let Some(text) = id.rdev.and_then(used_by_kernel) {
        return Holder { text, passing: false };
    }
    let me = std::process::id();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let named = |pid: u32| Some((pid, process(pid)?));
    // Whoever took the lock may be gone, and have left it to another who has the file open.
    let holder = locker(&locks, id).filter(|&pid| pid != me).and_then(named).or_else(|| opener(id).and_then(named));
    if let Some((pid, (name, text))) = holder {
        return Holder { text, passing: name.contains("udev") || dying(pid) };
    }
    if has_open(me, id, own) {
        return Holder { text: format!("this process ({me}) has it open already"), passing: false };
    }
    Holder { text: "another process has it open (try `fuser -v`)".to_string(), passing: true }
}

/// Mounted, swapped to, or under another block device; a partition in use makes its disk busy.
fn used_by_kernel(rdev: u64) -> Option<String> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(place) = mount_of(&mountinfo, rdev) {
        return Some(format!("it is mounted on {place}"));
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let is_swap = |name: &str| fs::metadata(name).is_ok_and(|meta| meta.rdev() == rdev);
    if swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).any(is_swap) {
        return Some("it is in use as swap".to_string());
    }
    let dir = format!("/sys/dev/block/{}", numbers(rdev));
    if let Some(above) = entries(&format!("{dir}/holders")).next() {
        return Some(format!("{above} is built on it"));
    }
    entries(&dir).filter(|name| Path::new(&format!("{dir}/{name}/partition")).exists()).find_map(|name| {
        let text = fs::read_to_string(format!("{dir}/{name}/dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        let part = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
        used_by_kernel(part).map(|what| format!("its partition {name} is in use: {what}"))
    })
}

fn entries(dir: &str) -> impl Iterator<Item = String> {
    let read = fs::read_dir(dir).ok();
    read.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

pub(super) fn numbers(dev: u64) -> String {
    format!("{}:{}", libc::major(dev), libc::minor(dev))
}

/// Where /proc/self/mountinfo says the device is mounted.
fn mount_of(mountinfo: &str, rdev: u64) -> Option<String> {
    let wanted = numbers(rdev);
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.nth(2) == Some(&wanted)).then(|| fields.nth(1).map(unescape)).flatten()
    })
}

/// The type of the file system that `path` lies in, as mountinfo names it.
pub(super) fn file_system_of(path: &Path, dev: u64) -> Option<String> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let path = path.canonicalize().ok()?;
    file_system_in(&mountinfo, &path, dev)
}

fn file_system_in(mountinfo: &str, path: &Path, dev: u64) -> Option<String> {
    let wanted = numbers(dev);
    let mut best: Option<(bool, usize, String)> = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = left.split(' ');
        let (Some(device), Some(place)) = (fields.nth(2), fields.nth(1).map(unescape)) else {
            continue;
        };
        let Some(kind) = right.split(' ').next() else {
            continue;
        };
        // btrfs and overlay show files under device numbers of their own: then the longest mount point decides.
        if path.starts_with(&place) {
            let candidate = (device == wanted, place.len(), kind.to_string());
            if best.as_ref().is_none_or(|b| (b.0, b.1) <= (candidate.0, candidate.1)) {
                best = Some(candidate);
            }
        }
    }
    best.map(|(_, _, kind)| kind)
}

/// mountinfo writes blanks and the like as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let value = octal.and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok());
        match value {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The process that /proc/locks names as holder of a lock on the file.
fn locker(locks: &str, id: &Identity) -> Option<u32> {
    let mut name = String::new();
    write!(name, "{:02x}:{:02x}:{}", libc::major(id.dev), libc::minor(id.dev), id.ino).ok()?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // "1: FLOCK ADVISORY WRITE 4711 fe:00:1234 0 EOF"; a waiter has "->" in front.
        match fields.as_slice() {
            [_, kind, _, _, pid, file, ..] if *kind != "->" && *file == name => pid.parse().ok(),
            _ => None,
        }
    })
}

/// Another process that has it open; only root sees those of all users.
fn opener(id: &Identity) -> Option<u32> {
    let me = std::process::id();
    let mut all = entries("/proc").filter_map(|name| name.parse::<u32>().ok());
    all.find(|&pid| pid != me && has_open(pid, id, None))
}

/// By the names of what it has open. Nothing is looked up by those names: that could wait for ever for a file system
/// whose server is stuck.
fn has_open(pid: u32, id: &Identity, except: Option<RawFd>) -> bool {
    let dir = format!("/proc/{pid}/fd");
    let except = except.map(|fd| fd.to_string());
    entries(&dir)
        .filter(|fd| except.as_ref() != Some(fd))
        .any(|fd| fs::read_link(format!("{dir}/{fd}")).is_ok_and(|name| name == id.name))
}

/// Its name, and a clause about it.
fn process(pid: u32) -> Option<(String, String)> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_string();
    let text = format!("{name} (process {pid}) has it open");
    Some((name, text))
}

/// The process is being taken down: SIGKILL has reached it, or its first thread is gone already.
fn dying(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    is_dying(&status)
}

/// The same of the text of `/proc/PID/status`, see proc_pid_status(5).
fn is_dying(status: &str) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let gone = field("State:").is_none_or(|state| state.starts_with(['Z', 'X']));
    let kill = 1u64 << (libc::SIGKILL - 1);
    let pending = ["SigPnd:", "ShdPnd:"].into_iter().filter_map(field);
    gone || pending.filter_map(|mask| u64::from_str_radix(mask, 16).ok()).any(|mask| mask & kill != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/with\\040blank rw - ramfs none rw
31 22 7:3 / /mnt/loop rw shared:9 - xfs /dev/loop3 rw
";

    #[test]
    fn a_mounted_device_is_found() {
        assert_eq!(mount_of(MOUNTS, libc::makedev(7, 3)).unwrap(), "/mnt/loop");
        assert_eq!(mount_of(MOUNTS, libc::makedev(0, 40)).unwrap(), "/mnt/with blank");
        assert!(mount_of(MOUNTS, libc::makedev(7, 4)).is_none());
    }

    #[test]
    fn the_file_system_is_that_of_the_longest_mount_point() {
        let fs = |path: &str, major, minor| file_system_in(MOUNTS, Path::new(path), libc::makedev(major, minor));
        assert_eq!(fs("/mnt/with blank/f", 0, 40).unwrap(), "ramfs");
        assert_eq!(fs("/mnt/loop/f", 0, 99).unwrap(), "xfs", "a device number of its own");
        assert_eq!(fs("/srv/f", 254, 0).unwrap(), "ext4");
    }

    #[test]
    fn a_killed_process_is_told_from_a_living_one() {
        let status = |state: &str, pending: &str| {
            format!("Name:\tllamafs\nState:\t{state}\nSigPnd:\t0000000000000000\nShdPnd:\t{pending}\n")
        };
        assert!(!is_dying(&status("S (sleeping)", "0000000000000000")));
        assert!(!is_dying(&status("R (running)", "0000000000004000")), "SIGTERM is answered in order");
        assert!(is_dying(&status("D (disk sleep)", "0000000000000100")));
        assert!(is_dying(&status("Z (zombie)", "0000000000000000")));
        assert!(is_dying(""), "gone while we looked");
    }

    #[test]
    fn a_lock_names_its_process() {
        let locks = "\
1: -> FLOCK  ADVISORY  WRITE 7 fe:00:1234 0 EOF
2: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF
3: POSIX  ADVISORY  READ 9 fe:00:99 0 EOF
";
        let id = |ino| Identity { dev: libc::makedev(0xfe, 0), ino, rdev: None, name: PathBuf::new() };
        assert_eq!(locker(locks, &id(1234)), Some(4711));
        assert_eq!(locker(locks, &id(1)), None);
    }

    #[test]
    fn damaged_input_is_no_answer() {
        let id = Identity { dev: 1, ino: 1, rdev: None, name: PathBuf::new() };
        assert_eq!(locker("x\n\n: : :", &id), None);
        assert_eq!(mount_of("\n- - -\n", 1), None);
        assert_eq!(unescape("a\\04"), "a\\04");
        assert_eq!(unescape("\\999"), "\\999");
        assert_eq!(file_system_in("a - \n - x", Path::new("/"), 1), None);
    }
}
