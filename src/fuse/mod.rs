//! The transports: FUSE by the `fuser` crate, whose types all stay in this room, and by ourselves, for what the crate leaves
//! out: locks, io_uring, and requests of many pieces. Both call the same [`crate::fs::LlamaFs`].

mod adapter;
mod cache;
mod error;
mod mount;
mod mountinfo;
mod nearby;
mod session;
pub mod wire;

pub use error::MountError;
pub use session::{MountSpec, StopHandle, serve};

/// Type under which the kernel lists our mounts.
pub const FS_TYPE: &str = "fuse.llamafs";
/// Largest request that carries one record.
const REQUEST_BYTES: u32 = 1 << 20;
/// A page of the kernel.
const PAGE: u32 = 4096;
/// Pieces of memory that one `writev` takes (UIO_MAXIOV of linux/uio.h).
const PIECES: u32 = 1024;
/// Pages that the bytes of one record may lie in: each piece may begin and end within one.
const REQUEST_PAGES: u32 = REQUEST_BYTES / PAGE + 2 * PIECES;
/// Requests that the kernel may have in flight in the background: readahead.
const MAX_BACKGROUND: u16 = 64;
