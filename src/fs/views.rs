//! Views of the tree of logs: `/.llamafs/retained`, where each log begins at its head, and `/.llamafs/at/TIME`, where each
//! begins with its first record of that time or later.
//!
//! The number of a file of a view stands for one beginning as long as anybody has it open: `stat`, `lseek` and `read` of an
//! open file agree, whatever is let go meanwhile. A log whose head has gone up is found under another number. Of what
//! nobody has open only the last is kept, whatever the kernel still knows: it asks for each name anew.

use std::collections::HashMap;

use super::inode::View;
use super::types::Errno;
use crate::store::Begins;

/// Times that are known at once: the last ones that were looked up, and those with open files. Only more of these are
/// ENFILE.
pub const MOMENTS: usize = 4096;
/// Files of views that may be open at once, however often each; more are ENFILE.
pub const VIEW_FILES: usize = 65_536;
/// Beginnings that are kept of files that are not open, at least; at most twice as many.
const RECENT: usize = 4096;

/// The view of what is retained: records of any time.
pub const RETAINED: u32 = 0;

/// One time.
#[derive(Debug, Default)]
struct Moment {
    time_ns: u64,
    /// Files of it that are open.
    open: usize,
    /// When it was looked up last.
    stamp: u64,
}

/// One open file.
#[derive(Debug)]
struct File {
    begins: Begins,
    open: u64,
}

/// What is known of views.
#[derive(Debug)]
pub struct Views {
    moments: HashMap<u32, Moment>,
    by_time: HashMap<u64, u32>,
    files: HashMap<View, File>,
    recent: HashMap<View, (Begins, u64)>,
    next_slot: u32,
    stamp: u64,
}

/// Of a file that nobody has looked into yet.
const UNKNOWN: Begins = Begins::NotBefore(0);

impl Views {
    /// Nothing but what is retained.
    pub fn new() -> Self {
        Self {
            moments: HashMap::from([(RETAINED, Moment::default())]),
            by_time: HashMap::new(),
            files: HashMap::new(),
            recent: HashMap::new(),
            next_slot: RETAINED,
            stamp: 0,
        }
    }

    /// The view of a time; made if there is none.
    pub fn at(&mut self, time_ns: u64) -> Result<u32, Errno> {
        self.stamp += 1;
        if let Some(slot) = self.by_time.get(&time_ns).copied() {
            if let Some(moment) = self.moments.get_mut(&slot) {
                moment.stamp = self.stamp;
            }
            return Ok(slot);
        }
        if self.by_time.len() >= MOMENTS {
            let unused = self.moments.iter().filter(|(slot, moment)| **slot != RETAINED && moment.open == 0);
            let (slot, time) = unused
                .min_by_key(|(_, moment)| moment.stamp)
                .map(|(slot, moment)| (*slot, moment.time_ns))
                .ok_or(Errno::ENFILE)?;
            self.moments.remove(&slot);
            self.by_time.remove(&time);
        }
        // Not one that was in use a while ago: the kernel may still know something of it, which is gone now.
        loop {
            self.next_slot = (self.next_slot + 1) % View::SLOTS;
            if !self.moments.contains_key(&self.next_slot) {
                break;
            }
        }
        self.moments.insert(self.next_slot, Moment { time_ns, open: 0, stamp: self.stamp });
        self.by_time.insert(time_ns, self.next_slot);
        Ok(self.next_slot)
    }

    /// The time of a view, if it is known.
    pub fn time(&self, slot: u32) -> Option<u64> {
        self.moments.get(&slot).map(|moment| moment.time_ns)
    }

    /// The number under which a log that begins at `head` now is found: one that begins below it is of those who have it
    /// open.
    pub fn number(&self, file: View, head: u64) -> Result<View, Errno> {
        let is_past = |file: &View| match self.files.get(file) {
            Some(File { begins: Begins::At(offset), .. }) => *offset < head,
            _ => false,
        };
        let mut all = (0..=u8::MAX).map(|generation| View { generation, ..file });
        all.find(|file| !is_past(file)).ok_or(Errno::ENFILE)
    }

    /// A file that begins here is opened.
    pub fn open(&mut self, file: View, begins: Begins) -> Result<(), Errno> {
        let moment = self.moments.get_mut(&file.slot).ok_or(Errno::ESTALE)?;
        if let Some(file) = self.files.get_mut(&file) {
            file.open += 1;
        } else if self.files.len() < VIEW_FILES {
            self.files.insert(file, File { begins, open: 1 });
            moment.open += 1;
        } else {
            return Err(Errno::ENFILE);
        }
        Ok(())
    }

    /// It is closed.
    pub fn close(&mut self, file: View) {
        let Some(known) = self.files.get_mut(&file) else { return };
        known.open = known.open.saturating_sub(1);
        if known.open == 0 {
            self.files.remove(&file);
            if let Some(moment) = self.moments.get_mut(&file.slot) {
                moment.open = moment.open.saturating_sub(1);
            }
        }
    }

