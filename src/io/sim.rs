//! A disk in memory that behaves as badly as a disk may, and always the same way for the same seed.
//!
//! Writes go to a volatile cache over stable sectors; a flush makes them stable, a `dsync` write makes its own bytes
//! stable. Requests are carried out when they are reaped, late and out of order. [`SimDevice::crash`] gives the disk
//! as it may be found after a power failure: stable sectors, and any part of what was not stable, torn between
//! sectors of 512 bytes. Driven by one thread, nothing depends on time or scheduling.

mod chance;
mod pages;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use parking_lot::{Condvar, Mutex};

use self::chance::{Kept, Rng, scatter};
use self::pages::{Pages, pieces};
use super::buffer::SharedBuffer;
use super::device::{Completion, Device, Geometry, Request, SubmitError};

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimOp {
    /// A write, durable or not.
    Write,
    /// A read.
    Read,
    /// A flush.
    Flush,
}

/// What shall go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimFault {
    /// Fail with this errno. A write leaves any part of its sectors behind, a flush leaves everything volatile.
    Error(i32),
    /// Move so many bytes and no more.
    Short(u32),
}

/// Requests carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimOps {
    /// Writes.
    pub writes: u64,
    /// Reads.
    pub reads: u64,
    /// Flushes.
    pub flushes: u64,
}

impl SimOps {
    /// All of them: the clock of [`SimDevice::power_off_after`].
    pub fn total(&self) -> u64 {
        self.writes + self.reads + self.flushes
    }

    fn count(&mut self, op: SimOp) -> u64 {
        let counter = match op {
            SimOp::Write => &mut self.writes,
            SimOp::Read => &mut self.reads,
            SimOp::Flush => &mut self.flushes,
        };
        *counter += 1;
        *counter
    }
}

/// The simulated disk.
pub struct SimDevice {
    geometry: Geometry,
    sim: Mutex<Sim>,
    /// Something came in, a stall ended, or the owner of completions was woken.
    changed: Condvar,
}

struct Sim {
    /// What a read sees.
    current: Pages,
    /// What outlives a power failure for certain. Equal to `current` in every sector that is not dirty.
    stable: Pages,
    /// Sectors that are in the volatile cache alone, a bit each, by page.
    dirty: BTreeMap<usize, u8>,
    cached: bool,
    rng: Rng,
    /// Requests, each with the tick at which it is carried out.
    pending: Vec<(u64, Request)>,
    tick: u64,
    max_delay: u64,
    /// One in so many writes and reads is short; 0: none.
    short_one_in: u64,
    faults: Vec<Planned>,
    bad: Vec<Range<u64>>,
    /// Requests until the power fails.
    power: Option<u64>,
    stalled: bool,
    woken: bool,
    ops: SimOps,
}

struct Planned {
    op: SimOp,
    /// Counts of that kind of request that it happens to.
    when: Range<u64>,
    fault: SimFault,
}

impl SimDevice {
    /// A disk of zeros with sectors of 512 bytes and a volatile cache.
    pub fn new(capacity: u64, seed: u64) -> SimDevice {
        Self::with_geometry(Geometry { capacity, block: 512, memory_align: 512, write_cache: true }, seed)
    }

    /// A disk of zeros.
    pub fn with_geometry(geometry: Geometry, seed: u64) -> SimDevice {
        Self::from_stable(geometry, Pages::default(), Rng(seed), 3)
    }

    /// A disk with this content, all of it stable.
    pub fn from_bytes(bytes: &[u8], seed: u64) -> SimDevice {
        let device = Self::new(bytes.len() as u64, seed);
        device.poke(0, bytes);
        device
    }

    fn from_stable(geometry: Geometry, stable: Pages, rng: Rng, max_delay: u64) -> SimDevice {
        let sim = Sim {
            current: stable.clone(),
            stable,
            dirty: BTreeMap::new(),
            cached: geometry.write_cache,
            rng,
            pending: Vec::new(),
            tick: 0,
            max_delay,
            short_one_in: 0,
            faults: Vec::new(),
            bad: Vec::new(),
            power: None,
            stalled: false,
            woken: false,
            ops: SimOps::default(),
        };
        SimDevice { geometry, sim: Mutex::new(sim), changed: Condvar::new() }
    }

