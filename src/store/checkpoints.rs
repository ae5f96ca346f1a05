//! Checkpoints on the device: two areas, written in turn, the newest whole one counts.

use super::index::thin;
use super::superblocks::out_of_memory;
use crate::format::checkpoint::{checkpoint_len, entry_in_checkpoint, index_len, mounts_len, ranges_len};
use crate::format::{Checkpoint, Summarised, Superblock};
use crate::io::{IoError, QuikIO, SharedBuffer};

/// Least bytes read to learn a checkpoint's length.
const HEAD: usize = 4096;

/// What an area holds.
#[derive(Debug, Clone)]
pub enum Area {
    /// Zeros: none was written there.
    Empty,
    /// A whole checkpoint.
    Whole(Checkpoint),
    /// Something else; the text says what.
    Damaged(String),
}

/// Place of the area that generation `generation` goes to.
pub fn area(superblock: &Superblock, generation: u64) -> u64 {
    superblock.checkpoint_start + (generation % 2) * superblock.checkpoint_bytes
}

/// What the area of generation `generation` holds. What the device can't read is damaged: the other area may do.
pub fn read_area(io: &QuikIO, superblock: &Superblock, generation: u64) -> Area {
    let offset = area(superblock, generation);
    let block = superblock.block_size as usize;
    let head = match read(io, offset, HEAD.max(block)) {
        Ok(head) => head,
        Err(error) => return Area::Damaged(error.to_string()),
    };
    if head.iter().all(|byte| *byte == 0) {
        return Area::Empty;
    }
    let len = match Checkpoint::encoded_len(&head) {
        Ok(len) => len.min(superblock.checkpoint_bytes).next_multiple_of(block as u64) as usize,
        Err(error) => return Area::Damaged(error.to_string()),
    };
    let whole = if len <= head.len() { Ok(head) } else { read(io, offset, len) };
    match whole.map(|bytes| Checkpoint::decode(&bytes, &superblock.uuid)) {
        Ok(Ok(checkpoint)) => Area::Whole(checkpoint),
        Ok(Err(error)) => Area::Damaged(error.to_string()),
        Err(error) => Area::Damaged(error.to_string()),
    }
}

/// What the two areas hold.
pub struct Loaded {
    /// The newest whole checkpoint.
    pub newest: Option<Checkpoint>,
    /// The other one, if it is whole too.
    pub older: Option<Checkpoint>,
    /// A sentence for each area that holds a damaged one.
    pub remarks: Vec<String>,
}

/// Read both areas.
pub fn load(io: &QuikIO, superblock: &Superblock) -> Loaded {
    let (mut newest, mut older): (Option<Checkpoint>, Option<Checkpoint>) = (None, None);
    let mut remarks = Vec::new();
    for generation in 0..2u64 {
        match read_area(io, superblock, generation) {
            Area::Empty => {}
            Area::Whole(checkpoint) => {
                if newest.as_ref().is_none_or(|have| checkpoint.generation > have.generation) {
                    older = newest.replace(checkpoint);
                } else {
                    older = Some(checkpoint);
                }
            }
            Area::Damaged(error) => {
                let offset = area(superblock, generation);
                remarks.push(format!("checkpoint area at offset {offset} is damaged ({error})"));
            }
        }
    }
    Loaded { newest, older, remarks }
}

fn read(io: &QuikIO, offset: u64, len: usize) -> Result<Vec<u8>, IoError> {
    let buffer = io.buffer(len).map_err(|_| out_of_memory("read", offset, len))?;
    Ok(io.read_now(buffer, len, offset)?.as_slice().get(..len).unwrap_or(&[]).to_vec())
}

/// Write `checkpoint` to its area and flush; gives its bytes. `None` if it does not fit.
pub fn save(io: &QuikIO, superblock: &Superblock, mut checkpoint: Checkpoint) -> Result<Option<u64>, IoError> {
    fit(&mut checkpoint, superblock.checkpoint_bytes);
    let bytes = checkpoint.encode();
    let offset = area(superblock, checkpoint.generation);
    let len = bytes.len().next_multiple_of(superblock.block_size as usize);
    if len as u64 > superblock.checkpoint_bytes {
        return Ok(None);
    }
    let mut buffer = io.buffer(len).map_err(|_| out_of_memory("write", offset, len))?;
    if let Some(front) = buffer.as_mut_slice().get_mut(..bytes.len()) {
        front.copy_from_slice(&bytes);
    }
    io.write_all_now(SharedBuffer::from(buffer), 0..len, offset, false)?;
    io.flush_now()?;
    Ok(Some(len as u64))
}

/// Leave out what a checkpoint can do without until it fits its area: of old mounts nothing need be known, and points of
/// the index only make reads faster.
fn fit(checkpoint: &mut Checkpoint, area: u64) {
    let Checkpoint { nodes, segments, index, mounts, summarised, ranges, .. } = checkpoint;
    let entries = nodes.iter().map(|node| entry_in_checkpoint(node.encoded_len())).sum();
    let mut room = area.saturating_sub(checkpoint_len(entries, segments.len() as u64, mounts_len(0)));
    if ranges_len(ranges.len()) > room {
        // Without them their segments are read again.
        summarised.iter_mut().filter(|at| **at == Summarised::Here).for_each(|at| *at = Summarised::No);
        ranges.clear();
    }
    room -= ranges_len(ranges.len());
    let keep = usize::try_from(room / mounts_len(1)).unwrap_or(usize::MAX);
    mounts.drain(..mounts.len().saturating_sub(keep));
    let room = room - mounts_len(mounts.len());
    while index_len(index.len(), index.iter().map(|index| index.points.len()).sum()) > room && !index.is_empty() {
        for index in index.iter_mut() {
            thin(&mut index.points);
            index.granularity = index.granularity.saturating_mul(2);
        }
        // The first point of a log is known without one.
        index.retain(|index| index.points.len() > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{LogIndex, MountEntry};

    fn checkpoint() -> Checkpoint {
        let mount = |n: u64| MountEntry { epoch: n, cut_lsn: n * 100, first_lsn: n * 100 };
        let index = |log_id| LogIndex { log_id, granularity: 1, points: (0..64).map(|n| (n, n)).collect() };
        Checkpoint {
            uuid: [7; 16],
            generation: 1,
            epoch: 29,
            recovery_lsn: 1,
            stable_lsn: 1,
            nodes: Vec::new(),
            segments: Vec::new(),
            index: (1..20).map(index).collect(),
            mounts: (1..30).map(mount).collect(),
            next_id: 1,
            summarised: Vec::new(),
            ranges: Vec::new(),
        }
    }

    #[test]
    fn a_checkpoint_is_made_to_fit_by_what_it_can_do_without() {
        let whole = checkpoint().encode().len() as u64;
        for area in (100..whole + 100).step_by(100) {
            let mut fitted = checkpoint();
            fit(&mut fitted, area);
            assert!(fitted.encode().len() as u64 <= area, "{area}");
            assert_eq!(fitted == checkpoint(), area >= whole);
            assert_eq!(Checkpoint::decode(&fitted.encode(), &[7; 16]), Ok(fitted.clone()));
            let newest = fitted.mounts.last().map(|mount| mount.epoch);
            assert!(area < 200 || newest == Some(29), "the newest mounts stay: {newest:?}");
        }
    }
}
