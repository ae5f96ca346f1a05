//! Signatures of what else may live on a device, so that `format` doesn't destroy it unasked.

/// One signature: where, which bytes, whose.
type Signature = (usize, &'static [u8], &'static str);

/// Magics at fixed places within the first 128 KiB. Numbers are written in the byte order they have on the device.
const SIGNATURES: &[Signature] = &[
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (16_384, b"SKUL\xba\xbe", "a LUKS2 volume"),
    (0, b"XFSB", "an xfs file system"),
    (0x10040, b"_BHRfS_M", "a btrfs file system"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "an f2fs file system"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "an erofs file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"SFOZ", "a zonefs file system"),
    (0, &[0x45, 0x3d, 0xcd, 0x28], "a cramfs file system"),
    (3, b"EXFAT   ", "an exfat file system"),
    (3, b"NTFS    ", "an ntfs file system"),
    (3, b"-FVE-FS-", "a BitLocker volume"),
    (32_769, b"CD001", "an iso9660 file system"),
    (32_769, b"BEA01", "a udf file system"),
    (32_768, b"JFS1", "a jfs file system"),
    (65_588, b"ReIsEr", "a reiserfs file system"),
    (65_536, &[0x01, 0x16, 0x19, 0x70], "a gfs2 file system"),
    (1024, b"H+\x00\x04", "an hfsplus file system"),
    (1024, b"HX\x00\x05", "an hfsplus file system"),
    (32, b"NXSB", "an apfs file system"),
    (0, b"bluestore block device", "a Ceph OSD"),
    (4120, &BCACHE, "a bcache or bcachefs device"),
    (4120, &BCACHEFS, "a bcachefs file system"),
    (4096, &MD_MAGIC, "a Linux RAID member"),
    (0, &MD_MAGIC, "a Linux RAID member"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
];

const BCACHE: [u8; 16] = 0xc685_73f6_4e1a_45ca_8265_f57f_48ba_6d81_u128.to_be_bytes();
const BCACHEFS: [u8; 16] = 0xc685_73f6_66ce_90a9_d96a_60cf_803d_f7ef_u128.to_be_bytes();
const MD_MAGIC: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();

/// What the first 128 KiB of a device are known to belong to, as words for a message; `None` if nothing known (or our
/// own). Fewer bytes are searched as far as they go.
pub fn known_signature(first_128k: &[u8]) -> Option<&'static str> {
    let has = |at: usize, magic: &[u8]| has_at(first_128k, at, magic);
    let fixed = SIGNATURES.iter().find(|(at, magic, _)| has(*at, magic)).map(|(_, _, whose)| *whose);
    fixed
        .or_else(|| is_lvm(first_128k).then_some("an LVM2 physical volume"))
        .or_else(|| is_ext(first_128k).then_some("an ext2, ext3 or ext4 file system"))
        .or_else(|| is_swap(first_128k).then_some("swap space"))
        .or_else(|| is_fat(first_128k).then_some("a vfat file system"))
        .or_else(|| is_mbr(first_128k).then_some("an MBR partition table"))
}

fn has_at(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// The label may lie in any of the first four sectors.
fn is_lvm(bytes: &[u8]) -> bool {
    (0..4).any(|sector| has_at(bytes, sector * 512, b"LABELONE") && has_at(bytes, sector * 512 + 24, b"LVM2"))
}

/// Two bytes of magic are few, so the superblock's log of the block size must be possible too.
fn is_ext(bytes: &[u8]) -> bool {
    has_at(bytes, 1080, &[0x53, 0xef]) && bytes.get(1048..1052).is_some_and(|log| matches!(log, [0..=6, 0, 0, 0]))
}

/// At the end of the first page, whatever the page size of the machine that made it.
fn is_swap(bytes: &[u8]) -> bool {
    [4096, 8192, 16_384, 32_768, 65_536]
        .iter()
        .any(|page| has_at(bytes, page - 10, b"SWAPSPACE2") || has_at(bytes, page - 10, b"SWAP-SPACE"))
}

fn is_fat(bytes: &[u8]) -> bool {
    has_at(bytes, 510, &[0x55, 0xaa]) && (has_at(bytes, 54, b"FAT1") || has_at(bytes, 82, b"FAT32"))
}

/// A boot sector whose table has an entry in use.
fn is_mbr(bytes: &[u8]) -> bool {
    has_at(bytes, 510, &[0x55, 0xaa])
        && bytes.get(446..510).is_some_and(|table| {
            table.chunks_exact(16).any(|entry| {
                matches!(entry, [0 | 0x80, _, _, _, kind, .., a, b, c, d]
                    if *kind != 0 && [*a, *b, *c, *d] != [0; 4])
            })
        })
}
