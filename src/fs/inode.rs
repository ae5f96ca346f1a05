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
/// `/.llamafs/at`.
const MOMENTS: u64 = 1 << 41;
/// Bit of every inode number in a view. Below it are the view's place, the generation, one bit for directories, and the
/// log's or directory's id, the root's among them.
const VIEW: u64 = 1 << 62;
const VIEW_SLOT: u32 = 41;
const VIEW_GENERATION: u32 = 33;
const VIEW_DIRECTORY: u64 = 1 << 32;
/// Set in the numbers under which the kernel is told of a log once more. Behind it come which time, and the log's id.
const OPENER: u64 = 1 << 63;
/// Where the count of times lies in such a number, and how much of it fits in front of the log's id.
const OPENER_SHIFT: u32 = LogId::BITS;
const OPENER_TIMES: u64 = (OPENER >> OPENER_SHIFT) - 1;
/// Name of the tree of logs that begin at their heads.
pub const RETAINED_NAME: &[u8] = b"retained";
/// Name of the directory of trees of logs that begin at a time.
pub const MOMENTS_NAME: &[u8] = b"at";
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
    /// `/.llamafs/at`: what is in it are times.
    Moments,
    /// A log or a directory of a view, by its root's id the view itself.
    View(View),
}

/// Something in a view; see [`super::views`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct View {
    /// Which view.
    pub slot: u32,
    /// Files of one log that begin elsewhere differ in this.
    pub generation: u8,
    /// It is a directory.
    pub directory: bool,
    /// Of this log or directory.
    pub id: NodeId,
}

impl View {
    /// Places of views: as many as have room in an inode number.
    pub const SLOTS: u32 = 1 << (62 - VIEW_SLOT);

    fn of(ino: u64) -> Option<Self> {
        let rest = ino & !VIEW;
        let id = NodeId::try_from(rest & u64::from(u32::MAX)).ok()?;
        let directory = rest & VIEW_DIRECTORY != 0;
        let generation = u8::try_from(rest >> VIEW_GENERATION & u64::from(u8::MAX)).ok()?;
        let slot = u32::try_from(rest >> VIEW_SLOT).ok().filter(|slot| *slot < Self::SLOTS)?;
        let exists = id != 0 && if directory { generation == 0 } else { id != ROOT_ID };
        exists.then_some(Self { slot, generation, directory, id })
    }

    fn ino(self) -> u64 {
        let Self { slot, generation, directory, id } = self;
        let directory = if directory { VIEW_DIRECTORY } else { 0 };
        VIEW | u64::from(slot) << VIEW_SLOT | u64::from(generation) << VIEW_GENERATION | directory | u64::from(id)
    }

    /// A log or directory of the store, in this view.
    pub fn in_view(slot: u32, id: NodeId, kind: NodeKind) -> Self {
        Self { slot, generation: 0, directory: kind == NodeKind::Directory, id }
    }

    /// The view itself.
    pub fn root(slot: u32) -> Self {
        Self::in_view(slot, ROOT_ID, NodeKind::Directory)
    }
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
        if ino & VIEW != 0 {
            return View::of(ino).map(Self::View);
        }
        if ino == MOMENTS {
            return Some(Self::Moments);
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
            Self::Log(_) | Self::Control | Self::File(_) | Self::Moments | Self::View(_) => None,
        }
    }

    /// The store's id of a log.
    pub fn log(self) -> Option<LogId> {
        match self {
            Self::Log(id) | Self::View(View { id, directory: false, .. }) => Some(id),
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
            Self::Moments => MOMENTS,
            Self::View(view) => view.ino(),
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
        nodes.push(Node::Moments);
        for slot in [0, 1, View::SLOTS - 1] {
            nodes.push(Node::View(View::root(slot)));
            for id in [1, ROOT_ID - 1] {
                nodes.push(Node::View(View::in_view(slot, id, NodeKind::Directory)));
                let file = View::in_view(slot, id, NodeKind::Log);
                nodes.extend([0, 1, u8::MAX].map(|generation| Node::View(View { generation, ..file })));
            }
        }
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
        let generation = 1 << VIEW_GENERATION;
        for ino in [0, root, VIEW_DIRECTORY, VIEW_DIRECTORY | generation | 1] {
            assert_eq!(Node::of(VIEW | ino), None, "{ino:#x}");
        }
        assert_eq!(Node::of(MOMENTS + 1), None);
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
