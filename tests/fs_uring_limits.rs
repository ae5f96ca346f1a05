//! The limits of a mount, and a daemon without memory or privilege, once more with requests over io_uring.
//!
//! `make limits` runs it, the gate does not: where a kernel's side of it should hang, nothing that was started by the gate
//! could be ended.
#![allow(clippy::duplicate_mod, reason = "each is a program of its own elsewhere")]

#[path = "real_limits.rs"]
mod limits;
#[path = "real_memory.rs"]
mod memory;
mod support;
#[path = "real_user.rs"]
mod user;

/// A flooder's side.
#[test]
fn flood_process() {
    limits::flood();
}
