//! `make demo` does what it says, on this machine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::process::Command;

#[test]
fn the_demo_ends_in_ok() {
    let output = Command::new("tests/demo.sh")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("LLAMAFS_BIN", env!("CARGO_BIN_EXE_llamafs"))
        .env("LLAMAFS_DEMO_LINES", "500")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.lines().last(), Some("demo: OK"), "{out}\n{err}");
    assert!(out.contains("programs append at once"), "{out}");
}
