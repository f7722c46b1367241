//! The new root: mounts in the plan's order, devices, terminal, masks, then `pivot_root`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use sys::mount::{
    ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, Change, FsContext, Propagation,
};
use sys::trace::span;

use super::terminal::{self, Terminal};
use super::{Job, New, device, protect, session, target};
use crate::error::{At, LaunchError, Step};
use crate::hooks;
use crate::host::{self, Detached, HierarchyView};
use crate::launcher::Io;
use crate::plan::{self, DeviceNode, FsOption, MountPlan, MountSource, RootSource};

/// Puts a root together.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    job: &'a Job<'a>,
    new: &'a New<'a>,
    root: BorrowedFd<'a>,
    /// The container's own `devpts`, if the plan has one.
    devpts: Option<OwnedFd>,
    /// Mounts that are filled before they become read-only.
    to_protect: Vec<OwnedFd>,
}

impl<'a> Builder<'a> {
    /// Mounts the root on the staging directory, in this process's own mount namespace.
    pub(super) fn new(job: &'a Job<'a>, new: &'a New<'a>) -> Result<Self, LaunchError> {
        let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
        sys::mount::change_at(c"/", true, private).at(Step::MountAttributes, "/")?;
        // Hooks look for the root where the container's specification says it is.
        let shown = new.plan.hooks.as_ref().filter(|hooks| !hooks.create_container.is_empty());
        let staging = shown.map_or(job.launcher.staging.as_path(), |hooks| Path::new(&hooks.root));
        sys::mount::attach_at(new.tree.root.as_fd(), staging)
            .at(Step::Root, &staging.to_string_lossy())?;
        Ok(Self { job, new, root: new.tree.root.as_fd(), devpts: None, to_protect: Vec::new() })
    }

    /// Builds it all and makes it this process's root; returns a handle on that.
    pub(super) fn build(mut self) -> Result<OwnedFd, LaunchError> {
        let New { plan, tree, .. } = self.new;
        let mounts = span("child: mounts");
        for (mount, detached) in plan.mounts.iter().zip(&tree.mounts) {
            self.mount(mount, detached)?;
        }
        drop(mounts);
        {
            let _span = span("child: devices and streams");
            self.make_devices()?;
            self.connect()?;
        }
        self.make_cwd();
        self.run_hooks()?;
        for mount in &self.to_protect {
            let change = Change { set: ATTR_RDONLY, ..Change::default() };
            sys::mount::change(mount, false, change).at(Step::MountAttributes, "/dev")?;
        }
        let masking = span("child: masks");
        for path in &plan.readonly_paths {
            protect::make_read_only(self.root, path).at(Step::ReadOnly, path)?;
        }
        let mut masks = protect::Masks::new(tree.null.as_ref(), plan.root.label.as_deref());
        for path in &plan.masked_paths {
            masks.mask(self.root, path).at(Step::Mask, path)?;
        }
        drop(masking);
        let _span = span("child: pivot");
        self.enter()
    }

    fn mount(&mut self, mount: &MountPlan, detached: &Detached) -> Result<(), LaunchError> {
        match detached {
            Detached::Ready(source) => self.attach(mount, source),
            Detached::Whole(image) => self.attach_part(mount, image),
            Detached::Hierarchies(views) => self.attach_hierarchies(mount, views),
            Detached::InChild => match &mount.source {
                MountSource::New { fstype, source, options, copy_up } => {
                    self.mount_new(mount, fstype, source, options, *copy_up)
                }
                MountSource::Cgroup => self.mount_new(mount, "cgroup2", "cgroup", &[], false),
                MountSource::Bind { .. }
                | MountSource::Launcher { .. }
                | MountSource::Image { .. } => {
                    Err(LaunchError::bad_plan(format!("nothing to mount at {}", mount.target)))
                }
            },
        }
    }

    fn attach(&self, mount: &MountPlan, source: &OwnedFd) -> Result<(), LaunchError> {
        let attach = || {
            let directory = sys::fs::is_dir(source.as_fd())?;
            // The host's own, where the container may not mount one.
            let real = directory && matches!(mount.target.as_str(), "/proc" | "/sys");
            let target = if real {
                target::resolve_real(self.root, &mount.target)?
            } else {
                target::resolve(self.root, &mount.target, directory)?
            };
            sys::mount::attach(source.as_fd(), target.as_fd())
        };
        attach().map_err(|error| target::error(&mount.target, error))
    }

    /// Attaches the directory of an image that the plan wants. Before 6.15 the kernel copies parts
    /// of attached mounts only, so the whole image is attached for a moment.
    fn attach_part(&self, mount: &MountPlan, image: &OwnedFd) -> Result<(), LaunchError> {
        let MountSource::Image { sub_path, .. } = &mount.source else {
            return Err(LaunchError::bad_plan(format!("no image to mount at {}", mount.target)));
        };
        let target =
            target::resolve(self.root, &mount.target, true).at(Step::MountTarget, &mount.target)?;
        let copy = || {
            sys::mount::attach(image.as_fd(), target.as_fd())?;
            let part = host::image::part(image, sub_path)?;
            sys::mount::detach_root(image.as_fd())?;
            io::Result::Ok(part)
        };
        let part = copy().at(Step::ImageVolume, &format!("{} ({sub_path})", mount.target))?;
        let part = host::image::protected(part, mount)?;
        sys::mount::attach(part.as_fd(), target.as_fd()).at(Step::MountTarget, &mount.target)
    }

