//! llamafs: append-only logs on a raw block device, staged through LLAMA's latch-free flush ring.
//!
//! The rooms, from the top: [`cli`], [`fuse`], [`fs`], [`store`], [`ring`], [`io`], [`mod@format`], `sync`. A room imports only
//! from rooms below it. `docs/architecture.md` shows the way of a write through them.
#![deny(unsafe_code)]

pub mod cli;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod io;
pub mod ring;
pub mod store;
mod sync;
