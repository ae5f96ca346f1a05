//! A transport of our own over `/dev/fuse`, for `-o parallel`: `fuser` can tell the kernel neither of an inode under
//! another number than the one that `stat` shows, nor does it pass on interrupts, nor which sort a lock is of. It serves the
//! same [`LlamaFs`] with the same answers.

mod answer;
mod body;
mod handshake;
mod serve;
mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::mount::FUSE_DEVICE;
use super::{PAGE, REQUEST_BYTES};
use crate::fs::LlamaFs;
use body::Header;

/// Bytes of a write that come in one request: one page more than a record, as its bytes need not begin on a page.
const MAX_WRITE: u32 = REQUEST_BYTES + PAGE;
/// The kernel wants room for the largest write and its headers.
const BUFFER_BYTES: usize = (MAX_WRITE + PAGE) as usize;

/// A mount that has been greeted, and is not served yet.
pub struct Session {
    fs: LlamaFs,
    devices: Vec<Arc<File>>,
}

mod ioctl {
    #![allow(missing_docs, clippy::undocumented_unsafe_blocks, reason = "made by the macro")]
    // FUSE_DEV_IOC_CLONE: another descriptor of one mount, which requests can be read from by themselves.
    nix::ioctl_read!(clone, 229, 0, u32);
}

impl Session {
    /// Answer the kernel's first request, and get a descriptor for each thread that will serve.
    pub fn start(fd: OwnedFd, fs: LlamaFs, threads: usize) -> io::Result<Self> {
        let first = Arc::new(File::from(fd));
        handshake::greet(&first)?;
        let mut devices = vec![first.clone()];
        while devices.len() < threads {
            devices.push(Arc::new(another(&first)?));
        }
        Ok(Self { fs, devices })
    }

    /// Serve until the mount is gone.
    pub fn run(self) -> io::Result<()> {
        let mut threads = Vec::new();
        for (number, device) in self.devices.into_iter().enumerate() {
            let fs = self.fs.clone();
            let thread = std::thread::Builder::new().name(format!("llamafs-{number}"));
            threads.push(thread.spawn(move || serve(&device, &fs))?);
        }
        let ends = threads.into_iter().map(|thread| thread.join().unwrap_or(Err(io::ErrorKind::Other.into())));
        ends.fold(Ok(()), io::Result::and)
    }
}

/// Another descriptor of the same mount.
#[allow(unsafe_code)]
fn another(first: &File) -> io::Result<File> {
    let device = File::options().read(true).write(true).open(FUSE_DEVICE)?;
    let mut source = u32::try_from(first.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: both descriptors are open, and the call reads four bytes from `source`.
    unsafe { ioctl::clone(device.as_raw_fd(), &mut source) }?;
    Ok(device)
}

/// One request after the other.
fn serve(device: &Arc<File>, fs: &LlamaFs) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match (&**device).read(&mut buffer) {
            Ok(len) => {
                let parts = buffer.get(..len).and_then(Header::split);
                let (header, body) = parts.ok_or(io::ErrorKind::InvalidData)?;
                serve::serve(fs, device, &header, body);
            }
            Err(error) => match error.raw_os_error() {
                // The request was taken back, or nothing was there after all.
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => {}
                // The mount is gone.
                Some(libc::ENODEV | libc::ECONNABORTED) => return Ok(()),
                _ => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests;
