//! The table that leads from CRI fields to `config.json`, row by row: what a field changes in the
//! spec, and that it changes nothing else. `base.json` is the spec of a container that asks for
//! nothing; every row is the difference from it.
#![forbid(unsafe_code)]
#![cfg(test)]

mod case;
mod devices;
mod isolation;
mod limits;
mod mounts;
mod process;
