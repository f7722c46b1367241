//! Who the program is: labels, user, groups, capabilities, `no_new_privs`, seccomp.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::credentials;

use crate::error::{At, LaunchError, Step};
use crate::launcher::Groups;
use crate::plan::{CapabilitySets, ProcessPlan, SeccompPlan};
use crate::report::Reporter;

/// The security label to enter at exec, with the file that takes it. Opened early through the
/// launcher's `/proc`: later `/proc` is the container's, and the process may not write there.
#[derive(Debug, Default)]
pub(super) struct Label(Vec<(OwnedFd, String, String)>);

impl Label {
    pub(super) fn open(process: &ProcessPlan) -> Result<Self, LaunchError> {
        let mut label = Self::default();
        if let Some(profile) = &process.apparmor_profile {
            let name = format!("AppArmor profile {profile}");
            // Kernels that stack security modules have a directory for each; older ones one file.
            let file = match super::open_own("attr/apparmor/exec") {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    super::open_own("attr/exec")
                }
                result => result,
            }
            .at(Step::Label, &name)?;
            label.0.push((file, format!("exec {profile}"), name));
        }
        if let Some(context) = &process.selinux_label {
            let name = format!("SELinux context {context}");
            let file = super::open_own("attr/exec").at(Step::Label, &name)?;
            label.0.push((file, context.clone(), name));
        }
        Ok(label)
    }

    /// What has to stay open for it.
    pub(super) fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(file, ..)| file.as_fd())
    }

    fn set(self) -> Result<(), LaunchError> {
        for (file, value, name) in self.0 {
            sys::fs::write_once(file.as_fd(), value.as_bytes()).at(Step::Label, &name)?;
        }
        Ok(())
    }
}

/// Becomes who the plan says. `settle` runs as the new user, before the last privileges go and the
/// filter is in force.
pub(super) fn assume(
    process: &ProcessPlan,
    label: Label,
    reporter: Reporter<'_>,
    groups: Option<Groups>,
    settle: impl FnOnce() -> Result<(), LaunchError>,
) -> Result<(), LaunchError> {
    let sets = available(&process.capabilities, reporter)?;
    label.set()?;
    credentials::limit_bounding(process.capabilities.bounding)
        .at(Step::Capabilities, "bounding set")?;
    // Without no_new_privs only CAP_SYS_ADMIN may load a filter, so it comes before that goes. The
    // filter then has to let the calls below through, as it has for every runtime.
    if !process.no_new_privs {
        load_seccomp(process.seccomp.as_ref(), reporter)?;
    }
    let user = format!("user {}:{}", process.uid, process.gid);
    credentials::keep_capabilities().at(Step::Capabilities, "keep over the change of user")?;
    if groups != Some(Groups::Kept) || !process.groups.is_empty() {
        credentials::set_groups(&process.groups).at(Step::User, &user)?;
    }
    credentials::set_gid(process.gid).at(Step::User, &user)?;
    credentials::set_uid(process.uid).at(Step::User, &user)?;
    settle()?;
    credentials::set_capabilities(sets.effective, sets.permitted, sets.inheritable)
        .at(Step::Capabilities, "effective, permitted, inheritable")?;
    credentials::set_ambient(sets.ambient).at(Step::Capabilities, "ambient")?;
    if process.no_new_privs {
        credentials::no_new_privs().at(Step::NoNewPrivs, "")?;
        load_seccomp(process.seccomp.as_ref(), reporter)?;
    }
    Ok(())
}

/// The wanted sets without what the launcher itself does not have. A container with fewer
/// privileges than asked for is safe, and a node without `CAP_SYS_RESOURCE` can still run
/// privileged pods; that they have it not is said.
fn available(
    wanted: &CapabilitySets,
    reporter: Reporter<'_>,
) -> Result<CapabilitySets, LaunchError> {
    let held = credentials::permitted().at(Step::Capabilities, "read")?;
    let all = wanted.permitted | wanted.effective | wanted.inheritable | wanted.bounding;
    let missing = all & credentials::known() & !held;
    if missing != 0 {
        let what = format!("capabilities {}", names(missing));
        reporter.warn(&what, "knarr itself does not have them");
    }
    let permitted = wanted.permitted & held;
    let inheritable = wanted.inheritable & held & wanted.bounding;
    let unbounded = wanted.inheritable & held & !wanted.bounding;
    if unbounded != 0 {
        let what = format!("inheritable capabilities {}", names(unbounded));
        reporter.warn(&what, "they are not in the bounding set");
    }
    let lost = wanted.ambient & held & !(permitted & inheritable);
    if lost != 0 {
        let what = format!("ambient capabilities {}", names(lost));
        reporter.warn(&what, "they are not permitted and inheritable as well");
    }
    Ok(CapabilitySets {
        bounding: wanted.bounding,
        effective: wanted.effective & permitted,
        permitted,
        inheritable,
        ambient: wanted.ambient & permitted & inheritable,
    })
}

fn names(set: u64) -> String {
    let known = rustix::thread::CapabilitySet::from_bits_truncate(set);
    known.iter_names().map(|(name, _)| format!("CAP_{name}")).collect::<Vec<_>>().join(", ")
}

fn load_seccomp(filter: Option<&SeccompPlan>, reporter: Reporter<'_>) -> Result<(), LaunchError> {
    let Some(SeccompPlan { program, flags, listener }) = filter else { return Ok(()) };
    if listener.is_none() {
        return sys::seccomp::load(program, *flags).at(Step::Seccomp, "");
    }
    let channel = reporter.to_owned().at(Step::Channel, "")?;
    let send = move |listener: BorrowedFd<'_>| Reporter(channel.as_fd()).listener(listener);
    sys::seccomp::load_listening(program, *flags, send).at(Step::Seccomp, " with a listener")
}
