//! Opening what a command was pointed at.

use std::path::Path;
use std::sync::Arc;

use crate::io::{Access, Device, open};
use crate::store::Image;

use super::failure::{self, Failure};

/// Opens a device or file for a command that writes; nobody else may have it open.
pub fn for_writing(path: &Path) -> Result<Arc<dyn Device>, Failure> {
    with_access(path, Access::ReadWrite)
}

/// Opens a device or file for a command that never writes, while nobody else does.
pub fn for_reading(path: &Path) -> Result<Arc<dyn Device>, Failure> {
    with_access(path, Access::ReadOnlyShared)
}

fn with_access(path: &Path, access: Access) -> Result<Arc<dyn Device>, Failure> {
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
