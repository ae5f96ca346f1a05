//! `llamafs trim`: lets go of the old end of a log in a mounted store.

use std::num::IntErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use super::failure::{Context, Failure, Outcome, print};
use super::{attribute, mounts, status};
use crate::format::shown;
use crate::fs::policy::{HEAD, TRIM};
use crate::fs::{size, time};

/// A time as it is written.
const EXAMPLE: &str = "2026-01-31T12:00:00Z";

/// Lets go of the old end of a log: its space comes back, its name and offsets stay, and what lay there reads as zeros.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("to").required(true).args(["before", "keep"]))]
pub struct Args {
    /// Directory that the store is mounted on
    mountpoint: PathBuf,
    /// The log, as a path from the mountpoint, such as /log
    log: PathBuf,
    /// Up to this offset, or up to this time (RFC 3339, such as 2026-01-31T12:00:00Z); whole records go
    #[arg(long, value_name = "OFFSET|TIME")]
    before: Option<String>,
    /// All but the last so many bytes; whole records go
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    keep: Option<u64>,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let mount = mounts::llamafs_at(&args.mountpoint)?;
    let value = match (&args.before, args.keep) {
        (Some(before), _) => self::before(before)?,
        (None, keep) => format!("keep:{}", keep.unwrap_or_default()),
    };
    let path = within(&mount.point, &args.log)?;
    let before = attribute::number(&mount.point, &path, HEAD)?;
    attribute::ask(&mount.point, &path, TRIM, &value)?;
    let head = attribute::number(&mount.point, &path, HEAD)?;
    let size = std::fs::metadata(&path).context(path.display())?.size();
    let text = format!(
        "{}: {} bytes let go, {} stay from offset {head}",
        args.log.display(),
        head.saturating_sub(before),
        size.saturating_sub(head)
    );
    print(|out| writeln!(out, "{}", shown(&text)))?;
    Ok(ExitCode::SUCCESS)
}

/// The log's path; one that leads out of the store is refused, be it by `..`, by a link or by another mount in the store.
fn within(mountpoint: &Path, log: &Path) -> Result<PathBuf, Failure> {
    let path = mountpoint.join(log.strip_prefix("/").unwrap_or(log));
    let no_path = || Failure::new(format!("{} is no path within the store: name a log of it", log.display()));
    if log.components().any(|part| part == Component::ParentDir) {
        return Err(no_path());
    }
    let device = |path: &Path| match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.dev()),
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Err(status::gone(mountpoint)),
        Err(error) => Err(Failure::new(format!("{}: {error}", path.display()))),
    };
    if device(&path)? == device(mountpoint)? { Ok(path) } else { Err(no_path()) }
}

/// An offset or a time, as the daemon takes it.
fn before(text: &str) -> Result<String, Failure> {
    match text.parse::<u64>() {
        Ok(offset) => Ok(format!("before:{offset}")),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => {
            Err(Failure::usage(format!("offset `{text}` is out of range: use at most {}", u64::MAX)))
        }
        Err(_) => time::parse(text).map(|ns| format!("since:{ns}")).map_err(|error| {
            Failure::usage(format!("`{text}` is neither an offset nor a time such as {EXAMPLE}: {error}"))
        }),
    }
}

/// A moment, ns since 1970.
pub fn time_ns(text: &str) -> Result<u64, Failure> {
    time::parse(text).map_err(|error| Failure::usage(format!("`{text}` is no time such as {EXAMPLE}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_offset_nor_time_is_told() {
        assert_eq!(before("12"), Ok("before:12".to_owned()));
        assert_eq!(before("1970-01-01T00:00:01Z"), Ok("since:1000000000".to_owned()));
        assert!(before("99999999999999999999999").unwrap_err().text().contains("out of range"));
        assert!(before("-1").unwrap_err().text().contains("neither an offset nor a time"));
        let text = time_ns("0").unwrap_err().text();
        assert!(text.contains("`0` is no time such as 2026") && !text.contains("number"), "{text}");
    }

    #[test]
    fn no_path_leads_out_of_the_store() {
        let text = |log: &str| within(Path::new("/dev"), Path::new(log)).unwrap_err().text();
        for log in ["../etc/passwd", "/a/../../etc", ".."] {
            assert!(text(log).contains("no path within the store"), "{log}");
        }
        // `/dev/fd` is a link to another file system.
        assert!(text("fd").contains("no path within the store"));
        assert!(within(Path::new("/dev"), Path::new("/null")).is_ok());
    }
}
