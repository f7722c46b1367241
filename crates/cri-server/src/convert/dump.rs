//! Requests as JSON, for verbose status: in the CRI's own field names, as tools know them from the
//! peers. What is 0 or empty is left out; enums are numbers; environment values are text.
//! Protobuf's own JSON mapping would be none of that: other names, numbers as text, enums by name.

use model::{
    Capabilities, ContainerConfig, IdMapping, ImageSpec, MountPropagation, MountRequest,
    MountSource, NamespaceOptions, PodConfig, Resources, RunAs, SecurityProfile, SelinuxOptions,
    StringMap,
};
use serde_json::{Map, Value, json};

use super::{pod, security, signal};

/// The fields that say something.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.into_iter().filter(|(_, value)| says_something(value));
    Value::Object(fields.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn list<T>(items: &[T], one: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(one).collect())
}

/// Labels and annotations whole: an empty value says something there.
fn map(map: &StringMap) -> Value {
    let entries = map.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    Value::Object(entries.collect::<Map<_, _>>())
}

fn number(value: Option<i64>) -> Value {
    value.map_or(Value::Null, |value| json!({ "value": value }))
}

/// `PodSandboxConfig`
pub(crate) fn pod(config: &PodConfig) -> Value {
    let name = &config.name;
    object([
        (
            "metadata",
            object([
                ("name", json!(name.name)),
                ("uid", json!(name.uid)),
                ("namespace", json!(name.namespace)),
                ("attempt", json!(name.attempt)),
            ]),
        ),
        ("hostname", json!(config.hostname)),
        ("log_directory", json!(config.log_directory)),
        (
            "dns_config",
            config.dns.as_ref().map_or(Value::Null, |dns| {
                object([
                    ("servers", json!(dns.servers)),
                    ("searches", json!(dns.searches)),
                    ("options", json!(dns.options)),
                ])
            }),
        ),
        (
            "port_mappings",
            list(&config.port_mappings, |port| {
                object([
                    ("protocol", json!(pod::protocol_to_cri(port.protocol))),
                    ("container_port", json!(port.container_port)),
                    ("host_port", json!(port.host_port)),
                    ("host_ip", json!(port.host_ip)),
                ])
            }),
        ),
        ("labels", map(&config.labels)),
        ("annotations", map(&config.annotations)),
        (
            "linux",
            object([
                ("cgroup_parent", json!(config.cgroup_parent)),
                ("security_context", pod_security(config)),
                ("sysctls", map(&config.sysctls)),
                ("overhead", config.overhead.as_ref().map_or(Value::Null, resources)),
                ("resources", config.resources.as_ref().map_or(Value::Null, resources)),
            ]),
        ),
    ])
}

fn pod_security(config: &PodConfig) -> Value {
    let security = &config.security;
    object([
        ("namespace_options", namespaces(&security.namespaces)),
        ("selinux_options", selinux(security.selinux.as_ref())),
        ("run_as_user", number(security.run_as.user)),
        ("run_as_group", number(security.run_as.group)),
        ("readonly_rootfs", json!(security.readonly_rootfs)),
        ("supplemental_groups", json!(security.run_as.supplemental_groups)),
        ("supplemental_groups_policy", policy(&security.run_as)),
        ("privileged", json!(security.privileged)),
        ("seccomp", profile(security.seccomp.as_ref())),
        ("apparmor", profile(security.apparmor.as_ref())),
    ])
}

/// `ContainerConfig`
pub(crate) fn container(config: &ContainerConfig) -> Value {
    let name = &config.name;
    let metadata = object([("name", json!(name.name)), ("attempt", json!(name.attempt))]);
    object([
        ("metadata", metadata),
        ("image", image(&config.image)),
        ("command", json!(config.command)),
        ("args", json!(config.args)),
        ("working_dir", json!(config.working_dir)),
        (
            "envs",
            list(&config.envs, |env| {
                let value = String::from_utf8_lossy(&env.value);
                object([("key", json!(env.key)), ("value", json!(value))])
            }),
        ),
        ("mounts", list(&config.mounts, mount)),
        (
            "devices",
            list(&config.devices, |device| {
                object([
                    ("container_path", json!(device.container_path)),
                    ("host_path", json!(device.host_path)),
                    ("permissions", json!(device.permissions)),
                ])
            }),
        ),
        ("CDI_devices", list(&config.cdi_devices, |device| object([("name", json!(device.name))]))),
        ("labels", map(&config.labels)),
        ("annotations", map(&config.annotations)),
        ("log_path", json!(config.log_path)),
        ("stdin", json!(config.stdin)),
        ("stdin_once", json!(config.stdin_once)),
        ("tty", json!(config.tty)),
        ("stop_signal", json!(config.stop_signal.map_or(0, signal::to_cri))),
        (
            "linux",
            object([
                ("resources", resources(&config.resources)),
                ("security_context", container_security(config)),
            ]),
        ),
    ])
}

fn container_security(config: &ContainerConfig) -> Value {
    let security = &config.security;
    object([
        ("capabilities", capabilities(&security.capabilities)),
        ("privileged", json!(security.privileged)),
        ("namespace_options", namespaces(&security.namespaces)),
        ("selinux_options", selinux(security.selinux.as_ref())),
        ("run_as_user", number(security.run_as.user)),
        ("run_as_group", number(security.run_as.group)),
        ("run_as_username", json!(security.run_as.username)),
        ("readonly_rootfs", json!(security.readonly_rootfs)),
        ("supplemental_groups", json!(security.run_as.supplemental_groups)),
        ("supplemental_groups_policy", policy(&security.run_as)),
        ("no_new_privs", json!(security.no_new_privs)),
        ("masked_paths", json!(security.masked_paths)),
        ("readonly_paths", json!(security.readonly_paths)),
        ("seccomp", profile(security.seccomp.as_ref())),
        ("apparmor", profile(security.apparmor.as_ref())),
    ])
}

