//! `llamafs bench`: how fast a device of the user's own is under llamafs, beside what it can do by itself.
//!
//! A device gets a store for as long as it takes, and nothing of ours is left on it; in a directory of a mounted store the
//! bench appends to logs of its own, which it removes again. Whatever ends it, it cleans up.

mod place;
mod raw;
mod report;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::failure::{Context, Failure, Outcome, print};
use place::{Device, Directory, Mounted};
use report::{Report, Row};
use work::{Job, Load, Measured};

/// Seconds that a timed row may last.
const SECONDS: std::ops::RangeInclusive<u64> = 1..=60;
/// Sizes of records that are appended durably.
const RECORDS: [usize; 3] = [100, 4096, MIB];
/// Writers, and how many logs they share.
const WRITERS: [(usize, usize); 3] = [(1, 1), (8, 1), (8, 8)];
const MIB: usize = 1 << 20;
/// What one row appends at most.
const MOST_BYTES: u64 = 512 << 20;
/// What one row has to append at least for its figures to say something.
const LEAST_BYTES: u64 = 4 << 20;
/// All rows together take a part of the room that is there: the durable ones, and a bulk one.
const PARTS: u64 = 16;

/// Measures durable and bulk appends and reads, on a device or file that is free, or in a directory of a mounted store.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds that each kind of durable append is tried, 1 to 60
    #[arg(long, value_name = "N", default_value = "2", value_parser = seconds)]
    seconds: u64,
    /// Mount options to try on a device, such as parallel or tail=pad
    #[arg(short = 'o', value_name = "OPTS")]
    options: Vec<String>,
    /// Use a device that is not empty: what is on it is lost
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Block device or file that is free, or directory of a mounted store
    #[arg(value_name = "DEVICE|DIR")]
    target: PathBuf,
}

fn seconds(text: &str) -> Result<u64, String> {
    let range = format!("{} to {}", SECONDS.start(), SECONDS.end());
    text.parse().ok().filter(|n| SECONDS.contains(n)).ok_or_else(|| format!("`{text}` is out of range: use {range}"))
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let name = args.target.display();
    let metadata = std::fs::metadata(&args.target).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(format!(
            "{name} does not exist: name a block device, a file (`truncate -s 4G FILE` makes one) or a directory of a \
             mounted store"
        )),
        _ => Failure::new(format!("{name}: {error}")),
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).context("can't take signals")?;
    }
    let load = Load { seconds: Duration::from_secs(args.seconds), most_bytes: MOST_BYTES, stop };
    let report = if metadata.is_dir() { in_directory(args, load)? } else { on_device(args, load)? };
    if args.json {
        print(|out| writeln!(out, "{:#}", report.json()))?;
    } else {
        print(|out| report.table(out))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// In a store that is mounted: the device below it can't be tried.
fn in_directory(args: &Args, mut load: Load) -> Result<Report, Failure> {
    if args.force || !args.options.is_empty() {
        return Err(Failure::usage("--force and -o are for a device: a mounted store is taken as it is"));
    }
    let directory = Directory::of(&args.target)?;
    load.most_bytes = share(directory.available, &args.target.display().to_string())?;
    let rows = measure(&directory, &load, || None)?;
    directory.clean()?;
    Ok(Report { target: args.target.clone(), options: directory.options.clone(), seconds: args.seconds, rows })
}

/// On a device that is free: first by itself, then with a store on it.
fn on_device(args: &Args, mut load: Load) -> Result<Report, Failure> {
    let device = Device::prepare(&args.target, args.force, &args.options)?;
    load.most_bytes = share(device.bytes / 2, &args.target.display().to_string())?;
    let raw = raw::Raw::new(&args.target, device.bytes, device.block, &load);
    let mut alone: Vec<(Job, Measured)> = Vec::new();
    for job in jobs() {
        // A device has no logs.
        let same = alone.iter().find(|(other, _)| job.is_same_to_a_device(other)).map(|(_, measured)| measured.clone());
        let measured = same.map_or_else(|| raw.measure(&job), Ok)?;
        alone.push((job, measured));
        load.check()?;
    }
    let mounted = Mounted::new(&device, &args.options)?;
    let directory = Directory::of(&mounted.point)?;
    let mut beside = alone.into_iter();
    let rows = measure(&directory, &load, || beside.next().map(|(_, measured)| measured))?;
    directory.clean()?;
    drop(directory);
    mounted.unmount()?;
    device.wipe()?;
    Ok(Report { target: args.target.clone(), options: args.options.join(","), seconds: args.seconds, rows })
}

/// What one row may append.
fn share(available: u64, name: &str) -> Result<u64, Failure> {
    let share = (available / PARTS).min(MOST_BYTES);
    if share < LEAST_BYTES {
        return Err(Failure::new(format!(
            "{name} has too little room for a bench: {} are free, {} are needed",
            crate::fs::size::show(available),
            crate::fs::size::show(LEAST_BYTES * PARTS)
        )));
    }
    Ok(share)
}

/// All that is tried, in the order of the table.
fn jobs() -> Vec<Job> {
    let durable = RECORDS.iter().flat_map(|record| {
        WRITERS.iter().map(|(writers, logs)| Job::Durable { record: *record, writers: *writers, logs: *logs })
    });
    durable.chain([Job::Append { record: MIB }, Job::Read { record: MIB }]).collect()
}

fn measure(directory: &Directory, load: &Load, mut raw: impl FnMut() -> Option<Measured>) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for job in jobs() {
        let measured = work::measure(&job, directory, load)?;
        rows.push(Row { job, measured, raw: raw() });
        load.check()?;
    }
    Ok(rows)
}

impl Load {
    /// A signal ends the bench between two rows; what it made is taken away again.
    fn check(&self) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::new("interrupted: what the bench had made is taken away again"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_room_or_the_bench_says_so() {
        assert_eq!(share(1 << 40, "x"), Ok(MOST_BYTES));
        assert_eq!(share(PARTS * LEAST_BYTES, "x"), Ok(LEAST_BYTES));
        assert!(share(PARTS * LEAST_BYTES - PARTS, "x").unwrap_err().text().contains("too little room"));
        assert!(jobs().len() as u64 <= PARTS);
    }

    #[test]
    fn seconds_are_within_their_limits() {
        assert_eq!((seconds("1"), seconds("60")), (Ok(1), Ok(60)));
        assert!(["0", "61", "-1", "x", ""].iter().all(|text| seconds(text).is_err()));
    }
}
