//! Signatures of other users of a device, so that `format` overwrites nothing by mistake.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

use super::remains;
use crate::format::known_signature;

/// Bytes from the start of the device in which every signature below lies.
const LOOK_BYTES: usize = 0x1_2000;
/// Magic of our own superblock.
const OWN_MAGIC: &[u8] = b"LLAMAFS1";
/// Where the second copy of our superblock lies.
const OWN_SECOND_COPY: usize = 65536;

/// Signatures that alone prove little, which [`known_signature`] therefore does not take: they are refused all the same,
/// as `--force` overrules. Name, offset, bytes; those that say most stand first.
const DOUBTFUL: &[(&str, usize, &[u8])] = &[
    ("a FAT file system", 82, b"FAT32   "),
    ("a FAT file system", 54, b"FAT1"),
    ("a bcachefs or bcache device", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    ("a bcachefs or bcache device", 4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("a nilfs2 file system", 1024 + 6, b"\x34\x34"),
    ("an ext2, ext3 or ext4 file system", 1024 + 56, b"\x53\xef"),
    ("a partition table or boot sector", 510, b"\x55\xaa"),
];

/// What lies on the device already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing that we know of.
    Nothing,
    /// A llamafs store.
    Llamafs,
    /// What a llamafs store has left behind that lost its superblocks.
    Remains,
    /// Somebody else's.
    Foreign(&'static str),
    /// Bytes that we don't know, where a new file or a wiped device has zeros; anywhere in a file, at the start of a device.
    Data,
}

/// Looks at the start of a device or file, and at places all over it; never writes.
pub fn look(path: &Path) -> io::Result<Found> {
    let mut file = File::open(path)?;
    let is_file = file.metadata()?.is_file();
    let mut head = vec![0; LOOK_BYTES];
    remains::read_at(&file, &mut head, 0)?;
    let found = recognise(&head);
    if !matches!(found, Found::Nothing | Found::Data) {
        return Ok(found);
    }
    let bytes = file.seek(SeekFrom::End(0))?;
    if remains::of_store(&file, bytes, is_file)? {
        return Ok(Found::Remains);
    }
    if found == Found::Nothing && is_file && remains::data_in_file(&file, bytes)? {
        return Ok(Found::Data);
    }
    Ok(found)
}

fn recognise(head: &[u8]) -> Found {
    let has = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if has(0, OWN_MAGIC) || has(OWN_SECOND_COPY, OWN_MAGIC) {
        return Found::Llamafs;
    }
    let doubtful = || DOUBTFUL.iter().find(|(_, offset, magic)| has(*offset, magic)).map(|(name, ..)| *name);
    if let Some(name) = known_signature(head).or_else(doubtful) {
        return Found::Foreign(name);
    }
    if head.iter().any(|byte| *byte != 0) {
        return Found::Data;
    }
    Found::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_nothing_and_any_other_byte_is_something() {
        let mut head = vec![0; LOOK_BYTES];
        assert_eq!(recognise(&head), Found::Nothing);
        head[5000] = 1;
        assert_eq!(recognise(&head), Found::Data);
        assert_eq!(recognise(b"hello"), Found::Data);
    }

    #[test]
    fn each_signature_is_recognised_in_its_place() {
        for (name, offset, magic) in DOUBTFUL {
            let mut head = vec![0; LOOK_BYTES];
            head[*offset..*offset + magic.len()].copy_from_slice(magic);
            assert_eq!(recognise(&head), Found::Foreign(name));
        }
        // Those of the format room, at the places this look has to reach.
        let known: &[(usize, &[u8])] = &[
            (0, b"XFSB"),
            (0, b"LUKS\xba\xbe"),
            (0x1_0040, b"_BHRfS_M"),
            (0, b"hsqs"),
            (3, b"NTFS    "),
            (3, b"EXFAT   "),
            (0, b"SFOZ"),
            (0, b"\x45\x3d\xcd\x28"),
            (1024, b"\x10\x20\xf5\xf2"),
            (1024, b"\xe2\xe1\xf5\xe0"),
            (0, b"\xfc\x4e\x2b\xa9"),
            (4096, b"\xfc\x4e\x2b\xa9"),
            (32768, b"JFS1"),
            (65536 + 52, b"ReIsEr"),
            (32769, b"CD001"),
            (4086, b"SWAPSPACE2"),
            (512, b"EFI PART"),
        ];
        for (offset, magic) in known {
            let mut head = vec![0; LOOK_BYTES];
            head[*offset..*offset + magic.len()].copy_from_slice(magic);
            assert!(matches!(recognise(&head), Found::Foreign(_)), "{magic:02x?}");
        }
    }

    #[test]
    fn either_copy_of_our_superblock_is_recognised() {
        for offset in [0, OWN_SECOND_COPY] {
            let mut head = vec![0; LOOK_BYTES];
            head[offset..offset + OWN_MAGIC.len()].copy_from_slice(OWN_MAGIC);
            assert_eq!(recognise(&head), Found::Llamafs);
        }
    }
}
