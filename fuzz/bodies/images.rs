//! Small valid stores for the recovery target to damage, each of another shape, made once and always the same: what
//! depends on the clock is put right afterwards.

use std::ops::{ControlFlow, Range};
use std::sync::{Arc, OnceLock};

use llamafs::format::{CatalogEntry, CatalogRecord, Checkpoint, NodeKind, ROOT_ID, SegmentHeader, Superblock};
use llamafs::io::{Device, SimDevice};
use llamafs::store::{
    AppendAt, AttrChange, Change, FormatOptions, FrameInfo, Image, LogStructuredStore, StoreError, StoreOptions, Tail,
};

use super::forge;

pub const LOG: u32 = 1;
pub const UUID: [u8; 16] = *b"a store of fuzz!";
pub const SEGMENT: usize = 16 << 10;
pub const MAX_RECORD: u32 = 1500;
/// Of the ring: room for the largest record, a segment's header and a trailer.
pub const BUFFER: usize = 12 << 10;
const CAPACITY: u64 = 320 << 10;
const NOW: u64 = 1_700_000_000_000_000_000;
/// Rounds of making room after which an append waits for ever.
const PATIENCE: u32 = 10_000;
const SUPERBLOCKS: [u64; 2] = [0, 65_536];
const BLOCK: usize = 4096;

/// A store, and everything that is known of it.
pub struct Shape {
    pub device: SimDevice,
    /// What an undamaged mount shows of `/log`.
    pub log: Vec<u8>,
    /// Its last unmount was clean.
    pub clean: bool,
    /// Segments were let go and cleaned: which frame holds a record is not told by the order of frames alone.
    pub cleaned: bool,
    pub superblock: Superblock,
    /// Its frames, segment headers among them.
    pub frames: Vec<FrameInfo>,
    /// Interesting numbers.
    pub known: Vec<u64>,
}

impl Shape {
    /// Where the frames of `/log`'s records lie: (offset in the log, length, place on the device).
    pub fn records(&self) -> impl Iterator<Item = (u64, u64, Range<u64>)> {
        let data = self.frames.iter().filter(|frame| frame.kind == "DATA" && frame.log == LOG);
        data.map(|f| (f.offset, f.len, f.device_offset..f.device_offset + f.total))
    }
}

pub fn shapes() -> &'static [Shape] {
    static SHAPES: OnceLock<Vec<Shape>> = OnceLock::new();
    SHAPES.get_or_init(|| {
        let makers: [fn() -> SimDevice; 9] =
            [formatted, clean, unclean, padded, epochs, full, attributes, of_frames, cleaned];
        makers.into_iter().map(|make| describe(make())).collect()
    })
}

pub fn options(tail: Tail) -> StoreOptions {
    StoreOptions { ring_size: 3, buffer_size: BUFFER, tail, clock: || NOW, ..StoreOptions::default() }
}

/// One record; its content tells its number.
pub fn record(number: u64) -> Vec<u8> {
    let len = 1 + (number.wrapping_mul(2_654_435_761) >> 7) % u64::from(MAX_RECORD);
    (0..len).map(|at| (number * 31 + at * 7) as u8 | 1).collect()
}

pub fn format() -> Arc<SimDevice> {
    let device = Arc::new(SimDevice::new(CAPACITY, 1));
    let format = FormatOptions {
        label: "fuzz".to_owned(),
        segment_size: Some(SEGMENT as u32),
        max_record: Some(MAX_RECORD),
        uuid: Some(UUID),
        now_ns: Some(NOW),
        ..FormatOptions::default()
    };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    device
}

pub fn open(device: &Arc<SimDevice>, tail: Tail) -> Arc<LogStructuredStore> {
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options(tail)).unwrap()
}

/// Append on a store without threads: who waits for room makes it himself.
pub fn append(store: &LogStructuredStore, log: u32, data: &[u8]) -> Result<u64, StoreError> {
    for _ in 0..PATIENCE {
        match store.try_append(log, data, AppendAt::End) {
            Err(StoreError::WouldBlock) => {
                if store.poll(true) == 0 {
                    store.tick();
                }
            }
            other => return other.map(|appended| appended.end_lsn),
        }
    }
    panic!("an append waits for ever: {:?}", store.stats());
}

