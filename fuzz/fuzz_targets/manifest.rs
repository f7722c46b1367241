//! Any bytes as a manifest or index, as a registry might send them: no panic.
//!
//! `cargo xtask fuzz manifest`
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for media_type in ["", "application/vnd.oci.image.index.v1+json"] {
        drop(registry::pick(data, media_type, &model::Platform::host(), "fuzz"));
    }
});
