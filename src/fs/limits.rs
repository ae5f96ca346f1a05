//! Limits against exhaustion, as a mount sets them, and open files, which are counted for each user and for all.
//!
//! A handle tells whose it is, so nothing is kept for each open file: only a count for each user that has some.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::types::Errno;

/// What a mount sets. What is beyond is refused, or waits, by docs/operations.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in a name: ENAMETOOLONG.
    pub name_max: usize,
    /// Open files of one user, root excepted: EMFILE.
    pub user_handles: u64,
    /// Open files of all users but root and the mounter: ENFILE.
    pub max_handles: u64,
    /// Open control files of one user: EMFILE; eight times as many of all: ENFILE.
    pub control_files: usize,
    /// Bytes of reads under way: the others wait.
    pub read_memory: usize,
    /// Bytes of appends that wait for room in the ring: the others wait.
    ///
    /// An append that finds the ring full is copied and queued, so that its worker goes on. The kernel holds a file's inode
    /// lock over each append, so one log queues at most one request; the bound only matters with many logs, and keeps the
    /// daemon's memory known.
    pub append_memory: usize,
}

impl Limits {
    /// Longest name, as everywhere in Linux.
    pub const NAME_MAX: usize = 255;
    /// Least that `read_memory` and `append_memory` can be: one request.
    pub const LEAST_MEMORY: usize = 1 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            name_max: Self::NAME_MAX,
            user_handles: 262_144,
            max_handles: 1_048_576,
            control_files: 128,
            read_memory: 10 << 20,
            append_memory: 32 << 20,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    users: HashMap<u32, u64>,
    all: u64,
}

/// Open files of logs, of views and of the device.
#[derive(Debug)]
pub struct Handles {
    user: u64,
    all: u64,
    mounter: u32,
    counts: Mutex<Counts>,
}

impl Handles {
    /// None are open, on a mount by this user.
    pub fn new(limits: &Limits, mounter: u32) -> Self {
        Self { user: limits.user_handles, all: limits.max_handles, mounter, counts: Mutex::default() }
    }

    /// One more, for a user.
    pub fn take(&self, uid: u32) -> Result<(), Errno> {
        if uid == 0 {
            return Ok(());
        }
        let mut counts = self.counts.lock();
        let of_all = uid != self.mounter;
        if of_all && counts.all >= self.all {
            return Err(Errno::ENFILE);
        }
        let user = counts.users.entry(uid).or_default();
        if *user >= self.user {
            return Err(Errno::EMFILE);
        }
        *user += 1;
        counts.all += u64::from(of_all);
        Ok(())
    }

    /// One less.
    pub fn give(&self, uid: u32) {
        if uid == 0 {
            return;
        }
        let mut counts = self.counts.lock();
        let Some(user) = counts.users.get_mut(&uid) else { return };
        *user -= 1;
        if *user == 0 {
            counts.users.remove(&uid);
        }
        if uid != self.mounter {
            counts.all = counts.all.saturating_sub(1);
        }
    }

    /// Those of all users but root and the mounter.
    pub fn count(&self) -> u64 {
        self.counts.lock().all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_and_no_number_of_users_has_all_handles() {
        let limits = Limits { user_handles: 3, max_handles: 8, ..Limits::default() };
        let handles = Handles::new(&limits, 7);
        for uid in [1000, 1001] {
            assert!((0..3).all(|_| handles.take(uid).is_ok()));
            assert_eq!(handles.take(uid), Err(Errno::EMFILE));
        }
        assert!(handles.take(1002).is_ok() && handles.take(1003).is_ok());
        assert_eq!((handles.take(1004), handles.count()), (Err(Errno::ENFILE), 8));
        assert!((0..3).all(|_| handles.take(7).is_ok()), "the mounter has their own");
        assert_eq!(handles.take(7), Err(Errno::EMFILE));
        assert!((0..100).all(|_| handles.take(0).is_ok()), "and root no limit");
        handles.give(1000);
        assert!(handles.take(1004).is_ok());
        for uid in [0, 1000, 1000, 1000, 1001, 1001, 1001, 1002, 1003, 1004, 7, 7, 7, 4444] {
            handles.give(uid);
        }
        assert_eq!((handles.count(), handles.counts.lock().users.len()), (0, 0));
    }
}
