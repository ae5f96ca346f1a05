//! The way in: a record becomes a frame in the flush ring.
//!
//! A record is accepted when its frame is in the ring, whole, checksummed and at its final address; from the claim of that
//! address on nothing can keep it out. The log's own lock is held from the claim to the release (see `catalog`), no lock is
//! shared between logs.

use crate::sync::atomic::Ordering;
use std::collections::VecDeque;

use super::LogStructuredStore;
use super::placing::TRAILER;
use super::ranges::Record;
use super::segments::FEW;
use super::types::{AppendAt, AppendDone, Appended, Change, ChangeDone, Changed, LogId, StableDone, StoreError};
use crate::format::{FrameHead, Kind, MAX_OFFSET, MAX_PAYLOAD, catalog::FLAG_MTIME_SET, frame, frame_len};
use crate::ring::ReserveError;

/// What found the ring full.
pub enum Deferred {
    /// An append.
    Append {
        /// To this log.
        log: LogId,
        /// The record.
        data: Vec<u8>,
        /// Where.
        at: AppendAt,
        /// Whom to tell.
        done: AppendDone,
    },
    /// A change of the catalog.
    Change {
        /// What.
        change: Change,
        /// Whom to tell.
        done: ChangeDone,
    },
}

/// An answer that is sent when no lock is held.
enum Answer {
    Append(AppendDone, Result<Appended, StoreError>),
    Change(ChangeDone, Result<Changed, StoreError>),
}

impl Answer {
    fn send(self) {
        match self {
            Self::Append(done, result) => done(result),
            Self::Change(done, result) => done(result),
        }
    }
}

/// What waits for room, in order.
#[derive(Default)]
pub struct Queue {
    waiting: VecDeque<Deferred>,
    /// Somebody does it, one thing after the other.
    draining: bool,
    /// There was room again since that began.
    again: bool,
}

impl LogStructuredStore {
    /// Append `data` to `log` as one record; sleeps while the ring is full. For callers in this process that do
    /// nothing else.
    pub fn append(&self, log: LogId, data: &[u8]) -> Result<Appended, StoreError> {
        self.check_open()?;
        loop {
            if self.deferred_count.load(Ordering::Relaxed) > 0 {
                if self.flusher.full.load(Ordering::Relaxed) && self.can_make_room() {
                    self.reclaim_now();
                }
                return self.append_in_turn(log, data);
            }
            match self.append_record(log, data, AppendAt::End, |_| {}) {
                Err(StoreError::WouldBlock) => self.wait_for_ring(),
                Err(StoreError::NoSpace) if self.can_make_room() && self.reclaim_now() => {}
                result => return result,
            }
        }
    }

    /// Behind those that wait for room already: one of them may be of this very thread.
    fn append_in_turn(&self, log: LogId, data: &[u8]) -> Result<Appended, StoreError> {
        let data = self.copy_of(data).ok_or(StoreError::Memory)?;
        let (sender, receiver) = std::sync::mpsc::channel();
        self.append_later(log, data, AppendAt::End, Box::new(move |result| drop(sender.send(result))));
        self.wait_for(&receiver)
    }

    /// Append `data` to `log` as one record; never waits: [`StoreError::WouldBlock`] while the ring is full.
    pub fn try_append(&self, log: LogId, data: &[u8], at: AppendAt) -> Result<Appended, StoreError> {
        self.try_append_telling(log, data, at, |_| {})
    }

    /// The same. `taken` is called, with the log's lock held, once the record has its place and nothing can keep it out any
    /// more, before it is copied there: whoever then reads the log, or makes it stable, waits until it is.
    pub fn try_append_telling(
        &self,
        log: LogId,
        data: &[u8],
        at: AppendAt,
        taken: impl FnOnce(Appended),
    ) -> Result<Appended, StoreError> {
        self.check_open()?;
        if self.deferred_count.load(Ordering::Relaxed) > 0 {
            // Others came first.
            return Err(StoreError::WouldBlock);
        }
        self.append_or_wait(log, data, at, taken)
    }

