//! The two superblock copies: which one counts, and how a new one is written.
//!
//! A copy is never written over the newest one, so a torn write leaves the other. A read-write mount writes its epoch
//! to both before it writes any frame, and reads both back: losing either copy can never bring an epoch back that has
//! been used, and a device that loses both writes and says nothing is found out before a frame depends on them.

use super::error::OpenError;
use crate::format::{FORMAT_VERSION, SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_LEN, Superblock, SuperblockError};
use crate::io::{IoError, QuikIO, SharedBuffer};

/// The copy that counts, and what is to be said about the other.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The newest whole copy.
    pub superblock: Superblock,
    /// One sentence for each copy that is not whole.
    pub remarks: Vec<String>,
}

/// Read both copies and choose.
pub fn load(io: &QuikIO) -> Result<Loaded, OpenError> {
    let device = io.describe();
    let capacity = io.geometry().capacity;
    let copies = [("A", SUPERBLOCK_A), ("B", SUPERBLOCK_B)].map(|(name, offset)| {
        let bytes = if offset + SUPERBLOCK_LEN as u64 <= capacity { read_block(io, offset) } else { Ok(Vec::new()) };
        let decoded = match &bytes {
            Ok(bytes) => Superblock::decode(bytes).map_err(Refused::Content),
            Err(error) => Err(Refused::Unreadable(error.clone())),
        };
        (name, offset, decoded)
    });
    let mut newest: Option<Superblock> = None;
    let mut remarks = Vec::new();
    let mut refused = Vec::new();
    for (name, offset, decoded) in copies {
        match decoded {
            Ok(superblock) => {
                if newest.as_ref().is_none_or(|have| superblock.generation > have.generation) {
                    newest = Some(superblock);
                }
            }
            Err(why) => {
                remarks
                    .push(format!("superblock {name} at offset {offset} is damaged ({why}); the other copy is used"));
                refused.push((name, why));
            }
        }
    }
    if let Some((_, Refused::Content(SuperblockError::Version(version)))) = refused
        .iter()
        .find(|(_, why)| matches!(why, Refused::Content(SuperblockError::Version(v)) if *v > FORMAT_VERSION))
    {
        return Err(OpenError::NewerVersion { device, version: *version, ours: FORMAT_VERSION });
    }
    let Some(superblock) = newest else {
        return Err(no_superblock(device, &refused));
    };
    Ok(Loaded { superblock, remarks })
}

/// Why a copy does not count.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Content(SuperblockError),
    #[error("{0}")]
    Unreadable(IoError),
}

fn no_superblock(device: String, refused: &[(&str, Refused)]) -> OpenError {
    let mut foreign = true;
    for (_, why) in refused {
        match why {
            Refused::Content(SuperblockError::IncompatFeature(features)) => {
                return OpenError::Features { device, features: *features, hint: "" };
            }
            Refused::Unreadable(error) => return OpenError::Device { device, error: error.clone() },
            Refused::Content(SuperblockError::NotMagic | SuperblockError::Short(_)) => {}
            Refused::Content(_) => foreign = false,
        }
    }
    if foreign {
        return OpenError::NotAStore { device };
    }
    let why = refused.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("; ");
    OpenError::BothSuperblocksDamaged { device, why }
}

/// The bytes of the superblock copy at `offset`.
pub fn read_block(io: &QuikIO, offset: u64) -> Result<Vec<u8>, IoError> {
    let len = SUPERBLOCK_LEN.max(io.geometry().block as usize);
    let buffer = io.buffer(len).map_err(|_| out_of_memory("read", offset, len))?;
    io.read_now(buffer, len, offset).map(|buffer| buffer.as_slice().to_vec())
}

/// Write the next generation of `superblock` (raising it in place) over the older copy, and flush.
pub fn write_next(io: &QuikIO, superblock: &mut Superblock) -> Result<(), IoError> {
    superblock.generation += 1;
    let offset = superblock.copy_offset();
    let len = SUPERBLOCK_LEN.max(io.geometry().block as usize);
    let mut buffer = io.buffer(len).map_err(|_| out_of_memory("write", offset, len))?;
    if let Some(front) = buffer.as_mut_slice().get_mut(..SUPERBLOCK_LEN) {
        front.copy_from_slice(superblock.encode().as_slice());
    }
    io.write_all_now(SharedBuffer::from(buffer), 0..len, offset, false)?;
    io.flush_now()
}

/// Write the next two generations of `superblock` (raising it in place), one over each copy, and see that they are there.
pub fn write_both(io: &QuikIO, superblock: &mut Superblock) -> Result<(), OpenError> {
    let failed = |error: IoError| OpenError::Device { device: io.describe(), error };
    write_next(io, superblock).map_err(failed)?;
    let before = superblock.clone();
    write_next(io, superblock).map_err(failed)?;
    for written in [&before, superblock] {
        let offset = written.copy_offset();
        let there = read_block(io, offset).map_err(failed)?;
        if there.get(..SUPERBLOCK_LEN) != Some(written.encode().as_slice()) {
            let copy = if offset == SUPERBLOCK_A { "A" } else { "B" };
            return Err(OpenError::NotKept { device: io.describe(), copy });
        }
    }
    Ok(())
}

/// The error for an allocation that failed on the way to the device.
pub fn out_of_memory(op: &'static str, offset: u64, len: usize) -> IoError {
    IoError { errno: libc::ENOMEM, op, offset, len: len as u64 }
}
