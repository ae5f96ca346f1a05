//! The commands on a store with directories: format, mount, status, cat, check, dump.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod program;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use program::llamafs;

fn done(arguments: &[&str]) -> String {
    let output = llamafs(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(arguments: &[&str]) -> String {
    program::refused(&llamafs(arguments))
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Unmounts also when the test fails.
struct Mounted<'a>(&'a str);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", self.0]).output();
    }
}

#[test]
fn a_store_with_directories_is_made_mounted_looked_into_and_checked() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (device, mountpoint) = (directory.path().join("store"), directory.path().join("mnt"));
    std::fs::create_dir(&mountpoint).unwrap();
    let (device, mnt) = (device.to_str().unwrap(), mountpoint.to_str().unwrap());
    done(&["format", "--size", "64M", "--sparse", "--worm", "--max-logs", "300", device]);
    let log = format!("log={}", directory.path().join("daemon.log").display());
    done(&["mount", "-o", &log, device, mnt]);
    let mounted = Mounted(mnt);
    std::fs::create_dir_all(mountpoint.join("web/eu")).unwrap();
    append(&mountpoint.join("web/eu/access"), "hit\n");
    for number in 0..200 {
        append(&mountpoint.join(format!("web/log{number}")), "x");
    }
    assert_eq!(std::fs::remove_file(mountpoint.join("log")).unwrap_err().raw_os_error(), Some(libc::EPERM));
    let status = done(&["status", mnt]);
    assert!(status.contains("\nlogs_total: 202\n") && status.contains("\nworm: true\n"), "{status}");
    assert!(status.contains("log.web/eu/access.size: 4\n"), "{status}");
    let shown =
        |status: &str| status.lines().filter(|line| line.ends_with("mode: 0644") && line.starts_with("log.")).count();
    assert_eq!(shown(&status), 100);
    done(&["umount", mnt]);
    drop(mounted);

    assert_eq!(done(&["cat", device, "web/eu/access"]), "hit\n");
    assert_eq!(done(&["cat", device, "/web/eu/access"]), "hit\n");
    for path in ["access", "web", "web/eu", "web/eu/access/", "/web//eu", "eu/access", "/"] {
        assert!(refused(&["cat", device, path]).contains("status"), "{path}");
    }
    let status = done(&["status", device]);
    assert!(status.contains("202 in 3 directories") && status.contains("/web/eu/access 4 (4 B)"), "{status}");
    assert_eq!(status.lines().filter(|line| line.starts_with("log ")).count(), 100, "{status}");
    let all: serde_json::Value = serde_json::from_str(&done(&["status", "--json", device])).unwrap();
    assert_eq!(all["logs"].as_array().unwrap().len(), 202);
    assert!(done(&["check", device]).contains("clean"));
    let frames = done(&["dump", "--log", "4", device]);
    assert!(frames.contains(" META ") && frames.contains(" DATA "), "{frames}");
}

#[test]
fn a_number_of_logs_that_cannot_be_is_refused() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let device = directory.path().join("store");
    for number in ["0", "4194305", "18446744073709551615"] {
        let text = refused(&["format", "--size", "64M", "--sparse", "--max-logs", number, device.to_str().unwrap()]);
        assert!(text.contains("1 to 4194304"), "{text}");
        assert!(!device.exists(), "nothing half made");
    }
    let text = refused(&["format", "--size", "64M", "--sparse", "--max-logs", "4194304", device.to_str().unwrap()]);
    assert!(text.contains("too small"), "{text}");
}
