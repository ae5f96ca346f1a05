//! The promises of a mount, once more with `-o parallel`: what is not in docs/semantics.md as a difference is the same.
#![allow(clippy::duplicate_mod, reason = "each is a program of its own elsewhere")]

#[path = "fs_bounds.rs"]
mod bounds;
#[path = "fs_catalog.rs"]
mod catalog;
#[path = "fs_mount.rs"]
mod mount;
#[path = "fs_reading.rs"]
mod reading;
#[path = "fs_retention.rs"]
mod retention;
#[path = "fs_rules.rs"]
mod rules;
#[path = "fs_views.rs"]
mod views;
