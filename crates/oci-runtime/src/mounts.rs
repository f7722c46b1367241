//! `mounts`: file systems, options, propagation.

use launch::plan::{FsOption, MountPlan, MountSource, Propagation};
use oci_spec::runtime::{Mount, Spec};

use crate::users::{self, Recursion};
use crate::{PlanContext, PlanError};

/// `MOUNT_ATTR_*` of `mount_setattr(2)`.
mod attr {
    pub(super) const RDONLY: u64 = 0x1;
    pub(super) const NOSUID: u64 = 0x2;
    pub(super) const NODEV: u64 = 0x4;
    pub(super) const NOEXEC: u64 = 0x8;
    /// The field of access time modes; a mode is changed by clearing the field first.
    pub(super) const ATIME: u64 = 0x70;
    pub(super) const NOATIME: u64 = 0x10;
    pub(super) const STRICTATIME: u64 = 0x20;
    pub(super) const NODIRATIME: u64 = 0x80;
    pub(super) const NOSYMFOLLOW: u64 = 0x0020_0000;
    /// Those whose clearing takes a protection away.
    pub(super) const PROTECTIVE: u64 = RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW;
}

/// Name, attributes set, attributes cleared. With a leading `r`: for submounts too.
const ATTRIBUTES: &[(&str, u64, u64)] = &[
    ("ro", attr::RDONLY, 0),
    ("rw", 0, attr::RDONLY),
    ("nosuid", attr::NOSUID, 0),
    ("suid", 0, attr::NOSUID),
    ("nodev", attr::NODEV, 0),
    ("dev", 0, attr::NODEV),
    ("noexec", attr::NOEXEC, 0),
    ("exec", 0, attr::NOEXEC),
    ("relatime", 0, attr::ATIME),
    ("noatime", attr::NOATIME, attr::ATIME),
    ("strictatime", attr::STRICTATIME, attr::ATIME),
    ("atime", 0, attr::ATIME),
    ("nodiratime", attr::NODIRATIME, 0),
    ("diratime", 0, attr::NODIRATIME),
    ("nosymfollow", attr::NOSYMFOLLOW, 0),
    ("symfollow", 0, attr::NOSYMFOLLOW),
];

/// Options that say what is so anyway.
const NOTHING: &[&str] =
    &["defaults", "async", "nomand", "nolazytime", "norelatime", "nostrictatime", "loud"];

/// Whether an option says what is so anyway, for the mount or with a leading `r` for all below it.
fn is_nothing(text: &str) -> bool {
    let recursive = text.strip_prefix('r').is_some_and(|rest| RECURSIVE_NOTHING.contains(&rest));
    NOTHING.contains(&text) || recursive
}

/// Of these there are recursive forms.
const RECURSIVE_NOTHING: &[&str] = &["norelatime", "nostrictatime"];

const PROPAGATIONS: &[(&str, Propagation)] = &[
    ("private", Propagation::Private),
    ("rprivate", Propagation::Private),
    ("slave", Propagation::Slave),
    ("rslave", Propagation::Slave),
    ("shared", Propagation::Shared),
    ("rshared", Propagation::Shared),
    ("unbindable", Propagation::Unbindable),
    ("runbindable", Propagation::Unbindable),
];

/// A mount's options, sorted out.
#[derive(Debug, Default)]
struct Options {
    set: u64,
    clear: u64,
    recursive_set: u64,
    recursive_clear: u64,
    /// A bind; with submounts?
    bind: Option<bool>,
    propagation: Propagation,
    copy_up: bool,
    idmap: Option<Recursion>,
    filesystem: Vec<FsOption>,
}

/// The mounts of a spec, in its order.
/// `own_users`: the container is in a user namespace.
pub(crate) fn mounts(
    spec: &Spec,
    own_users: bool,
    context: &PlanContext<'_>,
) -> Result<Vec<MountPlan>, PlanError> {
    let label = spec.linux().as_ref().and_then(crate::label);
    let mut plans = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let mut plan = one(mount, own_users, context)?;
        plan.label = label.clone().filter(|_| takes_label(&plan.source));
        plans.push(plan);
    }
    Ok(plans)
}

