//! Locks that are held on one file: byte ranges of fcntl(2), by process or by open file, and whole files of flock(2). The
//! two sorts know nothing of each other, as on every local file system.

/// The last byte that a lock can lie on.
pub const LAST: u64 = i64::MAX as u64;

/// One lock, held or asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Whose it is, as the kernel names them: a process for fcntl, an open file for flock and for `F_OFD_SETLK`.
    pub owner: u64,
    /// Through which open file it was taken.
    pub fh: u64,
    /// By which user.
    pub uid: u32,
    /// By which process, for `F_GETLK`.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// Nobody else may have one on these bytes; otherwise others may read.
    pub write: bool,
}

impl Lock {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.end
    }

    /// Whether both can't be held at once.
    fn excludes(&self, other: &Self) -> bool {
        self.owner != other.owner && (self.write || other.write) && self.overlaps(other.start, other.end)
    }

    /// Whether they are one lock, once neither lies on the other's bytes.
    fn joins(&self, other: &Self) -> bool {
        let beside = self.end.checked_add(1) == Some(other.start) || other.end.checked_add(1) == Some(self.start);
        self.owner == other.owner && self.write == other.write && beside
    }
}

/// Which sort of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// fcntl(2): a range of bytes.
    Range,
    /// flock(2): the whole file.
    Whole,
}

/// The locks of one file.
#[derive(Debug, Default)]
pub struct Held {
    ranges: Vec<Lock>,
    whole: Vec<Lock>,
}

impl Held {
    fn of(&self, sort: Sort) -> &Vec<Lock> {
        match sort {
            Sort::Range => &self.ranges,
            Sort::Whole => &self.whole,
        }
    }

    fn of_mut(&mut self, sort: Sort) -> &mut Vec<Lock> {
        match sort {
            Sort::Range => &mut self.ranges,
            Sort::Whole => &mut self.whole,
        }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.ranges.len() + self.whole.len()
    }

    /// How many of a user's.
    pub fn count_of(&self, uid: u32) -> usize {
        self.ranges.iter().chain(&self.whole).filter(|lock| lock.uid == uid).count()
    }

    /// The first lock that keeps this one from being taken.
    pub fn conflict(&self, sort: Sort, lock: &Lock) -> Option<&Lock> {
        self.of(sort).iter().filter(|held| held.excludes(lock)).min_by_key(|held| held.start)
    }

    /// Owners of all such locks.
    pub fn in_the_way<'a>(&'a self, sort: Sort, lock: &'a Lock) -> impl Iterator<Item = u64> + 'a {
        self.of(sort).iter().filter(|held| held.excludes(lock)).map(|held| held.owner)
    }

    /// The lock of this sort that an owner has on a byte.
    pub fn at(&self, sort: Sort, owner: u64, byte: u64) -> Option<&Lock> {
        self.of(sort).iter().find(|held| held.owner == owner && held.overlaps(byte, byte))
    }

    /// Take a lock that nothing conflicts with: on its bytes it stands in the place of what its owner had there.
    pub fn take(&mut self, sort: Sort, mut lock: Lock) {
        self.give(sort, lock.owner, lock.start, lock.end);
        let held = self.of_mut(sort);
        held.retain(|other| {
            let joins = other.joins(&lock);
            if joins {
                (lock.start, lock.end) = (lock.start.min(other.start), lock.end.max(other.end));
            }
            !joins
        });
        held.push(lock);
    }

    /// Whether giving these bytes back would make two locks of one.
    pub fn splits(&self, sort: Sort, owner: u64, start: u64, end: u64) -> bool {
        self.of(sort).iter().any(|held| held.owner == owner && held.start < start && end < held.end)
    }

    /// Give back what an owner has on these bytes.
    pub fn give(&mut self, sort: Sort, owner: u64, start: u64, end: u64) {
        let held = self.of_mut(sort);
        let mut kept = Vec::new();
        held.retain(|lock| {
            let hit = lock.owner == owner && lock.overlaps(start, end);
            if hit && lock.start < start {
                kept.push(Lock { end: start.saturating_sub(1), ..*lock });
            }
            if hit && end < lock.end {
                kept.push(Lock { start: end.saturating_add(1), ..*lock });
            }
            !hit
        });
        held.append(&mut kept);
    }

