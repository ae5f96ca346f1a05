//! A read of the device that failed, once more block by block: only what can't be read is lost.
//!
//! The frames of a chunk are many logs' records, and one sector that can't be read is one place in it. What can't be
//! read is given as bytes with which no frame begins, and is then passed over as any damage is.

use std::sync::Weak;

use super::LogStructuredStore;
use super::scan::UNREADABLE;
use crate::io::{Buffer, IoError};

/// The bytes, and what the device said of the first block that is missing.
pub(super) struct Around {
    pub buffer: Buffer,
    pub error: Option<IoError>,
    /// Nothing at all could be read.
    pub all_lost: bool,
}

/// Whom to tell.
type Done = Box<dyn FnOnce(Around) + Send>;

/// A read under way.
struct Walk {
    store: Weak<LogStructuredStore>,
    around: Around,
    len: usize,
    /// Device offset of the first byte.
    offset: u64,
    /// Bytes that are settled.
    at: usize,
    done: Done,
}

impl LogStructuredStore {
    /// Read `len` bytes at `offset` into `buffer`, block by block.
    pub(super) fn read_blockwise(&self, buffer: Buffer, len: usize, offset: u64, done: Done) {
        let around = Around { buffer, error: None, all_lost: true };
        Walk { store: self.me.clone(), around, len, offset, at: 0, done }.next();
    }
}

impl Walk {
    fn next(mut self) {
        let store = if self.at < self.len { self.store.upgrade() } else { None };
        let Some(store) = store else { return (self.done)(self.around) };
        let block = (self.len - self.at).min(store.shape.block as usize);
        let Ok(part) = store.io.buffer(block) else {
            // What is not asked for counts as missing.
            self.lost(self.len - self.at);
            return (self.done)(self.around);
        };
        let offset = self.offset + self.at as u64;
        let done = move |read: Result<Buffer, IoError>| {
            match read {
                Ok(part) => self.there(&part, block),
                Err(error) => {
                    self.around.error.get_or_insert(error);
                    self.lost(block);
                }
            }
            self.next();
        };
        store.io.read(part, 0..block, offset, Box::new(done));
    }

    fn there(&mut self, part: &Buffer, block: usize) {
        let to = self.around.buffer.as_mut_slice().get_mut(self.at..self.at + block);
        if let (Some(to), Some(from)) = (to, part.as_slice().get(..block)) {
            to.copy_from_slice(from);
        }
        self.around.all_lost = false;
        self.at += block;
    }

    fn lost(&mut self, bytes: usize) {
        if let Some(to) = self.around.buffer.as_mut_slice().get_mut(self.at..self.at + bytes) {
            to.fill(UNREADABLE);
        }
        self.at += bytes;
    }
}
