//! The mounts that need the host's view, made detached before the clone: the root, binds, the v1
//! cgroup directories, `/dev/null` for masks. They are in nobody's mount table until the child puts
//! them into its own, and gone when it is.

pub(crate) mod image;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::mount::{Change, FsContext, Propagation};

use crate::error::{At, LaunchError, Step};
use crate::ids::{self, Own};
use crate::launcher::Launcher;
use crate::nodes::Nodes;
use crate::plan::{self, CgroupPlan, Hierarchy, LaunchPlan, MountPlan, MountSource, RootSource};

/// Every mount made before the clone.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: OwnedFd,
    /// One per mount of the plan, in its order.
    pub(crate) mounts: Vec<Detached>,
    /// The host's `/dev/null`, when the plan masks something.
    pub(crate) null: Option<OwnedFd>,
    /// The host's device nodes, when the child cannot make any.
    pub(crate) nodes: Option<Nodes>,
}

/// One mount of the plan.
#[derive(Debug)]
pub(crate) enum Detached {
    /// Ready to be attached.
    Ready(OwnedFd),
    /// v1 hierarchies, to be attached below a tmpfs.
    Hierarchies(Vec<HierarchyView>),
    /// An image of which only a directory is wanted: the child attaches it, copies that out and
    /// lets go of the rest.
    Whole(OwnedFd),
    /// The child makes it: it depends on the namespaces the child is in.
    InChild,
}

/// A container's own directory of one v1 (or named, or hybrid unified) hierarchy.
#[derive(Debug)]
pub(crate) struct HierarchyView {
    /// Directory name, as on the host: `cpu,cpuacct`.
    pub(crate) name: String,
    /// Controllers that get a symlink of their own.
    pub(crate) links: Vec<String>,
    pub(crate) mount: OwnedFd,
}

impl Tree {
    /// Makes what needs the host's mount namespace; call it there, after the cgroups exist. `user`
    /// is the plan's user namespace.
    pub(crate) fn assemble(
        plan: &LaunchPlan,
        user: Option<BorrowedFd<'_>>,
    ) -> Result<Self, LaunchError> {
        let own = own(plan, user);
        let root = root(&plan.root, own)?;
        let cgroupns = plan.namespaces.cgroup == plan::Namespace::New;
        let mounts = plan
            .mounts
            .iter()
            .map(|mount| detached(mount, &plan.cgroup, cgroupns, own))
            .collect::<Result<_, _>>()?;
        let null = if plan.masked_paths.is_empty() { None } else { Some(null()?) };
        let empty = plan.root.source == RootSource::Empty;
        let nodes = if own.is_some() && !empty { Some(Nodes::take(plan)?) } else { None };
        Ok(Self { root, mounts, null, nodes })
    }

    /// Makes what lies in the launcher's own mount namespace; call it there.
    pub(crate) fn add_own(
        &mut self,
        plan: &LaunchPlan,
        user: Option<BorrowedFd<'_>>,
    ) -> Result<(), LaunchError> {
        for (mount, slot) in plan.mounts.iter().zip(&mut self.mounts) {
            if let MountSource::Launcher { path } = &mount.source {
                let copy =
                    sys::mount::clone_path(path.as_str(), false).at(Step::BindSource, path)?;
                ids::map(&copy, mount, path, own(plan, user))?;
                apply(&copy, mount).at(Step::MountAttributes, &mount.target)?;
                *slot = Detached::Ready(copy);
            }
        }
        Ok(())
    }
}

pub(crate) fn own<'a>(plan: &'a LaunchPlan, user: Option<BorrowedFd<'a>>) -> Option<Own<'a>> {
    let ids = plan.process.user_ids.as_ref();
    user.zip(ids).map(|(user, ids)| Own { user, ids })
}

fn detached(
    mount: &MountPlan,
    cgroup: &CgroupPlan,
    cgroupns: bool,
    own: Option<Own<'_>>,
) -> Result<Detached, LaunchError> {
    match &mount.source {
        MountSource::Bind { path, recursive } => {
            let copy =
                sys::mount::clone_path(path.as_str(), *recursive).at(Step::BindSource, path)?;
            // Only what has never been in a mount table can be mapped.
            ids::map(&copy, mount, path, own)?;
            apply(&copy, mount).at(Step::MountAttributes, &mount.target)?;
            Ok(Detached::Ready(copy))
        }
        MountSource::Image { lower, sub_path } => image::detached(lower, sub_path, mount, own),
        MountSource::Cgroup => cgroup_view(mount, cgroup, cgroupns),
        // `Launcher` follows in `add_own`.
        MountSource::New { .. } | MountSource::Launcher { .. } => Ok(Detached::InChild),
    }
}

