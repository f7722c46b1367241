use model::{
    Capabilities, CgroupHierarchy, CgroupLayout, ContainerConfig, ContainerId, ContainerName,
    EnvVar, ImageConfig, ImageSpec, MountPropagation, MountRequest, MountSource, NamespaceMode,
    PodConfig, PodName, ResolvedUser, SandboxId, SecurityProfile, StringMap,
};
use oci_spec::runtime::{LinuxNamespaceType, Mount};

use super::*;
use crate::{
    AnonymousVolume, AppArmorFacts, DeviceKind, HostDevice, HostFacts, NamespacePaths, PodFiles,
    ResolvedDevice, ResolvedMount, RuntimeFacts,
};

mod users;

/// Owns what an input borrows; tests change a field and build.
struct Case {
    pod: PodConfig,
    config: ContainerConfig,
    image: ImageConfig,
    host: HostFacts,
    runtime: RuntimeFacts,
    mounts: Vec<ResolvedMount>,
    volumes: Vec<AnonymousVolume>,
    devices: Vec<ResolvedDevice>,
    localhost_seccomp: Option<String>,
}

fn unified() -> CgroupLayout {
    CgroupLayout::V2(CgroupHierarchy { mountpoint: "/sys/fs/cgroup".into(), controllers: vec![] })
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

impl Case {
    fn new() -> Self {
        Self {
            pod: pod(),
            config: config(),
            image: ImageConfig { cmd: vec!["sh".into()], ..Default::default() },
            host: HostFacts {
                cgroup: unified(),
                swap_limit: true,
                apparmor: None,
                selinux: None,
                bounding_caps: u64::MAX,
                devices: vec![],
                kernel: (6, 1),
                recursive_read_only: true,
            },
            runtime: RuntimeFacts { recursive_read_only: true, seccomp: true },
            mounts: vec![],
            volumes: vec![],
            devices: vec![],
            localhost_seccomp: None,
        }
    }

    fn privileged() -> Self {
        let mut case = Self::new();
        case.pod.security.privileged = true;
        case.config.security.privileged = true;
        case
    }

    fn build(&self) -> Result<Spec, SpecError> {
        let path = |name: &str| format!("/run/pod/{name}");
        container_spec(&ContainerInput {
            sandbox: &SandboxId::from_random([1; 32]),
            container: &ContainerId::from_random([2; 32]),
            pod: &self.pod,
            config: &self.config,
            image_name: "busybox",
            image: &self.image,
            user: &ResolvedUser { uid: 7, gid: 8, groups: vec![8, 9], home: None },
            hostname: "host",
            files: &PodFiles {
                hostname: path("hostname"),
                hosts: path("hosts"),
                resolv_conf: path("resolv.conf"),
                shm: path("shm"),
            },
            root_path: "rootfs",
            cgroup_path: "/kubepods/pod/id",
            namespaces: &NamespacePaths {
                net: Some("/ns/net".into()),
                ipc: Some("/ns/ipc".into()),
                uts: Some("/ns/uts".into()),
                pid: None,
                user: Some("/ns/user".into()),
            },
            mounts: &self.mounts,
            volumes: &self.volumes,
            devices: &self.devices,
            localhost_seccomp: self.localhost_seccomp.as_deref(),
            selinux_level: Some("s0:c1,c2"),
            annotations: &StringMap::from([("io.kubernetes.cri.sandbox-id".into(), "fake".into())]),
            host: &self.host,
            runtime: self.runtime,
        })
    }

    fn spec(&self) -> Spec {
        self.build().unwrap()
    }

    /// Adds a mount of `/src` that lies on a shared mount.
    fn mount(&mut self, container_path: &str) -> &mut MountRequest {
        self.mounts.push(ResolvedMount { host_path: "/src".into(), shared: true, slave: false });
        self.config.mounts.push(MountRequest {
            container_path: container_path.into(),
            source: MountSource::Host("/link".into()),
            readonly: false,
            recursive_read_only: false,
            selinux_relabel: false,
            propagation: MountPropagation::Private,
            uid_mappings: vec![],
            gid_mappings: vec![],
            options: vec![],
        });
        self.config.mounts.last_mut().unwrap()
    }
}

fn destinations(spec: &Spec) -> Vec<String> {
    let mounts = spec.mounts().iter().flatten();
    mounts.map(|mount| mount.destination().display().to_string()).collect()
}

fn mount_at<'a>(spec: &'a Spec, destination: &str) -> &'a Mount {
    let mut mounts = spec.mounts().iter().flatten();
    mounts.find(|mount| mount.destination().as_os_str() == destination).unwrap()
}

