//! llamafs against ext4, xfs, the raw device and a do-nothing FUSE file system, in turns on one device.
//!
//! `cargo bench --bench compare -- run|quick|floor|report`, as `make bench`, `bench-quick`, `bench-floor` and
//! `bench-report` call it. Needs root. BENCH_DIR: where the device's file lies (default target/bench); BENCH_ROUNDS;
//! BENCH_SECONDS: length of a timed row; BENCH_ROWS: only rows whose name begins with one of these, with commas between.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark may panic")]

mod contestant;
mod cost;
mod device;
mod fio;
mod floor;
mod histogram;
mod job;
mod measure;
mod nullfs;
mod nulluring;
mod plot;
mod results;
mod rows;
mod table;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use contestant::Contestant;
use device::LoopDevice;
use measure::Place;
use results::Results;
use rows::Row;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Settings of the full run and of the short one.
const ROUNDS: usize = 5;
const SECONDS: f64 = 2.0;
const QUICK_ROUNDS: usize = 3;
const QUICK_SECONDS: f64 = 1.0;
/// Longest bulk work.
const MOST_MIB: u64 = 1024;
const QUICK_MOST_MIB: u64 = 512;
/// Between these the tables stand in docs/performance.md.
const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

fn main() -> ExitCode {
    // cargo itself adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [job::WORKER, told] => worker::run(told),
        [nullfs::NULLFS, point] => nullfs::serve(Path::new(point), false),
        [nullfs::NULLFS, point, nullfs::URING] => nullfs::serve(Path::new(point), true),
        ["run"] | [] => full(),
        ["quick"] => quick(false),
        ["floor"] => quick(true),
        ["report"] => report(),
        _ => Err("called wrongly: run, quick, floor or report".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(said) => {
            eprintln!("bench: {said}");
            ExitCode::FAILURE
        }
    }
}

/// A file of docs/performance.
fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance").join(name)
}

fn setting<T: FromStr>(name: &str, default: T) -> Result<T, String> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| format!("{name}={text} is no number")),
    }
}

/// Everything: the raw data is kept and the tables are printed.
fn full() -> Result<(), String> {
    let wanted = std::env::var("BENCH_ROWS").ok();
    let begins = |row: &Row| wanted.iter().flat_map(|list| list.split(',')).any(|begin| row.id.starts_with(begin));
    let rows: Vec<Row> = rows::rows().into_iter().filter(|row| wanted.is_none() || begins(row)).collect();
    let results = measure(&rows, ROUNDS, SECONDS, MOST_MIB)?;
    if wanted.is_none() {
        std::fs::create_dir_all(kept("")).map_err(|error| error.to_string())?;
        results.save(&kept("results.json"))?;
    }
    print!("{}", table::markdown(&results));
    Ok(())
}

/// Few rows, against the floor, or to set it.
fn quick(set: bool) -> Result<(), String> {
    let rows: Vec<Row> = rows::rows().into_iter().filter(|row| row.quick).collect();
    let results = measure(&rows, QUICK_ROUNDS, QUICK_SECONDS, QUICK_MOST_MIB)?;
    let path = kept("floor.json");
    if set { floor::keep(&results, &path) } else { floor::check(&results, &path) }
}

/// Round after round, row after row, contestant after contestant: a noisy minute hits all of them.
fn measure(rows: &[Row], rounds: usize, seconds: f64, most_mib: u64) -> Result<Results, String> {
    device::check_environment()?;
    let _allowed = device::OverUring::allow();
    let rounds = setting("BENCH_ROUNDS", rounds)?.max(1);
    let seconds = setting("BENCH_SECONDS", seconds)?;
    let dir = std::env::var_os("BENCH_DIR").map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    let dir = std::path::absolute(dir).map_err(|error| error.to_string())?;
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let device = LoopDevice::new(&dir)?;
    let place = Place { device: &device, dir: &dir, seconds, most_mib };
    let absent = absent();
    // Ctrl-C: what is mounted is unmounted, and the device goes.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|error| error.to_string())?;
    }
    let mut results = Results { machine: results::machine(), rounds, seconds, samples: Vec::new() };
    for round in 0..rounds {
        for row in rows {
            // The first is another one in each round.
            for turn in 0..row.contestants.len() {
                let who = row.contestants[(turn + round) % row.contestants.len()];
                if absent.contains(&who) {
                    continue;
                }
                if let Some(tool) = who.tool_for(row).filter(|tool| !device::is_installed(tool)) {
                    eprintln!("{}: {} is left out: {tool} is not installed", row.id, who.name());
                    continue;
                }
                if stop.load(Ordering::Relaxed) {
                    return Err("stopped: nothing is kept".into());
                }
                let begun = Instant::now();
                let samples = place.measure(row, who, round).map_err(|said| format!("{}: {said}", row.id))?;
                for sample in &samples {
                    eprintln!(
                        "round {} {:<12} {:<16} {:>9.0} /s {:>7.1} MB/s  ({:.1} s)",
                        round + 1,
                        sample.row,
                        who.name(),
                        sample.rate,
                        sample.bytes_per_second / 1e6,
                        begun.elapsed().as_secs_f64()
                    );
                }
                results.samples.extend(samples);
            }
        }
    }
    Ok(results)
}

/// Those that can't take part, for want of a program or of the kernel's part; said once.
fn absent() -> Vec<Contestant> {
    let all = [Contestant::Ext4, Contestant::Xfs, Contestant::Fio, Contestant::Unflushed];
    let lacks = |who: &Contestant| who.tool().is_some_and(|tool| !device::is_installed(tool));
    let mut absent: Vec<Contestant> = all.into_iter().filter(lacks).collect();
    for who in &absent {
        eprintln!("{} is left out: {} is not installed", who.name(), who.tool().unwrap_or_default());
    }
    if !llamafs::fuse::wire::uring_is_enabled() {
        eprintln!("{} is left out: the kernel does not offer it", Contestant::NullUring.name());
        absent.push(Contestant::NullUring);
    }
    absent
}

/// The tables and plots of the kept raw data go into the documents.
fn report() -> Result<(), String> {
    let results = Results::load(&kept("results.json"))?;
    for (name, text) in plot::all(&results) {
        std::fs::write(kept(name), text).map_err(|error| format!("{name}: {error}"))?;
    }
    let path = kept("").with_extension("md");
    let say = |error: std::io::Error| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(&path).map_err(say)?;
    let (before, rest) = text.split_once(BEGIN).ok_or_else(|| format!("{}: has no `{BEGIN}`", path.display()))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| format!("{}: has no `{END}`", path.display()))?;
    let text = format!("{before}{BEGIN}\n{}{END}{after}", table::markdown(&results));
    std::fs::write(&path, text).map_err(say)
}
