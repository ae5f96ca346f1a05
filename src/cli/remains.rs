//! What lies behind the start of a device or file: data in a file, and what is left of a store of ours that has lost its
//! superblocks.
//!
//! It is looked for at a few thousand places at most, and holes of a file are skipped, so that large devices and sparse
//! files take no time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, SeekFrom, fadvise, seek};

use crate::format::CHECKPOINT_START;
use crate::format::{checkpoint, segment};

/// Segments begin at whole mebibytes, but where somebody wanted odd ones.
const STEP: u64 = 1 << 20;
/// The first segment lies behind the checkpoint areas, which are smaller than half of this each unless more logs were
/// asked for than usual: all its steps are looked at.
const FRONT: u64 = 1 << 30;
/// Further windows of the device are looked at, spread evenly,
const WINDOWS: u64 = 16;
/// as long as the largest segment that is made by itself, so that a header lies in each that is in use.
const WINDOW: u64 = 64 << 20;
/// Longest of our magics.
const MAGIC_LEN: usize = 8;
/// Places of a file's data that are read.
const SAMPLES: u64 = 32;
/// Bytes of each.
const SAMPLE: usize = 64 << 10;

/// Something of a store is left: the front of a checkpoint, or of a segment.
pub fn of_store(file: &File, bytes: u64, is_file: bool) -> io::Result<bool> {
    // A hint: each place is somewhere else, and what lies behind it is not wanted. Files on some systems refuse it.
    let _ = fadvise(file, 0, None, Advice::Random);
    if starts_with_ours(file, CHECKPOINT_START)? {
        return Ok(true);
    }
    let spread = (1..=WINDOWS).map(|number| {
        let from = bytes / (WINDOWS + 1) * number / STEP * STEP;
        from..from.saturating_add(WINDOW)
    });
    for window in std::iter::once(0..FRONT).chain(spread) {
        let mut at = window.start;
        while at < window.end.min(bytes) {
            let data = if is_file { next_data(file, at)? } else { Some(at) };
            let Some(data) = data else { break };
            // A place that lies in a hole holds nothing: on to the next behind it.
            at = at.max(data / STEP * STEP);
            if at < data {
                at += STEP;
                continue;
            }
            if starts_with_ours(file, at)? {
                return Ok(true);
            }
            at += STEP;
        }
    }
    let _ = fadvise(file, 0, None, Advice::Normal);
    Ok(false)
}

/// A file holds other bytes than zeros: at the front of its pieces of data, spread over it, or at its end.
pub fn data_in_file(file: &File, bytes: u64) -> io::Result<bool> {
    let mut sample = vec![0; SAMPLE];
    let mut holds_data = |at: u64| -> io::Result<bool> {
        let count = read_at(file, &mut sample, at)?;
        Ok(sample.iter().take(count).any(|byte| *byte != 0))
    };
    // The first pieces, one by one.
    let mut at = 0;
    for _ in 0..SAMPLES {
        let Some(data) = next_data(file, at)? else { break };
        if holds_data(data)? {
            return Ok(true);
        }
        at = next_hole(file, data)?.max(data + 1);
    }
    // Then the data next to places all over it.
    let mut last = None;
    for number in 0..SAMPLES {
        let Some(data) = next_data(file, bytes / SAMPLES * number)? else { break };
        if last != Some(data) && holds_data(data)? {
            return Ok(true);
        }
        last = Some(data);
    }
    holds_data(bytes.saturating_sub(SAMPLE as u64))
}

fn starts_with_ours(file: &File, at: u64) -> io::Result<bool> {
    let mut magic = [0; MAGIC_LEN];
    let count = match read_at(file, &mut magic, at) {
        // A bad sector of a device: the other places tell.
        Err(error) if error.raw_os_error() == Some(libc::EIO) => 0,
        count => count?,
    };
    Ok(count == MAGIC_LEN && (magic == checkpoint::MAGIC || magic == segment::MAGIC))
}

/// Reads up to the end of the piece or of the file.
pub fn read_at(file: &File, piece: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Where data begins, from `at` on; a file system that can't tell calls everything data.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(rustix::io::Errno::INVAL) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

fn next_hole(file: &File, at: u64) -> io::Result<u64> {
    match seek(file, SeekFrom::Hole(at)) {
        Ok(hole) => Ok(hole),
        Err(rustix::io::Errno::NXIO | rustix::io::Errno::INVAL) => Ok(u64::MAX >> 1),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse(bytes: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        file
    }

    #[test]
    fn holes_and_written_zeros_are_no_data() {
        let file = sparse(1 << 40);
        file.write_all_at(&[0; 8192], 1 << 30).unwrap();
        assert!(!data_in_file(&file, 1 << 40).unwrap());
        assert!(!of_store(&file, 1 << 40, true).unwrap());
        assert!(!data_in_file(&sparse(0), 0).unwrap());
    }

    #[test]
    fn a_byte_of_data_is_seen_wherever_it_lies_in_a_sparse_file() {
        for at in [4096, (3 << 30) + 777, (1 << 40) - 1] {
            let file = sparse(1 << 40);
            file.write_all_at(&[1], at).unwrap();
            assert!(data_in_file(&file, 1 << 40).unwrap(), "{at}");
        }
    }

    #[test]
    fn what_is_left_of_a_store_is_seen() {
        let bytes = 1 << 40;
        let window = bytes / (WINDOWS + 1) * 3 / STEP * STEP;
        for (at, magic) in [
            (CHECKPOINT_START, checkpoint::MAGIC),
            (5 << 20, segment::MAGIC),
            (700 << 20, segment::MAGIC),
            (window + (63 << 20), segment::MAGIC),
        ] {
            let file = sparse(bytes);
            file.write_all_at(&magic, at).unwrap();
            // As a file, and as a device that has no holes to skip.
            assert!(of_store(&file, bytes, true).unwrap() && of_store(&file, bytes, false).unwrap(), "{at}");
        }
    }
}
