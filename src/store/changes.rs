//! Changes of the catalog: create, remove, rename, attributes. Each is one META frame, written before anybody can see
//! the change and before any record of a new log, so the log tells them in the order in which they happened.
//!
//! The tree's lock is held from the first look to the last change, and so are the locks of the logs that a change is
//! about: what their frames say is in the order of the frames. A change that finds the ring full has changed nothing, and
//! waits its turn with the appends.

use crate::sync::atomic::Ordering;

use crate::sync::MappedMutexGuard;

use super::LogStructuredStore;
use super::append::Deferred;
use super::catalog::{LogState, is_hidden};
use super::tree::{Child, Directory, MAX_DEPTH, Tree, cost};
use super::trim::Trimmed;
use super::types::{AttrChange, Change, ChangeDone, Changed, LogId, LogInfo, NodeId, NodeInfo, RenameHow, StoreError};
use crate::format::catalog::{FLAG_DROP_OLDEST, FLAG_MTIME_SET, FLAG_SECRETS, NAME_MAX, entry_len, is_valid_name};
use crate::format::{CatalogChange, CatalogEntry, CatalogRecord, FrameHead, Kind, Lsn, NodeKind, ROOT_ID};

/// Permission bits.
const MODE_BITS: u32 = 0o7777;
/// A directory with this bit hands its group down, and the bit to directories.
const SET_GROUP: u32 = 0o2000;

/// The records of one change.
struct Frame {
    now: u64,
    records: Vec<CatalogRecord>,
    /// It gives space back, and may use what is kept back for that.
    lets_go: bool,
}

impl Frame {
    /// Of a change that happens `now`.
    fn at(now: u64) -> Self {
        Self { now, records: Vec::new(), lets_go: false }
    }

    fn add(&mut self, change: CatalogChange, entry: CatalogEntry) {
        self.records.push(CatalogRecord { change, entry });
    }

    /// The entry of its first record.
    fn into_entry(self) -> Option<CatalogEntry> {
        self.records.into_iter().next().map(|record| record.entry)
    }
}

/// Logs that are locked.
struct Held<'c>(Vec<MappedMutexGuard<'c, LogState>>);

impl Held<'_> {
    fn get(&self, id: NodeId) -> Option<&LogState> {
        self.0.iter().find(|log| log.entry.id == id).map(|log| &**log)
    }

    fn get_mut(&mut self, id: NodeId) -> Option<&mut LogState> {
        self.0.iter_mut().find(|log| log.entry.id == id).map(|log| &mut **log)
    }

    /// `now`, but not before the last frame of any of them: a log's times never go back.
    fn now(&self, now: u64) -> u64 {
        self.0.iter().map(|log| log.last_ns).fold(now, u64::max)
    }

    /// The entry of one of them, or of a directory.
    fn entry_of(&self, tree: &Tree, id: NodeId) -> Result<CatalogEntry, StoreError> {
        let directory = tree.get(id).map(|directory| directory.entry.clone());
        directory.or_else(|| self.get(id).map(LogState::saved)).ok_or(StoreError::NotFound)
    }

    /// What `stat` shows of one of them, or of a directory.
    fn info_of(&self, tree: &Tree, id: NodeId) -> Result<NodeInfo, StoreError> {
        let directory = tree.get(id).map(Directory::info);
        directory.or_else(|| self.get(id).map(LogState::info)).ok_or(StoreError::NotFound)
    }
}

impl LogStructuredStore {
    /// Change the catalog; never waits: a change that finds the ring full is done when there is room. `done` is called
    /// at once, or from the thread that made room.
    pub fn change(&self, change: Change, done: ChangeDone) {
        if let Err(error) = self.check_open() {
            return done(Err(error));
        }
        if self.deferred() == 0 {
            match self.apply_or_wait(&change) {
                Err(StoreError::WouldBlock) => {}
                result => return done(result),
            }
        }
        self.defer(Deferred::Change { change, done });
    }

