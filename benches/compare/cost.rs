//! What a process has cost so far, from /proc: processor time to the nanosecond, context switches, peak memory.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Of all threads of one or more processes.
#[derive(Serialize, Deserialize, Clone, Copy, Default, Debug)]
pub struct Cost {
    pub cpu_seconds: f64,
    pub switches: u64,
}

impl Cost {
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            switches: self.switches.saturating_sub(before.switches),
        }
    }

    pub fn and(self, other: Self) -> Self {
        Self { cpu_seconds: self.cpu_seconds + other.cpu_seconds, switches: self.switches + other.switches }
    }
}

/// Of the threads that live. None of ours ends while it is measured.
pub fn of(pid: u32) -> Result<Cost, String> {
    let tasks = format!("/proc/{pid}/task");
    let mut cost = Cost::default();
    for task in std::fs::read_dir(&tasks).map_err(|error| format!("{tasks}: {error}"))? {
        let task = task.map_err(|error| format!("{tasks}: {error}"))?.path();
        let schedstat = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        let nanoseconds = schedstat.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        cost.cpu_seconds += nanoseconds.unwrap_or_default() as f64 / 1e9;
        cost.switches += ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
            .into_iter()
            .filter_map(|key| status(&task, key))
            .sum::<u64>();
    }
    Ok(cost)
}

/// The most memory it has had, in KiB.
pub fn peak_kib(pid: u32) -> Option<u64> {
    status(Path::new(&format!("/proc/{pid}")), "VmHWM")
}

fn status(directory: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(directory.join("status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}
