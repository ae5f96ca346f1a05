//! Signatures of other users of a device, so that `format` overwrites nothing by mistake.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes from the start of the device in which every signature below lies.
const LOOK_BYTES: usize = 0x1_2000;
/// Magic of our own superblock.
const OWN_MAGIC: &[u8] = b"LLAMAFS1";
/// Where the second copy of our superblock lies.
const OWN_SECOND_COPY: usize = 65536;

/// Who else's: name, offset, bytes. Those that say most stand first.
const FOREIGN: &[(&str, usize, &[u8])] = &[
    ("an xfs file system", 0, b"XFSB"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("a btrfs file system", 0x1_0040, b"_BHRfS_M"),
    ("a squashfs file system", 0, b"hsqs"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a FAT file system", 82, b"FAT32   "),
    ("a FAT file system", 54, b"FAT1"),
    ("a zonefs file system", 0, b"SFOZ"),
    ("a cramfs file system", 0, b"\x45\x3d\xcd\x28"),
    ("an f2fs file system", 1024, b"\x10\x20\xf5\xf2"),
    ("an erofs file system", 1024, b"\xe2\xe1\xf5\xe0"),
    ("a bcachefs or bcache device", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    ("a bcachefs or bcache device", 4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("a RAID member (md 1.1)", 0, b"\xfc\x4e\x2b\xa9"),
    ("a RAID member (md 1.2)", 4096, b"\xfc\x4e\x2b\xa9"),
    ("a jfs file system", 32768, b"JFS1"),
    ("a reiserfs file system", 65536 + 52, b"ReIsEr"),
    ("an ISO 9660 file system", 32769, b"CD001"),
    ("a nilfs2 file system", 1024 + 6, b"\x34\x34"),
    ("an ext2, ext3 or ext4 file system", 1024 + 56, b"\x53\xef"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a GPT partition table", 512, b"EFI PART"),
    ("a partition table or boot sector", 510, b"\x55\xaa"),
];

/// What lies on the device already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing that we know of.
    Nothing,
    /// A llamafs store.
    Llamafs,
    /// Somebody else's.
    Foreign(&'static str),
    /// Bytes that we don't know, where a new file or a wiped device has zeros.
    Data,
}

/// Looks at the start of a device or file; never writes.
pub fn look(path: &Path) -> io::Result<Found> {
    let file = File::open(path)?;
    let mut head = vec![0; LOOK_BYTES];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(recognise(&head))
}

fn recognise(head: &[u8]) -> Found {
    let has = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if has(0, OWN_MAGIC) || has(OWN_SECOND_COPY, OWN_MAGIC) {
        return Found::Llamafs;
    }
    if let Some((name, ..)) = FOREIGN.iter().find(|(_, offset, magic)| has(*offset, magic)) {
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
        for (name, offset, magic) in FOREIGN {
            let mut head = vec![0; LOOK_BYTES];
            head[*offset..*offset + magic.len()].copy_from_slice(magic);
            assert_eq!(recognise(&head), Found::Foreign(name));
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
