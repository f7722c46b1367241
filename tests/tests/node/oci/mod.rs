//! The program as an OCI runtime.

mod agents;
mod containerd;
mod escapes;
mod exec;
mod hostile;
mod lifecycle;
mod limits;
mod network;
mod placement;
mod podman;
mod process;
mod races;
mod redirected;
mod rootless;
mod states;
mod terminal;
mod words;
