//! Whether kubelet and knarr use the same cgroup driver. Kubelet's own groups tell which is its own, before
//! there is a pod: `kubepods.slice` is that of the systemd driver, `kubepods` that of the other.

use model::CgroupDriver;

use super::{Area, Cases};
use crate::scopes::{CgroupDrivers, driver_name};

const SLICE: &str = "kubepods.slice";
const DIRECTORY: &str = "kubepods";

/// `groups` are the names of those at the top; `refused` is the parent of the last pod whose parent was
/// of the other driver, if no other came since.
pub(super) fn look<'a>(
    out: &mut Cases,
    drivers: CgroupDrivers,
    groups: impl IntoIterator<Item = &'a str>,
    refused: Option<&str>,
) {
    let (mut slice, mut directory) = (false, false);
    for group in groups {
        slice |= group == SLICE;
        directory |= group == DIRECTORY;
    }
    let kubelets = match (slice, directory) {
        (true, false) => Some((CgroupDriver::Systemd, SLICE)),
        (false, true) => Some((CgroupDriver::Cgroupfs, DIRECTORY)),
        // None yet, or one is left from before its driver was changed.
        (false, false) | (true, true) => None,
    };
    let ours = drivers.usual();
    match (refused, kubelets) {
        (Some(parent), _) => {
            let ours = driver_name(ours);
            let problem = format!(
                "pods are refused: kubelet asks for `{parent}`, which is of the other driver than \
                 knarr's, {ours}"
            );
            out.problem(Area::Host, &"cgroup driver", problem, SAME);
        }
        (None, Some((kubelets, group))) if kubelets != ours => {
            differ(out, drivers, (kubelets, group));
        }
        (None, Some(_) | None) => {}
    }
}

const SAME: &str = "set cgroup.driver of knarr and cgroupDriver of kubelet to the same, systemd where it \
     runs the host, and restart both";

fn differ(out: &mut Cases, drivers: CgroupDrivers, (kubelets, group): (CgroupDriver, &str)) {
    let (theirs, ours) = (driver_name(kubelets), driver_name(drivers.usual()));
    let fact = format!("kubelet has `{group}`, of the {theirs} driver, and knarr uses {ours}");
    match drivers {
        CgroupDrivers::Only(_) => {
            let problem = format!("{fact}: its pods will be refused");
            out.problem(Area::Host, &"cgroup driver", problem, SAME);
        }
        CgroupDrivers::ByParent => {
            let problem =
                format!("{fact}: its pods get it, and systemd and kubelet both manage them");
            let remedy = "set cgroupDriver: systemd in kubelet's configuration";
            out.advice(Area::Host, &"cgroup driver", problem, remedy);
        }
        CgroupDrivers::Cgroupfs => {
            let problem = format!(
                "{fact}, because its own needs cgroup v2: systemd may undo what knarr sets"
            );
            let remedy = "boot with systemd.unified_cgroup_hierarchy=1, or set cgroupDriver: cgroupfs in \
                          kubelet's configuration";
            out.advice(Area::Host, &"cgroup driver", problem, remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    const SYSTEMD: CgroupDrivers = CgroupDrivers::Only(CgroupDriver::Systemd);
    const CGROUPFS: CgroupDrivers = CgroupDrivers::Only(CgroupDriver::Cgroupfs);

    /// What is told, with all its words.
    fn told(
        drivers: CgroupDrivers,
        groups: &[&str],
        refused: Option<&str>,
    ) -> Vec<(Severity, String)> {
        let mut out = Cases::default();
        look(&mut out, drivers, groups.iter().copied(), refused);
        let finding = |case: &super::super::Case| {
            let finding = &case.finding;
            (finding.severity, format!("{} {}", finding.problem, finding.remedy))
        };
        out.0.iter().map(finding).collect()
    }

    #[test]
    fn those_that_agree_and_those_that_cannot_be_told_are_fine() {
        for (drivers, groups) in [
            (SYSTEMD, &["init.scope", SLICE][..]),
            (CGROUPFS, &[DIRECTORY]),
            (CgroupDrivers::ByParent, &[SLICE]),
            (CgroupDrivers::Cgroupfs, &[DIRECTORY]),
            (SYSTEMD, &[]),
            // Somebody has changed it; the group of the other is left.
            (SYSTEMD, &[SLICE, DIRECTORY]),
        ] {
            assert_eq!(told(drivers, groups, None), [], "{drivers:?} {groups:?}");
        }
    }

    #[test]
    fn those_that_differ_are_told_with_what_comes_of_it() {
        for (drivers, group, severity, wanted) in [
            (SYSTEMD, DIRECTORY, Severity::Problem, "refused"),
            (CGROUPFS, SLICE, Severity::Problem, "refused"),
            (CgroupDrivers::ByParent, DIRECTORY, Severity::Advice, "cgroupDriver: systemd"),
            (CgroupDrivers::Cgroupfs, SLICE, Severity::Advice, "unified_cgroup_hierarchy"),
        ] {
            let told = told(drivers, &[group], None);
            assert_eq!(told.len(), 1, "{drivers:?} {group}");
            assert_eq!(told[0].0, severity);
            assert!(told[0].1.contains(wanted) && told[0].1.contains(group), "{told:?}");
        }
    }

    #[test]
    fn a_pod_that_was_refused_is_told_whatever_its_parent_is_called() {
        let told = told(SYSTEMD, &[], Some("/elsewhere/burstable"));
        assert_eq!(told.len(), 1);
        assert!(told[0].1.contains("/elsewhere/burstable"), "{told:?}");
    }
}
