//! LLAMA's latch-free flush ring: appenders claim bytes of one buffer by one atomic step while others are flushed.
//!
//! An append claims its bytes and pins the buffer by one exchange of the state word, copies, and gives its pin back.
//! Whoever finds the buffer full seals it, has the [`Stage`] place the next filling, and opens the next buffer.
//! Whoever makes "sealed and no writers" true hands the buffer to the stage, once; the stage has it written and
//! recycles it.
//!
//! - [`state`]: the state word
//! - `flush_buffer`: FlushBuffer, every change of the word
//! - `ring`: FlushBufferRing, the way of an append
//! - `rotation`: sealing, placing, opening, recycling; what is done under the rotation lock
//! - `queries`: reading staged bytes, LSNs, states; these change nothing
//! - `reservation`: Reservation, the claimed bytes
//! - `stage`: what the ring asks of the store behind it
//! - `sync`: the primitives, real ones or loom's
//!
//! The ring knows nothing of frames or devices. Its eight promises are tests in `tests/rules.rs`, its memory orderings are
//! checked by `tests/loom_ring.rs`, its endurance by `benches/ring_stress.rs`.
#![allow(unsafe_code)]

mod flush_buffer;
mod queries;
mod reservation;
#[expect(clippy::module_inception, reason = "the ring's main file is named after it")]
mod ring;
mod rotation;
mod stage;
pub mod state;
mod sync;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

pub use flush_buffer::{BufferError, BufferMsg, FlushBuffer};
pub use queries::SlotState;
pub use reservation::Reservation;
pub use ring::{FlushBufferRing, MAX_RING_SIZE, MIN_RING_SIZE, RING_SIZE, ReserveError};
pub use stage::{FillInfo, Placement, SealedFill, Stage, Why};
