//! Durable records: one small, checksummed, versioned text file per object.
//!
//! A record file is one header line (`{"knarr":KIND,"version":N,"crc32":"…","bytes":N}`) and a
//! JSON body that an operator can read. It is replaced by write-and-rename, so a reader sees the
//! old or the new record, never a mixture; a file torn by a power cut is told by its checksum
//! and costs one object, not the store.
//!
//! Never here: what the records mean, async, protobuf. Every call blocks on the disk.
//!
//! Main types: [`Record`], [`RecordFile`], [`Durability`], [`Disk`] (the seam at which tests
//! inject failures), [`Names`].
#![forbid(unsafe_code)]

mod disk;
mod names;
mod record;

pub use disk::{Disk, RealDisk};
pub use names::{NameTaken, Names};
pub use record::{Durability, ReadError, Record, RecordFile, WriteError};
