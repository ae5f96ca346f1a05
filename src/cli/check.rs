//! `llamafs check`: reads and verifies everything on an unmounted device; writes only with `--repair`, and then only
//! what loses nothing.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::format::shown;
use crate::io::Device;
use crate::store::{CheckReport, Image};

use super::device;
use super::failure::{Context, Failure, Outcome, print};

/// fsck(8): errors are left uncorrected.
const ERRORS_LEFT: u8 = 4;
/// fsck(8): the check could not run.
const COULD_NOT_RUN: u8 = 8;
/// fsck(8): called wrongly.
pub const USAGE_ERROR: u8 = 16;

/// fsck(8): errors were corrected.
const REPAIRED: u8 = 1;
/// A repair looks at the store so often at most.
const ROUNDS: u32 = 8;

/// Reads and verifies a whole store. Exit status: 0 clean, 1 repaired, 4 errors left, 8 could not run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Write again what is known: damaged superblocks, checkpoints and segment headers; nothing else is touched
    #[arg(long)]
    repair: bool,
    /// Block device or file, not mounted
    device: PathBuf,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Json<'a> {
    clean: bool,
    repaired: &'a [String],
    #[serde(flatten)]
    report: &'a CheckReport,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    look(args).map_err(|failure| failure.with_code(COULD_NOT_RUN))
}

fn look(args: &Args) -> Outcome {
    let mut repaired = Vec::new();
    let report = if args.repair {
        let device = device::for_writing(&args.device)?;
        let mut rounds = 0;
        loop {
            // What was made good may be what the next is known from: until a fresh look finds nothing more to do.
            let (seen, mut done) = repair(args, device.clone())?;
            if done.is_empty() {
                break seen;
            }
            repaired.append(&mut done);
            rounds += 1;
            if rounds == ROUNDS {
                break check(args, &image(device)?)?;
            }
        }
    } else {
        check(args, &device::quiet_image(&args.device)?)?
    };
    let clean = report.is_clean();
    tell(args, &report, &repaired)?;
    Ok(match (clean, repaired.is_empty()) {
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(REPAIRED),
        (false, _) => ExitCode::from(ERRORS_LEFT),
    })
}

fn image(device: Arc<dyn Device>) -> Result<Image, Failure> {
    Image::open(device).map_err(|error| Failure::new(error.to_string()))
}

fn repair(args: &Args, device: Arc<dyn Device>) -> Result<(CheckReport, Vec<String>), Failure> {
    let mut image = image(device)?;
    let report = check(args, &image)?;
    let done = image.repair(&report).context(args.device.display())?;
    Ok((report, done))
}

fn check(args: &Args, image: &Image) -> Result<CheckReport, Failure> {
    let hidden = args.json || !std::io::stderr().is_terminal();
    let bar = ProgressBar::new(0);
    bar.set_draw_target(if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() });
    let report = image.check(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    report.context(args.device.display())
}

fn tell(args: &Args, report: &CheckReport, repaired: &[String]) -> Result<(), Failure> {
    let (name, clean) = (shown(&args.device.display().to_string()), report.is_clean());
    print(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &Json { clean, repaired, report })?;
            return writeln!(out);
        }
        for what in repaired {
            writeln!(out, "{name}: repaired: {}", shown(what))?;
        }
        for finding in &report.damage {
            writeln!(out, "{name}: damage: {}", shown(&finding.to_string()))?;
        }
        if report.damage_not_listed > 0 {
            writeln!(out, "{name}: damage: {} more places", report.damage_not_listed)?;
        }
        for remark in &report.remarks {
            writeln!(out, "{name}: note: {}", shown(remark))?;
        }
        if !report.clean_unmount {
            writeln!(
                out,
                "{name}: note: not unmounted cleanly; the next mount recovers it and cuts {} bytes of tail",
                report.cut_bytes
            )?;
        }
        writeln!(
            out,
            "{name}: {}, {} frames, {} bytes, {} segments",
            if clean { "clean" } else { "ERRORS" },
            report.frames,
            report.bytes,
            report.segments
        )
    })
}
