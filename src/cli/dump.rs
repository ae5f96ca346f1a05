//! `llamafs dump`: every frame on the device, a line each.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use crate::store::FrameInfo;

use super::device;
use super::failure::{FAILED, Failure, Outcome, print, say};

/// Shows every frame of an unmounted store, from the first segment to the end.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON: an array with one frame on each line
    #[arg(long)]
    json: bool,
    /// Only the frames of the log with this id (1 is /log)
    #[arg(long, value_name = "ID")]
    log: Option<u32>,
    /// Block device or file
    device: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let image = device::image(&args.device)?;
    let mut walked = Ok(());
    let mut count = 0;
    print(|out| {
        let mut lines = Lines { out, json: args.json, count: 0 };
        lines.head()?;
        let mut written = Ok(());
        walked = image.for_each_frame(true, &mut |frame| {
            if args.log.is_none_or(|log| log == frame.log) {
                written = lines.frame(frame);
            }
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        written?;
        count = lines.count;
        lines.foot()
    })?;
    walked.map_err(|error| Failure::new(format!("{}: {error}", args.device.display())))?;
    let unknown = args.log.filter(|id| count == 0 && image.logs().iter().all(|log| log.id != *id));
    if let Some(id) = unknown {
        say(&format!(
            "{}: no log has the id {id}, nor has a frame: `llamafs status --json {0}` tells the ids",
            args.device.display()
        ));
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

struct Lines<'a> {
    out: &'a mut dyn Write,
    json: bool,
    count: u64,
}

impl Lines<'_> {
    fn head(&mut self) -> io::Result<()> {
        if self.json {
            return write!(self.out, "[");
        }
        writeln!(
            self.out,
            "{:>12} {:>12} {:>7} {:4} {:>4} {:>12} {:>8} {:>5} {:30} state",
            "lsn", "device", "segment", "kind", "log", "offset", "length", "epoch", "time or value"
        )
    }

    fn frame(&mut self, frame: &FrameInfo) -> io::Result<()> {
        self.count += 1;
        if self.json {
            write!(self.out, "{}", if self.count == 1 { "\n" } else { ",\n" })?;
            return serde_json::to_writer(&mut *self.out, frame).map_err(io::Error::from);
        }
        let what = match frame.kind.as_str() {
            "MARK" => format!("stable {:#x}", frame.value),
            "PADD" => format!("{} bytes", frame.value),
            _ => time(frame.time_ns),
        };
        writeln!(
            self.out,
            "{:>#12x} {:>#12x} {:>7} {:4} {:>4} {:>12} {:>8} {:>5} {what:30} {}",
            frame.lsn,
            frame.device_offset,
            frame.segment,
            frame.kind,
            frame.log,
            frame.offset,
            frame.len,
            frame.epoch,
            frame.state
        )
    }

    fn foot(&mut self) -> io::Result<()> {
        if self.json { writeln!(self.out, "\n]") } else { Ok(()) }
    }
}

fn time(ns: u64) -> String {
    // A damaged frame may carry a time that no calendar has.
    match UNIX_EPOCH.checked_add(Duration::from_nanos(ns)) {
        Some(time) => humantime::format_rfc3339_nanos(time).to_string(),
        None => format!("{ns} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_shown() {
        assert_eq!(time(1_500_000_000), "1970-01-01T00:00:01.500000000Z");
        assert!(!time(u64::MAX).is_empty());
    }

    #[test]
    fn an_empty_dump_is_an_empty_array() {
        let mut bytes = Vec::new();
        let mut lines = Lines { out: &mut bytes, json: true, count: 0 };
        lines.head().unwrap();
        lines.foot().unwrap();
        assert_eq!(serde_json::from_slice::<Vec<u8>>(&bytes).unwrap(), Vec::<u8>::new());
    }
}
