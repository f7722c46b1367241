//! CRI configuration to OCI runtime spec.
#![forbid(unsafe_code)]
