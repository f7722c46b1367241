use std::io;

use oci_spec::runtime::Spec as OciSpec;
use serde_json::{Value, json};

use super::*;
use crate::{DeviceName, Format, Registry, Spec, SpecFile};

/// A container of user 1000 as the runtime has made it so far.
fn container() -> OciSpec {
    serde_json::from_value(json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 1000, "gid": 100, "additionalGids": [100]},
            "args": ["true"], "cwd": "/",
            "env": ["PATH=/bin", "GPU=none"]
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/opt/lib", "type": "bind", "source": "/old", "options": ["rbind"]}
        ],
        "linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}]}}
    }))
    .unwrap()
}

/// `/dev/gpu*` are character devices, `/dev/disk` is a block device.
fn node_at(path: &str) -> io::Result<HostNode> {
    let kind = if path.starts_with("/dev/gpu") {
        NodeKind::Char
    } else if path == "/dev/disk" {
        NodeKind::Block
    } else {
        return Err(io::ErrorKind::NotFound.into());
    };
    Ok(HostNode { kind, major: 195, minor: 7, mode: 0o660 })
}

fn inject(edits: &str) -> Result<Value, ApplyError> {
    let text = format!(
        "cdiVersion: 1.1.0\nkind: v.com/gpu\ndevices:\n- name: '0'\n  containerEdits: {edits}\n"
    );
    let spec = Spec::parse(&text, Format::Yaml).unwrap();
    let files = [SpecFile { path: "f".into(), priority: 0, spec }];
    let names = [DeviceName::parse("v.com/gpu=0").unwrap()];
    let registry = Registry::new(&files);
    let mut spec = container();
    registry.resolve(&names).unwrap().apply(&mut spec, &node_at)?;
    Ok(serde_json::to_value(&spec).unwrap())
}

#[test]
fn variables_replace_those_of_the_same_name() {
    let spec = inject("{env: ['GPU=0', 'MORE=x=y']}").unwrap();
    assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "GPU=0", "MORE=x=y"]));
}

#[test]
fn a_node_is_filled_in_from_the_host_and_allowed() {
    let spec = inject("{deviceNodes: [{path: /dev/mine, hostPath: /dev/gpu0}]}").unwrap();
    assert_eq!(
        spec["linux"]["devices"],
        json!([{
            "path": "/dev/mine", "type": "c", "major": 195, "minor": 7, "fileMode": 0o660,
            "uid": 1000, "gid": 100
        }])
    );
    assert_eq!(
        spec["linux"]["resources"]["devices"][1],
        json!({"allow": true, "type": "c", "major": 195, "minor": 7, "access": "rwm"})
    );
}

#[test]
fn what_a_vendor_says_of_a_node_counts() {
    let edits = "{deviceNodes: [{path: /dev/x, type: b, major: 8, minor: 1, fileMode: 384, \
                 permissions: r, uid: 0, gid: 6}]}";
    let spec = inject(edits).unwrap();
    assert_eq!(
        spec["linux"]["devices"][0],
        json!({
            "path": "/dev/x", "type": "b", "major": 8, "minor": 1, "fileMode": 0o600,
            "uid": 0, "gid": 6
        })
    );
    assert_eq!(spec["linux"]["resources"]["devices"][1]["access"], "r");
    let none = inject("{deviceNodes: [{path: /dev/gpu1, permissions: none}]}").unwrap();
    assert_eq!(none["linux"]["resources"]["devices"].as_array().unwrap().len(), 1);
}

#[test]
fn a_node_the_host_lacks_is_refused_with_the_device_that_wants_it() {
    let refused = |edits: &str| inject(edits).unwrap_err().to_string();
    assert_eq!(
        refused("{deviceNodes: [{path: /dev/none}]}"),
        "CDI device v.com/gpu=0 needs the device node /dev/none"
    );
    let wrong = refused("{deviceNodes: [{path: /dev/disk, type: c}]}");
    assert_eq!(wrong, "CDI device v.com/gpu=0 needs /dev/disk to be of type `c`");
}

#[test]
fn mounts_take_the_place_of_others_and_stay_in_order() {
    let spec = inject(
        "{mounts: [{hostPath: /lib/x.so, containerPath: /opt/lib/x.so, options: [ro, nosuid]}, \
                   {hostPath: /lib, containerPath: /opt/lib, options: [ro, bind]}, \
                   {hostPath: tmpfs, containerPath: /run/x, type: tmpfs, options: [size=1m]}]}",
    )
    .unwrap();
    let mounts = spec["mounts"].as_array().unwrap();
    let places: Vec<&Value> = mounts.iter().map(|mount| &mount["destination"]).collect();
    assert_eq!(places, ["/proc", "/opt/lib", "/run/x", "/opt/lib/x.so"]);
    assert_eq!(mounts[1]["source"], "/lib");
    assert_eq!(mounts[1]["options"], json!(["ro", "bind"]));
    assert_eq!(mounts[3]["options"], json!(["ro", "nosuid", "rbind"]), "a host path is bound");
    assert_eq!(mounts[2]["type"], "tmpfs");
}

