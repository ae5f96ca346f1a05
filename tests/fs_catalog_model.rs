//! The file system against a model of it: random changes, remounts and power losses, without a mount. After a power loss
//! the whole tree, with every time, size and byte, is one that was there after some change, and not before the last one
//! that was synced. `PROPTEST_CASES` says how many sequences are tried.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use llamafs::fs::types::{Errno, Kind, New, Opened, Read, SetAttr, Write};
use llamafs::fs::{FsSettings, LlamaFs, NoPageCache};
use llamafs::io::{Device, SimDevice};
use llamafs::store::{FormatOptions, Image, Lends, LogStructuredStore, StoreOptions, Tail};
use proptest::prelude::*;

const ROOT: u64 = 1;
const NAMES: [&[u8]; 6] = [b"a", b"b", b"log", b"\xff\n", b"some longer name", b".llamafs"];

#[derive(Debug, Clone)]
enum Op {
    Make {
        dir: u8,
        name: u8,
        directory: bool,
        mode: u32,
    },
    Append {
        log: u8,
        len: u16,
    },
    Remove {
        node: u8,
        as_directory: bool,
    },
    Rename {
        node: u8,
        dir: u8,
        name: u8,
        flags: u32,
    },
    Mode {
        node: u8,
        mode: u32,
    },
    Sync {
        node: u8,
    },
    Open {
        log: u8,
    },
    Close {
        log: u8,
    },
    Tick,
    /// Bits say which checkpoint areas are lost meanwhile.
    Remount {
        lose: u8,
    },
    Crash {
        seed: u64,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let byte = any::<u8>;
    let mode = || prop::sample::select(vec![0o644u32, 0o600, 0o755, 0o700, 0o2775]);
    let flags = prop::sample::select(vec![0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]);
    let op = prop_oneof![
        5 => (byte(), byte(), any::<bool>(), mode()).prop_map(|(dir, name, directory, mode)| Op::Make { dir, name, directory, mode }),
        5 => (byte(), 1u16..6000).prop_map(|(log, len)| Op::Append { log, len }),
        2 => (byte(), any::<bool>()).prop_map(|(node, as_directory)| Op::Remove { node, as_directory }),
        5 => (byte(), byte(), byte(), flags).prop_map(|(node, dir, name, flags)| Op::Rename { node, dir, name, flags }),
        1 => (byte(), mode()).prop_map(|(node, mode)| Op::Mode { node, mode }),
        2 => byte().prop_map(|node| Op::Sync { node }),
        1 => byte().prop_map(|log| Op::Open { log }),
        1 => byte().prop_map(|log| Op::Close { log }),
        2 => Just(Op::Tick),
        1 => prop::sample::select(vec![0u8, 0, 0, 1, 2, 3]).prop_map(|lose| Op::Remount { lose }),
        1 => any::<u64>().prop_map(|seed| Op::Crash { seed }),
    ];
    prop::collection::vec(op, 1..60)
}

/// A node of the model.
#[derive(Debug, Clone)]
struct Node {
    ino: u64,
    parent: usize,
    name: Vec<u8>,
    directory: bool,
    data: Vec<u8>,
    alive: bool,
    handles: u32,
    /// After so many changes it had become what it is.
    changed: usize,
}

/// What is seen of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    ino: u64,
    directory: bool,
    attributes: (u32, u32, u64, u64, u64, u64),
    data: Vec<u8>,
}
type Tree = BTreeMap<Vec<u8>, Seen>;

struct World {
    device: Arc<SimDevice>,
    tail: Tail,
    store: Arc<LogStructuredStore>,
    fs: LlamaFs,
    nodes: Vec<Node>,
    /// The tree and the model after each change, since the last mount.
    history: Vec<(Tree, Vec<Node>)>,
    synced: usize,
}

fn open(device: &Arc<SimDevice>, tail: Tail) -> (Arc<LogStructuredStore>, LlamaFs) {
    let options = StoreOptions { buffer_size: 20 << 10, tail, ..StoreOptions::default() };
    let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap();
    let fs = LlamaFs::new(store.clone(), FsSettings::default(), Box::new(NoPageCache));
    (store, fs)
}

impl World {
    fn new(tail: Tail) -> Self {
        let device = Arc::new(SimDevice::new(4 << 20, 1));
        let format =
            FormatOptions { segment_size: Some(64 << 10), max_record: Some(8 << 10), ..FormatOptions::default() };
        LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
        let (store, fs) = open(&device, tail);
        let node = |ino, name: &[u8], directory| Node {
            ino,
            parent: 0,
            name: name.into(),
            directory,
            data: Vec::new(),
            alive: true,
            handles: 0,
            changed: 0,
        };
        let log = fs.lookup(ROOT, b"log").unwrap().ino;
        let nodes = vec![node(ROOT, b"", true), node(log, b"log", false)];
        let mut world = Self { device, tail, store, fs, nodes, history: Vec::new(), synced: 0 };
        world.remember();
        world
    }