/// A mount that appends records and syncs now and then. The disk as a power failure at its end leaves it, or as a
/// clean unmount does.
fn life(device: &Arc<SimDevice>, tail: Tail, numbers: Range<u64>, crash: Option<u64>) -> Arc<SimDevice> {
    let store = open(device, tail);
    for number in numbers {
        let Ok(lsn) = append(&store, LOG, &record(number)) else { break };
        if number % 4 == 0 {
            store.make_stable_now(lsn).unwrap();
        }
    }
    match crash {
        Some(seed) => Arc::new(device.crash(seed)),
        None => {
            store.close().unwrap();
            device.clone()
        }
    }
}

fn formatted() -> SimDevice {
    format().crash(0)
}

fn clean() -> SimDevice {
    let device = life(&format(), Tail::Rewrite, 0..20, None);
    life(&device, Tail::Rewrite, 20..50, None).crash(0)
}

fn unclean() -> SimDevice {
    let device = life(&format(), Tail::Rewrite, 0..30, None);
    life(&device, Tail::Rewrite, 30..47, Some(4)).crash(0)
}

fn padded() -> SimDevice {
    let device = life(&format(), Tail::Pad, 0..10, None);
    let device = life(&device, Tail::Pad, 10..20, Some(3));
    life(&device, Tail::Pad, 20..30, None).crash(0)
}

fn epochs() -> SimDevice {
    let mut device = format();
    for mount in 0..6 {
        device = life(&device, Tail::Rewrite, mount * 9..mount * 9 + 7 + mount, Some(mount));
    }
    life(&device, Tail::Rewrite, 100..105, None).crash(0)
}

fn full() -> SimDevice {
    life(&format(), Tail::Rewrite, 0..10_000, None).crash(0)
}

fn attributes() -> SimDevice {
    let device = format();
    let store = open(&device, Tail::Rewrite);
    for number in 0..20 {
        let change = AttrChange { mode: Some(0o600 + number as u32), uid: Some(7), ..AttrChange::default() };
        store.set_attr(LOG, change).unwrap();
        let lsn = append(&store, LOG, &record(number)).unwrap();
        store.make_stable_now(lsn).unwrap();
    }
    store.tick_idle();
    while store.poll(true) > 0 {}
    device.crash(0)
}

/// Payloads that are frames, whole and valid where they came from.
fn of_frames() -> SimDevice {
    let device = life(&format(), Tail::Rewrite, 0..12, None);
    let frames = frames(&device);
    let store = open(&device, Tail::Rewrite);
    for frame in frames.iter().filter(|frame| frame.kind != "SEGM" && frame.total <= u64::from(MAX_RECORD)) {
        append(&store, LOG, &device.peek(frame.device_offset, frame.total as usize)).unwrap();
    }
    store.close().unwrap();
    device.crash(0)
}

/// A log that stays between others that go, until segments have been let go and cleaned; summaries, moved records, and
/// ranges in the checkpoints.
fn cleaned() -> SimDevice {
    let device = format();
    let store = open(&device, Tail::Rewrite);
    for round in 0..40 {
        let name = b"goes".to_vec();
        let create =
            Change::Create { parent: ROOT_ID, name: name.clone(), kind: NodeKind::Log, mode: 0o600, uid: 0, gid: 0 };
        let goes = store.change_now(create).unwrap().node.id;
        for number in 0..24 {
            append(&store, if number % 8 == 0 { LOG } else { goes }, &record(round * 24 + number)).unwrap();
        }
        let gone = store.change_now(Change::Remove { parent: ROOT_ID, name, kind: NodeKind::Log }).unwrap().gone;
        store.forget(gone.unwrap());
        store.tick();
        let stats = store.stats();
        if stats.moved_bytes > 0 && stats.segments_freed > 8 {
            break;
        }
    }
    let stats = store.stats();
    assert!(stats.moved_bytes > 0 && stats.segments_freed > 0, "{stats:?}");
    store.close().unwrap();
    device.crash(0)
}

