//! `/proc/self/mountinfo`: what is mounted where, asked without touching the file system itself, which may be ours.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// `major:minor` of its superblock.
    pub device: String,
    /// Where.
    pub mountpoint: PathBuf,
    /// Type.
    pub fs_type: String,
    /// Source.
    pub source: String,
}

/// The mount that is on top at `path`; `path` has no symbolic links.
pub fn topmost(path: &Path) -> Option<MountEntry> {
    let text = std::fs::read("/proc/self/mountinfo").ok()?;
    text.split(|byte| *byte == b'\n').filter_map(parse).rfind(|entry| entry.mountpoint == path)
}

/// A line: `36 35 98:0 /root /mountpoint options shared:1 - type source superoptions`.
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    Some(MountEntry { device, mountpoint, fs_type, source })
}

/// Space, tab, newline and backslash are written as three octal digits behind a backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.first_chunk::<3>().filter(|_| *first == b'\\').and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match code {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = br"36 35 0:47 / /mnt/a\040b rw,nosuid shared:1 master:2 - fuse.llamafs /dev/x\134y rw,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!(entry.device, "0:47");
        assert_eq!(entry.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(entry.fs_type, "fuse.llamafs");
        assert_eq!(entry.source, r"/dev/x\y");
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1 2 3"), None);
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(topmost(Path::new("/")).is_some());
        assert!(topmost(Path::new("/no/such/mount")).is_none());
    }
}
