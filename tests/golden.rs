//! The golden image: a store written by format version 1 once and for all. Today's code must always read it, and the
//! dump in docs/format.md is of it, line by line.
//!
//! tests/golden/v1.hexdump is what `hexdump -C` shows of the image, without the lines of zeros: one log, catalog entries
//! of version 1. tests/golden/v1-void.hexdump has Failed Flush frames. tests/golden/v1-tree.hexdump has directories, a
//! rename that replaces, a log that was removed, and entries of version 2. tests/golden/v1-moved.hexdump has segments that were
//! let go, moved records, summaries and a trimmed log. They were written by
//! `LLAMAFS_WRITE_GOLDEN=NAME cargo test --test golden`, and are never written again: a new version gets a new image.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use llamafs::io::{Device, SimDevice};
use llamafs::store::{
    AttrChange, Change, FormatOptions, Image, LogStructuredStore, NodeKind, ROOT_ID, RenameHow, StoreOptions, Tail,
    TrimTo,
};

const CAPACITY: usize = 768 << 10;
const LOG: u32 = 1;
const UUID: [u8; 16] = *b"golden llamafs 1";
const TREE_UUID: [u8; 16] = *b"golden llamafs 2";
const IMAGE: &str = "v1";
const TREE: &str = "v1-tree";

/// One with segments that were let go, with moved records and with summaries.
const MOVED: &str = "v1-moved";
const MOVED_UUID: [u8; 16] = *b"golden llamafs 3";

/// One with reservations that were given up.
const VOID: &str = "v1-void";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.hexdump"))
}

fn is_to_be_written(name: &str) -> bool {
    std::env::var_os("LLAMAFS_WRITE_GOLDEN").is_some_and(|wanted| wanted == name)
}

/// The lines of a `hexdump -C`: offset and the 16 bytes there.
fn lines(text: &str) -> BTreeMap<usize, [u8; 16]> {
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        let Some((offset, rest)) = line.split_once("  ") else { continue };
        let (Ok(offset), Some((hex, _))) = (usize::from_str_radix(offset, 16), rest.split_once("  |")) else {
            continue;
        };
        let bytes: Vec<u8> = hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        lines.insert(offset, bytes.try_into().unwrap());
    }
    lines
}

fn hexdump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in bytes.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|byte| *byte != 0)) {
        write!(text, "{:08x} ", number * 16).unwrap();
        for (at, byte) in line.iter().enumerate() {
            write!(text, "{}{byte:02x}", if at == 8 { "  " } else { " " }).unwrap();
        }
        let shown = line.iter().map(|byte| if (0x20..0x7f).contains(byte) { *byte as char } else { '.' });
        writeln!(text, "  |{}|", shown.collect::<String>()).unwrap();
    }
    text
}

fn golden(name: &str) -> Arc<SimDevice> {
    let mut bytes = vec![0; CAPACITY];
    for (offset, line) in lines(&std::fs::read_to_string(path(name)).unwrap()) {
        bytes[offset..offset + 16].copy_from_slice(&line);
    }
    Arc::new(SimDevice::from_bytes(&bytes, 1))
}

fn options(tail: Tail) -> StoreOptions {
    StoreOptions { tail, buffer_size: 20 << 10, ..StoreOptions::default() }
}

/// What the golden log holds.
fn expected() -> Vec<u8> {
    let mut text = b"first line of the golden log\n".to_vec();
    text.extend(b"second line, not synced by itself\n");
    text.extend(b"DATAVOIDMETAEPOCMARKPADDLLAMAFS1LLAMASEGLLAMACKP\n");
    for number in 0..100 {
        writeln!(as_text(&mut text), "line {number} after a remount with tail=pad").unwrap();
    }
    text.extend(b"last line\n");
    text
}

/// `fmt::Write` for bytes.
fn as_text(text: &mut Vec<u8>) -> impl Write + '_ {
    struct Bytes<'a>(&'a mut Vec<u8>);
    impl Write for Bytes<'_> {
        fn write_str(&mut self, s: &str) -> std::fmt::Result {
            self.0.extend_from_slice(s.as_bytes());
            Ok(())
        }
    }
    Bytes(text)
}

