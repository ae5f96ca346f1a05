//! The reference model: what a store of logs has to hold, and what it may have lost.
//!
//! All that a store accepts lies in one sequence, its LSN order. A crash keeps a prefix of that sequence, and never less
//! than what it has promised. So the model is the list of what was accepted, each with the LSN behind it, and the state
//! of the logs after it.

use std::collections::BTreeMap;

/// What was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A record, and when it was accepted.
    Record { log: u32, data: Vec<u8>, time: u64 },
    /// A change of attributes.
    Mode { log: u32, mode: u32 },
    /// A log, or the root for all that have none of their own, keeps so much from now on.
    Limits { id: u32, limits: Limits },
    /// A log or directory has this name from now on; the log it replaces is gone.
    Named { id: u32, node: Node, replaced: Option<u32> },
    /// What lies below this offset was let go, and reads as zeros.
    Trim { log: u32, head: u64 },
    /// A log or directory is no more.
    Gone { id: u32 },
    /// Nothing that shows.
    Nothing,
}

/// What a log may keep, as it was set: 0 the store's, all bits set no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub retain_bytes: u64,
    pub retain_age_ns: u64,
    pub keep_min: u64,
    /// Of the root alone.
    pub drop_oldest: bool,
}

impl Limits {
    /// What holds for a log with these in a store with those.
    pub fn within(self, store: Limits) -> Limits {
        let own = |own: u64, store: u64| if own == 0 { store } else { own };
        Limits {
            retain_bytes: own(self.retain_bytes, store.retain_bytes),
            retain_age_ns: own(self.retain_age_ns, store.retain_age_ns),
            keep_min: own(self.keep_min, store.keep_min),
            drop_oldest: store.drop_oldest,
        }
    }
}

/// One log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    pub data: Vec<u8>,
    pub mode: u32,
    pub limits: Limits,
    /// Where each record ends, and its time. Of a log on a disk that lies only what the disk did not lie about.
    pub records: Vec<(u64, u64)>,
    /// It begins here.
    pub head: u64,
    /// Bytes of the device that its frames take.
    pub device_bytes: u64,
}

impl Log {
    /// A record begins or ends there.
    pub fn is_boundary(&self, offset: u64) -> bool {
        offset == 0 || self.records.binary_search_by_key(&offset, |(end, _)| *end).is_ok()
    }

    /// The last boundary at or in front of `offset`.
    pub fn boundary(&self, offset: u64) -> u64 {
        let behind = self.records.partition_point(|(end, _)| *end <= offset);
        behind.checked_sub(1).map_or(0, |at| self.records[at].0)
    }

    /// `head`, or below it so that as much stays as has to.
    pub fn kept(&self, head: u64, limits: Limits) -> u64 {
        let keep_min = if limits.keep_min == u64::MAX { 0 } else { limits.keep_min };
        let most = (self.data.len() as u64).saturating_sub(keep_min);
        if head <= most { head } else { self.boundary(most).max(self.head) }
    }

    /// Where the first record of `time` or later begins.
    pub fn since(&self, time: u64) -> u64 {
        let before = self.records.partition_point(|(_, of)| *of < time);
        before.checked_sub(1).map_or(0, |at| self.records[at].0).max(self.head)
    }

    fn take(&mut self, data: &[u8], time: u64) {
        self.data.extend_from_slice(data);
        self.records.push((self.data.len() as u64, time));
        self.device_bytes += frame_len(data.len() as u64);
    }

    /// Where the head has to be by these limits at this time.
    pub fn head_by(&self, limits: Limits, now: u64) -> u64 {
        let (size, mut head) = (self.data.len() as u64, self.head);
        let limit = |value: u64| Some(value).filter(|value| ![0, u64::MAX].contains(value));
        if let Some(bytes) = limit(limits.retain_bytes).filter(|bytes| size - self.head > *bytes) {
            let (least, at) = (size - bytes, self.boundary(size - bytes));
            let next = self.records.partition_point(|(end, _)| *end < least);
            let end = if at == least { at } else { self.records.get(next).map_or(size, |(end, _)| *end) };
            head = head.max(self.kept(end, limits));
        }
        if let Some(age) = limit(limits.retain_age_ns) {
            head = head.max(self.kept(self.since(now.saturating_sub(age)), limits));
        }
        head
    }
}

/// What a log or directory is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub parent: u32,
    pub name: Vec<u8>,
    pub directory: bool,
}

/// Everything that shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    pub logs: BTreeMap<u32, Log>,
    pub nodes: BTreeMap<u32, Node>,
    /// Of all logs that have none of their own.
    pub limits: Limits,
}

/// The store.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// By the LSN behind it.
    accepted: BTreeMap<u64, What>,
    /// The state with all that was accepted.
    now: Shown,
    /// Logs that were removed while they were open: they are there until they are closed, or the mount ends.
    pub open: BTreeMap<u32, Log>,
    /// The state with all that is promised.
    base: Shown,
    /// Everything below is promised.
    pub durable: u64,
}

/// Mode of a log that is made.
pub const NEW_MODE: u32 = 0o640;
/// Bytes of a frame's header, and the line it is rounded up to.
const HEADER: u64 = 32;
const LINE: u64 = 16;

impl Model {
    /// A new store with one log.
    pub fn new(log: u32, mode: u32, root: u32) -> Self {
        let logs = BTreeMap::from([(log, Log { mode, ..Log::default() })]);
        let nodes = BTreeMap::from([(log, Node { parent: root, name: b"log".to_vec(), directory: false })]);
        let now = Shown { logs, nodes, ..Shown::default() };
        Self { now: now.clone(), base: now, ..Self::default() }
    }

