//! The way out: bytes of a log by logical offset, from the ring or from the device, every frame checked.
//!
//! A read walks frames from the nearest known point at or below its offset. What is still in the ring is copied from
//! there; what has been written is read from the device, asynchronously: nobody waits for it.

use std::ops::Range;

use super::LogStructuredStore;
use super::blockwise::Around;
use super::chunks::KEPT as CHUNKS_KEPT;
use super::given::{Lender, Lends, ReadBytes};
use super::types::{LogId, OnError, ReadDone, StoreError};
use crate::format::frame::{decode, peek};
use crate::format::{FRAME_HEADER, Frame, FrameSeed, Lsn, frame_len};
use crate::io::{Buffer, IoError, try_copy};

/// Bytes read from the device at a time by a sequential reader.
pub const CHUNK: u64 = 1 << 20;
/// Between two fillings lie a mark and padding: a chunk that begins with them must still hold the largest record.
pub const MARKS: u64 = 64 << 10;
/// By any other, beyond what was asked for, at first: headers and other logs' small frames.
const SLACK: u64 = 8 << 10;
/// Header of a long frame, in bytes of the log.
const HEADER: u64 = FRAME_HEADER as u64;

/// Chunks with something in them that can't be read, that one read passes over: bounds what a device costs that reads
/// hardly anything any more.
const MAX_UNREADABLE: u32 = 16;
/// So many of them counts one in which nothing can be read.
const ALL_OF_IT: u32 = 4;

/// A read under way.
pub(super) struct Job {
    pub log: LogId,
    /// Next byte wanted.
    pub offset: u64,
    /// End of what is wanted.
    pub end: u64,
    pub out: ReadBytes,
    lends: Lends,
    /// For a frame that is looked at in the ring.
    room: Vec<u8>,
    /// Frame that is looked at next.
    pub lsn: Lsn,
    /// About where what is wanted ends,
    about: Lsn,
    /// and what more to read: the rest of its last frame. Twice as much each time.
    slack: u64,
    /// Offset behind the range that is being read; 0 before the first.
    pub range_end: u64,
    /// Nothing of this range lies behind this.
    pub stop: Lsn,
    /// Number of the segment that it lies in.
    segment: u64,
    /// Seed of the frames at `lsn`, once one was read.
    pub seed: Option<FrameSeed>,
    /// Bytes to read from the device at least, when a frame is longer than was read.
    pub need: u64,
    pub sequential: bool,
    /// Its reader goes on, in a log that does not fit in the cache of chunks.
    pub streams: bool,
    /// What was passed over, if it may have held what is wanted.
    pub damage: Option<String>,
    /// Places behind damage that may be frames and were longer than what was read.
    pub guesses: u32,
    /// Chunks of which the device could not read some; it may the next time.
    pub unreadable: u32,
    done: ReadDone,
}

/// A frame that is still in the ring.
struct Staged {
    /// Its log; 0 for what is no record.
    log: LogId,
    offset: u64,
    total: u64,
    /// Bytes of payload.
    len: usize,
}

/// How often an appender that is busy copying is given the CPU before a reader gives up.
const PATIENCE: u32 = 100_000;

/// What to do after a piece of work on a job.
pub(super) enum Next {
    /// It is complete, or can't go on.
    Finish(Result<(), StoreError>),
    /// Look again where its next frame is.
    Again,
}

impl LogStructuredStore {
    /// Read `len` bytes of `log` at `offset`: fewer at its end or in front of damage. `done` may be called at once, or
    /// from whichever thread takes the completion of a read.
    pub fn read(&self, log: LogId, offset: u64, len: usize, lends: Lends, done: ReadDone) {
        if self.flusher.has_failed() && self.options.errors == OnError::Shutdown {
            return done(Err(StoreError::Io("the store was shut down after a device error".to_owned())));
        }
        let Some(mut state) = self.catalog.lock(log) else { return done(Err(StoreError::NotFound)) };
        let end = offset.saturating_add(len as u64).min(state.entry.size);
        if offset >= end {
            drop(state);
            return done(Ok(ReadBytes::default()));
        }
        let sequential = state.ask(offset..end);
        let streams = sequential && state.entry.size - state.entry.head > CHUNKS_KEPT as u64 * CHUNK;
        drop(state);
        let Some(out) = self.rooms.take((end - offset) as usize) else { return done(Err(StoreError::Memory)) };
        self.drive(Job {
            log,
            offset,
            end,
            out: out.into(),
            lends,
            room: Vec::new(),
            lsn: 0,
            about: 0,
            slack: 0,
            range_end: 0,
            stop: 0,
            segment: 0,
            seed: None,
            need: 0,
            sequential,
            streams,
            damage: None,
            guesses: 0,
            unreadable: 0,
            done,
        });
    }

