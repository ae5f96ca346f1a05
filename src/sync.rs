//! Locks, atomics and threads of the rooms below the file system: `parking_lot` and the standard library, or shuttle's
//! models of them under `cfg(shuttle)`, so that a checker decides which thread goes on (tests/shuttle_commit.rs).
//!
//! The ring has models of its own besides, by loom (`ring/sync.rs`).

#[cfg(shuttle)]
pub use self::model::*;
#[cfg(not(shuttle))]
pub use self::real::*;

#[cfg(not(shuttle))]
mod real {
    pub use parking_lot::{Condvar, MappedMutexGuard, Mutex, MutexGuard, RwLock};
    pub use std::sync::atomic;
    pub use std::{thread, thread_local};
}

#[cfg(shuttle)]
mod model {
    use std::collections::{BTreeSet, VecDeque};
    use std::time::Instant;

    pub use shuttle::sync::atomic;
    pub use shuttle::{thread, thread_local};
    pub use shuttle_parking_lot::{MappedMutexGuard, Mutex, MutexGuard, RwLock};

    /// A condition variable with `parking_lot`'s interface.
    #[derive(Debug, Default)]
    pub struct Condvar {
        state: shuttle::sync::Mutex<Tickets>,
        woken: shuttle::sync::Condvar,
    }

    #[derive(Debug, Default)]
    struct Tickets {
        next: u64,
        waiting: VecDeque<u64>,
        called: BTreeSet<u64>,
    }

    /// A wait has ended; in a model time never does.
    pub struct Waited;

    impl Waited {
        pub fn timed_out(&self) -> bool {
            false
        }
    }

    impl Condvar {
        pub fn new() -> Self {
            Self::default()
        }

        fn tickets(&self) -> shuttle::sync::MutexGuard<'_, Tickets> {
            self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        /// Whoever notifies after the lock is given away finds the ticket.
        pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let ticket = {
                let mut tickets = self.tickets();
                let ticket = tickets.next;
                tickets.next += 1;
                tickets.waiting.push_back(ticket);
                ticket
            };
            MutexGuard::unlocked(guard, || {
                let mut tickets = self.tickets();
                while !tickets.called.remove(&ticket) {
                    tickets = self.woken.wait(tickets).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            });
        }

        pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _until: Instant) -> Waited {
            self.wait(guard);
            Waited
        }

        pub fn notify_one(&self) {
            let mut tickets = self.tickets();
            if let Some(ticket) = tickets.waiting.pop_front() {
                tickets.called.insert(ticket);
            }
            drop(tickets);
            self.woken.notify_all();
        }

        pub fn notify_all(&self) {
            let mut tickets = self.tickets();
            while let Some(ticket) = tickets.waiting.pop_front() {
                tickets.called.insert(ticket);
            }
            drop(tickets);
            self.woken.notify_all();
        }
    }
}
