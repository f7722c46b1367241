//! Pod and container state machines.
#![forbid(unsafe_code)]