    /// Go to the range that the job's offset lies in. What lies below the log's head is zeros.
    fn find_range(&self, job: &mut Job) -> Next {
        let Some(mut state) = self.catalog.lock(job.log) else { return Next::Finish(Err(StoreError::NotFound)) };
        if job.offset < state.entry.head {
            let zeros = state.entry.head.min(job.end) - job.offset;
            job.out.zeros(zeros as usize);
            job.offset += zeros;
            return Next::Again;
        }
        let Some((range, at, lsn)) = state.locate(job.offset, &self.shape) else {
            let until = state.ranges.next_behind(job.offset).map_or(state.entry.size, |next| next.offset);
            state.lost = Some(job.offset..until);
            return Next::Finish(Err(StoreError::Io(job.lost("its frame is missing"))));
        };
        job.stop = self.shape.segment_end(range.lsn).min(state.end_lsn);
        if self.shape.sequence(lsn) != self.shape.sequence(job.lsn) {
            (job.seed, job.need) = (None, 0);
        }
        job.about = state.about(job.end.min(range.end()), (at, lsn), &self.shape);
        job.slack = state.longest().max(SLACK);
        (job.lsn, job.range_end, job.segment) = (lsn, range.end(), self.shape.sequence(lsn));
        Next::Again
    }

    /// The cleaner has moved what the job looks for, or it was let go, since the job has learned where it lies: it has to
    /// ask again.
    pub(super) fn has_moved(&self, job: &mut Job) -> bool {
        let Some(state) = self.catalog.lock(job.log) else { return false };
        let moved = job.offset < state.entry.head
            || state.ranges.find(job.offset).is_some_and(|range| self.shape.sequence(range.lsn) != job.segment);
        if moved {
            (job.range_end, job.need, job.seed, job.damage) = (0, 0, None, None);
        }
        moved
    }

    /// [`Self::read`], and wait.
    pub fn read_now(&self, log: LogId, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.read(log, offset, len, Lends::Nothing, Box::new(move |result| drop(sender.send(result))));
        self.wait_for(&receiver)?.into_vec().ok_or(StoreError::Memory)
    }

    /// Go on with a job until it is done or waits for the device.
    pub(super) fn drive(&self, mut job: Job) {
        loop {
            job.lsn = self.mounts.over_gap(job.lsn);
            let next = if job.offset >= job.end {
                Next::Finish(Ok(()))
            } else if job.offset >= job.range_end {
                self.find_range(&mut job)
            } else if job.lsn >= job.stop {
                if self.has_moved(&mut job) {
                    continue;
                }
                if job.out.is_empty()
                    && job.unreadable == 0
                    && let Some(mut log) = self.catalog.lock(job.log)
                {
                    log.lost = Some(job.offset..job.range_end);
                }
                Next::Finish(Err(StoreError::Io(job.lost("its frame is missing"))))
            } else if let Some(next) = self.take_from_ring(&mut job) {
                next
            } else if let Some(chunk) = self.chunks.get(job.lsn) {
                self.take_from_chunk(&mut job, &chunk)
            } else {
                return self.ask_device(job);
            };
            match next {
                Next::Finish(result) => return job.finish(result),
                Next::Again => {}
            }
        }
    }

