//! The per-pod supervisor.
fn main() {}
