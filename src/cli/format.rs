//! `llamafs format`: makes a new store.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::unistd::{Group, User, getegid, geteuid};

use crate::format::{LABEL_MAX, MAX_SEGMENT};
use crate::io::{Access, OpenError, open};
use crate::store::{self, FormatOptions, FormatReport, LogStructuredStore};

use super::failure::{Context, Failure, Outcome, print};
use super::signature::{self, Found};
use super::{device, table};
use crate::fs::{policy, size};

/// Makes a new, empty store on a block device or in a file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size of the file: makes it, or makes it larger (for example 256M or 1G)
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    size: Option<u64>,
    /// A name for the store, up to 64 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// Size of a segment, the unit in which space is given out [default: up to 64M, smaller on small devices]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    segment_size: Option<u64>,
    /// Permission bits of /log
    #[arg(long, value_name = "OCTAL", default_value = "0644", value_parser = mode)]
    mode: u32,
    /// Owner of the root directory and of /log [default: who formats]
    #[arg(long, value_name = "USER[:GROUP]", value_parser = owner)]
    owner: Option<Owner>,
    /// Room for so many logs and directories [default: one for each 32K of the device, up to 1048576]
    #[arg(long, value_name = "N")]
    max_logs: Option<u64>,
    /// Write once: nothing can ever be renamed or removed
    #[arg(long)]
    worm: bool,
    /// At most so many bytes of each log are kept; a log's own limit comes before it [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0", hide_default_value = true)]
    retain_bytes: u64,
    /// Records are kept so long at most, such as 30d or 12h [default: no limit]
    #[arg(long, value_name = "AGE", value_parser = policy::age, default_value = "0s", hide_default_value = true)]
    retain_age: u64,
    /// Never fewer bytes of a log than this are kept, whatever the limits say [default: 0]
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0", hide_default_value = true)]
    keep_min: u64,
    /// What a full store does
    #[arg(long, value_name = "WHAT", value_enum, default_value = "stop")]
    on_full: OnFull,
    /// Overwrite whatever is there, another file system or an older store
    #[arg(long)]
    force: bool,
    /// Write no zeros: done at once, but durable appends to a file are slower until each block was written
    #[arg(long)]
    sparse: bool,
    /// Block device or file
    device: PathBuf,
}

