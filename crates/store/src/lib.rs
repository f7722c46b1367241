//! Durable records.
#![forbid(unsafe_code)]
