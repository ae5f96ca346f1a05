//! Loads and ends of every sort, once more with requests over io_uring: nothing is lost, torn, doubled or out of its
//! writer's order.
#![allow(clippy::duplicate_mod, reason = "each is a program of its own elsewhere")]

#[path = "kill.rs"]
mod kill;
#[path = "load.rs"]
mod load;
mod support;

/// The writers' side of all of them.
#[test]
fn writer_process() {
    support::writer_process();
}
