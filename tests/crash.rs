//! Nothing acknowledged is ever lost: seeded simulations of a store on a bad disk, compared with a model.
//!
//! `LLAMAFS_SIM_SEEDS=1000000 cargo test --release --test crash` runs more of them (`LLAMAFS_SIM_FIRST` says where to
//! begin); `LLAMAFS_SIM=SEED cargo test --release --test crash replay` runs one, step by step.
#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod sim;

use std::time::Instant;

/// Seeds in the suite.
const SEEDS: u64 = 50_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn no_seed_loses_tears_or_invents_anything() {
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let summary = sim::run::run_seeds(number("LLAMAFS_SIM_FIRST", 0), number("LLAMAFS_SIM_SEEDS", SEEDS), threads);
    println!("{summary}in {} s", started.elapsed().as_secs());
    if let Some(failure) = &summary.failure {
        panic!("{failure}");
    }
    let missing = summary.hits.missing();
    assert!(summary.seeds < SEEDS || missing.is_empty(), "states that were not reached: {missing:#?}");
}

#[test]
fn lives_that_failed_once_do_not_fail_again() {
    let disks = sim::run::Disks::default();
    for (number, (seed, setup, ops)) in sim::past::lives().into_iter().enumerate() {
        let (_, _, result) = sim::run::run_life(&disks, seed, setup, &ops, false);
        assert_eq!(result, Ok(()), "life {number}, seed {seed}: {ops:#?}");
    }
}

/// Runs the seed that `LLAMAFS_SIM` names (`SEED` or `SEED:OP,OP,...`) and says what it does; else seed 0.
#[test]
fn replay() {
    let text = std::env::var("LLAMAFS_SIM").unwrap_or_else(|_| "0".to_owned());
    let (seed, keep) = match text.split_once(':') {
        Some((seed, keep)) => (seed, Some(keep.split(',').map(|at| at.parse().unwrap()).collect::<Vec<usize>>())),
        None => (text.as_str(), None),
    };
    let (_, _, result) = sim::run::run_seed(&sim::run::Disks::default(), seed.parse().unwrap(), keep.as_deref(), true);
    if let Err(text) = result {
        panic!("{text}");
    }
}