fn options(mount: &Mount) -> Vec<&str> {
    mount.options().iter().flatten().map(String::as_str).collect()
}

#[test]
fn a_container_gets_the_default_mounts_parents_first() {
    assert_eq!(
        destinations(&Case::new().spec()),
        [
            "/proc",
            "/dev",
            "/sys",
            "/dev/pts",
            "/dev/mqueue",
            "/etc/hostname",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/dev/shm",
            "/sys/fs/cgroup"
        ]
    );
}

#[test]
fn a_requested_mount_replaces_the_default_at_its_place() {
    let mut case = Case::new();
    case.mount("/etc/hosts/");
    case.mount("/data/a/b");
    case.mount("/data");
    let spec = case.spec();
    let places = destinations(&spec);
    assert_eq!(places.iter().filter(|place| *place == "/etc/hosts").count(), 1);
    assert_eq!(mount_at(&spec, "/etc/hosts").source().as_deref(), Some("/src".as_ref()));
    let at = |wanted: &str| places.iter().position(|place| place == wanted).unwrap();
    assert!(at("/data") < at("/data/a/b"));
}

#[test]
fn a_mount_on_dev_hides_all_defaults_below_it() {
    let mut case = Case::new();
    case.mount("/dev");
    let places = destinations(&case.spec());
    assert!(!places.iter().any(|place| place.starts_with("/dev/")), "{places:?}");
}

#[test]
fn propagation_needs_a_source_that_propagates() {
    let mut case = Case::new();
    case.mount("/a").propagation = MountPropagation::Bidirectional;
    assert_eq!(
        case.spec().linux().as_ref().unwrap().rootfs_propagation().as_deref(),
        Some("rshared")
    );
    assert_eq!(options(mount_at(&case.spec(), "/a")), ["rbind", "rshared", "rw"]);
    case.mounts[0] = ResolvedMount { host_path: "/src".into(), shared: false, slave: true };
    assert!(matches!(case.build(), Err(SpecError::Propagation { .. })));
    case.config.mounts[0].propagation = MountPropagation::HostToContainer;
    assert_eq!(options(mount_at(&case.spec(), "/a")), ["rbind", "rslave", "rw"]);
    case.mounts[0].slave = false;
    assert!(matches!(case.build(), Err(SpecError::Propagation { .. })));
}

#[test]
fn recursive_read_only_is_had_or_refused() {
    let mut case = Case::new();
    case.mount("/a").recursive_read_only = true;
    let refused = case.build().unwrap_err().to_string();
    assert!(refused.starts_with("RROUnsupported"), "{refused}");
    case.config.mounts[0].readonly = true;
    let spec = case.spec();
    assert_eq!(options(mount_at(&spec, "/a")), ["rbind", "rprivate", "rro"]);
    assert_eq!(spec.version(), "1.1.0");
    case.runtime.recursive_read_only = false;
    assert!(matches!(case.build(), Err(SpecError::RecursiveReadOnly { .. })));
}

#[test]
fn an_image_volume_is_read_only_whatever_is_asked() {
    let mut case = Case::new();
    let image = ImageSpec::default();
    case.mount("/a").source = MountSource::Image { image, sub_path: String::new() };
    case.config.mounts[0].options = vec!["noexec".into(), "nosuid".into()];
    let spec = case.spec();
    let mount = mount_at(&spec, "/a");
    assert_eq!(mount.source().as_deref(), Some("/src".as_ref()), "as the caller resolved it");
    assert_eq!(options(mount), ["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"]);
}

#[test]
fn only_protective_mount_options_pass() {
    let mut case = Case::new();
    case.mount("/a").options = vec!["noexec".into()];
    assert!(options(mount_at(&case.spec(), "/a")).contains(&"noexec"));
    case.config.mounts[0].options = vec!["suid".into()];
    assert!(matches!(case.build(), Err(SpecError::Invalid { .. })));
}

#[test]
fn a_read_only_root_makes_the_pods_files_read_only() {
    let mut case = Case::new();
    case.config.security.readonly_rootfs = true;
    let spec = case.spec();
    for place in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"] {
        assert!(options(mount_at(&spec, place)).contains(&"ro"), "{place}");
    }
    assert!(options(mount_at(&spec, "/dev/shm")).contains(&"rw"));
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
}

