//! Bar charts as SVG, written by hand: no library is needed for rectangles and words.

use super::contestant::Contestant::{self, Ext4, Fio, Llamafs, Null, NullUring, Raw, RawUnflushed, Unflushed, Xfs};
use super::results::Results;
use super::rows::{Figure, TARGETS};
use super::table::{EVERYBODY, ids, rate_of, title};

const WIDTH: f64 = 860.0;
/// Room for the words on the left, and for the figures on the right.
const LEFT: f64 = 330.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 44.0;
const BAR: f64 = 15.0;
const GAP: f64 = 10.0;
/// A bar that would be longer than so many targets is cut.
const RATIO_LIMIT: f64 = 6.0;
const DURABLE: [&str; 6] = ["sync-1", "sync-1-4k", "dsync-1", "sync-8", "sync-8-one", "sync-32"];

/// One bar; a mark may stand across it.
struct Bar {
    words: String,
    value: f64,
    shown: String,
    color: &'static str,
    mark: Option<f64>,
}

/// Files of docs/performance, by name.
pub fn all(results: &Results) -> Vec<(&'static str, String)> {
    let bulk: Vec<&str> = ids().into_iter().filter(|(_, bulk)| *bulk).map(|(id, _)| id).collect();
    vec![
        ("ratios.svg", chart("llamafs against each rival: median ratio, target as a line", &[ratios(results)])),
        ("durable.svg", chart("Durable appends a second", &groups(results, &DURABLE, false))),
        ("latency.svg", chart("Latency of 100 B + fdatasync in µs: p50, p99, p99.9", &latencies(results))),
        ("bulk.svg", chart("Bulk work, MB a second", &groups(results, &bulk, true))),
    ]
}

fn color(who: Contestant) -> &'static str {
    match who {
        Llamafs => "#d9480f",
        Ext4 => "#4c6ef5",
        Xfs => "#15aabf",
        Raw => "#868e96",
        Fio => "#adb5bd",
        Unflushed | RawUnflushed => "#dee2e6",
        Null => "#5c940d",
        NullUring => "#94d82d",
    }
}

fn ratios(results: &Results) -> Vec<Bar> {
    let bars = TARGETS.iter().filter_map(|target| {
        let ratio = results.ratio(target)?.median;
        let what = if target.figure == Figure::Tail { ", p99.9" } else { "" };
        Some(Bar {
            words: format!("{}{what} / {}", title(target.row), target.rival.name()),
            value: ratio.min(RATIO_LIMIT),
            shown: format!("{ratio:.2} (≥ {})", target.at_least),
            color: if ratio >= target.at_least { "#2f9e44" } else { "#e03131" },
            mark: Some(target.at_least),
        })
    });
    bars.collect()
}

/// Rates of the rows, one group for each row.
fn groups(results: &Results, rows: &[&str], bulk: bool) -> Vec<Vec<Bar>> {
    let group = |id: &&str| {
        let bars = EVERYBODY.into_iter().filter_map(|who| {
            let rate = results.spread(id, who, |sample| Some(rate_of(sample, bulk)))?;
            let shown = format!("{:.0}", rate.median);
            let words = format!("{}: {}", title(id), who.name());
            Some(Bar { words, value: rate.median, shown, color: color(who), mark: None })
        });
        bars.collect()
    };
    rows.iter().map(group).collect()
}

/// The three percentiles, on a logarithmic scale.
fn latencies(results: &Results) -> Vec<Vec<Bar>> {
    let mut groups = Vec::new();
    for id in ["sync-1", "sync-8", "sync-8-one", "sync-32"] {
        let mut group = Vec::new();
        for who in [Llamafs, Ext4, Xfs, Raw, Fio] {
            let of = |share: usize| {
                let pick = move |sample: &super::measure::Sample| [sample.p50, sample.p99, sample.p999][share];
                results.spread(id, who, pick).map(|spread| spread.median)
            };
            let (Some(p50), Some(p99), Some(p999)) = (of(0), of(1), of(2)) else { continue };
            group.push(Bar {
                words: format!("{}: {}", title(id), who.name()),
                // The bar ends at p99.9, the mark stands at p50; the scale is logarithmic from 10 µs on.
                value: (p999 / 10.0).log10().max(0.0),
                shown: format!("{p50:.0}, {p99:.0}, {p999:.0}"),
                color: color(who),
                mark: Some((p50 / 10.0).log10().max(0.0)),
            });
        }
        groups.push(group);
    }
    groups
}

fn chart(heading: &str, groups: &[Vec<Bar>]) -> String {
    let bars: usize = groups.iter().map(Vec::len).sum();
    let height = TOP + bars as f64 * (BAR + 4.0) + groups.len() as f64 * GAP;
    let largest = groups.iter().flatten().map(|bar| bar.value.max(bar.mark.unwrap_or(0.0))).fold(f64::MIN, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / if largest > 0.0 { largest } else { 1.0 };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"12\" y=\"24\" \
         font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escaped(heading)
    );
    let mut y = TOP;
    for group in groups {
        for bar in group {
            let (length, base) = ((bar.value * scale).max(1.0), y + BAR - 4.0);
            out.push_str(&format!(
                "<text x=\"{:.0}\" y=\"{base:.0}\" text-anchor=\"end\">{}</text>\n",
                LEFT - 8.0,
                escaped(&bar.words)
            ));
            out.push_str(&format!(
                "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{}\"/>\n",
                bar.color
            ));
            let mark = bar.mark.map_or(0.0, |mark| mark * scale);
            if bar.mark.is_some() {
                let x = LEFT + mark;
                out.push_str(&format!(
                    "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{:.0}\" stroke=\"black\" stroke-width=\"2\"/>\n",
                    y - 1.0,
                    y + BAR + 1.0
                ));
            }
            let x = LEFT + length.max(mark) + 6.0;
            out.push_str(&format!("<text x=\"{x:.0}\" y=\"{base:.0}\">{}</text>\n", escaped(&bar.shown)));
            y += BAR + 4.0;
        }
        y += GAP;
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('`', "")
}
