//! `check`, `check --repair`, fsck(8)'s helper and `salvage` on a store in a file, by their exit codes and what they write.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use llamafs::format::{NodeKind, ROOT_ID};
use llamafs::io::{Access, open};
use llamafs::store::{Change, LogStructuredStore, StoreOptions};

const SECOND_COPY: u64 = 65_536;
const LOG: u32 = 1;
const RECORDS: usize = 200;

fn llamafs(arguments: &[&str], path: &Path) -> Output {
    let program = env!("CARGO_BIN_EXE_llamafs");
    Command::new(program).args(&arguments[..1]).arg(path).args(&arguments[1..]).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("killed: {output:?}"))
}

/// A clean store in a file, and what its log holds.
fn made(dir: &Path) -> (PathBuf, Vec<u8>) {
    let path = dir.join("store");
    let out = llamafs(&["format", "--size", "64M", "--sparse"], &path);
    assert!(out.status.success(), "{out:?}");
    let device = Arc::new(open(&path, Access::ReadWrite).unwrap());
    let store = LogStructuredStore::open(device, StoreOptions::default()).unwrap();
    store.start();
    let mut log = Vec::new();
    for number in 0..RECORDS {
        let line = format!("record {number} {}\n", "x".repeat(number % 90));
        store.append(LOG, line.as_bytes()).unwrap();
        log.extend_from_slice(line.as_bytes());
    }
    store.close().unwrap();
    (path, log)
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Device offset of the payload of a record.
fn record(path: &Path, number: usize) -> u64 {
    let out = llamafs(&["dump", "--json"], path);
    let frames: Vec<serde_json::Value> = serde_json::from_slice(&out.stdout).unwrap();
    let data: Vec<_> = frames.into_iter().filter(|frame| frame["kind"] == "DATA").collect();
    data[number]["device_offset"].as_u64().unwrap() + 32
}

#[test]
fn check_repair_and_salvage_answer_with_their_codes() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, log) = made(dir.path());
    let out = dir.path().join("out");
    let salvage = |to: &str| llamafs(&["salvage", dir.path().join(to).to_str().unwrap()], &path);
    assert_eq!(code(&llamafs(&["check"], &path)), 0);
    assert_eq!(code(&llamafs(&["check", "--repair"], &path)), 0, "nothing to repair");
    // One superblock: an error, and repaired once.
    flip(&path, 40);
    let told = llamafs(&["check"], &path);
    assert_eq!(code(&told), 4, "{told:?}");
    assert!(String::from_utf8_lossy(&told.stdout).contains("superblock A"), "{told:?}");
    let fsck = |flag: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-scripts/fsck.llamafs");
        let program = Path::new(env!("CARGO_BIN_EXE_llamafs")).parent().unwrap();
        let path_variable = format!("{}:/usr/bin:/bin", program.display());
        Command::new("sh").arg(script).arg(flag).arg(&path).env("PATH", path_variable).output().unwrap()
    };
    assert_eq!(code(&fsck("-n")), 4, "fsck -n writes nothing");
    assert_eq!(code(&fsck("-p")), 1);
    assert_eq!(code(&llamafs(&["check"], &path)), 0);
    // A record: nothing to repair, the rest is salvaged.
    let bytes = fs::read(&path).unwrap();
    flip(&path, record(&path, 57));
    assert_eq!(code(&llamafs(&["check"], &path)), 4);
    assert_eq!(code(&llamafs(&["check", "--repair"], &path)), 4);
    let told: serde_json::Value = serde_json::from_slice(&llamafs(&["check", "--json"], &path).stdout).unwrap();
    assert_eq!(told["damage"][0]["lost"][0]["name"], "/log", "{told}");
    let got = salvage("out");
    assert_eq!(code(&got), 1, "{got:?}");
    let gaps: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(out.join("gaps.json")).unwrap()).unwrap();
    let (offset, len) = (gaps[0]["offset"].as_u64().unwrap() as usize, gaps[0]["len"].as_u64().unwrap() as usize);
    let salvaged = fs::read(out.join("logs/log")).unwrap();
    assert_eq!((gaps.len(), salvaged.len()), (1, log.len()));
    assert!(salvaged[..offset] == log[..offset] && salvaged[offset + len..] == log[offset + len..]);
    assert!(log[offset..].starts_with(b"record 57 ") && log[offset + len..].starts_with(b"record 58 "));
    assert_eq!(code(&salvage("out")), 1, "a directory with something in it is refused");
    // Both superblocks: only salvage still can.
    fs::write(&path, bytes).unwrap();
    flip(&path, 40);
    flip(&path, SECOND_COPY + 40);
    assert_eq!(code(&llamafs(&["check"], &path)), 8);
    assert_eq!(code(&llamafs(&["check", "--repair"], &path)), 8);
    let before = fs::read(&path).unwrap();
    let got = salvage("whole");
    assert_eq!(code(&got), 0, "{got:?}");
    assert!(fs::read(dir.path().join("whole/logs/log")).unwrap() == log);
    assert_eq!(fs::read(dir.path().join("whole/gaps.json")).unwrap(), b"[]\n");
    assert!(fs::read(&path).unwrap() == before, "salvage has written");
}

