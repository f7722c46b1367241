//! Any text as a `hosts.toml`: no panic, and what is accepted makes endpoints with URLs.
//!
//! `cargo xtask fuzz hosts`
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        registry::fuzzing::hosts(text);
    }
});
