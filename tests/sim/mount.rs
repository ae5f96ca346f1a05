//! How a mount ends and the next one begins: unmounting, kills, power failures, recovery; and what has to hold then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llamafs::format::ROOT_ID;
use llamafs::io::{Device, SimDevice};
use llamafs::store::{Image, LogStructuredStore, Part, RecoveryReport};

use super::plan::{Disk, SEGMENT};
use super::states::State;
use super::world::{BLOCK, Facts, LOG, World};

impl World {
    /// Clean unmount.
    pub fn unmount(&mut self) {
        if self.store.is_none() && !self.mount() {
            return;
        }
        let Some(store) = self.store.take() else { return };
        self.stall(false);
        let closed = store.close();
        self.pump();
        self.written_end = store.stats().end_lsn;
        self.facts.recovered = None;
        self.facts.sync_failed = false;
        match closed {
            Ok(()) => {
                if !self.facts.lied {
                    self.model.all_promised();
                }
                self.facts.clean = true;
                self.facts.all_stable = true;
            }
            Err(error) => {
                assert!(self.facts.faults, "close failed without a fault: {error}");
                self.facts.clean = false;
            }
        }
        drop(store);
    }

    /// The power fails now.
    pub fn crash(&mut self, seed: u64) {
        self.pump();
        self.note_end();
        let next = self.device.crash(seed);
        self.hits.hit_if(State::CrashUnlinked, self.store.is_some() && !self.model.open.is_empty());
        self.hits.hit_if(State::CrashAfterKill, self.facts.killed && self.store.is_some());
        self.replace(next);
        self.facts.all_stable = true;
        self.facts.killed = false;
    }

    /// The daemon is killed now.
    pub fn kill(&mut self, seed: u64) {
        self.pump();
        self.note_end();
        self.hits.hit_if(State::KillInFlight, self.device.pending() > 0);
        let next = self.device.kill(seed);
        self.replace(next);
        self.facts.all_stable = false;
        self.facts.killed = true;
    }

    /// States worth noting of a mount that is about to end badly.
    fn note_end(&mut self) {
        if let Some(store) = &self.store {
            // What the store takes for stable has to outlive this, whether somebody asked or not.
            if !self.facts.lied {
                self.model.promise(store.stable_lsn().min(self.model.end()));
            }
            self.written_end = store.stats().end_lsn;
            self.hits.hit_if(State::VoidLast, self.last_was_void() && self.model.end() > self.model.durable);
            let flushes = self.device.ops().flushes;
            self.hits.hit_if(State::CrashBeforeFlush, flushes == self.flushes_at_mount);
        }
        self.hits.hit_if(State::Overtaken, self.device.ops().overtaken > 0);
    }

    /// Go on with another disk; what the store of this one still does is of no account.
    fn replace(&mut self, next: SimDevice) {
        self.device.power_off();
        if let Some(store) = self.store.take() {
            self.facts.clean = false;
            self.facts.recovered = None;
            drop(store);
        }
        self.answers.lock().clear();
        self.stalled = false;
        self.setup.prepare(&next);
        self.device = Arc::new(next);
        // The new disk plans no faults; what an old one lied about stays.
        self.facts.faults = self.facts.lied;
        self.facts.sync_failed = false;
    }

    /// The power fails in the middle of a clean unmount.
    pub fn close_crash(&mut self, after: u64, seed: u64) {
        if self.store.is_none() && !self.mount() {
            return;
        }
        let Some(store) = self.store.take() else { return };
        self.stall(false);
        self.pump();
        self.device.power_off_after(after + 1);
        let faults = std::mem::replace(&mut self.facts.faults, true);
        let closed = store.close();
        self.pump();
        self.facts.faults = faults;
        let whole = closed.is_ok();
        if whole && !self.facts.lied {
            self.model.all_promised();
        }
        self.hits.hit_if(State::CrashInClose, !whole);
        self.store = Some(store);
        self.crash(seed);
        // The unmount may have been over before the power failed.
        self.facts.clean = whole;
    }

    /// The power fails in the middle of a tick.
    pub fn tick_crash(&mut self, after: u64, seed: u64) {
        if self.store.is_none() && !self.mount() {
            return;
        }
        let Some(store) = self.store.clone() else { return };
        self.stall(false);
        self.pump();
        self.device.power_off_after(after + 1);
        let faults = std::mem::replace(&mut self.facts.faults, true);
        let before = store.stats();
        store.tick();
        while self.device.pending() > 0 {
            store.poll(true);
        }
        self.pump();
        self.facts.faults = faults;
        let stats = store.stats();
        self.note_space(&stats);
        let died = stats.state.starts_with("appends stopped");
        self.hits.hit_if(State::CrashInTick, died);
        self.hits.hit_if(State::CrashInRetention, died && stats.expired_bytes > before.expired_bytes);
        self.hits.hit_if(State::CrashInDropping, died && stats.dropped_bytes > before.dropped_bytes);
        self.hits.hit_if(State::CrashInCleaning, died && stats.moved_bytes > 0 && stats.segments_retired == 0);
        self.hits.hit_if(State::CrashBetweenRetireAndFree, stats.segments_retired > 0);
        self.crash(seed);
    }

