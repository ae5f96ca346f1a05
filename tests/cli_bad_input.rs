//! Every row of bad input: an exit status that is not 0, exactly one line on stderr, and not a byte of the device
//! changed.
//!
//! It needs root, loop devices and /dev/fuse, and fails where it lacks them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod program;

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use program::{llamafs, refused};
use tempfile::TempDir;

/// Second copy of the superblock.
const SECOND_COPY: u64 = 65536;
/// `nobody`, or at least nobody's.
const NOBODY: &str = "65534";

fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(name).args(arguments).env("PATH", path).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn root() -> bool {
    tool("id", &["-u"]).as_deref() == Some("0")
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut file = File::open(path).unwrap();
    let mut piece = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut piece).unwrap();
        if count == 0 {
            return hasher.finish();
        }
        piece[..count].hash(&mut hasher);
    }
}

/// A store in a file, and an empty directory to mount it on.
struct Place {
    directory: TempDir,
    store: PathBuf,
    mountpoint: PathBuf,
}

impl Place {
    /// Nothing but names.
    fn empty() -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store = directory.path().join("store");
        let mountpoint = directory.path().join("mnt");
        fs::create_dir(&mountpoint).unwrap();
        Self { directory, store, mountpoint }
    }

    /// With a new store.
    fn formatted() -> Self {
        let place = Self::empty();
        let output = llamafs(&["format", "--sparse", "--size", "64M", place.store()]);
        assert!(output.status.success(), "{output:?}");
        place
    }

    fn store(&self) -> &str {
        self.store.to_str().unwrap()
    }

    fn mountpoint(&self) -> &str {
        self.mountpoint.to_str().unwrap()
    }

    fn options(&self) -> String {
        format!("log={}", self.directory.path().join("log").display())
    }

    fn mount(&self) -> Output {
        llamafs(&["mount", "-o", &self.options(), self.store(), self.mountpoint()])
    }

    fn umount(&self) {
        let output = llamafs(&["umount", self.mountpoint()]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Every command that opens a store refuses this one, and leaves it as it is.
    fn refused_by_all(&self, word: &str) {
        let before = hash(&self.store);
        let store = self.store();
        let commands: [&[&str]; 5] = [
            &["mount", "-o", &self.options(), store, self.mountpoint()],
            &["status", store],
            &["check", store],
            &["dump", store],
            &["cat", store, "/log"],
        ];
        for command in commands {
            let output = llamafs(command);
            let line = refused(&output);
            assert!(line.contains(store) && line.contains(word), "{command:?}: {line}");
            if command[0] == "check" {
                assert_eq!(output.status.code(), Some(8), "{line}");
            }
            assert_eq!(hash(&self.store), before, "{command:?} wrote to it");
        }
    }

    /// Writes bytes over the store.
    fn patch(&self, offset: u64, bytes: &[u8]) {
        File::options().write(true).open(&self.store).unwrap().write_all_at(bytes, offset).unwrap();
    }
}

/// A mount that is taken away whatever happens.
struct Mounted<'a>(&'a Place);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = llamafs(&["umount", self.0.mountpoint()]);
    }
}

#[test]
fn what_is_no_store_is_refused() {
    let place = Place::empty();
    let text = "not a store at all\n".repeat(200_000);
    fs::write(&place.store, &text[..text.len() / 4096 * 4096]).unwrap();
    place.refused_by_all("not");
    let file = File::create(&place.store).unwrap();
    file.set_len(64 << 20).unwrap();
    place.refused_by_all("not");
    for bytes in [0, 5] {
        file.set_len(bytes).unwrap();
        place.refused_by_all(&format!("has {bytes} bytes"));
    }
}

#[test]
fn what_is_not_there_is_refused() {
    let place = Place::empty();
    for command in [&["status"][..], &["check"], &["dump"], &["format"]] {
        let line = refused(&llamafs(&[command, &["/nowhere/store"]].concat()));
        assert!(line.contains("/nowhere/store"), "{line}");
    }
    refused(&llamafs(&["cat", "/nowhere/store", "/log"]));
    refused(&llamafs(&["mount", "-o", &place.options(), "/nowhere/store", place.mountpoint()]));
    refused(&llamafs(&["umount", place.mountpoint()]));
    refused(&llamafs(&["status", place.mountpoint()]));
}

