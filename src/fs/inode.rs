//! Inode numbers: the root, a fixed high range for the control tree, and one for each log and directory, made of its
//! id: the same for ever, whatever its name.

use crate::store::types::{LogId, NodeId, NodeKind, ROOT_ID};

/// The root directory; the protocol fixes it.
pub const ROOT: u64 = 1;
/// A log's inode number is this and its id.
const FIRST_LOG: u64 = 0x100;
/// A directory's inode number is this and its id.
const FIRST_DIRECTORY: u64 = 1 << 33;
/// `/.llamafs`; its files follow.
const CONTROL: u64 = 1 << 40;
/// The inode number of a log in `/.llamafs/retained` is this and its id.
const FIRST_RETAINED: u64 = 1 << 41;
/// The same of a directory, the root's id among them.
const FIRST_RETAINED_DIRECTORY: u64 = 1 << 42;
/// Set in the numbers under which the kernel is told of a log once more. Behind it come which time, and the log's id.
const OPENER: u64 = 1 << 63;
/// Where the count of times lies in such a number, and how much of it fits in front of the log's id.
const OPENER_SHIFT: u32 = LogId::BITS;
const OPENER_TIMES: u64 = (OPENER >> OPENER_SHIFT) - 1;
/// Name of the tree of logs that begin at their heads.
pub const RETAINED_NAME: &[u8] = b"retained";
/// Name of the control directory.
pub const CONTROL_NAME: &[u8] = b".llamafs";

/// A file of the control tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlFile {
    /// Figures, one `key: value` a line.
    Status,
    /// The same for programs.
    StatusJson,
    /// The flush ring's buffers.
    Ring,
    /// The raw device.
    Device,
}

impl ControlFile {
    /// All, in the order of their inode numbers.
    pub const ALL: [Self; 4] = [Self::Status, Self::StatusJson, Self::Ring, Self::Device];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::StatusJson => "status.json",
            Self::Ring => "ring",
            Self::Device => "device",
        }
    }
}

/// What an inode number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// The root directory.
    Root,
    /// A log.
    Log(LogId),
    /// A directory below the root.
    Directory(NodeId),
    /// `/.llamafs`.
    Control,
    /// A file in it.
    File(ControlFile),
    /// A log as it is kept: it begins at its head.
    Retained(LogId),
    /// A directory of such logs; the root's id for `/.llamafs/retained` itself.
    RetainedDirectory(NodeId),
}

impl Node {
    /// The node of an inode number.
    pub fn of(ino: u64) -> Option<Self> {
        if ino == ROOT {
            return Some(Self::Root);
        }
        if ino & OPENER != 0 {
            let id = LogId::try_from(ino & u64::from(LogId::MAX)).ok();
            return id.filter(|id| ![0, ROOT_ID].contains(id)).map(Self::Log);
        }
        if let Some(above) = ino.checked_sub(FIRST_RETAINED_DIRECTORY) {
            return NodeId::try_from(above).ok().filter(|id| *id != 0).map(Self::RetainedDirectory);
        }
        if let Some(above) = ino.checked_sub(FIRST_RETAINED) {
            return NodeId::try_from(above).ok().filter(|id| ![0, ROOT_ID].contains(id)).map(Self::Retained);
        }
        if let Some(above) = ino.checked_sub(CONTROL) {
            return match above.checked_sub(1) {
                None => Some(Self::Control),
                Some(n) => ControlFile::ALL.get(usize::try_from(n).ok()?).copied().map(Self::File),
            };
        }
        let id = |base: u64| NodeId::try_from(ino.checked_sub(base)?).ok().filter(|id| ![0, ROOT_ID].contains(id));
        id(FIRST_DIRECTORY).map(Self::Directory).or_else(|| id(FIRST_LOG).map(Self::Log))
    }

    /// The node of a log or directory of the store.
    pub fn in_store(id: NodeId, kind: NodeKind) -> Self {
        match kind {
            NodeKind::Directory if id == ROOT_ID => Self::Root,
            NodeKind::Directory => Self::Directory(id),
            NodeKind::Log => Self::Log(id),
        }
    }

    /// The store's id of a directory.
    pub fn directory(self) -> Option<NodeId> {
        match self {
            Self::Root => Some(ROOT_ID),
            Self::Directory(id) => Some(id),
            Self::Log(_) | Self::Control | Self::File(_) | Self::Retained(_) | Self::RetainedDirectory(_) => None,
        }
    }

    /// The node of a log or directory of the store in the tree of what is retained.
    pub fn in_retained(id: NodeId, kind: NodeKind) -> Self {
        match kind {
            NodeKind::Directory => Self::RetainedDirectory(id),
            NodeKind::Log => Self::Retained(id),
        }
    }

    /// The store's id of a log.
    pub fn log(self) -> Option<LogId> {
        match self {
            Self::Log(id) | Self::Retained(id) => Some(id),
            _ => None,
        }
    }

    /// A number of its own for one opener of a log, the `time`th that is given. They need no table: what they stand for
    /// is in them. After 2^31 times one is given again; were it still known, two openers would share it, and their turn.
    pub fn opener(id: LogId, time: u64) -> u64 {
        OPENER | (time & OPENER_TIMES) << OPENER_SHIFT | u64::from(id)
    }

    /// Its inode number.
    pub fn ino(self) -> u64 {
        match self {
            Self::Root => ROOT,
            Self::Log(id) => FIRST_LOG + u64::from(id),
            Self::Directory(id) => FIRST_DIRECTORY + u64::from(id),
            Self::Control => CONTROL,
            Self::File(file) => CONTROL + 1 + file as u64,
            Self::Retained(id) => FIRST_RETAINED + u64::from(id),
            Self::RetainedDirectory(id) => FIRST_RETAINED_DIRECTORY + u64::from(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_its_number_and_back() {
        let mut nodes = vec![Node::Root, Node::Control, Node::Log(1), Node::Log(ROOT_ID - 1)];
        nodes.extend([Node::Directory(1), Node::Directory(ROOT_ID - 1)]);
        nodes.extend([Node::Retained(1), Node::Retained(ROOT_ID - 1)]);
        nodes.extend([Node::RetainedDirectory(1), Node::RetainedDirectory(ROOT_ID)]);
        nodes.extend(ControlFile::ALL.map(Node::File));
        for node in nodes {
            assert_eq!(Node::of(node.ino()), Some(node));
        }
    }

    #[test]
    fn other_numbers_are_nobody() {
        let root = u64::from(ROOT_ID);
        for ino in [0, 2, FIRST_LOG, FIRST_LOG + root, FIRST_DIRECTORY, FIRST_DIRECTORY + root, CONTROL + 5, u64::MAX] {
            assert_eq!(Node::of(ino), None, "{ino:#x}");
        }
        assert_eq!((Node::of(Node::opener(0, 7)), Node::of(Node::opener(ROOT_ID, 7))), (None, None));
    }

    #[test]
    fn each_opener_has_a_number_of_its_own_for_the_same_log() {
        let mut numbers = std::collections::HashSet::new();
        for id in [1, 2, ROOT_ID - 1] {
            for time in [0, 1, 2, OPENER_TIMES] {
                let number = Node::opener(id, time);
                assert_eq!(Node::of(number), Some(Node::Log(id)));
                assert!(numbers.insert(number) && number != Node::Log(id).ino());
            }
            assert_eq!(Node::opener(id, OPENER_TIMES + 1), Node::opener(id, 0), "not another log's");
        }
    }
}
