//! `llamafs grow`: lets a store take all of a device or file that has become larger, mounted or not.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::store::{GrowReport, grow};

use super::failure::{Context, Failure, Outcome, print};
use super::mounts::{self, Mount};
use super::{attribute, device, status};
use crate::format::shown;
use crate::fs::policy::GROW;
use crate::fs::size;

/// Lets a store take all of a device or file that has become larger. Nothing is moved; a mounted store is not interrupted.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Block device or file, not mounted; or the directory that its store is mounted on
    target: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let report = match mounts::at(&args.target).filter(Mount::is_llamafs) {
        Some(mount) => online(&mount)?,
        None => grow(device::for_writing(&args.target)?).map_err(|error| Failure::new(error.to_string()))?,
    };
    let target = shown(&args.target.display().to_string());
    let text = if args.json {
        serde_json::to_string_pretty(&report).context("JSON")?
    } else if report.segments == report.segments_before {
        format!("{target}: nothing to do, the store takes all of its device ({})", said(&report))
    } else {
        format!("{target}: grown from {} to {}", report.segments_before, said(&report))
    };
    print(|out| writeln!(out, "{text}"))?;
    Ok(ExitCode::SUCCESS)
}

/// The daemon of a mounted store does it; its figures tell what came of it.
fn online(mount: &Mount) -> Result<GrowReport, Failure> {
    let figure = |name: &str| {
        let live = status::live(&mount.point)?;
        live.get(name).and_then(serde_json::Value::as_u64).ok_or_else(|| Failure::new(format!("status lacks {name}")))
    };
    let segments_before = figure("segments")?;
    attribute::ask(&mount.point, &mount.point, GROW, "now")?;
    Ok(GrowReport { segments_before, segments: figure("segments")?, segment_size: figure("segment_size")? })
}

fn said(report: &GrowReport) -> String {
    format!("{} segments of {}", report.segments, size::show(report.segment_size))
}
