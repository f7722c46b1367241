//! CNI engine and built-in plugins.
#![forbid(unsafe_code)]
