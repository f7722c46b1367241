//! What this runtime knows of the specification (OCI: `features`). What is not listed is refused
//! where it is asked for.

use std::collections::HashMap;

use oci_spec::runtime::{
    ApparmorBuilder, Arch, CgroupBuilder, Features, FeaturesBuilder, IDMapBuilder, IntelRdtBuilder,
    LinuxFeature, LinuxFeatureBuilder, LinuxNamespaceType, LinuxSeccompAction, MemoryPolicy,
    MemoryPolicyBuilder, MountExtensionsBuilder, NetDevicesBuilder, Seccomp, SeccompBuilder,
    SelinuxBuilder,
};

use crate::{capability, mounts, placement};

/// The oldest specifications that are read.
const OLDEST: &str = "1.0.0";

/// The hooks that are run.
const HOOKS: &[&str] =
    &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const NAMESPACES: &[LinuxNamespaceType] = &[
    LinuxNamespaceType::Cgroup,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Time,
    LinuxNamespaceType::User,
    LinuxNamespaceType::Uts,
];

const ACTIONS: &[LinuxSeccompAction] = &[
    LinuxSeccompAction::ScmpActAllow,
    LinuxSeccompAction::ScmpActErrno,
    LinuxSeccompAction::ScmpActKill,
    LinuxSeccompAction::ScmpActKillProcess,
    LinuxSeccompAction::ScmpActKillThread,
    LinuxSeccompAction::ScmpActLog,
    LinuxSeccompAction::ScmpActNotify,
    LinuxSeccompAction::ScmpActTrace,
    LinuxSeccompAction::ScmpActTrap,
];

const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

const ARCHITECTURES: &[Arch] = &[
    Arch::ScmpArchAarch64,
    Arch::ScmpArchArm,
    Arch::ScmpArchX32,
    Arch::ScmpArchX86,
    Arch::ScmpArchX86_64,
];

const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// What is known, for specifications up to `newest`.
pub fn features(newest: &str) -> Features {
    let built = FeaturesBuilder::default()
        .oci_version_min(OLDEST)
        .oci_version_max(newest)
        .hooks(texts(HOOKS))
        .mount_options(mounts::known_options())
        .linux(linux())
        .annotations(HashMap::new())
        .build();
    built.unwrap_or_default()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn linux() -> LinuxFeature {
    let cgroup = CgroupBuilder::default().v1(true).v2(true).systemd(true).systemd_user(false);
    let id_map = IDMapBuilder::default().enabled(true).build().unwrap_or_default();
    let mounts = MountExtensionsBuilder::default().idmap(id_map).build();
    let rdt = IntelRdtBuilder::default().enabled(true).schemata(true).monitoring(false).build();
    let built = LinuxFeatureBuilder::default()
        .namespaces(NAMESPACES)
        .capabilities(capability::names())
        .cgroup(cgroup.rdma(true).build().unwrap_or_default())
        .seccomp(seccomp())
        .apparmor(ApparmorBuilder::default().enabled(true).build().unwrap_or_default())
        .selinux(SelinuxBuilder::default().enabled(true).build().unwrap_or_default())
        .memory_policy(memory_policy())
        .intel_rdt(rdt.unwrap_or_default())
        .mount_extensions(mounts.unwrap_or_default())
        .net_devices(NetDevicesBuilder::default().enabled(true).build().unwrap_or_default())
        .build();
    built.unwrap_or_default()
}

fn memory_policy() -> MemoryPolicy {
    let names = |modes: &[_]| modes.iter().map(ToString::to_string).collect::<Vec<String>>();
    let flags = placement::FLAGS.iter().map(ToString::to_string).collect::<Vec<String>>();
    let built = MemoryPolicyBuilder::default().modes(names(placement::MODES)).flags(flags).build();
    built.unwrap_or_default()
}

fn seccomp() -> Seccomp {
    let built = SeccompBuilder::default()
        .enabled(true)
        .actions(ACTIONS)
        .operators(texts(OPERATORS))
        .archs(ARCHITECTURES)
        .known_flags(texts(FLAGS))
        .supported_flags(texts(FLAGS))
        .build();
    built.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_is_left_out() {
        let features = serde_json::to_value(features("1.2.1")).unwrap();
        assert_eq!(features["ociVersionMin"], "1.0.0");
        assert_eq!(features["ociVersionMax"], "1.2.1");
        let linux = &features["linux"];
        assert_eq!(linux["namespaces"].as_array().unwrap().len(), 8);
        assert_eq!(linux["cgroup"]["v1"], true);
        assert_eq!(linux["seccomp"]["actions"][0], "SCMP_ACT_ALLOW");
        assert_eq!(linux["seccomp"]["archs"][0], "SCMP_ARCH_AARCH64");
        assert_eq!(linux["mountExtensions"]["idmap"]["enabled"], true);
        assert_eq!(linux["intelRdt"]["enabled"], true);
        assert_eq!(linux["netDevices"]["enabled"], true);
        assert_eq!(linux["memoryPolicy"]["modes"].as_array().unwrap().len(), 7);
        assert_eq!(linux["memoryPolicy"]["flags"][2], "MPOL_F_STATIC_NODES");
        let capabilities = linux["capabilities"].as_array().unwrap();
        assert!(capabilities.iter().any(|name| name == "CAP_CHECKPOINT_RESTORE"));
        assert_eq!(capabilities.len(), 41);
    }

    #[test]
    fn every_listed_mount_option_is_one() {
        for option in mounts::known_options() {
            assert!(!mounts::is_file_systems(&option), "{option}");
        }
        assert!(mounts::is_file_systems("size=1"));
    }

    #[test]
    fn listed_actions_compile() {
        for action in ACTIONS {
            let rule = serde_json::json!({"names": ["mkdir"], "action": action});
            let profile =
                serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
            let profile = serde_json::from_value(profile).unwrap();
            crate::seccomp::compile(&profile, crate::seccomp::Architecture::X86_64).unwrap();
        }
    }
}