fn cgroup_view(
    mount: &MountPlan,
    cgroup: &CgroupPlan,
    cgroupns: bool,
) -> Result<Detached, LaunchError> {
    match cgroup.groups.as_slice() {
        // A launcher that may not make any shows what there is.
        [] if mount.attr_set & sys::mount::ATTR_RDONLY != 0 => {
            const HOSTS: &str = "/sys/fs/cgroup";
            let copy = sys::mount::clone_path(HOSTS, true).at(Step::BindSource, HOSTS)?;
            // The hierarchies are mounts of their own below it (CVE-2023-25809).
            let whole = MountPlan { attr_recursive: true, ..mount.clone() };
            apply(&copy, &whole).at(Step::MountAttributes, &mount.target)?;
            Ok(Detached::Ready(copy))
        }
        [] => Err(LaunchError::bad_plan("a cgroup mount without cgroups")),
        [only] if only.hierarchy == Hierarchy::V2 => {
            if cgroupns {
                return Ok(Detached::InChild);
            }
            // Mounting cgroup2 anew in the host's cgroup namespace would reset the options
            // (nsdelegate, …) of the only instance there is: show the host's mount instead.
            let copy = sys::mount::clone_path(only.mountpoint.as_str(), false)
                .at(Step::BindSource, &only.mountpoint)?;
            apply(&copy, mount).at(Step::MountAttributes, &mount.target)?;
            Ok(Detached::Ready(copy))
        }
        groups => {
            let views = groups.iter().map(|group| {
                let copy = sys::mount::clone_path(group.path.as_str(), false)
                    .at(Step::BindSource, &group.path)?;
                apply(&copy, mount).at(Step::MountAttributes, &group.path)?;
                let name = group.mountpoint.rsplit('/').next().unwrap_or_default().to_owned();
                let links = match &group.hierarchy {
                    Hierarchy::V2 => Vec::new(),
                    Hierarchy::V1(controllers) => {
                        let other = |c: &&String| **c != name && !c.starts_with("name=");
                        controllers.iter().filter(other).cloned().collect()
                    }
                };
                Ok(HierarchyView { name, links, mount: copy })
            });
            views.collect::<Result<_, _>>().map(Detached::Hierarchies)
        }
    }
}

/// Attributes first on the top, propagation on everything.
pub(crate) fn apply(copy: &OwnedFd, mount: &MountPlan) -> io::Result<()> {
    let attributes = Change { set: mount.attr_set, clear: mount.attr_clear, propagation: None };
    sys::mount::change(copy, mount.attr_recursive, attributes)?;
    let propagation = Some(propagation(mount.propagation));
    sys::mount::change(copy, true, Change { propagation, ..Change::default() })
}

/// In the kernel's words.
pub(crate) fn propagation(propagation: plan::Propagation) -> Propagation {
    match propagation {
        plan::Propagation::Private => Propagation::Private,
        plan::Propagation::Slave => Propagation::Slave,
        plan::Propagation::Shared => Propagation::Shared,
        plan::Propagation::Unbindable => Propagation::Unbindable,
    }
}

pub(crate) fn root(plan: &plan::RootPlan, own: Option<Own<'_>>) -> Result<OwnedFd, LaunchError> {
    match &plan.source {
        RootSource::Overlay { lower, upper, .. } if lower.is_empty() => directory(upper, plan),
        RootSource::Overlay { lower, upper, work } => {
            let writable = Some((upper, work));
            let label = plan.label.as_deref();
            match own {
                None => overlay(lower, writable, label),
                Some(own) => ids::overlay(lower, writable, own.user, label),
            }
            .map_err(|(subject, error)| LaunchError::new(Step::Root, subject, error))
        }
        RootSource::Directory(path) => directory(path, plan),
        RootSource::Empty => {
            let make = || {
                let context = FsContext::open("tmpfs")?;
                context.set("mode", "755")?;
                context.label(plan.label.as_deref())?;
                context.mount(sys::mount::ATTR_NOSUID | sys::mount::ATTR_NODEV)
            };
            make().at(Step::Root, "(empty)")
        }
    }
}

fn directory(path: &str, plan: &plan::RootPlan) -> Result<OwnedFd, LaunchError> {
    let copy = sys::mount::clone_path(path, true).at(Step::Root, path)?;
    // Shared is set after pivot_root, which refuses a shared root; slave only means something
    // while the copy is still a peer of the host's mount.
    let propagation = match plan.propagation {
        plan::Propagation::Slave => Propagation::Slave,
        plan::Propagation::Private | plan::Propagation::Shared | plan::Propagation::Unbindable => {
            Propagation::Private
        }
    };
    let change = Change { propagation: Some(propagation), ..Change::default() };
    sys::mount::change(&copy, true, change).at(Step::Root, path)?;
    Ok(copy)
}

