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
}

/// What comes of the wish to read ahead.
pub enum Launch {
    /// It is read, as this number.
    Go(u64),
    /// It is being read already, from this LSN on.
    Flies(Lsn),
    /// Not now.
    Not,
}

#[derive(Default)]
struct State {
    next: u64,
    flying: Vec<Flying>,
    queued: VecDeque<Job>,
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
        if state.flying.len() >= MAX_READS {
            state.queued.push_back(job);
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.flying.push(Flying { number, lsns, waiting: Vec::new() });
        Some((number, job))
    }

    /// A read ahead of `lsns`, unless it is on its way already or readers need the device more.
    pub fn launch_ahead(&self, lsns: Range<Lsn>) -> Launch {
        let mut state = self.state.lock();
        // They overlap a little: it is the same only if it holds most of it.
        let middle = lsns.start.midpoint(lsns.end);
        let most = |read: &&Flying| read.lsns.contains(&lsns.start) && read.lsns.contains(&middle);
        if let Some(read) = state.flying.iter().find(most) {
            return Launch::Flies(read.lsns.start);
        }
        if !state.queued.is_empty() || state.flying.len() >= MAX_AHEAD {
            return Launch::Not;
        }
        let number = state.next;
        state.next += 1;
        state.flying.push(Flying { number, lsns, waiting: Vec::new() });
        Launch::Go(number)
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
        if state.flying.len() < MAX_READS { state.queued.pop_front() } else { None }
    }
}
