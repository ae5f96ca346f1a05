//! The raw data of a run, and the medians and ratios that are taken from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::contestant::{Contestant, LLAMAFS};
use super::device::{DEVICE_BYTES, call};
use super::measure::Sample;
use super::rows::{Figure, Target};
use super::table::{is_bulk, rate_of};

/// Everything that one run has found.
#[derive(Serialize, Deserialize)]
pub struct Results {
    pub machine: Vec<(String, String)>,
    pub rounds: usize,
    pub seconds: f64,
    pub samples: Vec<Sample>,
}

/// A median and what lies around it.
#[derive(Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// None of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, least, most })
    }
}

impl Results {
    pub fn load(path: &Path) -> Result<Self, String> {
        let text =
            std::fs::read(path).map_err(|error| format!("{}: {error}; `make bench` measures it", path.display()))?;
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// One sample on a line, so that two runs can be compared by diff.
    pub fn save(&self, path: &Path) -> Result<(), String> {
        let json = |value: Result<String, serde_json::Error>| value.map_err(|error| error.to_string());
        let samples = self.samples.iter().map(|sample| json(serde_json::to_string(sample)));
        let samples = samples.collect::<Result<Vec<_>, _>>()?.join(",\n");
        let machine = json(serde_json::to_string(&self.machine))?;
        let text = format!(
            "{{\"machine\":{machine},\n\"rounds\":{},\"seconds\":{},\n\"samples\":[\n{samples}\n]}}\n",
            self.rounds, self.seconds
        );
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// A contestant's samples in a row, in the order of rounds.
    pub fn of(&self, row: &str, who: Contestant) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.row == row && sample.contestant == who)
    }

    /// The spread of a figure over the rounds.
    pub fn spread(&self, row: &str, who: Contestant, figure: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.of(row, who).filter_map(figure).collect())
    }

    /// Ours against the rival's in each round: above 1 ours is better.
    pub fn ratio(&self, target: &Target) -> Option<Spread> {
        let rivals =
            self.samples.iter().filter(|sample| sample.row == target.row && target.is_rival(sample.contestant));
        let bulk = is_bulk(target.row);
        let ratios = rivals.filter_map(|rival| {
            let ours = self.of(target.row, Contestant::Llamafs).find(|ours| ours.round == rival.round)?;
            let ratio = match target.figure {
                // Blocks of another size: bytes count in bulk, operations where each is durable.
                Figure::Rate => rate_of(ours, bulk) / rate_of(rival, bulk),
                Figure::Tail => rival.p999? / ours.p999?,
            };
            Some((rival.round, ratio))
        });
        // Of two that stand for one rival, the better counts.
        let mut rounds: BTreeMap<usize, f64> = BTreeMap::new();
        for (round, ratio) in ratios {
            rounds.entry(round).and_modify(|worst| *worst = worst.min(ratio)).or_insert(ratio);
        }
        Spread::of(rounds.into_values().collect())
    }
}

/// What was measured on: the machine, and versions.
pub fn machine() -> Vec<(String, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()))
        .unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = read("/proc/meminfo").split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
    let version = |program: &str, arguments: &[&str]| {
        // Some say their version on stderr.
        let said = std::process::Command::new(program).args(arguments).output().ok();
        let text = said.map(|said| [said.stdout, said.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
    };
    let date = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let fact = |name: &str, value: String| (name.to_owned(), value);
    vec![
        fact("processor", format!("{cpus} CPUs, {model}")),
        fact("memory", format!("{:.0} GiB", memory.unwrap_or_default() / f64::from(1 << 20))),
        fact("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease"))),
        fact("device", format!("loop device of {} GiB, direct I/O, over a written file", DEVICE_BYTES >> 30)),
        fact("requests of llamafs", super::device::transport().to_owned()),
        fact("llamafs", version(LLAMAFS, &["--version"])),
        fact("commit", call("git", &["describe", "--always", "--dirty"]).unwrap_or_default()),
        fact("ext4", version("mkfs.ext4", &["-V"])),
        fact("xfs", version("mkfs.xfs", &["-V"])),
        fact("fio", version("fio", &["--version"])),
        fact("load before", read("/proc/loadavg").split_whitespace().next().unwrap_or_default().to_owned()),
        fact("unix time", date.to_string()),
    ]
}
