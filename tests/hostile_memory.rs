//! What an image made to cost as much memory as it can costs: frames, logs and checkpoints whose checksums are right and
//! whose content nobody would write. Measured as the kernel does, for everything that reads a store that is not mounted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use llamafs::format::frame::{encode_pad, write_frame};
use llamafs::format::{
    CatalogChange, CatalogEntry, CatalogRecord, Checkpoint, FrameHead, FrameSeed, Kind, NodeKind, ROOT_ID,
    SegmentHeader, Superblock, frame_len,
};
use llamafs::io::{Access, Device, open};
use llamafs::store::{FormatOptions, LogStructuredStore, StoreOptions};

const MIB: u64 = 1 << 20;
const DEVICE: u64 = 16 * MIB;
const SEGMENT: u32 = 1 << 20;
const COPIES: [u64; 2] = [0, 65_536];
const SUPERBLOCK: usize = 4096;
/// Of a store of very many; each takes some bytes of the segment table, and up to 4 Mi there may be.
const SEGMENTS: u64 = 1 << 17;
/// What any of the programs may take, whatever the image holds.
const MOST: u64 = 160 * MIB;

/// Peak memory of `llamafs` with these arguments, in bytes; it has to end by itself.
#[allow(clippy::zombie_processes, reason = "wait4 waits for it")]
fn peak(arguments: &[&str]) -> u64 {
    let mut command = Command::new("timeout");
    command.args(["300", env!("CARGO_BIN_EXE_llamafs")]).args(arguments);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let mut status = 0;
    // SAFETY: all zeros is a value of this type, and both places are written to by the call alone.
    let (ended, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid, &raw mut status, 0, &raw mut usage), usage)
    };
    assert_eq!(ended, pid);
    assert!(libc::WIFEXITED(status), "{arguments:?} was killed: {status:#x}");
    let code = libc::WEXITSTATUS(status);
    assert!([0, 1, 4, 8].contains(&code), "{arguments:?} ended with {code}");
    usage.ru_maxrss as u64 * 1024
}

/// Look at the store, and say what it took.
fn look(name: &str, path: &Path) {
    for command in ["status", "check"] {
        limited(name, &[command, path.to_str().unwrap()]);
    }
}

/// Salvage makes a file of each log: not for images with very many.
fn salvage(name: &str, dir: &Path, path: &Path) {
    limited(name, &["salvage", path.to_str().unwrap(), dir.join(name).to_str().unwrap()]);
}

fn limited(name: &str, arguments: &[&str]) {
    let bytes = peak(arguments);
    println!("{name}: {} took {} MiB", arguments[0], bytes / MIB);
    assert!(bytes < MOST, "{name}: {} took {} MiB", arguments[0], bytes / MIB);
}

/// An empty store, and where its log ends.
fn made(path: &Path) -> (Superblock, u64) {
    File::create(path).unwrap().set_len(DEVICE).unwrap();
    let device = Arc::new(open(path, Access::ReadWrite).unwrap()) as Arc<dyn Device>;
    let format = FormatOptions { segment_size: Some(SEGMENT), max_record: Some(64 << 10), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone(), &format, &mut |_, _| {}).unwrap();
    let store = LogStructuredStore::open(device, StoreOptions::default()).unwrap();
    store.close().unwrap();
    let end = store.end_lsn();
    drop(store);
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut newest: Option<Superblock> = None;
    for at in COPIES {
        let mut bytes = vec![0; SUPERBLOCK];
        file.read_exact_at(&mut bytes, at).unwrap();
        let mut copy = Superblock::decode(&bytes).unwrap();
        copy.clean = false;
        file.write_all_at(copy.encode().as_slice(), at).unwrap();
        if newest.as_ref().is_none_or(|have| have.generation < copy.generation) {
            newest = Some(copy);
        }
    }
    (newest.unwrap(), end)
}

