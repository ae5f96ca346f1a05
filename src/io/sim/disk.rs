//! The state of a simulated disk and what requests do to it. Knows nothing of threads.

use std::collections::BTreeMap;
use std::ops::Range;

use super::chance::{Kept, Rng, Tear, scatter};
use super::fault::{Planned, SimFault, SimOp, SimOps};
use super::pages::{PAGE, Pages, SECTOR, pieces};
use crate::io::device::{Completion, Request};

/// A request under way: when it is carried out, its number, and what it is.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    pub(super) due: u64,
    pub(super) number: u64,
    pub(super) request: Request,
}

/// Content, cache, and the requests under way.
pub(super) struct Disk {
    /// What a read sees.
    pub(super) current: Pages,
    /// What outlives a power failure for certain. Equal to `current` in every sector that is not dirty.
    pub(super) stable: Pages,
    /// Sectors that are in the volatile cache alone, a bit each, by page.
    pub(super) dirty: BTreeMap<usize, u8>,
    pub(super) capacity: u64,
    /// Unit of requests, in bytes.
    pub(super) block: u32,
    pub(super) cached: bool,
    pub(super) rng: Rng,
    pub(super) tear: Tear,
    pub(super) pending: Vec<Pending>,
    pub(super) submitted: u64,
    pub(super) tick: u64,
    pub(super) max_delay: u64,
    /// Carry out one request at a time.
    pub(super) one_by_one: bool,
    /// One in so many writes and reads is short; 0: none.
    pub(super) short_one_in: u64,
    pub(super) faults: Vec<Planned>,
    pub(super) bad: Vec<Range<u64>>,
    /// Requests until the power fails.
    pub(super) power: Option<u64>,
    pub(super) stalled: bool,
    pub(super) woken: bool,
    pub(super) ops: SimOps,
}

impl Disk {
    /// Take a request; it is carried out some ticks later.
    pub(super) fn submit(&mut self, request: Request) {
        let delay = if self.max_delay > 0 { self.max_delay + 1 } else { 1 };
        let due = self.tick + 1 + self.rng.below(delay);
        self.pending.push(Pending { due, number: self.submitted, request });
        self.submitted += 1;
    }