    /// [`Self::change`], and wait.
    pub fn change_now(&self, change: Change) -> Result<Changed, StoreError> {
        // On a store whose threads are not started nobody else makes room.
        while self.deferred() == 0 {
            self.check_open()?;
            match self.apply(&change) {
                Err(StoreError::NoSpace) if self.can_make_room() => drop(self.reclaim_now()),
                Err(StoreError::WouldBlock) => break,
                result => return result,
            }
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        self.change(change, Box::new(move |result| drop(sender.send(result))));
        self.wait_for(&receiver)
    }

    /// Change attributes; durable with the next fsync of the log or directory.
    pub fn set_attr(&self, id: NodeId, change: AttrChange) -> Result<LogInfo, StoreError> {
        self.change_now(Change::Attributes { id, change }).map(|changed| changed.node)
    }

    /// A log without a name is not open any more: nobody will ask for it again.
    pub fn forget(&self, id: LogId) {
        let ranges = self.catalog.forget(id);
        let mut space = self.flusher.space();
        ranges.iter().for_each(|range| space.table.ends(range));
        drop(space);
        if !ranges.is_empty() {
            self.reclaimer.hope();
            self.keeper.dirty();
        }
    }

    /// A change that finds no room waits while room can be made.
    pub(super) fn apply_or_wait(&self, change: &Change) -> Result<Changed, StoreError> {
        self.apply(change).map_err(|error| self.hopefully(error))
    }

    /// One change; [`StoreError::WouldBlock`] while the ring is full.
    pub(super) fn apply(&self, change: &Change) -> Result<Changed, StoreError> {
        self.check_writable()?;
        let changed = match change {
            Change::Create { parent, name, kind, mode, uid, gid } => {
                let wanted = CatalogEntry {
                    parent: *parent,
                    kind: *kind,
                    mode: mode & MODE_BITS,
                    uid: *uid,
                    gid: *gid,
                    name: name.clone(),
                    ..CatalogEntry::default()
                };
                self.create(wanted)
            }
            Change::Remove { parent, name, kind } => self.remove(*parent, name, *kind),
            Change::Rename { parent, name, new_parent, new_name, how } => {
                self.rename((*parent, name), (*new_parent, new_name), *how)
            }
            Change::Attributes { id, change } => self.attributes(*id, change),
        }?;
        self.keeper.dirty();
        Ok(changed)
    }

    /// Write the frame; gives the LSN behind it.
    fn put(&self, frame: &Frame) -> Result<Lsn, StoreError> {
        // The node that it is about; the root only gets a flag or a time.
        let about = frame.records.iter().find(|record| !record.entry.is_root()).or(frame.records.first());
        let log_id = about.map_or(0, |record| record.entry.id);
        let head = FrameHead { kind: Kind::Meta, log_id, offset: 0, time_ns: frame.now };
        let lets_go = frame.lets_go || frame.records.iter().any(|record| record.change == CatalogChange::Gone);
        // The reserve is for what lets go, but while the cleaner counts upon it.
        if !lets_go || self.reclaimer.is_moving() {
            self.check_reserve(frame.records.len() * entry_len(NAME_MAX))?;
        }
        let payload: Vec<u8> = frame.records.iter().flat_map(CatalogRecord::encode).collect();
        let (lsn, total) = self.put_frame(&head, &payload, |_| {})?;
        Ok(lsn + total)
    }

    /// The logs among these, locked. Only who holds the tree's lock for writing may lock two.
    fn hold(&self, nodes: impl IntoIterator<Item = Child>) -> Held<'_> {
        Held(nodes.into_iter().filter_map(|node| self.catalog.lock(node.id)).collect())
    }

