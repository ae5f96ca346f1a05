//! The texts of `/.llamafs`: made when the file is opened, so that a reader sees one moment.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Inner;
use super::inode::ControlFile;
use crate::format::shown;
use crate::store::types::{LogInfo, RingSlot};

/// Keys of `status` that come first, in this order; whatever else the store tells follows.
const FIRST: [&str; 41] = [
    "device",
    "uuid",
    "label",
    "state",
    "epoch",
    "capacity",
    "used",
    "available",
    "full",
    "segment_size",
    "segments",
    "segments_free",
    "segments_reserved",
    "segments_retired",
    "segments_freed",
    "segments_cleaned",
    "moved_bytes",
    "garbage",
    "expired_bytes",
    "dropped_bytes",
    "trimmed_bytes",
    "block_size",
    "max_record",
    "end_lsn",
    "stable_lsn",
    "recovery_lsn",
    "appends",
    "append_bytes",
    "syncs",
    "device_writes",
    "device_write_bytes",
    "device_reads",
    "device_read_bytes",
    "device_flushes",
    "seals_full",
    "seals_commit",
    "failed_flushes",
    "queued_appends",
    "queued_bytes",
    "retries",
    "recovery",
];

/// Logs that `status` shows one by one: the first of those that everybody can find. All of them show in `ls`.
const LOGS_SHOWN: usize = 100;

/// The text of a control file as it is now.
pub fn text(inner: &Inner, file: ControlFile) -> String {
    match file {
        ControlFile::Status => lines(&status(inner)),
        ControlFile::StatusJson => format!("{:#}\n", status(inner)),
        ControlFile::Ring => ring(&inner.store.ring_slots()),
        ControlFile::Device => String::new(),
    }
}

/// Everything there is to tell.
fn status(inner: &Inner) -> Value {
    let mut all = serde_json::to_value(inner.store.stats()).unwrap_or_else(|_| json!({}));
    if let Value::Object(map) = &mut all {
        map.insert("queued_bytes".into(), json!(inner.backlog.held()));
        let (reading, waiting) = inner.turns.figures();
        map.insert("reading_bytes".into(), json!(reading));
        map.insert("waiting_reads".into(), json!(waiting));
        map.insert("control_handles".into(), json!(inner.snapshots.lock().count()));
        map.insert("user_handles".into(), json!(inner.handles.count()));
        let (times, files) = inner.views.lock().counts();
        map.insert("view_times".into(), json!(times));
        map.insert("view_files".into(), json!(files));
        map.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        map.insert("pid".into(), json!(std::process::id()));
        map.insert("mountpoint".into(), json!(inner.settings.mountpoint));
        map.insert("options".into(), json!(inner.settings.options));
        map.insert("transport".into(), json!(inner.settings.transport));
        map.insert("uptime_ms".into(), json!(super::now_ns().saturating_sub(inner.mounted_ns) / 1_000_000));
        let logs = inner.store.public_logs(LOGS_SHOWN);
        map.insert("logs".into(), Value::Array(logs.iter().map(log).collect()));
    }
    all
}

fn log(info: &LogInfo) -> Value {
    json!({
        "id": info.id, "name": String::from_utf8_lossy(&info.name), "size": info.size, "head": info.head,
        "device_bytes": info.device_bytes, "end_lsn": info.end_lsn, "mode": format!("{:04o}", info.mode),
        "uid": info.uid, "gid": info.gid, "mtime_ns": info.mtime_ns,
    })
}

/// `key: value` lines; what is inside another thing gets its name and a dot before it.
fn lines(status: &Value) -> String {
    let mut out = String::new();
    for key in ["version", "pid", "mountpoint", "options", "transport", "uptime_ms"].into_iter().chain(FIRST) {
        line(&mut out, key, status.get(key).unwrap_or(&Value::Null));
    }
    let shown = |key: &str| FIRST.contains(&key) || out.lines().any(|line| line.starts_with(&format!("{key}: ")));
    let mut rest = Vec::new();
    for (key, value) in status.as_object().into_iter().flatten() {
        if key != "logs" && !shown(key) {
            rest.push((key, value));
        }
    }
    for (key, value) in rest {
        line(&mut out, key, value);
    }
    for log in status.get("logs").and_then(Value::as_array).into_iter().flatten() {
        let name = log.get("name").and_then(Value::as_str).unwrap_or_default().escape_debug().to_string();
        for (key, value) in log.as_object().into_iter().flatten().filter(|(key, _)| *key != "name") {
            line(&mut out, &format!("log.{name}.{key}"), value);
        }
    }
    out
}

fn line(out: &mut String, key: &str, value: &Value) {
    // Writing to a String cannot fail.
    let _ = match value {
        Value::Null => Ok(()),
        Value::String(text) => writeln!(out, "{key}: {}", shown(&text.replace('\n', " "))),
        Value::Object(map) => {
            map.iter().for_each(|(name, value)| line(out, &format!("{key}.{name}"), value));
            Ok(())
        }
        Value::Array(items) => {
            let count = writeln!(out, "{key}: {}", items.len());
            for (n, item) in items.iter().enumerate() {
                line(out, &format!("{key}.{n}"), item);
            }
            count
        }
        other => writeln!(out, "{key}: {other}"),
    };
}

/// One line for each buffer of the flush ring: its state word, raw and decoded.
fn ring(slots: &[RingSlot]) -> String {
    let mut out = String::new();
    let yes = |on: bool| if on { "yes" } else { "no" };
    for slot in slots {
        let _ = writeln!(
            out,
            "slot {} word {:#018x} offset {} writers {} flushing {} sealed {} filling {} base_lsn {:#x} start {} \
             limit {}{}",
            slot.slot,
            slot.word,
            slot.offset,
            slot.writers,
            yes(slot.flushing),
            yes(slot.sealed),
            slot.filling,
            slot.base_lsn,
            slot.start,
            slot.limit,
            if slot.current { " CURRENT" } else { "" },
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::types::Stats;

    #[test]
    fn status_tells_every_figure_once() {
        let stats = serde_json::to_value(Stats::default()).unwrap();
        let text = lines(&stats);
        for key in stats.as_object().unwrap().keys().filter(|key| *key != "recovery") {
            let count = text.lines().filter(|line| line.starts_with(&format!("{key}: "))).count();
            assert_eq!(count, 1, "{key} in {text}");
        }
        assert!(text.contains("recovery.clean: false"));
    }

    #[test]
    fn the_ring_shows_the_word_raw_and_decoded() {
        let slot = RingSlot {
            slot: 2,
            current: true,
            filling: 9,
            word: 0x40_0000_0101,
            offset: 64,
            writers: 1,
            flushing: false,
            sealed: true,
            base_lsn: 4096,
            start: 64,
            limit: 8192,
        };
        let text = ring(&[slot]);
        assert!(
            text.starts_with("slot 2 word 0x0000004000000101 offset 64 writers 1 flushing no sealed yes"),
            "{text}"
        );
        assert!(text.ends_with("limit 8192 CURRENT\n"), "{text}");
    }
}
