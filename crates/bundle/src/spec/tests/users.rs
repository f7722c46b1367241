//! Pods with a user namespace of their own.

use model::{IdMapping, IdMaps, UserNamespace};

use super::*;

/// A container of a pod with 65 536 ids from 100 000 on.
fn case() -> Case {
    let mut case = Case::new();
    share(
        &mut case,
        UserNamespace { mode: NamespaceMode::Pod, maps: IdMaps { uids: map(), gids: map() } },
    );
    case
}

fn map() -> Vec<IdMapping> {
    vec![IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }]
}

fn share(case: &mut Case, users: UserNamespace) {
    case.config.security.namespaces.userns = Some(users.clone());
    case.pod.security.namespaces.userns = Some(users);
}

fn mapped(mount: &Mount) -> Option<(u32, u32)> {
    let uids = mount.uid_mappings().as_ref()?.first()?.host_id();
    Some((uids, mount.gid_mappings().as_ref()?.first()?.host_id()))
}

#[test]
fn the_pods_user_namespace_is_joined_with_its_mappings() {
    let spec = case().spec();
    let linux = spec.linux().as_ref().unwrap();
    let namespaces = linux.namespaces().as_ref().unwrap();
    let user = namespaces.iter().find(|one| one.typ() == LinuxNamespaceType::User).unwrap();
    assert_eq!(user.path().as_deref(), Some("/ns/user".as_ref()));
    let uids = &linux.uid_mappings().as_ref().unwrap()[0];
    assert_eq!((uids.container_id(), uids.host_id(), uids.size()), (0, 100_000, 65_536));
    assert_eq!(linux.gid_mappings().as_ref().map(Vec::len), Some(1));
    assert_eq!(
        spec.version(),
        "1.0.2",
        "mappings of the container are as old as the specification"
    );
}

#[test]
fn a_container_must_have_its_pods_mappings() {
    let mut shorter = map();
    shorter[0].length = 1000;
    let node = UserNamespace { mode: NamespaceMode::Node, maps: IdMaps::default() };
    let other =
        UserNamespace { mode: NamespaceMode::Pod, maps: IdMaps { uids: shorter, gids: map() } };
    for users in [None, Some(node.clone()), Some(other)] {
        let mut case = case();
        case.config.security.namespaces.userns = users;
        let error = case.build().unwrap_err();
        assert!(matches!(error, SpecError::UserNamespace { .. }), "{error}");
        assert!(error.to_string().contains("0:100000:65536"), "{error}");
    }
    let mut case = Case::new();
    case.pod.security.namespaces.userns = Some(node);
    case.spec();
    case.config.security.namespaces.userns =
        Some(UserNamespace { mode: NamespaceMode::Pod, maps: IdMaps { uids: map(), gids: map() } });
    assert!(matches!(case.build(), Err(SpecError::UserNamespace { .. })));
}

#[test]
fn users_that_are_not_mapped_are_refused() {
    for (length, field) in [(7, "user"), (8, "group"), (9, "group")] {
        let mut case = Case::new();
        let map = vec![IdMapping { host_id: 100_000, container_id: 0, length }];
        share(
            &mut case,
            UserNamespace {
                mode: NamespaceMode::Pod,
                maps: IdMaps { uids: map.clone(), gids: map },
            },
        );
        let error = case.build().unwrap_err();
        assert!(matches!(&error, SpecError::Unmapped { field: f, .. } if *f == field), "{error}");
    }
}

#[test]
fn what_belongs_to_a_namespace_of_the_hosts_is_bound() {
    let kind =
        |case: &Case, place: &str| mount_at(&case.spec(), place).typ().clone().unwrap_or_default();
    let own = case();
    for (place, fstype) in [("/proc", "proc"), ("/sys", "sysfs"), ("/dev/mqueue", "mqueue")] {
        assert_eq!(kind(&own, place), fstype);
    }
    let mut hosts = case();
    let options_of = |case: &mut Case| {
        case.pod.security.namespaces.network = NamespaceMode::Node;
        case.pod.security.namespaces.ipc = NamespaceMode::Node;
        case.pod.security.namespaces.pid = NamespaceMode::Node;
        case.config.security.namespaces.pid = NamespaceMode::Node;
    };
    options_of(&mut hosts);
    for place in ["/proc", "/sys"] {
        assert_eq!(kind(&hosts, place), "bind");
    }
    let spec = hosts.spec();
    assert!(!destinations(&spec).iter().any(|place| place == "/dev/mqueue"));
    let want = ["rbind", "rprivate", "rro", "nosuid", "noexec", "nodev"];
    assert_eq!(options(mount_at(&spec, "/sys")), want);
    let mut outside = Case::new();
    options_of(&mut outside);
    assert_eq!(kind(&outside, "/sys"), "sysfs", "the host's root may mount what is the host's");
}

#[test]
fn the_terminals_group_is_left_out_where_it_does_not_exist() {
    let gid = |case: &Case| {
        options(mount_at(&case.spec(), "/dev/pts")).iter().any(|o| o.starts_with("gid"))
    };
    assert!(gid(&case()));
    let mut case = Case::new();
    let uids = map();
    let gids = vec![
        IdMapping { host_id: 100_000, container_id: 0, length: 1 },
        IdMapping { host_id: 100_008, container_id: 8, length: 2 },
    ];
    share(&mut case, UserNamespace { mode: NamespaceMode::Pod, maps: IdMaps { uids, gids } });
    assert!(!gid(&case));
}

#[test]
fn mounts_are_mapped_as_requested_and_volumes_as_the_pod_is() {
    let mut case = case();
    case.mount("/plain");
    let request = case.mount("/data");
    request.uid_mappings = map();
    request.gid_mappings = map();
    case.volumes =
        vec![AnonymousVolume { container_path: "/vol".into(), host_path: "/v/0".into() }];
    let spec = case.spec();
    assert_eq!(mapped(mount_at(&spec, "/data")), Some((100_000, 100_000)));
    assert_eq!(mapped(mount_at(&spec, "/vol")), Some((100_000, 100_000)));
    assert_eq!(mapped(mount_at(&spec, "/plain")), None);
    assert_eq!(mapped(mount_at(&spec, "/etc/hosts")), None, "the pod's files belong to its root");
    assert_eq!(spec.version(), "1.1.0");
    case.config.mounts[1].gid_mappings.clear();
    let error = case.build().unwrap_err().to_string();
    assert!(error.contains("mounts.gidMappings"), "{error}");
}

#[test]
fn nothing_propagates_out_of_a_user_namespace() {
    let mut case = case();
    case.mount("/a").propagation = MountPropagation::Bidirectional;
    assert!(matches!(case.build(), Err(SpecError::Unsupported { .. })));
    case.config.mounts[0].propagation = MountPropagation::HostToContainer;
    case.spec();
}
