//! The transports: FUSE by the `fuser` crate, whose types all stay in this room, and with `-o parallel` by ourselves, for
//! what the crate leaves out. Both call the same [`crate::fs::LlamaFs`].

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
/// Requests that the kernel may have in flight in the background: readahead.
const MAX_BACKGROUND: u16 = 64;