    /// The power fails in the middle of the next mount.
    pub fn mount_crash(&mut self, after: u64, seed: u64) {
        if self.store.is_some() {
            return;
        }
        let expected = self.examine();
        self.device.power_off_after(after + 1);
        let opened = LogStructuredStore::open(self.device.clone() as Arc<dyn Device>, self.setup.options());
        self.hits.hit_if(State::CrashInMount, opened.is_err());
        self.facts.mount_crashes += 1;
        self.hits.hit_if(State::CrashInMountTwice, self.facts.mount_crashes > 1);
        match opened {
            // What a mount has shown is kept from then on.
            Ok(store) => {
                self.began(&store);
                if let (Some(end), false) = (expected, self.facts.lied) {
                    self.model.cut(end);
                    self.facts.recovered = None;
                }
                self.store = Some(store);
                self.facts.clean = false;
            }
            Err(_) if self.facts.all_stable => {}
            Err(_) => self.facts.recovered = None,
        }
        // It may have said already that it has begun.
        self.facts.clean = false;
        self.crash(seed);
    }

    /// Look at the disk without changing it; the end that recovery finds.
    fn examine(&mut self) -> Option<u64> {
        let before = (self.setup.disk == Disk::Honest && self.seed.is_multiple_of(16)).then(|| self.device.snapshot());
        let image = match Image::open(self.device.clone() as Arc<dyn Device>) {
            Ok(image) => image,
            Err(error) => {
                assert!(self.facts.faults || self.facts.lied, "the store can't be looked at: {error}");
                return None;
            }
        };
        let report = image.recovery().clone();
        if !self.facts.lied {
            self.check_image(&image, &report);
        }
        if let Some(before) = before {
            assert!(before == self.device.snapshot(), "looking has changed the disk");
        }
        Some(report.end_lsn)
    }

    fn check_image(&mut self, image: &Image, report: &RecoveryReport) {
        let (end, written) = (report.end_lsn, self.written_end);
        assert!(end <= written, "the log ends at {end:#x}: frames behind {written:#x} are of a mount that was cut");
        assert_eq!(report.damage, Vec::new(), "damage where nothing was damaged; {:?}", report.notes);
        if let Some(known) = self.facts.recovered {
            assert_eq!(report.end_lsn, known, "recovery decides otherwise the second time");
        }
        if !self.facts.faults {
            self.facts.recovered = Some(report.end_lsn);
        }
        // What can't be told from a torn tail, should it be damaged, is the last flush alone.
        let told = image.stats().stable_lsn;
        assert!(told >= self.stable.0, "stable up to {:#x}, and the disk tells of {told:#x}", self.stable.0);
        let torn = |what: &str| image.remarks().iter().any(|remark| remark.contains(what));
        self.hits.hit_if(State::TornSuperblock, torn("superblock"));
        self.hits.hit_if(State::TornCheckpoint, torn("checkpoint"));
        self.hits.hit_if(State::StaleCheckpoint, torn("checkpoint") && self.aging.freed);
        if self.facts.faults {
            return;
        }
        let checked = image.check(&mut |_, _| {}).expect("the disk can be read");
        // A mount that the power ended while it wrote a superblock leaves that copy torn.
        let damage = checked.damage.iter().find(|found| found.part != Part::Superblock || !found.repairable);
        assert_eq!(damage, None, "check finds damage where nothing was damaged");
        // What recovery would give: the model cut there.
        let mut model = self.model.clone();
        model.cut(report.end_lsn);
        assert_eq!(image.logs().len(), model.shown().logs.len(), "logs of an unmounted store");
        for (id, log) in &model.shown().logs {
            let mut bytes = vec![0; log.head as usize];
            let gaps = image.read_log(&model.path(*id), &mut |offset, piece| {
                assert_eq!(offset, bytes.len() as u64, "the pieces of a log are not in order");
                bytes.extend_from_slice(piece);
                Ok(())
            });
            assert_eq!(gaps.expect("the log is there"), Vec::new());
            assert!(bytes == log.data, "an unmounted log has {} bytes, and not the right ones", bytes.len());
        }
    }

