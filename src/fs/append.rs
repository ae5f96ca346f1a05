//! Writing: every write is an append, answered when the store has taken it (a large one when nothing can keep it out any
//! more), or when it is durable if that was asked for. A worker never waits for the device: an append that finds the
//! ring full is copied and queued, and its answer is sent by the thread that makes room.

use std::sync::Arc;

use super::inode::Node;
use super::logs::Log;
use super::types::{Errno, Reply, Write};
use super::{Inner, LlamaFs};
use crate::io::OwnCompletions;
use crate::store::types::{AppendAt, Appended, AttrChange, StoreError};

/// Bytes of a record that takes longer to copy than its writer takes to be answered.
const EARLY: usize = 128 << 10;

/// An append on its way, and who waits for it.
struct Pending<R> {
    inner: Arc<Inner>,
    log: Arc<Log>,
    /// Where the kernel believes the next byte goes.
    kernel_offset: u64,
    durable: bool,
    /// Bytes of the request that the store has taken.
    taken: u32,
    /// What did not fit into one record.
    rest: Option<Vec<u8>>,
    /// A reader may have kept a page from before.
    stale: bool,
    reply: R,
}

impl LlamaFs {
    /// `write`, `pwrite`, `writev`: append.
    pub fn write(&self, write: Write<'_>, reply: impl Reply<u32>) {
        let log = match self.log_of(write.ino) {
            Ok(log) => log,
            Err(errno) => return reply.send(Err(errno)),
        };
        // One request is one record, but for a write larger than the largest record.
        let (record, rest) = match write.data.split_at_checked(self.inner.store.max_record()) {
            Some((record, rest)) if !rest.is_empty() => match self.inner.store.copy_of(rest) {
                Some(rest) => (record, Some(rest)),
                None => return reply.send(Err(Errno::ENOMEM)),
            },
            _ => (write.data, None),
        };
        if !self.inner.gate.enter() {
            return reply.send(Err(Errno::ESHUTDOWN));
        }
        if write.kill_set_id {
            self.kill_set_id(&log);
        }
        // O_APPEND is looked at in each write, as fcntl may have taken it off since the open. Without it only the
        // end itself is an append.
        let at = if write.flags & libc::O_APPEND != 0 { AppendAt::End } else { AppendAt::Exactly(write.offset) };
        let id = log.id;
        let pending = Pending {
            inner: self.inner.clone(),
            log,
            kernel_offset: write.offset,
            durable: self.inner.settings.sync || write.flags & (libc::O_DSYNC | libc::O_SYNC) != 0,
            taken: 0,
            rest,
            stale: false,
            reply,
        };
        let mut waiting = Some(pending);
        let taken = |appended: Appended| {
            waiting = waiting.take().and_then(|pending| pending.taken(&appended, record.len()));
        };
        let result = self.inner.store.try_append_telling(id, record, at, taken);
        // Who was answered before waits no more.
        let Some(pending) = waiting else { return self.inner.gate.leave() };
        match result {
            Err(StoreError::WouldBlock) => {
                let Some(record) = self.inner.store.copy_of(record) else { return pending.answer(Err(Errno::ENOMEM)) };
                self.inner.backlog.take(record.len());
                pending.queue(record, at);
            }
            result => pending.appended(result, record.len()),
        }
    }

    /// The log of an inode that is written to.
    fn log_of(&self, ino: u64) -> Result<Arc<Log>, Errno> {
        match Node::of(ino) {
            Some(Node::Log(id)) => self.inner.logs.get(id).ok_or(Errno::ENOENT),
            _ => Err(Errno::EBADF),
        }
    }

    /// A write by an ordinary user takes set-id bits away.
    fn kill_set_id(&self, log: &Log) {
        let Some(mode) = log.mode_without_set_id() else { return };
        match self.inner.store.set_attr(log.id, AttrChange { mode: Some(mode), ..AttrChange::default() }) {
            Ok(info) => log.set_mode(info.mode),
            Err(error) => log::warn!("cannot take the set-id bits off log {}: {error}", log.id),
        }
    }

    /// The calling thread is going to take the completions of the commits and reads that it starts and waits for.
    pub fn own_completions(&self) -> std::io::Result<Option<OwnCompletions>> {
        self.inner.store.own_completions()
    }