/// Fill the rest of the store with frames: the `n`th is what `frame` gives.
fn fill(path: &Path, frame: impl Fn(u64, u64) -> (FrameHead, Vec<u8>)) {
    let (superblock, mut lsn) = made(path);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let (size, block, mut epoch) = (u64::from(SEGMENT), u64::from(superblock.block_size), superblock.epoch);
    let first = lsn / size;
    let (uuid, mut n) = (superblock.uuid, 0);
    for sequence in first..superblock.segment_count {
        let physical = (sequence - first) as u32;
        let place = superblock.data_start + u64::from(physical) * size;
        let mut bytes = Vec::new();
        if sequence > first {
            lsn = sequence * size + block;
            let header = SegmentHeader {
                uuid,
                sequence,
                first_lsn: sequence * size,
                epoch,
                physical,
                next_physical: Some(physical + 1),
                created_ns: 1,
                stable_lsn: sequence * size,
            };
            bytes.extend(header.encode(superblock.block_size));
        }
        let from = lsn - bytes.len() as u64;
        loop {
            let (head, payload) = frame(n, lsn);
            if head.kind == Kind::Epoch {
                epoch += 1;
            }
            let (total, at) = (frame_len(payload.len()), bytes.len());
            if lsn + total as u64 + 16 > (sequence + 1) * size {
                break;
            }
            bytes.resize(at + total, 0);
            write_frame(&mut bytes[at..], &FrameSeed::new(&uuid, epoch), lsn, &head, &payload).unwrap();
            lsn += total as u64;
            n += 1;
        }
        bytes.extend(encode_pad(&FrameSeed::new(&uuid, epoch), lsn, (sequence + 1) * size - lsn));
        file.write_all_at(&bytes, place + from % size).unwrap();
    }
}

fn head(kind: Kind, log_id: u32, offset: u64) -> FrameHead {
    FrameHead { kind, log_id, offset, time_ns: 7 }
}

fn entry(id: u32) -> CatalogEntry {
    CatalogEntry { id, parent: ROOT_ID, kind: NodeKind::Log, name: id.to_string().into_bytes(), ..Default::default() }
}

#[test]
fn no_image_costs_more_memory_than_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    // A record each of half a million logs that no catalog knows.
    fill(&path, |n, _| (head(Kind::Data, 10 + n as u32, 0), vec![1]));
    look("unknown-logs", &path);
    // A catalog record each of a hundred thousand logs.
    fill(&path, |n, _| {
        let record = CatalogRecord { change: CatalogChange::Named, entry: entry(10 + n as u32) };
        (head(Kind::Meta, 10 + n as u32, 0), record.encode())
    });
    look("named-logs", &path);
    // As many that are gone at once.
    fill(&path, |n, _| {
        let change = [CatalogChange::Named, CatalogChange::Gone][n as usize % 2];
        let record = CatalogRecord { change, entry: entry(10 + n as u32 / 2) };
        (head(Kind::Meta, 10 + n as u32 / 2, 0), record.encode())
    });
    look("gone-logs", &path);
    // One log in half a million pieces.
    fill(&path, |n, _| (head(Kind::Data, 1, 10 * n), vec![1]));
    look("pieces", &path);
    salvage("pieces", dir.path(), &path);
    // The same, moved.
    fill(&path, |n, _| (head(Kind::Moved, 1, 10 * n), vec![1]));
    look("moved", &path);
    salvage("moved", dir.path(), &path);
}

#[test]
fn a_checkpoint_full_of_logs_and_very_many_segments_cost_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (superblock, _) = made(&path);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut bytes = vec![0; superblock.checkpoint_bytes as usize];
    let areas = [0, 1].map(|area| superblock.checkpoint_start + area * superblock.checkpoint_bytes);
    let newest = areas.into_iter().filter_map(|at| {
        file.read_exact_at(&mut bytes, at).unwrap();
        Checkpoint::decode(&bytes, &superblock.uuid).ok()
    });
    let newest = newest.max_by_key(|checkpoint| checkpoint.generation).unwrap();
    let mut full = newest.clone();
    let room = superblock.checkpoint_bytes as usize - newest.encode().len();
    let each = CatalogEntry::encode(&entry(1_000_000)).len() + 4;
    full.nodes.extend((0..room / each).map(|n| entry(10 + n as u32)));
    for (at, generation) in areas.into_iter().zip([2, 1]) {
        full.generation = newest.generation + generation;
        if (full.generation % 2 == 0) == (at == areas[0]) {
            file.write_all_at(&full.encode(), at).unwrap();
        }
    }
    println!("{} logs in a checkpoint", full.nodes.len());
    look("full-checkpoint", &path);
    salvage("full-checkpoint", dir.path(), &path);
    // Very many segments, of the smallest size, on a file of holes.
    let mut largest = superblock.clone();
    largest.segment_size = 2 * superblock.block_size;
    largest.max_record = 1000;
    largest.segment_count = SEGMENTS;
    largest.device_bytes = largest.data_start + largest.segment_count * u64::from(largest.segment_size);
    largest.check_geometry().unwrap();
    file.set_len(largest.device_bytes).unwrap();
    COPIES.into_iter().for_each(|at| file.write_all_at(largest.encode().as_slice(), at).unwrap());
    look("many-segments", &path);
    salvage("many-segments", dir.path(), &path);
    areas.into_iter().for_each(|at| file.write_all_at(&[0; SUPERBLOCK], at).unwrap());
    look("many-segments-no-checkpoint", &path);
    salvage("many-segments-no-checkpoint", dir.path(), &path);
}
