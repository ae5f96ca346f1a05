//! Locks that the daemon serves under `-o parallel`: there each opener of a log has an inode of its own in the kernel,
//! and the kernel's own locks, which lie on inodes, would keep nobody out.
//!
//! One who has to wait is a request that is not answered yet. A signal makes the kernel send an interrupt for it; it may
//! overtake the request itself on another thread, so interrupts for what does not wait are remembered for a while.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::LlamaFs;
use super::held::{Held, LAST, Lock, Sort};
use super::inode::Node;
use super::types::{Errno, LockAsk, Reply, Want};

/// Locks that one user may hold.
pub const USER_LOCKS: usize = 16 << 10;
/// Locks that all may.
pub const ALL_LOCKS: usize = 64 << 10;
/// What taking one lock adds at most: it, and the second half of one that it cuts in two.
const ADDED: usize = 2;
/// Interrupts that are remembered: more cannot be on their way between two threads.
const EARLY: usize = 1024;
/// Owners that are looked at to find that one waits for itself.
const CHAIN: usize = 64;

type Answer = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// One who waits.
struct Waiter {
    key: u64,
    sort: Sort,
    lock: Lock,
    answer: Answer,
}

/// The locks of a file, and who waits for one.
#[derive(Default)]
struct Locked {
    held: Held,
    waiting: VecDeque<Waiter>,
}

#[derive(Default)]
struct State {
    files: HashMap<u64, Locked>,
    early: VecDeque<u64>,
    count: usize,
    shut: bool,
}

/// All locks of the mount.
#[derive(Default)]
pub struct Locks {
    state: Mutex<State>,
    /// Files with locks: closing a file asks whether there are any, without a lock of its own.
    files: AtomicUsize,
}

impl State {
    /// Change what is held on a file, let those in whose turn has come, and say who they are.
    fn change(&mut self, ino: u64, change: impl FnOnce(&mut Locked)) -> Vec<Answer> {
        let mut locked = self.files.remove(&ino).unwrap_or_default();
        let before = locked.held.count();
        change(&mut locked);
        let mut granted = Vec::new();
        let free = |locked: &Locked| {
            locked.waiting.iter().position(|waiter| locked.held.conflict(waiter.sort, &waiter.lock).is_none())
        };
        while let Some(waiter) = free(&locked).and_then(|place| locked.waiting.remove(place)) {
            locked.held.take(waiter.sort, waiter.lock);
            granted.push(waiter.answer);
        }
        self.count = (self.count + locked.held.count()).saturating_sub(before);
        if locked.held.count() > 0 || !locked.waiting.is_empty() {
            self.files.insert(ino, locked);
        }
        granted
    }

    fn is_full(&self, uid: u32) -> bool {
        let of_user = || self.files.values().map(|locked| locked.held.count_of(uid)).sum::<usize>();
        self.count + ADDED > ALL_LOCKS || (self.count + ADDED > USER_LOCKS && of_user() + ADDED > USER_LOCKS)
    }

    /// Whether somebody whom this lock would wait for waits, over others, for its owner.
    fn waits_for_itself(&self, ino: u64, lock: &Lock) -> bool {
        let in_the_way = |ino: u64, lock: &Lock| -> Vec<u64> {
            let locked = self.files.get(&ino);
            locked.map(|locked| locked.held.in_the_way(Sort::Range, lock).collect()).unwrap_or_default()
        };
        let (mut left, mut seen) = (in_the_way(ino, lock), HashSet::new());
        while let Some(owner) = left.pop() {
            if owner == lock.owner {
                return true;
            }
            if !seen.insert(owner) || seen.len() > CHAIN {
                continue;
            }
            for (ino, locked) in &self.files {
                let waiting = locked.waiting.iter();
                let mine = waiting.filter(|waiter| waiter.sort == Sort::Range && waiter.lock.owner == owner);
                left.extend(mine.flat_map(|waiter| in_the_way(*ino, &waiter.lock)));
            }
        }
        false
    }

    /// Take a lock, or wait for it. What there is to answer.
    fn set(&mut self, ino: u64, sort: Sort, lock: Lock, wait: Option<u64>, answer: Answer) -> Vec<Answered> {
        if self.is_full(lock.uid) {
            return vec![(answer, Err(Errno::ENOLCK))];
        }
        let mut answers = Vec::new();
        if sort == Sort::Whole
            && let Some(held) = self.files.get(&ino).and_then(|locked| locked.held.at(sort, lock.owner, 0))
        {
            if held.write == lock.write {
                return vec![(answer, Ok(()))];
            }
            // As flock(2) has it: the old lock goes first, and others may come in between.
            let granted = self.change(ino, |locked| locked.held.give(sort, lock.owner, 0, LAST));
            answers.extend(granted.into_iter().map(|answer| (answer, Ok(()))));
        }
        let conflict = self.files.get(&ino).is_some_and(|locked| locked.held.conflict(sort, &lock).is_some());
        let refused = match wait {
            _ if !conflict => None,
            None => Some(Errno::EAGAIN),
            Some(_) if self.shut => Some(Errno::ESHUTDOWN),
            Some(key) if self.early.contains(&key) => Some(Errno::EINTR),
            Some(_) if sort == Sort::Range && self.waits_for_itself(ino, &lock) => Some(Errno::EDEADLK),
            Some(key) => {
                let waiter = Waiter { key, sort, lock, answer };
                self.files.entry(ino).or_default().waiting.push_back(waiter);
                return answers;
            }
        };
        if let Some(errno) = refused {
            answers.push((answer, Err(errno)));
            return answers;
        }
        // A lock for reading in the place of one for writing lets others in.
        let granted = self.change(ino, |locked| locked.held.take(sort, lock));
        answers.push((answer, Ok(())));
        answers.extend(granted.into_iter().map(|answer| (answer, Ok(()))));
        answers
    }
}