    /// The disk as it may be after a power failure at this moment: its stable sectors, and any part of the cache and
    /// of the writes that are under way. This disk is not changed.
    pub fn crash(&self, seed: u64) -> SimDevice {
        let mut rng = Rng(seed);
        let sim = self.sim.lock();
        let mut stable = sim.stable.clone();
        let kept = Kept::choose(&mut rng);
        for (&page, &mask) in &sim.dirty {
            stable.take_sectors(&sim.current, page, mask & kept.sectors(&mut rng));
        }
        for (_, request) in &sim.pending {
            if let Request::Write { offset, ptr, len, .. } = *request {
                // SAFETY: a pending request's memory is valid and unchanged until it is reaped (`Device::submit`).
                let bytes = unsafe { std::slice::from_raw_parts(ptr, len as usize) };
                scatter(&mut stable, offset, bytes, &mut rng, kept, |_, _| {});
            }
        }
        let max_delay = sim.max_delay;
        drop(sim);
        Self::from_stable(self.geometry, stable, rng, max_delay)
    }

    /// What a read of the whole disk gives.
    pub fn snapshot(&self) -> Vec<u8> {
        self.peek(0, self.geometry.capacity as usize)
    }

    /// What a read gives.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.sim.lock().current.read(offset, &mut bytes);
        bytes
    }

    /// Change the disk behind its user's back, stably.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let sim = &mut *self.sim.lock();
        for piece in pieces(offset, bytes.len()) {
            if let Some(part) = bytes.get(piece.at..piece.at + piece.len) {
                sim.current.write(piece, part);
                sim.stable.write(piece, part);
            }
        }
    }

    /// Flip the bits `xor` of one byte.
    pub fn corrupt(&self, offset: u64, xor: u8) {
        let sim = &mut *self.sim.lock();
        for pages in [&mut sim.current, &mut sim.stable] {
            let mut byte = [0];
            pages.read(offset, &mut byte);
            pieces(offset, 1).for_each(|piece| pages.write(piece, &byte.map(|b| b ^ xor)));
        }
    }

    /// Let `fault` happen `times` times, to the requests of kind `op` from the `nth` on; 0 is the next one.
    pub fn inject(&self, op: SimOp, nth: u64, times: u64, fault: SimFault) {
        let mut sim = self.sim.lock();
        let done = sim.ops;
        let done = match op {
            SimOp::Write => done.writes,
            SimOp::Read => done.reads,
            SimOp::Flush => done.flushes,
        };
        let first = done.saturating_add(1).saturating_add(nth);
        sim.faults.push(Planned { op, when: first..first.saturating_add(times), fault });
    }

    /// Reads that touch this place fail with EIO.
    pub fn bad_sectors(&self, place: Range<u64>) {
        self.sim.lock().bad.push(place);
    }

    /// Make one in `n` writes and reads short, at a block; 0: none.
    pub fn short_one_in(&self, n: u64) {
        self.sim.lock().short_one_in = n;
    }

    /// A request may be overtaken for so many calls of `reap`; 0: all are done at once, in order.
    pub fn max_delay(&self, calls: u64) {
        self.sim.lock().max_delay = calls;
    }

    /// Carry out `n` more requests; then everything fails, and the content is what a power failure left. Follow it
    /// with [`SimDevice::crash`].
    pub fn power_off_after(&self, n: u64) {
        self.sim.lock().power = Some(n);
    }

    /// The power has failed.
    pub fn is_off(&self) -> bool {
        self.sim.lock().power == Some(0)
    }

    /// While stalled, nothing completes.
    pub fn stall(&self, stalled: bool) {
        self.sim.lock().stalled = stalled;
        self.changed.notify_all();
    }

    /// Requests carried out since the disk was made.
    pub fn ops(&self) -> SimOps {
        self.sim.lock().ops
    }

    /// Requests under way.
    pub fn pending(&self) -> usize {
        self.sim.lock().pending.len()
    }
}

impl Sim {
    /// Carry out what is due; with `wait`, let time pass until something is.
    fn run(&mut self, wait: bool, out: &mut Vec<Completion>) {
        self.tick += 1;
        if let (true, Some(&(first, _))) = (wait, self.pending.iter().min_by_key(|(due, _)| *due)) {
            self.tick = self.tick.max(first);
        }
        let now = self.tick;
        let mut due: Vec<(u64, Request)> = self.pending.extract_if(.., |(due, _)| *due <= now).collect();
        // In order of their time; those of the same time in any order.
        if self.max_delay > 0 {
            due.sort_by_cached_key(|(due, _)| (*due, self.rng.next()));
        }
        let mut due = due.into_iter();
        while let Some((_, request)) = due.next() {
            if self.power == Some(1) {
                // What was under way when the power failed is done in part.
                let rest: Vec<(u64, Request)> = due.as_slice().to_vec();
                self.pending.iter().chain(&rest).map(|(_, r)| *r).collect::<Vec<_>>().iter().for_each(|r| self.tear(r));
            }
            let result = self.execute(&request);
            if let Some(left) = self.power.as_mut() {
                *left = left.saturating_sub(1);
            }
            out.push(Completion { token: request.token(), result });
        }
    }

