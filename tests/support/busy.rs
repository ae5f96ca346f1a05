//! An unmount that waits for programs which another test has just started: each has every file that is open here until its
//! exec.

use std::process::Output;
use std::time::{Duration, Instant};

/// The longest that anybody may keep a mount busy so.
const LIMIT: Duration = Duration::from_secs(10);

/// Run `umount` until it succeeds; whatever it says but that the mount is busy is a failure.
pub fn unmount(umount: impl Fn() -> Output) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let output = umount();
        if output.status.success() {
            return;
        }
        let busy = String::from_utf8_lossy(&output.stderr).contains("busy");
        assert!(busy && Instant::now() < deadline, "{output:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
