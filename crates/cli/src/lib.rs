//! The command line's verbs.
#![forbid(unsafe_code)]
