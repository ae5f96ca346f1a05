//! Looking into, mounting, reading, appending to and mounting again a store that was damaged or forged: no panic, no
//! write by one who only looks, none outside the device, none to a store that is refused, no wrong byte.
//!
//! After *damage* (no checksum is right by design) every byte that is read must be the one written, what was not
//! touched must be readable, and what is missing must be told. After *forgery* only the rest is asked: who can write
//! right checksums can write any content.

use std::ops::ControlFlow;
use std::sync::Arc;

use llamafs::format::{FRAME_HEADER as HEADER, frame::peek};
use llamafs::fs::{FsSettings, LlamaFs, NoPageCache};
use llamafs::io::{Device, SimDevice};
use llamafs::store::{Image, LogInfo, LogStructuredStore, OpenError, RecoveryReport, StoreOptions, Tail};

use super::guard::Guard;
use super::images::{LOG, Shape, append, options, shapes};
use super::input::Input;
use super::patch::{Patched, damage, forgery};

/// Logs of one image that are read; a forged checkpoint may have hundreds.
const LOGS: usize = 4;
/// Bytes asked for at one place.
const PIECE: usize = 2000;
/// Records appended to what could be mounted.
const APPENDS: usize = 6;
/// The device may be larger than the store, up to this.
const LARGEST: u64 = 16 << 20;

/// One place of a log and what was read there.
type Sample = (u32, u64, Result<Vec<u8>, String>);

/// An input, understood.
struct Case<'a> {
    shape: &'a Shape,
    forged: bool,
    tail: Tail,
    crash: Option<u64>,
    patched: Patched,
    /// What damaged frames say that they take, where a frame follows: there they are believed.
    claimed: Vec<std::ops::Range<u64>>,
    /// Places that are read besides the known ones.
    places: [u64; 4],
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let shape = &shapes()[usize::from(input.u8()) % shapes().len()];
    let flags = input.u8();
    let forged = flags & 1 != 0;
    let tail = if flags & 2 != 0 { Tail::Pad } else { Tail::Rewrite };
    let crash = (flags & 4 != 0).then(|| u64::from(input.u8()));
    let device = match flags >> 6 {
        0..=2 => shape.device.crash(0),
        _ => resized(shape, u64::from(input.u16())),
    };
    let places = [(); 4].map(|()| input.near(shape.log.len() as u64, &shape.known));
    let patched = if forged { forgery(shape, &device, &mut input) } else { damage(shape, &device, &mut input) };
    let claimed = claimed(shape, &device, &patched);
    let case = Case { shape, forged, tail, crash, patched, claimed, places };
    case.look(&device);
    let seen = case.mount_to_read(&device);
    case.mount_to_write(&device, seen);
}

/// A header may have been replaced by that of another frame.
fn claimed(shape: &Shape, device: &SimDevice, patched: &Patched) -> Vec<std::ops::Range<u64>> {
    // Where the last one ends the next mount begins.
    let begins = |place: u64| {
        shape.frames.iter().any(|frame| frame.device_offset == place || frame.device_offset + frame.total == place)
    };
    let hit = shape.frames.iter().filter(|f| patched.touches(&(f.device_offset..f.device_offset + HEADER as u64)));
    let says = |place: u64| peek(&device.peek(place, HEADER)).map(|head| place..place + head.total);
    hit.filter_map(|frame| says(frame.device_offset)).filter(|said| begins(said.end)).collect()
}

/// The store on a device of another size: larger, or cut.
fn resized(shape: &Shape, blocks: u64) -> SimDevice {
    let capacity = blocks.max(1) * 512 % LARGEST + 512;
    let mut bytes = shape.device.snapshot();
    bytes.truncate(capacity as usize);
    let device = SimDevice::new(capacity, 1);
    device.poke(0, &bytes);
    device
}