#[test]
fn the_command_comes_from_the_request_then_the_image() {
    let run = |command: &[&str], args: &[&str], entrypoint: &[&str], cmd: &[&str]| {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mut config = config();
        (config.command, config.args) = (own(command), own(args));
        let image =
            ImageConfig { entrypoint: own(entrypoint), cmd: own(cmd), ..Default::default() };
        process_args(&config, &image).ok().map(|args| args.join(" "))
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(run(&["a"], &["b"], &["e"], &["c"]), text("a b"));
    assert_eq!(run(&["a"], &[], &["e"], &["c"]), text("a"));
    assert_eq!(run(&[], &["b"], &["e"], &["c"]), text("e b"));
    assert_eq!(run(&[], &[], &["e"], &["c"]), text("e c"));
    assert_eq!(run(&[], &[], &[""], &["c"]), text("c"));
    assert_eq!(run(&[], &["b"], &[], &["c"]), text("b"));
    assert_eq!(run(&[], &[], &[""], &[]), None);
}

#[test]
fn later_environment_wins_with_one_entry_per_name() {
    let mut case = Case::new();
    case.config.tty = true;
    case.image.env = vec!["PATH=/image".into(), "A=1".into(), "broken".into(), "B=x=y".into()];
    case.config.envs = vec![
        EnvVar { key: "A".into(), value: b"2".to_vec() },
        EnvVar { key: "HOSTNAME".into(), value: b"mine".to_vec() },
    ];
    let spec = case.spec();
    let env = spec.process().as_ref().unwrap().env().as_ref().unwrap();
    assert_eq!(env, &["PATH=/image", "HOME=/", "TERM=xterm", "HOSTNAME=mine", "A=2", "B=x=y"]);
    for (key, value) in [("", &b"v"[..]), ("A=B", b"v"), ("A", b"\0")] {
        case.config.envs = vec![EnvVar { key: key.into(), value: value.to_vec() }];
        assert!(matches!(case.build(), Err(SpecError::Invalid { .. })), "{key} {value:?}");
    }
}

#[test]
fn the_pods_namespaces_are_joined_and_the_hosts_left_out() {
    let kinds = |case: &Case| {
        let spec = case.spec();
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        namespaces.iter().map(|one| (one.typ(), one.path().is_some())).collect::<Vec<_>>()
    };
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let mut case = Case::new();
    let all =
        [(Mount, false), (Network, true), (Ipc, true), (Uts, true), (Pid, false), (Cgroup, false)];
    assert_eq!(kinds(&case), all);
    case.pod.security.namespaces.network = NamespaceMode::Node;
    case.pod.security.namespaces.pid = NamespaceMode::Node;
    case.config.security.namespaces.pid = NamespaceMode::Node;
    case.host.cgroup = CgroupLayout::V1 { hierarchies: vec![], unified: None };
    assert_eq!(kinds(&case), [(Mount, false), (Ipc, true)]);
    case.pod.security.namespaces.pid = NamespaceMode::Pod;
    case.config.security.namespaces.pid = NamespaceMode::Pod;
    assert!(matches!(case.build(), Err(SpecError::Missing { .. })));
}

#[test]
fn privileged_containers_need_a_privileged_pod() {
    let mut case = Case::privileged();
    case.pod.security.privileged = false;
    assert_eq!(case.build().unwrap_err().to_string(), "no privileged container allowed in sandbox");
}

#[test]
fn a_privileged_container_is_not_confined() {
    let mut case = Case::privileged();
    let device = |path: &str| HostDevice {
        path: path.into(),
        kind: DeviceKind::Char,
        major: 10,
        minor: 229,
        mode: 0o600,
        uid: 0,
        gid: 0,
    };
    case.host.devices = vec![device("/dev/fuse"), device("/dev/pts/0"), device("/dev/console")];
    case.config.security.masked_paths = vec!["/proc/kcore".into()];
    case.config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    let spec = case.spec();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!((linux.seccomp(), linux.masked_paths()), (&None, &None));
    let nodes = linux.devices().as_ref().unwrap();
    assert_eq!(
        nodes.iter().map(|n| n.path().display().to_string()).collect::<Vec<_>>(),
        ["/dev/fuse"]
    );
    let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
    assert_eq!(rules.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a *:* rwm"]);
    assert!(rules[0].allow());
    assert!(options(mount_at(&spec, "/sys")).contains(&"rw"));
    let cgroup = mount_at(&spec, "/sys/fs/cgroup");
    assert_eq!(cgroup.typ().as_deref(), Some("bind"), "the host's mount options are kept");
    assert!(options(cgroup).contains(&"rw"));
}

#[test]
fn an_ordinary_container_in_a_privileged_pod_stays_confined() {
    let mut case = Case::privileged();
    case.config.security.privileged = false;
    assert!(options(mount_at(&case.spec(), "/sys")).contains(&"ro"));
}

#[test]
fn masked_paths_capabilities_and_no_new_privs_are_as_given() {
    let mut case = Case::new();
    case.config.security.masked_paths = vec!["/proc/kcore".into()];
    case.config.security.no_new_privs = true;
    case.config.security.capabilities =
        Capabilities { drop: vec!["ALL".into()], add: vec!["kill".into()], ..Default::default() };
    let spec = case.spec();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.masked_paths().as_deref(), Some(&["/proc/kcore".to_owned()][..]));
    assert_eq!(linux.readonly_paths().as_deref(), Some(&[][..]));
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.no_new_privileges(), Some(true));
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
    assert_eq!(capabilities.ambient().as_ref().map(|set| set.len()), Some(0));
}

