//! Any text as an image's name: no panic, and what is accepted reads back as itself.
//!
//! `cargo xtask fuzz reference`
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = model::Reference::parse(text) {
        let again = model::Reference::parse(&reference.to_string());
        assert_eq!(again.as_ref(), Ok(&reference), "{text}");
    }
});
