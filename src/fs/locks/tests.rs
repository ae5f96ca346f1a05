//! Whoever waits gets the lock in their turn, or is told why not, exactly once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::sync::Arc;

use super::*;

impl Locks {
    /// Locks held, and how many wait for one.
    fn figures(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.count, state.files.values().map(|locked| locked.waiting.len()).sum())
    }
}

type Named = (&'static str, Result<(), Errno>);

/// Answers in the order in which they came.
#[derive(Default, Clone)]
struct Answers(Arc<Mutex<Vec<Named>>>);

impl Answers {
    fn of(&self, name: &'static str) -> Answer {
        let all = self.0.clone();
        Box::new(move |result| all.lock().push((name, result)))
    }

    fn take(&self) -> Vec<Named> {
        std::mem::take(&mut self.0.lock())
    }
}

const INO: u64 = 0x101;

fn ask(owner: u64, flock: bool, range: (u64, u64), want: Want) -> LockAsk {
    LockAsk { owner, fh: owner, uid: 0, pid: 1, flock, start: range.0, end: range.1, want }
}

fn range(owner: u64, start: u64, end: u64, want: Want) -> LockAsk {
    ask(owner, false, (start, end), want)
}

fn whole(owner: u64, want: Want) -> LockAsk {
    ask(owner, true, (0, LAST), want)
}

#[test]
fn who_waits_gets_it_in_turn() {
    let (locks, answers) = (Locks::default(), Answers::default());
    locks.set(INO, &range(1, 0, 9, Want::Write), None, answers.of("first"));
    locks.set(INO, &range(2, 5, 5, Want::Write), None, answers.of("refused"));
    locks.set(INO, &range(2, 5, 5, Want::Write), Some(20), answers.of("second"));
    locks.set(INO, &range(3, 5, 5, Want::Write), Some(30), answers.of("third"));
    locks.set(INO, &range(4, 10, 12, Want::Write), Some(40), answers.of("beside"));
    assert_eq!(answers.take(), [("first", Ok(())), ("refused", Err(Errno::EAGAIN)), ("beside", Ok(()))]);
    assert_eq!(locks.figures(), (2, 2));
    locks.set(INO, &range(1, 4, 6, Want::Nothing), None, answers.of("unlock"));
    assert_eq!(answers.take(), [("second", Ok(())), ("unlock", Ok(()))]);
    locks.closed(INO, 2);
    assert_eq!(answers.take(), [("third", Ok(()))]);
    for owner in [1, 3, 4] {
        locks.released(INO, owner);
    }
    assert_eq!((locks.figures(), locks.state.lock().files.len()), ((0, 0), 0));
}

#[test]
fn a_lock_for_reading_in_the_place_of_one_for_writing_lets_readers_in() {
    let (locks, answers) = (Locks::default(), Answers::default());
    locks.set(INO, &range(1, 0, 9, Want::Write), None, answers.of("writer"));
    locks.set(INO, &range(2, 0, 9, Want::Read), Some(2), answers.of("reader"));
    locks.set(INO, &range(1, 0, 9, Want::Read), None, answers.of("downgrade"));
    assert_eq!(answers.take(), [("writer", Ok(())), ("downgrade", Ok(())), ("reader", Ok(()))]);
}

#[test]
fn flock_is_of_the_whole_file_and_changes_by_way_of_nothing() {
    let (locks, answers) = (Locks::default(), Answers::default());
    locks.set(INO, &whole(1, Want::Read), None, answers.of("a"));
    locks.set(INO, &whole(2, Want::Read), None, answers.of("b"));
    locks.set(INO, &whole(1, Want::Read), Some(1), answers.of("again"));
    assert_eq!(answers.take().len(), 3);
    locks.set(INO, &whole(1, Want::Write), None, answers.of("refused"));
    assert_eq!(answers.take(), [("refused", Err(Errno::EAGAIN))]);
    assert_eq!(locks.figures(), (1, 0), "and the old lock is lost, as flock(2) says");
    locks.set(INO, &whole(1, Want::Write), Some(7), answers.of("a waits"));
    locks.set(INO, &whole(2, Want::Write), Some(8), answers.of("b waits"));
    assert_eq!(answers.take(), [("a waits", Ok(()))], "two that change at once do not wait for each other");
    locks.set(INO, &range(3, 0, 9, Want::Write), None, answers.of("range"));
    assert_eq!(answers.take(), [("range", Ok(()))]);
    locks.released(INO, 1);
    assert_eq!(answers.take(), [("b waits", Ok(()))]);
}

#[test]
fn an_interrupt_ends_the_wait_also_when_it_is_first() {
    let (locks, answers) = (Locks::default(), Answers::default());
    locks.set(INO, &whole(1, Want::Write), None, answers.of("held"));
    locks.set(INO, &whole(2, Want::Write), Some(20), answers.of("waits"));
    locks.interrupt(20);
    locks.interrupt(30);
    locks.set(INO, &whole(3, Want::Write), Some(30), answers.of("overtaken"));
    let interrupted = Err(Errno::EINTR);
    assert_eq!(answers.take(), [("held", Ok(())), ("waits", interrupted), ("overtaken", interrupted)]);
    (0..10 * EARLY as u64).for_each(|key| locks.interrupt(1000 + key));
    assert_eq!(locks.state.lock().early.len(), EARLY);
    locks.set(INO, &whole(4, Want::Write), Some(40), answers.of("goes"));
    locks.shut();
    locks.set(INO, &whole(5, Want::Write), Some(50), answers.of("late"));
    let going = Err(Errno::ESHUTDOWN);
    assert_eq!(answers.take(), [("goes", going), ("late", going)]);
}

#[test]
fn two_that_would_wait_for_each_other_are_told() {
    let (locks, answers) = (Locks::default(), Answers::default());
    for owner in 1..=3 {
        locks.set(INO + owner, &range(owner, 0, 0, Want::Write), None, answers.of("held"));
    }
    locks.set(INO + 2, &range(1, 0, 0, Want::Write), Some(1), answers.of("1 waits for 2"));
    locks.set(INO + 3, &range(2, 0, 0, Want::Write), Some(2), answers.of("2 waits for 3"));
    answers.take();
    locks.set(INO + 1, &range(3, 0, 0, Want::Read), Some(3), answers.of("3 for 1"));
    assert_eq!(answers.take(), [("3 for 1", Err(Errno::EDEADLK))]);
    locks.closed(INO + 3, 3);
    assert_eq!(answers.take(), [("2 waits for 3", Ok(()))]);
}

#[test]
fn no_user_can_hold_without_end() {
    let (locks, answers) = (Locks::default(), Answers::default());
    let mut held = 0;
    // Each second byte, so that nothing joins.
    while answers.0.lock().last().is_none_or(|(_, result)| result.is_ok()) {
        let one = LockAsk { uid: 7, ..range(1, held * 2, held * 2, Want::Read) };
        locks.set(INO, &one, None, answers.of("user"));
        held += 1;
    }
    assert_eq!(answers.take().last().unwrap().1, Err(Errno::ENOLCK));
    assert_eq!(locks.figures().0, USER_LOCKS - 1);
    locks.set(INO, &LockAsk { uid: 8, ..range(2, 0, 9, Want::Read) }, None, answers.of("other"));
    locks.set(INO, &LockAsk { uid: 7, ..range(1, 0, LAST, Want::Nothing) }, None, answers.of("all"));
    assert_eq!(answers.take(), [("other", Ok(())), ("all", Ok(()))]);
    // Cutting one lock into many is holding many.
    locks.set(INO + 1, &LockAsk { uid: 7, ..range(1, 0, LAST, Want::Read) }, None, answers.of("one"));
    let cut = |n: u64| LockAsk { uid: 7, ..range(1, 2 * n, 2 * n, Want::Nothing) };
    (1..=USER_LOCKS as u64).for_each(|n| locks.set(INO + 1, &cut(n), None, answers.of("cut")));
    assert_eq!(answers.take().last().unwrap().1, Err(Errno::ENOLCK));
}
