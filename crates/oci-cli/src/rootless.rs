//! Ordinary users: this program goes on as root of a user namespace, with the rights of its caller.
//!
//! For a new container that is the one its specification asks for, for a further process that of its
//! container. There the program is executed anew, because what it was before belongs to the host's
//! namespace, and the rest goes on as for root. Cgroups are those of `delegated`, or none.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;

use launch::Groups;
use model::{IdMapping, IdMaps};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};
use sys::namespace::{self, Kind};
use sys::userns::Mapper;

use crate::args::{Arguments, Verb};
use crate::container::Store;
use crate::error::{At as _, OciError};
use crate::own_program;

/// The option by which this program tells itself that it is in the namespace.
const INSIDE: &str = "--in-user-namespace";

/// Goes on in a user namespace, unless the caller is root or it does already.
pub(crate) fn enter(
    parsed: &Arguments,
    arguments: &[OsString],
    root: &Path,
) -> Result<(), OciError> {
    if parsed.in_user_namespace || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    match &parsed.verb {
        Verb::Create(args) => make(&args.new.bundle)?,
        Verb::Run(args) => make(&args.new.bundle)?,
        Verb::Exec(args) => join(&Store::new(root)?, &args.id)?,
        Verb::Start(_)
        | Verb::State(_)
        | Verb::Kill(_)
        | Verb::Delete(_)
        | Verb::List(_)
        | Verb::Ps(_)
        | Verb::Pause(_)
        | Verb::Resume(_)
        | Verb::Update(_)
        | Verb::Events(_)
        | Verb::Features
        | Verb::Spec(_) => return Ok(()),
    }
    let (name, rest) = arguments.split_first().unzip();
    let mut again: Vec<OsString> = name.cloned().into_iter().collect();
    again.extend([INSIDE.into(), "--root".into(), root.into()]);
    again.extend(rest.into_iter().flatten().cloned());
    if parsed.root.is_some() {
        // It was said already, and is said once.
        again.drain(2..4);
    }
    own_program::execute_again(&again)
}

/// Makes the user namespace that a bundle asks for.
fn make(bundle: &Path) -> Result<(), OciError> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).at("read", &path)?;
    let (spec, _) = crate::container::parse_spec(&path, &text)?;
    let linux = spec.linux().as_ref().ok_or(OciError::NoUserNamespace)?;
    let mut users = linux.namespaces().iter().flatten();
    let user = users.find(|one| one.typ() == LinuxNamespaceType::User);
    let user = user.ok_or(OciError::NoUserNamespace)?;
    let joined = user.path().as_ref().filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = joined {
        let file = std::fs::File::open(path).at("open", path)?;
        namespace::enter(file.as_fd(), Kind::User).at("enter", path)?;
        return namespace::unshare(&[Kind::Mount]).step("leave the host's mount namespace");
    }
    let maps = IdMaps { uids: ranges(linux.uid_mappings()), gids: ranges(linux.gid_mappings()) };
    let mapper = if is_own(&maps) { Mapper::Own } else { Mapper::Helpers };
    sys::userns::enter_new(&maps, mapper).map_err(|source| OciError::UserNamespace { source })
}

/// Whether only the caller itself is mapped.
fn is_own(maps: &IdMaps) -> bool {
    let one =
        |map: &[IdMapping], own: u32| matches!(map, [one] if one.host_id == own && one.length == 1);
    one(&maps.uids, rustix::process::geteuid().as_raw())
        && one(&maps.gids, rustix::process::getegid().as_raw())
}

fn ranges(mappings: &Option<Vec<LinuxIdMapping>>) -> Vec<IdMapping> {
    let range = |mapping: &LinuxIdMapping| IdMapping {
        container_id: mapping.container_id(),
        host_id: mapping.host_id(),
        length: mapping.size(),
    };
    mappings.iter().flatten().map(range).collect()
}

/// Enters the user namespace of a container.
fn join(store: &Store, id: &str) -> Result<(), OciError> {
    let init = store.open(id)?.record()?.init.and_then(|init| init.open());
    let init = init.ok_or_else(|| OciError::NotRunning { id: id.to_owned() })?;
    let failed = |source| OciError::UserNamespace { source };
    namespace::enter_of(init.as_fd(), &[Kind::User]).map_err(failed)?;
    sys::credentials::set_gid(0).map_err(failed)?;
    sys::credentials::set_uid(0).map_err(failed)?;
    namespace::unshare(&[Kind::Mount]).map_err(failed)
}

/// A specification as it is to be executed in the namespace it asks for.
pub(crate) fn inside(mut spec: Spec) -> Spec {
    let Some(linux) = spec.linux_mut() else { return spec };
    if let Some(namespaces) = linux.namespaces_mut() {
        namespaces.retain(|one| one.typ() != LinuxNamespaceType::User);
    }
    linux.set_uid_mappings(None);
    linux.set_gid_mappings(None);
    free_devices(linux);
    spec
}

/// Root of a user namespace makes no devices: what it can open are those that its user can.
fn free_devices(linux: &mut Linux) {
    let all = oci_spec::runtime::LinuxDeviceCgroupBuilder::default().allow(true).access("rwm");
    let resources = linux.resources_mut().get_or_insert_default();
    resources.set_devices(all.build().ok().map(|all| vec![all]));
}

/// What may be done to groups here, for a program in a user namespace that is its containers'.
pub(crate) fn groups(in_user_namespace: bool) -> Option<Groups> {
    if !in_user_namespace {
        return None;
    }
    let setting = std::fs::read_to_string("/proc/self/setgroups").unwrap_or_default();
    Some(if setting.trim() == "deny" { Groups::Kept } else { Groups::Free })
}
