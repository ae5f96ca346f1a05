//! QuikIO, the `Device` trait and what stands behind it.
//!
//! [`fn@open`] gives a [`UringDevice`] for a block device or a file; [`SimDevice`] is a disk in memory that loses power
//! on demand. [`QuikIO`] drives either: it alone takes completions, continues short transfers, orders overlapping
//! writes and remembers the first failure.
#![allow(unsafe_code)]

mod below;
pub mod buffer;
mod device;
mod geometry;
mod holder;
mod memory;
mod open;
mod quikio;
mod request_ring;
mod sim;
mod uring;

pub use buffer::{Buffer, BufferAllocError, FOUR_KB_BLOCK, ONE_MEGABYTE_BLOCK, SharedBuffer};
pub use device::{Completion, Device, Geometry, Lane, Request, SubmitError};
pub use memory::{ReservingAllocator, give_large_allocations_back, keep_reserve, memory_is_short, try_copy, try_room};
pub use open::{Access, OpenError, open};
pub use quikio::{IoCounters, IoError, OwnCompletions, QuikIO, ReadDone, Write, WriteDone};
pub use sim::{SectorModel, SimDevice, SimFault, SimOp, SimOps};
pub use uring::UringDevice;