fn formatted(uuid: [u8; 16]) -> Arc<SimDevice> {
    let device = Arc::new(SimDevice::new(CAPACITY as u64, 1));
    let format = FormatOptions {
        label: "golden".into(),
        segment_size: Some(64 << 10),
        max_record: Some(8 << 10),
        uuid: Some(uuid),
        now_ns: Some(1_700_000_000_000_000_000),
        uid: 1000,
        gid: 100,
        ..FormatOptions::default()
    };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    device
}

/// Lines of the second image, and what was given up behind each, in bytes.
const BESIDE_VOIDS: [(&str, usize); 5] = [
    ("in front of a Failed Flush\n", 100),
    ("between two\n", 5000),
    ("DATAVOIDMETAEPOCMARKPADD\n", 1),
    ("in another mount, with tail=pad\n", 8000),
    ("in front of the last one\n", 40),
];

fn write_void() {
    let device = formatted(UUID);
    for (mount, tail) in [(0..3, Tail::Rewrite), (3..5, Tail::Pad)] {
        let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, options(tail)).unwrap();
        for (line, given_up) in &BESIDE_VOIDS[mount] {
            let appended = store.append(LOG, line.as_bytes()).unwrap();
            store.give_up(*given_up).unwrap();
            store.make_stable_now(appended.end_lsn).unwrap();
        }
        store.close().unwrap();
    }
    std::fs::write(path(VOID), hexdump(&device.snapshot())).unwrap();
}

fn write_golden() {
    let device = formatted(UUID);
    let expected = expected();
    let lines: Vec<&[u8]> = expected.split_inclusive(|byte| *byte == b'\n').collect();
    for (mount, tail) in [(0..3, Tail::Rewrite), (3..103, Tail::Pad), (103..104, Tail::Rewrite)] {
        let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, options(tail)).unwrap();
        for line in mount {
            let appended = store.append(LOG, lines[line]).unwrap();
            if line == 0 || line == 50 {
                store.make_stable_now(appended.end_lsn).unwrap();
            }
            if line == 2 {
                store.set_attr(LOG, AttrChange { mode: Some(0o640), ..AttrChange::default() }).unwrap();
            }
        }
        store.close().unwrap();
    }
    std::fs::write(path(IMAGE), hexdump(&device.snapshot())).unwrap();
}

/// What the golden tree holds: path, mode, bytes.
const LOGS: [(&[u8], u32, &[u8]); 4] = [
    (b"log", 0o644, b"the first log\n"),
    (b"www/access", 0o640, b"took the place of another\n"),
    (b"www/old/empty", 0o644, b""),
    (b"www/old/\xff error", 0o600, b"a name that is no text\n"),
];

