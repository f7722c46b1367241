//! CRI `RuntimeConfig`.

use cri_api::v1;
use model::CgroupDriver;

use crate::Server;

/// Which cgroup driver kubelet must use too.
pub(crate) fn runtime_config(server: &Server) -> v1::RuntimeConfigResponse {
    let driver = match server.cgroup_driver {
        CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
    };
    v1::RuntimeConfigResponse {
        linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: driver.into() }),
    }
}
