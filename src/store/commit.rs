//! Group commit: what is written, what is stable, who waits, and when the next durable flush starts.
//!
//! One durable flush is under way at a time. It seals CURRENT, waits until all that is sealed is written, and has the
//! device flush it; or, when the sealed filling is the only thing not stable yet, writes it durably at once. The
//! moment it ends, all whose LSN is stable are answered and, if others came meanwhile, the next starts (greedy group
//! commit). This file only keeps the books: it says what to do next as an [`Action`], and [`super::flusher`] does it.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::collections::VecDeque;

use crate::sync::Mutex;

use super::types::{StableDone, StoreError};
use crate::format::Lsn;

/// A write of one filling on its way to the device.
#[derive(Debug, Clone, Copy)]
struct Flight {
    number: u64,
    end: Lsn,
    dsync: bool,
    done: bool,
}

/// The books.
#[derive(Default)]
struct Books {
    /// Writes not known to be complete, or complete behind one that is not; in log order.
    flights: VecDeque<Flight>,
    /// Everything below is written.
    written: Lsn,
    /// Everything below is on stable media.
    stable: Lsn,
    /// (end of a filling, value of the mark in it), not yet stable.
    marks: VecDeque<(Lsn, Lsn)>,
    /// Highest stable LSN that a mark on stable media tells of.
    marked: Lsn,
    /// End of the newest filling that held claims.
    data_end: Lsn,
    waiters: Vec<(Lsn, StableDone)>,
    /// A durable flush is under way.
    busy: bool,
    /// It is over when this is stable; not known until CURRENT is sealed.
    goal: Option<Lsn>,
    /// The device flush was started, covering what was written below this.
    flushing: Option<Lsn>,
    /// How often a buffer was recycled; and how often when CURRENT was to be sealed last.
    recycled: u64,
    recycled_at_begin: u64,
    /// CURRENT is to be sealed as soon as there is one.
    postponed: bool,
    /// A mark is wanted though nothing else is to be written.
    mark_wanted: bool,
    failed: Option<StoreError>,
    syncs: u64,
}

/// What to do next, with no lock held.
#[derive(Default)]
pub struct Action {
    /// Answer these.
    pub answers: Vec<(StableDone, Result<(), StoreError>)>,
    /// Start a device flush; report it by [`Commit::flushed`].
    pub flush: bool,
    /// Seal CURRENT, also if it has no claims, and tell [`Commit::set_goal`] or [`Commit::no_current`].
    pub begin: bool,
}

/// The commit state of a store.
#[derive(Default)]
pub struct Commit {
    books: Mutex<Books>,
    stable: AtomicU64,
}

impl Commit {
    /// A store that is stable up to `end`; `marked` of it is told of by a mark (or needs none).
    pub fn new(end: Lsn) -> Self {
        let books = Books { written: end, stable: end, marked: end, data_end: 0, ..Books::default() };
        Self { books: Mutex::new(books), stable: AtomicU64::new(end) }
    }

    /// LLAMA's Hi-Stable.
    pub fn stable(&self) -> Lsn {
        self.stable.load(Ordering::Acquire)
    }

    /// fsyncs answered so far.
    pub fn syncs(&self) -> u64 {
        self.books.lock().syncs
    }

    /// Why writing stopped, if it did.
    pub fn failed(&self) -> Option<StoreError> {
        self.books.lock().failed.clone()
    }

    /// A durable flush is under way: as long as anybody waits, one is.
    pub fn is_busy(&self) -> bool {
        self.books.lock().busy
    }

    /// Everything below is written (perhaps only to the device's cache).
    pub fn written(&self) -> Lsn {
        self.books.lock().written
    }

    /// `done` is to be called when everything below `lsn` is stable.
    pub fn wait(&self, lsn: Lsn, done: StableDone) -> Action {
        let mut books = self.books.lock();
        books.syncs += 1;
        let mut action = Action::default();
        if lsn <= books.stable {
            action.answers.push((done, Ok(())));
        } else if let Some(error) = &books.failed {
            action.answers.push((done, Err(error.clone())));
        } else {
            books.waiters.push((lsn, done));
            books.next(&mut action);
        }
        action
    }

    /// A stable mark is behind what is stable, and nothing is under way: bring it up to date.
    pub fn want_mark(&self) -> Action {
        let mut books = self.books.lock();
        let mut action = Action::default();
        if books.failed.is_none() && books.marked < books.data_end && books.data_end <= books.stable {
            books.mark_wanted = true;
            books.next(&mut action);
        }
        action
    }

    /// The mark on stable media does not yet tell of all data.
    pub fn mark_is_behind(&self) -> bool {
        let books = self.books.lock();
        books.failed.is_none() && books.marked < books.data_end
    }

