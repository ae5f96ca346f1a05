//! A disk in memory that behaves as badly as a disk may, and always the same way for the same seed.
//!
//! Writes go to a volatile cache over stable sectors; a flush makes them stable, a `dsync` write makes its own bytes
//! stable. Requests are carried out when they are reaped, late and out of order. [`SimDevice::crash`] gives the disk
//! as it may be found after a power failure: stable sectors, and any part of what was not stable, torn between
//! sectors of 512 bytes or 4 KiB, or with garbage in them. [`SimDevice::kill`] gives the disk as the next process
//! finds it when this one was killed. Driven by one thread, nothing depends on time or scheduling.

mod chance;
mod disk;
mod fault;
mod pages;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use crate::sync::{Condvar, Mutex};

use self::chance::{Rng, Tear};
use self::disk::Disk;
use self::fault::Planned;
pub use self::fault::{SectorModel, SimFault, SimOp, SimOps};
use self::pages::{Pages, pieces};
use super::buffer::SharedBuffer;
use super::device::{Completion, Device, Geometry, Request, SubmitError};

/// Calls of `reap` that a request may be overtaken for, unless it is said otherwise.
const DEFAULT_DELAY: u64 = 3;
/// Sectors of 512 bytes with their old or their new content.
const DEFAULT_TEAR: Tear = Tear { whole_pages: false, model: SectorModel::OldOrNew };

/// The simulated disk.
pub struct SimDevice {
    geometry: Geometry,
    disk: Mutex<Disk>,
    /// Something came in, a stall ended, or the owner of completions was woken.
    changed: Condvar,
}

impl SimDevice {
    /// A disk of zeros with sectors of 512 bytes and a volatile cache.
    pub fn new(capacity: u64, seed: u64) -> SimDevice {
        Self::with_geometry(Geometry { capacity, block: 512, memory_align: 512, write_cache: true }, seed)
    }

    /// A disk of zeros.
    pub fn with_geometry(geometry: Geometry, seed: u64) -> SimDevice {
        Self::from_stable(geometry, Pages::default(), Rng(seed), DEFAULT_DELAY, DEFAULT_TEAR)
    }

    /// A disk with this content, all of it stable.
    pub fn from_bytes(bytes: &[u8], seed: u64) -> SimDevice {
        let device = Self::new(bytes.len() as u64, seed);
        device.poke(0, bytes);
        device
    }

    fn from_stable(geometry: Geometry, stable: Pages, rng: Rng, max_delay: u64, tear: Tear) -> SimDevice {
        let disk = Disk {
            current: stable.clone(),
            stable,
            dirty: BTreeMap::new(),
            capacity: geometry.capacity,
            block: geometry.block.max(1),
            cached: geometry.write_cache,
            rng,
            tear,
            pending: Vec::new(),
            submitted: 0,
            tick: 0,
            max_delay,
            one_by_one: false,
            short_one_in: 0,
            faults: Vec::new(),
            bad: Vec::new(),
            power: None,
            stalled: false,
            woken: false,
            ops: SimOps::default(),
        };
        SimDevice { geometry, disk: Mutex::new(disk), changed: Condvar::new() }
    }

    /// The disk as it may be after a power failure at this moment: its stable sectors, and any part of the cache and
    /// of the writes that are under way. This disk is not changed.
    pub fn crash(&self, seed: u64) -> SimDevice {
        let (mut rng, geometry) = (Rng(seed), self.geometry());
        let disk = self.disk.lock();
        let stable = disk.after_power_failure(&mut rng);
        let (max_delay, tear) = (disk.max_delay, disk.tear);
        drop(disk);
        Self::from_stable(geometry, stable, rng, max_delay, tear)
    }

    /// Sectors that a power failure at this moment may spare or not: place and new content, oldest first. Those that
    /// would not change are left out.
    pub fn in_flight(&self) -> Vec<(u64, Vec<u8>)> {
        self.disk.lock().in_flight()
    }