    fn execute(&mut self, request: &Request) -> Result<u32, i32> {
        let (op, offset, len) = match *request {
            Request::Write { offset, len, .. } => (SimOp::Write, offset, len),
            Request::Read { offset, len, .. } => (SimOp::Read, offset, len),
            Request::Flush { .. } => (SimOp::Flush, 0, 0),
        };
        if self.power == Some(0) {
            return Err(libc::EIO);
        }
        let count = self.ops.count(op);
        let planned = self.faults.iter().find(|f| f.op == op && f.when.contains(&count)).map(|f| f.fault);
        let short = self.short_one_in > 0 && len > 512 && self.rng.next().is_multiple_of(self.short_one_in);
        let moved = match planned {
            Some(SimFault::Error(errno)) => {
                self.tear(request);
                return Err(errno);
            }
            Some(SimFault::Short(bytes)) => bytes.min(len),
            None if short => len - self.rng.below(u64::from(len / 512)) as u32 * 512,
            None => len,
        };
        match *request {
            Request::Write { ptr, dsync, .. } => {
                // SAFETY: the request was not reaped, so its memory is valid and unchanged (`Device::submit`).
                let bytes = unsafe { std::slice::from_raw_parts(ptr, moved as usize) };
                self.write(offset, bytes, dsync);
            }
            Request::Read { ptr, .. } => {
                let end = offset + u64::from(moved);
                if self.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
                    return Err(libc::EIO);
                }
                // SAFETY: the request was not reaped, so its memory is valid and ours alone (`Device::submit`).
                let bytes = unsafe { std::slice::from_raw_parts_mut(ptr, moved as usize) };
                self.current.read(offset, bytes);
            }
            Request::Flush { .. } => {
                for page in std::mem::take(&mut self.dirty).into_keys() {
                    self.stable.share_page(&self.current, page);
                }
            }
        }
        Ok(moved)
    }

    fn write(&mut self, offset: u64, bytes: &[u8], dsync: bool) {
        for piece in pieces(offset, bytes.len()) {
            let Some(part) = bytes.get(piece.at..piece.at + piece.len) else {
                return;
            };
            let touched = piece.sectors();
            let mask = self.dirty.get(&piece.page).copied().unwrap_or(0);
            if mask & touched != 0 {
                // The cache may have written back the older content of a sector at any time since.
                let evicted = mask & touched & (self.rng.next() & self.rng.next()) as u8;
                self.stable.take_sectors(&self.current, piece.page, evicted);
            }
            self.current.write(piece, part);
            let left = if dsync || !self.cached { mask & !touched } else { mask | touched };
            if left == 0 {
                self.stable.share_page(&self.current, piece.page);
                self.dirty.remove(&piece.page);
            } else {
                self.stable.take_sectors(&self.current, piece.page, touched & !left);
                self.dirty.insert(piece.page, left);
            }
        }
    }

    /// A write that did not succeed: any part of its sectors may be there, in the cache or on the media.
    fn tear(&mut self, request: &Request) {
        if let Request::Write { offset, ptr, len, .. } = *request {
            // SAFETY: the request was not reaped, so its memory is valid and unchanged (`Device::submit`).
            let bytes = unsafe { std::slice::from_raw_parts(ptr, len as usize) };
            let kept = Kept::choose(&mut self.rng);
            let dirty = &mut self.dirty;
            scatter(&mut self.current, offset, bytes, &mut self.rng, kept, |page, mask| {
                *dirty.entry(page).or_insert(0) |= mask;
            });
        }
    }
}

impl Device for SimDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn describe(&self) -> String {
        "simulated disk".to_string()
    }

    fn register(&self, _buffers: &[SharedBuffer]) -> io::Result<()> {
        Ok(())
    }

    unsafe fn submit(&self, requests: &[Request]) -> Result<(), SubmitError> {
        let mut sim = self.sim.lock();
        for request in requests {
            let delay = if sim.max_delay > 0 { sim.max_delay + 1 } else { 1 };
            let due = sim.tick + 1 + sim.rng.below(delay);
            sim.pending.push((due, *request));
        }
        drop(sim);
        self.changed.notify_all();
        Ok(())
    }

    fn reap(&self, out: &mut Vec<Completion>, wait: bool) -> io::Result<()> {
        let mut sim = self.sim.lock();
        loop {
            if std::mem::take(&mut sim.woken) {
                return Ok(());
            }
            if !sim.stalled && !sim.pending.is_empty() {
                sim.run(wait, out);
                return Ok(());
            }
            if !wait {
                return Ok(());
            }
            self.changed.wait(&mut sim);
        }
    }

    fn wake(&self) {
        self.sim.lock().woken = true;
        self.changed.notify_all();
    }
}

impl std::fmt::Debug for SimDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDevice").field("geometry", &self.geometry).field("ops", &self.ops()).finish()
    }
}
