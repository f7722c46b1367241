//! What the targets in `fuzz/` feed, and nobody else uses.

use std::path::Path;

/// Reads `text` as the `hosts.toml` of a registry.
///
/// # Panics
/// Something accepted is not what was promised.
pub fn hosts(text: &str) {
    if let Ok(entries) = crate::hosts::file::parse(text, Path::new("/d/hosts.toml"), "a.example") {
        for entry in entries {
            assert!(entry.base.path().ends_with('/'), "{}", entry.base);
        }
    }
}
