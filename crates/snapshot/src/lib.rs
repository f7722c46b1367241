//! Overlay snapshotter.
#![forbid(unsafe_code)]