type Answered = (Answer, Result<(), Errno>);

impl Locks {
    /// Do something with the state, then answer without holding it.
    fn with(&self, act: impl FnOnce(&mut State) -> Vec<Answered>) {
        let answers = {
            let mut state = self.state.lock();
            let answers = act(&mut state);
            self.files.store(state.files.len(), Ordering::Release);
            answers
        };
        answers.into_iter().for_each(|(answer, result)| answer(result));
    }

    fn change(&self, ino: u64, change: impl FnOnce(&mut Locked)) {
        if self.files.load(Ordering::Acquire) > 0 {
            self.with(|state| state.change(ino, change).into_iter().map(|answer| (answer, Ok(()))).collect());
        }
    }

    /// The lock that keeps this one from being taken.
    fn test(&self, ino: u64, lock: &Lock) -> Option<Lock> {
        self.state.lock().files.get(&ino)?.held.conflict(Sort::Range, lock).copied()
    }

    /// Take, or give back.
    fn set(&self, ino: u64, ask: &LockAsk, wait: Option<u64>, answer: Answer) {
        let sort = if ask.flock { Sort::Whole } else { Sort::Range };
        let lock = lock(ask);
        self.with(|state| {
            if ask.want != Want::Nothing {
                return state.set(ino, sort, lock, wait, answer);
            }
            let splits = |locked: &Locked| locked.held.splits(sort, lock.owner, lock.start, lock.end);
            if state.files.get(&ino).is_some_and(splits) && state.is_full(lock.uid) {
                return vec![(answer, Err(Errno::ENOLCK))];
            }
            let granted = state.change(ino, |locked| locked.held.give(sort, lock.owner, lock.start, lock.end));
            granted.into_iter().chain([answer]).map(|answer| (answer, Ok(()))).collect()
        });
    }

    /// A process has closed a descriptor of the file.
    pub fn closed(&self, ino: u64, owner: u64) {
        self.change(ino, |locked| locked.held.closed(owner));
    }

    /// An open file is no more.
    pub fn released(&self, ino: u64, fh: u64) {
        self.change(ino, |locked| locked.held.released(fh));
    }

    /// Who waits under this key is to wait no longer.
    fn interrupt(&self, key: u64) {
        self.with(|state| {
            let waits = |locked: &Locked| locked.waiting.iter().position(|waiter| waiter.key == key);
            let found = state.files.iter().find_map(|(ino, locked)| Some((*ino, waits(locked)?)));
            let Some((ino, place)) = found else {
                if state.early.len() >= EARLY {
                    state.early.pop_front();
                }
                state.early.push_back(key);
                return Vec::new();
            };
            let mut gone = None;
            state.change(ino, |locked| gone = locked.waiting.remove(place));
            gone.map(|waiter| (waiter.answer, Err(Errno::EINTR))).into_iter().collect()
        });
    }

    /// The mount is going: nobody waits any longer.
    pub fn shut(&self) {
        self.with(|state| {
            state.shut = true;
            let waiting = state.files.values_mut().flat_map(|locked| locked.waiting.drain(..));
            waiting.map(|waiter| (waiter.answer, Err(Errno::ESHUTDOWN))).collect()
        });
    }
}

fn lock(ask: &LockAsk) -> Lock {
    Lock {
        owner: ask.owner,
        fh: ask.fh,
        uid: ask.uid,
        pid: ask.pid,
        start: ask.start,
        end: ask.end,
        write: ask.want == Want::Write,
    }
}

impl LlamaFs {
    /// `fcntl` with `F_GETLK`: a lock that is in the way, if there is one.
    pub fn getlk(&self, ino: u64, ask: &LockAsk) -> Result<Option<LockAsk>, Errno> {
        let ino = Node::of(ino).ok_or(Errno::ENOENT)?.ino();
        let found = self.inner.locks.test(ino, &lock(ask));
        Ok(found.map(|held| LockAsk {
            want: if held.write { Want::Write } else { Want::Read },
            pid: held.pid,
            start: held.start,
            end: held.end,
            ..*ask
        }))
    }

    /// `fcntl` with `F_SETLK`, `flock`; with `wait`, `F_SETLKW` and `flock` without `LOCK_NB`, which an
    /// [`LlamaFs::interrupt`] with the same key ends.
    pub fn setlk(&self, ino: u64, ask: &LockAsk, wait: Option<u64>, reply: impl Reply<()>) {
        let Some(node) = Node::of(ino) else { return reply.send(Err(Errno::ENOENT)) };
        if ask.start > ask.end {
            return reply.send(Err(Errno::EINVAL));
        }
        self.inner.locks.set(node.ino(), ask, wait, Box::new(move |result| reply.send(result)));
    }

    /// A signal has come to whoever made the request with this key.
    pub fn interrupt(&self, key: u64) {
        self.inner.locks.interrupt(key);
    }

    /// `close`: whatever of the file its process has locked by fcntl is given back.
    pub fn flush(&self, ino: u64, owner: u64) {
        if let Some(node) = Node::of(ino) {
            self.inner.locks.closed(node.ino(), owner);
        }
    }
}

#[cfg(test)]
mod tests;