fn write_tree() {
    let device = formatted(TREE_UUID);
    let open = || LogStructuredStore::open(device.clone() as Arc<dyn Device>, options(Tail::Rewrite)).unwrap();
    let make = |store: &Arc<LogStructuredStore>, parent, name: &[u8], kind, mode| {
        let change = Change::Create { parent, name: name.into(), kind, mode, uid: 1000, gid: 100 };
        store.change_now(change).unwrap().node.id
    };
    let rename = |store: &Arc<LogStructuredStore>, from: (u32, &[u8]), to: (u32, &[u8])| {
        let (name, new_name) = (from.1.to_vec(), to.1.to_vec());
        let change = Change::Rename { parent: from.0, name, new_parent: to.0, new_name, how: RenameHow::Replace };
        store.change_now(change).unwrap()
    };
    let store = open();
    let web = make(&store, ROOT_ID, b"web", NodeKind::Directory, 0o755);
    let replaced = make(&store, web, b"access", NodeKind::Log, 0o644);
    let moved = make(&store, ROOT_ID, b"new", NodeKind::Log, 0o640);
    let removed = make(&store, ROOT_ID, b"removed", NodeKind::Log, 0o644);
    for (log, text) in [(LOG, LOGS[0].2), (replaced, b"replaced\n"), (moved, LOGS[1].2), (removed, b"removed\n")] {
        store.append(log, text).unwrap();
    }
    rename(&store, (ROOT_ID, b"new"), (web, b"access"));
    let remove = Change::Remove { parent: ROOT_ID, name: b"removed".into(), kind: NodeKind::Log };
    store.change_now(remove).unwrap();
    store.append(removed, b"removed, but open\n").unwrap();
    store.close().unwrap();
    let store = open();
    rename(&store, (ROOT_ID, b"web"), (ROOT_ID, b"www"));
    let old = make(&store, web, b"old", NodeKind::Directory, 0o2770);
    let error = make(&store, old, b"\xff error", NodeKind::Log, 0o644);
    make(&store, old, b"empty", NodeKind::Log, 0o644);
    store.set_attr(error, AttrChange { mode: Some(0o600), ..AttrChange::default() }).unwrap();
    let appended = store.append(error, LOGS[3].2).unwrap();
    store.make_stable_now(appended.end_lsn).unwrap();
    store.close().unwrap();
    std::fs::write(path(TREE), hexdump(&device.snapshot())).unwrap();
}

fn check_tree(device: &Arc<SimDevice>) {
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    assert!(image.recovery().clean && image.recovery().damage.is_empty());
    let mut logs: Vec<_> = image.logs().into_iter().map(|log| (log.name, log.mode, log.size)).collect();
    logs.sort();
    let expected = LOGS.map(|(path, mode, text)| (path.to_vec(), mode, text.len() as u64));
    assert_eq!(logs, expected);
    for (path, _, expected) in LOGS {
        let mut text = Vec::new();
        let gaps = image.read_log(path, &mut |_, bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        });
        assert_eq!((gaps.unwrap(), text.as_slice()), (Vec::new(), expected));
    }
}