impl Case<'_> {
    fn look(&self, device: &SimDevice) {
        let guard = Guard::new(device.crash(0), false);
        let Ok(image) = Image::open(guard.clone() as Arc<dyn Device>) else { return };
        let stats = image.stats();
        assert!(stats.used <= stats.capacity && stats.available <= stats.capacity, "{stats:?}");
        let report = image.check(&mut |_, _| {}).expect("the device never fails here");
        let mut at = 0;
        let each = &mut |frame: &llamafs::store::FrameInfo| {
            assert!(frame.lsn >= at && frame.total > 0, "out of order: {frame:?} behind {at}");
            at = frame.lsn;
            ControlFlow::Continue(())
        };
        image.for_each_frame(true, each).expect("the device never fails here");
        for log in image.logs().iter().take(LOGS) {
            self.read_offline(&image, log);
        }
        if self.patched.places.is_empty() && self.same_size(device) {
            assert!(report.damage.is_empty() && image.recovery().damage.is_empty(), "{report:?}");
            assert_eq!(image.logs()[0].size, self.shape.log.len() as u64);
        }
    }

    fn read_offline(&self, image: &Image, log: &LogInfo) {
        let mut next = 0;
        let mut pieces = Vec::new();
        let gaps = image.read_log(&log.name, &mut |offset, bytes| {
            assert!(offset >= next, "{offset} behind {next}");
            next = offset + bytes.len() as u64;
            pieces.push((offset, bytes.to_vec()));
            Ok(())
        });
        let gaps = gaps.expect("the device never fails here");
        if self.forged || log.id != LOG {
            return;
        }
        for (offset, bytes) in &pieces {
            self.right(*offset, bytes);
        }
        for (offset, len, place) in self.untouched() {
            let there = pieces.iter().any(|(at, bytes)| *at == offset && bytes.len() as u64 == len);
            assert!(there, "the record at {offset} ({place:?}) was not touched and is in a gap: {gaps:?}");
        }
    }

    /// Bytes that were read of `/log` are those that were written.
    fn right(&self, offset: u64, bytes: &[u8]) {
        let from = offset as usize;
        let written = self.shape.log.get(from..from + bytes.len());
        assert!(
            bytes.is_empty() || written == Some(bytes),
            "{} bytes read at {offset} are not what was written",
            bytes.len()
        );
    }

    /// Records that must be readable: theirs and everything that leads to them was left alone.
    fn untouched(&self) -> Vec<(u64, u64, std::ops::Range<u64>)> {
        let data = self.shape.superblock.data_start;
        let header = |at: u64| at < data || (at - data).is_multiple_of(super::images::SEGMENT as u64);
        let leads = |place: &std::ops::Range<u64>| header(place.start) || header(place.end - 1);
        let mut headers = self.shape.frames.iter().filter(|frame| frame.kind == "SEGM");
        let header_hit = headers.any(|f| self.patched.touches(&(f.device_offset..f.device_offset + f.total)));
        if self.forged || !self.shape.clean || self.shape.cleaned || header_hit || self.patched.places.iter().any(leads)
        {
            return Vec::new();
        }
        self.shape.records().filter(|(_, _, place)| !self.patched.touches(place) && !self.is_claimed(place)).collect()
    }

    /// It lies within what a damaged frame says that it takes.
    fn is_claimed(&self, place: &std::ops::Range<u64>) -> bool {
        self.claimed.iter().any(|claimed| claimed.start < place.start && place.end <= claimed.end)
    }

    fn same_size(&self, device: &SimDevice) -> bool {
        device.geometry().capacity == self.shape.device.geometry().capacity
    }

    fn samples(&self, store: &LogStructuredStore) -> Vec<Sample> {
        let mut samples = Vec::new();
        for log in store.logs().iter().take(LOGS) {
            let mut offsets: Vec<u64> = self.shape.records().map(|(offset, ..)| offset).collect();
            offsets.extend(self.places);
            offsets.extend([log.head, log.size.saturating_sub(PIECE as u64 / 2)]);
            for offset in offsets {
                let read = store.read_now(log.id, offset, PIECE).map_err(|error| error.to_string());
                if let Ok(bytes) = &read {
                    assert!(bytes.len() <= PIECE && offset.saturating_add(bytes.len() as u64) <= log.size.max(offset));
                }
                samples.push((log.id, offset, read));
            }
        }
        samples
    }

    fn mount_to_read(&self, device: &SimDevice) -> Option<Vec<Sample>> {
        let guard = Guard::new(device.crash(0), false);
        let options = StoreOptions { read_only: true, ..options(self.tail) };
        let store = LogStructuredStore::open(guard as Arc<dyn Device>, options).ok()?;
        let samples = self.samples(&store);
        self.judge(&store, &samples);
        show_status(&store);
        assert!(append(&store, LOG, b"x").is_err());
        store.close().expect("closing what was only read writes nothing");
        Some(samples)
    }

    /// What a mount shows is right, whole where nothing was touched, and what is missing is told.
    fn judge(&self, store: &LogStructuredStore, samples: &[Sample]) {
        if self.forged {
            return;
        }
        let (head, size) = store.log(LOG).map_or((0, 0), |log| (log.head, log.size));
        let report: RecoveryReport = store.stats().recovery;
        let whole = self.shape.log.len() as u64;
        assert!(size <= whole, "{size} bytes of {whole} that were written: {report:?}");
        let told = !report.damage.is_empty() || !report.notes.is_empty() || report.cut_bytes > 0;
        let left = size - head;
        assert!(left == whole || told, "{left} bytes of {whole} are left and nothing is said: {report:?}");
        for (_, offset, read) in samples.iter().filter(|(log, ..)| *log == LOG) {
            if let Ok(bytes) = read {
                // What lies below the head reads as zeros. Heads are what was left, where all that told of them is lost.
                let hole = usize::try_from(head.saturating_sub(*offset)).unwrap_or(usize::MAX).min(bytes.len());
                assert!(bytes[..hole].iter().all(|byte| *byte == 0), "bytes at {offset}, below the head {head}");
                self.right(*offset + hole as u64, &bytes[hole..]);
            }
        }
        for (offset, len, _) in self.untouched() {
            let read = store.read_now(LOG, offset, len as usize);
            let there = read.as_ref().is_ok_and(|bytes| bytes.len() as u64 == len);
            assert!(there, "the record at {offset} was not touched: {read:?}");
        }
    }

    fn mount_to_write(&self, device: &SimDevice, seen: Option<Vec<Sample>>) {
        let guard = Guard::new(device.crash(0), true);
        let store = match LogStructuredStore::open(guard.clone() as Arc<dyn Device>, options(self.tail)) {
            Ok(store) => store,
            Err(error) => {
                assert!(!matches!(error, OpenError::Device { .. }), "{error}");
                assert_eq!(guard.writes(), 0, "{error}: but it was written to");
                return;
            }
        };
        let samples = self.samples(&store);
        let seen = seen.expect("what can be mounted to write can be mounted to read");
        // What is said of what can't be read may differ: a mount that writes has begun behind it.
        let bytes = |(log, offset, read): &Sample| (*log, *offset, read.clone().ok());
        let other = samples.iter().zip(&seen).find(|(one, two)| bytes(one) != bytes(two));
        assert!(samples.len() == seen.len() && other.is_none(), "two mounts of one image show two things: {other:?}");
        let mut appended = Vec::new();
        for number in 0..APPENDS {
            let Some(log) = store.logs().first().map(|log| log.id) else { break };
            let data = super::images::record(1000 + number as u64 * 7);
            let offset = store.log(log).map_or(0, |log| log.size);
            let Ok(lsn) = append(&store, log, &data) else { break };
            let _ = store.make_stable_now(lsn);
            let read = store.read_now(log, offset, data.len());
            assert!(self.forged || read.is_ok(), "{read:?}");
            let wrong = read.as_ref().is_ok_and(|read| *read != data);
            // Where a forged size goes back, older records are found in front of it.
            assert!(
                self.forged || !wrong,
                "at {offset}, behind {lsn}: {} bytes of {}",
                read.map_or(0, |read| read.len()),
                data.len()
            );
            appended.push((log, offset, data));
        }
        show_status(&store);
        let next = match self.crash {
            Some(seed) => guard.sim.crash(seed),
            None => {
                let closed = store.close();
                assert!(self.forged || closed.is_ok(), "{closed:?}");
                guard.sim.crash(0)
            }
        };
        drop(store);
        self.mount_again(next, &samples, &appended);
    }

    fn mount_again(&self, device: SimDevice, samples: &[Sample], appended: &[(u32, u64, Vec<u8>)]) {
        let guard = Guard::new(device, true);
        let opened = LogStructuredStore::open(guard as Arc<dyn Device>, options(self.tail));
        if self.forged {
            drop(opened.map(|store| self.samples(&store)));
            return;
        }
        let store = opened.unwrap_or_else(|error| panic!("a store that was written to is refused: {error}"));
        for (log, offset, data) in appended {
            let read = store.read_now(*log, *offset, data.len());
            assert!(read.as_ref() == Ok(data), "acknowledged at {offset}: {read:?}");
        }
        for (log, offset, read) in samples {
            let Ok(before) = read else { continue };
            // A frame that follows by now is a reason to believe the claim.
            let hidden = |(from, len, place): (u64, u64, _)| {
                self.is_claimed(&place) && from < offset + before.len() as u64 && *offset < from + len
            };
            if *log == LOG && self.shape.records().any(hidden) {
                continue;
            }
            let now = store.read_now(*log, *offset, before.len());
            assert!(now.as_ref() == Ok(before), "read at {offset} before: {now:?}");
        }
    }
}

/// The control files' texts stay lines of `key: value`, whatever the names of logs and the label are.
fn show_status(store: &Arc<LogStructuredStore>) {
    let fs = LlamaFs::new(store.clone(), FsSettings::default(), Box::new(NoPageCache));
    super::control::check_texts(&fs);
}
