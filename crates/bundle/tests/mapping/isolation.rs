//! Rows of namespaces, paths, filters and privilege.

use bundle::{DeviceKind, HostDevice, SelinuxFacts};
use model::{
    CgroupLayout, IdMapping, IdMaps, NamespaceMode, SecurityProfile, SelinuxOptions, UserNamespace,
};
use serde_json::json;

use crate::case::{Case, refused, row};

#[test]
fn network_and_its_host_name() {
    row(
        |case| case.pod.security.namespaces.network = NamespaceMode::Node,
        json!({ "/linux/namespaces -": [
            { "type": "network", "path": "/ns/net" }, { "type": "uts", "path": "/ns/uts" },
        ]}),
    );
    refused(|case| case.namespaces.net = None, "the namespace of the pod to join is not known");
}

#[test]
fn ipc() {
    let mut case = Case::new();
    let namespaces = |case: &Case| case.build().unwrap()["linux"]["namespaces"].clone();
    let ipc = json!({ "type": "ipc", "path": "/ns/ipc" });
    assert!(namespaces(&case).as_array().unwrap().contains(&ipc));
    case.pod.security.namespaces.ipc = NamespaceMode::Node;
    assert!(!namespaces(&case).as_array().unwrap().contains(&ipc));
}

#[test]
fn pid() {
    let mode = |mode: NamespaceMode| {
        move |case: &mut Case| {
            case.config.security.namespaces.pid = mode;
            case.namespaces.pid = Some("/ns/pid".into());
        }
    };
    let own = json!([{ "type": "pid" }]);
    let joined = json!({
        "/linux/namespaces -": own, "/linux/namespaces +": [{ "type": "pid", "path": "/ns/pid" }],
    });
    let hosts = |case: &mut Case| {
        mode(NamespaceMode::Node)(case);
        case.pod.security.namespaces.pid = NamespaceMode::Node;
    };
    row(hosts, json!({ "/linux/namespaces -": own }));
    refused(mode(NamespaceMode::Node), "of the container is Node, but that of its pod is Pod");
    row(mode(NamespaceMode::Pod), joined.clone());
    row(mode(NamespaceMode::Target), joined);
    row(mode(NamespaceMode::Container), json!({}));
    refused(
        |case| case.config.security.namespaces.pid = NamespaceMode::Target,
        "the PID namespace to join is not known",
    );
}

#[test]
fn users() {
    let map = || vec![IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }];
    let users =
        || UserNamespace { mode: NamespaceMode::Pod, maps: IdMaps { uids: map(), gids: map() } };
    let ask = move |case: &mut Case| {
        case.pod.security.namespaces.userns = Some(users());
        case.config.security.namespaces.userns = Some(users());
        case.namespaces.user = Some("/ns/user".into());
    };
    let mappings = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    row(
        ask,
        json!({
            "/linux/namespaces +": [{ "type": "user", "path": "/ns/user" }],
            "/linux/uidMappings": mappings,
            "/linux/gidMappings": mappings,
        }),
    );
    refused(
        move |case| {
            ask(case);
            case.config.security.namespaces.userns = None;
        },
        "`userns_options` of the container (none) differ",
    );
}

#[test]
fn the_cgroup_namespace_is_of_the_unified_hierarchy() {
    row(
        |case| case.host.cgroup = CgroupLayout::V1 { hierarchies: vec![], unified: None },
        json!({ "/linux/namespaces -": [{ "type": "cgroup" }] }),
    );
}

#[test]
fn masked_and_readonly_paths() {
    row(
        |case| case.config.security.masked_paths = vec!["/proc/kcore".into()],
        json!({ "/linux/maskedPaths +": ["/proc/kcore"] }),
    );
    row(
        |case| case.config.security.readonly_paths = vec!["/proc/sys".into()],
        json!({ "/linux/readonlyPaths +": ["/proc/sys"] }),
    );
}

