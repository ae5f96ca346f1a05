//! What each fuzz target does with its input: plain functions of bytes, which panic where a promise is broken.
//!
//! They are here, beside the targets, and not in them, so that `tests/fuzz_corpus.rs` replays the kept corpus through
//! the very same functions on stable Rust.

pub mod control;
pub mod decoders;
pub mod forge;
pub mod guard;
pub mod images;
pub mod input;
pub mod patch;
pub mod recovery;
