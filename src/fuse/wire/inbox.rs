//! Answers on their way to the thread of a queue, which alone gives them to the kernel. Any thread puts one in; one that
//! finds the queue's thread asleep wakes it.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use super::answer::Bytes;

/// An answer.
pub struct Ready {
    /// To what lies in this entry.
    pub entry: u32,
    /// 0, or an errno below it.
    pub error: i32,
    /// The request's number.
    pub unique: u64,
    /// What follows the answer's header. Dropped when it is with the kernel, or nobody waits for it any more.
    pub data: Bytes,
}

impl Ready {
    /// What a read gave.
    pub fn is_lent(&self) -> bool {
        matches!(self.data, Bytes::Lent(_))
    }
}

#[derive(Default)]
struct State {
    ready: Vec<Ready>,
    /// The thread sleeps, or is about to: it has seen all that was here.
    asleep: bool,
    ended: bool,
}

/// What the thread of a queue is told.
pub struct Inbox {
    state: Mutex<State>,
    bell: EventFd,
}

impl Inbox {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { state: Mutex::default(), bell })
    }

    /// An answer is ready.
    pub fn put(&self, ready: Ready) {
        let mut state = self.state.lock();
        if state.ended {
            // Before the answer: what it gives back may start another read, whose answer comes here.
            return drop((state, ready));
        }
        state.ready.push(ready);
        self.wake(state);
    }

    /// The mount is gone: nothing more is answered.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        self.wake(state);
    }

    fn wake(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        // It can't be full: whoever sets `asleep` has emptied it or is about to.
        if asleep && let Err(error) = self.bell.write(1) {
            log::error!("the thread of a queue can't be woken: {error}");
        }
    }

    /// Move what is ready to `ready`, which is empty. Who then sleeps is woken by what comes. False: the mount is gone.
    pub fn take(&self, ready: &mut Vec<Ready>) -> bool {
        let mut state = self.state.lock();
        std::mem::swap(ready, &mut state.ready);
        state.asleep = true;
        !state.ended
    }

    /// It sleeps no more: what comes meanwhile it will see.
    pub fn awake(&self) {
        self.state.lock().asleep = false;
    }

    /// What becomes readable when a sleeper is to wake: eight bytes.
    pub fn bell(&self) -> i32 {
        self.bell.as_raw_fd()
    }
}
