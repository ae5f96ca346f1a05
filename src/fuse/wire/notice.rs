//! What the kernel is told of its own accord.

use std::fs::File;
use std::io::{self, Write};

use super::answer::Fields;

/// The code of the notice that pages of an inode are no longer good.
const INVAL_INODE: i32 = 2;
/// Bytes of a notice: its header, the inode and which of its bytes.
const BYTES: u32 = 40;

/// Drop the pages of an inode that hold any of these bytes.
pub fn invalidate(mut device: &File, ino: u64, offset: u64, len: u64) -> io::Result<()> {
    // Where an answer has the number of its request, a notice has 0, and its code in place of an error.
    let fields = Fields::default().u32(BYTES).i32(INVAL_INODE).u64(0).u64(ino).u64(offset).u64(len);
    device.write_all(&fields.0)
}
