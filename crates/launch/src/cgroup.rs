//! The parent half's cgroup work: make, set, attach the device filter, open what the child joins
//! by; later kill, count, remove. All paths are the host's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use sys::cgroup::{Cgroup, CgroupError, OomWatch, Version};

use crate::error::{At, LaunchError, Step, Warning};
use crate::plan::{CgroupDir, CgroupPlan, CgroupSetting, Hierarchy, ResctrlPlan};
use crate::resctrl;

/// The cgroups of one launch.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    made: Made,
    /// The unified one, for `CLONE_INTO_CGROUP`.
    pub(crate) unified: Option<OwnedFd>,
    /// `tasks` files to write first, with their paths.
    pub(crate) early: Vec<(String, OwnedFd)>,
    /// `tasks` files to write just before exec.
    pub(crate) late: Vec<(String, OwnedFd)>,
}

impl Groups {
    /// Opens the cgroups of a plan, making them when missing, and writes their settings.
    pub(crate) fn make(
        plan: &CgroupPlan,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, LaunchError> {
        let mut groups = Self::default();
        match groups.fill(plan, warnings) {
            Ok(()) => Ok(groups),
            Err(error) => {
                groups.undo();
                Err(error)
            }
        }
    }

    fn fill(&mut self, plan: &CgroupPlan, warnings: &mut Vec<Warning>) -> Result<(), LaunchError> {
        for group in &plan.groups {
            let cgroup = sys::cgroup::make(version(group), &group.mountpoint, &group.path)
                .map_err(make_failed)?;
            self.made.cgroups.push(cgroup);
            let Some(cgroup) = self.made.cgroups.last() else { continue };
            write_settings(group, cgroup.dir(), warnings)?;
            match group.hierarchy {
                Hierarchy::V2 => {
                    let dir = cgroup.dir();
                    if let Some(program) = &plan.device_program {
                        attach_filter(dir, program).at(Step::DeviceFilter, &group.path)?;
                    }
                    let dir = dir.try_clone_to_owned().at(Step::CgroupMake, &group.path)?;
                    self.unified = Some(dir);
                }
                Hierarchy::V1(_) => {
                    let tasks = open_tasks(cgroup).at(Step::CgroupJoin, &group.path)?;
                    let list = if group.join_late { &mut self.late } else { &mut self.early };
                    list.push((group.path.clone(), tasks));
                }
            }
        }
        if plan.device_program.is_some() && self.unified.is_none() {
            return Err(LaunchError::bad_plan("a device program without a unified cgroup"));
        }
        if let Some(group) = &plan.resctrl {
            let (made, tasks) = resctrl::make(group)?;
            self.made.resctrl = made.then(|| group.clone());
            self.early.push((group.path.clone(), tasks));
        }
        Ok(())
    }

    /// Opens the cgroups of a running container, to join them.
    pub(crate) fn open(plan: &CgroupPlan) -> Result<Self, LaunchError> {
        let mut groups = Self::default();
        for group in &plan.groups {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(group.path.as_str(), flags, Mode::empty())
                .at(Step::CgroupJoin, &group.path)?;
            match group.hierarchy {
                Hierarchy::V2 => groups.unified = Some(dir),
                Hierarchy::V1(_) => {
                    let tasks = open_tasks_of(&dir).at(Step::CgroupJoin, &group.path)?;
                    let list = if group.join_late { &mut groups.late } else { &mut groups.early };
                    list.push((group.path.clone(), tasks));
                }
            }
        }
        if let Some(group) = &plan.resctrl {
            groups.early.push((group.path.clone(), resctrl::open(group)?));
        }
        Ok(groups)
    }

    /// Takes the unified cgroup a process is in now instead of its container's: one that has made
    /// cgroups of its own below, and given them controllers, accepts no process itself.
    pub(crate) fn follow(&mut self, plan: &CgroupPlan, pid: Pid) -> Result<(), LaunchError> {
        let Some(group) = plan.groups.iter().find(|group| group.hierarchy == Hierarchy::V2) else {
            return Ok(());
        };
        let file = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
        let open = || {
            let text = std::fs::read_to_string(&file)?;
            let below = unified_path(&text).ok_or(io::ErrorKind::NotFound)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let path = format!("{}{below}", group.mountpoint);
            io::Result::Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        self.unified = Some(open().at(Step::CgroupJoin, &file)?);
        Ok(())
    }

    /// Hands over the duty to remove what was made.
    pub(crate) fn take_made(&mut self) -> Made {
        std::mem::take(&mut self.made)
    }

    fn undo(&mut self) {
        self.early.clear();
        self.late.clear();
        self.unified = None;
        self.take_made().undo();
    }
}

/// Groups that go again unless the launch succeeds.
#[derive(Debug, Default)]
pub(crate) struct Made {
    cgroups: Vec<Cgroup>,
    resctrl: Option<ResctrlPlan>,
}

impl Made {
    /// Removes what was made. The error that made this necessary is the one to report; a directory
    /// that stays is found again by `remove`.
    pub(crate) fn undo(&mut self) {
        for cgroup in self.cgroups.drain(..).rev() {
            cgroup.undo().ok();
        }
        if let Some(group) = self.resctrl.take() {
            resctrl::remove(&group).ok();
        }
    }

    /// Keeps everything.
    pub(crate) fn keep(&mut self) {
        *self = Self::default();
    }
}

/// The unified hierarchy's line of `/proc/<pid>/cgroup`.
fn unified_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

fn make_failed(error: CgroupError) -> LaunchError {
    LaunchError::new(Step::CgroupMake, error.path, error.source)
}

fn attach_filter(dir: impl AsFd, program: &[u8]) -> io::Result<()> {
    let program = sys::bpf::load_device_program(program)?;
    sys::bpf::attach_device_program(dir.as_fd(), program.as_fd())
}

fn open_tasks(cgroup: &Cgroup) -> io::Result<OwnedFd> {
    open_tasks_of(&cgroup.dir())
}

/// `tasks`, not `cgroup.procs`: moving a whole process takes a lock that waits for an RCU grace
/// period, moving the only thread of it by itself does not.
fn open_tasks_of(dir: &impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, c"tasks", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn write_settings(
    group: &CgroupDir,
    dir: BorrowedFd<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<(), LaunchError> {
    let mut again = Vec::new();
    for setting in &group.settings {
        // Values that bound each other (a period and a quota, say) go in either order, depending on
        // those in force.
        if !write_setting(group, setting, dir, warnings, false)? {
            again.push(setting);
        }
    }
    again.into_iter().try_for_each(|s| write_setting(group, s, dir, warnings, true).map(drop))
}

/// Says whether it is done: not where it was refused and may not be when all others hold. `last`:
/// they do.
fn write_setting(
    group: &CgroupDir,
    setting: &CgroupSetting,
    dir: BorrowedFd<'_>,
    warnings: &mut Vec<Warning>,
    last: bool,
) -> Result<bool, LaunchError> {
    // What cannot be looked at is not there as far as writing goes.
    let exists = |file: &str| sys::fs::exists(dir, file).unwrap_or_default();
    let (file, value) = setting.choose(exists);
    if file.contains('/') {
        return Err(LaunchError::bad_plan(format!("cgroup file {file}")));
    }
    let Err(error) = sys::fs::write_value(dir, file, value.as_bytes()) else {
        return Ok(true);
    };
    if !last && error.raw_os_error() == Some(libc::EINVAL) {
        return Ok(false);
    }
    if setting.required {
        let subject = format!("{}/{file} to {value}", group.path);
        return Err(LaunchError::new(Step::CgroupSet, subject, error));
    }
    let what = format!("{file} {value}");
    warnings.push(Warning { what, why: format!("{} refused it: {error}", group.path) });
    Ok(true)
}

fn version(group: &CgroupDir) -> Version {
    match &group.hierarchy {
        Hierarchy::V2 => Version::V2,
        Hierarchy::V1(controllers) => Version::V1 { cpuset: holds(controllers, "cpuset") },
    }
}

fn holds(controllers: &[String], controller: &str) -> bool {
    controllers.iter().any(|c| c == controller)
}

/// SIGKILLs every process of the cgroups.
pub(crate) fn kill_all(plan: &CgroupPlan) -> Result<(), LaunchError> {
    let groups = telling(plan);
    for group in &groups {
        let only = groups.len() == 1;
        if !only && sys::cgroup::pids(&group.path).map_err(cgroup_failed)?.is_empty() {
            continue;
        }
        let freezer = rank(group) == 1;
        return sys::cgroup::kill_all(version(group), &group.path, freezer).map_err(cgroup_failed);
    }
    Ok(())
}

/// The unified one kills in one write, the freezer stops a fork bomb first, any other does.
fn rank(group: &CgroupDir) -> u8 {
    match &group.hierarchy {
        Hierarchy::V2 => 0,
        Hierarchy::V1(controllers) if holds(controllers, "freezer") => 1,
        Hierarchy::V1(_) => 2,
    }
}

/// The groups by which all processes are known: our own are in every hierarchy, so that one would be
/// enough, but on hosts with both versions other runtimes leave the unified one out.
fn telling(plan: &CgroupPlan) -> Vec<&CgroupDir> {
    let mut groups: Vec<_> = plan.groups.iter().collect();
    groups.sort_by_key(|group| rank(group));
    groups.dedup_by_key(|group| rank(group) > 0);
    groups
}

/// Where a plan's processes can be stopped.
fn freezer(plan: &CgroupPlan) -> Result<&CgroupDir, LaunchError> {
    let of_v1 = |group: &&CgroupDir| match &group.hierarchy {
        Hierarchy::V1(controllers) => holds(controllers, "freezer"),
        Hierarchy::V2 => false,
    };
    let unified = || plan.groups.iter().find(|group| group.hierarchy == Hierarchy::V2);
    plan.groups.iter().find(of_v1).or_else(unified).ok_or_else(|| {
        let cause = io::Error::new(io::ErrorKind::Unsupported, "this host has no freezer");
        LaunchError::new(Step::CgroupSet, "freezer", cause)
    })
}

pub(crate) fn set_frozen(plan: &CgroupPlan, frozen: bool) -> Result<(), LaunchError> {
    let group = freezer(plan)?;
    sys::cgroup::set_frozen(version(group), &group.path, frozen).map_err(cgroup_failed)
}

pub(crate) fn is_frozen(plan: &CgroupPlan) -> Result<bool, LaunchError> {
    let group = freezer(plan)?;
    sys::cgroup::is_frozen(version(group), &group.path).map_err(cgroup_failed)
}

/// Writes the settings of a plan into its groups.
pub(crate) fn apply(plan: &CgroupPlan) -> Result<Vec<Warning>, LaunchError> {
    let mut warnings = Vec::new();
    for group in &plan.groups {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(group.path.as_str(), flags, Mode::empty())
            .at(Step::CgroupSet, &group.path)?;
        write_settings(group, dir.as_fd(), &mut warnings)?;
    }
    Ok(warnings)
}

fn cgroup_failed(error: CgroupError) -> LaunchError {
    LaunchError::new(Step::CgroupSet, error.path, error.source)
}

/// Removes every cgroup of the plan; goes on after failures and returns the first.
pub(crate) fn remove(plan: &CgroupPlan) -> Result<(), LaunchError> {
    let own = plan.resctrl.as_ref().filter(|group| group.own);
    plan.groups
        .iter()
        .map(|group| sys::cgroup::remove(&group.path).map_err(make_failed))
        .chain(own.map(resctrl::remove))
        .fold(Ok(()), Result::and)
}

pub(crate) fn oom_kills(plan: &CgroupPlan) -> Option<u64> {
    let group = with_memory(plan)?;
    sys::cgroup::oom_kills(version(group), &group.path)
}

/// The group in which the kernel counts memory: where a v1 hierarchy has it, v2 has not.
fn with_memory(plan: &CgroupPlan) -> Option<&CgroupDir> {
    let on_v1 = |group: &&CgroupDir| match &group.hierarchy {
        Hierarchy::V1(controllers) => holds(controllers, "memory"),
        Hierarchy::V2 => false,
    };
    let on_v2 = |group: &&CgroupDir| matches!(group.hierarchy, Hierarchy::V2);
    plan.groups.iter().find(on_v1).or_else(|| plan.groups.iter().find(on_v2))
}

pub(crate) fn watch_oom(plan: &CgroupPlan) -> io::Result<OomWatch> {
    let group = with_memory(plan).ok_or(io::ErrorKind::NotFound)?;
    OomWatch::open(version(group), &group.path)
}

/// The processes of the first hierarchy that has any.
pub(crate) fn pids(plan: &CgroupPlan) -> Result<Vec<Pid>, LaunchError> {
    for group in telling(plan) {
        let found = sys::cgroup::pids(&group.path).map_err(cgroup_failed)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_path_is_found_among_others() {
        let text = "2:cpu:/a\n1:name=systemd:/b\n0::/pod/c 0::/x\n";
        assert_eq!(unified_path(text), Some("/pod/c 0::/x"));
        assert_eq!(unified_path("2:cpu:/a\n"), None);
    }
}
