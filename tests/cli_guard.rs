//! Nothing that somebody may still want is destroyed, changed or shown for what it is not, whatever a command is pointed at.
//!
//! It needs root, loop devices and /dev/fuse, and fails where it lacks them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod program;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::llamafs;
use tempfile::TempDir;

/// Where both superblocks and what is between them end.
const HEAD: usize = 128 << 10;

fn done(arguments: &[&str]) -> String {
    let output = llamafs(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of a failure of the program.
fn refused(arguments: &[&str]) -> String {
    program::refused(&llamafs(arguments))
}

/// A directory with a store in a file of 64 MiB, if it is made, and a mountpoint.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(directory.path().join("mnt")).unwrap();
        Self { directory }
    }

    fn formatted() -> Self {
        let place = Self::new();
        done(&["format", "--sparse", "--size", "64M", &place.at("store")]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn mount(&self) -> Mounted {
        self.mount_at("store", "mnt")
    }

    fn mount_at(&self, store: &str, point: &str) -> Mounted {
        let log = format!("log={}", self.at("daemon.log"));
        done(&["mount", "-o", &log, &self.at(store), &self.at(point)]);
        Mounted(self.at(point))
    }
}

/// A mount that is taken away whatever happens.
struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        if !llamafs(&["umount", &self.0]).status.success() {
            let _ = Command::new("umount").args(["-i", "-l", &self.0]).status();
        }
    }
}

/// A loop device over a file.
struct Loop(String);