    /// Take the frame at the job's LSN from the ring; `None` if it isn't there (any more).
    fn take_from_ring(&self, job: &mut Job) -> Option<Next> {
        let (oldest, _) = self.ring.live_range();
        if job.lsn < oldest {
            return None;
        }
        let mut header = [0; FRAME_HEADER];
        if !self.ring.read(job.lsn, &mut header) {
            // Behind the claims of a filling lie its mark and padding: the next frame is the next filling's first.
            let live = self.ring.states().into_iter().filter(|slot| slot.live);
            let starts = live.map(|slot| slot.base_lsn + slot.start as u64);
            let next = starts.filter(|start| *start > job.lsn).min()?;
            let (oldest, _) = self.ring.live_range();
            if job.lsn < oldest {
                return None;
            }
            job.lsn = next;
            return Some(Next::Again);
        }
        let mut room = std::mem::take(&mut job.room);
        let found = self.whole_frame(job.lsn, &header, &mut room);
        job.room = room;
        let Some(frame) = found else {
            let (oldest, _) = self.ring.live_range();
            if job.lsn < oldest {
                // Recycled meanwhile: it is on the device now.
                return Some(Next::Again);
            }
            return Some(Next::Finish(Err(StoreError::Io(job.lost("a frame in front of it is never finished")))));
        };
        let offset = frame.offset;
        let payload = job.room.get(FRAME_HEADER..FRAME_HEADER + frame.len).unwrap_or(&[]);
        if frame.log == job.log && offset <= job.offset && job.offset < offset + payload.len() as u64 {
            let skip = (job.offset - offset) as usize;
            let wanted = payload.get(skip..).unwrap_or(&[]);
            let wanted = wanted.get(..wanted.len().min((job.end - job.offset) as usize)).unwrap_or(&[]);
            job.out.copy(wanted);
            job.offset += wanted.len() as u64;
        }
        job.lsn += frame.total;
        Some(Next::Again)
    }

    /// The frame at `lsn` in the ring, whole and checked; `None` if it is not there any more.
    ///
    /// Between this log's frames lie those of others, and one of them may be claimed and not yet filled: then its bytes
    /// are what an earlier filling left, and say nothing of where the next frame is. Its checksum tells; its appender
    /// is busy copying and nothing else, and is given time to finish.
    fn whole_frame(&self, lsn: Lsn, header: &[u8; FRAME_HEADER], room: &mut Vec<u8>) -> Option<Staged> {
        let mut header = *header;
        for _ in 0..PATIENCE {
            if let Some(head) = peek(&header) {
                let total = usize::try_from(head.total).unwrap_or(usize::MAX).min(frame_len(self.shape.max_record));
                room.try_reserve(total.saturating_sub(room.len())).ok()?;
                room.resize(total, 0);
                if self.ring.read(lsn, room)
                    && let Ok(frame) = decode(&self.seed, lsn, room, self.shape.max_record)
                {
                    let log = if frame.kind.is_record() { frame.log_id } else { 0 };
                    let Frame { offset, total, .. } = frame;
                    return Some(Staged { log, offset, total, len: frame.payload.len() });
                }
            }
            crate::sync::thread::yield_now();
            if !self.ring.read(lsn, &mut header) {
                return None;
            }
        }
        None
    }

    /// Read from the device what lies at the job's LSN, and go on with the job when it is there.
    fn ask_device(&self, mut job: Job) {
        let segment_end = self.shape.segment_end(job.lsn);
        let base = self.shape.block_down(job.lsn);
        // What lies in front is read with what is wanted: a device takes longer for two reads than for one of both.
        let about = job.about.saturating_sub(job.lsn).max(job.end - job.offset);
        let most = CHUNK + MARKS;
        let wanted = if job.sequential { most } else { about.saturating_add(job.slack).min(most) };
        job.slack = job.slack.saturating_mul(2);
        let end = self.shape.block_up(job.lsn + wanted.max(job.need).max(HEADER)).min(segment_end);
        // Not beyond what is written: there the device holds older bytes than the ring.
        let written = self.flusher.commit.written();
        let end = end.min(self.shape.block_up(written.max(job.lsn + HEADER)));
        let Some(offset) = self.flusher.space().table.device_offset(base) else {
            if self.has_moved(&mut job) {
                return self.drive(job);
            }
            let lost = job.lost("its segment is gone");
            return job.finish(Err(StoreError::Io(lost)));
        };
        let Some((number, mut job)) = self.reads.launch(job, base..end) else { return };
        let len = (end - base) as usize;
        let Ok(buffer) = self.read_buffer(len) else {
            let others = self.reads.give_up(number);
            return std::iter::once(job).chain(others).for_each(Job::no_memory);
        };
        let until = end.min(written.max(job.lsn));
        let around_damage = job.damage.is_some() || job.unreadable > 0;
        let me = self.me.clone();
        let done = move |result: Result<Buffer, IoError>| {
            let Some(store) = me.upgrade() else { return job.finish(Err(StoreError::Closed)) };
            match result {
                Ok(buffer) => {
                    let next = store.check_chunk(&mut job, buffer, base, until);
                    store.after_read(number, job, next);
                }
                Err(_) => store.ask_around(number, job, base..end, until, offset),
            }
        };
        // To look for the way around damage takes long: not on a thread on which other requests wait.
        if around_damage {
            self.io.read(buffer, 0..len, offset, Box::new(done));
        } else {
            self.io.read_awaited(buffer, 0..len, offset, Box::new(done));
        }
    }