    /// `what` was accepted; `end` is the LSN behind it.
    pub fn accept(&mut self, end: u64, what: What) {
        if let What::Gone { id: gone } | What::Named { replaced: Some(gone), .. } = &what {
            self.open.extend(self.now.logs.get(gone).map(|log| (*gone, log.clone())));
        }
        if let What::Record { log, data, time } = &what
            && let Some(log) = self.open.get_mut(log)
        {
            log.take(data, *time);
        }
        apply(&mut self.now, &what);
        let before = self.accepted.insert(end, what);
        assert!(before.is_none(), "two things end at LSN {end:#x}");
        let last = self.accepted.last_key_value().map(|(end, _)| *end);
        assert_eq!(last, Some(end), "accepted out of LSN order");
    }

    /// fsync has answered for everything below `lsn`.
    pub fn promise(&mut self, lsn: u64) {
        self.durable = self.durable.max(lsn);
        // What is promised need not be kept as a list.
        let rest = self.accepted.split_off(&(self.durable + 1));
        for what in std::mem::replace(&mut self.accepted, rest).values() {
            apply(&mut self.base, what);
        }
    }

    /// A crash: the store ends at `end` now. What lies below is promised from here on.
    pub fn cut(&mut self, end: u64) -> usize {
        assert!(end >= self.durable, "the store ends at {end:#x}: {:#x} was promised", self.durable);
        let lost = self.accepted.split_off(&(end + 1)).len();
        self.promise(end);
        self.open.clear();
        self.now.clone_from(&self.base);
        lost
    }

    /// A disk that has lied: the store ends at `end`, and `log` has `size` bytes, whatever was promised, of which those
    /// below `head` are gone and read as zeros. What it has more
    /// than it had is of a mount whose number was used again: `returning` is what the log held then.
    pub fn cut_by_lie(&mut self, end: u64, log: u32, (head, size): (u64, u64), returning: &[Vec<u8>]) {
        self.accepted.split_off(&(end + 1));
        self.durable = self.durable.min(end);
        self.promise(end);
        let known = self.base.logs.entry(log).or_default();
        let before = &self.now.logs[&log].data;
        if size > known.data.len() as u64 {
            let longer = [before].into_iter().chain(returning).find(|data| data.len() as u64 >= size);
            let Some(longer) = longer else { panic!("a log of {} bytes has grown to {size}", before.len()) };
            let more = known.data.len().min(longer.len());
            known.data.extend_from_slice(&longer[more..]);
        }
        known.data.truncate(size as usize);
        known.head = head.min(size);
        known.data[..known.head as usize].fill(0);
        self.now.clone_from(&self.base);
    }

    /// The store ends where it ended, and everything is promised.
    pub fn all_promised(&mut self) {
        if let Some((end, _)) = self.accepted.last_key_value() {
            self.promise(*end);
        }
    }

    /// A log that has a name, or is open.
    pub fn log(&self, log: u32) -> &Log {
        self.now.logs.get(&log).unwrap_or_else(|| &self.open[&log])
    }

    /// What holds for a log.
    pub fn limits(&self, log: u32) -> Limits {
        self.log(log).limits.within(self.now.limits)
    }

    /// How many logs have records that are not promised yet and lie below `lsn`.
    pub fn logs_until(&self, lsn: u64) -> usize {
        let logs = self.accepted.range(..=lsn).filter_map(|(_, what)| match what {
            What::Record { log, .. } => Some(*log),
            _ => None,
        });
        logs.collect::<std::collections::BTreeSet<u32>>().len()
    }

    /// Everything that will show whatever happens.
    pub fn promised(&self) -> &Shown {
        &self.base
    }

    /// Everything that shows.
    pub fn shown(&self) -> &Shown {
        &self.now
    }

    /// The path of a log, without the first slash.
    pub fn path(&self, log: u32) -> Vec<u8> {
        let mut path = Vec::new();
        let mut at = log;
        while let Some(node) = self.now.nodes.get(&at) {
            path = if path.is_empty() { node.name.clone() } else { [&node.name[..], b"/", &path[..]].concat() };
            at = node.parent;
        }
        path
    }

    /// LSN behind the last thing accepted that is not promised yet.
    pub fn end(&self) -> u64 {
        self.accepted.last_key_value().map_or(self.durable, |(end, _)| *end)
    }
}

/// Bytes that a record of `len` bytes takes on the device.
pub fn frame_len(len: u64) -> u64 {
    (HEADER + len).next_multiple_of(LINE)
}

fn apply(shown: &mut Shown, what: &What) {
    let Shown { logs, nodes, limits } = shown;
    match what {
        // One that was removed is open at most, and that no crash outlives.
        What::Record { log, data, time } => {
            if let Some(log) = logs.get_mut(log) {
                log.take(data, *time);
            }
        }
        What::Limits { id, limits: own } => match logs.get_mut(id) {
            Some(log) => log.limits = *own,
            None => *limits = *own,
        },
        What::Mode { log, mode } => logs.entry(*log).or_default().mode = *mode,
        What::Named { id, node, replaced } => {
            if let Some(replaced) = replaced {
                logs.remove(replaced);
                nodes.remove(replaced);
            }
            if !node.directory && !nodes.contains_key(id) {
                logs.insert(*id, Log { mode: NEW_MODE, ..Log::default() });
            }
            nodes.insert(*id, node.clone());
        }
        What::Trim { log, head } => {
            let log = logs.entry(*log).or_default();
            log.head = log.head.max(*head);
            let head = log.head as usize;
            log.data[..head].fill(0);
        }
        What::Gone { id } => {
            logs.remove(id);
            nodes.remove(id);
        }
        What::Nothing => {}
    }
}
