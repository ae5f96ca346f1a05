//! Reads take turns: their bytes lie in the daemon's memory until the kernel has them, and however many readers there
//! are, only so many bytes do at one time. A read that has to wait costs its few words alone.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// What the smallest read counts for, in bytes: what it needs besides its bytes, and then some.
const LEAST: usize = 8 << 10;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    held: usize,
    waiting: VecDeque<(usize, Job)>,
    /// Somebody starts those whose turn it is.
    starting: bool,
}

/// Whose turn it is.
pub struct Turns {
    limit: usize,
    state: Mutex<State>,
}

impl State {
    fn has_room(&self, len: usize, limit: usize) -> bool {
        self.held == 0 || self.held.saturating_add(len) <= limit
    }
}

impl Turns {
    /// At most `limit` bytes at one time; but one read, whatever its size, always may be under way.
    pub fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// Run `job`, now or when others have given back what they hold. It holds `len` bytes until [`Turns::give`].
    pub fn take(&self, len: usize, job: impl FnOnce() + Send + 'static) {
        let len = len.max(LEAST);
        {
            let mut state = self.state.lock();
            if !state.waiting.is_empty() || !state.has_room(len, self.limit) {
                state.waiting.push_back((len, Box::new(job)));
                return;
            }
            state.held += len;
        }
        job();
    }

    /// A job of `len` bytes is done. Starts others, one after the other: a job that is done at once comes back here,
    /// and must not start the next from within itself.
    pub fn give(&self, len: usize) {
        let mut state = self.state.lock();
        state.held = state.held.saturating_sub(len.max(LEAST));
        if state.starting {
            return;
        }
        state.starting = true;
        while let Some(len) = state.waiting.front().map(|(len, _)| *len)
            && state.has_room(len, self.limit)
            && let Some((_, job)) = state.waiting.pop_front()
        {
            state.held += len;
            drop(state);
            job();
            state = self.state.lock();
        }
        state.starting = false;
    }

    /// Bytes of the reads under way, and how many wait for their turn.
    pub fn figures(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.held, state.waiting.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn reads_wait_for_their_turn_and_all_get_it() {
        let turns = Arc::new(Turns::new(4 * LEAST));
        let ran = Arc::new(AtomicUsize::new(0));
        // Larger than everything: alone, but not never.
        let counted = ran.clone();
        turns.take(9 * LEAST, move || drop(counted.fetch_add(1, Ordering::SeqCst).to_string()));
        for _ in 0..10_000 {
            let (counted, back) = (ran.clone(), turns.clone());
            turns.take(1, move || {
                counted.fetch_add(1, Ordering::SeqCst);
                back.give(1);
            });
        }
        assert_eq!((ran.load(Ordering::SeqCst), turns.figures()), (1, (9 * LEAST, 10_000)));
        turns.give(9 * LEAST);
        assert_eq!((ran.load(Ordering::SeqCst), turns.figures()), (10_001, (0, 0)));
    }

    #[test]
    fn no_more_bytes_than_the_limit_are_under_way() {
        let turns = Turns::new(4 * LEAST);
        (0..9).for_each(|_| turns.take(LEAST, || {}));
        assert_eq!(turns.figures(), (4 * LEAST, 5));
        turns.give(LEAST);
        assert_eq!(turns.figures(), (4 * LEAST, 4));
    }
}
