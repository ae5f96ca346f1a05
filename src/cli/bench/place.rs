//! Where the bench works, and how the place is left: a device gets a store and loses it again, a directory gets logs and
//! loses them again, however the bench ends.

use std::cell::{Cell, RefCell};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::cli::failure::{self, Context, Failure};
use crate::cli::signature::{self, Found};
use crate::cli::{device, format, mounts, options, status, umount};
use crate::format::{SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_LEN, Superblock};

/// Begins the names of the bench's logs and of its mountpoint.
const NAME: &str = "llamafs-bench";
/// Bytes that are wiped at a time.
const ZEROS: usize = 1 << 20;

/// A device that the bench has made a store on.
pub struct Device {
    path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Unit of direct I/O, in bytes.
    pub block: usize,
    /// Of the store.
    superblock: Superblock,
    wiped: Cell<bool>,
}

impl Device {
    /// Makes a store on a device that is free and holds nothing, or on any that is free with `force`. Options are proved
    /// before anything is written.
    pub fn prepare(path: &Path, force: bool, given: &[String]) -> Result<Self, Failure> {
        let name = path.display();
        let kind = std::fs::metadata(path).context(&name)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Failure::new(format!("{name} is neither a block device, nor a file, nor a directory")));
        }
        if kind.is_file() && mounts::llamafs_above(&path.canonicalize().context(&name)?).is_some() {
            return Err(Failure::new(format!("{name} lies in a mounted store: name a directory of it")));
        }
        if options::MountOptions::parse(given, false)?.store.read_only {
            return Err(Failure::usage("`ro` is no option for a bench: it has to append"));
        }
        if !force {
            refuse_used(path)?;
        }
        // Free of others, and fit for direct I/O.
        let geometry = device::for_writing(path)?.geometry();
        super::share(geometry.capacity / 2, &name.to_string())?;
        // Blocks of a file are written once before they are measured; those of a device are there.
        let superblock = format::anew(path, !kind.is_file())?.superblock;
        let block = usize::try_from(geometry.block).context(&name)?;
        Ok(Self { path: path.to_owned(), bytes: geometry.capacity, block, superblock, wiped: Cell::new(false) })
    }

    /// Takes the store away: what is left is no store, nor what anybody would take for the rest of one. A file is all
    /// zeros again.
    pub fn wipe(&self) -> Result<(), Failure> {
        self.wiped.set(true);
        let name = self.path.display();
        let file = OpenOptions::new().write(true).open(&self.path).context(&name)?;
        for place in [SUPERBLOCK_A, SUPERBLOCK_B] {
            file.write_all_at(&[0; SUPERBLOCK_LEN], place).context(&name)?;
        }
        if !file.metadata().context(&name)?.is_file() || !all_zeros(&file, self.bytes) {
            self.wipe_areas(&file).context(&name)?;
        }
        file.sync_all().context(&name)
    }

    /// Checkpoints and the headers of segments.
    fn wipe_areas(&self, file: &File) -> std::io::Result<()> {
        let zeros = vec![0; ZEROS];
        let wipe = |from: u64, len: u64| {
            let piece = zeros.get(..usize::try_from(len).unwrap_or(ZEROS).min(ZEROS)).unwrap_or_default();
            file.write_all_at(piece, from)
        };
        let end = self.superblock.data_start;
        for from in (self.superblock.checkpoint_start..end).step_by(ZEROS) {
            wipe(from, (end - from).min(ZEROS as u64))?;
        }
        for segment in 0..self.superblock.segment_count {
            wipe(end + segment * u64::from(self.superblock.segment_size), u64::from(self.superblock.block_size))?;
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.wiped.get()
            && let Err(failure) = self.wipe()
        {
            failure.say();
        }
    }
}

/// Makes a file zeros without writing them, where its file system can.
fn all_zeros(file: &File, bytes: u64) -> bool {
    let all = |flags| i64::try_from(bytes).is_ok_and(|bytes| fallocate(file, flags, 0, bytes).is_ok());
    all(FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE)
        || all(FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE)
}

