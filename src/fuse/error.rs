//! Why a mount failed: one sentence each, with what to do.

use std::io;
use std::path::PathBuf;

use super::wire::ENABLE_URING;

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mountpoint is not there.
    #[error("mountpoint {0} does not exist: make the directory first")]
    NoMountpoint(PathBuf),
    /// The mountpoint is a file.
    #[error("mountpoint {0} is not a directory")]
    NotADirectory(PathBuf),
    /// The mountpoint cannot be reached.
    #[error("cannot reach mountpoint {path}: {error}")]
    Mountpoint {
        /// It.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A store is mounted there already.
    #[error("mountpoint {path} already shows the store on {source_name}: unmount it first or choose another directory")]
    AlreadyMounted {
        /// It.
        path: PathBuf,
        /// What is mounted there.
        source_name: String,
    },
    /// The daemon of an earlier mount is gone.
    #[error("mountpoint {0} is a mount whose daemon is gone: unmount it first (umount {0})")]
    DeadMount(PathBuf),
    /// Something uses the mountpoint.
    #[error("mountpoint {0} is busy: unmount what is there or choose another directory")]
    Busy(PathBuf),
    /// Not allowed.
    #[error("no permission to mount on {path}: {hint}")]
    Permission {
        /// The mountpoint.
        path: PathBuf,
        /// What to do.
        hint: String,
    },
    /// No `/dev/fuse`.
    #[error("/dev/fuse is missing: load the kernel module (modprobe fuse) or pass the device into this container")]
    NoFuse,
    /// `/dev/fuse` refuses to be opened.
    #[error("cannot open /dev/fuse: {0}")]
    FuseDevice(io::Error),
    /// No `fusermount3`.
    #[error("fusermount3 is missing: install the package fuse3, or mount as root")]
    NoFusermount,
    /// `fusermount3` refused.
    #[error("fusermount3 refused to mount on {path}: {text}")]
    Fusermount {
        /// The mountpoint.
        path: PathBuf,
        /// Its message.
        text: String,
    },
    /// No FUSE over io_uring.
    #[error(
        "`uring` needs FUSE over io_uring, which this kernel has not (Linux 6.14) or is not set to: as root, \
         `echo Y > {ENABLE_URING}`, or mount without it"
    )]
    NoUring,
    /// Both cannot be had.
    #[error("`uring` and `parallel` do not go together: choose one")]
    UringParallel,
    /// Too little memory to serve requests.
    #[error("out of memory: serving a mount takes {0} MiB more; raise `ulimit -v`, or end other programs")]
    Memory(usize),
    /// mount(2) failed in another way.
    #[error("cannot mount on {path}: {error}")]
    Mount {
        /// The mountpoint.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel and the daemon do not understand each other.
    #[error("the kernel did not start the file system: {0}")]
    Handshake(io::Error),
    /// The session broke.
    #[error("the file system's session ended with an error: {0}")]
    Session(io::Error),
}