    /// The directory `id`.
    fn directory<'t>(&self, tree: &'t Tree, id: NodeId) -> Result<&'t Directory, StoreError> {
        tree.get(id).ok_or_else(|| match self.catalog.lock(id) {
            Some(_) => StoreError::NotADirectory,
            None => StoreError::NotFound,
        })
    }

    fn create(&self, wanted: CatalogEntry) -> Result<Changed, StoreError> {
        let mut tree = self.catalog.tree.write();
        check_name(&wanted.name)?;
        let (kind, parent) = (wanted.kind, wanted.parent);
        let directory = self.directory(&tree, parent)?;
        if directory.child(&wanted.name).is_some() {
            return Err(StoreError::Exists);
        }
        if kind == NodeKind::Directory && tree.depth(parent) >= MAX_DEPTH {
            return Err(StoreError::NameTooLong);
        }
        if self.nodes_left(&tree, kind) == 0 {
            return Err(StoreError::TooMany);
        }
        self.check_room(tree.bytes + cost(&wanted.name))?;
        let id = tree.next_id;
        if id == ROOT_ID {
            return Err(StoreError::CatalogFull);
        }
        let mut frame = Frame::at(self.clock.now());
        let mut entry = CatalogEntry { id, mtime_ns: frame.now, ctime_ns: frame.now, btime_ns: frame.now, ..wanted };
        if directory.entry.mode & SET_GROUP != 0 {
            entry.gid = directory.entry.gid;
            if kind == NodeKind::Directory {
                entry.mode |= SET_GROUP;
            }
        }
        frame.add(CatalogChange::Named, entry.clone());
        let lsn = self.put(&frame)?;
        self.catalog.hides(false, is_hidden(kind, entry.mode));
        let node = NodeInfo { nlink: links(kind), ..NodeInfo::of(&entry, lsn) };
        tree.next_id = id + 1;
        tree.add(parent, &entry.name, Child { id, kind });
        match kind {
            NodeKind::Log => {
                let mut state = LogState::new(entry, Default::default());
                state.end_lsn = lsn;
                self.catalog.insert(state);
            }
            NodeKind::Directory => {
                let mut made = Directory::new(entry);
                made.changed_lsn = lsn;
                tree.insert_directory(made);
            }
        }
        touch(&mut tree, parent, frame.now, lsn);
        Ok(Changed { node, gone: None, lsn })
    }

    fn remove(&self, parent: NodeId, name: &[u8], kind: NodeKind) -> Result<Changed, StoreError> {
        let mut tree = self.catalog.tree.write();
        self.check_not_write_once()?;
        let child = self.directory(&tree, parent)?.child(name).ok_or_else(|| missing(name))?;
        check_replaceable(&tree, kind, child)?;
        let mut held = self.hold([child]);
        let mut frame = Frame::at(held.now(self.clock.now()));
        let node = self.leave(&mut frame, &tree, &held, child)?;
        let lsn = self.put(&frame)?;
        self.left(&mut tree, &mut held, (parent, name), &frame, lsn);
        touch(&mut tree, parent, frame.now, lsn);
        let gone = (kind == NodeKind::Log).then_some(child.id);
        Ok(Changed { node: NodeInfo { nlink: 0, end_lsn: lsn, ..node }, gone, lsn })
    }

    /// Add to the frame that a node is gone. If not everybody could read what is there, its bytes, which stay on the
    /// device, stay a secret.
    fn leave(&self, frame: &mut Frame, tree: &Tree, held: &Held<'_>, child: Child) -> Result<NodeInfo, StoreError> {
        let entry = held.entry_of(tree, child.id)?;
        let info = NodeInfo::of(&entry, 0);
        let keeps_secret = entry.device_bytes > 0 && self.catalog.has_hidden();
        // In front, for what follows may change the root's times.
        if let Some(root) = tree.get(ROOT_ID).filter(|root| keeps_secret && root.entry.flags & FLAG_SECRETS == 0) {
            let flags = root.entry.flags | FLAG_SECRETS;
            frame.add(CatalogChange::Attributes, CatalogEntry { flags, ..root.entry.clone() });
        }
        frame.add(CatalogChange::Gone, entry);
        Ok(info)
    }

    /// The frame is written: a node is gone.
    fn left(&self, tree: &mut Tree, held: &mut Held<'_>, place: (NodeId, &[u8]), frame: &Frame, lsn: Lsn) {
        let secrets =
            frame.records.iter().any(|record| record.entry.is_root() && record.entry.flags & FLAG_SECRETS != 0);
        if let Some(root) = tree.get_mut(ROOT_ID).filter(|_| secrets) {
            root.entry.flags |= FLAG_SECRETS;
            self.catalog.keeps_secrets();
        }
        let Some(child) = tree.take(place.0, place.1) else { return };
        match child.kind {
            NodeKind::Log => {
                let Some(log) = held.get_mut(child.id) else { return };
                log.unlinked = true;
                log.last_ns = frame.now;
                log.entry.ctime_ns = frame.now;
                log.end_lsn = lsn;
                self.catalog.unlinked.fetch_add(1, Ordering::Relaxed);
                self.catalog.hides(is_hidden(child.kind, log.entry.mode), false);
            }
            NodeKind::Directory => {
                let mode = tree.get(child.id).map_or(MODE_BITS, |directory| directory.entry.mode);
                self.catalog.hides(is_hidden(child.kind, mode), false);
                tree.remove_directory(child.id);
            }
        }
    }

    fn rename(&self, from: (NodeId, &[u8]), to: (NodeId, &[u8]), how: RenameHow) -> Result<Changed, StoreError> {
        let mut tree = self.catalog.tree.write();
        self.check_not_write_once()?;
        check_name(to.1)?;
        let moved = self.directory(&tree, from.0)?.child(from.1).ok_or_else(|| missing(from.1))?;
        let target = self.directory(&tree, to.0)?.child(to.1);
        if let (Some(_), RenameHow::NoReplace) = (target, how) {
            return Err(StoreError::Exists);
        }
        if let (None, RenameHow::Exchange) = (target, how) {
            return Err(StoreError::NotFound);
        }
        let mut held = self.hold(std::iter::once(moved).chain(target.filter(|target| *target != moved)));
        if target == Some(moved) {
            let node = held.info_of(&tree, moved.id)?;
            let lsn = node.end_lsn;
            return Ok(Changed { node, gone: None, lsn });
        }
        check_place(&tree, moved, to.0, from.0)?;
        let exchanged = target.filter(|_| how == RenameHow::Exchange);
        if let Some(other) = exchanged {
            check_place(&tree, other, from.0, to.0)?;
        } else if let Some(target) = target {
            check_replaceable(&tree, moved.kind, target)?;
        }
        let freed = if target.is_some() && exchanged.is_none() { cost(to.1) } else { 0 };
        if exchanged.is_none() && cost(to.1) > cost(from.1) {
            self.check_room((tree.bytes + cost(to.1) - cost(from.1)).saturating_sub(freed))?;
        }

        let mut frame = Frame::at(held.now(self.clock.now()));
        let replaced = target.filter(|_| exchanged.is_none());
        if let Some(target) = replaced {
            self.leave(&mut frame, &tree, &held, target)?;
        }
        let now = frame.now;
        let named = |child: Child, place: (NodeId, &[u8])| -> Result<CatalogEntry, StoreError> {
            let entry = held.entry_of(&tree, child.id)?;
            Ok(CatalogEntry { parent: place.0, name: place.1.to_vec(), ctime_ns: now, ..entry })
        };
        let (entry, other) = (named(moved, to)?, exchanged.map(|other| named(other, from)).transpose()?);
        frame.add(CatalogChange::Named, entry.clone());
        if let Some(other) = &other {
            frame.add(CatalogChange::Named, other.clone());
        } else if from.0 != to.0
            && let Some(directory) = tree.get(from.0)
        {
            // Where it went to gets its time from the name; where it came from is told in words.
            let secrets = frame.records.iter().any(|record| record.entry.is_root());
            let flags = directory.entry.flags | if secrets && from.0 == ROOT_ID { FLAG_SECRETS } else { 0 };
            let left = CatalogEntry { mtime_ns: frame.now, ctime_ns: frame.now, flags, ..directory.entry.clone() };
            frame.add(CatalogChange::Attributes, left);
        }
        let lsn = self.put(&frame)?;

        if replaced.is_some() {
            self.left(&mut tree, &mut held, to, &frame, lsn);
        }
        tree.take(from.0, from.1);
        if other.is_some() {
            tree.take(to.0, to.1);
        }
        for (child, entry) in [Some((moved, &entry)), exchanged.zip(other.as_ref())].into_iter().flatten() {
            tree.add(entry.parent, &entry.name, child);
            renamed(&mut tree, &mut held, entry, lsn);
        }
        touch(&mut tree, from.0, frame.now, lsn);
        touch(&mut tree, to.0, frame.now, lsn);
        let node = held.info_of(&tree, moved.id)?;
        Ok(Changed { node, gone: replaced.filter(|gone| gone.kind == NodeKind::Log).map(|gone| gone.id), lsn })
    }

    fn attributes(&self, id: NodeId, change: &AttrChange) -> Result<Changed, StoreError> {
        if change.is_retention() {
            self.check_not_write_once()?;
        }
        // A log's attributes need its own lock alone.
        if let Some(mut log) = self.catalog.lock(id) {
            let frame = changed(&log.entry, change, self.clock.now().max(log.last_ns));
            // One without a name ends with its last descriptor: a frame would bring it back.
            if !log.unlinked {
                log.end_lsn = self.put(&frame)?;
            }
            log.last_ns = frame.now;
            let entry = frame.into_entry().ok_or(StoreError::NotFound)?;
            if !log.unlinked {
                self.catalog.hides(is_hidden(entry.kind, log.entry.mode), is_hidden(entry.kind, entry.mode));
            }
            log.entry = entry;
            return Ok(Changed { node: log.info(), gone: None, lsn: log.end_lsn });
        }
        let mut tree = self.catalog.tree.write();
        let directory = tree.get_mut(id).ok_or(StoreError::NotFound)?;
        let frame = changed(&directory.entry, change, self.clock.now());
        let lsn = self.put(&frame)?;
        let entry = frame.into_entry().ok_or(StoreError::NotFound)?;
        self.catalog.hides(is_hidden(entry.kind, directory.entry.mode), is_hidden(entry.kind, entry.mode));
        directory.entry = entry;
        directory.changed_lsn = lsn;
        let node = directory.info();
        tree.changed_lsn = lsn;
        Ok(Changed { node, gone: None, lsn })
    }

    /// The log begins at `head` from now on, a record's boundary. Waits while the ring is full. Never below where it
    /// begins now, and never behind its end.
    pub(super) fn raise_head(&self, id: LogId, head: u64) -> Result<Trimmed, StoreError> {
        self.check_not_write_once()?;
        self.patiently(|| {
            self.check_writable()?;
            self.try_raise_head(id, head)
        })
    }

    fn try_raise_head(&self, id: LogId, head: u64) -> Result<Trimmed, StoreError> {
        let mut log = self.catalog.lock(id).ok_or(StoreError::NotFound)?;
        let (before, lsn) = (log.entry.head, log.end_lsn);
        let head = head.min(log.entry.size);
        if head <= before || log.unlinked {
            return Ok(Trimmed { before, head: before, lsn });
        }
        let mut frame = Frame::at(self.clock.now().max(log.last_ns));
        frame.lets_go = true;
        let entry = CatalogEntry { head, ..log.saved() };
        frame.add(CatalogChange::Attributes, entry);
        let lsn = self.put(&frame)?;
        log.end_lsn = lsn;
        log.last_ns = frame.now;
        log.entry.head = head;
        (self.options.head_raised)(id, head, lsn);
        let gone = log.ranges.drop_below(head);
        let bytes: u64 = gone.iter().map(|range| u64::from(range.bytes)).sum();
        log.entry.device_bytes = log.entry.device_bytes.saturating_sub(bytes);
        let mut space = self.flusher.space();
        gone.iter().for_each(|range| space.table.ends(range));
        drop(space);
        drop(log);
        self.reclaimer.hope();
        self.keeper.dirty();
        Ok(Trimmed { before, head, lsn })
    }

    fn check_not_write_once(&self) -> Result<(), StoreError> {
        if self.superblock.worm { Err(StoreError::WriteOnce) } else { Ok(()) }
    }

    fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        if bytes > self.catalog.limit { Err(StoreError::CatalogFull) } else { Ok(()) }
    }
}

