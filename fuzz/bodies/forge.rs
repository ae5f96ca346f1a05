//! Right checksums for wrong bytes: what an attacker, or a collision, could write.

use llamafs::format::{CHECKPOINT_HEADER, FRAME_HEADER, SEGMENT_HEADER, SHORT_FRAME, SUPERBLOCK_LEN};

const SUPERBLOCK_CRC: usize = 12;
const SEGMENT_CRC: usize = 8;
const CHECKPOINT_CRC: usize = 8;
const CHECKPOINT_LEN: usize = 12;
const FRAME_CRC: usize = 4;

/// Let `bytes[at..at + 4]` be the checksum of `bytes`, continued from `seed`.
fn fix(bytes: &mut [u8], at: usize, seed: u32) {
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.fill(0);
        let crc = crc32c::crc32c_append(seed, bytes);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

pub fn superblock(bytes: &mut [u8]) {
    let len = bytes.len().min(SUPERBLOCK_LEN);
    fix(&mut bytes[..len], SUPERBLOCK_CRC, 0);
}

pub fn segment(bytes: &mut [u8]) {
    let len = bytes.len().min(SEGMENT_HEADER);
    fix(&mut bytes[..len], SEGMENT_CRC, 0);
}

/// The checkpoint at the front of `bytes`; its length is believed if it can be, else it takes all.
pub fn checkpoint(bytes: &mut [u8]) {
    if bytes.len() < CHECKPOINT_HEADER {
        return;
    }
    let told = u32::from_le_bytes(bytes[CHECKPOINT_LEN..CHECKPOINT_LEN + 4].try_into().unwrap()) as usize;
    let room = bytes.len() - CHECKPOINT_HEADER;
    if told > room {
        bytes[CHECKPOINT_LEN..CHECKPOINT_LEN + 4].copy_from_slice(&(room as u32).to_le_bytes());
    }
    let len = CHECKPOINT_HEADER + told.min(room);
    fix(&mut bytes[..len], CHECKPOINT_CRC, 0);
}

/// The frame at `lsn` that `bytes` start with, as if written in `epoch` (an EPOC frame: in the epoch it names).
pub fn frame(bytes: &mut [u8], uuid: &[u8; 16], lsn: u64, epoch: u64) {
    if bytes.len() < SHORT_FRAME {
        return;
    }
    let kind: [u8; 4] = bytes[..4].try_into().unwrap();
    let long = !matches!(&kind, b"MARK" | b"PADD");
    if long && bytes.len() < FRAME_HEADER {
        return;
    }
    let mut len = if long { FRAME_HEADER } else { SHORT_FRAME };
    let mut epoch = epoch;
    if long && kind != *b"VOID" {
        let told = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize & 0xff_ffff;
        len = (len + told).min(bytes.len());
    }
    if kind == *b"EPOC"
        && let Some(own) = bytes.get(FRAME_HEADER..FRAME_HEADER + 8)
    {
        epoch = u64::from_le_bytes(own.try_into().unwrap());
    }
    if long {
        bytes[11] = epoch as u8;
    }
    let seed = crc32c::crc32c_append(crc32c::crc32c(uuid), &epoch.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &lsn.to_le_bytes());
    fix(&mut bytes[..len], FRAME_CRC, seed);
}