    /// Mount a fresh store, and compare nothing.
    pub fn mount_quietly(&mut self) {
        let options = self.setup.options();
        let store = LogStructuredStore::open(self.device.clone() as Arc<dyn Device>, options).expect("a fresh store");
        self.began(&store);
        self.model.cut(store.stats().recovery.end_lsn);
        self.store = Some(store);
    }

    /// Mount and compare everything. False: the disk has lied too much, or has failed.
    pub fn mount(&mut self) -> bool {
        let was_clean = self.facts.clean;
        self.examine();
        let open =
            |world: &World| LogStructuredStore::open(world.device.clone() as Arc<dyn Device>, world.setup.options());
        let store = match open(self) {
            Ok(store) => store,
            Err(error) => {
                assert!(self.facts.faults || self.facts.lied, "the store can't be mounted: {error}");
                self.hits.hit(State::MountFailed);
                // The cause goes away: then it has to work, unless the disk has lied.
                self.device.heal();
                self.facts.clean = false;
                match open(self) {
                    Ok(store) => store,
                    Err(error) => {
                        assert!(self.facts.lied, "the healed disk can't be mounted: {error}");
                        self.hits.hit(State::LieFound);
                        return false;
                    }
                }
            }
        };
        self.began(&store);
        let report = store.stats().recovery;
        if self.facts.lied {
            return self.mounted_liar(store, &report);
        }
        assert_eq!(report.damage, Vec::new(), "damage where nothing was damaged; {:?}", report.notes);
        if was_clean && self.facts.clean && !self.facts.faults {
            assert!(report.clean, "a clean store was not found clean: {:?}", report.notes);
        }
        self.note_cut(&store, &report);
        self.facts = Facts { faults: self.facts.faults, lied: false, killed: self.facts.killed, ..Facts::default() };
        self.flushes_at_mount = self.device.ops().flushes;
        self.stable = (report.end_lsn, report.end_lsn);
        self.recovery_lsn_at_mount = store.stats().recovery_lsn;
        self.ticked = 0;
        self.hits.hit_if(State::MountMoved, self.aging.moved);
        self.check_figures(&store);
        self.read_all(&store);
        self.store = Some(store);
        true
    }

    /// Cut the model where recovery has cut, and note what that was.
    fn note_cut(&mut self, store: &LogStructuredStore, report: &RecoveryReport) {
        let (durable, end) = (self.model.durable, self.model.end());
        let cut = report.end_lsn;
        let before = self.model.shown().nodes.clone();
        let logs_before: Vec<(u32, u64)> = self.model.shown().logs.iter().map(|(id, log)| (*id, log.head)).collect();
        let promised = self.model.promised().nodes.clone();
        let open: Vec<u32> = self.model.open.keys().copied().collect();
        let lost = self.model.cut(cut);
        let after = &self.model.shown().nodes;
        self.hits.hit_if(State::CreateLost, before.keys().any(|id| !after.contains_key(id)));
        self.hits.hit_if(State::CreateKept, after.keys().any(|id| !promised.contains_key(id)));
        let logs = &self.model.shown().logs;
        let trim_lost = logs_before.iter().any(|(id, head)| logs.get(id).is_some_and(|log| log.head < *head));
        self.hits.hit_if(State::TrimLost, trim_lost);
        let by_itself = std::mem::take(&mut self.aging.by_itself);
        self.hits.hit_if(State::HeadLost, trim_lost && by_itself);
        self.aging.freed = false;
        self.hits.hit_if(State::UnlinkLost, open.iter().any(|id| after.contains_key(id)));
        self.hits.hit_if(State::RemoveLost, after.keys().any(|id| !before.contains_key(id)));
        let renamed = |(id, node)| after.get(id).is_some_and(|now| now != node);
        self.hits.hit_if(State::RenameLost, before.iter().any(renamed));
        if lost > 0 {
            self.hits.hit_if(State::CutInBlock, !cut.is_multiple_of(BLOCK));
            self.hits.hit_if(State::CutOnBlock, cut.is_multiple_of(BLOCK));
            self.hits.hit_if(State::CutFrames, report.cut_frames > 0);
            self.hits.hit_if(State::HeaderLost, end / SEGMENT > (cut.max(1) - 1) / SEGMENT && cut < end);
            self.hits.hit_if(State::CutEverything, self.model.end() == durable);
        } else {
            self.hits.hit_if(State::CutNothing, end > durable);
        }
        let begins = store.stats().end_lsn / SEGMENT;
        self.hits.hit_if(State::MountInNextSegment, begins > cut / SEGMENT && !cut.is_multiple_of(SEGMENT));
        self.hits.hit_if(State::MountAtSegmentEnd, cut.is_multiple_of(SEGMENT));
        self.hits.hit_if(State::NoSpaceMount, self.facts.full);
    }

