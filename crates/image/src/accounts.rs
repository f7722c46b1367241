//! The users and groups an image brings: its `/etc/passwd` and `/etc/group`.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use model::Digest;
use snapshot::{ReadError, ViewError};

use crate::image::Image;
use crate::images::Inner;

/// Longer files are refused: nobody needs so many users, and they would be held in memory.
const FILE_MAX: u64 = 1 << 20;
/// Images whose accounts are remembered.
const CACHED: usize = 16;

/// Account files; empty where the image has none. Bytes that are no UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    /// `/etc/passwd`
    pub passwd: String,
    /// `/etc/group`
    pub group: String,
}

/// Why an image's accounts cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The file system of the image cannot be put together.
    #[error("cannot look into image {id}")]
    View {
        /// The image.
        id: Digest,
        /// Why.
        #[source]
        source: ViewError,
    },
    /// One of the files cannot be read, or is too long.
    #[error("cannot read /{file} of image {id}")]
    Read {
        /// The image.
        id: Digest,
        /// Which file.
        file: &'static str,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The program is shutting down.
    #[error("interrupted by shutdown")]
    ShuttingDown,
}

/// Layers never change, so neither do the accounts of an image id.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<VecDeque<(Digest, Arc<Accounts>)>>);

impl Cache {
    pub(crate) fn get(&self, id: &Digest) -> Option<Arc<Accounts>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().find(|(known, _)| known == id).map(|(_, accounts)| Arc::clone(accounts))
    }

    fn put(&self, id: Digest, accounts: Arc<Accounts>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(known, _)| *known != id);
        entries.push_front((id, accounts));
        entries.truncate(CACHED);
    }
}

impl Inner {
    /// Blocks on the disk.
    pub(crate) fn read_accounts(&self, image: &Image) -> Result<Arc<Accounts>, AccountsError> {
        let _hold = self.slots.hold(&image.diff_ids);
        let merged = self
            .layers
            .open_merged(&image.diff_ids)
            .map_err(|source| AccountsError::View { id: image.id, source })?;
        let read = |file| {
            let bytes = snapshot::read_file_in(merged.as_fd(), file, FILE_MAX)
                .map_err(|source| AccountsError::Read { id: image.id, file, source })?;
            Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
        };
        let accounts =
            Arc::new(Accounts { passwd: read("etc/passwd")?, group: read("etc/group")? });
        self.accounts.put(image.id, Arc::clone(&accounts));
        Ok(accounts)
    }
}