    /// Carry out what is due; with `wait`, let time pass until something is.
    pub(super) fn run(&mut self, wait: bool, out: &mut Vec<Completion>) {
        self.tick += 1;
        if let (true, Some(first)) = (wait, self.pending.iter().map(|pending| pending.due).min()) {
            self.tick = self.tick.max(first);
        }
        let now = self.tick;
        let mut due: Vec<Pending> = self.pending.extract_if(.., |pending| pending.due <= now).collect();
        // In order of their time; those of the same time in any order.
        if self.max_delay > 0 {
            due.sort_by_cached_key(|pending| (pending.due, self.rng.next()));
        }
        if self.one_by_one && due.len() > 1 {
            self.pending.splice(0..0, due.drain(1..));
        }
        let mut due = due.into_iter();
        while let Some(Pending { number, request, .. }) = due.next() {
            if self.power == Some(1) {
                // What was under way when the power failed is done in part.
                let rest: Vec<Request> = self.pending.iter().chain(due.as_slice()).map(|p| p.request).collect();
                rest.iter().for_each(|request| self.tear_write(request));
            }
            if matches!(request, Request::Write { .. }) {
                let earlier = |p: &Pending| p.number < number && matches!(p.request, Request::Write { .. });
                self.ops.overtaken += u64::from(self.pending.iter().chain(due.as_slice()).any(earlier));
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
        self.ops.faults += u64::from(planned.is_some());
        let short = self.short_one_in > 0 && len > self.block && self.rng.next().is_multiple_of(self.short_one_in);
        let moved = match planned {
            Some(SimFault::Error(errno)) => {
                self.tear_write(request);
                return Err(errno);
            }
            Some(SimFault::Lost) if op != SimOp::Read => return Ok(len),
            Some(SimFault::Short(bytes)) => bytes.min(len),
            _ if short => len - self.rng.below(u64::from(len / self.block)) as u32 * self.block,
            _ => len,
        };
        match *request {
            Request::Write { ptr, dsync, .. } => {
                // SAFETY: the request was not reaped, so its memory is valid and unchanged (`Device::submit`).
                let bytes = unsafe { std::slice::from_raw_parts(ptr, moved as usize) };
                let place = match planned {
                    Some(SimFault::Misdirected(by)) => (offset + by) % (self.capacity - u64::from(moved)).max(1),
                    _ => offset,
                };
                self.write(place - place % 512, bytes, dsync);
            }
            Request::Read { ptr, .. } => {
                let end = offset + u64::from(moved);
                if self.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
                    return Err(libc::EIO);
                }
                // SAFETY: the request was not reaped, so its memory is valid and ours alone (`Device::submit`).
                let bytes = unsafe { std::slice::from_raw_parts_mut(ptr, moved as usize) };
                let content = if planned == Some(SimFault::Stale) { &self.stable } else { &self.current };
                content.read(offset, bytes);
                if let Some(SimFault::BitRot { at, xor }) = planned
                    && let Some(byte) = bytes.get_mut(at as usize % (moved as usize).max(1))
                {
                    *byte ^= xor;
                }
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
    pub(super) fn tear_write(&mut self, request: &Request) {
        if let Request::Write { offset, ptr, len, .. } = *request {
            // SAFETY: the request was not reaped, so its memory is valid and unchanged (`Device::submit`).
            let bytes = unsafe { std::slice::from_raw_parts(ptr, len as usize) };
            let kept = Kept::choose(&mut self.rng, self.tear);
            let dirty = &mut self.dirty;
            scatter(&mut self.current, offset, bytes, &mut self.rng, kept, |page, mask| {
                *dirty.entry(page).or_insert(0) |= mask;
            });
        }
    }

    /// Sectors that a power failure may spare or not, with the content they would have; oldest first.
    pub(super) fn in_flight(&self) -> Vec<(u64, Vec<u8>)> {
        let mut sectors = Vec::new();
        let mut stable = vec![0; SECTOR];
        let mut add = |place: u64, new: &[u8]| {
            self.stable.read(place, &mut stable);
            if new != stable {
                sectors.push((place, new.to_vec()));
            }
        };
        let mut cached = vec![0; SECTOR];
        for (&page, &mask) in &self.dirty {
            for sector in (0..PAGE / SECTOR).filter(|sector| mask & (1 << sector) != 0) {
                let place = (page * PAGE + sector * SECTOR) as u64;
                self.current.read(place, &mut cached);
                add(place, &cached);
            }
        }
        for Pending { request, .. } in &self.pending {
            if let Request::Write { offset, ptr, len, .. } = *request {
                // SAFETY: a pending request's memory is valid and unchanged until it is reaped (`Device::submit`).
                let bytes = unsafe { std::slice::from_raw_parts(ptr, len as usize) };
                (offset..).step_by(SECTOR).zip(bytes.chunks(SECTOR)).for_each(|(place, new)| add(place, new));
            }
        }
        sectors
    }

    /// The media after a power failure at this moment.
    pub(super) fn after_power_failure(&self, rng: &mut Rng) -> Pages {
        let mut stable = self.stable.clone();
        let kept = Kept::choose(rng, self.tear);
        for (&page, &mask) in &self.dirty {
            let (new, garbage) = kept.sectors(rng);
            stable.take_sectors(&self.current, page, mask & new);
            stable.spoil(page, mask & garbage, rng);
        }
        for Pending { request, .. } in &self.pending {
            if let Request::Write { offset, ptr, len, .. } = *request {
                // SAFETY: a pending request's memory is valid and unchanged until it is reaped (`Device::submit`).
                let bytes = unsafe { std::slice::from_raw_parts(ptr, len as usize) };
                scatter(&mut stable, offset, bytes, rng, kept, |_, _| {});
            }
        }
        stable
    }
}
