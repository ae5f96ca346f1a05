//! Opening what a command was pointed at.

use std::path::Path;
use std::sync::Arc;

use crate::io::{Access, Device, open};
use crate::store::Image;

use super::failure::{self, Failure};
use super::mounts;

/// In a mounted store, what it lies on.
const DEVICE: &str = ".llamafs/device";

/// Opens a device or file for a command that writes; nobody else may have it open.
pub fn for_writing(path: &Path) -> Result<Arc<dyn Device>, Failure> {
    with_access(path, Access::ReadWrite)
}

/// Opens a device or file for a command that never writes, while nobody else does.
pub fn for_reading(path: &Path) -> Result<Arc<dyn Device>, Failure> {
    with_access(path, Access::ReadOnlyShared)
}

/// A log of a mounted store is no device: whoever names one mostly means the store.
pub fn refuse_within_a_store(path: &Path) -> Result<(), Failure> {
    let Some(whole) = path.canonicalize().ok() else { return Ok(()) };
    let Some(mount) = mounts::llamafs_above(&whole) else { return Ok(()) };
    // The control directory shows the device itself.
    if whole == mount.point || whole == mount.point.join(DEVICE) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} lies in a store that is mounted on {}: name the mountpoint, or, unmounted, its device {}",
        path.display(),
        mount.point.display(),
        mount.source.display()
    )))
}

fn with_access(path: &Path, access: Access) -> Result<Arc<dyn Device>, Failure> {
    refuse_within_a_store(path)?;
    let device = open(path, access).map_err(|error| Failure::new(error.to_string()))?;
    Ok(Arc::new(device))
}

/// Opens the store on an unmounted device, read-only, and says what had to be made up for.
pub fn image(path: &Path) -> Result<Image, Failure> {
    let image = quiet_image(path)?;
    for remark in image.remarks() {
        failure::say(&format!("{}: {remark}", path.display()));
    }
    Ok(image)
}

/// The same for a command that reports the remarks itself.
pub fn quiet_image(path: &Path) -> Result<Image, Failure> {
    Image::open(for_reading(path)?).map_err(|error| Failure::new(error.to_string()))
}
