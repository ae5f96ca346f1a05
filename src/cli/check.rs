//! `llamafs check`: reads and verifies everything on an unmounted device; never writes.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::store::CheckReport;

use super::device;
use super::failure::{Context, Outcome, print};

/// fsck(8): errors are left uncorrected.
const ERRORS_LEFT: u8 = 4;
/// fsck(8): the check could not run.
const COULD_NOT_RUN: u8 = 8;
/// fsck(8): called wrongly.
pub const USAGE_ERROR: u8 = 16;

/// Reads and verifies a whole store. Exit status: 0 clean, 1 repaired, 4 errors left, 8 could not run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Block device or file, not mounted
    device: PathBuf,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Json<'a> {
    clean: bool,
    #[serde(flatten)]
    report: &'a CheckReport,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let image = device::quiet_image(&args.device).map_err(|failure| failure.with_code(COULD_NOT_RUN))?;
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    bar.set_draw_target(if args.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() });
    let report = image.check(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let name = args.device.display();
    let report = report.context(&name).map_err(|failure| failure.with_code(COULD_NOT_RUN))?;
    let clean = report.is_clean();
    print(|out| {
        if args.json {
            let value = Json { clean, report: &report };
            serde_json::to_writer_pretty(&mut *out, &value)?;
            return writeln!(out);
        }
        for damage in &report.damage {
            writeln!(out, "{name}: damage: {damage}")?;
        }
        for remark in &report.remarks {
            writeln!(out, "{name}: note: {remark}")?;
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
    .map_err(|failure| failure.with_code(COULD_NOT_RUN))?;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(ERRORS_LEFT) })
}
