//! What is mounted where, from `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::failure::Failure;

/// The type that the kernel shows for our mounts.
const FS_TYPE: &str = "fuse.llamafs";

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Type, such as `ext4` or `fuse.llamafs`.
    pub fs_type: String,
    /// Device, or what stands for it.
    pub source: PathBuf,
}

impl Mount {
    /// It is one of ours.
    pub fn is_llamafs(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// All mounts, in the order of mounting.
fn all() -> Vec<Mount> {
    // Without /proc nothing is known; what needs to know says so itself.
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// The topmost mount at exactly this path.
pub fn at(point: &Path) -> Option<Mount> {
    let point = resolve(point);
    all().into_iter().rev().find(|mount| mount.point == point)
}

/// The llamafs mount at exactly this path.
pub fn llamafs_at(point: &Path) -> Result<Mount, Failure> {
    at(point).filter(Mount::is_llamafs).ok_or_else(|| {
        let name = point.display();
        Failure::new(format!("no llamafs store is mounted on {name}: `findmnt -t {FS_TYPE}` lists them"))
    })
}

/// The mount that an absolute path without links lies in, if it is one of ours.
pub fn llamafs_above(whole: &Path) -> Option<Mount> {
    whole.ancestors().find_map(at).filter(Mount::is_llamafs)
}

/// A llamafs mount of this device.
pub fn of_device(device: &Path) -> Option<Mount> {
    let device = resolve(device);
    all().into_iter().rev().find(|mount| mount.is_llamafs() && mount.source == device)
}

/// The absolute path without links. A dead mount can't be looked at, so its last part is taken as it is.
fn resolve(path: &Path) -> PathBuf {
    if let Ok(whole) = path.canonicalize() {
        return whole;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (absolute.parent().and_then(|parent| parent.canonicalize().ok()), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

/// `36 35 98:0 /root /point options tags... - type source options`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = path(fields.nth(4)?);
    let mut behind_dash = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mount {
        point,
        fs_type: String::from_utf8_lossy(behind_dash.next()?).into_owned(),
        source: path(behind_dash.next()?),
    })
}

/// The kernel writes blanks, tabs, newlines and backslashes as `\ooo`.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match tail.split_first_chunk::<3>() {
            Some((octal, tail)) if *first == b'\\' && octal.iter().all(|d| (b'0'..=b'7').contains(d)) => {
                bytes.push(octal.iter().fold(0_u8, |value, digit| value.wrapping_mul(8) + (digit - b'0')));
                rest = tail;
            }
            _ => bytes.push(*first),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line = br"36 35 0:98 / /mnt/my\040logs rw,noatime shared:1 - fuse.llamafs /dev/sd\134b rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!(mount.point, Path::new("/mnt/my logs"));
        assert_eq!(mount.source, Path::new(r"/dev/sd\b"));
        assert!(mount.is_llamafs());
    }

    #[test]
    fn a_line_without_its_parts_is_passed_over() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 0:98 / /mnt rw"), None);
    }

    #[test]
    fn the_root_is_mounted_and_an_ordinary_directory_is_not() {
        assert!(at(Path::new("/proc")).is_some());
        assert_eq!(at(&std::env::temp_dir().join("llamafs-never-there")), None);
    }
}
