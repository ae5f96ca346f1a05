//! Tests of the signatures of other file systems.

use super::*;

/// Bytes and where they are.
type Place<'a> = (usize, &'a [u8]);

fn with(places: &[Place<'_>]) -> Option<&'static str> {
    let mut device = vec![0; 128 << 10];
    for (at, bytes) in places {
        device[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    known_signature(&device)
}

#[test]
fn ours_and_nothing_are_free() {
    assert_eq!(with(&[]), None);
    assert_eq!(known_signature(&[]), None);
    let ours = super::superblock::sample().encode();
    assert_eq!(with(&[(0, &*ours), (65_536, &*ours)]), None);
    assert_eq!(known_signature(&[0x55; 128 << 10]), None);
}

#[test]
fn others_are_known() {
    let boot: Place<'_> = (510, &[0x55, 0xaa]);
    let cases: &[(&[Place<'_>], &str)] = &[
        (&[(1080, &[0x53, 0xef]), (1048, &[2])], "ext"),
        (&[(0, b"XFSB")], "xfs"),
        (&[(0x10040, b"_BHRfS_M")], "btrfs"),
        (&[boot, (82, b"FAT32   ")], "vfat"),
        (&[boot, (54, b"FAT16   ")], "vfat"),
        (&[boot, (3, b"EXFAT   ")], "exfat"),
        (&[boot, (3, b"NTFS    ")], "ntfs"),
        (&[(32_769, b"CD001")], "iso9660"),
        (&[(0, b"hsqs")], "squashfs"),
        (&[(1024, &0xf2f5_2010_u32.to_le_bytes())], "f2fs"),
        (&[(4086, b"SWAPSPACE2")], "swap"),
        (&[(65_526, b"SWAPSPACE2")], "swap"),
        (&[(0, b"LUKS\xba\xbe\x00\x02")], "LUKS"),
        (&[(512, b"LABELONE"), (536, b"LVM2 001")], "LVM2"),
        (&[(4096, &0xa92b_4efc_u32.to_le_bytes())], "RAID"),
        (&[boot, (512, b"EFI PART"), (450, &[0xee])], "GPT"),
        (&[boot, (446, &[0x80, 0, 1, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0])], "MBR"),
        (&[(0, &0x5a4f_4653_u32.to_le_bytes())], "zonefs"),
        (
            &[(
                4120,
                &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81],
            )],
            "bcache",
        ),
    ];
    for (places, name) in cases {
        let found = with(places).unwrap_or_else(|| panic!("{name} was not found"));
        assert!(found.contains(name), "{name}: {found}");
    }
}

#[test]
fn half_a_signature_is_none() {
    // A boot sector without partitions; two bytes that ext shares with much else; a label of another volume manager.
    assert_eq!(with(&[(510, &[0x55, 0xaa])]), None);
    assert_eq!(with(&[(1080, &[0x53, 0xef]), (1048, &[0xff; 4])]), None);
    assert_eq!(with(&[(512, b"LABELONE"), (536, b"OTHER")]), None);
    assert_eq!(known_signature(b"XF"), None);
}