impl Loop {
    fn over(path: &Path) -> Self {
        let output = Command::new("losetup").args(["-f", "--show"]).arg(path).output().unwrap();
        assert!(output.status.success(), "a loop device is needed, run as root: {output:?}");
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

fn wipe(path: &Path, from: u64, bytes: usize) {
    File::options().write(true).open(path).unwrap().write_all_at(&vec![0; bytes], from).unwrap();
}

#[test]
fn what_is_left_of_a_store_is_not_formatted_over_without_force() {
    // Superblocks alone; the checkpoints too; and the first mebibyte with all that is in it.
    for bytes in [HEAD, 1 << 20] {
        let place = Place::formatted();
        let mounted = place.mount();
        fs::write(place.path("mnt/precious"), "kept\n").unwrap();
        drop(mounted);
        wipe(&place.path("store"), 0, bytes);
        let store = place.at("store");
        let line = refused(&["status", &store]);
        assert!(line.contains("llamafs salvage"), "{line}");
        let device = Loop::over(&place.path("store"));
        for target in [&store, &device.0] {
            for command in ["format", "bench"] {
                let line = refused(&[command, target]);
                assert!(line.contains("left of a llamafs store") && line.contains("llamafs salvage"), "{line}");
                assert!(line.contains("--force"), "{line}");
            }
        }
        drop(device);
        llamafs(&["salvage", &store, &place.at("out")]);
        let kept = [place.path("out/logs/precious"), place.path("out/unnamed/2")];
        assert!(kept.iter().any(|path| fs::read(path).is_ok_and(|text| text == b"kept\n")), "{bytes}");
        done(&["format", "--sparse", "--force", &store]);
    }
}

#[test]
fn a_file_that_holds_data_anywhere_is_not_formatted_over_without_force() {
    for at in [HEAD as u64, 40 << 20, (64 << 20) - 5] {
        let place = Place::new();
        let file = File::create(place.path("store")).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"mine!", at).unwrap();
        for command in ["format", "bench"] {
            let line = refused(&[command, &place.at("store")]);
            assert!(line.contains("data") && line.contains("--force"), "{line}");
        }
        let mut there = [0; 5];
        File::open(place.path("store")).unwrap().read_exact_at(&mut there, at).unwrap();
        assert_eq!(&there, b"mine!");
    }
    // Zeros are nobody's, written or not.
    let place = Place::new();
    fs::write(place.path("store"), vec![0; 64 << 20]).unwrap();
    done(&["format", &place.at("store")]);
}

#[test]
fn a_format_that_is_refused_leaves_the_size_of_a_file_as_it_was() {
    let place = Place::formatted();
    let store = place.at("store");
    let bytes = || fs::metadata(place.path("store")).unwrap().len();
    let mounted = place.mount();
    assert!(refused(&["format", "--size", "1G", "--force", &store]).contains("busy"));
    assert_eq!(bytes(), 64 << 20);
    assert!(done(&["grow", &place.at("mnt")]).contains("nothing to do"));
    drop(mounted);
    for wrong in [&["--segment-size", "1000K"][..], &["--max-logs", "4194305"], &["--worm", "--retain-bytes", "1G"]] {
        refused(&[&["format", "--size", "1G", "--force", &store], wrong].concat());
        assert_eq!(bytes(), 64 << 20, "{wrong:?}");
    }
    done(&["check", &store]);
    // An empty file is a file too.
    File::create(place.path("empty")).unwrap();
    refused(&["format", "--size", "64K", &place.at("empty")]);
    assert_eq!(fs::metadata(place.path("empty")).unwrap().len(), 0);
    done(&["format", "--sparse", "--size", "64M", &place.at("empty")]);
}

#[test]
fn a_trim_stays_within_its_store() {
    let place = Place::formatted();
    done(&["format", "--sparse", "--size", "64M", &place.at("other")]);
    fs::create_dir(place.path("mnt2")).unwrap();
    let (_one, _two) = (place.mount(), place.mount_at("other", "mnt2"));
    fs::write(place.path("mnt2/mine"), "first\n").unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(place.path("mnt2/mine"))
        .and_then(|mut log| std::io::Write::write_all(&mut log, b"second\n"))
        .unwrap();
    for log in ["../mnt2/mine", "/../mnt2/mine"] {
        let line = refused(&["trim", &place.at("mnt"), log, "--keep", "1"]);
        assert!(line.contains("is no path within the store"), "{line}");
    }
    assert!(refused(&["trim", &place.at("mnt"), "/none", "--keep", "1"]).contains("No such file"));
    assert!(done(&["trim", &place.at("mnt2"), "/mine", "--keep", "1"]).contains("6 bytes let go"));
}

#[test]
fn a_dead_mount_is_called_one_by_trim_too() {
    let place = Place::formatted();
    let _mounted = place.mount();
    let status: serde_json::Value = serde_json::from_str(&done(&["status", "--json", &place.at("mnt")])).unwrap();
    let pid = status["pid"].to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    // The kernel lets go of the mount when the process has ended.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while fs::read_dir(place.path("mnt")).is_ok() {
        assert!(std::time::Instant::now() < until, "the daemon does not end");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let line = refused(&["trim", &place.at("mnt"), "/log", "--keep", "1"]);
    assert!(line.contains("the daemon of") && line.contains("is gone: run `llamafs umount"), "{line}");
    assert_eq!(line, refused(&["status", &place.at("mnt")]));
}

#[test]
fn no_name_of_a_log_forges_a_line_or_moves_the_cursor() {
    let place = Place::formatted();
    let name = "x\nlog 1\u{1b}[2J\u{1b}]0;owned\u{7}";
    let mounted = place.mount();
    fs::write(place.path("mnt").join(name), "two\n").unwrap();
    fs::write(place.path("mnt/März"), "three\n").unwrap();
    let shown = |text: &str| {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(!text.contains("\nlog 1"), "{text:?}");
    };
    shown(&done(&["status", &place.at("mnt")]));
    drop(mounted);
    let store = place.at("store");
    let text = done(&["status", &store]);
    shown(&text);
    assert!(text.contains(r"/x\nlog 1\u{1b}[2J") && text.contains("/März "), "{text}");
    // The bytes themselves are another matter.
    assert_eq!(done(&["cat", &store, name]), "two\n");
    let gone = format!("{name}.gone");
    shown(&refused(&["cat", &store, &gone]));
    shown(&refused(&["cat", &gone, "log"]));
    let json: serde_json::Value = serde_json::from_str(&done(&["status", "--json", &store])).unwrap();
    assert!(json["logs"].as_array().unwrap().iter().any(|log| log["name"] == format!("/{name}")));
    // The last record of it is damaged, which `check` tells by name.
    let bytes = fs::read(&store).unwrap();
    let at = bytes.windows(4).position(|four| four == b"two\n").unwrap();
    File::options().write(true).open(&store).unwrap().write_all_at(b"X", at as u64).unwrap();
    let output = llamafs(&["check", &store]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(4) && text.contains("lost: log"), "{output:?}");
    shown(&text);
    shown(&String::from_utf8_lossy(&llamafs(&["cat", &store, name]).stderr));
    shown(&String::from_utf8_lossy(&llamafs(&["salvage", &store, &place.at("out")]).stdout));
}

#[test]
fn a_log_that_nobody_reads_or_that_is_the_store_is_refused() {
    let place = Place::formatted();
    let (store, point) = (place.at("store"), place.at("mnt"));
    nix::unistd::mkfifo(&place.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let log = format!("log={}", place.at("pipe"));
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "20", env!("CARGO_BIN_EXE_llamafs"), "mount", "-o", &log, &store, &point]);
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && err.contains("nobody reads this pipe"), "{output:?}");
    fs::hard_link(place.path("store"), place.path("link")).unwrap();
    let before = fs::read(&store).unwrap();
    for name in ["store", "link"] {
        let line = refused(&["mount", "-o", &format!("log={}", place.at(name)), &store, &point]);
        assert!(line.contains("names the store itself"), "{line}");
    }
    assert!(fs::read(&store).unwrap() == before, "it was written to");
    let new = place.at("new");
    refused(&["mount", "--create", "64M", "-o", &format!("log={new}"), &new, &point]);
    assert!(!place.path("new").exists());
}

