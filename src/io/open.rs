//! Opening a device: O_DIRECT, for us alone, or one clear sentence why not.
//!
//! A block device opened for writing is claimed with O_EXCL, which keeps out mounts, swap and other claims. A lock
//! (flock) on the name does the same for files, and lets a reader see that there is a writer. A loop device and its file are
//! two names of the same bytes: see `below`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::below::{self, Below, Bytes};
use super::device::Geometry;
use super::holder::{self, Identity};
use super::uring::UringDevice;
use super::{geometry, uring};

/// How often it is tried again while whoever has it is about to let go.
const TRIES: u32 = 100;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// What for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Look, with other readers, while nobody writes: busy if a writer has it.
    ReadOnlyShared,
    /// Look, whoever writes meanwhile.
    ReadOnlyUnlocked,
    /// Write, alone.
    ReadWrite,
}

/// Why a device can't be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// ENOENT.
    #[error("{}: no such file or device", .0.display())]
    NotFound(PathBuf),
    /// A directory.
    #[error("{}: is a directory; name a block device or a file", .0.display())]
    Directory(PathBuf),
    /// A socket, pipe, terminal.
    #[error("{}: is {kind}; name a block device or a file", .path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// EACCES or EPERM.
    #[error("{}: no permission to open it for {action}; run as root or as its owner", .path.display())]
    NoPermission {
        /// The path.
        path: PathBuf,
        /// `reading` or `writing`.
        action: &'static str,
    },
    /// The device, or the file system, takes no writes.
    #[error("{}: {what} is read-only; mount with `-o ro` or make it writable", .path.display())]
    ReadOnly {
        /// The path.
        path: PathBuf,
        /// `the device` or `the file system it lies on`.
        what: &'static str,
    },
    /// No O_DIRECT.
    #[error("{}: {fs} has no O_DIRECT; use a block device, or a file on ext4, xfs, btrfs or tmpfs", .path.display())]
    NoDirectIo {
        /// The path.
        path: PathBuf,
        /// The file system.
        fs: String,
    },
    /// Somebody has it.
    #[error("{}: is busy: {holder}", .path.display())]
    Busy {
        /// The path.
        path: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// Not one block long.
    #[error("{}: has {bytes} bytes, not one block; give it a size first (`truncate -s 1G FILE`)", .path.display())]
    Empty {
        /// The path.
        path: PathBuf,
        /// What there is of it.
        bytes: u64,
    },
    /// io_uring can't be used.
    #[error("{}: {reason}", .path.display())]
    NoUring {
        /// The path.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// Anything else.
    #[error("{}: can't {action}: {source}", .path.display())]
    Other {
        /// The path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The error.
        source: io::Error,
    },
}

impl OpenError {
    /// The errno that fits best.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound(_) => libc::ENOENT,
            Self::Directory(_) => libc::EISDIR,
            Self::WrongKind { .. } => libc::ENOTBLK,
            Self::NoPermission { .. } => libc::EACCES,
            Self::ReadOnly { .. } => libc::EROFS,
            Self::NoDirectIo { .. } => libc::EINVAL,
            Self::Busy { .. } => libc::EBUSY,
            Self::Empty { .. } => libc::ENOSPC,
            Self::NoUring { .. } => libc::ENOSYS,
            Self::Other { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// Open a block device, or a file that stands in for one.
pub fn open(path: &Path, access: Access) -> Result<UringDevice, OpenError> {
    let target = Target::look_at(path, access)?;
    let file = target.patiently(&target.id, None, || target.open_file())?;
    target.patiently(&target.id, Some(&file), || target.lock(&file))?;
    let below = target.lock_bytes(&file)?;
    let geometry = target.geometry(&file)?;
    uring::UringDevice::new(file, below, path, geometry)
        .map_err(|reason| OpenError::NoUring { path: path.to_owned(), reason })
}

/// One try failed.
enum Refused {
    /// Somebody has it.
    Busy,
    /// And trying again is of no use.
    Because(OpenError),
}

/// What the path names.
struct Target<'a> {
    path: &'a Path,
    access: Access,
    id: Identity,
}

impl<'a> Target<'a> {
    fn look_at(path: &'a Path, access: Access) -> Result<Self, OpenError> {
        // Looked at before it is opened: opening a pipe would wait for its other end.
        let meta = std::fs::metadata(path).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => OpenError::NotFound(path.to_owned()),
            Some(libc::EACCES) => OpenError::NoPermission { path: path.to_owned(), action: "reading" },
            _ => OpenError::Other { path: path.to_owned(), action: "look at it", source: error },
        })?;
        let kind = meta.file_type();
        let wrong = |kind| Err(OpenError::WrongKind { path: path.to_owned(), kind });
        if kind.is_dir() {
            return Err(OpenError::Directory(path.to_owned()));
        } else if kind.is_char_device() {
            return wrong("a character device");
        } else if kind.is_fifo() {
            return wrong("a pipe");
        } else if kind.is_socket() {
            return wrong("a socket");
        }
        let name = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let rdev = kind.is_block_device().then_some(meta.rdev());
        Ok(Target { path, access, id: Identity { dev: meta.dev(), ino: meta.ino(), rdev, name } })
    }

    fn writes(&self) -> bool {
        self.access == Access::ReadWrite
    }

    fn is_block(&self) -> bool {
        self.id.rdev.is_some()
    }

    fn other(&self, action: &'static str, source: io::Error) -> OpenError {
        OpenError::Other { path: self.path.to_owned(), action, source }
    }

    /// Try, and while `what` (this, or what it lies on) is busy with somebody who is about to let go, try again.
    fn patiently<T>(
        &self,
        what: &Identity,
        own: Option<&File>,
        attempt: impl Fn() -> Result<T, Refused>,
    ) -> Result<T, OpenError> {
        let mut tries = 0;
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(Refused::Because(error)) => return Err(error),
                Err(Refused::Busy) => {
                    tries += 1;
                    let holder = holder::find(what, own.map(AsRawFd::as_raw_fd));
                    if !holder.passing || tries == TRIES {
                        return Err(OpenError::Busy { path: self.path.to_owned(), holder: holder.text });
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn read_only(&self) -> OpenError {
        let what = if self.is_block() { "the device" } else { "the file system it lies on" };
        OpenError::ReadOnly { path: self.path.to_owned(), what }
    }

    fn no_direct_io(&self) -> OpenError {
        let fs = holder::file_system_of(self.path, self.id.dev);
        let fs = fs.unwrap_or_else(|| "the file system it lies on".to_string());
        OpenError::NoDirectIo { path: self.path.to_owned(), fs }
    }

    fn open_file(&self) -> Result<File, Refused> {
        let exclusive = if self.writes() && self.is_block() { libc::O_EXCL } else { 0 };
        let opened = OpenOptions::new()
            .read(true)
            .write(self.writes())
            .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | exclusive)
            .open(self.path);
        let because = |error: io::Error| match error.raw_os_error() {
            Some(libc::ENOENT) => OpenError::NotFound(self.path.to_owned()),
            Some(libc::EINVAL) => self.no_direct_io(),
            Some(libc::EROFS) => self.read_only(),
            // A write-protected device answers EACCES to root, too.
            Some(libc::EACCES | libc::EPERM) if self.writes() && self.is_write_protected() => self.read_only(),
            Some(libc::EACCES | libc::EPERM) => {
                let action = if self.writes() { "writing" } else { "reading" };
                OpenError::NoPermission { path: self.path.to_owned(), action }
            }
            _ => self.other("open it", error),
        };
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::ETXTBSY) => Refused::Busy,
            _ => Refused::Because(because(error)),
        })?;
        // Opening a write-protected loop device for writing succeeds, and only writing fails.
        if self.writes() && self.is_block() && geometry::is_read_only(&file).unwrap_or(false) {
            return Err(Refused::Because(self.read_only()));
        }
        Ok(file)
    }

    fn is_write_protected(&self) -> bool {
        self.is_block() && File::open(self.path).and_then(|device| geometry::is_read_only(&device)).unwrap_or(false)
    }

    fn lock(&self, file: &File) -> Result<(), Refused> {
        let kind = match self.access {
            Access::ReadOnlyUnlocked => return Ok(()),
            Access::ReadOnlyShared => libc::LOCK_SH,
            Access::ReadWrite => libc::LOCK_EX,
        };
        // SAFETY: flock takes no memory.
        if unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EWOULDBLOCK | libc::EINTR) => Err(Refused::Busy),
            _ => Err(Refused::Because(self.other("lock it", error))),
        }
    }

    /// The same for its bytes, and for those that this loop device lies on: their file, if there is one.
    fn lock_bytes(&self, file: &File) -> Result<Option<File>, OpenError> {
        if self.access == Access::ReadOnlyUnlocked {
            return Ok(None);
        }
        self.patiently(&self.id, Some(file), || self.lock_part(file, Bytes::ALL))?;
        let below = self.id.rdev.and_then(|rdev| below::find(file, rdev, self.writes()));
        let Some(Below { file: lies_on, id, bytes }) = below else { return Ok(None) };
        let locked = self.patiently(&id, Some(&lies_on), || self.lock_part(&lies_on, bytes));
        locked.map_err(|error| match error {
            OpenError::Busy { path, holder } => {
                let holder = format!("{}, which it lies on, is in use: {holder}", id.name.display());
                OpenError::Busy { path, holder }
            }
            error => error,
        })?;
        Ok(Some(lies_on))
    }

    fn lock_part(&self, file: &File, bytes: Bytes) -> Result<(), Refused> {
        match below::lock(file, bytes, self.writes()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refused::Busy),
            Err(error) => Err(Refused::Because(self.other("lock it", error))),
        }
    }

    fn geometry(&self, file: &File) -> Result<Geometry, OpenError> {
        let found = if self.is_block() { geometry::of_block_device(file).map(Some) } else { geometry::of_file(file) };
        let geometry = found.map_err(|error| self.other("read its geometry", error))?;
        let geometry = geometry.ok_or_else(|| self.no_direct_io())?;
        if geometry.capacity == 0 {
            let bytes = geometry::bytes_of(file).map_err(|error| self.other("read its size", error))?;
            return Err(OpenError::Empty { path: self.path.to_owned(), bytes });
        }
        Ok(geometry)
    }
}