#[test]
fn bind_mounts_have_the_ids_of_the_containers_user_namespace() {
    let mapping = json!([{"containerID": 0, "hostID": 65536, "size": 65536}]);
    let text = "cdiVersion: 0.4.0\nkind: v.com/gpu\ndevices:\n- name: a\n  containerEdits: \
        {mounts: [{hostPath: /lib, containerPath: /l, options: [bind]}, \
                  {hostPath: tmpfs, containerPath: /t, type: tmpfs}]}\n";
    let spec = Spec::parse(text, Format::Yaml).unwrap();
    let files = [SpecFile { path: "f".into(), priority: 0, spec }];
    let mut spec = serde_json::to_value(container()).unwrap();
    spec["linux"]["uidMappings"] = mapping.clone();
    spec["linux"]["gidMappings"] = mapping.clone();
    let mut spec: OciSpec = serde_json::from_value(spec).unwrap();
    let names = [DeviceName::parse("v.com/gpu=a").unwrap()];
    Registry::new(&files).resolve(&names).unwrap().apply(&mut spec, &node_at).unwrap();
    let spec = serde_json::to_value(&spec).unwrap();
    let at = |place: &str| {
        let mut mounts = spec["mounts"].as_array().unwrap().iter();
        mounts.find(|mount| mount["destination"] == place).unwrap().clone()
    };
    assert_eq!((&at("/l")["uidMappings"], &at("/l")["gidMappings"]), (&mapping, &mapping));
    assert_eq!(at("/t").get("uidMappings"), None);
}

#[test]
fn groups_hooks_and_classes_of_service_are_added() {
    let spec = inject(
        "{additionalGIDs: [0, 44, 100], \
          hooks: [{hookName: createContainer, path: /bin/h, args: [h, -x], env: ['A=1'], timeout: 3}, \
                  {hookName: poststop, path: /bin/p}], \
          intelRdt: {closID: gold, schemata: ['L3:0=f']}}",
    )
    .unwrap();
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([100, 44]));
    assert_eq!(
        spec["hooks"],
        json!({
            "createContainer":
                [{"path": "/bin/h", "args": ["h", "-x"], "env": ["A=1"], "timeout": 3}],
            "poststop": [{"path": "/bin/p"}]
        })
    );
    assert_eq!(spec["linux"]["intelRdt"], json!({"closID": "gold", "schemata": ["L3:0=f"]}));
}

#[test]
fn an_edit_that_cannot_be_done_is_named_with_its_device() {
    let refused = inject("{netDevices: [{hostInterfaceName: eth1, name: net0}]}").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "CDI device v.com/gpu=0 asks for netDevices (eth1), which this runtime cannot do"
    );
    assert!(inject("{intelRdt: {closID: a, enableMonitoring: true}}").is_err());
    assert!(inject("{hooks: [{hookName: startContainer, path: /h}]}").is_err());
}

#[test]
fn files_are_read_in_both_forms_and_refused_by_field() {
    let json = r#"{"cdiVersion": "0.3.0", "kind": "v.com/c", "containerEdits": null,
        "devices": [{"name": "a", "containerEdits": {"env": ["A=1"], "hooks": null}}]}"#;
    Spec::parse(json, Format::Json).unwrap();
    Spec::parse(json, Format::Yaml).unwrap();
    let with = |version: &str, name: &str, edits: &str| {
        let text = format!(
            "cdiVersion: {version}\nkind: v.com/c\ndevices: [{{name: '{name}', containerEdits: {edits}}}]"
        );
        Spec::parse(&text, Format::Yaml).unwrap_err().to_string()
    };
    for (version, name, edits, word) in [
        ("2.0.0", "a", "{env: [A=1]}", "2.0.0"),
        ("0.2.0", "a", "{env: [A=1]}", "0.2.0"),
        ("0.4.0", "0a", "{env: [A=1]}", "0.5.0"),
        ("0.3.0", "a", "{mounts: [{hostPath: /a, containerPath: /b, type: bind}]}", "0.4.0"),
        ("0.6.0", "a", "{additionalGIDs: [1]}", "0.7.0"),
        ("1.0.0", "a", "{netDevices: [{hostInterfaceName: a, name: b}]}", "1.1.0"),
        ("1.0.0", "a", "{}", "at least one edit"),
        ("1.0.0", "a", "{env: [A]}", "NAME=VALUE"),
        ("1.0.0", "a", "{enviroment: [A=1]}", "enviroment"),
        ("1.0.0", "-", "{env: [A=1]}", "the name of a device"),
        ("1.0.0", "a", "{deviceNodes: [{path: gpu}]}", "absolute"),
        ("1.0.0", "a", "{deviceNodes: [{path: /dev/x, type: z}]}", "b, c, u or p"),
        ("1.0.0", "a", "{deviceNodes: [{path: /dev/x, permissions: rx}]}", "rwm"),
        ("1.0.0", "a", "{hooks: [{hookName: never, path: /h}]}", "never"),
        ("1.0.0", "a", "{hooks: [{hookName: poststop, path: /h, timeout: 0}]}", "timeout"),
    ] {
        let text = with(version, name, edits);
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(Spec::parse("cdiVersion: 1.0.0\nkind: c\ndevices: []", Format::Yaml).is_err());
    assert!(Spec::parse("[", Format::Yaml).is_err());
}

proptest::proptest! {
    #[test]
    fn any_text_is_survived(text in "\\PC{0,200}") {
        Spec::parse(&text, Format::Yaml).ok();
        Spec::parse(&text, Format::Json).ok();
        DeviceName::parse(&text).ok();
    }
}
