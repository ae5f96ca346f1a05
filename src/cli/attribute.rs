//! Asking the daemon of a mounted store for something, by an extended attribute.

use std::path::Path;

use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;

use super::failure::Failure;

/// Writes `value` to the attribute `name` of `path`, which lies in a mounted store.
pub fn ask(path: &Path, name: &str, value: &str) -> Result<(), Failure> {
    setxattr(path, name, value.as_bytes(), XattrFlags::empty()).map_err(|error| {
        let path = path.display();
        Failure::new(match error {
            Errno::PERM | Errno::ACCESS => {
                format!(
                    "{path}: not permitted: only its owner and root may, and nothing is let go of a write-once store"
                )
            }
            Errno::OPNOTSUPP => format!("{path} is not in a mounted llamafs store"),
            Errno::BUSY => format!("{path}: the daemon is busy with another trim or grow: try again"),
            Errno::NOSPC => format!("{path}: the store's checkpoint areas were made for a smaller one, or it is full"),
            Errno::NOENT => format!("{path} does not exist: check its name"),
            other => format!("{path}: {}", std::io::Error::from(other)),
        })
    })
}
