//! Tests of the layouts: what was written is read back, whatever else is there is refused, and nothing panics.

mod checkpoint;
mod frame;
mod random;
mod segment;
mod signature;
mod superblock;

use super::*;

pub(super) const UUID: [u8; 16] = *b"0123456789abcdef";
pub(super) const OTHER: [u8; 16] = *b"0123456789abcdeg";

/// Flips every bit in turn and hands out the bytes.
pub(super) fn each_flip(bytes: &[u8], mut check: impl FnMut(usize, &[u8])) {
    let mut bytes = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        check(bit, &bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Makes a changed structure check again, as an attacker would.
pub(super) fn forge_crc(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let crc = crc32c::crc32c(bytes);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn lengths_round_up_without_overflow() {
    assert_eq!([0, 1, 16, 17].map(round_up_frame), [0, 16, 16, 32]);
    assert_eq!([0, 1, 16].map(frame_len), [32, 48, 48]);
    assert_eq!(frame_len(usize::MAX) % FRAME_ALIGN, 0);
}

#[test]
fn text_is_cut_between_characters() {
    let mut field = [0; 4];
    put_text(&mut field, "aéé");
    assert_eq!(&field, b"a\xc3\xa9\0");
    let mut field = [0; 4];
    put_text(&mut field, "ab\0c");
    assert_eq!(&field, b"ab\0\0");
}