#[test]
fn limits_of_zero_are_not_set() {
    let mut case = Case::new();
    let spec = case.spec();
    let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
    assert_eq!((resources.cpu(), resources.memory(), resources.pids()), (&None, &None, &None));
    assert_eq!(spec.process().as_ref().unwrap().oom_score_adj(), Some(0));

    case.config.resources.cpu_quota_us = -1;
    case.config.resources.memory_limit_bytes = 1 << 20;
    let spec = case.spec();
    let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
    assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(-1));
    let memory = resources.memory().as_ref().unwrap();
    assert_eq!((memory.limit(), memory.swap()), (Some(1 << 20), Some(1 << 20)));
    case.host.swap_limit = false;
    let spec = case.spec();
    let memory = spec.linux().as_ref().unwrap().resources().as_ref().unwrap().memory().unwrap();
    assert_eq!(memory.swap(), None);
}

#[test]
fn impossible_limits_are_refused() {
    let mut case = Case::new();
    case.config.resources.cpu_shares = -1;
    assert!(matches!(case.build(), Err(SpecError::Invalid { field: "cpu_shares", .. })));
    let mut case = Case::new();
    case.config.resources.oom_score_adj = 1001;
    assert!(matches!(case.build(), Err(SpecError::Invalid { field: "oom_score_adj", .. })));
    let mut case = Case::new();
    case.config.resources.unified = StringMap::from([("memory.high".into(), "1".into())]);
    assert_eq!(case.spec().version(), "1.1.0");
    case.host.cgroup = CgroupLayout::V1 { hierarchies: vec![], unified: None };
    assert!(matches!(case.build(), Err(SpecError::Unsupported { .. })));
}

#[test]
fn requested_devices_are_made_and_allowed() {
    let mut case = Case::new();
    let node = HostDevice {
        path: "/dev/disk/".into(),
        kind: DeviceKind::Block,
        major: 8,
        minor: 1,
        mode: 0o10660,
        uid: 0,
        gid: 6,
    };
    case.devices = vec![ResolvedDevice { node, permissions: "r".into() }];
    let spec = case.spec();
    let linux = spec.linux().as_ref().unwrap();
    let nodes = linux.devices().as_ref().unwrap();
    assert_eq!((nodes[0].path().to_str(), nodes[0].file_mode()), (Some("/dev/disk"), Some(0o660)));
    let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
    let lines: Vec<String> = rules.iter().map(|rule| format!("{} {rule}", rule.allow())).collect();
    assert_eq!(lines, ["false a *:* rwm", "true b 8:1 r"]);
    case.devices[0].permissions = "rx".into();
    assert!(matches!(case.build(), Err(SpecError::Invalid { .. })));
}

