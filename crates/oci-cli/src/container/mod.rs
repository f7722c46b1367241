//! A container is a directory below the root:
//!
//! ```text
//! <root>/<id>/config.json   the specification it was created from
//!             state.json    the record: bundle, time, first process
//!             gate          the socket by which the first process is started; gone once it was
//!             lock          held by whoever changes the container
//!             root/         empty; the container's root is put together on it, in its own namespace
//! ```
//!
//! The record is written before anything is made and again when the first process is known, so that
//! `delete --force` finds whatever a creator that was killed has left. It says where the processes are, so
//! that they are found without the specification, too.

mod record;
mod status;
mod store;

pub(crate) use record::{FORMAT, Init, Record, place_of};
pub(crate) use status::Status;
pub(crate) use store::{Container, Lock, Store, parse_spec, write_atomically};
