//! What is asked of views: names in them, what `stat` shows, and where their files begin.
//!
//! Where a log begins by its head is known; where by a time has perhaps to be looked for on the device. No worker waits for
//! that: what needs to know it goes on when it is known ([`LlamaFs::when_known`]).

use std::time::Duration;

use super::attr::{directory_attr, log_attr};
use super::inode::{Node, View};
use super::types::{Attr, Errno, Read, Reply};
use super::{Inner, Lent, LlamaFs, changes, time};
use crate::store::Begins;
use crate::store::types::{NodeKind, StoreError};

/// Nothing is written in views.
const WRITE_BITS: u32 = 0o222;

/// The node of a name in a directory of a view.
pub fn lookup(inner: &Inner, directory: View, name: &[u8]) -> Result<Node, Errno> {
    if !directory.directory {
        return Err(Errno::ENOTDIR);
    }
    inner.views.lock().time(directory.slot).ok_or(Errno::ESTALE)?;
    let found = inner.store.lookup(directory.id, name)?;
    let view = View::in_view(directory.slot, found.id, found.kind);
    if found.kind == NodeKind::Directory {
        return Ok(Node::View(view));
    }
    // It may be so new that its maker is not answered yet.
    inner.logs.insert(&found);
    Ok(Node::View(inner.views.lock().number(view, found.head)?))
}

/// The view of a time, by its name.
pub fn moment(inner: &Inner, name: &[u8]) -> Result<Node, Errno> {
    let text = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
    let time_ns = time::parse(text).map_err(|_| Errno::ENOENT)?;
    Ok(Node::View(View::root(inner.views.lock().at(time_ns)?)))
}

/// What `stat` shows. Of a file of which it is not known where it begins, that it is empty.
pub fn attr(inner: &Inner, view: View) -> Result<Attr, Errno> {
    let ino = Node::View(view).ino();
    if view.directory {
        inner.views.lock().time(view.slot).ok_or(Errno::ESTALE)?;
        let info = inner.store.node(view.id).filter(|info| info.kind == NodeKind::Directory).ok_or(Errno::ESTALE)?;
        let whole = directory_attr(&info);
        // Its name, and what is in it, may be another with the next look.
        return Ok(Attr { ino, mode: whole.mode & !WRITE_BITS, nlink: 2, valid: Duration::ZERO, ..whole });
    }
    let info = inner.store.log(view.id).ok_or(Errno::ESTALE)?;
    let whole = log_attr(inner, &info);
    let size = match known(inner, view)? {
        Some(Begins::At(offset)) => whole.size.saturating_sub(offset),
        Some(Begins::NotBefore(_)) | None => 0,
    };
    let share = u128::from(whole.blocks) * u128::from(size) / u128::from(info.size.saturating_sub(info.head).max(1));
    let blocks = u64::try_from(share).unwrap_or(whole.blocks).min(whole.blocks);
    Ok(Attr { ino, mode: whole.mode & !WRITE_BITS, nlink: 1, size, blocks, ..whole })
}

/// Where the data of a file lies in it: from what is left of it to its end.
pub fn extent(inner: &Inner, view: View) -> Result<(u64, u64), Errno> {
    let info = inner.store.log(view.id).filter(|_| !view.directory).ok_or(Errno::EINVAL)?;
    let size = attr(inner, view)?.size;
    let Some(Begins::At(offset)) = known(inner, view)? else { return Ok((0, 0)) };
    Ok((info.head.saturating_sub(offset).min(size), size))
}

/// Where a file begins, if that can be told without the device.
fn known(inner: &Inner, file: View) -> Result<Option<Begins>, Errno> {
    let head = inner.store.log(file.id).ok_or(Errno::ESTALE)?.head;
    let (time_ns, begins) = {
        let views = inner.views.lock();
        (views.time(file.slot).ok_or(Errno::ESTALE)?, views.begins(file, head))
    };
    let Begins::NotBefore(seen) = begins else { return Ok(Some(begins)) };
    let found = inner.store.begins_in_memory(file.id, time_ns, seen).map_err(gone)?;
    Ok(found.map(|found| inner.views.lock().settle(file, found)))
}

/// A file is opened: from here on it begins where it begins.
pub fn open(inner: &Inner, file: View) -> Result<(), Errno> {
    let log = inner.logs.get(file.id).ok_or(Errno::ESTALE)?;
    if !log.open() {
        return Err(Errno::ESTALE);
    }
    let begins = known(inner, file).map(|known| known.unwrap_or(Begins::NotBefore(0)));
    let opened = begins.and_then(|begins| inner.views.lock().open(file, begins));
    if opened.is_err() && log.close() {
        changes::forget(inner, file.id);
    }
    opened
}

/// A log that is not there any more was there when its number was given out.
fn gone(error: StoreError) -> Errno {
    if error == StoreError::NotFound { Errno::ESTALE } else { error.into() }
}

impl LlamaFs {
    /// Go on with `then` when it is known where the file begins that this inode is; at once with everything else. Nothing
    /// that is asked of the inode waits for the device then.
    pub fn when_known(&self, ino: u64, then: impl FnOnce(Result<(), Errno>) + Send + 'static) {
        let Some(Node::View(file)) = Node::of(ino).filter(|node| node.log().is_some()) else { return then(Ok(())) };
        let time_ns = match known(&self.inner, file) {
            Ok(None) => self.inner.views.lock().time(file.slot).ok_or(Errno::ESTALE),
            Ok(Some(_)) => return then(Ok(())),
            Err(errno) => Err(errno),
        };
        let time_ns = match time_ns {
            Ok(time_ns) => time_ns,
            Err(errno) => return then(Err(errno)),
        };
        if !self.inner.gate.enter() {
            return then(Err(Errno::ESHUTDOWN));
        }
        let inner = self.inner.clone();
        self.inner.finder.ask(move |how| {
            let found = how.and_then(|()| inner.store.begins(file.id, time_ns).map_err(gone));
            let settled = found.map(|found| {
                inner.views.lock().settle(file, found);
            });
            then(settled);
            inner.gate.leave();
        });
    }

    /// `read` of a file of a view: of its log, from where it begins.
    pub(super) fn read_view(&self, file: View, read: Read, reply: impl Reply<Lent>) {
        let me = self.clone();
        self.when_known(read.ino, move |how| {
            let begins = how.and_then(|()| known(&me.inner, file));
            match begins {
                Ok(Some(Begins::At(offset))) => {
                    let (ino, offset) = (Node::Log(file.id).ino(), read.offset.saturating_add(offset));
                    me.read(Read { ino, offset, ..read }, reply);
                }
                Ok(Some(Begins::NotBefore(_)) | None) => reply.send(Ok(Lent::nothing())),
                Err(errno) => reply.send(Err(errno)),
            }
        });
    }
}