    fn mount_new(
        &mut self,
        mount: &MountPlan,
        fstype: &str,
        source: &str,
        options: &[FsOption],
        copy_up: bool,
    ) -> Result<(), LaunchError> {
        let real = matches!(fstype, "proc" | "sysfs");
        let mode = self.mode_of(mount, fstype, options);
        let target = if real {
            target::resolve_real(self.root, &mount.target)
        } else {
            target::resolve(self.root, &mount.target, true)
        }
        .map_err(|error| target::error(&mount.target, error))?;
        // A copy has to be written before the mount becomes read-only, and so has `/dev`.
        let filled_later = mount.target == "/dev";
        let held_back = if copy_up || filled_later { mount.attr_set & ATTR_RDONLY } else { 0 };
        let options = [options, mode.as_slice()].concat();
        let made = make(mount, fstype, source, &options, mount.attr_set & !held_back)?;
        if copy_up {
            sys::copy::copy_tree(target.as_fd(), made.as_fd()).at(Step::CopyUp, &mount.target)?;
        }
        if copy_up && !filled_later {
            let change = Change { set: held_back, ..Change::default() };
            sys::mount::change(&made, false, change).at(Step::MountAttributes, &mount.target)?;
        }
        if mount.propagation != plan::Propagation::Private {
            let propagation = Some(host::propagation(mount.propagation));
            let change = Change { propagation, ..Change::default() };
            sys::mount::change(&made, true, change).at(Step::MountAttributes, &mount.target)?;
        }
        sys::mount::attach(made.as_fd(), target.as_fd()).at(Step::MountNew, &mount.target)?;
        if fstype == "devpts" {
            self.devpts = Some(made);
        } else if filled_later && held_back != 0 {
            self.to_protect.push(made);
        }
        Ok(())
    }

    /// A tmpfs over a directory that is there looks like that, unless its plan says otherwise.
    fn mode_of(&self, mount: &MountPlan, fstype: &str, options: &[FsOption]) -> Option<FsOption> {
        if fstype != "tmpfs" || options.iter().any(|option| option.key == "mode") {
            return None;
        }
        let there = sys::fs::find_in_root(self.root, mount.target.as_str()).ok()?;
        let mode = rustix::fs::fstat(there).ok()?.st_mode & 0o7777;
        Some(FsOption { key: "mode".to_owned(), value: Some(format!("{mode:o}")) })
    }

    /// The v1 view: a small tmpfs with one directory per hierarchy, as hosts have it.
    fn attach_hierarchies(
        &self,
        mount: &MountPlan,
        views: &[HierarchyView],
    ) -> Result<(), LaunchError> {
        let attach = || {
            let context = FsContext::open("tmpfs")?;
            context.set("mode", "755")?;
            context.label(self.new.plan.root.label.as_deref())?;
            let top = context.mount(ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)?;
            let target = target::resolve(self.root, &mount.target, true)?;
            sys::mount::attach(top.as_fd(), target.as_fd())?;
            for view in views {
                let dir = sys::fs::mkdir_all_in_root(top.as_fd(), &view.name)?;
                sys::mount::attach(view.mount.as_fd(), dir.as_fd())?;
                for link in &view.links {
                    rustix::fs::symlinkat(view.name.as_str(), &top, link.as_str())?;
                }
            }
            let change = Change { set: mount.attr_set & ATTR_RDONLY, ..Change::default() };
            sys::mount::change(&top, false, change)
        };
        attach().at(Step::MountNew, &mount.target)
    }

    /// A plan that binds a `/dev` of its own takes it as it is, for it is the host's as a rule; an empty root has none.
    fn make_devices(&self) -> Result<(), LaunchError> {
        let plan = self.new.plan;
        let nodes = self.new.tree.nodes.as_ref();
        let dev = plan.mounts.iter().rev().find(|m| m.target.trim_end_matches('/') == "/dev");
        let bound = dev.is_some_and(|mount| match mount.source {
            MountSource::Bind { .. } | MountSource::Launcher { .. } | MountSource::Image { .. } => {
                true
            }
            MountSource::New { .. } | MountSource::Cgroup => false,
        });
        if !bound && plan.root.source != RootSource::Empty {
            let dev = sys::fs::mkdir_all_in_root(self.root, "/dev").at(Step::Device, "/dev")?;
            device::standard(self.job.launcher, nodes, dev.as_fd())?;
        }
        let ours = |node: &DeviceNode| !(bound && node.path.starts_with("/dev/"));
        for (index, node) in plan.devices.iter().enumerate().filter(|(_, node)| ours(node)) {
            let host = nodes.and_then(|nodes| nodes.extra.get(index)?.as_ref());
            device::extra(self.job.launcher, host, self.root, node)?;
        }
        Ok(())
    }

