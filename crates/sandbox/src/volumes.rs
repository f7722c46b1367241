//! Anonymous volumes: directories that images declare. Blocking.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use sys::fs::Symlinks;

use crate::files::{self, FileError};

/// Makes `to` and copies into it what the image (its merged tree) has at `path`; an image that has
/// nothing there, or a file, leaves it empty.
pub(crate) fn fill(image: &OwnedFd, path: &str, to: &Path) -> Result<(), FileError> {
    files::make_dir(to)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = match sys::fs::open_in_root(image.as_fd(), path, flags, Symlinks::Follow) {
        Ok(from) => from,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return open_to_all(to);
        }
        Err(error) => return Err(FileError::at("open the image's", Path::new(path))(error)),
    };
    let target = sys::fs::open_dir(to).map_err(FileError::at("open", to))?;
    sys::copy::copy_tree(from.as_fd(), target.as_fd()).map_err(FileError::at("fill", to))
}

/// An empty volume is usable by the container's user like any directory an image would bring.
fn open_to_all(dir: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))
        .map_err(FileError::at("change the mode of", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_begins_with_what_the_image_has_there_and_stays_inside_it() {
        let scratch = tempfile::tempdir().unwrap();
        let image = scratch.path().join("image");
        std::fs::create_dir_all(image.join("data/sub")).unwrap();
        std::fs::write(image.join("data/sub/file"), "text").unwrap();
        std::os::unix::fs::symlink("/data", image.join("link")).unwrap();
        let root = sys::fs::open_dir(&image).unwrap();
        for (number, path) in ["/data", "/link", "/../../data"].into_iter().enumerate() {
            let to = scratch.path().join(number.to_string());
            fill(&root, path, &to).unwrap();
            assert_eq!(std::fs::read_to_string(to.join("sub/file")).unwrap(), "text", "{path}");
        }
        let empty = scratch.path().join("empty");
        fill(&root, "/none", &empty).unwrap();
        assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
    }
}
