//! Launch plans for a busybox root.

use launch::plan::{
    CapabilitySets, CgroupDir, CgroupPlan, CgroupSetting, EnvEntry, ExecPlan, FsOption, Hierarchy,
    LaunchPlan, MountPlan, MountSource, Namespace, Namespaces, PidNamespace, ProcessPlan,
    Propagation, RootPlan, RootSource,
};
use model::{CgroupHierarchy, CgroupLayout};

const ALL_CAPABILITIES: u64 = 0x1ff_ffff_ffff;

/// A container that runs a shell script.
pub(crate) fn shell(root: &str, cgroup: CgroupPlan, script: &str) -> LaunchPlan {
    LaunchPlan {
        process: process(&["/bin/sh", "-c", script]),
        namespaces: Namespaces {
            pid: PidNamespace::New,
            cgroup: Namespace::Inherit,
            ..Namespaces::default()
        },
        root: RootPlan {
            source: RootSource::Directory(root.to_owned()),
            readonly: false,
            propagation: Propagation::Private,
            label: None,
        },
        mounts: vec![
            file_system("/proc", "proc", &[]),
            file_system("/dev", "tmpfs", &[("mode", "755")]),
            file_system("/dev/pts", "devpts", &[("newinstance", ""), ("ptmxmode", "0666")]),
        ],
        devices: Vec::new(),
        net_devices: Vec::new(),
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        sysctls: Vec::new(),
        hostname: None,
        cgroup,
        hooks: None,
    }
}

pub(crate) fn process(args: &[&str]) -> ProcessPlan {
    ProcessPlan {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec![EnvEntry(b"PATH=/bin".to_vec())],
        cwd: "/".to_owned(),
        capabilities: CapabilitySets {
            bounding: ALL_CAPABILITIES,
            effective: ALL_CAPABILITIES,
            permitted: ALL_CAPABILITIES,
            ..CapabilitySets::default()
        },
        ..ProcessPlan::default()
    }
}

/// An exec of a shell script in a container with this cgroup.
pub(crate) fn exec_shell(cgroup: &CgroupPlan, script: &str) -> ExecPlan {
    ExecPlan { process: process(&["/bin/sh", "-c", script]), cgroup: cgroup.clone() }
}

fn file_system(target: &str, fstype: &str, options: &[(&str, &str)]) -> MountPlan {
    let option = |(key, value): &(&str, &str)| FsOption {
        key: (*key).to_owned(),
        value: (!value.is_empty()).then(|| (*value).to_owned()),
    };
    MountPlan {
        target: target.to_owned(),
        source: MountSource::New {
            fstype: fstype.to_owned(),
            source: fstype.to_owned(),
            options: options.iter().map(option).collect(),
            copy_up: false,
        },
        attr_set: 0,
        attr_clear: 0,
        attr_recursive: false,
        propagation: Propagation::Private,
        ids: None,
        label: None,
    }
}

/// One directory called `name` in every hierarchy of this host that containers join.
pub(crate) fn cgroup(name: &str) -> CgroupPlan {
    let dir = |hierarchy: Hierarchy, at: &CgroupHierarchy| CgroupDir {
        join_late: at.controllers.iter().any(|c| c == "cpu" || c == "cpuset"),
        hierarchy,
        mountpoint: at.mountpoint.clone(),
        path: format!("{}/{name}", at.mountpoint),
        settings: Vec::new(),
    };
    let groups = match sys::cgroup::detect().unwrap() {
        CgroupLayout::V2(unified) => vec![dir(Hierarchy::V2, &unified)],
        CgroupLayout::V1 { hierarchies, unified } => hierarchies
            .iter()
            .map(|at| dir(Hierarchy::V1(at.controllers.clone()), at))
            .chain(unified.iter().map(|at| dir(Hierarchy::V2, at)))
            .collect(),
    };
    CgroupPlan { groups, ..CgroupPlan::default() }
}

/// Limits memory; false when this host has no controller for it.
pub(crate) fn limit_memory(cgroup: &mut CgroupPlan, bytes: u64) -> bool {
    let file = |group: &CgroupDir| match &group.hierarchy {
        Hierarchy::V1(controllers) if controllers.iter().any(|c| c == "memory") => {
            Some("memory.limit_in_bytes")
        }
        Hierarchy::V1(_) => None,
        Hierarchy::V2 => {
            let offered =
                std::fs::read_to_string(format!("{}/cgroup.controllers", group.mountpoint));
            let has_memory =
                offered.is_ok_and(|text| text.split_whitespace().any(|c| c == "memory"));
            has_memory.then_some("memory.max")
        }
    };
    for group in &mut cgroup.groups {
        if let Some(file) = file(group) {
            let (file, value) = (file.to_owned(), bytes.to_string());
            group.settings.push(CgroupSetting { file, value, required: true, fallback: None });
            return true;
        }
    }
    false
}
