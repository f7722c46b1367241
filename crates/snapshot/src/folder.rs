//! The directories the store keeps things in.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;

use rustix::fs::{Dir, Mode};
use rustix::io::Errno;

use crate::ingest::DIRECTORY;
use crate::layers::OpenError;

/// One directory of the store, held open.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) fd: OwnedFd,
}

impl Folder {
    pub(crate) fn open(path: PathBuf) -> Result<Self, OpenError> {
        let fault = |action| {
            let path = path.clone();
            move |source: io::Error| OpenError { action, path, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(fault("make"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))
            .map_err(fault("set the mode of"))?;
        let fd = rustix::fs::open(&path, DIRECTORY, Mode::empty())
            .map_err(|errno| fault("open")(errno.into()))?;
        Ok(Self { path, fd })
    }

    /// All that is in it.
    pub(crate) fn names(&self) -> Result<Vec<CString>, OpenError> {
        let fault = |errno: Errno| OpenError {
            action: "list",
            path: self.path.clone(),
            source: errno.into(),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }
}
