//! The program as an OCI runtime.

mod containerd;
mod escapes;
mod exec;
mod lifecycle;
mod limits;
mod races;
mod terminal;
mod words;