    /// What was asked for at once can't be read: block by block, then.
    fn ask_around(&self, number: u64, mut job: Job, lsns: Range<Lsn>, until: Lsn, offset: u64) {
        let len = (lsns.end - lsns.start) as usize;
        let Ok(buffer) = self.io.buffer(len) else {
            return self.after_read(number, job, Next::Finish(Err(StoreError::Memory)));
        };
        let me = self.me.clone();
        let done = move |around: Around| {
            let Some(store) = me.upgrade() else { return job.finish(Err(StoreError::Closed)) };
            if let Some(error) = around.error {
                job.unreadable += if around.all_lost { ALL_OF_IT } else { 1 };
                if job.unreadable > MAX_UNREADABLE {
                    let failed = Next::Finish(Err(error.into()));
                    return store.after_read(number, job, failed);
                }
                job.damage.get_or_insert_with(|| error.to_string());
            }
            let next = store.check_chunk(&mut job, around.buffer, lsns.start, until);
            store.after_read(number, job, next);
        };
        self.read_blockwise(buffer, len, offset, Box::new(done));
    }

    /// A read of the device is over: go on with its job.
    fn after_read(&self, number: u64, job: Job, next: Next) {
        // The others first: what they wait for is in the cache now.
        self.landed(number);
        match next {
            Next::Finish(result) => job.finish(result),
            Next::Again => self.drive(job),
        }
    }

    /// A read of the device is over: who waited for it, or for its place, goes on.
    pub(super) fn landed(&self, number: u64) {
        for job in self.reads.land(number) {
            self.drive(job);
        }
        while let Some(job) = self.reads.next() {
            self.drive(job);
        }
    }

    /// What a read gave is not wanted any more: its memory serves for the next.
    pub fn give_back(&self, read: impl Into<ReadBytes>) {
        self.rooms.give_back(read.into().into_room());
    }

    /// Bytes of the raw device, wherever they start: what `hexdump` of the device shows.
    pub fn read_device(&self, offset: u64, len: usize, done: ReadDone) {
        let capacity = self.io.geometry().capacity;
        let end = offset.saturating_add(len as u64).min(capacity);
        if offset >= end {
            return done(Ok(ReadBytes::default()));
        }
        let unit = u64::from(self.io.geometry().block);
        let base = offset - offset % unit;
        let span = (end.next_multiple_of(unit) - base) as usize;
        let Ok(buffer) = self.io.buffer(span) else {
            return done(Err(StoreError::Memory));
        };
        let range = (offset - base) as usize..(end - base) as usize;
        self.io.read(
            buffer,
            0..span,
            base,
            Box::new(move |result| {
                done(match result {
                    Ok(buffer) => {
                        let copy = try_copy(buffer.as_slice().get(range).unwrap_or(&[]));
                        copy.map(ReadBytes::from).ok_or(StoreError::Memory)
                    }
                    Err(error) => Err(error.into()),
                });
            }),
        );
    }

    /// Bytes of the raw device.
    pub fn device_bytes(&self) -> u64 {
        self.io.geometry().capacity
    }
}

impl Job {
    pub fn lost(&self, why: &str) -> String {
        let damage = self.damage.as_deref().map(|damage| format!("; {damage}")).unwrap_or_default();
        format!("log {} offset {} can't be read: {why}{damage}", self.log, self.offset)
    }

    /// Who lends what comes next, of which so many bytes are wanted.
    pub(super) fn lender<'a>(&self, lender: &'a Lender, take: usize) -> Option<&'a Lender> {
        let lends = match self.lends {
            Lends::Nothing => false,
            Lends::Whole => self.out.is_empty() && take as u64 == self.end - self.offset,
            Lends::Slices => true,
        };
        lends.then_some(lender)
    }

    /// There is no memory for it.
    pub(super) fn no_memory(self) {
        self.finish(Err(StoreError::Memory));
    }

    /// Bytes that were collected are given in any case; the error comes with the next read.
    pub(super) fn finish(self, result: Result<(), StoreError>) {
        (self.done)(match result {
            Err(error) if self.out.is_empty() => Err(error),
            _ => Ok(self.out),
        });
    }
}
