//! `llamafs status`: the figures of a mounted store from its control directory, of any other from its device.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use crate::store::types::{LogInfo, Stats};

use super::failure::{Context, Failure, Outcome, print};
use super::{device, mounts, table};
use crate::fs::size;

/// The control directory's figures, for people and for programs.
const TEXT: &str = ".llamafs/status";
const JSON: &str = ".llamafs/status.json";

/// Logs that are shown one by one; `--json` shows all of a store that is not mounted.
const LOGS_SHOWN: usize = 100;

/// Shows the state of a store, mounted or not.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Directory that a store is mounted on, block device or file
    #[arg(value_name = "MOUNTPOINT|DEVICE")]
    object: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let path = &args.object;
    let kind = std::fs::metadata(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTCONN) => gone(path),
            _ => Failure::new(format!("{}: {error}", path.display())),
        })?
        .file_type();
    device::refuse_within_a_store(path)?;
    if kind.is_dir() {
        return mounted(path, args.json);
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Failure::new(format!("{} is no directory, block device or file: name one", path.display())));
    }
    match mounts::of_device(path) {
        Some(mount) => mounted(&mount.point, args.json),
        None => offline(path, args.json),
    }
}

/// What the daemon says of itself.
pub fn live(mountpoint: &Path) -> Result<Value, Failure> {
    let path = mountpoint.join(JSON);
    let text = std::fs::read(&path).map_err(|error| unreadable(mountpoint, &error))?;
    serde_json::from_slice(&text).context(path.display())
}

fn mounted(mountpoint: &Path, json: bool) -> Outcome {
    let path = mountpoint.join(if json { JSON } else { TEXT });
    let text = std::fs::read(path).map_err(|error| unreadable(mountpoint, &error))?;
    print(|out| out.write_all(&text))?;
    Ok(ExitCode::SUCCESS)
}

fn unreadable(mountpoint: &Path, error: &std::io::Error) -> Failure {
    let name = mountpoint.display();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => {
            Failure::new(format!("no llamafs store is mounted on {name}: name a mountpoint or a device"))
        }
        Some(libc::ENOTCONN) => gone(mountpoint),
        _ => Failure::new(format!("{name}: {error}")),
    }
}

/// A mount that nobody serves any more.
pub fn gone(mountpoint: &Path) -> Failure {
    let name = mountpoint.display();
    Failure::new(format!("the daemon of {name} is gone: run `llamafs umount {name}` and mount it again"))
}

/// What `--json` prints of a store that is not mounted.
#[derive(serde::Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    stats: &'a Stats,
    mounted: bool,
    logs: Vec<LogJson>,
}

#[derive(serde::Serialize)]
struct LogJson {
    id: u32,
    name: String,
    size: u64,
    head: u64,
    device_bytes: u64,
}

impl LogJson {
    fn of(log: &LogInfo) -> Self {
        let name = format!("/{}", String::from_utf8_lossy(&log.name));
        Self { id: log.id, name, size: log.size, head: log.head, device_bytes: log.device_bytes }
    }
}

/// What lies on the device.
fn offline(path: &Path, json: bool) -> Outcome {
    let image = device::image(path)?;
    let stats = image.stats();
    let logs = image.logs();
    if json {
        let value = Json { stats: &stats, mounted: false, logs: logs.iter().map(LogJson::of).collect() };
        print(|out| {
            serde_json::to_writer_pretty(&mut *out, &value)?;
            writeln!(out)
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![
        ("device", stats.device.clone()),
        ("uuid", stats.uuid.clone()),
        ("label", stats.label.clone()),
        ("mounted", "no".to_owned()),
        ("clean", if stats.recovery.clean { "yes" } else { "no: the next mount recovers it" }.to_owned()),
        ("capacity", bytes(stats.capacity)),
        ("used", bytes(stats.used)),
        ("available", bytes(stats.available)),
        ("segments", format!("{} of {}, {} free", stats.segments, size::show(stats.segment_size), stats.segments_free)),
        ("epoch", stats.epoch.to_string()),
        ("end_lsn", format!("{:#x}", stats.end_lsn)),
        ("stable_lsn", format!("{:#x}", stats.stable_lsn)),
    ];
    rows.push(("logs", format!("{} in {} directories", stats.logs_total, stats.directories)));
    rows.push(("catalog", format!("{} of {}", bytes(stats.catalog_bytes), bytes(stats.catalog_limit))));
    if stats.worm {
        rows.push(("worm", "yes: nothing can be renamed or removed".to_owned()));
    }
    rows.extend(
        logs.iter()
            .take(LOGS_SHOWN)
            .map(|log| ("log", format!("/{} {}", String::from_utf8_lossy(&log.name), bytes(log.size)))),
    );
    let notes = stats.recovery.notes.iter().chain(&stats.recovery.remarks);
    rows.extend(notes.map(|note| ("note", note.clone())));
    rows.extend(stats.recovery.damage.iter().map(|damage| ("damage", damage.to_string())));
    print(|out| table::write(out, &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn bytes(count: u64) -> String {
    format!("{count} ({})", size::show(count))
}