    /// The disk after a power failure that spared these sectors (of [`SimDevice::in_flight`]) and no others. This disk
    /// is not changed.
    pub fn crash_sparing<'a>(&self, spared: impl IntoIterator<Item = (u64, &'a [u8])>) -> SimDevice {
        let geometry = self.geometry();
        let disk = self.disk.lock();
        let next = Self::from_stable(geometry, disk.stable.clone(), Rng(0), disk.max_delay, disk.tear);
        drop(disk);
        spared.into_iter().for_each(|(place, bytes)| next.poke(place, bytes));
        next
    }

    /// Carry out one request with each call of `reap`.
    pub fn one_by_one(&self, one_by_one: bool) {
        self.disk.lock().one_by_one = one_by_one;
    }

    /// The disk as the next process finds it when this one was killed: its cache is what it was, and of the requests
    /// under way any were carried out, in whole or in part. This disk is not changed.
    pub fn kill(&self, seed: u64) -> SimDevice {
        let geometry = self.geometry();
        let disk = self.disk.lock();
        let next = Self::from_stable(geometry, disk.stable.clone(), Rng(seed), disk.max_delay, disk.tear);
        {
            let mut there = next.disk.lock();
            there.current = disk.current.clone();
            there.dirty.clone_from(&disk.dirty);
            // The power holds: a sector has its old or its new content.
            let tear = std::mem::replace(&mut there.tear, DEFAULT_TEAR);
            disk.pending.iter().for_each(|pending| there.tear_write(&pending.request));
            there.tear = tear;
        }
        next
    }

    /// From the next power failure on: sectors of 4 KiB (else 512 bytes) are written whole or not at all, and what
    /// becomes of those that were being written.
    pub fn tears(&self, whole_pages: bool, model: SectorModel) {
        self.disk.lock().tear = Tear { whole_pages, model };
    }

    /// The disk becomes larger by so many bytes of zeros.
    pub fn grow(&self, bytes: u64) {
        self.disk.lock().capacity += bytes;
    }

    /// What a read of the whole disk gives.
    pub fn snapshot(&self) -> Vec<u8> {
        self.peek(0, self.geometry().capacity as usize)
    }

    /// What a read gives.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.disk.lock().current.read(offset, &mut bytes);
        bytes
    }

    /// Change the disk behind its user's back, stably.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let disk = &mut *self.disk.lock();
        for piece in pieces(offset, bytes.len()) {
            if let Some(part) = bytes.get(piece.at..piece.at + piece.len) {
                disk.current.write(piece, part);
                disk.stable.write(piece, part);
            }
        }
    }

    /// Flip the bits `xor` of one byte.
    pub fn corrupt(&self, offset: u64, xor: u8) {
        let disk = &mut *self.disk.lock();
        for pages in [&mut disk.current, &mut disk.stable] {
            let mut byte = [0];
            pages.read(offset, &mut byte);
            pieces(offset, 1).for_each(|piece| pages.write(piece, &byte.map(|b| b ^ xor)));
        }
    }

    /// Let `fault` happen `times` times, to the requests of kind `op` from the `nth` on; 0 is the next one.
    pub fn inject(&self, op: SimOp, nth: u64, times: u64, fault: SimFault) {
        let mut disk = self.disk.lock();
        let first = disk.ops.of(op).saturating_add(1).saturating_add(nth);
        disk.faults.push(Planned { op, when: first..first.saturating_add(times), fault });
    }

    /// No more faults than have happened.
    pub fn heal(&self) {
        let mut disk = self.disk.lock();
        disk.faults.clear();
        disk.bad.clear();
        disk.short_one_in = 0;
    }

    /// Reads that touch this place fail with EIO.
    pub fn bad_sectors(&self, place: Range<u64>) {
        self.disk.lock().bad.push(place);
    }

    /// Make one in `n` writes and reads short, at a block; 0: none.
    pub fn short_one_in(&self, n: u64) {
        self.disk.lock().short_one_in = n;
    }

    /// A request may be overtaken for so many calls of `reap`; 0: all are done at once, in order.
    pub fn max_delay(&self, calls: u64) {
        self.disk.lock().max_delay = calls;
    }

    /// Carry out `n` more requests; then everything fails, and the content is what a power failure left. Follow it
    /// with [`SimDevice::crash`].
    pub fn power_off_after(&self, n: u64) {
        self.disk.lock().power = Some(n);
    }

    /// The power fails now: every request from here on fails. Take [`SimDevice::crash`] before it.
    pub fn power_off(&self) {
        let mut disk = self.disk.lock();
        disk.power = Some(0);
        disk.stalled = false;
        drop(disk);
        self.changed.notify_all();
    }

    /// The power has failed.
    pub fn is_off(&self) -> bool {
        self.disk.lock().power == Some(0)
    }

    /// While stalled, nothing completes.
    pub fn stall(&self, stalled: bool) {
        self.disk.lock().stalled = stalled;
        self.changed.notify_all();
    }

    /// Requests carried out since the disk was made.
    pub fn ops(&self) -> SimOps {
        self.disk.lock().ops
    }

    /// Requests under way.
    pub fn pending(&self) -> usize {
        self.disk.lock().pending.len()
    }
}

impl Device for SimDevice {
    fn geometry(&self) -> Geometry {
        Geometry { capacity: self.disk.lock().capacity, ..self.geometry }
    }

    fn describe(&self) -> String {
        "simulated disk".to_string()
    }

    fn register(&self, _buffers: &[SharedBuffer]) -> io::Result<()> {
        Ok(())
    }

    unsafe fn submit(&self, requests: &[Request]) -> Result<(), SubmitError> {
        let mut disk = self.disk.lock();
        requests.iter().for_each(|request| disk.submit(*request));
        drop(disk);
        self.changed.notify_all();
        Ok(())
    }

    fn reap(&self, out: &mut Vec<Completion>, wait: bool) -> io::Result<()> {
        let mut disk = self.disk.lock();
        loop {
            if std::mem::take(&mut disk.woken) {
                return Ok(());
            }
            if !disk.stalled && !disk.pending.is_empty() {
                disk.run(wait, out);
                return Ok(());
            }
            if !wait {
                return Ok(());
            }
            self.changed.wait(&mut disk);
        }
    }

    fn wake(&self) {
        self.disk.lock().woken = true;
        self.changed.notify_all();
    }
}

impl std::fmt::Debug for SimDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDevice").field("geometry", &self.geometry).field("ops", &self.ops()).finish()
    }
}
