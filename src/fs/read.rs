//! Reading: logs, the raw device and the snapshots of the control tree.

use super::inode::{ControlFile, Node};
use super::lent::{Lent, Turn};
use super::open::is_cached;
use super::types::{Errno, Read, Reply};
use super::{Inner, LlamaFs, view};
use crate::store::ReadBytes;
use crate::store::types::{LogId, StoreError};

impl LlamaFs {
    /// `read`. Fewer bytes than asked for only at the end.
    pub fn read(&self, read: Read, reply: impl Reply<Lent>) {
        // The kernel asks for a megabyte at most; what another transport asks for is bounded here.
        let read = Read { len: read.len.min(self.inner.settings.limits.read_memory), ..read };
        if !self.inner.gate.enter() {
            return reply.send(Err(Errno::ESHUTDOWN));
        }
        if let Some(Node::View(file)) = Node::of(read.ino).filter(|node| node.log().is_some()) {
            // It reads its log, which enters by itself.
            self.inner.gate.leave();
            return self.read_view(file, read, reply);
        }
        let me = self.clone();
        self.inner.turns.take(read.len, move || {
            let (turn, inner) = (Turn::of(me.clone(), read.len), me.inner.clone());
            me.read_in_turn(read, move |result: Result<ReadBytes, Errno>| {
                match result {
                    Ok(data) => reply.send(Ok(turn.lends(data))),
                    Err(errno) => {
                        reply.send(Err(errno));
                        // Not before: this may run others' reads.
                        drop(turn);
                    }
                }
                inner.gate.leave();
            });
        });
    }

    fn read_in_turn(&self, read: Read, answer: impl Reply<ReadBytes>) {
        match Node::of(read.ino) {
            Some(Node::Log(id)) => self.read_log(id, read, answer),
            Some(Node::File(ControlFile::Device)) => self.read_device(read, answer),
            Some(Node::File(_)) => {
                let part = self.inner.snapshots.lock().part(read.fh, read.offset, read.len);
                answer.send(part.map(ReadBytes::from).ok_or(Errno::EBADF));
            }
            Some(Node::Root | Node::Directory(_) | Node::Control | Node::Moments | Node::View(_)) => {
                answer.send(Err(Errno::EISDIR))
            }
            None => answer.send(Err(Errno::EBADF)),
        }
    }

    fn read_log(&self, id: LogId, read: Read, reply: impl Reply<ReadBytes>) {
        let Some(log) = self.inner.logs.get(id) else { return reply.send(Err(Errno::ENOENT)) };
        let cached = is_cached(read.fh) || read.for_pages;
        let end = read.offset.saturating_add(read.len as u64);
        // With `parallel` such a page is of an inode that no append goes to: the kernel drops it with the next size.
        let marked = cached && !self.inner.settings.parallel;
        let visible = if marked { log.tail.reading(end) } else { log.tail.visible() };
        // Bytes that are there for certain. The kernel takes a short answer to a page for the end of the file and
        // reads zeros behind it, so damage inside is an error of those pages; a direct reader gets what is before it.
        let certain = end.min(visible).saturating_sub(read.offset);
        let done = move |result: Result<ReadBytes, StoreError>| {
            reply.send(match result {
                Ok(data) if (data.len() as u64) < certain && (cached || data.is_empty()) => {
                    log::error!("read of log {id} at {}: {} of {certain} bytes", read.offset, data.len());
                    Err(Errno::EIO)
                }
                Ok(data) => Ok(data),
                Err(error) => {
                    log::error!("read of log {id} at {}: {error}", read.offset);
                    Err(error.into())
                }
            });
        };
        self.inner.store.read(id, read.offset, read.len, read.lends, Box::new(done));
    }

    fn read_device(&self, read: Read, reply: impl Reply<ReadBytes>) {
        let left = self.inner.store.device_bytes().saturating_sub(read.offset);
        let len = read.len.min(usize::try_from(left).unwrap_or(usize::MAX));
        if len == 0 {
            return reply.send(Ok(ReadBytes::default()));
        }
        let done = move |result: Result<ReadBytes, StoreError>| reply.send(result.map_err(Errno::from));
        self.inner.store.read_device(read.offset, len, Box::new(done));
    }

    /// `lseek` with `SEEK_DATA` or `SEEK_HOLE`: a log is data from its first retained byte to its end.
    pub fn lseek(&self, ino: u64, offset: i64, whence: i32) -> Result<i64, Errno> {
        let (head, size) = extent(&self.inner, ino)?;
        seek(head, size, offset, whence)
    }
}

/// First and last place of an inode's data.
fn extent(inner: &Inner, ino: u64) -> Result<(u64, u64), Errno> {
    match Node::of(ino) {
        Some(Node::Log(id)) => {
            let info = inner.store.log(id).ok_or(Errno::ENOENT)?;
            let size = inner.logs.get(id).map_or(info.size, |log| log.tail.visible());
            Ok((info.head.min(size), size))
        }
        Some(Node::View(view)) => view::extent(inner, view),
        Some(Node::File(ControlFile::Device)) => Ok((0, inner.store.device_bytes())),
        _ => Err(Errno::EINVAL),
    }
}

fn seek(head: u64, size: u64, offset: i64, whence: i32) -> Result<i64, Errno> {
    let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
    if offset >= size {
        return Err(Errno::ENXIO);
    }
    let place = match whence {
        libc::SEEK_DATA => offset.max(head),
        libc::SEEK_HOLE if offset < head => offset,
        libc::SEEK_HOLE => size,
        _ => return Err(Errno::EINVAL),
    };
    // All retained data may be gone while the size stays.
    if whence == libc::SEEK_DATA && place >= size {
        return Err(Errno::ENXIO);
    }
    i64::try_from(place).map_err(|_| Errno::ENXIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_lies_from_the_head_to_the_end() {
        let (data, hole) = (libc::SEEK_DATA, libc::SEEK_HOLE);
        assert_eq!(seek(0, 100, 0, data), Ok(0));
        assert_eq!(seek(0, 100, 7, hole), Ok(100));
        assert_eq!(seek(40, 100, 7, data), Ok(40));
        assert_eq!(seek(40, 100, 7, hole), Ok(7));
        assert_eq!(seek(100, 100, 7, data), Err(Errno::ENXIO));
        assert_eq!(seek(0, 100, 100, data), Err(Errno::ENXIO));
        assert_eq!(seek(0, 100, -1, data), Err(Errno::ENXIO));
        assert_eq!(seek(0, 100, 1, libc::SEEK_SET), Err(Errno::EINVAL));
    }
}