    /// Append when the ring has room; `done` is called from the thread that made room, or at once.
    pub fn append_later(&self, log: LogId, data: Vec<u8>, at: AppendAt, done: AppendDone) {
        if let Err(error) = self.check_open() {
            return done(Err(error));
        }
        self.defer(Deferred::Append { log, data, at, done });
    }

    /// A copy of a record, for [`Self::append_later`], or nothing: in memory that was used before, if there is such.
    pub fn copy_of(&self, data: &[u8]) -> Option<Vec<u8>> {
        let mut copy = self.rooms.take(data.len())?;
        copy.extend_from_slice(data);
        Some(copy)
    }

    pub(super) fn defer(&self, deferred: Deferred) {
        self.deferred_count.fetch_add(1, Ordering::SeqCst);
        self.deferred.lock().waiting.push_back(deferred);
        self.drain_deferred();
    }

    /// Number of appends and changes that wait for room.
    pub fn deferred(&self) -> u64 {
        self.deferred_count.load(Ordering::Relaxed) as u64
    }

    /// Do what waits, in order, as far as there is room. One thread at a time; one that makes room meanwhile, which
    /// may be this very thread further down in its stack, only says that it did, so no wake-up is lost.
    pub(super) fn drain_deferred(&self) {
        let mut answers = Vec::new();
        let mut queue = self.deferred.lock();
        queue.again = true;
        if queue.draining {
            return;
        }
        queue.draining = true;
        while std::mem::take(&mut queue.again) {
            while let Some(deferred) = queue.waiting.pop_front() {
                drop(queue);
                let answer = self.try_deferred(deferred);
                queue = self.deferred.lock();
                match answer {
                    Err(deferred) => {
                        queue.waiting.push_front(deferred);
                        break;
                    }
                    Ok(answer) => {
                        self.deferred_count.fetch_sub(1, Ordering::SeqCst);
                        answers.push(answer);
                    }
                }
            }
        }
        queue.draining = false;
        drop(queue);
        answers.into_iter().for_each(Answer::send);
    }

    /// Do it, or give it back: there is no room.
    fn try_deferred(&self, deferred: Deferred) -> Result<Answer, Deferred> {
        match deferred {
            Deferred::Append { log, data, at, done } => match self.append_or_wait(log, &data, at, |_| {}) {
                Err(StoreError::WouldBlock) => Err(Deferred::Append { log, data, at, done }),
                result => {
                    self.rooms.give_back(data);
                    Ok(Answer::Append(done, result))
                }
            },
            Deferred::Change { change, done } => match self.apply_or_wait(&change) {
                Err(StoreError::WouldBlock) => Err(Deferred::Change { change, done }),
                result => Ok(Answer::Change(done, result)),
            },
        }
    }

    /// Answer all that wait for room with what keeps them from ever getting it.
    pub(super) fn fail_deferred(&self, error: &StoreError) {
        let waiting: Vec<Deferred> = self.deferred.lock().waiting.drain(..).collect();
        self.deferred_count.fetch_sub(waiting.len(), Ordering::SeqCst);
        for deferred in waiting {
            match deferred {
                Deferred::Append { done, .. } => done(Err(error.clone())),
                Deferred::Change { done, .. } => done(Err(error.clone())),
            }
        }
    }

