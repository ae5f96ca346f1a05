//! `llamafs trim`: lets go of the old end of a log in a mounted store.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use super::attribute;
use super::failure::{Context, Failure, Outcome, print};
use super::mounts;
use crate::fs::policy::{HEAD, TRIM};
use crate::fs::{size, time};

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
    let relative = args.log.strip_prefix("/").unwrap_or(&args.log);
    let path = mount.point.join(relative);
    let value = match (&args.before, args.keep) {
        (Some(before), _) => match before.parse::<u64>() {
            Ok(offset) => format!("before:{offset}"),
            Err(_) => format!("since:{}", time_ns(before)?),
        },
        (None, keep) => format!("keep:{}", keep.unwrap_or_default()),
    };
    let before = attribute::number(&path, HEAD)?;
    attribute::ask(&path, TRIM, &value)?;
    let head = attribute::number(&path, HEAD)?;
    let size = std::fs::metadata(&path).context(path.display())?.size();
    let text = format!(
        "{}: {} bytes let go, {} stay from offset {head}",
        args.log.display(),
        head.saturating_sub(before),
        size.saturating_sub(head)
    );
    print(|out| writeln!(out, "{text}"))?;
    Ok(ExitCode::SUCCESS)
}

/// A moment, ns since 1970.
pub fn time_ns(text: &str) -> Result<u64, Failure> {
    time::parse(text).map_err(|error| {
        Failure::usage(format!("`{text}` is neither a number nor a time such as 2026-01-31T12:00:00Z: {error}"))
    })
}