    /// The flush that `begin` asked for covers everything below `goal`: CURRENT is sealed.
    pub fn set_goal(&self, goal: Lsn) -> Action {
        let mut books = self.books.lock();
        let mut action = Action::default();
        books.goal = Some(goal);
        books.next(&mut action);
        action
    }

    /// The flush that `begin` asked for is to cover everything below `goal`, and there is no CURRENT to seal: the ring is
    /// full. What is sealed was so before the last flush ended, unless its marks tell of that, so that one which does
    /// has to go with it: else what two flushes wrote could not be told from a torn tail.
    pub fn no_current(&self, goal: Lsn) -> Action {
        let mut books = self.books.lock();
        let mut action = Action::default();
        if books.failed.is_some() || books.marks.back().is_some_and(|(_, told)| *told >= books.stable) {
            books.goal = Some(goal);
            books.next(&mut action);
        } else if books.recycled > books.recycled_at_begin {
            books.begin(&mut action);
        } else {
            books.postponed = true;
        }
        action
    }

    /// A buffer was recycled: there may be a CURRENT again.
    pub fn recycled(&self) -> Action {
        let mut books = self.books.lock();
        let mut action = Action::default();
        books.recycled += 1;
        if std::mem::take(&mut books.postponed) {
            books.begin(&mut action);
        }
        action
    }

    /// A filling goes to the device. True: write it durably, it is all that is not stable yet.
    pub fn launch(&self, number: u64, end: Lsn, has_claims: bool, mark: Option<Lsn>, for_commit: bool) -> bool {
        let mut books = self.books.lock();
        let dsync = for_commit && books.flights.is_empty() && books.written == books.stable && books.flushing.is_none();
        books.flights.push_back(Flight { number, end, dsync, done: false });
        if has_claims {
            books.data_end = end;
        }
        if let Some(value) = mark {
            books.marks.push_back((end, value));
        }
        dsync
    }

    /// The write of filling `number` ended.
    pub fn landed(&self, number: u64, result: Result<(), StoreError>) -> Action {
        let mut books = self.books.lock();
        let mut action = Action::default();
        if let Err(error) = result {
            books.fail(error, &mut action);
            return action;
        }
        if let Some(flight) = books.flights.iter_mut().find(|flight| flight.number == number) {
            flight.done = true;
        }
        while let Some(front) = books.flights.front().copied()
            && front.done
        {
            books.flights.pop_front();
            books.written = front.end;
            // A durable write was alone above the stable LSN, so all below its end is stable with it.
            if front.dsync {
                books.stable = front.end;
            }
        }
        self.settle(&mut books, &mut action);
        action
    }

    /// The device flush ended.
    pub fn flushed(&self, result: Result<(), StoreError>) -> Action {
        let mut books = self.books.lock();
        let mut action = Action::default();
        let covered = books.flushing.take();
        match result {
            Err(error) => books.fail(error, &mut action),
            Ok(()) => {
                if let Some(covered) = covered {
                    books.stable = books.stable.max(covered);
                }
                self.settle(&mut books, &mut action);
            }
        }
        action
    }

    fn settle(&self, books: &mut Books, action: &mut Action) {
        let stable = books.stable;
        self.stable.store(stable, Ordering::Release);
        while let Some((end, value)) = books.marks.front().copied()
            && end <= stable
        {
            books.marks.pop_front();
            books.marked = books.marked.max(value);
        }
        let ready = books.waiters.extract_if(.., |(lsn, _)| *lsn <= stable);
        action.answers.extend(ready.map(|(_, done)| (done, Ok(()))));
        books.next(action);
    }
}

impl Books {
    /// The next step of the durable flush under way, or the start of one.
    fn next(&mut self, action: &mut Action) {
        if self.failed.is_some() {
            return;
        }
        if self.busy {
            let Some(goal) = self.goal else { return };
            if self.stable < goal {
                if self.written >= goal && self.flushing.is_none() {
                    self.flushing = Some(self.written);
                    action.flush = true;
                }
                return;
            }
            self.busy = false;
            self.goal = None;
        }
        if !self.waiters.is_empty() || self.mark_wanted {
            self.busy = true;
            self.mark_wanted = false;
            self.begin(action);
        }
    }

    fn begin(&mut self, action: &mut Action) {
        self.recycled_at_begin = self.recycled;
        action.begin = true;
    }

    fn fail(&mut self, error: StoreError, action: &mut Action) {
        let error = self.failed.get_or_insert(error).clone();
        action.answers.extend(self.waiters.drain(..).map(|(_, done)| (done, Err(error.clone()))));
    }
}
