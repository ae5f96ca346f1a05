//! The fuzz targets' bodies over their kept corpus: what a fuzzer once found stays found, on stable Rust.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "a test may panic")]

use std::path::Path;

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

/// Runs `body` on every file of its corpus; there must be some.
fn replay(target: &str, body: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the corpus of {target} is gone");
    for file in files {
        let data = std::fs::read(&file).unwrap();
        let outcome = std::panic::catch_unwind(|| body(&data));
        assert!(outcome.is_ok(), "{}", file.display());
    }
}

#[test]
fn decoders_take_any_bytes() {
    replay("decoders", bodies::decoders::run);
}

#[test]
fn recovery_takes_any_image() {
    replay("recovery", bodies::recovery::run);
}

#[test]
fn requests_and_options_take_any_argument() {
    replay("control", bodies::control::run);
}
