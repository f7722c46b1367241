//! Any bytes as a SPDY header block: no panic, no hang, bounded memory, and the same however they are cut:
//!
//! `cargo xtask fuzz headers`
//!
//! The property tests of `streaming` call the same function on every test run.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| streaming::fuzzing::headers(data));