/// What a full store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnFull {
    /// Appends are refused (ENOSPC)
    Stop,
    /// The oldest records of all logs make room
    DropOldest,
}

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let report = make(args)?;
    let superblock = &report.superblock;
    let segments = superblock.segment_count;
    let rows = [
        ("device", args.device.display().to_string()),
        ("uuid", uuid::Uuid::from_bytes(superblock.uuid).to_string()),
        ("label", args.label.clone()),
        ("segments", format!("{segments} of {}", size::show(u64::from(superblock.segment_size)))),
        ("log", format!("/log mode {:04o}", args.mode)),
    ];
    print(|out| {
        writeln!(out, "formatted")?;
        table::write(out, &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the store. Nothing is written before all that can be checked has been checked.
pub fn make(args: &Args) -> Result<FormatReport, Failure> {
    let options = FormatOptions {
        label: label(&args.label)?,
        segment_size: args.segment_size.map(segment_size).transpose()?,
        mode: args.mode,
        uid: args.owner.map_or_else(|| geteuid().as_raw(), |owner| owner.uid),
        gid: args.owner.map_or_else(|| getegid().as_raw(), |owner| owner.gid),
        zero: !args.sparse,
        uuid: None,
        max_record: None,
        worm: args.worm,
        max_logs: args.max_logs,
        retain_bytes: args.retain_bytes,
        retain_age_ns: args.retain_age,
        keep_min: args.keep_min,
        drop_oldest: args.on_full == OnFull::DropOldest,
        now_ns: None,
    };
    if let Some(bytes) = args.size {
        check_size(&args.device, bytes, &options)?;
    }
    let was = prepare(&args.device, args.size, args.force)?;
    let result = write(&args.device, &options);
    if result.is_err() {
        was.restore(&args.device);
    }
    result
}

/// A size that can't be is told in the words of who gave it, before there is a file.
fn check_size(device: &Path, bytes: u64, options: &FormatOptions) -> Result<(), Failure> {
    let name = device.display();
    store::check_size(&name.to_string(), bytes, options).map_err(|error| match error {
        store::OpenError::TooSmall { need, .. } => Failure::new(format!(
            "{name}: a size of {bytes} bytes is too small: a store needs at least {need} bytes ({})",
            size::show(need)
        )),
        other => Failure::new(other.to_string()),
    })
}

/// What the device was before it was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Was {
    /// What it is now.
    Same,
    /// A file that was not there.
    Missing,
    /// A file of so many bytes.
    Shorter { bytes: u64, now: u64 },
}

impl Was {
    /// A file that was not there before is no use to anybody half made, and one that was there keeps its size.
    fn restore(self, path: &Path) {
        match self {
            Self::Same => {}
            Self::Missing => drop(std::fs::remove_file(path)),
            Self::Shorter { bytes, now } => {
                let file = OpenOptions::new().write(true).open(path);
                // Whoever has given it another size since then has meant it.
                if let Ok(file) = file
                    && file.metadata().is_ok_and(|metadata| metadata.len() == now)
                {
                    let _ = file.set_len(bytes);
                }
            }
        }
    }
}

/// Makes a store with the defaults in a file that is not there yet (`mount --create`).
pub fn create(path: &Path, bytes: u64) -> Result<(), Failure> {
    make(&defaults(path, Some(bytes))).map(drop)
}

/// Makes a store with the defaults on a device or file, whatever was on it (`bench`).
pub fn anew(path: &Path, sparse: bool) -> Result<FormatReport, Failure> {
    make(&Args { force: true, sparse, ..defaults(path, None) })
}

fn defaults(path: &Path, size: Option<u64>) -> Args {
    Args {
        size,
        label: String::new(),
        segment_size: None,
        mode: 0o644,
        owner: None,
        max_logs: None,
        worm: false,
        retain_bytes: 0,
        retain_age: 0,
        keep_min: 0,
        on_full: OnFull::Stop,
        force: false,
        sparse: false,
        device: path.to_path_buf(),
    }
}

/// Looks at what is there, and makes or extends the file.
fn prepare(path: &Path, bytes: Option<u64>, force: bool) -> Result<Was, Failure> {
    let name = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let Some(bytes) = bytes else {
                return Err(Failure::new(format!(
                    "{name} does not exist: name a block device, or give --size to make a file"
                )));
            };
            return new_file(path, bytes);
        }
        Err(error) => return Err(Failure::new(format!("{name}: {error}"))),
    };
    let kind = metadata.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Failure::new(format!("{name} is neither a block device nor a file: name one of them")));
    }
    device::refuse_within_a_store(path)?;
    if !force {
        refuse_used(path, kind.is_file())?;
    }
    match bytes {
        Some(_) if kind.is_block_device() => {
            Err(Failure::usage(format!("{name} is a block device and has its size: leave --size out")))
        }
        Some(bytes) if bytes < metadata.len() => Err(Failure::new(format!(
            "{name} is larger than {} already ({}): remove it first, or leave --size out",
            size::show(bytes),
            size::show(metadata.len())
        ))),
        Some(bytes) if bytes > metadata.len() => {
            // Whoever uses it would grow into what is added.
            match open(path, Access::ReadWrite) {
                Ok(_) | Err(OpenError::Empty { .. }) => {}
                Err(error) => return Err(Failure::new(error.to_string())),
            }
            let file = OpenOptions::new().write(true).open(path).context(name)?;
            extend(&file, path, bytes)?;
            Ok(Was::Shorter { bytes: metadata.len(), now: bytes })
        }
        _ => Ok(Was::Same),
    }
}

/// Without `--force` nothing is overwritten that somebody may still want.
fn refuse_used(path: &Path, is_file: bool) -> Result<(), Failure> {
    let name = path.display();
    match signature::look(path).context(&name)? {
        Found::Llamafs => {
            Err(Failure::new(format!("{name} holds a llamafs store already: mount it, or give --force to destroy it")))
        }
        Found::Remains => Err(Failure::new(format!(
            "{name} holds what is left of a llamafs store: `llamafs salvage` reads it, --force destroys it"
        ))),
        Found::Foreign(what) => {
            Err(Failure::new(format!("{name} holds {what}: choose another device, or give --force to overwrite it")))
        }
        Found::Data if is_file => Err(Failure::new(format!(
            "{name} holds data of another kind: choose another file, or give --force to overwrite it"
        ))),
        Found::Data | Found::Nothing => Ok(()),
    }
}