    /// `fsync`, `fdatasync`: everything appended so far is made durable.
    pub fn fsync(&self, ino: u64, reply: impl Reply<()>) {
        let lsn = match Node::of(ino) {
            Some(Node::Log(id)) => match self.inner.store.log(id) {
                Some(info) => info.end_lsn,
                None => return reply.send(Err(Errno::ENOENT)),
            },
            // The root's is everybody's: all that was accepted.
            Some(Node::Root) => self.inner.store.end_lsn(),
            // What was made, renamed and removed in it; one that was removed while it was open has nothing to keep.
            Some(Node::Directory(id)) => self.inner.store.node(id).map_or(0, |info| info.end_lsn),
            Some(Node::Control | Node::File(_) | Node::Moments | Node::View(_)) => {
                return reply.send(Ok(()));
            }
            None => return reply.send(Err(Errno::ENOENT)),
        };
        if !self.inner.gate.enter() {
            return reply.send(Err(Errno::ESHUTDOWN));
        }
        let inner = self.inner.clone();
        self.inner.store.make_stable(
            lsn,
            Box::new(move |result| {
                reply.send(result.map_err(Errno::from));
                inner.gate.leave();
            }),
        );
    }
}

impl<R: Reply<u32>> Pending<R> {
    /// Queue a record; its bytes are counted in the backlog already.
    fn queue(self, record: Vec<u8>, at: AppendAt) {
        let (inner, id, len) = (self.inner.clone(), self.log.id, record.len());
        let done = Box::new(move |result| {
            self.inner.backlog.give(len);
            self.appended(result, len);
        });
        inner.store.append_later(id, record, at, done);
    }

    /// The store will have the whole record, of `len` bytes, in a moment. Its writer is answered now if that is all and it
    /// is worth it: the next record is on its way while this one is copied and checksummed.
    fn taken(mut self, appended: &Appended, len: usize) -> Option<Self> {
        if self.durable || self.rest.is_some() || len < EARLY {
            return Some(self);
        }
        self.stale = self.is_stale(appended);
        if self.stale {
            return Some(self);
        }
        self.log.tail.publish(appended.offset + len as u64);
        self.reply.send(Ok(u32::try_from(len).unwrap_or(u32::MAX)));
        None
    }

    /// The kernel has dropped the pages where it believed the append to go; see `tail`. With `parallel` it knows
    /// nothing of other openers' appends, and their readers go past the page cache.
    fn is_stale(&self, appended: &Appended) -> bool {
        let elsewhere = appended.offset != self.kernel_offset && !self.inner.settings.parallel;
        self.log.tail.appended() || elsewhere
    }

    /// The store has taken or refused a record.
    fn appended(mut self, result: Result<Appended, StoreError>, len: usize) {
        let appended = match result {
            Ok(appended) => appended,
            // What was taken of a large write stays taken: a short count says so.
            Err(_) if self.taken > 0 => {
                let taken = self.taken;
                return self.answer(Ok(taken));
            }
            Err(error) => return self.answer(Err(error.into())),
        };
        self.taken = self.taken.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        let end = appended.offset + len as u64;
        let stale = std::mem::take(&mut self.stale) || self.is_stale(&appended);
        self.kernel_offset = end;
        if !stale {
            return self.visible(end, appended.end_lsn);
        }
        let (inner, ino) = (self.inner.clone(), Node::Log(self.log.id).ino());
        let then = Box::new(move || self.visible(end, appended.end_lsn));
        inner.page_cache.invalidate(ino, appended.offset, len as u64, then);
    }

    /// Readers can see it: go on with the rest, or make it durable, or answer.
    fn visible(mut self, end: u64, end_lsn: u64) {
        self.log.tail.publish(end);
        if let Some(rest) = self.rest.take() {
            // At most one page more than a record in practice, so it is queued without waiting for the backlog:
            // this may be the very thread that makes room in it.
            let max = self.inner.store.max_record();
            let copy_of = |bytes: &[u8]| self.inner.store.copy_of(bytes);
            let (record, rest) = match rest.split_at_checked(max) {
                Some((record, more)) if !more.is_empty() => (copy_of(record), copy_of(more).map(Some)),
                _ => (Some(rest), Some(None)),
            };
            let (Some(record), Some(rest)) = (record, rest) else {
                let taken = self.taken;
                return self.answer(Ok(taken));
            };
            self.rest = rest;
            self.inner.backlog.add(record.len());
            return self.queue(record, AppendAt::End);
        }
        if !self.durable {
            let taken = self.taken;
            return self.answer(Ok(taken));
        }
        let inner = self.inner.clone();
        inner.store.make_stable(
            end_lsn,
            Box::new(move |result| {
                let taken = self.taken;
                self.answer(result.map(|()| taken).map_err(Errno::from));
            }),
        );
    }

    fn answer(self, result: Result<u32, Errno>) {
        self.reply.send(result);
        self.inner.gate.leave();
    }
}
