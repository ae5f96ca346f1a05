//! Reads of the device that are under way for readers of logs: who waits for which, and how many there may be.
//!
//! The kernel's readahead asks for many small pieces of one large frame at once. Each piece would have the whole frame
//! read and checked; here one read is made and the others wait for its chunk. The number of reads bounds their memory.

use std::collections::VecDeque;
use std::ops::Range;

use crate::sync::Mutex;

use super::read::Job;
use crate::format::Lsn;

/// Reads under way at one time, each of at most a chunk and one largest frame.
const MAX_READS: usize = 4;
/// No read ahead is begun beside so many others.
const MAX_AHEAD: usize = 3;

struct Flying {
    number: u64,
    lsns: Range<Lsn>,
    waiting: Vec<Job>,
    /// It is here, and about to be checked.
    here: bool,
}

#[derive(Default)]
struct State {
    next: u64,
    flying: Vec<Flying>,
    queued: VecDeque<Job>,
}

impl State {
    /// Reads that keep the device busy.
    fn under_way(&self) -> usize {
        self.flying.iter().filter(|read| !read.here).count()
    }

    /// One more: its number.
    fn begin(&mut self, lsns: Range<Lsn>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.flying.push(Flying { number, lsns, waiting: Vec::new(), here: false });
        number
    }
}

/// The reads under way.
#[derive(Default)]
pub struct Reads {
    state: Mutex<State>,
}

impl Reads {
    /// A job wants `lsns` from the device. The number of its read, or nothing: it waits, and comes back from `land`.
    pub fn launch(&self, job: Job, lsns: Range<Lsn>) -> Option<(u64, Job)> {
        let mut state = self.state.lock();
        // A frame that is longer than what was read makes its job ask for more than is on its way.
        let covering =
            state.flying.iter_mut().find(|read| read.lsns.contains(&job.lsn) && read.lsns.end - job.lsn >= job.need);
        if let Some(read) = covering {
            read.waiting.push(job);
            return None;
        }
        if state.under_way() >= MAX_READS {
            state.queued.push_back(job);
            return None;
        }
        Some((state.begin(lsns), job))
    }

    /// The number of a read ahead of `lsns`, unless it is on its way already or readers need the device more.
    pub fn launch_ahead(&self, lsns: Range<Lsn>) -> Option<u64> {
        let mut state = self.state.lock();
        let middle = lsns.start.midpoint(lsns.end);
        let flies = state.flying.iter().any(|read| read.lsns.contains(&middle));
        if flies || !state.queued.is_empty() || state.under_way() >= MAX_AHEAD {
            return None;
        }
        Some(state.begin(lsns))
    }

    /// Read `number` does not keep the device busy any more.
    pub fn is_here(&self, number: u64) {
        let mut state = self.state.lock();
        if let Some(read) = state.flying.iter_mut().find(|read| read.number == number) {
            read.here = true;
        }
    }

    /// The first frame of what read `number` brings begins at `lsn`, before it: what is missing of it is there by then.
    pub fn begins(&self, number: u64, lsn: Lsn) {
        let mut state = self.state.lock();
        if let Some(read) = state.flying.iter_mut().find(|read| read.number == number) {
            read.lsns.start = read.lsns.start.min(lsn);
        }
    }

    /// Read `number` has landed and its chunk is kept: the jobs that waited for it.
    pub fn land(&self, number: u64) -> Vec<Job> {
        let mut state = self.state.lock();
        let at = state.flying.iter().position(|read| read.number == number);
        at.map(|at| state.flying.swap_remove(at).waiting).unwrap_or_default()
    }

    /// There is no memory for read `number`: the jobs that can't be had for that reason. Those that wait for a turn
    /// are among them, unless another read will land and bring them back.
    pub fn give_up(&self, number: u64) -> Vec<Job> {
        let mut jobs = self.land(number);
        let mut state = self.state.lock();
        if state.flying.is_empty() {
            jobs.extend(state.queued.drain(..));
        }
        jobs
    }

    /// A job that waits for a read to be its own, if there may be one more. Whoever lands a read asks until there is
    /// none: a job that finds its bytes in the cache makes no read, whose landing would bring back the next.
    pub fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        if state.under_way() < MAX_READS { state.queued.pop_front() } else { None }
    }
}