    /// Figures that the model knows too.
    fn check_figures(&mut self, store: &LogStructuredStore) {
        store.audit().expect("the accounting is exact");
        let shown = self.model.shown();
        for (id, log) in &shown.logs {
            let info = store.log(*id).expect("the log is there");
            assert_eq!(info.size, log.data.len() as u64, "size");
            assert_eq!(info.mode, log.mode, "mode");
            assert_eq!(info.head, log.head, "head");
            let own = (info.retain_bytes, info.retain_age_ns, info.keep_min);
            let known = log.limits;
            assert_eq!(own, (known.retain_bytes, known.retain_age_ns, known.keep_min), "limits of log {id}");
            // Of a range that the head lies in all frames count; how much of it lies below the head nobody knows after a
            // crash in the middle of its being moved.
            let right = log.head > 0 || info.device_bytes == log.device_bytes;
            assert!(right, "log {id} takes {} bytes of the device, not {}", info.device_bytes, log.device_bytes);
        }
        let (root, known) = (store.node(ROOT_ID).expect("the root"), shown.limits);
        let own = (root.retain_bytes, root.retain_age_ns, root.keep_min, root.drop_oldest);
        assert_eq!(own, (known.retain_bytes, known.retain_age_ns, known.keep_min, known.drop_oldest), "limits of all");
        for (id, node) in &shown.nodes {
            let info = store.node(*id).expect("the log or directory is there");
            assert_eq!((info.parent, &info.name), (node.parent, &node.name), "name");
            assert_eq!(store.lookup(node.parent, &node.name).expect("it is found by its name").id, *id);
        }
        let stats = store.stats();
        let directories = shown.nodes.len() - shown.logs.len();
        // The root is a directory too.
        assert_eq!((stats.logs_total, stats.directories), (shown.logs.len() as u64, directories as u64 + 1), "counts");
        assert!(stats.used + stats.segments_free * stats.segment_size <= stats.capacity, "{stats:?}");
        assert!(stats.available <= stats.capacity - stats.used, "{stats:?}");
        let rest = (SEGMENT - stats.end_lsn % SEGMENT) % SEGMENT;
        assert_eq!(stats.used, stats.capacity - stats.segments_free * SEGMENT - rest, "{stats:?}");
        store.audit().expect("the accounting is exact");
    }

    fn read_all(&mut self, store: &Arc<LogStructuredStore>) {
        for log in self.model.shown().logs.keys().copied().collect::<Vec<_>>() {
            self.log = log;
            self.read_one(store);
        }
    }

    fn read_one(&mut self, store: &Arc<LogStructuredStore>) {
        let size = self.model.log(self.log).data.len() as u64;
        let mut offset = 0;
        while offset < size {
            let len = 512 + (self.seed.wrapping_add(offset) % 16_000) as usize;
            let got = self.compare(store, offset, len);
            if got == 0 {
                assert!(self.facts.faults, "the log can't be read at {offset}");
                return;
            }
            self.hits.hit(State::ReadFromDisk);
            offset += got as u64;
        }
    }

    /// A store on a disk that has lied: whatever can be read is what was written.
    fn mounted_liar(&mut self, store: Arc<LogStructuredStore>, report: &RecoveryReport) -> bool {
        if self.trace {
            eprintln!("{report:#x?}");
        }
        let remarked = !report.notes.is_empty() || !report.remarks.is_empty();
        let told = !report.damage.is_empty() || report.cut_bytes > 0 || remarked;
        let cut = catch_unwind(AssertUnwindSafe(|| self.model.clone().cut(report.end_lsn)));
        self.hits.hit_if(State::LieFound, told);
        self.hits.hit_if(State::LieHarmless, !told && cut.is_ok());
        let Some(log) = store.log(LOG) else {
            // Both checkpoints and the log's own catalog record are gone. It is told once, by the mount that finds it.
            assert!(told || self.facts.vanished, "a log has vanished without a word");
            self.facts.vanished = true;
            return false;
        };
        // Nobody has let go of anything: a log begins later where all that told of its beginning is lost, and it is told.
        let known = self.model.log(LOG).head;
        assert!(log.head <= known || told, "a log begins at {} and nothing is said", log.head);
        self.model.cut_by_lie(report.end_lsn, LOG, (log.head, log.size), &self.returning);
        let size = self.model.log(LOG).data.len() as u64;
        let mut offset = 0;
        while offset < size {
            let got = self.compare(&store, offset, 3000);
            offset += if got == 0 { 512 } else { got as u64 };
        }
        self.facts = Facts { faults: true, lied: true, ..Facts::default() };
        self.ticked = 0;
        self.store = Some(store);
        true
    }
}
