//! CRC32C (Castagnoli), the checksum of everything on the device.

use crc_fast::{CrcAlgorithm, Digest, checksum, checksum_combine};

const CASTAGNOLI: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// Of these bytes.
#[inline]
pub fn of(bytes: &[u8]) -> u32 {
    checksum(CASTAGNOLI, bytes) as u32
}

/// Of what has the checksum `crc`, and these bytes behind it.
#[inline]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    // The state of a CRC32C is the complement of its value.
    let mut digest = Digest::new_with_init_state(CASTAGNOLI, u64::from(!crc));
    digest.update(bytes);
    digest.finalize() as u32
}

/// Of what has the checksum `crc`, and `len` bytes behind it that have the checksum `behind`.
pub fn combine(crc: u32, behind: u32, len: usize) -> u32 {
    checksum_combine(CASTAGNOLI, u64::from(crc), u64::from(behind), len as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_rfc_3720_whole_or_in_parts() {
        assert_eq!(of(b"123456789"), 0xe306_9283);
        // RFC 3720, B.4: 32 bytes of zeros, of ones, counting up.
        assert_eq!(of(&[0; 32]), 0x8a91_36aa);
        assert_eq!(of(&[0xff; 32]), 0x62a8_ab43);
        let counting: Vec<u8> = (0..32).collect();
        assert_eq!(of(&counting), 0x46dd_794e);
    }

    #[test]
    fn parts_are_as_the_whole_and_as_another_implementation_says() {
        let bytes: Vec<u8> = (0..20_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in (0..600).chain([1023, 1024, 4095, 4096, 16_384, 20_000]) {
            for start in [0, 1, 7, 8, 15] {
                let part = &bytes[start.min(len)..len];
                let expected = crc32c::crc32c(part);
                assert_eq!(of(part), expected, "{start}..{len}");
                for cut in [0, 1, part.len() / 3, part.len()].map(|cut| cut.min(part.len())) {
                    let (front, back) = part.split_at(cut);
                    assert_eq!(append(of(front), back), expected, "{start}..{len} cut at {cut}");
                    assert_eq!(combine(of(front), of(back), back.len()), expected, "{start}..{len} combined at {cut}");
                }
            }
        }
    }
}