#[test]
fn the_helper_of_mkfs_takes_every_option_of_format_with_its_value() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-scripts/mkfs.llamafs");
    let help = done(&["format", "--help"]);
    let options: Vec<&str> = help
        .lines()
        .filter_map(|line| line.trim().split_once(" <").map(|(option, _)| option))
        .filter(|option| option.starts_with("--"))
        .collect();
    assert!(options.len() >= 10, "{help}");
    for option in options {
        let mut helper = Command::new("sh");
        let output = helper.arg(&script).args(["-n", "-v", option, "VALUE", "DEVICE", "1G"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.trim(), format!("mkfs.llamafs: llamafs format {option} VALUE --size 1G -- DEVICE"));
    }
}

#[test]
fn a_salvage_that_finds_nothing_leaves_nothing() {
    let place = Place::new();
    File::create(place.path("store")).unwrap().set_len(64 << 20).unwrap();
    let entries = |name: &str| fs::read_dir(place.path(name)).unwrap().count();
    for _ in 0..2 {
        refused(&["salvage", &place.at("store"), &place.at("out")]);
        assert!(!place.path("out").exists());
    }
    fs::create_dir(place.path("there")).unwrap();
    for _ in 0..2 {
        let line = refused(&["salvage", &place.at("store"), &place.at("there")]);
        assert!(!line.contains("not empty") && entries("there") == 0, "{line}");
    }
    // Somebody else's directory is not touched.
    fs::create_dir_all(place.path("full/logs")).unwrap();
    refused(&["salvage", &place.at("store"), &place.at("full")]);
    assert_eq!(entries("full"), 1);
}

#[test]
fn a_grow_that_is_too_large_tells_how_far_it_can() {
    let place = Place::new();
    let store = place.at("store");
    done(&["format", "--sparse", "--size", "64M", "--max-logs", "1", &store]);
    let set_len = |bytes: u64| File::options().write(true).open(&store).unwrap().set_len(bytes).unwrap();
    set_len(8 << 40);
    let line = refused(&["grow", &store]);
    let figure = |text: &str, before: &str| -> u64 {
        let rest = text.split_once(before).unwrap_or_else(|| panic!("no `{before}` in {text}")).1;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let most = figure(&line, "it can grow to at most ");
    let bytes = figure(&line, "give the device ");
    // Mounted, the daemon's log says the same.
    let mounted = place.mount();
    let said = refused(&["grow", &place.at("mnt")]);
    assert!(said.contains("the daemon's log") && said.contains("llamafs grow"), "{said}");
    // Its last lines are written when the daemon is gone.
    drop(mounted);
    let log = fs::read_to_string(place.path("daemon.log")).unwrap();
    assert_eq!(figure(&log, "it can grow to at most "), most);
    // One segment more is too much, and so far it goes.
    set_len(bytes + (4 << 20));
    assert!(refused(&["grow", &store]).contains(&format!("at most {most}:")));
    set_len(bytes);
    assert!(done(&["grow", &store]).contains(&format!("to {most} segments")));
    set_len(8 << 40);
    assert!(refused(&["grow", &store]).contains("as many as it can have"));
    done(&["check", &store]);
}

#[test]
fn a_sparse_format_of_a_large_file_writes_no_more_than_it_has_to() {
    let place = Place::new();
    let store = place.at("store");
    done(&["format", "--sparse", "--size", "2G", "--max-logs", "1", "--segment-size", "2M", &store]);
    let used = || std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&store).unwrap()) * 512;
    assert!(used() < 4 << 20, "{} bytes", used());
    // What lies where a segment begins goes all the same.
    let file = File::options().read(true).write(true).open(&store).unwrap();
    let at = (2 << 30) - (2 << 20);
    file.write_all_at(&[7; 4 << 20], at - (2 << 20)).unwrap();
    file.set_len(2 << 30).unwrap();
    done(&["format", "--sparse", "--force", "--max-logs", "1", "--segment-size", "2M", &store]);
    let mut there = vec![0; 4 << 20];
    file.read_exact_at(&mut there, at - (2 << 20)).unwrap();
    let zeros = there.chunks(4096).filter(|block| block.iter().all(|byte| *byte == 0)).count();
    assert!((1..=2).contains(&zeros), "a segment begins with a block of zeros, and the rest is left: {zeros}");
}

