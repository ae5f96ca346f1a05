//! See `bodies/decoders.rs`.
#![no_main]

#[path = "../bodies/mod.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::decoders::run(data));
