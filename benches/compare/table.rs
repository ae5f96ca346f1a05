//! The tables of docs/performance.md, from the raw data.

use super::contestant::Contestant::{self, Ext4, Fio, Llamafs, Null, NullUring, Raw, RawUnflushed, Unflushed, Xfs};
use super::measure::Sample;
use super::results::{Results, Spread};
use super::rows::{ANYWHERE, COLD, Figure, Kind, MEMORY_MIB, Row, SPACE, TARGETS, Target, WARM, rows};

const MEBI: f64 = 1_048_576.0;
pub const EVERYBODY: [Contestant; 9] = [Llamafs, Ext4, Xfs, Raw, RawUnflushed, Fio, Unflushed, Null, NullUring];

/// Title of a row, also of the two that reading gives.
pub fn title(id: &str) -> String {
    match id {
        COLD => "cold sequential read (`cat`)".into(),
        WARM => "warm sequential read (`cat`)".into(),
        _ => rows().iter().find(|row| row.id == id).map(|row| row.title.to_owned()).unwrap_or_default(),
    }
}

/// Names of all rows in the raw data, and whether bytes count rather than operations.
pub fn ids() -> Vec<(&'static str, bool)> {
    let in_bytes = |row: &Row| match row.kind {
        Kind::Read { .. } | Kind::Bulk { .. } => true,
        Kind::Timed { .. } | Kind::Anywhere { .. } | Kind::Followed { .. } | Kind::Crash { .. } => false,
    };
    let ids = |row: &Row| row.ids().into_iter().map(|id| (id, in_bytes(row))).collect::<Vec<_>>();
    rows().iter().flat_map(ids).collect()
}

/// Everything, as Markdown.
pub fn markdown(results: &Results) -> String {
    let mut out = String::new();
    let facts: Vec<String> = results.machine.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    out.push_str(&format!(
        "Rounds: {}; in each, every contestant took its turn in every row, on the same device, formatted afresh; a timed \
         row lasts {} s. {}.\n\n",
        results.rounds,
        results.seconds,
        facts.join("; ")
    ));
    out.push_str("![Ratios and targets](performance/ratios.svg)\n\n");
    targets(results, &mut out);
    out.push_str("\nWhat the rivals do not promise:\n\n");
    for who in [Ext4, Raw, Unflushed, Null, NullUring] {
        let names = match who {
            Ext4 => "ext4, xfs",
            Raw => "raw io_uring, raw fio",
            _ => who.name(),
        };
        out.push_str(&format!("- {names}: {}.\n", who.weaker()));
    }
    out.push_str("\n![Durable appends a second](performance/durable.svg)\n\n");
    out.push_str("![Latency of durable appends](performance/latency.svg)\n\n");
    out.push_str("![Bulk work](performance/bulk.svg)\n\n");
    figures(results, &mut out);
    out
}

/// Ratios with the targets beside them.
fn targets(results: &Results, out: &mut String) {
    out.push_str("| work | rival | llamafs | rival's | ratio (least to most) | target | reached |\n");
    out.push_str("|---|---|---|---|---|---|---|\n");
    for target in &TARGETS {
        let Some(ratio) = results.ratio(target) else { continue };
        let better = [target.rival, Fio].into_iter().filter(|who| target.is_rival(*who));
        let bulk = is_bulk(target.row);
        let rate = |who: Contestant| results.spread(target.row, who, |sample| Some(rate_of(sample, bulk)));
        let median = |who: &Contestant| rate(*who).map_or(0.0, |rate| rate.median);
        let rival = better.max_by(|a, b| median(a).total_cmp(&median(b))).unwrap_or(target.rival);
        let (ours, theirs) = (shown(results, target, Llamafs), shown(results, target, rival));
        let what = match target.figure {
            Figure::Rate => String::new(),
            Figure::Tail => ", p99.9".to_owned(),
        };
        out.push_str(&format!(
            "| {}{what}{} | {} | {ours} | {theirs} | {} | {} | {} |\n",
            title(target.row),
            options(results, target.row),
            rival.name(),
            ratio_text(ratio),
            target.at_least,
            reached(ratio.median >= target.at_least),
        ));
    }
    for (row, at_most) in SPACE {
        let Some(space) = results.spread(row, Llamafs, |sample| sample.space) else { continue };
        out.push_str(&format!(
            "| log space for a byte of payload: {} | | {} | | | at most {at_most} | {} |\n",
            title(row),
            ratio_text(space),
            reached(space.median <= at_most)
        ));
    }
    let peaks = results.samples.iter().filter(|sample| sample.contestant == Llamafs);
    if let Some(peak) = peaks.filter_map(|sample| sample.peak_kib).max() {
        let peak = peak as f64 / 1024.0;
        let met = reached(peak <= MEMORY_MIB);
        out.push_str(&format!(
            "| most resident memory in any row | | {peak:.1} MiB | | | at most {MEMORY_MIB} MiB | {met} |\n"
        ));
    }
}

