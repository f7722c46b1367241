//! `knarr image unpack`: a bundle for OCI runtimes, made of an image without a daemon.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use image::{Credentials, Source};
use model::{IdMapping, IdMaps, Reference, ResolvedUser, RunAs};
use oci_spec::runtime::Spec;
use rustix::fs::OFlags;
use sys::fs::Symlinks;
use sys::userns::Mapper;

use crate::{config, subordinate};

/// No user database is larger.
const ACCOUNTS_MAX: u64 = 4 << 20;
/// Below the bundle, while it is made.
const SCRATCH: &str = ".unpacking";

/// Makes the bundle, whole or not at all. An ordinary user's belongs to that user, who is root in it.
pub(crate) fn run(asked: &cli::verbs::Unpack) -> Result<()> {
    let credentials = asked.login()?.map(|(user, password)| Credentials::Basic { user, password });
    let source = source(&asked.image, credentials.unwrap_or_default())?;
    let loaded = config::load(asked.config.as_deref())?;
    let bundle = &asked.bundle;
    let there = bundle.exists();
    if there {
        let mut entries = std::fs::read_dir(bundle).with_context(|| name(bundle))?;
        ensure!(entries.next().is_none(), "{} is not empty", bundle.display());
    }
    // Before there is a second thread.
    let maps = enter_own_users()?;
    std::fs::create_dir_all(bundle).with_context(|| name(bundle))?;
    let made = make(&loaded.config.image().registry, &source, bundle, maps.as_ref());
    if made.is_err() {
        discard(bundle, there).context("after a failure")?;
    }
    made
}

/// An ordinary user goes on as root of a user namespace: with the ids he was given, or alone. None: for root.
fn enter_own_users() -> Result<Option<IdMaps>> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return Ok(None);
    }
    let (uid, gid) = (uid.as_raw(), gid.as_raw());
    let given = subordinate::maps(uid, gid).context("cannot read which ids this user was given")?;
    if let Some(maps) = given {
        sys::userns::enter_new(&maps, Mapper::Helpers).context(
            "newuidmap or newgidmap does not map the ids of /etc/subuid and /etc/subgid for this user",
        )?;
        return Ok(Some(maps));
    }
    sys::userns::become_own_root().context("cannot make a user namespace to unpack in")?;
    let own = |host_id| vec![IdMapping { container_id: 0, host_id, length: 1 }];
    Ok(Some(IdMaps { uids: own(uid), gids: own(gid) }))
}

/// Whether there is more than one user.
fn has_others(maps: &IdMaps) -> bool {
    maps.uids.len() > 1
}

/// Where the image is: `oci:DIR[:NAME]`, `docker-archive:` or `oci-archive:FILE[:NAME]`, the path of
/// what is there, else a name in a registry.
fn source(text: &str, credentials: Credentials) -> Result<Source> {
    for transport in ["oci:", "oci-archive:", "docker-archive:"] {
        if let Some(rest) = text.strip_prefix(transport) {
            return archive(rest).with_context(|| format!("there is no {rest}"));
        }
    }
    if text.starts_with(['/', '.']) {
        return archive(text).with_context(|| format!("there is no {text}"));
    }
    let name = text.strip_prefix("docker://").unwrap_or(text);
    match Reference::parse(name) {
        Ok(reference) => Ok(Source::Registry { reference, credentials }),
        Err(error) => bail!("`{text}` is neither a file nor an image's name: {error}"),
    }
}

fn archive(text: &str) -> Option<Source> {
    let whole = Path::new(text);
    if whole.exists() {
        return Some(Source::Archive { path: whole.to_owned(), name: None });
    }
    // Names may have colons, and so may paths: the shortest path that is there is meant.
    text.match_indices(':').find_map(|(at, _)| {
        let (path, name) = (Path::new(&text[..at]), &text[at + 1..]);
        let there = path.exists() && !name.is_empty();
        there.then(|| Source::Archive { path: path.to_owned(), name: Some(name.to_owned()) })
    })
}

fn make(
    registry: &registry::Config,
    source: &Source,
    bundle: &Path,
    maps: Option<&IdMaps>,
) -> Result<()> {
    let (rootfs, scratch) = (bundle.join("rootfs"), bundle.join(SCRATCH));
    for dir in [&rootfs, &scratch] {
        std::fs::create_dir(dir).with_context(|| name(dir))?;
    }
    let rights = match maps {
        None => layer::Rights::Root,
        Some(maps) if has_others(maps) => layer::Rights::Subordinate,
        Some(_) => layer::Rights::Ordinary,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let making = image::make_rootfs(registry.clone(), source, &rootfs, &scratch, rights);
    let image = runtime.block_on(making)?;
    std::fs::remove_dir(&scratch).with_context(|| name(&scratch))?;
    let root = sys::fs::open_dir(rootfs.as_path()).with_context(|| name(&rootfs))?;
    let [passwd, group] = ["etc/passwd", "etc/group"].map(|file| accounts(&root, file));
    let (run_as, wanted) = (RunAs::default(), &image.config.user);
    let mut user = bundle::resolve_user(&run_as, wanted, &passwd?, &group?)?;
    if !rights.keep_owners() {
        if (user.uid, user.gid) != (0, 0) {
            let what = format!("the image's user is {wanted}: this user alone is there, as root\n");
            io::stderr().write_all(what.as_bytes())?;
        }
        // Nor can the user have groups that the image gives root.
        user = ResolvedUser { uid: 0, gid: 0, groups: vec![0], home: user.home };
    }
    let v2 = sys::cgroup::detect().is_ok_and(|layout| layout.is_v2());
    let own = maps.and_then(|maps| Some((maps.host_uid(0)?, maps.host_gid(0)?)));
    let mut general = oci_cli::general_spec(own, v2);
    if let Some(maps) = maps {
        general["linux"]["uidMappings"] = ranges(&maps.uids);
        general["linux"]["gidMappings"] = ranges(&maps.gids);
    }
    let general: Spec = serde_json::from_value(general)?;
    let spec = bundle::image_spec(general, &image, &user);
    let path = bundle.join("config.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&spec)?);
    std::fs::write(&path, text).with_context(|| name(&path))
}

/// As the specification has them.
fn ranges(map: &[IdMapping]) -> serde_json::Value {
    let range = |it: &IdMapping| {
        serde_json::json!({
            "containerID": it.container_id, "hostID": it.host_id, "size": it.length
        })
    };
    map.iter().map(range).collect()
}

/// A text of the image's; nothing where there is none. The image may have a link there to anywhere.
fn accounts(root: &OwnedFd, path: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match sys::fs::open_in_root(root.as_fd(), path, flags, Symlinks::Follow) {
        Ok(file) => std::fs::File::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot open the image's {path}")),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut text = Vec::new();
    file.take(ACCOUNTS_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Takes away what was made of the bundle.
fn discard(bundle: &Path, was_there: bool) -> Result<()> {
    for part in ["rootfs", SCRATCH, "config.json"] {
        let path = bundle.join(part);
        let removed = match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(_absent) => Ok(()),
        };
        removed.with_context(|| name(&path))?;
    }
    if !was_there {
        std::fs::remove_dir(bundle).with_context(|| name(bundle))?;
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.display().to_string()
}