#[test]
fn a_path_in_a_mounted_store_is_called_one() {
    let place = Place::formatted();
    let _mounted = place.mount();
    fs::create_dir(place.path("mnt/sub")).unwrap();
    fs::create_dir(place.path("mnt2")).unwrap();
    let (log, out, point) = (place.at("mnt/log"), place.at("out"), place.at("mnt2"));
    let commands: [&[&str]; 9] = [
        &["status", &log],
        &["status", &place.at("mnt/sub")],
        &["check", &log],
        &["dump", &log],
        &["cat", &log, "/log"],
        &["salvage", &log, &out],
        &["grow", &log],
        &["format", "--force", &log],
        &["mount", "-o", &format!("log={}", place.at("daemon.log")), &log, &point],
    ];
    for command in commands {
        let line = refused(command);
        assert!(line.contains(&format!("mounted on {}: name the mountpoint", place.at("mnt"))), "{command:?}: {line}");
        assert!(line.contains(&place.at("store")), "{command:?}: {line}");
    }
    assert_eq!(fs::read(&log).unwrap(), b"");
    done(&["status", &place.at("mnt")]);
}

#[test]
fn a_size_that_cannot_be_is_told_with_the_least_that_can() {
    let place = Place::new();
    let store = place.at("store");
    let figure = |text: &str, before: &str| -> u64 {
        let rest = text.split_once(before).unwrap_or_else(|| panic!("no `{before}` in {text}")).1;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    for size in ["0", "1", "5000", "1M"] {
        let line = refused(&["format", "--size", size, &store]);
        assert!(line.contains("a size of") && !line.contains("truncate"), "{line}");
        assert!(!place.path("store").exists());
        let least = figure(&line, "at least ").to_string();
        done(&["format", "--sparse", "--size", &least, &store]);
        fs::remove_file(&store).unwrap();
    }
    for size in ["0", "4K", "1000K", "1000001"] {
        let line = refused(&["format", "--size", "64M", "--segment-size", size, &store]);
        let least = figure(&line, "at least ");
        assert_eq!(least % 4096, 0, "{line}");
        done(&["format", "--sparse", "--size", "64M", "--segment-size", &least.to_string(), &store]);
        fs::remove_file(&store).unwrap();
    }
    let label = "l".repeat(64);
    done(&["format", "--sparse", "--size", "64M", "--label", &label, &store]);
    assert!(done(&["status", &store]).contains(&label));
    assert!(refused(&["format", "--force", "--label", &format!("{label}l"), &store]).contains("up to 64 bytes"));
}

#[test]
fn a_dump_of_a_log_that_there_is_not_says_so() {
    let place = Place::formatted();
    let mounted = place.mount();
    fs::write(place.path("mnt/mine"), "kept\n").unwrap();
    let live: serde_json::Value = serde_json::from_str(&done(&["status", "--json", &place.at("mnt")])).unwrap();
    drop(mounted);
    let store = place.at("store");
    let json: serde_json::Value = serde_json::from_str(&done(&["status", "--json", &store])).unwrap();
    let id = |of: &serde_json::Value, name: &str| {
        let logs = of["logs"].as_array().unwrap();
        logs.iter().find(|log| log["name"] == name).unwrap_or_else(|| panic!("no {name} in {of}"))["id"].to_string()
    };
    let mine = id(&json, "/mine");
    assert_eq!(mine, id(&live, "mine"));
    assert_eq!((&json["state"], &json["mounted"]), (&"clean".into(), &false.into()));
    assert_eq!((&live["state"], &live["mounted"]), (&"rw".into(), &serde_json::Value::Null));
    assert!(done(&["dump", "--log", &mine, &store]).contains("DATA"));
    let output = llamafs(&["dump", "--log", "99", &store]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("no log has the id 99"), "{output:?}");
    done(&["dump", &store]);
}