/// A node has another name or another place.
fn renamed(tree: &mut Tree, held: &mut Held<'_>, entry: &CatalogEntry, lsn: Lsn) {
    let take = |into: &mut CatalogEntry| {
        into.parent = entry.parent;
        into.name.clone_from(&entry.name);
        into.ctime_ns = entry.ctime_ns;
    };
    if let Some(directory) = tree.get_mut(entry.id) {
        take(&mut directory.entry);
        directory.changed_lsn = lsn;
    } else if let Some(log) = held.get_mut(entry.id) {
        take(&mut log.entry);
        log.last_ns = entry.ctime_ns;
        log.end_lsn = lsn;
    }
}

/// The frame of changed attributes.
fn changed(entry: &CatalogEntry, change: &AttrChange, now: u64) -> Frame {
    let mut frame = Frame::at(now);
    let mut entry = CatalogEntry { ctime_ns: frame.now, ..entry.clone() };
    entry.mode = change.mode.map_or(entry.mode, |mode| mode & MODE_BITS);
    entry.uid = change.uid.unwrap_or(entry.uid);
    entry.gid = change.gid.unwrap_or(entry.gid);
    entry.retain_bytes = change.retain_bytes.unwrap_or(entry.retain_bytes);
    entry.retain_age_ns = change.retain_age_ns.unwrap_or(entry.retain_age_ns);
    entry.keep_min = change.keep_min.unwrap_or(entry.keep_min);
    match change.drop_oldest.filter(|_| entry.is_root()) {
        Some(true) => entry.flags |= FLAG_DROP_OLDEST,
        Some(false) => entry.flags &= !FLAG_DROP_OLDEST,
        None => {}
    }
    if let Some(mtime) = change.mtime_ns {
        entry.mtime_ns = mtime;
        entry.flags |= FLAG_MTIME_SET;
    }
    frame.add(CatalogChange::Attributes, entry);
    frame
}

