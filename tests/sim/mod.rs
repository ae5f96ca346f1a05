//! The simulator: seeds become plans (`plan`), plans are carried out on a store and on its model (`world`, `aging`,
//! `names`, `mount`, `model`), rare states are counted (`states`), failures are made small (`run`).
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may panic, also in its helpers"
)]

pub mod aging;
pub mod model;
pub mod mount;
pub mod names;
pub mod past;
pub mod plan;
pub mod rng;
pub mod run;
pub mod states;
pub mod world;
