//! The promises of a mount, once more with requests over io_uring: all of them are the same.
#![allow(clippy::duplicate_mod, reason = "each is a program of its own elsewhere")]

#[path = "fs_bounds.rs"]
mod bounds;
#[path = "fs_catalog.rs"]
mod catalog;
#[path = "fs_mount.rs"]
mod mount;
#[path = "fs_reading.rs"]
mod reading;
#[path = "fs_rules.rs"]
mod rules;
#[path = "fs_views.rs"]
mod views;