fn links(kind: NodeKind) -> u32 {
    match kind {
        NodeKind::Log => 1,
        NodeKind::Directory => 2,
    }
}

/// Names in `id` have changed.
fn touch(tree: &mut Tree, id: NodeId, now: u64, lsn: Lsn) {
    if let Some(directory) = tree.get_mut(id) {
        directory.touch(now, lsn);
    }
    tree.changed_lsn = lsn;
}

fn check_name(name: &[u8]) -> Result<(), StoreError> {
    match name.len() {
        _ if is_valid_name(name) => Ok(()),
        len if len > NAME_MAX => Err(StoreError::NameTooLong),
        _ => Err(StoreError::Invalid),
    }
}

/// Why a name is not there.
fn missing(name: &[u8]) -> StoreError {
    if name.len() > NAME_MAX { StoreError::NameTooLong } else { StoreError::NotFound }
}

/// A node of kind `by` may take the place of `target`, or remove it.
fn check_replaceable(tree: &Tree, by: NodeKind, target: Child) -> Result<(), StoreError> {
    match (by, target.kind) {
        (NodeKind::Log, NodeKind::Log) => Ok(()),
        (NodeKind::Log, NodeKind::Directory) => Err(StoreError::IsADirectory),
        (NodeKind::Directory, NodeKind::Log) => Err(StoreError::NotADirectory),
        (NodeKind::Directory, NodeKind::Directory) => match tree.get(target.id).is_some_and(Directory::is_empty) {
            true => Ok(()),
            false => Err(StoreError::NotEmpty),
        },
    }
}

/// `child` may go from directory `old` into `new`: not into itself, and not too deep.
fn check_place(tree: &Tree, child: Child, new: NodeId, old: NodeId) -> Result<(), StoreError> {
    if child.kind == NodeKind::Log || new == old {
        return Ok(());
    }
    if tree.is_within(new, child.id) {
        return Err(StoreError::Invalid);
    }
    if tree.depth(new) + tree.height(child.id) >= MAX_DEPTH {
        return Err(StoreError::NameTooLong);
    }
    Ok(())
}
