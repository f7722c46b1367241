//! Scratch roots, test images, registry and CRI client for tests.
#![forbid(unsafe_code)]