#[test]
fn apparmor_profiles_must_be_loaded() {
    let mut case = Case::new();
    let profile = |case: &Case| {
        case.build().map(|spec| spec.process().as_ref().unwrap().apparmor_profile().clone())
    };
    assert_eq!(profile(&case).unwrap(), None);
    case.config.security.apparmor = Some(SecurityProfile::Localhost("mine".into()));
    assert!(matches!(profile(&case), Err(SpecError::NoAppArmor { .. })));
    for allowed in [SecurityProfile::RuntimeDefault, SecurityProfile::Unconfined] {
        case.config.security.apparmor = Some(allowed);
        assert_eq!(profile(&case).unwrap(), None, "a host without AppArmor");
    }
    case.config.security.apparmor = Some(SecurityProfile::Localhost("mine".into()));
    case.host.apparmor =
        Some(AppArmorFacts { default_profile: "default".into(), loaded: vec!["default".into()] });
    assert!(matches!(profile(&case), Err(SpecError::AppArmorProfile { .. })));
    case.config.security.apparmor = None;
    assert_eq!(profile(&case).unwrap().as_deref(), Some("default"));
    case.config.security.apparmor = Some(SecurityProfile::Unconfined);
    assert_eq!(profile(&case).unwrap(), None);
    case.config.security.privileged = true;
    case.pod.security.privileged = true;
    for (asked, entered) in [
        (None, None),
        (Some(SecurityProfile::RuntimeDefault), None),
        (Some(SecurityProfile::Localhost("default".into())), Some("default")),
    ] {
        case.config.security.apparmor = asked.clone();
        assert_eq!(profile(&case).unwrap().as_deref(), entered, "privileged, {asked:?}");
    }
}

#[test]
fn a_default_profile_that_could_not_be_loaded_is_not_left_out() {
    let mut case = Case::new();
    case.host.apparmor =
        Some(AppArmorFacts { default_profile: "default".into(), loaded: Vec::new() });
    assert!(matches!(case.build(), Err(SpecError::AppArmorProfile { .. })));
}

#[test]
fn selinux_labels_are_the_containers_then_the_pods_then_the_policys() {
    let mut case = Case::new();
    let labels = |case: &Case| {
        let spec = case.spec();
        let process = spec.process().as_ref().unwrap().selinux_label().clone();
        (process, spec.linux().as_ref().unwrap().mount_label().clone())
    };
    assert_eq!(labels(&case), (None, None), "a host without SELinux");
    case.host.selinux =
        Some(crate::SelinuxFacts { process: "u:r:t:s0".into(), file: "u:o:f:s0".into() });
    let both = |process: &str, mount: &str| (Some(process.to_owned()), Some(mount.to_owned()));
    assert_eq!(labels(&case), both("u:r:t:s0:c1,c2", "u:o:f:s0:c1,c2"));
    let options = |r#type: &str, level: &str| {
        Some(model::SelinuxOptions {
            r#type: r#type.into(),
            level: level.into(),
            ..Default::default()
        })
    };
    case.pod.security.selinux = options("pod_t", "s0:c3,c4");
    case.config.security.selinux = options("own_t", "");
    assert_eq!(labels(&case), both("u:r:own_t:s0:c3,c4", "u:o:f:s0:c3,c4"));
    case.config.security.selinux = options("", "s0,c4,c5");
    assert!(matches!(case.build(), Err(SpecError::Invalid { .. })));
}

#[test]
fn seccomp_is_off_unless_asked_for() {
    let mut case = Case::new();
    let filtered =
        |case: &Case| case.build().map(|spec| spec.linux().as_ref().unwrap().seccomp().is_some());
    assert!(!filtered(&case).unwrap());
    case.config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    assert!(filtered(&case).unwrap());
    case.config.security.seccomp = Some(SecurityProfile::Localhost("/p.json".into()));
    assert!(matches!(case.build(), Err(SpecError::Missing { .. })));
    case.localhost_seccomp = Some(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#.into());
    assert!(filtered(&case).unwrap());
}

#[test]
fn volumes_of_the_image_are_backed_unless_a_mount_takes_their_place() {
    let mut case = Case::new();
    case.image.volumes = vec!["/data/".into(), "/data".into(), "/cache".into(), "/".into()];
    assert_eq!(image_volumes(&case.config, &case.image), ["/cache", "/data"]);
    case.mount("/cache");
    assert_eq!(image_volumes(&case.config, &case.image), ["/data"]);
    case.volumes =
        vec![AnonymousVolume { container_path: "/data".into(), host_path: "/vol".into() }];
    assert_eq!(mount_at(&case.spec(), "/data").source().as_deref(), Some("/vol".as_ref()));
}

#[test]
fn annotations_tell_other_runtimes_what_this_is_and_cannot_be_forged() {
    let spec = Case::new().spec();
    let annotations = spec.annotations().as_ref().unwrap();
    let own = |key: &str| annotations[&format!("io.kubernetes.cri.{key}")].as_str();
    assert_eq!((own("container-type"), own("container-name")), ("container", "c"));
    assert_eq!(own("sandbox-id"), SandboxId::from_random([1; 32]).as_str());
}

#[test]
fn a_spec_survives_its_json() {
    let spec = Case::new().spec();
    assert_eq!(spec.version(), "1.0.2");
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
}
