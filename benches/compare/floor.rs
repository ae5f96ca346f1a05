//! The check that no ratio has fallen: a short run against what was reached before.

use std::collections::BTreeMap;
use std::path::Path;

use super::results::Results;
use super::rows::{Figure, TARGETS, Target, rows};

/// A ratio below this share of its floor is a loss and not noise.
const TOLERANCE: f64 = 0.7;

/// Ratios by `row/rival`, as they were reached.
type Floor = BTreeMap<String, f64>;

/// The ratios of a short run.
fn ratios(results: &Results) -> Floor {
    let quick = |id: &str| rows().iter().any(|row| row.quick && row.ids().contains(&id));
    let wanted = TARGETS.iter().filter(|target| quick(target.row) && target.figure == Figure::Rate);
    let named = |target: &Target| {
        let name = format!("{}/{:?}", target.row, target.rival).to_lowercase();
        Some((name, results.ratio(target)?.median))
    };
    wanted.filter_map(named).collect()
}

/// Keeps the ratios of this run as the floor.
pub fn keep(results: &Results, path: &Path) -> Result<(), String> {
    let rounded: Floor =
        ratios(results).into_iter().map(|(name, ratio)| (name, (ratio * 100.0).round() / 100.0)).collect();
    let text = serde_json::to_string_pretty(&rounded).map_err(|error| error.to_string())?;
    std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
}

/// Says each ratio; fails when one is too low.
pub fn check(results: &Results, path: &Path) -> Result<(), String> {
    let text = std::fs::read(path).map_err(|error| {
        format!("{}: {error}; `make bench-floor` measures and keeps what is reached today", path.display())
    })?;
    let floor: Floor = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let now = ratios(results);
    let mut lost = Vec::new();
    let takes_part = |name: &str| {
        let rival = name.rsplit('/').next().unwrap_or_default();
        results.samples.iter().any(|sample| format!("{:?}", sample.contestant).eq_ignore_ascii_case(rival))
    };
    for (name, reached) in &floor {
        let least = reached * TOLERANCE;
        let Some(ratio) = now.get(name) else {
            if takes_part(name) {
                lost.push(format!("{name} was not measured"));
            } else {
                println!("{name:<24} not measured: left out");
            }
            continue;
        };
        println!("{name:<24} {ratio:>6.2}   floor {reached:.2}, at least {least:.2}");
        if *ratio < least {
            lost.push(format!("{name} is {ratio:.2}, below {least:.2}"));
        }
    }
    if lost.is_empty() { Ok(()) } else { Err(format!("slower than it was: {}", lost.join("; "))) }
}