/// Whether the files of a mount are the container's own. The kernel labels those of `proc` and its
/// like itself, what is bound has its labels already.
fn takes_label(source: &MountSource) -> bool {
    match source {
        MountSource::New { fstype, .. } => matches!(&fstype[..], "tmpfs" | "devpts" | "mqueue"),
        // Layers keep the label they have on disk: an overlay may give them the container's.
        MountSource::Image { .. } => true,
        MountSource::Bind { .. } | MountSource::Cgroup | MountSource::Launcher { .. } => false,
    }
}

fn one(mount: &Mount, own_users: bool, context: &PlanContext<'_>) -> Result<MountPlan, PlanError> {
    let field = format!("mounts[{}]", mount.destination().display());
    let options = parse(mount.options().iter().flatten(), &field)?;
    let (attr_set, attr_clear, attr_recursive) = attributes(&options, &field)?;
    let ids = users::mount_ids(mount, &field, options.idmap, own_users)?;
    let propagation = options.propagation;
    let source = source(mount, options, context, &field)?;
    let bound = match source {
        MountSource::Bind { .. } | MountSource::Launcher { .. } | MountSource::Image { .. } => true,
        MountSource::New { .. } | MountSource::Cgroup => false,
    };
    if ids.is_some() && !bound {
        return Err(PlanError::unsupported(format!("{field}: mapped ids without a bind mount")));
    }
    Ok(MountPlan {
        target: target(mount, &field)?,
        propagation,
        source,
        attr_set,
        attr_clear,
        attr_recursive,
        ids,
        label: None,
    })
}

fn target(mount: &Mount, field: &str) -> Result<String, PlanError> {
    let refuse = |want| PlanError::invalid(format!("{field}.destination"), field, want);
    let text = mount.destination().to_str().ok_or_else(|| refuse("UTF-8"))?;
    let names: Vec<&str> = text.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.is_empty() || names.contains(&"..") || text.contains('\0') {
        return Err(refuse("a path below the root, without `..`"));
    }
    Ok(format!("/{}", names.join("/")))
}

fn parse<'a>(texts: impl Iterator<Item = &'a String>, field: &str) -> Result<Options, PlanError> {
    let mut options = Options::default();
    for text in texts {
        let text = text.as_str();
        if let Some((set, clear)) = attribute(text) {
            options.set = options.set & !clear | set;
            options.clear = options.clear & !set | clear;
        } else if let Some((set, clear)) = text.strip_prefix('r').and_then(attribute) {
            options.recursive_set = options.recursive_set & !clear | set;
            options.recursive_clear = options.recursive_clear & !set | clear;
        } else if let Some((_, propagation)) = PROPAGATIONS.iter().find(|(name, _)| *name == text) {
            options.propagation = *propagation;
        } else if is_nothing(text) {
        } else {
            match text {
                "bind" => options.bind = Some(options.bind.unwrap_or(false)),
                "rbind" => options.bind = Some(true),
                "tmpcopyup" => options.copy_up = true,
                "idmap" => options.idmap = Some(options.idmap.unwrap_or(Recursion::Top)),
                "ridmap" => options.idmap = Some(Recursion::Submounts),
                "remount" | "" => {
                    return Err(PlanError::unsupported(format!("{field}.options: `{text}`")));
                }
                _ => options.filesystem.push(filesystem_option(text)),
            }
        }
    }
    Ok(options)
}

/// Every option that is not handed to a file system.
pub(crate) fn known_options() -> Vec<String> {
    let attributes =
        ATTRIBUTES.iter().flat_map(|(name, ..)| [(*name).to_owned(), format!("r{name}")]);
    let others = ["bind", "rbind", "tmpcopyup", "idmap", "ridmap"];
    let mut all: Vec<String> = attributes
        .chain(NOTHING.iter().map(|name| (*name).to_owned()))
        .chain(RECURSIVE_NOTHING.iter().map(|name| format!("r{name}")))
        .chain(PROPAGATIONS.iter().map(|(name, _)| (*name).to_owned()))
        .chain(others.map(str::to_owned))
        .collect();
    all.sort();
    all
}

/// Whether an option is handed to the file system, which may know it.
#[cfg(test)]
pub(crate) fn is_file_systems(option: &str) -> bool {
    let options = parse(std::iter::once(&option.to_owned()), "mounts").unwrap();
    !options.filesystem.is_empty()
}

