//! What a read gave, on its way to who asked: its bytes lie in the daemon's memory, and its turn is not over, until it is
//! dropped. So it is kept until the kernel has the bytes, and no longer.

use std::fmt;
use std::ops::Deref;

use super::LlamaFs;
use crate::store::ReadBytes;

/// A read whose turn it is. Dropped, it is the next one's.
pub(super) struct Turn {
    fs: LlamaFs,
    len: usize,
}

impl Turn {
    /// Of a read of so many bytes, for which `Turns` has made room.
    pub(super) fn of(fs: LlamaFs, len: usize) -> Self {
        Self { fs, len }
    }

    /// It gave these bytes.
    pub(super) fn lends(self, data: ReadBytes) -> Lent {
        Lent { data, turn: Some(self) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.fs.inner.turns.give(self.len);
    }
}

/// The bytes of a read. Dropped, their memory goes back to where reads get it, and the next read has its turn.
pub struct Lent {
    data: ReadBytes,
    /// None: nothing was read.
    turn: Option<Turn>,
}

impl Lent {
    /// No bytes.
    pub(super) fn nothing() -> Self {
        Self { data: ReadBytes::default(), turn: None }
    }
}

impl Deref for Lent {
    type Target = ReadBytes;

    fn deref(&self) -> &ReadBytes {
        &self.data
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Before the turn: the next read finds it.
        if let Some(turn) = &self.turn {
            turn.fs.inner.store.give_back(std::mem::take(&mut self.data));
        }
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}
