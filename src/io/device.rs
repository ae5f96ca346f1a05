//! What QuikIO asks of a disk: take requests from any thread, give completions to one owner.
//!
//! A request names its memory by address, so that one call fits the kernel's rings and a simulated disk alike. QuikIO
//! owns the memory until the completion of that very token was reaped; that is the whole of the safety contract.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::buffer::SharedBuffer;

/// What the device says of itself. Nothing here is a constant of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes, a multiple of `block`.
    pub capacity: u64,
    /// Unit of offsets and lengths of direct I/O, in bytes; a power of two.
    pub block: u32,
    /// Alignment of memory for direct I/O, in bytes; a power of two.
    pub memory_align: u32,
    /// A completed write may be lost by a power failure until a flush (or until it was written with `dsync`).
    pub write_cache: bool,
}

/// One thing for the device to do. `fixed` is the index of the registered buffer that holds the memory.
#[derive(Debug, Clone, Copy)]
pub enum Request {
    /// Write `len` bytes. With `dsync` it completes when these bytes, and no others by contract, are on stable media.
    Write {
        /// Comes back in the completion.
        token: u64,
        /// Byte offset on the device.
        offset: u64,
        /// Memory to read from.
        ptr: *const u8,
        /// Bytes.
        len: u32,
        /// Durable before it completes.
        dsync: bool,
        /// Registered buffer.
        fixed: Option<u16>,
    },
    /// Read `len` bytes.
    Read {
        /// Comes back in the completion.
        token: u64,
        /// Byte offset on the device.
        offset: u64,
        /// Memory to fill.
        ptr: *mut u8,
        /// Bytes.
        len: u32,
        /// Registered buffer.
        fixed: Option<u16>,
        /// Who asks for it has nothing else to do, and takes its completion if it takes any.
        awaited: bool,
    },
    /// Make every write that has completed durable.
    Flush {
        /// Comes back in the completion.
        token: u64,
    },
}

// SAFETY: a request is a description; the memory behind its pointer is kept alive by whoever submitted it (see
// `Device::submit`), and is used by one side only, whatever thread that runs on.
unsafe impl Send for Request {}

impl Request {
    /// The same with its memory as memory only.
    #[must_use]
    pub fn unregistered(&self) -> Self {
        let mut request = *self;
        if let Self::Write { fixed, .. } | Self::Read { fixed, .. } = &mut request {
            *fixed = None;
        }
        request
    }

    /// Somebody waits for it: to be durable, or to be read.
    pub fn is_awaited(&self) -> bool {
        matches!(self, Self::Write { dsync: true, .. } | Self::Flush { .. } | Self::Read { awaited: true, .. })
    }

    /// It reads.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Read { .. })
    }

    /// The token that its completion will carry.
    pub fn token(&self) -> u64 {
        match *self {
            Self::Write { token, .. } | Self::Read { token, .. } | Self::Flush { token } => token,
        }
    }
}

/// What became of a request: bytes moved (0 for a flush), or the errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Token of the request.
    pub token: u64,
    /// Bytes moved, or errno.
    pub result: Result<u32, i32>,
}

/// The first `taken` requests are with the device and will complete; it has nothing of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device took {taken} requests, then: {}", io::Error::from_raw_os_error(*errno))]
pub struct SubmitError {
    /// Number of requests taken.
    pub taken: usize,
    /// Why not more.
    pub errno: i32,
}

/// A way to the device for what one thread asks of it and waits for: its completions are its own.
pub trait Lane: Send + Sync {
    /// A descriptor that is readable when there are completions.
    fn fd(&self) -> RawFd;

    /// Hand over requests; by the thread that the lane is for.
    ///
    /// # Safety
    /// As for [`Device::submit`].
    unsafe fn submit(&self, requests: &[Request]) -> Result<(), SubmitError>;

    /// Append completions to `out`; any thread.
    fn take(&self, out: &mut Vec<Completion>) -> io::Result<()>;
}

/// A disk.
pub trait Device: Send + Sync {
    /// Capacity and alignment.
    fn geometry(&self) -> Geometry;

    /// Bytes that it has now, a multiple of the block: a device or file may have grown since it was opened.
    fn capacity_now(&self) -> io::Result<u64> {
        Ok(self.geometry().capacity)
    }

    /// Its path, for messages.
    fn describe(&self) -> String;

    /// Requests that may be with the device at one time. QuikIO keeps the rest back.
    fn depth(&self) -> usize {
        128
    }

    /// Let the device map these buffers once and for all; their index is a request's `fixed`. The device keeps them.
    fn register(&self, buffers: &[SharedBuffer]) -> io::Result<()>;

    /// Hand over requests; any thread.
    ///
    /// # Safety
    /// The memory of each request that was taken stays allocated, and for a read nobody else uses it, until its
    /// completion was reaped. For a write nobody changes it until then. `fixed` names the registered buffer it lies in.
    unsafe fn submit(&self, requests: &[Request]) -> Result<(), SubmitError>;

    /// Append completions to `out`; with `wait`, sleep until there is one or [`Device::wake`] was called. Only the
    /// owner of completions calls it.
    fn reap(&self, out: &mut Vec<Completion>, wait: bool) -> io::Result<()>;

    /// Make the present or the next `reap` with `wait` return.
    fn wake(&self);

    /// A lane for the thread that calls; none: the device has no such thing.
    fn lane(&self) -> io::Result<Option<Arc<dyn Lane>>> {
        Ok(None)
    }
}
