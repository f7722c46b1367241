//! Any bytes as SPDY frames: no panic, no hang, bounded memory, and the same however they are cut:
//!
//! `cargo xtask fuzz spdy`
//!
//! The property tests of `streaming` call the same function on every test run.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| streaming::fuzzing::spdy(data));
