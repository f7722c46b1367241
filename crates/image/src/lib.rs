//! Image records and pulls.
#![forbid(unsafe_code)]
