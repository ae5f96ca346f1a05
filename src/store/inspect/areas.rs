//! What lies outside the log: both copies of the superblock and both checkpoint areas, each judged by itself.

use crate::format::{Checkpoint, SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_LEN, Superblock};
use crate::io::QuikIO;
use crate::store::checkpoints::{self, Area};
use crate::store::superblocks::read_block;

/// Generation of the second checkpoint of a store: from it on both areas were written.
const BOTH_WRITTEN: u64 = 2;

/// One of two places that hold the same kind of thing.
#[derive(Debug)]
pub struct Place {
    /// For people.
    pub name: &'static str,
    /// On the device.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// It is well, or what is wrong with it.
    pub state: Result<(), String>,
    /// The other one is whole, and its content can be written here.
    pub repairable: bool,
}

/// Both copies of the superblock, of which `newest` counts.
pub fn superblocks(io: &QuikIO, newest: &Superblock) -> [Place; 2] {
    [("superblock A", SUPERBLOCK_A), ("superblock B", SUPERBLOCK_B)].map(|(name, offset)| {
        let decoded = match read_block(io, offset) {
            Ok(bytes) => Superblock::decode(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let is_short = decoded.as_ref().is_ok_and(|copy| is_of_before_growing(copy, newest));
        let repairable = (decoded.is_err() || is_short) && newest.copy_offset() != offset;
        let state = decoded.and_then(|copy| fits(&copy, newest, offset));
        Place { name, offset, len: SUPERBLOCK_LEN as u64, state, repairable }
    })
}

/// A power failure in the middle of growing leaves the copy that was to be written second as it was.
fn is_of_before_growing(copy: &Superblock, newest: &Superblock) -> bool {
    let Superblock { segment_count, device_bytes, .. } = *newest;
    let grown = Superblock { segment_count, device_bytes, ..copy.clone() };
    copy.generation < newest.generation
        && copy.segment_count < segment_count
        && copy.uuid == newest.uuid
        && geometry(&grown) == geometry(newest)
}

fn geometry(s: &Superblock) -> (u32, u32, u64, u64, u64) {
    (s.block_size, s.segment_size, s.segment_count, s.data_start, s.checkpoint_bytes)
}

fn fits(copy: &Superblock, newest: &Superblock, offset: u64) -> Result<(), String> {
    if copy.uuid != newest.uuid {
        return Err(format!("is that of another store, {}", crate::format::uuid_text(&copy.uuid)));
    }
    if is_of_before_growing(copy, newest) {
        return Err("is of before the store grew".to_owned());
    }
    if geometry(copy) != geometry(newest) {
        return Err("has another geometry than the other copy".to_owned());
    }
    if copy.copy_offset() != offset {
        return Err(format!("has generation {}, which belongs to the other place", copy.generation));
    }
    Ok(())
}

/// Both checkpoint areas, and the checkpoint that counts.
pub fn checkpoints(io: &QuikIO, superblock: &Superblock) -> ([Place; 2], Option<Checkpoint>) {
    let mut newest: Option<Checkpoint> = None;
    let read = [("checkpoint area A", 0), ("checkpoint area B", 1)].map(|(name, which)| {
        let offset = checkpoints::area(superblock, which);
        let area = checkpoints::read_area(io, superblock, which);
        if let Area::Whole(checkpoint) = &area
            && newest.as_ref().is_none_or(|have| checkpoint.generation > have.generation)
        {
            newest = Some(checkpoint.clone());
        }
        (name, which, offset, area)
    });
    let nothing = read.iter().all(|(_, _, _, area)| matches!(area, Area::Empty));
    let newest_generation = newest.as_ref().map_or(0, |newest| newest.generation);
    let places = read.map(|(name, which, offset, area)| {
        let state = match area {
            Area::Whole(checkpoint) if checkpoint.generation % 2 != which => {
                Err(format!("has generation {}, which belongs to the other area", checkpoint.generation))
            }
            Area::Whole(_) => Ok(()),
            Area::Empty if newest_generation >= BOTH_WRITTEN || nothing => Err("is empty".to_owned()),
            Area::Empty => Ok(()),
            Area::Damaged(what) => Err(what),
        };
        let repairable = state.is_err() && newest.is_some() && newest_generation % 2 != which;
        Place { name, offset, len: superblock.checkpoint_bytes, state, repairable }
    });
    (places, newest)
}