/// An overlay, detached; without an upper directory and its work directory it cannot be written.
/// A failure comes with the directory it is about and what overlayfs says.
pub(crate) fn overlay(
    lower: &[String],
    writable: Option<(&String, &String)>,
    label: Option<&str>,
) -> Result<OwnedFd, (String, io::Error)> {
    let place = || {
        let upper = writable.map(|(upper, _)| upper);
        upper.or_else(|| lower.first()).cloned().unwrap_or_default()
    };
    let (context, made) = match overlay_by_layer(lower, writable, label) {
        // `lowerdir+` came with 6.8.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            overlay_by_string(lower, writable, label)
        }
        result => result,
    }
    .map_err(|error| (place(), error))?;
    made.map_err(|error| match context.complaint() {
        Some(complaint) => (format!("{} ({complaint})", place()), error),
        None => (place(), error),
    })
}

/// The file system's context, for its complaint, and its mount.
type Attempt = io::Result<(FsContext, io::Result<OwnedFd>)>;

fn overlay_by_layer(
    lower: &[String],
    writable: Option<(&String, &String)>,
    label: Option<&str>,
) -> Attempt {
    let context = FsContext::open("overlay")?;
    // Before 6.5 overlay takes any option and fails when it is made.
    if context.flag("no-such-option").is_ok() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for layer in lower {
        context.set("lowerdir+", layer)?;
    }
    finish_overlay(context, writable, label)
}

/// Older kernels want all layers in one string of at most 255 bytes and give `:` and `,` a meaning in
/// it, so the layers are named by the numbers of their descriptors, relative to the directory that
/// has them: enough for some 80 layers.
fn overlay_by_string(
    lower: &[String],
    writable: Option<(&String, &String)>,
    label: Option<&str>,
) -> Attempt {
    let layers = lower
        .iter()
        .map(|layer| sys::fs::open_dir(layer.as_str()))
        .collect::<io::Result<Vec<_>>>()?;
    let names: Vec<String> =
        layers.iter().map(|fd| std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()).to_string()).collect();
    let attempt = || {
        let context = FsContext::open("overlay")?;
        context.set("lowerdir", &names.join(":"))?;
        finish_overlay(context, writable, label)
    };
    // The names are looked up now or when the file system is made, which this does. A launcher has
    // one thread: nobody else needs the working directory meanwhile.
    let before = sys::fs::open_dir(c".")?;
    rustix::process::chdir(c"/proc/self/fd")?;
    let result = attempt();
    rustix::process::fchdir(before)?;
    result
}

pub(crate) fn finish_overlay(
    context: FsContext,
    writable: Option<(&String, &String)>,
    label: Option<&str>,
) -> Attempt {
    if let Some((upper, work)) = writable {
        context.set("upperdir", upper)?;
        context.set("workdir", work)?;
        context.set("index", "off")?;
        // Unmounting would sync the disk inside the dying container otherwise; the upper directory
        // does not outlive it.
        context.flag("volatile")?;
    }
    context.label(label)?;
    context.set("source", "overlay")?;
    let made = context.mount(0).and_then(|mount| match writable {
        Some((_, work)) => refuse_read_only(mount, work),
        None => Ok(mount),
    });
    Ok((context, made))
}

/// Where overlayfs cannot make what it needs in its work directory it says so in the kernel's log
/// alone, and cannot be written.
fn refuse_read_only(mount: OwnedFd, work: &str) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fstatvfs(&mount)?.f_flag;
    if !flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Ok(mount);
    }
    let trial = std::path::Path::new(work).join("trial");
    std::fs::create_dir(&trial)?;
    std::fs::remove_dir(&trial)?;
    Err(io::Error::from_raw_os_error(libc::EROFS))
}

fn null() -> Result<OwnedFd, LaunchError> {
    let null = sys::mount::clone_path(c"/dev/null", false).at(Step::BindSource, "/dev/null")?;
    let stat = rustix::fs::fstat(&null).at(Step::BindSource, "/dev/null")?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if !kind.is_char_device() || stat.st_rdev != rustix::fs::makedev(1, 3) {
        let cause = io::Error::from_raw_os_error(libc::ENODEV);
        return Err(LaunchError::new(Step::BindSource, "/dev/null", cause));
    }
    Ok(null)
}

/// What the child needs to reach the host's mounts after the clone, for the rare bind that only
/// turns out to be needed there.
pub(crate) fn clone_from_host(launcher: &Launcher, path: &str) -> io::Result<OwnedFd> {
    launcher.in_host_from_child(|| sys::mount::clone_path(path, false))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_naming_layers_give_the_same_root() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        for by in [overlay_by_layer, overlay_by_string] {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
            let names = ["a:b,c", "plain", "upper", "work"].map(path);
            for name in &names {
                std::fs::create_dir(name).unwrap();
            }
            std::fs::write(format!("{}/f", names[0]), "top").unwrap();
            std::fs::write(format!("{}/f", names[1]), "bottom").unwrap();
            let (_, root) = by(&names[..2], Some((&names[2], &names[3])), None).unwrap();
            let root = root.unwrap();
            assert_eq!(sys::fs::read_value(&root, "f").unwrap(), "top");
        }
    }
}
