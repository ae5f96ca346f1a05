//! The program as a person runs it, and what a refusal looks like: shared by the tests of its commands.
#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::process::{Command, Output};

/// Runs it.
pub fn llamafs(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llamafs")).args(arguments).output().unwrap()
}

/// The one line of a failure.
pub fn refused(output: &Output) -> String {
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it was not refused: {output:?}");
    assert!(output.status.code().is_some(), "it was killed: {output:?}");
    assert!(err.starts_with("llamafs: "), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.ends_with('\n') && !err.contains("panicked"), "{err}");
    err
}
