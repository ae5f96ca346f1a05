//! FUSE over io_uring is for whoever administers the machine to allow: it is allowed while a mount is made.

use std::fs::File;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

const ENABLE: &str = "/sys/module/fuse/parameters/enable_uring";

/// The programs of this name hold every promise once more, with requests over io_uring.
pub const URING: bool =
    matches!(env!("CARGO_CRATE_NAME").as_bytes(), [b'f', b's', b'_', b'u', b'r', b'i', b'n', b'g', ..]);

/// This kernel has it. Older ones (before Linux 6.14) serve the same tests by `/dev/fuse`, and say that they have not.
pub fn is_there() -> bool {
    Path::new(ENABLE).exists()
}

/// Mount while it is allowed, if this program wants it.
pub fn allowed<T>(mount: impl FnOnce() -> T) -> T {
    if URING && is_there() { set("Y", mount) } else { mount() }
}

/// Mount while it is allowed (`Y`) or not (`N`).
pub fn set<T>(value: &str, mount: impl FnOnce() -> T) -> T {
    // One program may have this file several times: so no static decides whose turn it is.
    let turn = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("uring.turn")).unwrap();
    let _turn = Flock::lock(turn, FlockArg::LockExclusive).unwrap();
    let before = Restore(std::fs::read_to_string(ENABLE).unwrap());
    std::fs::write(ENABLE, value).unwrap_or_else(|error| panic!("{ENABLE}: {error}: run as root"));
    let mounted = mount();
    drop(before);
    mounted
}

/// What was set before, also when a mount fails.
struct Restore(String);

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = std::fs::write(ENABLE, self.0.trim());
    }
}
