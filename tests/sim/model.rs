//! The reference model: what a store of logs has to hold, and what it may have lost.
//!
//! All that a store accepts lies in one sequence, its LSN order. A crash keeps a prefix of that sequence, and never less
//! than what it has promised. So the model is the list of what was accepted, each with the LSN behind it, and the state
//! of the logs after it.

use std::collections::BTreeMap;

/// What was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A record.
    Record { log: u32, data: Vec<u8> },
    /// A change of attributes.
    Mode { log: u32, mode: u32 },
    /// A log or directory has this name from now on; the log it replaces is gone.
    Named { id: u32, node: Node, replaced: Option<u32> },
    /// What lies below this offset was let go, and reads as zeros.
    Trim { log: u32, head: u64 },
    /// A log or directory is no more.
    Gone { id: u32 },
    /// Nothing that shows.
    Nothing,
}

/// One log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    pub data: Vec<u8>,
    pub mode: u32,
    /// It begins here.
    pub head: u64,
    /// Bytes of the device that its frames take.
    pub device_bytes: u64,
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
}

/// The store.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// By the LSN behind it.
    accepted: BTreeMap<u64, What>,
    /// The state with all that was accepted.
    now: Shown,
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
        let now = Shown { logs, nodes };
        Self { now: now.clone(), base: now, ..Self::default() }
    }

    /// `what` was accepted; `end` is the LSN behind it.
    pub fn accept(&mut self, end: u64, what: What) {
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
        self.now.clone_from(&self.base);
        lost
    }

    /// A disk that has lied: the store ends at `end`, and `log` has `size` bytes, whatever was promised. What it has more
    /// than it had is of a mount whose number was used again: `returning` is what the log held then.
    pub fn cut_by_lie(&mut self, end: u64, log: u32, size: u64, returning: &[Vec<u8>]) {
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
        self.now.clone_from(&self.base);
    }

    /// The store ends where it ended, and everything is promised.
    pub fn all_promised(&mut self) {
        if let Some((end, _)) = self.accepted.last_key_value() {
            self.promise(*end);
        }
    }

    pub fn log(&self, log: u32) -> &Log {
        &self.now.logs[&log]
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
    let Shown { logs, nodes } = shown;
    match what {
        What::Record { log, data } => {
            let log = logs.entry(*log).or_default();
            log.data.extend_from_slice(data);
            log.device_bytes += frame_len(data.len() as u64);
        }
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
