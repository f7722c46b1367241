//! `linux.intelRdt`: the class of service (`resctrl` group) of a container.

use launch::plan::ResctrlPlan;
use oci_spec::runtime::{Linux, LinuxIntelRdt};

use crate::PlanError;

/// Where the kernel's documentation, and every tool, mounts `resctrl`.
pub const RESCTRL: &str = "/sys/fs/resctrl";

/// The group to join. A class is named by `closID`; without a name a container that says what it
/// wants gets a group of its own, named as its cgroup.
pub(super) fn group(linux: &Linux, cgroup: &str) -> Result<Option<ResctrlPlan>, PlanError> {
    let Some(rdt) = linux.intel_rdt() else { return Ok(None) };
    refuse_monitoring(rdt)?;
    let schemata = schemata(rdt)?;
    let (name, own) = match rdt.clos_id().as_deref().filter(|name| !name.is_empty()) {
        Some(name) => (checked(name)?, false),
        None if schemata.is_empty() => return Ok(None),
        None => (cgroup.rsplit('/').next().unwrap_or(cgroup), true),
    };
    // `/` stands for the default class: the root itself.
    let path = if name == "/" { RESCTRL.to_owned() } else { format!("{RESCTRL}/{name}") };
    Ok(Some(ResctrlPlan { path, schemata, own }))
}

/// A directory directly below the root, and none of the kernel's own.
fn checked(name: &str) -> Result<&str, PlanError> {
    let kernels = matches!(name, "." | ".." | "info" | "mon_data" | "mon_groups");
    if name != "/" && (name.contains(['/', '\0', '\n']) || kernels) {
        let want = "the name of a class of service";
        return Err(PlanError::invalid("linux.intelRdt.closID", name, want));
    }
    Ok(name)
}

/// `schemata` speaks for itself; the two older fields are lines of it.
fn schemata(rdt: &LinuxIntelRdt) -> Result<Vec<String>, PlanError> {
    match rdt.schemata().as_ref().filter(|lines| !lines.is_empty()) {
        Some(lines) => checked_lines(lines.iter()),
        None => checked_lines([rdt.l3_cache_schema(), rdt.mem_bw_schema()].into_iter().flatten()),
    }
}

/// The lines of these texts.
pub(super) fn checked_lines<'a>(
    texts: impl Iterator<Item = &'a String>,
) -> Result<Vec<String>, PlanError> {
    let mut checked = Vec::new();
    for line in texts.flat_map(|text| text.lines()).map(str::trim) {
        if line.is_empty() {
            continue;
        }
        if !line.contains(':') || line.contains('\0') {
            return Err(PlanError::invalid("linux.intelRdt.schemata", line, "e.g. L3:0=ff;1=ff"));
        }
        checked.push(line.to_owned());
    }
    Ok(checked)
}

#[allow(deprecated, reason = "deprecated fields must be refused like their successor")]
fn refuse_monitoring(rdt: &LinuxIntelRdt) -> Result<(), PlanError> {
    let flags = [rdt.enable_monitoring(), rdt.enable_cmt(), rdt.enable_mbm()];
    if flags.into_iter().any(|flag| *flag == Some(true)) {
        return Err(PlanError::unsupported("linux.intelRdt.enableMonitoring"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(
        change: impl FnOnce(&mut LinuxIntelRdt) -> &mut LinuxIntelRdt,
    ) -> Result<Option<ResctrlPlan>, PlanError> {
        let mut rdt = LinuxIntelRdt::default();
        change(&mut rdt);
        let mut linux = Linux::default();
        linux.set_intel_rdt(Some(rdt));
        group(&linux, "/pod/id")
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_class_is_a_directory_below_the_root() {
        let plan = |path: &str, schemata: &[&str], own| {
            let schemata = schemata.iter().map(|line| (*line).to_owned()).collect();
            Some(ResctrlPlan { path: path.into(), schemata, own })
        };
        let named = planned(|rdt| rdt.set_clos_id(text("gold")));
        assert_eq!(named.unwrap(), plan("/sys/fs/resctrl/gold", &[], false));
        let default = planned(|rdt| rdt.set_clos_id(text("/")));
        assert_eq!(default.unwrap(), plan("/sys/fs/resctrl", &[], false));
        let own = planned(|rdt| {
            rdt.set_l3_cache_schema(text("L3:0=f\n\nL3CODE:0=f"));
            rdt.set_mem_bw_schema(text("MB:0=20"))
        });
        let lines = ["L3:0=f", "L3CODE:0=f", "MB:0=20"];
        assert_eq!(own.unwrap(), plan("/sys/fs/resctrl/id", &lines, true));
        assert_eq!(planned(|rdt| rdt).unwrap(), None);
    }

    #[test]
    fn names_that_are_no_class_lines_that_are_none_and_monitoring_are_refused() {
        for name in ["..", "a/b", "info", "mon_groups"] {
            assert!(planned(|rdt| rdt.set_clos_id(text(name))).is_err(), "{name}");
        }
        assert!(planned(|rdt| rdt.set_schemata(Some(vec!["x".into()]))).is_err());
        assert!(planned(|rdt| rdt.set_enable_monitoring(Some(true))).is_err());
    }
}
