//! What the damage tests share: small stores on simulated disks, and everything that can be asked of one.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::ops::ControlFlow;
use std::sync::Arc;

use llamafs::io::{Device, SimDevice};
use llamafs::store::salvage::{SalvageError, Salvaged, Sink, salvage};
use llamafs::store::{
    AppendAt, CheckReport, FormatOptions, FrameInfo, Gap, Image, LogStructuredStore, OpenError, StoreError,
    StoreOptions, Tail,
};

pub const LOG: u32 = 1;
pub const SEGMENT: u64 = 64 << 10;
pub const MAX_RECORD: usize = 8 << 10;
const BUFFER: usize = 20 << 10;

pub fn device(capacity: u64) -> Arc<SimDevice> {
    let device = Arc::new(SimDevice::new(capacity, 1));
    let format = FormatOptions {
        segment_size: Some(SEGMENT as u32),
        max_record: Some(MAX_RECORD as u32),
        now_ns: Some(1),
        uuid: Some([7; 16]),
        ..FormatOptions::default()
    };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    device
}

pub fn open(device: &Arc<SimDevice>, tail: Tail) -> Result<Arc<LogStructuredStore>, OpenError> {
    let options = StoreOptions { buffer_size: BUFFER, tail, ..StoreOptions::default() };
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options)
}

pub fn open_read_only(device: &Arc<SimDevice>) -> Result<Arc<LogStructuredStore>, OpenError> {
    let options = StoreOptions { read_only: true, buffer_size: BUFFER, ring_size: 2, ..StoreOptions::default() };
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options)
}

pub fn image(device: &Arc<SimDevice>) -> Image {
    Image::open(device.clone() as Arc<dyn Device>).unwrap()
}

pub fn check(device: &Arc<SimDevice>) -> CheckReport {
    image(device).check(&mut |_, _| {}).unwrap()
}

/// The log as `llamafs cat` shows it, with the places that it leaves out.
pub fn cat(device: &Arc<SimDevice>) -> (Vec<u8>, Vec<Gap>) {
    let mut bytes = Vec::new();
    let gaps = image(device).read_log(b"log", &mut |offset, data| {
        bytes.resize(offset as usize, 0);
        bytes.extend_from_slice(data);
        Ok(())
    });
    (bytes, gaps.unwrap())
}

pub fn frames(device: &Arc<SimDevice>) -> Vec<FrameInfo> {
    let mut frames = Vec::new();
    let keep = &mut |frame: &FrameInfo| {
        frames.push(frame.clone());
        ControlFlow::Continue(())
    };
    image(device).for_each_frame(false, keep).unwrap();
    frames
}

pub fn data_frames(device: &Arc<SimDevice>) -> Vec<FrameInfo> {
    frames(device).into_iter().filter(|frame| frame.kind == "DATA").collect()
}

/// A record whose bytes and length depend on its number.
pub fn record(number: u64, longest: u64) -> Vec<u8> {
    let len = 1 + (number.wrapping_mul(2_654_435_761) % longest) as usize;
    (0..len).map(|at| (number as usize * 31 + at) as u8).collect()
}

pub fn append(store: &Arc<LogStructuredStore>, data: &[u8]) -> Result<u64, StoreError> {
    loop {
        match store.try_append(LOG, data, AppendAt::End) {
            Err(StoreError::WouldBlock) => {
                store.poll(true);
            }
            other => return other.map(|appended| appended.end_lsn),
        }
    }
}

/// All of a log that can be read, by reads of `step` bytes; an error is passed over byte by byte of `step`.
pub fn read_all(store: &Arc<LogStructuredStore>, step: usize) -> Vec<u8> {
    let size = store.log(LOG).unwrap().size as usize;
    let mut out = Vec::new();
    while out.len() < size {
        let piece = store.read_now(LOG, out.len() as u64, step).unwrap();
        assert!(!piece.is_empty(), "read stopped at {} of {size}", out.len());
        out.extend(piece);
    }
    out
}

/// The same disk once more, for a change of its own: nothing is copied until it is written.
pub fn fork(device: &Arc<SimDevice>) -> Arc<SimDevice> {
    let fork = device.crash(1);
    fork.max_delay(0);
    Arc::new(fork)
}

/// What salvage gives: one log, by name or by id, and its gaps.
#[derive(Default)]
pub struct Taken {
    pub logs: std::collections::BTreeMap<u32, (Salvaged, Vec<u8>, Vec<Gap>)>,
}

/// No test store holds more: a larger offset is one that nobody wrote.
const LARGEST_LOG: u64 = 16 << 20;

impl Sink for Taken {
    fn bytes(&mut self, log: &Salvaged, offset: u64, data: &[u8]) -> Result<(), SalvageError> {
        let end = offset.saturating_add(data.len() as u64);
        if end < LARGEST_LOG {
            let (_, bytes, _) = self.logs.entry(log.id).or_insert_with(|| (log.clone(), Vec::new(), Vec::new()));
            bytes.resize(bytes.len().max(end as usize), 0);
            bytes[offset as usize..end as usize].copy_from_slice(data);
        }
        Ok(())
    }

    fn gap(&mut self, log: &Salvaged, gap: Gap) -> Result<(), SalvageError> {
        let (_, _, gaps) = self.logs.entry(log.id).or_insert_with(|| (log.clone(), Vec::new(), Vec::new()));
        gaps.push(gap);
        Ok(())
    }

    fn end(&mut self, log: &Salvaged, size: u64) -> Result<(), SalvageError> {
        let (_, bytes, _) = self.logs.entry(log.id).or_insert_with(|| (log.clone(), Vec::new(), Vec::new()));
        bytes.resize(bytes.len().max(size.min(LARGEST_LOG) as usize), 0);
        Ok(())
    }
}

/// Salvage a store; the bytes of its log, and the gaps in them.
pub fn salvaged(device: &Arc<SimDevice>) -> (Vec<u8>, Vec<Gap>) {
    let mut taken = Taken::default();
    salvage(device.clone() as Arc<dyn Device>, &mut taken, &mut |_, _| {}).unwrap();
    let (log, bytes, gaps) =
        taken.logs.remove(&LOG).unwrap_or_else(|| panic!("the log is not among what was salvaged"));
    assert!(log.path.is_empty() || log.path == [b"log"], "{log:?}");
    (bytes, gaps)
}

/// Bytes of a store that salvage can't explain.
pub fn unexplained(device: &Arc<SimDevice>) -> u64 {
    salvage(device.clone() as Arc<dyn Device>, &mut Taken::default(), &mut |_, _| {}).unwrap().unexplained
}

/// `bytes` are `expected` everywhere but in `gaps`, and nothing is missing without a gap.
pub fn same_but_for_gaps(bytes: &[u8], gaps: &[Gap], expected: &[u8], what: &str) {
    let mut at = 0;
    let end = |gap: &Gap| (gap.offset + gap.len) as usize;
    for gap in gaps {
        let start = gap.offset as usize;
        assert!(start >= at && end(gap) <= expected.len(), "{what}: {gap:?} of {} bytes", expected.len());
        assert!(bytes[at..start] == expected[at..start], "{what}: silently different data before {gap:?}");
        at = end(gap);
    }
    assert!(
        bytes.len().max(at) == expected.len(),
        "{what}: {} of {} bytes, gaps {gaps:?}",
        bytes.len(),
        expected.len()
    );
    assert!(bytes.get(at..).unwrap_or(&[]) == &expected[at..], "{what}: silently different data behind {at}");
}
