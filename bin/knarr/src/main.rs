//! The knarr daemon and command line.
fn main() {}
