//! Safe kernel calls.
