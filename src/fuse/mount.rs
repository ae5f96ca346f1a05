//! Mounting and unmounting, by mount(2) as root and by `fusermount3` as a user. The session gets a descriptor that
//! is connected already, so that the mount is ours to take down.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair};
use nix::unistd::{Uid, getegid, geteuid};

use super::mountinfo::{self, MountEntry};
use super::{FS_TYPE, MountError, MountSpec, REQUEST_BYTES, REQUEST_PAGES};

/// Where requests come from.
pub const FUSE_DEVICE: &str = "/dev/fuse";
const FUSERMOUNT: &str = "fusermount3";
/// Largest request of any FUSE mount, in pages.
const MAX_PAGES_LIMIT: &str = "/proc/sys/fs/fuse/max_pages_limit";
/// Readahead of our mounts in KiB; the protocol itself offers 128.
const READ_AHEAD_KB: u32 = 1024;

/// A mount of ours.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    /// `major:minor` of the mount: it, and not whatever is mounted over it, is taken down.
    device: Option<String>,
}

/// Check the mountpoint: its path without symbolic links.
pub fn check(mountpoint: &Path) -> Result<PathBuf, MountError> {
    let path = match mountpoint.canonicalize() {
        Ok(path) => path,
        Err(error) => return Err(unreachable_mountpoint(mountpoint, error)),
    };
    match path.metadata() {
        Ok(meta) if !meta.is_dir() => return Err(MountError::NotADirectory(path)),
        Ok(_) => {}
        Err(error) => return Err(unreachable_mountpoint(&path, error)),
    }
    match mountinfo::topmost(&path) {
        Some(MountEntry { fs_type, source, .. }) if fs_type == FS_TYPE => {
            Err(MountError::AlreadyMounted { path, source_name: source })
        }
        _ => Ok(path),
    }
}

fn unreachable_mountpoint(path: &Path, error: io::Error) -> MountError {
    match error.raw_os_error() {
        Some(libc::ENOENT) => MountError::NoMountpoint(path.into()),
        Some(libc::ENOTDIR) => MountError::NotADirectory(path.into()),
        Some(libc::ENOTCONN | libc::ECONNABORTED) => MountError::DeadMount(path.into()),
        _ => MountError::Mountpoint { path: path.into(), error },
    }
}

/// Mount; `path` is from [`check`]. The descriptor is the session's.
pub fn mount(path: &Path, spec: &MountSpec) -> Result<(OwnedFd, Mounted), MountError> {
    let fd = if geteuid().is_root() {
        raise_request_size();
        mount_as_root(path, spec)?
    } else {
        mount_as_user(path, spec)?
    };
    let device = mountinfo::topmost(path).filter(|entry| entry.fs_type == FS_TYPE).map(|entry| entry.device);
    Ok((fd, Mounted { path: path.into(), device }))
}

/// A record of 1 MiB that does not begin on a page lies in 257 pages, one of many pieces in more, and the kernel sends 256
/// at most: it would come in several requests, and not be whole or absent. So the limit is raised by what is missing. It
/// is one for all FUSE mounts of the machine and only allows; nobody else's requests grow by it.
fn raise_request_size() {
    if max_pages().is_some_and(|now| now < REQUEST_PAGES)
        && let Err(error) = std::fs::write(MAX_PAGES_LIMIT, REQUEST_PAGES.to_string())
    {
        log::info!(
            "{MAX_PAGES_LIMIT} stays below {REQUEST_PAGES}: {error}; a write of the last 4 KiB below 1 MiB, or of more \
             than 128 pieces, may be split"
        );
    }
}

/// Pages that the kernel sends in one request, if it can be told to send more than 256.
fn max_pages() -> Option<u32> {
    std::fs::read_to_string(MAX_PAGES_LIMIT).ok().and_then(|text| text.trim().parse().ok())
}

/// A record of many pieces can come in one request, if it is asked for.
pub fn takes_many_pieces() -> bool {
    max_pages().is_some_and(|pages| pages >= REQUEST_PAGES)
}

fn mount_as_root(path: &Path, spec: &MountSpec) -> Result<OwnedFd, MountError> {
    let fuse = OpenOptions::new().read(true).write(true).open(FUSE_DEVICE).map_err(no_fuse)?;
    let mode = path.metadata().map_err(|error| unreachable_mountpoint(path, error))?.mode();
    let mut options = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions,max_read={REQUEST_BYTES}",
        fuse.as_raw_fd(),
        mode & libc::S_IFMT,
        geteuid(),
        getegid(),
    );
    if spec.allow_other {
        options.push_str(",allow_other");
    }
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, spec.read_only);
    flags.set(MsFlags::MS_NOEXEC, spec.noexec);
    nix::mount::mount(Some(spec.source.as_str()), path, Some(FS_TYPE), flags, Some(options.as_str())).map_err(
        |errno| match errno {
            Errno::EBUSY => MountError::Busy(path.into()),
            Errno::EPERM | Errno::EACCES => MountError::Permission {
                path: path.into(),
                hint: "mounting as root needs CAP_SYS_ADMIN, which this container or sandbox has not".into(),
            },
            Errno::ENODEV => MountError::NoFuse,
            errno => MountError::Mount { path: path.into(), error: errno.into() },
        },
    )?;
    Ok(fuse.into())
}

fn no_fuse(error: io::Error) -> MountError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => MountError::NoFuse,
        _ => MountError::FuseDevice(error),
    }
}

