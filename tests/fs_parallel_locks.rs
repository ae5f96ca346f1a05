//! Locks with `-o parallel`, where the daemon serves them: they keep processes apart over all inodes of one log, are given
//! back however their holder ends, and whoever waits can be woken, interrupted and killed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod common;
#[path = "support/locker.rs"]
mod locker;

use std::time::Duration;

use common::*;
use locker::Locker;

const MIB: u64 = 1 << 20;
const SORTS: [&str; 3] = ["whole", "range", "ofd"];
/// Processes that count together, and how far each does.
const COUNTERS: u64 = 6;
const TIMES: u64 = 150;

#[test]
fn locker_process() {
    locker::locker_process();
}

fn mounted() -> (Image, Mount) {
    let image = Image::new(64 * MIB);
    let mount = Mount::new(&image);
    (image, mount)
}

fn lockers<const N: usize>(mount: &Mount) -> [Locker; N] {
    std::array::from_fn(|_| Locker::start(&mount.log()))
}

#[test]
fn each_sort_of_lock_lets_one_process_in_at_a_time() {
    let (image, mount) = mounted();
    let counter = image.path().with_file_name("counter");
    for sort in SORTS {
        std::fs::write(&counter, "0").unwrap();
        let mut all: Vec<_> = (0..COUNTERS).map(|_| Locker::start(&mount.log())).collect();
        all.iter_mut().for_each(|one| one.tell(&format!("count {sort} {TIMES} {}", counter.display())));
        all.iter().for_each(|one| assert_eq!(one.answer(), "ok"));
        assert_eq!(std::fs::read_to_string(&counter).unwrap(), (COUNTERS * TIMES).to_string(), "{sort}");
    }
}

#[test]
fn what_is_locked_is_refused_to_others_and_readers_share() {
    let (_image, mount) = mounted();
    for sort in SORTS {
        let [mut one, mut two, mut three] = lockers(&mount);
        let lock = |mode: &str| format!("lock 0 {sort} {mode} now 0 0");
        assert_eq!(one.ask(&lock("w")), "ok");
        assert_eq!((two.ask(&lock("w")), two.ask(&lock("r"))), ("EAGAIN".into(), "EAGAIN".into()), "{sort}");
        assert_eq!(one.ask(&lock("r")), "ok", "{sort}");
        assert_eq!((two.ask(&lock("r")), three.ask(&lock("w"))), ("ok".into(), "EAGAIN".into()), "{sort}");
        assert_eq!((one.ask(&lock("u")), two.ask(&lock("u")), three.ask(&lock("w"))).2, "ok", "{sort}");
    }
    let [mut one, mut two] = lockers(&mount);
    assert_eq!(one.ask("lock 0 whole w now 0 0"), "ok");
    assert_eq!(two.ask("lock 0 range w now 0 0"), "ok", "flock and fcntl know nothing of each other");
    assert_eq!(one.ask("lock 0 ofd r now 5 1"), "EAGAIN", "both sorts of ranges do");
}

#[test]
fn ranges_are_told_apart_and_shown() {
    let (_image, mount) = mounted();
    let [mut one, mut two] = lockers(&mount);
    assert_eq!(one.ask("lock 0 range w now 0 100"), "ok");
    assert_eq!(one.ask("lock 0 range u now 40 20"), "ok");
    assert_eq!(two.ask("lock 0 range w now 40 20"), "ok");
    assert_eq!(two.ask("test 0 40"), format!("{} {} 0 40", one.pid(), libc::F_WRLCK));
    assert_eq!(two.ask("test 70 1"), format!("{} {} 60 40", one.pid(), libc::F_WRLCK));
    assert_eq!((two.ask("test 100 0"), two.ask("test 40 20")), ("free".into(), "free".into()));
    assert_eq!(one.ask("test 0 0"), format!("{} {} 40 20", two.pid(), libc::F_WRLCK));
    // The whole of what one has may be taken anew, for reading.
    assert_eq!(one.ask("lock 0 range r now 0 40"), "ok");
    assert_eq!(two.ask("lock 0 range r now 0 10"), "ok");
}

#[test]
fn closing_any_descriptor_gives_the_ranges_of_the_process_back_and_no_other_lock() {
    let (_image, mount) = mounted();
    let [mut one, mut two] = lockers(&mount);
    assert_eq!(one.ask("open"), "ok");
    for sort in SORTS {
        assert_eq!(one.ask(&format!("lock 0 {sort} w now {} 1", sort.len())), "ok");
    }
    assert_eq!(one.ask("close 1"), "ok");
    assert_eq!(two.ask("lock 0 range w now 5 1"), "ok", "the range that its process held");
    assert_eq!(two.ask("lock 0 ofd w now 3 1"), "EAGAIN", "an open file's own");
    assert_eq!(two.ask("lock 0 whole w now 0 0"), "EAGAIN");
    two.tell("lock 0 whole w wait 0 0");
    two.waits();
    assert_eq!(one.ask("close 0"), "ok");
    assert_eq!(two.answer(), "ok");
    assert_eq!(two.ask("lock 0 ofd w wait 3 1"), "ok");
}