    /// Where a file begins that belongs to a log which begins at `head` now, as far as it is known.
    pub fn begins(&self, file: View, head: u64) -> Begins {
        if let Some(file) = self.files.get(&file) {
            return file.begins;
        }
        match self.recent.get(&file) {
            Some((Begins::At(offset), _)) => Begins::At(head.max(*offset)),
            Some((begins, _)) => *begins,
            None => UNKNOWN,
        }
    }

    /// It was found where a file begins: for those who have it open that stays.
    pub fn settle(&mut self, file: View, found: Begins) -> Begins {
        match self.files.get_mut(&file) {
            Some(File { begins: known @ Begins::At(_), .. }) => return *known,
            Some(file) => file.begins = found,
            None if file.slot != RETAINED => {
                self.stamp += 1;
                self.recent.insert(file, (found, self.stamp));
                if self.recent.len() > 2 * RECENT {
                    let mut stamps: Vec<u64> = self.recent.values().map(|(_, stamp)| *stamp).collect();
                    let (_, middle, _) = stamps.select_nth_unstable(RECENT);
                    let middle = *middle;
                    self.recent.retain(|_, (_, stamp)| *stamp > middle);
                }
            }
            None => {}
        }
        found
    }

    /// Times that are known, and open files.
    pub fn counts(&self) -> (usize, usize) {
        (self.by_time.len(), self.files.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: View = View { slot: RETAINED, generation: 0, directory: false, id: 7 };

    #[test]
    fn a_number_stands_for_one_beginning_as_long_as_it_is_open() {
        let mut views = Views::new();
        assert_eq!(views.number(FILE, 100), Ok(FILE));
        views.open(FILE, Begins::NotBefore(50)).unwrap();
        assert_eq!(views.settle(FILE, Begins::At(100)), Begins::At(100));
        assert_eq!(views.settle(FILE, Begins::At(200)), Begins::At(100), "it stays");
        assert_eq!(views.number(FILE, 100), Ok(FILE));
        let next = View { generation: 1, ..FILE };
        assert_eq!(views.number(FILE, 101), Ok(next));
        views.open(next, Begins::At(101)).unwrap();
        views.open(FILE, Begins::At(999)).unwrap();
        assert_eq!(views.begins(FILE, 101), Begins::At(100));
        views.close(FILE);
        assert_eq!(views.number(FILE, 101), Ok(next));
        views.close(FILE);
        assert_eq!(views.number(FILE, 101), Ok(FILE), "free again");
        views.close(next);
        views.close(next);
        assert_eq!(views.counts(), (0, 0));
    }

    #[test]
    fn the_last_times_and_those_with_open_files_keep_their_numbers() {
        let mut views = Views::new();
        let file = View { slot: views.at(77).unwrap(), ..FILE };
        views.open(file, Begins::At(0)).unwrap();
        let mut slots = std::collections::HashSet::from([file.slot, RETAINED]);
        for time in 0..10_000u64 {
            let slot = views.at(1_000 + time).unwrap();
            assert_eq!((views.time(slot), views.at(1_000 + time)), (Some(1_000 + time), Ok(slot)));
            assert!(slots.insert(slot), "none is used twice soon");
        }
        assert_eq!((views.time(file.slot), views.at(77)), (Some(77), Ok(file.slot)));
        assert_eq!((views.counts(), views.time(RETAINED)), ((MOMENTS, 1), Some(0)));
        views.close(file);
        assert!((0..5_000).all(|time| views.at(100_000 + time).is_ok()));
        assert_eq!(views.time(file.slot), None);
        assert_eq!(views.open(file, UNKNOWN), Err(Errno::ESTALE));
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let mut views = Views::new();
        for time in 0..MOMENTS as u64 {
            let slot = views.at(time).unwrap();
            views.open(View { slot, ..FILE }, UNKNOWN).unwrap();
        }
        assert_eq!(views.at(u64::MAX), Err(Errno::ENFILE));
        for id in MOMENTS..VIEW_FILES {
            views.open(View { id: 1000 + id as u32, ..FILE }, UNKNOWN).unwrap();
        }
        assert_eq!(views.open(View { id: 999, ..FILE }, UNKNOWN), Err(Errno::ENFILE));
        views.open(View { id: 1000 + MOMENTS as u32, ..FILE }, UNKNOWN).unwrap();
        // What nobody has open is bounded too.
        for id in 1000..100_000 {
            let file = View { slot: 1, id, ..FILE };
            views.settle(file, Begins::At(id.into()));
            assert_eq!(views.begins(file, 5000), Begins::At(u64::from(id).max(5000)));
        }
        assert!((RECENT..=2 * RECENT).contains(&views.recent.len()), "{}", views.recent.len());
    }

    #[test]
    fn a_file_whose_beginnings_are_all_taken_is_refused() {
        let mut views = Views::new();
        for head in 0..=u64::from(u8::MAX) {
            let file = views.number(FILE, head).unwrap();
            views.open(file, Begins::At(head)).unwrap();
        }
        assert_eq!(views.number(FILE, 256), Err(Errno::ENFILE));
        assert!(views.number(FILE, 255).is_ok());
    }
}
