//! Who takes completions: at most one thread at a time.
//!
//! That is the completion thread from the moment it is asked for, else whoever polls or waits for an operation of its
//! own. A tenure ends with its guard, so also when a callback panics: the next in line is never left waiting.

use crate::sync::thread::{self, ThreadId};

use crate::sync::{Condvar, Mutex};

#[derive(Default)]
pub(super) struct Ownership {
    state: Mutex<State>,
    /// The tenure ended, or a blocking call was answered.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    who: Option<ThreadId>,
    /// There is a completion thread, or will be in a moment: nobody else begins a tenure.
    threaded: bool,
}

/// The right to take completions; given up on drop.
pub(super) struct Tenure<'a> {
    ownership: &'a Ownership,
    thread: bool,
}

/// What a thread that wants completions taken may do.
pub(super) enum Turn<'a> {
    /// Take them, as owner.
    Mine(#[expect(dead_code, reason = "held for its drop")] Tenure<'a>),
    /// Take them: this thread is the owner, further up in its stack.
    AlreadyMine,
    /// Another thread does.
    Others,
}

impl Ownership {
    /// Begin a tenure if nobody has one.
    pub(super) fn turn(&self) -> Turn<'_> {
        self.turn_of(&mut self.state.lock())
    }

    fn turn_of(&self, state: &mut State) -> Turn<'_> {
        let me = thread::current().id();
        match state.who {
            Some(owner) if owner == me => Turn::AlreadyMine,
            None if !state.threaded => {
                state.who = Some(me);
                Turn::Mine(Tenure { ownership: self, thread: false })
            }
            _ => Turn::Others,
        }
    }

    /// Sleep until `finished` (`None`), or until it is this thread's turn. `finished` is looked at under the lock that
    /// `answered` takes: no answer is missed.
    pub(super) fn wait(&self, finished: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut state = self.state.lock();
        loop {
            if finished() {
                return None;
            }
            match self.turn_of(&mut state) {
                Turn::Others => self.changed.wait(&mut state),
                turn => return Some(turn),
            }
        }
    }

    /// A blocking call has its answer.
    pub(super) fn answered(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    /// From now on there is a completion thread, or no more.
    pub(super) fn set_threaded(&self, threaded: bool) {
        self.state.lock().threaded = threaded;
        self.changed.notify_all();
    }

    /// The completion thread's own tenure, after the present owner's.
    pub(super) fn thread_tenure(&self) -> Tenure<'_> {
        let mut state = self.state.lock();
        while state.who.is_some() {
            self.changed.wait(&mut state);
        }
        state.who = Some(thread::current().id());
        Tenure { ownership: self, thread: true }
    }
}

impl Drop for Tenure<'_> {
    fn drop(&mut self) {
        let mut state = self.ownership.state.lock();
        state.who = None;
        if self.thread {
            state.threaded = false;
        }
        drop(state);
        self.ownership.changed.notify_all();
    }
}