fn frames(device: &Arc<SimDevice>) -> Vec<FrameInfo> {
    let mut frames = Vec::new();
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    let each = &mut |frame: &FrameInfo| {
        frames.push(frame.clone());
        ControlFlow::Continue(())
    };
    image.for_each_frame(false, each).unwrap();
    frames
}

fn describe(device: SimDevice) -> Shape {
    let device = Arc::new(device);
    stop_the_clock(&device);
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    assert!(image.recovery().damage.is_empty(), "{:?}", image.recovery());
    let mut log = Vec::new();
    let gaps = image.read_log(b"log", &mut |_, bytes| {
        log.extend_from_slice(bytes);
        Ok(())
    });
    assert_eq!(gaps, Ok(Vec::new()));
    let frames = frames(&device);
    let superblock = image.superblock().clone();
    let stats = image.stats();
    let mut known: Vec<u64> = frames.iter().map(|frame| frame.lsn).collect();
    known.extend([stats.end_lsn, stats.stable_lsn, stats.recovery_lsn, log.len() as u64, CAPACITY, SEGMENT as u64]);
    let clean = image.recovery().clean;
    let cleaned = frames.iter().any(|frame| frame.kind == "MOVD");
    Shape { device: device.crash(0), log, clean, cleaned, superblock, frames, known }
}

/// Give every time on the device a value that is the same in each run.
fn stop_the_clock(device: &SimDevice) {
    let superblock = SUPERBLOCKS.map(|at| {
        let mut superblock = Superblock::decode(&device.peek(at, BLOCK)).unwrap();
        superblock.mounted_ns = NOW;
        device.poke(at, superblock.encode().as_slice());
        superblock
    });
    let superblock = &superblock[0];
    for area in [0, 1] {
        let at = superblock.checkpoint_start + area * superblock.checkpoint_bytes;
        let bytes = device.peek(at, superblock.checkpoint_bytes as usize);
        let Ok(mut checkpoint) = Checkpoint::decode(&bytes, &UUID) else { continue };
        checkpoint.nodes.iter_mut().for_each(still);
        device.poke(at, &checkpoint.encode());
    }
    for physical in 0..superblock.segment_count {
        let at = superblock.data_start + physical * SEGMENT as u64;
        let mut bytes = device.peek(at, SEGMENT);
        let Ok(mut header) = SegmentHeader::decode(&bytes[..BLOCK], &UUID) else { continue };
        header.created_ns = NOW;
        bytes[..BLOCK].copy_from_slice(&header.encode(BLOCK as u32));
        still_frames(&mut bytes, header.first_lsn, header.epoch);
        device.poke(at, &bytes);
    }
}

fn still(entry: &mut CatalogEntry) {
    (entry.mtime_ns, entry.ctime_ns, entry.btime_ns) = (NOW, NOW, NOW);
}

/// Every frame of a segment, also those that were cut: they lie where a frame of this place decodes in any epoch.
fn still_frames(segment: &mut [u8], first_lsn: u64, epoch: u64) {
    for at in (BLOCK..segment.len()).step_by(16) {
        let lsn = first_lsn + at as u64;
        for epoch in epoch.saturating_sub(8)..epoch + 8 {
            let seed = llamafs::format::FrameSeed::new(&UUID, epoch);
            let Ok(frame) = llamafs::format::frame::decode(&seed, lsn, &segment[at..], MAX_RECORD as usize) else {
                continue;
            };
            if frame.time_ns == 0 {
                break;
            }
            let (total, is_meta) = (frame.total as usize, frame.kind.name() == "META");
            if is_meta && let Ok(mut records) = CatalogRecord::decode_all(frame.payload) {
                records.iter_mut().for_each(|record| still(&mut record.entry));
                let payload: Vec<u8> = records.iter().flat_map(CatalogRecord::encode).collect();
                segment[at + 32..at + 32 + payload.len()].copy_from_slice(&payload);
            }
            let frame = &mut segment[at..at + total];
            frame[24..32].copy_from_slice(&(NOW + lsn).to_le_bytes());
            forge::frame(frame, &UUID, lsn, epoch);
            break;
        }
    }
}
