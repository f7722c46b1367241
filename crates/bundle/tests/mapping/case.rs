//! A request that asks for nothing, and what a change of it changes in the spec.

use std::collections::BTreeMap;

use bundle::{
    AnonymousVolume, AppArmorFacts, ContainerInput, HostFacts, NamespacePaths, PodFiles,
    ResolvedDevice, ResolvedMount, RuntimeFacts, SpecError,
};
use model::{
    CgroupHierarchy, CgroupLayout, ContainerConfig, ContainerId, ContainerName, ImageConfig,
    NamespaceMode, PodConfig, PodName, ResolvedUser, SandboxId, StringMap,
};
use serde_json::{Value, json};

/// Owns what an input borrows.
pub(crate) struct Case {
    pub(crate) pod: PodConfig,
    pub(crate) config: ContainerConfig,
    pub(crate) image: ImageConfig,
    pub(crate) user: ResolvedUser,
    pub(crate) host: HostFacts,
    pub(crate) runtime: RuntimeFacts,
    pub(crate) namespaces: NamespacePaths,
    pub(crate) mounts: Vec<ResolvedMount>,
    pub(crate) volumes: Vec<AnonymousVolume>,
    pub(crate) devices: Vec<ResolvedDevice>,
    pub(crate) localhost_seccomp: Option<String>,
    pub(crate) selinux_level: Option<String>,
    pub(crate) annotations: StringMap,
}

fn pod() -> PodConfig {
    let name = PodName { name: "p".into(), namespace: "ns".into(), uid: "u".into(), attempt: 0 };
    let (hostname, cgroup_parent) = ("host".into(), "/kubepods/pod".into());
    PodConfig { hostname, cgroup_parent, ..PodConfig::new(name) }
}

fn config() -> ContainerConfig {
    let mut config = ContainerConfig::new(ContainerName { name: "c".into(), attempt: 0 });
    config.security.namespaces.pid = NamespaceMode::Container;
    config
}

/// A host of the unified hierarchy with nothing special.
fn host() -> HostFacts {
    HostFacts {
        cgroup: CgroupLayout::V2(CgroupHierarchy {
            mountpoint: "/sys/fs/cgroup".into(),
            controllers: vec![],
        }),
        swap_limit: true,
        apparmor: None,
        selinux: None,
        bounding_caps: u64::MAX,
        devices: vec![],
        kernel: (6, 1),
        recursive_read_only: true,
    }
}

impl Case {
    pub(crate) fn new() -> Self {
        let path = |kind: &str| Some(format!("/ns/{kind}"));
        Self {
            pod: pod(),
            config: config(),
            image: ImageConfig { cmd: vec!["sh".into()], ..Default::default() },
            user: ResolvedUser { uid: 0, gid: 0, groups: vec![0], home: None },
            host: host(),
            runtime: RuntimeFacts { recursive_read_only: true, seccomp: true },
            namespaces: NamespacePaths {
                net: path("net"),
                ipc: path("ipc"),
                uts: path("uts"),
                ..Default::default()
            },
            mounts: vec![],
            volumes: vec![],
            devices: vec![],
            localhost_seccomp: None,
            selinux_level: None,
            annotations: StringMap::new(),
        }
    }

    pub(crate) fn build(&self) -> Result<Value, SpecError> {
        let path = |name: &str| format!("/run/pod/{name}");
        let spec = bundle::container_spec(&ContainerInput {
            sandbox: &SandboxId::from_random([1; 32]),
            container: &ContainerId::from_random([2; 32]),
            pod: &self.pod,
            config: &self.config,
            image_name: "busybox",
            image: &self.image,
            user: &self.user,
            hostname: "host",
            files: &PodFiles {
                hostname: path("hostname"),
                hosts: path("hosts"),
                resolv_conf: path("resolv.conf"),
                shm: path("shm"),
            },
            root_path: "/pods/c/rootfs",
            cgroup_path: "/kubepods/pod/c",
            namespaces: &self.namespaces,
            mounts: &self.mounts,
            volumes: &self.volumes,
            devices: &self.devices,
            localhost_seccomp: self.localhost_seccomp.as_deref(),
            selinux_level: self.selinux_level.as_deref(),
            annotations: &self.annotations,
            host: &self.host,
            runtime: self.runtime,
        })?;
        Ok(bundle::canonical_json(&spec).unwrap())
    }

    pub(crate) fn with_apparmor(&mut self) {
        let facts = AppArmorFacts {
            default_profile: "knarr-default".into(),
            loaded: vec!["knarr-default".into(), "mine".into()],
        };
        self.host.apparmor = Some(facts);
    }
}

/// One row: `change` makes these differences and no others. Keys are JSON pointers; `-` and `+`
/// after one are what left a list and what came into it.
#[track_caller]
#[allow(clippy::needless_pass_by_value, reason = "a table of literals reads better")]
pub(crate) fn row(change: impl FnOnce(&mut Case), expected: Value) {
    let mut case = Case::new();
    let before = case.build().unwrap();
    change(&mut case);
    let after = case.build().unwrap();
    assert_eq!(differences(&before, &after), expected);
}

/// A row without a spec.
#[track_caller]
pub(crate) fn refused(change: impl FnOnce(&mut Case), words: &str) {
    let mut case = Case::new();
    change(&mut case);
    match case.build() {
        Ok(spec) => panic!("accepted: {spec}"),
        Err(error) => assert!(error.to_string().contains(words), "{error}"),
    }
}

fn differences(before: &Value, after: &Value) -> Value {
    let mut found = BTreeMap::new();
    compare(String::new(), before, after, &mut found);
    json!(found)
}

fn compare(at: String, before: &Value, after: &Value, found: &mut BTreeMap<String, Value>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().chain(new.keys()) {
                let of = |map: &serde_json::Map<_, _>| map.get(key).cloned().unwrap_or_default();
                compare(format!("{at}/{key}"), &of(old), &of(new), found);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            let only = |these: &[Value], those: &[Value]| -> Vec<Value> {
                these.iter().filter(|item| !those.contains(item)).cloned().collect()
            };
            let (left, came) = (only(old, new), only(new, old));
            if left.is_empty() && came.is_empty() {
                found.insert(at, after.clone());
                return;
            }
            for (sign, items) in [("-", left), ("+", came)] {
                if !items.is_empty() {
                    found.insert(format!("{at} {sign}"), Value::Array(items));
                }
            }
        }
        _ => {
            found.insert(at, after.clone());
        }
    }
}

#[test]
fn a_container_that_asks_for_nothing_gets_the_base() {
    let base: Value = serde_json::from_str(include_str!("base.json")).unwrap();
    let made = Case::new().build().unwrap();
    assert_eq!(differences(&base, &made), json!({}), "{made:#}");
}