#[test]
fn the_golden_image_is_read_by_todays_code() {
    if is_to_be_written(IMAGE) {
        write_golden();
    }
    let device = golden(IMAGE);
    let before = device.snapshot();
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    assert_eq!((image.superblock().uuid, image.superblock().label.as_str()), (UUID, "golden"));
    assert_eq!(image.superblock().epoch, 4);
    assert!(image.recovery().clean && image.remarks().is_empty(), "{:?}", image.recovery());
    let log = &image.logs()[0];
    assert_eq!((log.name.as_slice(), log.mode, log.uid, log.gid), (b"log".as_slice(), 0o640, 1000, 100));
    assert_eq!(log.size, expected().len() as u64);
    let mut text = Vec::new();
    let gaps = image.read_log(b"log", &mut |offset, bytes| {
        assert_eq!(offset, text.len() as u64);
        text.extend_from_slice(bytes);
        Ok(())
    });
    assert_eq!((gaps.unwrap(), text), (Vec::new(), expected()));
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let mut epochs = Vec::new();
    image
        .for_each_frame(false, &mut |frame| {
            assert_eq!(frame.state, "ok", "{frame:?}");
            *kinds.entry(frame.kind.clone()).or_default() += 1;
            epochs.push(frame.epoch);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((kinds["DATA"], kinds["META"], kinds["EPOC"]), (104, 2, 3), "{kinds:?}");
    assert!(kinds["MARK"] >= 5 && kinds["PADD"] >= 1 && kinds["SEGM"] >= 1, "{kinds:?}");
    assert!(epochs.is_sorted() && epochs.last() == Some(&4), "{epochs:?}");
    assert_eq!(image.check(&mut |_, _| {}).unwrap().damage, Vec::new());
    assert!(device.snapshot() == before, "looking writes nothing");
}

#[test]
fn the_golden_image_is_mounted_and_appended_to() {
    let device = golden(IMAGE);
    let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, options(Tail::Rewrite)).unwrap();
    assert_eq!(store.read_now(LOG, 0, 1 << 20).unwrap().len(), expected().len().min(1 << 20));
    store.append(LOG, b"more\n").unwrap();
    store.close().unwrap();
    let store = LogStructuredStore::open(device as Arc<dyn Device>, options(Tail::Pad)).unwrap();
    let mut all = expected();
    all.extend(b"more\n");
    let mut text = Vec::new();
    while text.len() < all.len() {
        text.extend(store.read_now(LOG, text.len() as u64, 1000).unwrap());
    }
    assert_eq!(text, all);
}

#[test]
fn the_golden_image_with_failed_flushes_is_read_and_appended_to() {
    if is_to_be_written(VOID) {
        write_void();
    }
    let device = golden(VOID);
    let expected: String = BESIDE_VOIDS.iter().map(|(line, _)| *line).collect();
    let read = |device: &Arc<SimDevice>| {
        let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
        let mut text = Vec::new();
        let gaps = image.read_log(b"log", &mut |_, bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        });
        assert_eq!(gaps.unwrap(), Vec::new());
        assert_eq!(image.check(&mut |_, _| {}).unwrap().damage, Vec::new());
        let mut voids = Vec::new();
        image
            .for_each_frame(false, &mut |frame| {
                if frame.kind == "VOID" {
                    voids.push(frame.clone());
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        (String::from_utf8(text).unwrap(), voids)
    };
    let (text, voids) = read(&device);
    assert_eq!(text, expected);
    let lengths: Vec<u64> = voids.iter().map(|frame| frame.len).collect();
    // A reservation is whole lines: what was given up is rounded up to them.
    let given_up: Vec<u64> = BESIDE_VOIDS.iter().map(|(_, len)| (*len as u64).next_multiple_of(16)).collect();
    assert_eq!(lengths, given_up);
    // What a Failed Flush holds means nothing.
    for frame in &voids {
        device.corrupt(frame.device_offset + 32 + frame.len / 2, 0xff);
    }
    assert_eq!(read(&device).0, expected);
    let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, options(Tail::Rewrite)).unwrap();
    assert_eq!(store.read_now(LOG, 0, 1000).unwrap(), expected.as_bytes());
    store.append(LOG, b"more\n").unwrap();
    store.close().unwrap();
    assert_eq!(read(&device).0, expected + "more\n");
}

#[test]
fn the_golden_tree_is_read_by_todays_code_with_and_without_its_checkpoints() {
    if is_to_be_written(TREE) {
        write_tree();
    }
    let device = golden(TREE);
    check_tree(&device);
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    assert!(image.check(&mut |_, _| {}).unwrap().damage.is_empty());
    let superblock = Image::open(device.clone() as Arc<dyn Device>).unwrap().superblock().clone();
    for area in 0..2 {
        device.poke(superblock.checkpoint_start + area * superblock.checkpoint_bytes, &[0; 512]);
        if area == 0 {
            check_tree(&device);
        }
    }
    // All of it lies in the frames too.
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    assert_eq!(image.logs().len(), LOGS.len(), "{:?}", image.recovery());
    assert!(
        image.logs().iter().all(|log| LOGS.iter().any(|(path, mode, _)| (&log.name[..], log.mode) == (path, *mode)))
    );
    let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, options(Tail::Rewrite)).unwrap();
    let (root, www) = (store.node(ROOT_ID).unwrap(), store.resolve(b"www").unwrap());
    assert_eq!((root.mode, root.uid, root.gid, root.nlink), (0o755, 1000, 100, 3));
    assert_eq!((www.mode, www.nlink, store.resolve(b"www/old").unwrap().mode), (0o755, 3, 0o2770));
    assert!(www.mtime_ns > www.btime_ns && root.mtime_ns > www.btime_ns);
    let new = Change::Create { parent: ROOT_ID, name: b"n".into(), kind: NodeKind::Log, mode: 0, uid: 0, gid: 0 };
    assert_eq!(store.change_now(new).unwrap().node.id, 9, "no id is used twice");
    store.close().unwrap();
}

/// Record `n` of the log that stays.
fn kept(n: usize) -> Vec<u8> {
    format!("record {n} of the log that stays\n").into_bytes()
}

/// A log that stays between others that go, until the cleaner has moved it; and one whose old end was let go.
fn write_moved() {
    let device = formatted(MOVED_UUID);
    let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, options(Tail::Rewrite)).unwrap();
    let make = |name: &str| {
        let (name, kind) = (name.as_bytes().to_vec(), NodeKind::Log);
        let change = Change::Create { parent: ROOT_ID, name, kind, mode: 0o644, uid: 1000, gid: 100 };
        store.change_now(change).unwrap().node.id
    };
    let stays = make("stays");
    for round in 0..6 {
        let goes = make("goes");
        for n in 0..24 {
            store.append(goes, &[0; 8000]).unwrap();
            if n % 12 == 0 {
                store.append(stays, &kept(round * 2 + n / 12)).unwrap();
                store.append(LOG, &kept(round * 2 + n / 12)).unwrap();
            }
        }
        let remove = Change::Remove { parent: ROOT_ID, name: b"goes".into(), kind: NodeKind::Log };
        store.forget(store.change_now(remove).unwrap().gone.unwrap());
        store.tick();
    }
    let offset = (0..10).map(|n| kept(n).len() as u64).sum();
    assert_eq!(store.trim(LOG, TrimTo::Before(offset)).unwrap().head, offset);
    let stats = store.stats();
    assert!(stats.moved_bytes > 0 && stats.segments_freed > 3, "{stats:?}");
    store.close().unwrap();
    std::fs::write(path(MOVED), hexdump(&device.snapshot())).unwrap();
}