    /// Ask, and take completions until the answer is there.
    fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&LlamaFs, Box<dyn FnOnce(Result<T, Errno>) + Send>),
    ) -> Result<T, Errno> {
        let (sender, answer) = mpsc::channel();
        ask(&self.fs, Box::new(move |result| sender.send(result).unwrap()));
        // The simulated disk lets some polls go by before anything is complete.
        for _ in 0..10_000 {
            if let Ok(result) = answer.try_recv() {
                return result;
            }
            self.store.poll(true);
        }
        panic!("no answer");
    }

    fn read(&self, ino: u64) -> Vec<u8> {
        let opened: Opened = self.ask(|fs, reply| fs.open(ino, libc::O_RDONLY, 7, reply)).unwrap();
        let data = self.read_open(ino, opened.fh);
        self.fs.release(ino, opened.fh);
        data
    }

    fn read_open(&self, ino: u64, fh: u64) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let read =
                Read { ino, fh, offset: data.len() as u64, len: 1 << 20, for_pages: false, lends: Lends::Slices };
            let piece = self.ask(|fs, reply| fs.read(read, reply)).unwrap();
            if piece.is_empty() {
                return data;
            }
            piece.slices().for_each(|bytes| data.extend_from_slice(bytes));
        }
    }

    /// The tree as the file system shows it.
    fn look(&self) -> Tree {
        let (mut tree, mut left) = (Tree::new(), vec![(ROOT, Vec::new())]);
        while let Some((ino, path)) = left.pop() {
            let attr = self.fs.getattr(ino).unwrap();
            let directory = attr.kind == Kind::Directory;
            if directory {
                self.fs
                    .readdir(ino, 2, |entry| {
                        if ino != ROOT || entry.name != b".llamafs" {
                            assert_eq!(self.fs.lookup(ino, &entry.name).unwrap().ino, entry.ino);
                            left.push((entry.ino, [&path[..], b"/", &entry.name].concat()));
                        }
                        false
                    })
                    .unwrap();
            }
            let attributes = (attr.mode, attr.nlink, attr.size, attr.blocks, attr.mtime_ns, attr.ctime_ns);
            let data = if directory { Vec::new() } else { self.read(ino) };
            assert!(tree.insert(path, Seen { ino, directory, attributes, data }).is_none(), "one name twice");
        }
        tree
    }

    /// The tree is that of the model.
    fn check(&self, tree: &Tree) {
        let mut expected = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| node.alive) {
            expected.insert(self.path(node), (node.ino, node.directory, &node.data));
        }
        let seen = tree.iter().map(|(path, seen)| (path.clone(), (seen.ino, seen.directory, &seen.data)));
        assert_eq!(seen.collect::<BTreeMap<_, _>>(), expected);
        for node in self.nodes.iter().filter(|node| !node.alive && node.handles > 0) {
            assert_eq!(self.fs.getattr(node.ino).unwrap().nlink, 0);
            assert!(self.read_open(node.ino, 2) == node.data, "removed, but open");
        }
        let stats = self.store.stats();
        let count = |directory| self.nodes.iter().filter(|n| n.alive && n.directory == directory).count() as u64;
        let orphans = self.nodes.iter().filter(|node| !node.alive && node.handles > 0).count() as u64;
        assert_eq!((stats.logs_total, stats.directories, stats.unlinked), (count(false), count(true), orphans));
    }

    fn path(&self, node: &Node) -> Vec<u8> {
        if node.ino == ROOT {
            return Vec::new();
        }
        [&self.path(&self.nodes[node.parent])[..], b"/", &node.name].concat()
    }

    fn remember(&mut self) {
        let tree = self.look();
        self.check(&tree);
        self.history.push((tree, self.nodes.clone()));
    }

    fn pick(&self, selector: u8, fits: impl Fn(&Node) -> bool) -> Option<usize> {
        let fit: Vec<usize> = (0..self.nodes.len()).filter(|n| fits(&self.nodes[*n])).collect();
        (!fit.is_empty()).then(|| fit[selector as usize % fit.len()])
    }

    fn directory(&self, selector: u8) -> usize {
        self.pick(selector, |node| node.alive && node.directory).unwrap()
    }

    fn child(&self, parent: usize, name: &[u8]) -> Option<usize> {
        (1..self.nodes.len()).find(|&n| {
            let node = &self.nodes[n];
            node.alive && node.parent == parent && node.name == name
        })
    }

    fn is_empty(&self, directory: usize) -> bool {
        !(1..self.nodes.len()).any(|n| self.nodes[n].alive && self.nodes[n].parent == directory)
    }

    fn is_within(&self, mut node: usize, above: usize) -> bool {
        while node != above && node != 0 {
            node = self.nodes[node].parent;
        }
        node == above
    }

    /// Nodes that this change has touched.
    fn touch(&mut self, nodes: &[usize]) {
        let now = self.history.len();
        nodes.iter().for_each(|&node| self.nodes[node].changed = now);
    }

    /// What removing a node comes to.
    fn replaceable(&self, by_directory: bool, target: usize) -> Result<(), i32> {
        match (by_directory, self.nodes[target].directory) {
            (false, true) => Err(libc::EISDIR),
            (true, false) => Err(libc::ENOTDIR),
            (true, true) if !self.is_empty(target) => Err(libc::ENOTEMPTY),
            _ => Ok(()),
        }
    }

    fn renamed(&self, node: usize, to: usize, name: &[u8], flags: u32) -> Result<Option<usize>, i32> {
        let (from, target) = (self.nodes[node].parent, self.child(to, name));
        let exchange = flags == libc::RENAME_EXCHANGE;
        match target {
            _ if name == b".llamafs" && to == 0 => return Err(libc::EPERM),
            Some(_) if flags == libc::RENAME_NOREPLACE => return Err(libc::EEXIST),
            None if exchange => return Err(libc::ENOENT),
            Some(target) if target == node => return Ok(None),
            _ => {}
        }
        if self.nodes[node].directory && self.is_within(to, node) {
            return Err(libc::EINVAL);
        }
        match target {
            Some(target) if exchange && self.nodes[target].directory && self.is_within(from, target) => {
                Err(libc::EINVAL)
            }
            Some(target) if !exchange => self.replaceable(self.nodes[node].directory, target).map(|()| Some(target)),
            target => Ok(target),
        }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Make { dir, name, directory, mode } => {
                let (parent, name) = (self.directory(dir), NAMES[name as usize % NAMES.len()]);
                let expected = match self.child(parent, name) {
                    _ if name == b".llamafs" && parent == 0 => Err(libc::EPERM),
                    Some(_) => Err(libc::EEXIST),
                    None => Ok(()),
                };
                let new = New { parent: self.nodes[parent].ino, name, mode, uid: 7, gid: 8 };
                let made = self.ask(|fs, reply| match directory {
                    true => fs.mkdir(&new, reply),
                    false => fs.mknod(&new, reply),
                });
                assert_eq!(made.as_ref().map(drop).map_err(|errno| errno.0), expected);
                if let Ok(attr) = made {
                    let (data, changed) = (Vec::new(), 0);
                    let name = name.to_vec();
                    let node = Node { ino: attr.ino, parent, name, directory, data, alive: true, handles: 0, changed };
                    self.nodes.push(node);
                    self.touch(&[parent, self.nodes.len() - 1]);
                }
            }
            Op::Append { log, len } => {
                let Some(log) = self.pick(log, |n| !n.directory && (n.alive || n.handles > 0)) else { return };
                let data: Vec<u8> = (0..len).map(|at| (self.history.len() * 7 + at as usize) as u8).collect();
                let (ino, flags) = (self.nodes[log].ino, libc::O_APPEND);
                let write = Write { ino, offset: 0, data: &data, flags, kill_set_id: false };
                assert_eq!(self.ask(|fs, reply| fs.write(write, reply)), Ok(u32::from(len)));
                self.nodes[log].data.extend(data);
                self.touch(&[log]);
            }
            Op::Remove { node, as_directory } => {
                let Some(node) = self.pick(node, |n| n.alive && n.ino != ROOT) else { return };
                let (parent, name) = (self.nodes[node].parent, self.nodes[node].name.clone());
                let expected = self.replaceable(as_directory, node);
                let ino = self.nodes[parent].ino;
                let removed = self.ask(|fs, reply| match as_directory {
                    true => fs.rmdir(ino, &name, reply),
                    false => fs.unlink(ino, &name, reply),
                });
                assert_eq!(removed.map_err(|errno| errno.0), expected);
                if expected.is_ok() {
                    self.nodes[node].alive = false;
                    self.touch(&[parent, node]);
                }
            }
            Op::Rename { node, dir, name, flags } => {
                let Some(node) = self.pick(node, |n| n.alive && n.ino != ROOT) else { return };
                let (to, name) = (self.directory(dir), NAMES[name as usize % NAMES.len()]);
                let (from, old) = (self.nodes[node].parent, self.nodes[node].name.clone());
                let expected = self.renamed(node, to, name, flags);
                let (source, target) = (self.nodes[from].ino, self.nodes[to].ino);
                let done = self.ask(|fs, reply| fs.rename((source, &old), (target, name), flags, reply));
                assert_eq!(done.map_err(|errno| errno.0), expected.map(drop), "{op:?}");
                let Ok(other) = expected else { return };
                if other.is_none() && self.child(to, name) == Some(node) {
                    return;
                }
                if let Some(other) = other {
                    match flags {
                        libc::RENAME_EXCHANGE => (self.nodes[other].parent, self.nodes[other].name) = (from, old),
                        _ => self.nodes[other].alive = false,
                    }
                    self.touch(&[other]);
                }
                (self.nodes[node].parent, self.nodes[node].name) = (to, name.to_vec());
                self.touch(&[from, to, node]);
            }
            Op::Mode { node, mode } => {
                let Some(node) = self.pick(node, |n| n.alive || n.handles > 0) else { return };
                let (ino, set) = (self.nodes[node].ino, SetAttr { mode: Some(mode), ..SetAttr::default() });
                assert_eq!(self.ask(|fs, reply| fs.setattr(ino, set, reply)).unwrap().mode, mode);
                self.touch(&[node]);
            }
            Op::Sync { node } => {
                let Some(node) = self.pick(node, |n| n.alive || n.handles > 0) else { return };
                let ino = self.nodes[node].ino;
                self.ask(|fs, reply| fs.fsync(ino, reply)).unwrap();
                self.synced = self.synced.max(self.nodes[node].changed);
            }
            Op::Open { log } => {
                let Some(log) = self.pick(log, |n| !n.directory && n.alive) else { return };
                let ino = self.nodes[log].ino;
                self.ask(|fs, reply| fs.open(ino, libc::O_WRONLY | libc::O_APPEND, 7, reply)).unwrap();
                self.nodes[log].handles += 1;
            }
            Op::Close { log } => {
                let Some(log) = self.pick(log, |n| n.handles > 0) else { return };
                self.fs.release(self.nodes[log].ino, 2);
                self.nodes[log].handles -= 1;
                if !self.nodes[log].alive && self.nodes[log].handles == 0 {
                    assert_eq!(self.fs.getattr(self.nodes[log].ino).map(drop), Err(Errno::ESTALE));
                }
            }
            Op::Tick => {
                self.store.tick();
                self.store.poll(false);
            }
            Op::Remount { lose } => {
                let before = (self.store.stats().catalog_bytes, self.store.is_public());
                self.store.close().unwrap();
                let image = Image::open(self.device.clone() as Arc<dyn Device>).unwrap();
                let mut paths: Vec<_> = image.logs().into_iter().map(|log| [b"/", &log.name[..]].concat()).collect();
                paths.sort();
                let tree = &self.history.last().unwrap().0;
                assert!(paths.iter().eq(tree.iter().filter(|(_, seen)| !seen.directory).map(|(path, _)| path)));
                let superblock = image.superblock();
                for area in (0..2u64).filter(|area| lose & 1 << area != 0) {
                    let offset = superblock.checkpoint_start + area * superblock.checkpoint_bytes;
                    self.device.poke(offset, &[0; 4096]);
                }
                (self.store, self.fs) = open(&self.device, self.tail);
                assert!(self.store.stats().recovery.clean);
                assert_eq!((self.store.stats().catalog_bytes, self.store.is_public()), before);
                let seen = self.look();
                assert!(seen == *tree, "after a remount: {seen:?}\nbefore: {tree:?}");
                self.begin(self.history.len() - 1);
            }
            Op::Crash { seed } => {
                let crashed = Arc::new(self.device.crash(seed));
                let (store, fs) = open(&crashed, self.tail);
                // What the old one does from here on lands on the disk that was.
                (self.store, self.fs) = (store, fs);
                self.device = crashed;
                let recovery = self.store.stats().recovery;
                assert!(recovery.damage.is_empty(), "{recovery:?}");
                let tree = self.look();
                let state = self.history.iter().rposition(|(before, _)| *before == tree);
                let state = state.unwrap_or_else(|| panic!("a tree that never was: {tree:?}\n{recovery:?}"));
                assert!(state >= self.synced, "state {state}, but {} was synced", self.synced);
                self.begin(state);
            }
        }
    }

    /// A new mount begins with the state after change `state`: nobody has anything open.
    fn begin(&mut self, state: usize) {
        let (_, nodes) = self.history.swap_remove(state);
        self.nodes = nodes;
        for node in &mut self.nodes {
            (node.handles, node.changed) = (0, 0);
        }
        self.history.clear();
        self.synced = 0;
    }
}

#[test]
fn the_tree_is_that_of_the_model_over_remounts_and_power_losses() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ops in ops(), pad: bool)| {
        let mut world = World::new(if pad { Tail::Pad } else { Tail::Rewrite });
        for op in &ops {
            world.run(op);
            world.remember();
        }
    });
}