#[test]
fn one_repair_does_all_that_there_is_to_do() {
    const SMALL: [&str; 6] = ["format", "--size", "32M", "--sparse", "--segment-size", "2M"];
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("store");
    assert!(llamafs(&SMALL, &path).status.success());
    let store =
        LogStructuredStore::open(Arc::new(open(&path, Access::ReadWrite).unwrap()), StoreOptions::default()).unwrap();
    store.start();
    let append = |number: u64| {
        let appended = store.append(LOG, &vec![number as u8; 100_000]).unwrap();
        store.make_stable_now(appended.end_lsn).unwrap();
    };
    (0..50).for_each(append);
    let crashed = dir.path().join("crashed");
    fs::copy(&path, &crashed).unwrap();
    store.close().unwrap();
    drop(store);
    let out = llamafs(&["dump", "--json"], &path);
    let frames: Vec<serde_json::Value> = serde_json::from_slice(&out.stdout).unwrap();
    let segments: Vec<u64> =
        frames.iter().filter(|it| it["kind"] == "SEGM").map(|it| it["device_offset"].as_u64().unwrap()).collect();
    assert!(segments.len() > 2);
    let wipe = |path: &Path, at: u64| {
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0; 4096], at).unwrap();
    };
    // Of a clean store both checkpoints and a header; of a crashed one a header, and what is known without it makes it clean.
    let area = {
        let bytes = fs::read(&path).unwrap();
        u64::from_le_bytes(bytes[160..168].try_into().unwrap())
    };
    wipe(&path, 131_072);
    wipe(&path, 131_072 + area);
    wipe(&path, segments[1]);
    wipe(&crashed, 131_072);
    wipe(&crashed, segments[1]);
    for path in [&path, &crashed] {
        let first = llamafs(&["check", "--repair"], path);
        assert_eq!(code(&first), 1, "{first:?}");
        let bytes = fs::read(path).unwrap();
        let second = llamafs(&["check", "--repair"], path);
        assert_eq!(code(&second), 0, "{second:?}, after {first:?}");
        assert!(fs::read(path).unwrap() == bytes, "a second run changes nothing");
    }
}