#[test]
fn the_golden_image_with_moved_records_is_read_and_appended_to() {
    if is_to_be_written(MOVED) {
        write_moved();
    }
    let device = golden(MOVED);
    let all: Vec<u8> = (0..12).flat_map(kept).collect();
    let head = (0..10).map(|n| kept(n).len()).sum::<usize>();
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    assert!(image.check(&mut |_, _| {}).unwrap().damage.is_empty());
    let mut kinds = std::collections::BTreeSet::new();
    let each = &mut |frame: &llamafs::store::FrameInfo| {
        kinds.insert(frame.kind.clone());
        ControlFlow::Continue(())
    };
    image.for_each_frame(false, each).unwrap();
    assert!(kinds.contains("MOVD") && kinds.contains("SUMM"), "{kinds:?}");
    let mut bytes = Vec::new();
    let gaps = image.read_log(b"stays", &mut |_, piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    assert!(gaps.unwrap().is_empty() && bytes == all);
    let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, options(Tail::Pad)).unwrap();
    store.audit().unwrap();
    let stays = store.resolve(b"stays").unwrap().id;
    assert_eq!(store.read_now(stays, 0, 4096).unwrap(), all);
    assert_eq!(store.log(LOG).unwrap().head, head as u64);
    assert_eq!(store.read_now(LOG, head as u64, 4096).unwrap(), all[head..]);
    store.append(stays, &kept(12)).unwrap();
    store.close().unwrap();
    let store = LogStructuredStore::open(device as Arc<dyn Device>, options(Tail::Rewrite)).unwrap();
    assert_eq!(store.read_now(stays, all.len() as u64, 4096).unwrap(), kept(12));
}

#[test]
fn the_dumps_in_the_format_document_are_of_the_golden_images() {
    let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let document = std::fs::read_to_string(document).unwrap();
    let (one, tree) = document.split_once("tests/golden/v1-tree.hexdump").unwrap();
    for (name, text, least) in [(IMAGE, one, 20), (TREE, tree, 10)] {
        let shown = lines(text);
        let golden = lines(&std::fs::read_to_string(path(name)).unwrap());
        assert!(shown.len() >= least, "{} lines of {name} are shown", shown.len());
        for (offset, bytes) in shown {
            let real = golden.get(&offset).copied().unwrap_or_default();
            assert_eq!(hexdump(&bytes), hexdump(&real), "docs/format.md, {name} at offset {offset:#x}");
        }
    }
}
