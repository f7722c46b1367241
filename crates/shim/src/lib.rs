//! The per-pod supervisor's event loop.
#![forbid(unsafe_code)]