fn reached(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

fn ratio_text(ratio: Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.least, ratio.most)
}

/// What llamafs ran with, where it is not the defaults.
fn options(results: &Results, row: &str) -> String {
    let options = results.of(row, Llamafs).next().map(|sample| sample.options.clone()).unwrap_or_default();
    if options.is_empty() || options == "defaults" { String::new() } else { format!(" ({options})") }
}

fn shown(results: &Results, target: &Target, who: Contestant) -> String {
    if target.figure == Figure::Tail {
        let tail = results.spread(target.row, who, |sample| sample.p999);
        return tail.map(|tail| format!("{:.0} µs", tail.median)).unwrap_or_default();
    }
    let bulk = is_bulk(target.row);
    let rate = results.spread(target.row, who, |sample| Some(rate_of(sample, bulk)));
    rate.map(|rate| rate_text(rate.median, bulk)).unwrap_or_default()
}

/// Bytes count in this row, not operations.
pub fn is_bulk(row: &str) -> bool {
    ids().iter().any(|(id, bulk)| *id == row && *bulk)
}

/// MB a second of bulk work, operations a second of other.
pub fn rate_of(sample: &Sample, bulk: bool) -> f64 {
    if bulk { sample.bytes_per_second / 1e6 } else { sample.rate }
}

fn rate_text(rate: f64, bulk: bool) -> String {
    if bulk { format!("{rate:.0} MB/s") } else { format!("{rate:.0} /s") }
}

/// All figures of all contestants.
fn figures(results: &Results, out: &mut String) {
    out.push_str(
        "Every figure but the most memory is a median over the rounds. Processor time and context switches are those \
         of the writers and of the daemon; what the kernel does on threads of its own (the loop device, the rivals' journals) is in neither. \
         Writes, bytes and flushes are the block layer's.\n\n",
    );
    out.push_str(
        "| work | who | rate (spread) | p50 µs | p99 µs | p99.9 µs | CPU µs an operation: writers, daemon | switches an \
         operation: writers, daemon | device bytes a payload byte | flushes an operation | most memory of the daemon, MiB |\n",
    );
    out.push_str("|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (id, bulk) in ids() {
        for who in EVERYBODY {
            let Some(rate) = results.spread(id, who, |sample| Some(rate_of(sample, bulk))) else { continue };
            let median = |figure: &dyn Fn(&Sample) -> Option<f64>| results.spread(id, who, figure).map(|s| s.median);
            let most = |figure: &dyn Fn(&Sample) -> Option<f64>| results.spread(id, who, figure).map(|s| s.most);
            let each = |value: f64, sample: &Sample| Some(value / sample.operations as f64);
            let moved = |sample: &Sample| {
                let moved =
                    if [COLD, WARM, ANYWHERE].contains(&id) { sample.device_read } else { sample.device_written };
                Some(moved as f64 / sample.bytes as f64)
            };
            let spread = (rate.most - rate.least) / rate.median * 100.0;
            out.push_str(&format!(
                "| {} | {} | {} ({spread:.0} %) | {} | {} | {} | {}, {} | {}, {} | {} | {} | {} |\n",
                title(id),
                who.name(),
                rate_text(rate.median, bulk),
                number(median(&|sample| sample.p50), 0),
                number(median(&|sample| sample.p99), 0),
                number(median(&|sample| sample.p999), 0),
                number(median(&|sample| each(sample.writers.cpu_seconds * 1e6, sample)), 1),
                number(median(&|sample| each(sample.daemon?.cpu_seconds * 1e6, sample)), 1),
                number(median(&|sample| each(sample.writers.switches as f64, sample)), 2),
                number(median(&|sample| each(sample.daemon?.switches as f64, sample)), 2),
                number(median(&moved), 2),
                number(median(&|sample| each(sample.flushes as f64, sample)), 3),
                number(most(&|sample| Some(sample.peak_kib? as f64 / 1024.0)), 1),
            ));
        }
    }
    let largest = results.samples.iter().map(|sample| sample.bytes as f64 / MEBI).fold(0.0, f64::max);
    out.push_str(&format!("\nThe largest row moves {largest:.0} MiB of payload.\n"));
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
