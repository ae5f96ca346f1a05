//! The transport: FUSE by the `fuser` crate. All of `fuser`'s types stay in this room; another transport can stand
//! beside it and call the same [`crate::fs::LlamaFs`].

mod adapter;
mod cache;
mod error;
mod mount;
mod mountinfo;
mod session;

pub use error::MountError;
pub use session::{MountSpec, StopHandle, serve};

/// Type under which the kernel lists our mounts.
pub const FS_TYPE: &str = "fuse.llamafs";
/// Largest request that carries one record.
const REQUEST_BYTES: u32 = 1 << 20;
/// A page of the kernel.
const PAGE: u32 = 4096;
