//! What is told of it: a table for people, JSON for programs.

use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::work::{Job, Measured};
use crate::fs::size;

/// Percentiles that are told, by how many in a thousand.
const PERCENTILES: [(&str, usize); 3] = [("p50_us", 500), ("p99_us", 990), ("p99_9_us", 999)];

/// One kind of work, and what the device does by itself.
pub struct Row {
    /// What.
    pub job: Job,
    /// In the store.
    pub measured: Measured,
    /// The device by itself, where it could be tried.
    pub raw: Option<Measured>,
}

/// All of it.
pub struct Report {
    /// What was measured.
    pub target: PathBuf,
    /// Mount options.
    pub options: String,
    /// Length of a timed row.
    pub seconds: u64,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Job {
    fn title(&self) -> String {
        let show = |bytes: usize| match bytes {
            small if small < 1024 => format!("{small} B"),
            bytes => size::show(bytes as u64).replace(".0", ""),
        };
        match *self {
            Self::Durable { record, writers: 1, .. } => format!("{} durable, 1 writer", show(record)),
            Self::Durable { record, writers, logs: 1 } => {
                format!("{} durable, {writers} writers, one log", show(record))
            }
            Self::Durable { record, writers, .. } => format!("{} durable, {writers} writers, a log each", show(record)),
            Self::Append { record } => format!("{} appended, fsync at the end", show(record)),
            Self::Read { record } => format!("{} read", show(record)),
        }
    }

    /// The durable ones are counted, the others weighed.
    fn is_bulk(&self) -> bool {
        !matches!(self, Self::Durable { .. })
    }

    fn json(&self) -> Value {
        match *self {
            Self::Durable { record, writers, logs } => {
                json!({ "work": "durable", "record": record, "writers": writers, "logs": logs })
            }
            Self::Append { record } => json!({ "work": "append", "record": record, "writers": 1, "logs": 1 }),
            Self::Read { record } => json!({ "work": "read", "record": record, "writers": 1, "logs": 1 }),
        }
    }
}

fn figures(measured: &Measured) -> Value {
    let mut figures = json!({
        "count": measured.count,
        "rate": measured.rate(),
        "bytes_per_second": measured.bytes_per_second(),
    });
    for (name, per_mille) in PERCENTILES {
        if let Some(map) = figures.as_object_mut() {
            map.insert(name.into(), json!(measured.percentile(per_mille)));
        }
    }
    figures
}

impl Row {
    /// By how much the store's figure is the device's.
    fn ratio(&self) -> Option<f64> {
        let raw = self.raw.as_ref()?;
        let (own, raw) = match self.job.is_bulk() {
            true => (self.measured.bytes_per_second(), raw.bytes_per_second()),
            false => (self.measured.rate(), raw.rate()),
        };
        (raw > 0.0).then(|| own / raw)
    }

    fn rate(&self, measured: &Measured) -> String {
        match self.job.is_bulk() {
            true => format!("{:.0} MB/s", measured.bytes_per_second() / 1e6),
            false => format!("{:.0} /s", measured.rate()),
        }
    }
}

impl Report {
    /// For programs.
    pub fn json(&self) -> Value {
        let row = |row: &Row| {
            let mut one = row.job.json();
            if let Some(map) = one.as_object_mut() {
                map.insert("llamafs".into(), figures(&row.measured));
                map.insert("device".into(), row.raw.as_ref().map_or(Value::Null, figures));
                map.insert("ratio".into(), json!(row.ratio()));
            }
            one
        };
        json!({
            "target": self.target.display().to_string(),
            "options": self.options,
            "seconds": self.seconds,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let with_raw = self.rows.iter().any(|row| row.raw.is_some());
        let head = ["", "llamafs", "p50 us", "p99 us", "p99.9 us", "device", "ratio"];
        let columns = if with_raw { head.len() } else { head.len() - 2 };
        let mut lines = vec![head.map(str::to_owned)];
        for row in &self.rows {
            let time = |per_mille| row.measured.percentile(per_mille).map_or_else(String::new, |us| format!("{us:.0}"));
            let [p50, p99, p999] = PERCENTILES.map(|(_, per_mille)| time(per_mille));
            let raw = row.raw.as_ref().map_or_else(String::new, |raw| row.rate(raw));
            let ratio = row.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            lines.push([row.job.title(), row.rate(&row.measured), p50, p99, p999, raw, ratio]);
        }
        let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max();
        for line in &lines {
            for (column, cell) in line.iter().enumerate().take(columns) {
                let width = width(column).unwrap_or_default();
                match column {
                    0 => write!(out, "{cell:width$}")?,
                    _ => write!(out, "  {cell:>width$}")?,
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(raw: bool) -> Report {
        let measured = Measured { count: 10, bytes: 1000, seconds: 2.0, latencies: vec![1000; 10] };
        let raw = raw.then(|| Measured { seconds: 1.0, ..measured.clone() });
        let jobs = [
            Job::Durable { record: 100, writers: 8, logs: 1 },
            Job::Durable { record: 4096, writers: 1, logs: 1 },
            Job::Read { record: 1 << 20 },
        ];
        let rows = jobs.map(|job| Row { job, measured: measured.clone(), raw: raw.clone() }).into();
        Report { target: "d".into(), options: String::new(), seconds: 2, rows }
    }

    #[test]
    fn the_table_shows_each_row_with_the_device_beside_it() {
        let mut out = Vec::new();
        report(true).table(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("100 B durable, 8 writers, one log") && text.contains("4 KiB durable, 1 writer"),
            "{text}"
        );
        assert!(text.lines().nth(1).unwrap().ends_with("0.50"), "{text}");
        let mut out = Vec::new();
        report(false).table(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("device") && text.lines().count() == 4, "{text}");
    }

    #[test]
    fn json_has_every_figure() {
        let all = report(true).json();
        let row = all.pointer("/rows/0").unwrap();
        assert_eq!(row.pointer("/llamafs/rate"), Some(&json!(5.0)));
        assert_eq!((row.get("ratio"), row.pointer("/device/p99_9_us")), (Some(&json!(0.5)), Some(&json!(1.0))));
        assert_eq!(report(false).json().pointer("/rows/2/device"), Some(&Value::Null));
    }
}
