//! Asking the daemon of a mounted store for something, by an extended attribute.

use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

use super::failure::{Context, Failure};
use super::status;
use crate::fs::policy::{GROW, PREFIX};

/// Digits of the largest number, and some.
const LONGEST: usize = 32;

/// The number that our attribute `name` of `path` in the store mounted on `mountpoint` holds.
pub fn number(mountpoint: &Path, path: &Path, name: &str) -> Result<u64, Failure> {
    let mut value = [0; LONGEST];
    let name = format!("{PREFIX}{name}");
    let len = getxattr(path, &name, &mut value).map_err(|error| match error {
        Errno::NOTCONN => status::gone(mountpoint),
        Errno::NODATA => Failure::new(format!("{} is not a log: name one", path.display())),
        other => Failure::new(format!("{}: {}", path.display(), std::io::Error::from(other))),
    })?;
    let text = value.get(..len).and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
    text.parse().context(format_args!("{}: {name}", path.display()))
}

/// Writes `value` to our attribute `name` of `path` in the store mounted on `mountpoint`.
pub fn ask(mountpoint: &Path, path: &Path, name: &str, value: &str) -> Result<(), Failure> {
    setxattr(path, format!("{PREFIX}{name}"), value.as_bytes(), XattrFlags::empty()).map_err(|error| {
        if error == Errno::NOTCONN {
            return status::gone(mountpoint);
        }
        let path = path.display();
        Failure::new(match error {
            Errno::PERM | Errno::ACCESS => {
                format!(
                    "{path}: not permitted: only its owner and root may, and nothing is let go of a write-once store"
                )
            }
            Errno::OPNOTSUPP => format!("{path} is not in a mounted llamafs store"),
            Errno::BUSY => format!("{path}: the daemon is busy with another trim or grow: try again"),
            Errno::NOSPC if name == GROW => format!(
                "{path}: the store can't grow so far, for its checkpoint areas were made for a smaller one: how far it can \
                 stands in the daemon's log, and `llamafs grow` says it of the device when it is unmounted"
            ),
            Errno::NOSPC => format!("{path}: the store is full: let it grow, or remove logs"),
            Errno::NOENT => format!("{path} does not exist: check its name"),
            other => format!("{path}: {}", std::io::Error::from(other)),
        })
    })
}