#[test]
fn cat_tells_where_a_log_may_have_been_longer() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, _) = made(dir.path());
    let device = Arc::new(open(&path, Access::ReadWrite).unwrap());
    let store = LogStructuredStore::open(device, StoreOptions::default()).unwrap();
    store.start();
    let name = b"other".to_vec();
    let create = Change::Create { parent: ROOT_ID, name, kind: NodeKind::Log, mode: 0o644, uid: 0, gid: 0 };
    let other = store.change_now(create).unwrap().node.id;
    let stable = |log, line: &str| {
        let appended = store.append(log, line.repeat(500).as_bytes()).unwrap();
        store.make_stable_now(appended.end_lsn).unwrap();
    };
    stable(LOG, "first\n");
    stable(other, "one\n");
    stable(LOG, "between\n");
    stable(other, "two\n");
    // What says that all of this was stable, and how long /log was.
    stable(LOG, "last\n");
    stable(LOG, "of all\n");
    // As a crash would leave it.
    let crashed = dir.path().join("crashed");
    fs::copy(&path, &crashed).unwrap();
    store.close().unwrap();
    let cat = |log: &str| llamafs(&["cat", log], &crashed);
    let whole = cat("/other");
    assert_eq!((code(&whole), whole.stdout.len()), (0, 4000), "{whole:?}");
    // The last record of /other and the one in front of it.
    let records = fs::read(&crashed).unwrap();
    let place = |text: &[u8]| records.windows(text.len()).rposition(|bytes| bytes == text).unwrap();
    let (from, to) = (place(b"between\nbetween\n") - 3000, place(b"two\ntwo\n") + 8);
    let file = OpenOptions::new().write(true).open(&crashed).unwrap();
    file.write_all_at(&vec![0; to - from], from as u64).unwrap();
    let told = cat("/other");
    assert_eq!((code(&told), told.stdout.len()), (1, 2000), "{told:?}");
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(text.contains("/other may have been longer") && text.trim().lines().count() == 1, "{text}");
    assert_eq!(code(&cat("/log")), 1, "its gap is known");
    // Up to a time all that was asked for is there.
    let until = llamafs(&["cat", "/other", "--until", "2001-01-01T00:00:00Z"], &crashed);
    assert_eq!((code(&until), until.stdout.len()), (0, 0), "{until:?}");
}

#[test]
fn salvage_does_not_call_whole_what_it_knows_to_have_been_longer() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, _) = made(dir.path());
    // Of all that there was a superblock is left, which tells where the log ended.
    OpenOptions::new().write(true).open(&path).unwrap().set_len(131_072).unwrap();
    let got = llamafs(&["salvage", dir.path().join("short").to_str().unwrap()], &path);
    assert_eq!(code(&got), 1, "{got:?}");
    assert!(String::from_utf8_lossy(&got.stderr).contains("nothing tells what they held"), "{got:?}");
    assert_eq!(fs::read(dir.path().join("short/gaps.json")).unwrap(), b"[]\n");
}

#[test]
fn a_device_cut_short_below_what_was_acknowledged_is_told_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let (path, log) = made(dir.path());
    let left = record(&path, 100) / 4096 * 4096;
    OpenOptions::new().write(true).open(&path).unwrap().set_len(left).unwrap();
    let before = fs::read(&path).unwrap();
    let nowhere = dir.path().join("mountpoint");
    fs::create_dir(&nowhere).unwrap();
    for (arguments, wanted) in [
        (&["mount", nowhere.to_str().unwrap()][..], 1),
        (&["mount", nowhere.to_str().unwrap(), "-o", "ro"], 1),
        (&["status"], 1),
        (&["cat", "/log"], 1),
        (&["check"], 8),
        (&["check", "--repair"], 8),
    ] {
        let out = llamafs(arguments, &path);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(code(&out), wanted, "{arguments:?}: {said}");
        assert!(said.lines().count() == 1 && said.contains("truncated"), "{arguments:?}: {said}");
    }
    let to = dir.path().join("salvaged");
    let out = llamafs(&["salvage", to.to_str().unwrap()], &path);
    assert_eq!(code(&out), 1, "{out:?}");
    let gaps: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(to.join("gaps.json")).unwrap()).unwrap();
    let (offset, len) = (gaps[0]["offset"].as_u64().unwrap(), gaps[0]["len"].as_u64().unwrap());
    assert_eq!((gaps.len(), offset + len), (1, log.len() as u64), "what is missing is named: {gaps:?}");
    let found = fs::read(to.join("logs/log")).unwrap();
    assert!(offset > 0 && found[..offset as usize] == log[..offset as usize], "what is left is there");
    assert!(fs::read(&path).unwrap() == before, "nothing was written");
}