#[test]
fn another_file_systems_signature_is_refused_without_force() {
    let place = Place::empty();
    File::create(&place.store).unwrap().set_len(64 << 20).unwrap();
    if tool("mkfs.ext4", &["-q", "-F", place.store()]).is_none() {
        place.patch(1024 + 56, b"\x53\xef");
    }
    let before = hash(&place.store);
    let line = refused(&llamafs(&["format", place.store()]));
    assert!(line.contains("ext4") && line.contains("--force"), "{line}");
    assert_eq!(hash(&place.store), before);
    place.refused_by_all("");
    let output = llamafs(&["format", "--sparse", "--force", place.store()]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn an_existing_store_is_not_formatted_again_without_force() {
    let place = Place::formatted();
    let before = hash(&place.store);
    let line = refused(&llamafs(&["format", place.store()]));
    assert!(line.contains("llamafs store") && line.contains("--force"), "{line}");
    refused(&llamafs(&["format", "--size", "128M", place.store()]));
    assert_eq!(hash(&place.store), before);
    assert!(llamafs(&["format", "--sparse", "--force", place.store()]).status.success());
}

#[test]
fn a_truncated_image_is_refused() {
    let place = Place::formatted();
    File::options().write(true).open(&place.store).unwrap().set_len(32 << 20).unwrap();
    place.refused_by_all("");
}

#[test]
fn a_newer_format_version_is_refused() {
    // A newer llamafs writes a checksum that holds for its version; one changed byte alone would be damage.
    let place = Place::formatted();
    for copy in [0, SECOND_COPY] {
        let mut block = vec![0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(&place.store).unwrap(), &mut block, copy).unwrap();
        block[8..16].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
        let checksum = crc32c::crc32c(&block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
        place.patch(copy, &block);
    }
    place.refused_by_all("version");
}

#[test]
fn one_damaged_superblock_is_made_up_for_by_the_other_and_it_is_said() {
    for copy in [0, SECOND_COPY] {
        let place = Place::formatted();
        place.patch(copy + 40, b"DAMAGE");
        for command in [&["status", place.store()][..], &["cat", place.store(), "/log"], &["dump", place.store()]] {
            let output = llamafs(command);
            let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("superblock"), "{command:?}: {output:?}");
        }
        let output = place.mount();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("superblock"), "{output:?}");
        place.umount();
    }
}

#[test]
fn two_damaged_superblocks_are_refused() {
    let place = Place::formatted();
    for copy in [0, SECOND_COPY] {
        place.patch(copy + 40, b"DAMAGE");
    }
    place.refused_by_all("superblock");
}

#[test]
fn a_second_mount_is_refused_and_names_the_holder() {
    let place = Place::formatted();
    let output = place.mount();
    assert!(output.status.success(), "{output:?}");
    let _mounted = Mounted(&place);
    let other = place.directory.path().join("other");
    fs::create_dir(&other).unwrap();
    let line = refused(&llamafs(&["mount", "-o", &place.options(), place.store(), other.to_str().unwrap()]));
    assert!(line.contains("busy") && line.contains("llamafs (process "), "{line}");
    let line = refused(&llamafs(&["check", place.store()]));
    assert!(line.contains("busy"), "{line}");
    refused(&llamafs(&["format", "--force", place.store()]));
}

#[test]
fn a_missing_mountpoint_is_refused() {
    let place = Place::formatted();
    let before = hash(&place.store);
    let line = refused(&llamafs(&["mount", "-o", &place.options(), place.store(), "/nowhere/mnt"]));
    assert!(line.contains("/nowhere/mnt does not exist"), "{line}");
    let line = refused(&llamafs(&["mount", "-o", &place.options(), place.store(), place.store()]));
    assert!(line.contains("not a directory"), "{line}");
    assert_eq!(hash(&place.store), before);
}

#[test]
fn a_busy_mountpoint_is_refused() {
    let place = Place::formatted();
    let before = hash(&place.store);
    let line = refused(&llamafs(&["mount", "-o", &place.options(), place.store(), "/proc"]));
    assert!(line.contains("/proc is busy"), "{line}");
    assert_eq!(hash(&place.store), before);
}

#[test]
fn a_busy_mount_is_not_unmounted() {
    let place = Place::formatted();
    assert!(place.mount().status.success());
    let mounted = Mounted(&place);
    let open = File::open(place.mountpoint.join("log")).unwrap();
    let line = refused(&llamafs(&["umount", place.mountpoint()]));
    assert!(line.contains("busy"), "{line}");
    drop(open);
    drop(mounted);
    assert!(!place.mountpoint.join(".llamafs").exists());
}

#[test]
fn a_read_only_device_is_refused() {
    let place = Place::formatted();
    let device = tool("losetup", &["-r", "-f", "--show", place.store()]).expect("a loop device; run as root");
    let before = hash(&place.store);
    let mounting = llamafs(&["mount", "-o", &place.options(), &device, place.mountpoint()]);
    let formatting = llamafs(&["format", "--force", &device]);
    tool("losetup", &["-d", &device]);
    for output in [mounting, formatting] {
        let line = refused(&output);
        assert!(line.contains("read-only"), "{line}");
    }
    assert_eq!(hash(&place.store), before);
}

#[test]
fn too_small_a_device_is_refused() {
    let place = Place::empty();
    let line = refused(&llamafs(&["format", "--size", "64K", place.store()]));
    assert!(line.contains("small"), "{line}");
    assert!(!place.store.exists(), "half a store was left behind");
    File::create(&place.store).unwrap().set_len(65536).unwrap();
    let before = hash(&place.store);
    refused(&llamafs(&["format", place.store()]));
    assert_eq!(hash(&place.store), before);
}

#[test]
fn a_file_system_without_direct_io_is_refused() {
    let place = Place::empty();
    let ramfs = place.directory.path().join("ramfs");
    fs::create_dir(&ramfs).unwrap();
    let ramfs_name = ramfs.to_str().unwrap();
    tool("mount", &["-t", "ramfs", "ramfs", ramfs_name]).expect("a ramfs; run as root");
    let store = ramfs.join("store");
    let output = llamafs(&["format", "--size", "64M", store.to_str().unwrap()]);
    let left = store.exists();
    tool("umount", &[ramfs_name]);
    let line = refused(&output);
    assert!(line.contains("O_DIRECT"), "{line}");
    assert!(!left, "a half made file was left behind");
}

#[test]
fn an_unknown_mount_option_is_refused() {
    let place = Place::formatted();
    let before = hash(&place.store);
    let output = llamafs(&["mount", "-o", "rw,frobnicate,flush_ms=20", place.store(), place.mountpoint()]);
    let line = refused(&output);
    assert!(line.contains("`frobnicate`") && output.status.code() == Some(2), "{line}");
    for option in ["flush_ms=0", "tail=long", "errors=panic", "ring_size=1000", "buffer_size=1"] {
        let line = refused(&llamafs(&["mount", "-o", option, place.store(), place.mountpoint()]));
        assert!(line.contains(option), "{line}");
    }
    let large = "ring_size=17,buffer_size=256M";
    let line = refused(&llamafs(&["mount", "-o", large, place.store(), place.mountpoint()]));
    assert!(line.contains("ring_size=17") && line.contains("4 GiB"), "{line}");
    assert_eq!(hash(&place.store), before);
}

#[test]
fn who_has_no_permission_is_refused() {
    assert!(root(), "only root can become another user: run as root");
    // Where another user can reach it, program included.
    let directory = TempDir::new_in("/tmp").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("llamafs");
    fs::copy(env!("CARGO_BIN_EXE_llamafs"), &program).unwrap();
    let store = directory.path().join("store");
    let mountpoint = directory.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let output = llamafs(&["format", "--sparse", "--size", "64M", store.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    fs::set_permissions(&store, fs::Permissions::from_mode(0o600)).unwrap();
    let before = hash(&store);
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(&program).args(arguments);
        command.env("HOME", directory.path()).output().unwrap()
    };
    let (store_name, mountpoint_name) = (store.to_str().unwrap(), mountpoint.to_str().unwrap());
    for command in [&["format", "--force", store_name][..], &["check", store_name], &["cat", store_name, "/log"]] {
        let line = refused(&nobody(command));
        assert!(line.to_lowercase().contains("permission"), "{line}");
    }
    let line = refused(&nobody(&["mount", store_name, mountpoint_name]));
    assert!(line.contains("permission"), "{line}");
    assert_eq!(hash(&store), before);
}

#[test]
fn wrong_calls_are_told_in_one_line() {
    let calls: [&[&str]; 5] =
        [&["frobnicate"], &["mount", "x"], &["format", "--size", "many", "x"], &["umount"], &["cat", "x"]];
    for call in calls {
        let output = llamafs(call);
        refused(&output);
        assert_eq!(output.status.code(), Some(2), "{call:?}");
    }
    let output = llamafs(&["check"]);
    refused(&output);
    assert_eq!(output.status.code(), Some(16), "fsck's code of a wrong call");
}