#[test]
fn a_killed_holder_lets_go_and_a_killed_waiter_goes() {
    let (_image, mount) = mounted();
    for sort in SORTS {
        let [mut holder, mut waiter, mut next] = lockers(&mount);
        let lock = format!("lock 0 {sort} w wait 0 0");
        assert_eq!(holder.ask(&lock), "ok");
        waiter.tell(&lock);
        waiter.waits();
        next.tell(&lock);
        next.waits();
        waiter.kill();
        next.waits();
        holder.kill();
        assert_eq!(next.answer(), "ok", "{sort}");
    }
}

#[test]
fn a_signal_ends_the_wait() {
    let (_image, mount) = mounted();
    for sort in SORTS {
        let [mut holder, mut waiter] = lockers(&mount);
        let lock = format!("lock 0 {sort} w wait 0 0");
        assert_eq!((holder.ask(&lock), waiter.ask("handle")), ("ok".into(), "ok".into()));
        for _ in 0..20 {
            waiter.tell(&lock);
            std::thread::sleep(Duration::from_millis(20));
            waiter.signal("-USR1");
            assert_eq!(waiter.answer(), "EINTR", "{sort}");
        }
        // One that is only stopped for a while waits on.
        waiter.tell(&lock);
        waiter.waits();
        waiter.signal("-STOP");
        waiter.signal("-CONT");
        waiter.waits();
        assert_eq!(holder.ask(&format!("lock 0 {sort} u now 0 0")), "ok");
        assert_eq!(waiter.answer(), "ok", "{sort}");
    }
}

#[test]
fn who_would_wait_for_themselves_is_told() {
    let (_image, mount) = mounted();
    let [mut one, mut two] = lockers(&mount);
    assert_eq!(one.ask("lock 0 range w now 0 1"), "ok");
    assert_eq!(two.ask("lock 0 range w now 1 1"), "ok");
    one.tell("lock 0 range w wait 1 1");
    one.waits();
    assert_eq!(two.ask("lock 0 range w wait 0 1"), "EDEADLK");
    assert_eq!(two.ask("lock 0 range u now 1 1"), "ok");
    assert_eq!(one.answer(), "ok");
}

#[test]
fn locks_are_of_the_log_and_not_of_its_name() {
    let (_image, mount) = mounted();
    let [mut holder] = lockers(&mount);
    assert_eq!(holder.ask("lock 0 whole w now 0 0"), "ok");
    let (log, moved) = (mount.log(), mount.path().join("moved"));
    std::fs::rename(&log, &moved).unwrap();
    std::fs::write(&log, b"new\n").unwrap();
    let (mut of_new, mut of_old) = (Locker::start(&log), Locker::start(&moved));
    assert_eq!((of_new.ask("lock 0 whole w now 0 0"), of_old.ask("lock 0 whole w now 0 0")).1, "EAGAIN");
    std::fs::remove_file(&moved).unwrap();
    assert_eq!(of_old.ask("lock 0 whole w now 0 0"), "EAGAIN", "also without a name");
    holder.kill();
    assert_eq!(of_old.ask("lock 0 whole w wait 0 0"), "ok");
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 4);
}

#[test]
fn every_file_of_the_mount_can_be_locked() {
    let (_image, mount) = mounted();
    let open = |path: &std::path::Path| std::fs::File::open(path).unwrap();
    for name in ["status", "ring", "device", "retained/log"] {
        let file = mount.control(name);
        let (held, shared, other) = (open(&file), open(&file), open(&file));
        held.lock_shared().unwrap();
        shared.lock_shared().unwrap();
        assert!(other.try_lock().is_err(), "{name}");
        // What is closed gives back its own lock and no other's.
        drop(shared);
        std::thread::sleep(Duration::from_millis(20));
        assert!(other.try_lock().is_err(), "{name}");
        drop(held);
        assert!(eventually(locker::SOON, || other.try_lock().is_ok()), "{name}");
    }
}

#[test]
fn whoever_waits_when_the_daemon_is_stopped_is_let_go() {
    let (_image, mount) = mounted();
    let [mut holder, mut waiter] = lockers(&mount);
    assert_eq!(holder.ask("lock 0 whole w now 0 0"), "ok");
    waiter.tell("lock 0 whole w wait 0 0");
    waiter.waits();
    mount.stop.stop();
    mount.join().unwrap();
    assert_ne!(waiter.answer(), "ok");
}