/// `fusermount3` separates options by commas.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace(',', "\\,")
}

fn mount_as_user(path: &Path, spec: &MountSpec) -> Result<OwnedFd, MountError> {
    if !Path::new(FUSE_DEVICE).exists() {
        return Err(MountError::NoFuse);
    }
    let mut options = format!(
        "fsname={},subtype=llamafs,default_permissions,nosuid,nodev,max_read={REQUEST_BYTES}",
        escape(&spec.source)
    );
    if spec.allow_other {
        options.push_str(",allow_other");
    }
    if spec.read_only {
        options.push_str(",ro");
    }
    if spec.noexec {
        options.push_str(",noexec");
    }
    let failed = |error: io::Error| MountError::Mount { path: path.into(), error };
    // No close-on-exec: the child inherits its end.
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())
        .map_err(|errno| failed(errno.into()))?;
    let mut child = Command::new(FUSERMOUNT)
        .args(["-o", &options, "--"])
        .arg(path)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoFusermount,
            _ => failed(error),
        })?;
    drop(theirs);
    let fd = receive(&ours);
    drop(ours);
    let mut text = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut text);
    }
    let _ = child.wait();
    match fd {
        Ok(Some(fd)) => Ok(fd),
        Ok(None) => Err(refused(path, text.lines().next().unwrap_or("it said nothing"))),
        Err(error) => Err(failed(error)),
    }
}

fn refused(path: &Path, text: &str) -> MountError {
    let text = text.trim_start_matches("fusermount3: ").to_string();
    if text.contains("user_allow_other") {
        let hint = "allow_other needs the line user_allow_other in /etc/fuse.conf".into();
        return MountError::Permission { path: path.into(), hint };
    }
    if text.contains(FUSE_DEVICE) {
        let hint = format!("users may not open {FUSE_DEVICE} (`chmod 666 {FUSE_DEVICE}`), or mount as root ({text})");
        return MountError::Permission { path: path.into(), hint };
    }
    if text.contains("ermission denied") || text.contains("not permitted") || text.contains("no write access") {
        return MountError::Permission {
            path: path.into(),
            hint: format!("own the directory, or mount as root ({text})"),
        };
    }
    MountError::Fusermount { path: path.into(), text }
}

/// The descriptor that `fusermount3` sends, if it does.
fn receive(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut iov = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([std::os::fd::RawFd; 1]);
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just installed this descriptor for this message; nobody else knows of it.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
    }
    Ok(None)
}

/// What came of an attempt to unmount.
#[derive(Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// It is gone.
    Done,
    /// Somebody has a file of it open or stands in it.
    Busy,
}

impl Mounted {
    /// Raise the readahead, where we may.
    pub fn raise_read_ahead(&self) {
        let Some(device) = &self.device else { return };
        let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
        if let Err(error) = std::fs::write(&path, READ_AHEAD_KB.to_string()) {
            log::debug!("{path}: {error}");
        }
    }

    /// Whether our mount, and not another one, is on top at its place.
    fn is_there(&self) -> bool {
        let top = mountinfo::topmost(&self.path);
        self.device.is_some() && top.is_some_and(|top| Some(top.device) == self.device)
    }

    /// Unmount, if nobody uses it.
    pub fn unmount(&self) -> Unmounted {
        if !self.is_there() {
            return Unmounted::Busy;
        }
        let done = if Uid::effective().is_root() {
            nix::mount::umount2(&self.path, MntFlags::UMOUNT_NOFOLLOW).is_ok()
        } else {
            self.fusermount(&["-u", "-q"])
        };
        if done { Unmounted::Done } else { Unmounted::Busy }
    }

    /// Take it out of the tree although it is in use, and end the connection: users of open files get `ENOTCONN`.
    /// Answer what was taken first.
    pub fn detach_and_abort(&self) {
        if !self.is_there() {
            return self.abort();
        }
        if Uid::effective().is_root() {
            let force = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            if let Err(error) = nix::mount::umount2(&self.path, force) {
                log::warn!("cannot detach {}: {error}", self.path.display());
            }
        } else {
            self.fusermount(&["-u", "-z", "-q"]);
        }
        self.abort();
    }

    fn fusermount(&self, arguments: &[&str]) -> bool {
        let status = Command::new(FUSERMOUNT)
            .args(arguments)
            .arg("--")
            .arg(&self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }

    /// End the connection by its control file, which belongs to the mounter.
    fn abort(&self) {
        let Some(minor) = self.device.as_deref().and_then(|device| device.split(':').nth(1)) else { return };
        let path = format!("/sys/fs/fuse/connections/{minor}/abort");
        let aborted =
            File::options().write(true).open(&path).and_then(|mut file| io::Write::write_all(&mut file, b"1"));
        if let Err(error) = aborted {
            log::debug!("{path}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_names_are_escaped() {
        assert_eq!(escape(r"/a,b\c"), r"/a\,b\\c");
    }

    #[test]
    fn bad_mountpoints_are_told_apart() {
        assert!(matches!(check(Path::new("/no/such/place")), Err(MountError::NoMountpoint(_))));
        assert!(matches!(check(Path::new("/proc/version")), Err(MountError::NotADirectory(_))));
        assert!(matches!(check(Path::new("/proc/version/x")), Err(MountError::NotADirectory(_))));
        assert!(check(&std::env::temp_dir()).is_ok());
    }
}