fn attribute(name: &str) -> Option<(u64, u64)> {
    ATTRIBUTES.iter().find(|(known, ..)| *known == name).map(|(_, set, clear)| (*set, *clear))
}

fn filesystem_option(text: &str) -> FsOption {
    match text.split_once('=') {
        Some((key, value)) => FsOption { key: key.into(), value: Some(value.into()) },
        None => FsOption { key: text.into(), value: None },
    }
}

/// The plan's one pair of masks: recursive if any option is.
///
/// Then plain options reach submounts too: setting more there only protects more, so only
/// clearing a protection has to be refused.
fn attributes(options: &Options, field: &str) -> Result<(u64, u64, bool), PlanError> {
    let recursive = options.recursive_set | options.recursive_clear != 0;
    if !recursive {
        return Ok((options.set, options.clear, false));
    }
    let plain_clear = options.clear & !options.recursive_set;
    if plain_clear & attr::PROTECTIVE & !options.recursive_clear != 0 {
        return Err(PlanError::unsupported(format!(
            "{field}.options: `rw`, `suid`, `dev` or `exec` beside recursive options"
        )));
    }
    let set = options.set & !options.recursive_clear | options.recursive_set;
    Ok((set, plain_clear | options.recursive_clear, true))
}

fn source(
    mount: &Mount,
    options: Options,
    context: &PlanContext<'_>,
    field: &str,
) -> Result<MountSource, PlanError> {
    let fstype = mount.typ().as_deref().unwrap_or_default();
    let bind = options.bind.or_else(|| (fstype == "bind").then_some(false));
    if options.copy_up && (bind.is_some() || fstype != "tmpfs") {
        return Err(PlanError::unsupported(format!("{field}.options: `tmpcopyup` without tmpfs")));
    }
    let no_options = |kind: &str| match options.filesystem.first() {
        Some(option) => {
            Err(PlanError::unsupported(format!("{field}.options: `{}` of {kind}", option.key)))
        }
        None => Ok(()),
    };
    match (bind, fstype) {
        (Some(recursive), _) => {
            no_options("a bind mount")?;
            bind_source(mount, recursive, context, field)
        }
        (None, "cgroup" | "cgroup2") => {
            no_options("cgroup")?;
            Ok(MountSource::Cgroup)
        }
        (None, "" | "none") => Err(PlanError::invalid(
            format!("{field}.type"),
            fstype,
            "a file system, or `bind` or `rbind` among the options",
        )),
        (None, _) => {
            let named = mount.source().as_ref().and_then(|path| path.to_str());
            Ok(MountSource::New {
                fstype: fstype.to_owned(),
                source: named.filter(|name| !name.is_empty()).unwrap_or(fstype).to_owned(),
                options: options.filesystem,
                copy_up: options.copy_up,
            })
        }
    }
}

fn bind_source(
    mount: &Mount,
    recursive: bool,
    context: &PlanContext<'_>,
    field: &str,
) -> Result<MountSource, PlanError> {
    let refuse = |want| PlanError::invalid(format!("{field}.source"), field, want);
    let source = mount.source().as_ref().ok_or_else(|| refuse("a path to bind"))?;
    let source = source.to_str().filter(|path| !path.is_empty() && !path.contains('\0'));
    let source = source.ok_or_else(|| refuse("a UTF-8 path"))?;
    let path = match (source.starts_with('/'), context.bundle) {
        (true, _) => source.to_owned(),
        (false, Some(bundle)) => format!("{bundle}/{source}"),
        (false, None) => return Err(refuse("an absolute path")),
    };
    if context.launcher_paths.contains(&path) {
        return Ok(MountSource::Launcher { path });
    }
    let image = context.image_trees.iter().find_map(|tree| Some((tree, below(&path, &tree.path)?)));
    if let Some((tree, sub_path)) = image {
        return Ok(MountSource::Image { lower: tree.lower.clone(), sub_path: sub_path.to_owned() });
    }
    Ok(MountSource::Bind { path, recursive })
}

/// The rest of a path at or below `top`.
fn below<'p>(path: &'p str, top: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(top)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}