    /// Closing takes nothing new; what waits already is still let in.
    #[inline]
    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Relaxed) { Err(StoreError::Closed) } else { Ok(()) }
    }

    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        if self.options.read_only || self.flusher.has_failed() {
            return Err(StoreError::ReadOnly);
        }
        Ok(())
    }

    /// An append that finds no room waits while room can be made.
    fn append_or_wait(
        &self,
        log: LogId,
        data: &[u8],
        at: AppendAt,
        taken: impl FnOnce(Appended),
    ) -> Result<Appended, StoreError> {
        self.append_record(log, data, at, taken).map_err(|error| self.hopefully(error))
    }

    /// What found no space waits if room can be made, which is asked for.
    #[cold]
    pub(super) fn hopefully(&self, error: StoreError) -> StoreError {
        if error != StoreError::NoSpace || !self.can_make_room() {
            return error;
        }
        self.keeper.dirty();
        self.reclaimer.ask();
        StoreError::WouldBlock
    }

    /// Try until the ring has room; sleeps while it has none.
    pub(super) fn patiently<T>(&self, mut attempt: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        loop {
            match attempt() {
                Err(StoreError::WouldBlock) => self.wait_for_ring(),
                result => return result,
            }
        }
    }

    /// Sleep until the ring may have room. The caller holds no log's lock: who makes room may need it, for an append that
    /// waits in the queue.
    fn wait_for_ring(&self) {
        // On a store whose threads are not started, this thread takes the completions that make room.
        if self.io.poll(true) == 0 {
            self.ring.wait_for_room();
        }
    }

    fn append_record(
        &self,
        log: LogId,
        data: &[u8],
        at: AppendAt,
        taken: impl FnOnce(Appended),
    ) -> Result<Appended, StoreError> {
        self.check_writable()?;
        if data.len() > self.shape.max_record {
            return Err(StoreError::TooLarge { len: data.len(), max: self.shape.max_record });
        }
        let mut state = self.catalog.lock(log).ok_or(StoreError::NotFound)?;
        let offset = state.entry.size;
        if offset.saturating_add(data.len() as u64) > MAX_OFFSET {
            return Err(StoreError::TooLarge { len: data.len(), max: MAX_OFFSET.saturating_sub(offset) as usize });
        }
        if let AppendAt::Exactly(wanted) = at
            && wanted != offset
        {
            return Err(StoreError::NotAtEnd);
        }
        if data.is_empty() {
            return Ok(Appended { offset, end_lsn: state.end_lsn });
        }
        self.check_reserve(data.len())?;
        let time_ns = self.clock.now().max(state.last_ns);
        let head = FrameHead { kind: Kind::Data, log_id: log, offset, time_ns };
        let claimed = |lsn: u64| {
            // Before the frame can be written: whoever sums up its segment then has to know of this log.
            let sequence = self.shape.sequence(lsn);
            if !state.ends_in(sequence, &self.shape) {
                self.flusher.space().table.begins(log, sequence);
            }
            taken(Appended { offset, end_lsn: lsn + frame_len(data.len()) as u64 });
        };
        let (lsn, total) = self.put_frame(&head, data, claimed)?;
        state.entry.size = offset + data.len() as u64;
        state.entry.device_bytes += total;
        state.entry.mtime_ns = time_ns;
        state.last_ns = time_ns;
        state.entry.flags &= !FLAG_MTIME_SET;
        state.end_lsn = lsn + total;
        state.appends += 1;
        state.append_bytes += data.len() as u64;
        let record = Record { offset, len: data.len() as u64, lsn, total, time_ns };
        state.note(&record, &self.shape, &self.catalog.points);
        let end_lsn = state.end_lsn;
        drop(state);
        self.keeper.dirty();
        Ok(Appended { offset, end_lsn })
    }

    /// The last free segments are not for appends: without them no room could ever be made.
    #[inline]
    pub(super) fn check_reserve(&self, len: usize) -> Result<(), StoreError> {
        let limit = self.flusher.append_limit.load(Ordering::Relaxed);
        if limit == u64::MAX {
            return Ok(());
        }
        // In a store of few segments the cleaner counts upon all that is left.
        let counted_upon = self.reclaimer.is_moving() && self.shape.segments < FEW;
        if counted_upon || self.ring.end_lsn() + frame_len(len) as u64 + TRAILER > limit {
            self.flusher.full.store(true, Ordering::Relaxed);
            return Err(StoreError::NoSpace);
        }
        Ok(())
    }

    /// Claim, fill and release one frame; gives its LSN and length. `claimed` is told the LSN between the claim and the rest,
    /// which can't fail.
    #[inline]
    pub(super) fn put_frame(
        &self,
        head: &FrameHead,
        payload: &[u8],
        claimed: impl FnOnce(u64),
    ) -> Result<(u64, u64), StoreError> {
        if !self.begun.load(Ordering::Acquire) {
            self.begin()?;
        }
        self.put_anyway(head, payload, claimed)
    }

    /// The same, also before the mount has begun.
    #[inline]
    pub(super) fn put_anyway(
        &self,
        head: &FrameHead,
        payload: &[u8],
        claimed: impl FnOnce(u64),
    ) -> Result<(u64, u64), StoreError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(StoreError::TooLarge { len: payload.len(), max: MAX_PAYLOAD });
        }
        let total = frame_len(payload.len());
        let reserved = self.ring.try_reserve(total);
        let mut reservation = reserved.map_err(|error| self.refused(error, payload.len()))?;
        let lsn = reservation.lsn();
        claimed(lsn);
        // An error, for which there is no reason, would drop the reservation: that leaves a Failed Flush.
        frame::write_frame(reservation.bytes(), &self.seed, lsn, head, payload)
            .map_err(|error| StoreError::Io(error.to_string()))?;
        reservation.commit();
        Ok((lsn, total as u64))
    }

    /// Claim room for a record of `len` bytes and give it up, as a writer does that dies between claim and release: a
    /// Failed Flush frame stays. Gives the LSN behind it. For simulators and tests.
    pub fn give_up(&self, len: usize) -> Result<u64, StoreError> {
        self.check_open()?;
        self.check_writable()?;
        self.begin()?;
        let total = frame_len(len);
        let reservation = self.ring.try_reserve(total).map_err(|error| self.refused(error, len))?;
        let end = reservation.lsn() + total as u64;
        drop(reservation);
        self.keeper.dirty();
        Ok(end)
    }

    #[cold]
    fn refused(&self, error: ReserveError, len: usize) -> StoreError {
        match error {
            ReserveError::RingFull if self.flusher.has_failed() => StoreError::ReadOnly,
            ReserveError::RingFull => StoreError::WouldBlock,
            ReserveError::NoRoom => StoreError::NoSpace,
            ReserveError::TooLarge => StoreError::TooLarge { len, max: self.shape.max_record },
            ReserveError::Closed if self.flusher.has_failed() => StoreError::ReadOnly,
            ReserveError::Closed => StoreError::Closed,
        }
    }

    /// LLAMA's Mk-Stable: `done` is called when everything below `lsn` is on stable media, or can't be.
    pub fn make_stable(&self, lsn: u64, done: StableDone) {
        if lsn <= self.flusher.commit.stable() {
            return self.flusher.make_stable(lsn, done);
        }
        // Nothing was ever accepted behind the ring's end.
        let lsn = lsn.min(self.ring.end_lsn());
        self.flusher.make_stable(lsn, done);
    }

    /// [`Self::make_stable`], and wait.
    pub fn make_stable_now(&self, lsn: u64) -> Result<(), StoreError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.make_stable(lsn, Box::new(move |result| drop(sender.send(result))));
        self.wait_for(&receiver)
    }

    /// Wait for an answer; on a store whose threads are not started this thread takes the completions.
    pub(super) fn wait_for<T>(
        &self,
        receiver: &std::sync::mpsc::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        loop {
            if let Ok(result) = receiver.try_recv() {
                return result;
            }
            if self.io.poll(true) > 0 {
                continue;
            }
            match receiver.recv_timeout(std::time::Duration::from_millis(50)) {
                Ok(result) => return result,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Err(StoreError::Closed),
            }
        }
    }
}