/// The device holds nothing that anybody may still want.
fn refuse_used(path: &Path) -> Result<(), Failure> {
    let name = path.display();
    let what = match signature::look(path).context(&name)? {
        Found::Nothing => return Ok(()),
        Found::Llamafs => "a llamafs store: mount it and name a directory of it",
        Found::Remains => "what is left of a llamafs store, which `llamafs salvage` reads",
        Found::Foreign(what) => return Err(used(path, what)),
        Found::Data => "data",
    };
    Err(used(path, what))
}

fn used(path: &Path, what: &str) -> Failure {
    Failure::new(format!("{} holds {what}; a bench destroys what is on a device: --force lets it", path.display()))
}

/// The bench's store, mounted for nobody else.
pub struct Mounted {
    /// Where.
    pub point: PathBuf,
    gone: bool,
}

impl Mounted {
    /// Mounts it as `llamafs mount` does, which says by itself what is wrong.
    pub fn new(device: &Device, options: &[String]) -> Result<Self, Failure> {
        let point = std::env::temp_dir().join(format!("{NAME}.{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&point).context(point.display())?;
        let mut mounted = Self { point, gone: true };
        let mut command = Command::new("/proc/self/exe");
        command.arg0("llamafs").arg("mount").stdin(Stdio::null()).stdout(Stdio::null());
        for group in options {
            command.arg("-o").arg(group);
        }
        // A signal from the terminal is the bench's, which then unmounts.
        command.process_group(0).arg("--").arg(&device.path).arg(&mounted.point);
        let status = command.status().context("can't start the daemon")?;
        if !status.success() {
            return Err(Failure::silent(failure::FAILED));
        }
        mounted.gone = false;
        Ok(mounted)
    }

    /// Everything is on the device.
    pub fn unmount(mut self) -> Result<(), Failure> {
        self.gone = true;
        umount::at(&self.point).map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.gone
            && let Err(failure) = umount::at(&self.point)
        {
            failure.say();
        }
        let _ = std::fs::remove_dir(&self.point);
    }
}

/// A directory of a mounted store, and the logs that the bench has made in it.
pub struct Directory {
    path: PathBuf,
    /// Bytes that may still be appended.
    pub available: u64,
    /// Options that it is mounted with.
    pub options: String,
    made: Cell<u32>,
    left: RefCell<Vec<PathBuf>>,
}

impl Directory {
    /// Refuses a directory that is not in a store, and a store that would keep what is appended for ever.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let name = path.display();
        let whole = path.canonicalize().context(&name)?;
        let mount = mounts::llamafs_above(&whole).ok_or_else(|| {
            Failure::new(format!(
                "{name} is in no mounted llamafs store: name a directory of one, or a block device or file"
            ))
        })?;
        let live = status::live(&mount.point)?;
        if live.get("worm").and_then(serde_json::Value::as_bool).unwrap_or_default() {
            return Err(Failure::new(format!(
                "{name} is in a write-once store: what a bench appends would stay for ever"
            )));
        }
        let available = live.get("available").and_then(serde_json::Value::as_u64).unwrap_or_default();
        let options = live.get("options").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        Ok(Self { path: whole, available, options, made: Cell::new(0), left: RefCell::default() })
    }

    /// A new log.
    pub fn log(&self) -> Result<PathBuf, Failure> {
        let number = self.made.replace(self.made.get() + 1);
        self.make(&format!("{NAME}.{}.{number}", std::process::id()))
    }

    /// The log that is appended to in bulk, and read: made when it is asked for first.
    pub fn bulk(&self) -> Result<PathBuf, Failure> {
        let name = format!("{NAME}.{}.bulk", std::process::id());
        let path = self.path.join(&name);
        if self.left.borrow().contains(&path) { Ok(path) } else { self.make(&name) }
    }

    fn make(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.path.join(name);
        // Never one of somebody else's.
        File::options().append(true).create_new(true).open(&path).context(path.display())?;
        self.left.borrow_mut().push(path.clone());
        Ok(path)
    }

    /// A log is done with.
    pub fn remove(&self, path: &Path) -> Result<(), Failure> {
        self.left.borrow_mut().retain(|left| left != path);
        std::fs::remove_file(path).context(format_args!("can't remove {}", path.display()))
    }

    /// All are.
    pub fn clean(&self) -> Result<(), Failure> {
        let left = self.left.take();
        left.iter().try_for_each(|path| std::fs::remove_file(path).context(path.display()))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(failure) = self.clean() {
            failure.say();
        }
    }
}
