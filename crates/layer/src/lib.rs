//! Untrusted tar streams to directories.
#![forbid(unsafe_code)]