#[test]
fn seccomp() {
    let ask = |profile: SecurityProfile, text: Option<&str>| {
        let text = text.map(str::to_owned);
        move |case: &mut Case| {
            case.config.security.seccomp = Some(profile);
            case.localhost_seccomp = text;
        }
    };
    row(ask(SecurityProfile::Unconfined, None), json!({}));
    let local = || SecurityProfile::Localhost("/p.json".into());
    row(
        ask(local(), Some(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#)),
        json!({ "/linux/seccomp": { "defaultAction": "SCMP_ACT_ALLOW" } }),
    );
    refused(ask(local(), None), "Localhost seccomp profile is not known");
    refused(ask(local(), Some("[")), "`/p.json` is not an OCI seccomp profile");
    // A runtime that would start the container unfiltered gets none that asks for a profile.
    for profile in [SecurityProfile::RuntimeDefault, SecurityProfile::Localhost("/p.json".into())] {
        let ask = |case: &mut Case| {
            case.runtime.seccomp = false;
            case.config.security.seccomp = Some(profile);
        };
        refused(ask, "applies no seccomp profiles");
    }
    row(|case| case.runtime.seccomp = false, json!({}));
    let mut case = Case::new();
    ask(SecurityProfile::RuntimeDefault, None)(&mut case);
    let filter = case.build().unwrap()["linux"]["seccomp"].clone();
    assert_eq!(filter["defaultAction"], json!("SCMP_ACT_ERRNO"));
    assert!(filter["syscalls"].as_array().is_some_and(|rules| rules.len() > 3));
}

#[test]
fn selinux_options() {
    // Without SELinux they are looked at, and ignored.
    let ask = |level: &str| {
        let options = SelinuxOptions { level: level.into(), ..Default::default() };
        move |case: &mut Case| case.config.security.selinux = Some(options)
    };
    row(ask("s0:c4,c5"), json!({}));
    refused(ask("s0,c4,c5"), "`selinux_options.level` is `s0,c4,c5`");

    let with = |case: &mut Case| {
        let facts = SelinuxFacts { process: "u:r:t:s0".into(), file: "u:o:f:s0".into() };
        case.host.selinux = Some(facts);
    };
    let labels = |process: &str, mount: &str| json!({ "/process/selinuxLabel": process, "/linux/mountLabel": mount });
    row(with, labels("u:r:t:s0", "u:o:f:s0"));
    row(
        |case| {
            with(case);
            case.selinux_level = Some("s0:c1,c2".into());
        },
        labels("u:r:t:s0:c1,c2", "u:o:f:s0:c1,c2"),
    );
    row(
        |case| {
            with(case);
            case.selinux_level = Some("s0:c1,c2".into());
            ask("s0:c4,c5")(case);
        },
        labels("u:r:t:s0:c4,c5", "u:o:f:s0:c4,c5"),
    );
    let mut case = Case::new();
    with(&mut case);
    (case.pod.security.privileged, case.config.security.privileged) = (true, true);
    assert_eq!(case.build().unwrap()["process"]["selinuxLabel"], json!("u:r:spc_t:s0"));
}

#[test]
fn a_privileged_container() {
    let mut case = Case::new();
    case.pod.security.privileged = true;
    case.config.security.privileged = true;
    case.config.security.masked_paths = vec!["/proc/kcore".into()];
    case.config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    case.with_apparmor();
    case.host.devices = vec![HostDevice {
        path: "/dev/x".into(),
        kind: DeviceKind::Char,
        major: 1,
        minor: 2,
        mode: 0o600,
        uid: 0,
        gid: 0,
    }];
    let spec = case.build().unwrap();
    let linux = &spec["linux"];
    for absent in ["seccomp", "maskedPaths", "readonlyPaths"] {
        assert!(linux.get(absent).is_none_or(serde_json::Value::is_null), "{absent}: {linux}");
    }
    assert!(spec["process"].get("apparmorProfile").is_none_or(serde_json::Value::is_null));
    let bounding = spec["process"]["capabilities"]["bounding"].as_array().unwrap();
    assert_eq!(bounding.len(), 41);
    let has_cgroup = linux["namespaces"].as_array().unwrap().contains(&json!({"type": "cgroup"}));
    assert!(!has_cgroup, "it sees the host's hierarchy");
    assert!(
        linux["devices"].as_array().unwrap().iter().any(|node| node["path"] == json!("/dev/x"))
    );
    let rules = linux["resources"]["devices"].as_array().unwrap();
    assert!(rules.iter().any(|rule| {
        rule["allow"] == json!(true)
            && rule["access"] == json!("rwm")
            && rule.get("major").is_none()
    }));
    refused(
        |case| case.config.security.privileged = true,
        "no privileged container allowed in sandbox",
    );
}