    /// A process has closed a descriptor of the file: all its ranges are given back, as POSIX wants it.
    pub fn closed(&mut self, owner: u64) {
        self.ranges.retain(|lock| lock.owner != owner);
    }

    /// An open file is no more: what was taken through it is given back.
    pub fn released(&mut self, fh: u64) {
        self.ranges.retain(|lock| lock.fh != fh);
        self.whole.retain(|lock| lock.fh != fh);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owner: u64, start: u64, end: u64, write: bool) -> Lock {
        Lock { owner, fh: owner, uid: 0, pid: 0, start, end, write }
    }

    /// What an owner holds, in order.
    fn of(held: &Held, owner: u64) -> Vec<(u64, u64, bool)> {
        let mut all: Vec<_> = held.ranges.iter().filter(|lock| lock.owner == owner).collect();
        all.sort_by_key(|lock| lock.start);
        all.into_iter().map(|lock| (lock.start, lock.end, lock.write)).collect()
    }

    /// Bytes small enough that every case of overlap comes up, against a model that has a word for each byte.
    #[test]
    fn ranges_are_those_of_a_model_that_has_each_byte_by_itself() {
        const BYTES: u64 = 12;
        let mut state = 7u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..300 {
            let mut held = Held::default();
            let mut model = [[None::<bool>; BYTES as usize]; 3];
            for _ in 0..40 {
                let (owner, start) = (next(3), next(BYTES));
                let end = start + next(BYTES - start);
                let bytes = start as usize..=end as usize;
                if next(3) == 0 {
                    held.give(Sort::Range, owner, start, end);
                    model[owner as usize][bytes].fill(None);
                } else {
                    let write = next(2) == 0;
                    let new = lock(owner, start, end, write);
                    let others = (0..3).filter(|other| *other != owner);
                    let taken = others.flat_map(|other| model[other as usize][bytes.clone()].to_vec()).flatten();
                    let conflict = taken.into_iter().any(|other| other || write);
                    assert_eq!(held.conflict(Sort::Range, &new).is_some(), conflict);
                    if !conflict {
                        held.take(Sort::Range, new);
                        model[owner as usize][bytes].fill(Some(write));
                    }
                }
                for owner in 0..3 {
                    let mut expected = Vec::<(u64, u64, bool)>::new();
                    for (at, byte) in model[owner as usize].iter().enumerate() {
                        let (at, Some(write)) = (at as u64, *byte) else { continue };
                        match expected.last_mut() {
                            Some(last) if last.1 + 1 == at && last.2 == write => last.1 = at,
                            _ => expected.push((at, at, write)),
                        }
                    }
                    assert_eq!(of(&held, owner), expected, "joined, and no two on one byte");
                }
            }
        }
    }

    #[test]
    fn the_last_byte_has_no_neighbour() {
        let mut held = Held::default();
        held.take(Sort::Range, lock(1, 0, u64::MAX, true));
        held.give(Sort::Range, 1, LAST, LAST);
        assert_eq!(of(&held, 1), [(0, LAST - 1, true), (LAST + 1, u64::MAX, true)]);
        assert!(held.splits(Sort::Range, 1, 5, 9) && !held.splits(Sort::Range, 1, 0, 9));
    }

    #[test]
    fn the_two_sorts_know_nothing_of_each_other() {
        let mut held = Held::default();
        held.take(Sort::Whole, lock(1, 0, LAST, true));
        assert!(held.conflict(Sort::Range, &lock(2, 0, LAST, true)).is_none());
        assert!(held.conflict(Sort::Whole, &lock(2, 0, LAST, false)).is_some());
        held.take(Sort::Range, lock(2, 0, 5, true));
        held.closed(1);
        held.closed(2);
        assert_eq!((held.count(), held.count_of(0)), (1, 1), "closing one descriptor is nothing to flock");
        held.released(1);
        assert_eq!(held.count(), 0);
    }
}
