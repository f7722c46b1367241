//! Kernel parameters of the pod: only those that belong to a namespace the pod has of its own.

use shim_protocol::{Failure, PodSetup, Sysctl};

use crate::failure::bad_request;
use crate::runtime::Runtime;

/// Parameters of an IPC namespace, besides `kernel.shm*` and `kernel.msg*`.
const IPC: &[&str] = &["kernel.sem", "kernel.sem_next_id", "kernel.auto_msgmni"];

/// Checks them all before one is written.
///
/// # Errors
/// Names the one that would change the host.
pub(super) fn check(setup: &PodSetup) -> Result<(), Failure> {
    let refused = setup.sysctls.iter().find(|sysctl| !is_the_pods(setup, &sysctl.name));
    refused.map_or(Ok(()), |sysctl| {
        let name = &sysctl.name;
        Err(bad_request(format!("sysctl {name} is not the pod's own: it would change the host")))
    })
}

fn is_the_pods(setup: &PodSetup, name: &str) -> bool {
    let dotted = name.replace('/', ".");
    let components_are_plain = dotted.split('.').all(|part| !part.is_empty());
    let ipc = dotted.starts_with("kernel.shm")
        || dotted.starts_with("kernel.msg")
        || dotted.starts_with("fs.mqueue.")
        || IPC.contains(&dotted.as_str());
    let uts = dotted == "kernel.domainname" || dotted == "kernel.hostname";
    components_are_plain
        && ((setup.new_net && dotted.starts_with("net."))
            || (setup.new_ipc && ipc)
            || (setup.new_uts && uts))
}

/// Writes them in the caller's namespaces, which `/proc/sys` shows to whoever opens it.
///
/// # Errors
/// Names the first that the kernel refused.
pub(super) fn write(sysctls: &[Sysctl], runtime: &mut Runtime) -> Result<(), Failure> {
    sysctls.iter().try_for_each(|Sysctl { name, value }| runtime.write_sysctl(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(new_net: bool, new_ipc: bool, new_uts: bool) -> PodSetup {
        PodSetup { new_net, new_ipc, new_uts, ..PodSetup::default() }
    }

    #[test]
    fn only_parameters_of_own_namespaces_pass() {
        let all = setup(true, true, true);
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/conf/eth0.100/rp_filter",
            "kernel.shmmax",
            "kernel.msgmax",
            "kernel.sem",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            assert!(is_the_pods(&all, name), "{name}");
            assert!(!is_the_pods(&setup(false, false, false), name), "{name}");
        }
        assert!(!is_the_pods(&setup(true, false, false), "kernel.shmmax"));
        assert!(!is_the_pods(&setup(false, true, true), "net.ipv4.ip_forward"));
    }

    #[test]
    fn parameters_of_the_host_and_paths_out_are_refused() {
        let all = setup(true, true, true);
        for name in [
            "kernel.pid_max",
            "vm.overcommit_memory",
            "kernel.semx",
            "net/../kernel/core_pattern",
            "net..ipv4",
            "net.",
            "",
            "/net/ipv4/ip_forward",
        ] {
            assert!(!is_the_pods(&all, name), "{name}");
        }
    }
}
