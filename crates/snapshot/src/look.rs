//! The store as it lies there, for who only looks: nothing is opened for writing, moved or removed.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use model::Digest;
use rustix::fs::Mode;

use crate::ingest::DIRECTORY;
use crate::sealed::Seal;

/// What lies below a root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Layers that are whole.
    pub layers: Vec<Digest>,
    /// What is in their directory and is none.
    pub unsealed: Vec<PathBuf>,
    /// What was on its way in or out.
    pub ingests: Vec<PathBuf>,
}

/// Looks at the layer store below `root`, which no process need have open. Blocks on the disk.
///
/// # Errors
/// A directory that is there cannot be listed.
pub fn look(root: &Path) -> io::Result<Found> {
    let mut found = Found { ingests: entries(&root.join("ingest"))?, ..Found::default() };
    for path in entries(&root.join("layers"))? {
        match sealed(&path) {
            Some(diff_id) => found.layers.push(diff_id),
            None => found.unsealed.push(path),
        }
    }
    Ok(found)
}

fn sealed(path: &Path) -> Option<Digest> {
    let dir = rustix::fs::open(path, DIRECTORY, Mode::empty()).ok()?;
    let diff_id = Seal::read(dir.as_fd())?.diff_id;
    (path.file_name()?.to_str()? == diff_id.hex()).then_some(diff_id)
}

/// Nothing where there is no directory.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|it| it.map(|it| it.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort_unstable();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layers;

    #[test]
    fn what_is_whole_is_told_from_what_is_not_and_all_stays() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(look(root.path()).unwrap(), Found::default());
        let store = Layers::open(root.path()).unwrap();
        let ingest = store.begin().unwrap();
        let layer = "ab".repeat(32);
        std::fs::create_dir(root.path().join("layers").join(&layer)).unwrap();
        let found = look(root.path()).unwrap();
        assert!(found.layers.is_empty(), "{found:?}");
        assert_eq!(found.unsealed, [root.path().join("layers").join(&layer)]);
        assert_eq!(found.ingests, [ingest.path().parent().unwrap()]);
        assert!(found.unsealed[0].exists() && found.ingests[0].exists());
    }
}