fn new_file(path: &Path, bytes: u64) -> Result<Was, Failure> {
    if path.starts_with("/dev") && !path.starts_with("/dev/shm") {
        return Err(Failure::new(format!("there is no device {}: check its name", path.display())));
    }
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let file = file.context(format_args!("can't make {}", path.display()))?;
    if let Err(failure) = extend(&file, path, bytes) {
        let _ = std::fs::remove_file(path);
        return Err(failure);
    }
    Ok(Was::Missing)
}

fn extend(file: &File, path: &Path, bytes: u64) -> Result<(), Failure> {
    file.set_len(bytes).context(format_args!("can't give {} a size of {}", path.display(), size::show(bytes)))
}

fn write(path: &Path, options: &FormatOptions) -> Result<FormatReport, Failure> {
    let device = device::for_writing(path)?;
    let bar = bar();
    let report = LogStructuredStore::format(device, options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    report.map_err(|error| Failure::new(error.to_string()))
}

/// Shown only where somebody watches.
fn bar() -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = "writing zeros {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    ProgressBar::with_draw_target(Some(0), target)
        .with_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn label(text: &str) -> Result<String, Failure> {
    if text.len() > LABEL_MAX || text.contains(char::is_control) {
        return Err(Failure::usage(format!(
            "the label is too long or holds control characters: use up to {LABEL_MAX} bytes of text"
        )));
    }
    Ok(text.to_owned())
}

fn segment_size(bytes: u64) -> Result<u32, Failure> {
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= MAX_SEGMENT)
        .ok_or_else(|| Failure::usage(format!("a segment of {} is out of range: use at most 2G", size::show(bytes))))
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("`{text}` is no mode: write octal permission bits such as 0640"))
}

fn owner(text: &str) -> Result<Owner, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let by_name = User::from_name(user).ok().flatten();
    let uid = match (&by_name, user.parse()) {
        (Some(user), _) => user.uid.as_raw(),
        (None, Ok(uid)) => uid,
        (None, Err(_)) => return Err(format!("there is no user `{user}`")),
    };
    let gid = match group {
        Some(group) => {
            let by_name = Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw());
            by_name.or_else(|| group.parse().ok()).ok_or_else(|| format!("there is no group `{group}`"))?
        }
        None => match by_name.or_else(|| User::from_uid(uid.into()).ok().flatten()) {
            Some(user) => user.gid.as_raw(),
            None => uid,
        },
    };
    Ok(Owner { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        assert_eq!(owner("root"), Ok(Owner { uid: 0, gid: 0 }));
        assert_eq!(owner("root:12345"), Ok(Owner { uid: 0, gid: 12345 }));
        assert_eq!(owner("54321:root"), Ok(Owner { uid: 54321, gid: 0 }));
        assert_eq!(owner("54321"), Ok(Owner { uid: 54321, gid: 54321 }));
        assert!(owner("no-such-user").is_err() && owner("root:no-such-group").is_err() && owner("").is_err());
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0640"), Ok(0o640));
        assert!(mode("648").is_err() && mode("10000").is_err() && mode("u+w").is_err());
    }

    #[test]
    fn a_file_with_somebodys_bytes_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("letter");
        std::fs::write(&path, "dear all").unwrap();
        let text = prepare(&path, Some(1 << 20), false).unwrap_err().text();
        assert!(text.contains("--force"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), b"dear all");
        let was = Was::Shorter { bytes: 8, now: 1 << 20 };
        assert_eq!(prepare(&path, Some(1 << 20), true), Ok(was));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
        was.restore(&path);
        assert_eq!(std::fs::read(&path).unwrap(), b"dear all");
    }

    #[test]
    fn a_file_is_made_but_never_made_smaller() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        assert!(prepare(&path, None, false).is_err(), "no size, no file");
        assert_eq!(prepare(&path, Some(1 << 20), false), Ok(Was::Missing));
        assert!(prepare(&path, Some(4096), false).is_err());
        assert_eq!(prepare(&path, None, false), Ok(Was::Same));
    }
}
