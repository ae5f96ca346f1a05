//! The raw device through fio: a rival that nobody can say we have written badly.

use std::path::Path;

use serde_json::Value;

use super::cost::Cost;
use super::device::call;
use super::histogram::Histogram;
use super::job::{Total, Until};

/// Sequential reads or writes past the page cache through io_uring.
pub fn run(
    device: &Path,
    block: usize,
    depth: usize,
    reads: bool,
    how: &[&str],
    until: Until,
) -> Result<Total, String> {
    let mut arguments = [
        "--name=raw",
        "--direct=1",
        "--ioengine=io_uring",
        "--output-format=json",
        "--lat_percentiles=1",
        "--percentile_list=50:99:99.9",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--filename={}", device.display()));
    let direction = if reads { "read" } else { "write" };
    arguments.push(format!("--rw={direction}"));
    arguments.push(format!("--bs={block}"));
    arguments.push(format!("--iodepth={depth}"));
    arguments.push(match until {
        Until::Seconds(seconds) => format!("--runtime={}ms", (seconds * 1e3) as u64),
        Until::Bytes(bytes) => format!("--size={bytes}"),
    });
    if matches!(until, Until::Seconds(_)) {
        arguments.push("--time_based".to_owned());
    }
    arguments.extend(how.iter().map(|argument| (*argument).to_owned()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = call("fio", &arguments)?;
    // fio may say a word before the JSON begins.
    let json = said.find('{').and_then(|at| said.get(at..)).unwrap_or_default();
    let report: Value = serde_json::from_str(json).map_err(|error| format!("fio: {error}"))?;
    let job = report.pointer("/jobs/0").ok_or("fio reported no job")?;
    let number = |at: &str| job.pointer(at).and_then(Value::as_f64).ok_or_else(|| format!("fio reported no {at}"));
    // Its time holds the flush at the end too.
    let seconds = number("/job_runtime")? / 1e3;
    let (operations, bytes) = (number(&format!("/{direction}/total_ios"))?, number(&format!("/{direction}/io_bytes"))?);
    let busy = seconds * (number("/usr_cpu")? + number("/sys_cpu")?) / 100.0;
    let latency = |share: &str| number(&format!("/{direction}/lat_ns/percentile/{share}")).ok().map(|ns| ns / 1e3);
    Ok(Total {
        operations: operations as u64,
        bytes: bytes as u64,
        rate: operations / seconds,
        bytes_per_second: bytes / seconds,
        cost: Cost { cpu_seconds: busy, switches: number("/ctx")? as u64 },
        latencies: Histogram::new(),
        known: ["50.000000", "99.000000", "99.900000"].map(latency),
    })
}
