//! Whether this kernel, as it is configured, can give containers user namespaces.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use model::{IdMapping, IdMaps};
use rustix::fs::AtFlags;

use crate::error::{At, LaunchError, Step};
use crate::ids;
use crate::user;

/// Tries it: a user namespace, and in `dir` (which is made, and removed again) an overlay with an
/// id-mapped layer. `dir` is to be on the file system that holds layers and containers.
///
/// Blocks, and on older kernels moves the calling thread between mount namespaces: call it on a
/// thread that ends afterwards.
///
/// # Errors
/// Why it cannot.
pub fn probe_user_namespaces(dir: &Path) -> Result<(), LaunchError> {
    remove(dir)?;
    let tried = attempt(dir);
    remove(dir)?;
    tried
}

fn attempt(dir: &Path) -> Result<(), LaunchError> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let [lower, upper, work] = ["lower", "upper", "work"].map(path);
    for name in [&lower, &upper, &work] {
        std::fs::create_dir_all(name).at(Step::Root, name)?;
    }
    let file = path("lower/file");
    std::fs::write(&file, "").at(Step::Root, &file)?;
    let range = IdMapping { container_id: 0, host_id: 65_536, length: 65_536 };
    let ids = IdMaps { uids: vec![range], gids: vec![range] };
    let user = user::make(&ids, &[])?.user;
    let root = ids::overlay(&[lower], Some((&upper, &work)), user.as_fd(), None)
        .map_err(|(subject, error)| LaunchError::new(Step::Root, subject, error))?;
    let stat =
        rustix::fs::statat(&root, "file", AtFlags::SYMLINK_NOFOLLOW).at(Step::Root, &file)?;
    if stat.st_uid == range.host_id {
        Ok(())
    } else {
        let cause = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        Err(LaunchError::new(Step::MapIds, file, cause))
    }
}

fn remove(dir: &Path) -> Result<(), LaunchError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at(Step::Root, &dir.to_string_lossy()),
    }
}