fn image(spec: &ImageSpec) -> Value {
    object([
        ("image", json!(spec.image)),
        ("annotations", map(&spec.annotations)),
        ("user_specified_image", json!(spec.user_specified)),
        ("runtime_handler", json!(spec.runtime_handler)),
        ("image_ref", json!(spec.image_ref)),
    ])
}

fn mount(mount: &MountRequest) -> Value {
    let (host_path, from, sub_path) = match &mount.source {
        MountSource::Host(path) => (path.as_str(), Value::Null, ""),
        MountSource::Image { image: spec, sub_path } => ("", image(spec), sub_path.as_str()),
    };
    let propagation = match mount.propagation {
        MountPropagation::Private => 0,
        MountPropagation::HostToContainer => 1,
        MountPropagation::Bidirectional => 2,
    };
    object([
        ("container_path", json!(mount.container_path)),
        ("host_path", json!(host_path)),
        ("readonly", json!(mount.readonly)),
        ("selinux_relabel", json!(mount.selinux_relabel)),
        ("propagation", json!(propagation)),
        ("uidMappings", list(&mount.uid_mappings, mapping)),
        ("gidMappings", list(&mount.gid_mappings, mapping)),
        ("recursive_read_only", json!(mount.recursive_read_only)),
        ("image", from),
        ("image_sub_path", json!(sub_path)),
        ("mount_options", json!(mount.options)),
    ])
}

fn mapping(mapping: &IdMapping) -> Value {
    object([
        ("host_id", json!(mapping.host_id)),
        ("container_id", json!(mapping.container_id)),
        ("length", json!(mapping.length)),
    ])
}

fn namespaces(options: &NamespaceOptions) -> Value {
    let userns = options.userns.as_ref().map_or(Value::Null, |userns| {
        object([
            ("mode", json!(security::mode_to_cri(userns.mode))),
            ("uids", list(&userns.maps.uids, mapping)),
            ("gids", list(&userns.maps.gids, mapping)),
        ])
    });
    object([
        ("network", json!(security::mode_to_cri(options.network))),
        ("pid", json!(security::mode_to_cri(options.pid))),
        ("ipc", json!(security::mode_to_cri(options.ipc))),
        ("target_id", json!(options.target_id)),
        ("userns_options", userns),
    ])
}

fn capabilities(capabilities: &Capabilities) -> Value {
    object([
        ("add_capabilities", json!(capabilities.add)),
        ("drop_capabilities", json!(capabilities.drop)),
        ("add_ambient_capabilities", json!(capabilities.add_ambient)),
    ])
}

fn policy(run_as: &RunAs) -> Value {
    json!(security::policy_to_cri(run_as.groups_policy))
}

fn selinux(options: Option<&SelinuxOptions>) -> Value {
    options.map_or(Value::Null, |options| {
        object([
            ("user", json!(options.user)),
            ("role", json!(options.role)),
            ("type", json!(options.r#type)),
            ("level", json!(options.level)),
        ])
    })
}

/// An empty message is RuntimeDefault, which is not the same as none.
fn profile(profile: Option<&SecurityProfile>) -> Value {
    match profile {
        None => Value::Null,
        Some(SecurityProfile::RuntimeDefault) => json!({ "profile_type": 0 }),
        Some(SecurityProfile::Unconfined) => json!({ "profile_type": 1 }),
        Some(SecurityProfile::Localhost(name)) => {
            json!({ "profile_type": 2, "localhost_ref": name })
        }
    }
}

/// `LinuxContainerResources`
pub(crate) fn resources(resources: &Resources) -> Value {
    object([
        ("cpu_period", json!(resources.cpu_period_us)),
        ("cpu_quota", json!(resources.cpu_quota_us)),
        ("cpu_shares", json!(resources.cpu_shares)),
        ("memory_limit_in_bytes", json!(resources.memory_limit_bytes)),
        ("oom_score_adj", json!(resources.oom_score_adj)),
        ("cpuset_cpus", json!(resources.cpuset_cpus)),
        ("cpuset_mems", json!(resources.cpuset_mems)),
        (
            "hugepage_limits",
            list(&resources.hugepage_limits, |limit| {
                object([("page_size", json!(limit.page_size)), ("limit", json!(limit.limit_bytes))])
            }),
        ),
        ("unified", map(&resources.unified)),
        ("memory_swap_limit_in_bytes", json!(resources.memory_swap_limit_bytes)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::container;
    use cri_api::v1;

    #[test]
    fn a_request_is_told_in_the_cris_own_words() {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "i".into(), ..Default::default() }),
            envs: vec![v1::KeyValue { key: "K".into(), value: b"v".to_vec() }],
            labels: [("empty".to_owned(), String::new())].into(),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    cpu_shares: 2,
                    ..Default::default()
                }),
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(v1::NamespaceOption { pid: 1, ..Default::default() }),
                    seccomp: Some(v1::SecurityProfile::default()),
                    run_as_user: Some(v1::Int64Value { value: 0 }),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        };
        let told = super::container(&container::config(config).unwrap());
        assert_eq!(
            told,
            json!({
                "metadata": { "name": "c" },
                "image": { "image": "i" },
                "envs": [{ "key": "K", "value": "v" }],
                "labels": { "empty": "" },
                "linux": {
                    "resources": { "cpu_shares": 2 },
                    "security_context": {
                        "namespace_options": { "pid": 1 },
                        "seccomp": { "profile_type": 0 },
                        "run_as_user": { "value": 0 },
                    },
                },
            })
        );
    }
}