    /// Session and standard streams; here because a terminal needs `/dev` writable.
    fn connect(&mut self) -> Result<(), LaunchError> {
        session::begin()?;
        let uid = self.job.process.uid;
        match self.job.io {
            Io::Files { stdin, stdout, stderr } => session::use_files([stdin, stdout, stderr], uid),
            Io::Terminal => {
                let devpts = match self.devpts.take() {
                    Some(devpts) => devpts,
                    None => terminal::find_devpts(self.root)?,
                };
                let terminal = Terminal::open(devpts.as_fd())?;
                self.show_console(&terminal, devpts.as_fd()).at(Step::Terminal, "/dev/console")?;
                terminal.take_over(self.job)
            }
        }
    }

    fn show_console(&self, terminal: &Terminal, devpts: BorrowedFd<'_>) -> io::Result<()> {
        let slave = terminal.clone_slave(devpts)?;
        let target = target::resolve(self.root, "/dev/console", false)?;
        sys::mount::attach(slave.as_fd(), target.as_fd())
    }

    /// Makes the working directory while the root may still be written. Entering it later says what
    /// is wrong if this fails.
    fn make_cwd(&self) {
        sys::fs::mkdir_all_in_root(self.root, &self.job.process.cwd).ok();
    }

    /// While the root can still be written and the host's files are still around it.
    fn run_hooks(&self) -> Result<(), LaunchError> {
        let Some(hooks) = &self.new.plan.hooks else { return Ok(()) };
        if !hooks.create_runtime.is_empty() {
            self.job.reporter.wait_for_hooks().at(Step::Channel, "")?;
        }
        if !hooks.create_container.is_empty() {
            // As with runc, they start in the container's root.
            rustix::process::fchdir(self.root).at(Step::Root, &hooks.root)?;
        }
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let status = hooks::Status::Creating;
        hooks::run(
            hooks,
            ("createContainer", &hooks.create_container),
            status,
            own,
            self.new.hooks_until,
        )
    }

    fn enter(self) -> Result<OwnedFd, LaunchError> {
        let plan = &self.new.plan.root;
        let subject = "the container's";
        if plan.readonly || plan.source == RootSource::Empty {
            let change = Change { set: ATTR_RDONLY, ..Change::default() };
            sys::mount::change(self.root, false, change).at(Step::ReadOnly, "/")?;
        }
        rustix::process::fchdir(self.root).at(Step::Pivot, subject)?;
        if self.job.launcher.options.no_pivot {
            sys::mount::cover_root_with(self.root).at(Step::Pivot, subject)?;
        } else {
            sys::mount::pivot_to_current_dir().at(Step::Pivot, subject)?;
        }
        // Shared only now: pivot_root refuses a shared root.
        if matches!(plan.propagation, plan::Propagation::Shared | plan::Propagation::Unbindable) {
            let propagation = Some(host::propagation(plan.propagation));
            let change = Change { propagation, ..Change::default() };
            sys::mount::change(self.root, false, change).at(Step::MountAttributes, "/")?;
        }
        self.root.try_clone_to_owned().at(Step::Pivot, subject)
    }
}

fn make(
    mount: &MountPlan,
    fstype: &str,
    source: &str,
    options: &[FsOption],
    attributes: u64,
) -> Result<OwnedFd, LaunchError> {
    let target = mount.target.as_str();
    // The queues' one file system of the IPC namespace exists already: its root is labelled instead.
    let late = fstype == "mqueue";
    let label = mount.label.as_deref();
    let context = FsContext::open(fstype)
        .at(Step::MountNew, &format!("{target} (file system type {fstype})"))?;
    let set = |option: &FsOption| {
        let option_set = match &option.value {
            Some(value) => context.set(&option.key, value),
            None => context.flag(&option.key),
        };
        option_set.at(Step::MountNew, &format!("{target} (option {})", option.key))
    };
    context.set("source", source).at(Step::MountNew, target)?;
    options.iter().try_for_each(set)?;
    if !late {
        context.label(label).at(Step::Label, target)?;
    }
    let made = context.mount(attributes).map_err(|error| {
        let subject = match context.complaint() {
            Some(complaint) => format!("{target} ({complaint})"),
            None => target.to_owned(),
        };
        LaunchError::new(Step::MountNew, subject, error)
    })?;
    if let (Some(label), true) = (label, late) {
        match sys::fs::set_selinux_label(made.as_fd(), label) {
            // The IPC namespace of a pod with users of its own was made by the host's root, whose
            // file nobody in the pod owns: it keeps the policy's label, which allows less.
            Err(error)
                if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::PERM) => {}
            result => result.at(Step::Label, target)?,
        }
    }
    Ok(made)
}
