//! `llamafs cat`: the bytes of a log, from an unmounted device.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use super::failure::{FAILED, Failure, Outcome, print, say};
use super::{device, trim};

/// Writes a log of an unmounted store to standard output.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Block device or file
    device: PathBuf,
    /// Path of the log, such as /log or /web/access
    log: PathBuf,
    /// Only records from this time on (RFC 3339, such as 2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only records of before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let time = |text: &Option<String>| text.as_deref().map(trim::time_ns).transpose();
    let times = time(&args.since)?.unwrap_or(0)..time(&args.until)?.unwrap_or(u64::MAX);
    let image = device::image(&args.device)?;
    let name = args.log.as_os_str().as_bytes();
    if image.log(name).is_none() {
        return Err(Failure::new(format!(
            "{} has no log {}: `llamafs status {0}` lists its logs",
            args.device.display(),
            args.log.display()
        )));
    }
    let mut read = Ok(Vec::new());
    let mut stopped = false;
    print(|out| {
        let mut written = Ok(());
        read = image.read_log_between(name, times.clone(), &mut |_offset, data| {
            written = out.write_all(data);
            stopped = written.is_err();
            match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(error.kind().into()),
            }
        });
        written
    })?;
    let gaps = match read {
        Ok(gaps) => gaps,
        // A reader that went away has stopped us, and that is all there is to it.
        Err(_) if stopped => return Ok(ExitCode::SUCCESS),
        Err(error) => return Err(Failure::new(format!("{}: {error}", args.device.display()))),
    };
    if gaps.is_empty() {
        let short = times.end == u64::MAX && image.may_miss_ends().map_err(|error| Failure::new(error.to_string()))?;
        if !short {
            return Ok(ExitCode::SUCCESS);
        }
        say(&format!(
            "{}: what the newest checkpoint does not know of is damaged or gone, and nothing tells what it held: {} may have been longer; \
             `llamafs check {0}` shows where",
            args.device.display(),
            args.log.display()
        ));
        return Ok(ExitCode::from(FAILED));
    }
    let missing = gaps.len();
    say(&format!(
        "{}: {missing} damaged {} left out: `llamafs check {0}` shows where",
        args.device.display(),
        if missing == 1 { "place was" } else { "places were" }
    ));
    Ok(ExitCode::from(FAILED))
}
