//! Who makes control groups on this host.

use anyhow::{Result, ensure};
use model::{CgroupDriver, CgroupLayout};
use sandbox::CgroupDrivers;

use crate::config::CgroupDriverKey;

/// What the configuration asks for, where this host can give it.
///
/// By itself it is systemd where that runs the host: two managers of one tree undo what the other
/// has done. A kubelet that was told otherwise is obeyed, pod by pod.
pub(crate) fn choose(key: CgroupDriverKey, layout: &CgroupLayout) -> Result<CgroupDrivers> {
    let systemd = systemd::is_running();
    let drivers = match key {
        CgroupDriverKey::Auto if systemd && layout.is_v2() => CgroupDrivers::ByParent,
        CgroupDriverKey::Cgroupfs if systemd => CgroupDrivers::Only(CgroupDriver::Cgroupfs),
        CgroupDriverKey::Auto | CgroupDriverKey::Cgroupfs => CgroupDrivers::Cgroupfs,
        CgroupDriverKey::Systemd => {
            ensure!(
                systemd,
                "cgroup.driver = \"systemd\" and systemd does not run this host: use \"auto\""
            );
            ensure!(
                layout.is_v2(),
                "cgroup.driver = \"systemd\" needs cgroup v2: boot with \
                 systemd.unified_cgroup_hierarchy=1, or use \"cgroupfs\" here and in kubelet"
            );
            CgroupDrivers::Only(CgroupDriver::Systemd)
        }
    };
    tracing::info!(driver = ?drivers.usual(), "control groups");
    Ok(drivers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::CgroupHierarchy;

    #[test]
    fn systemd_is_refused_where_it_does_not_run() {
        if systemd::is_running() {
            println!("skipped: systemd runs this host");
            return;
        }
        let unified = CgroupHierarchy { mountpoint: "/sys/fs/cgroup".into(), controllers: vec![] };
        let layout = CgroupLayout::V2(unified);
        let refused = choose(CgroupDriverKey::Systemd, &layout).unwrap_err();
        assert!(refused.to_string().contains("does not run this host"), "{refused}");
        let auto = choose(CgroupDriverKey::Auto, &layout).unwrap();
        assert_eq!(auto, CgroupDrivers::Cgroupfs);
    }
}
