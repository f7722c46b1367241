//! From YAML to containers.

use std::collections::BTreeMap;

use cri_api::v1;

use super::{
    fields::{Fields, Place},
    manifest::{Container, HugePages, Resources, VolumeMount},
    node::Value,
    plan::PullPolicy,
    quantity::Quantity,
    read::label,
    read_volume::is_plain_absolute,
    resources::page_name,
    security,
};

const UNSUPPORTED: &[&str] = &[
    "envFrom",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "startupProbe",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeDevices",
];

pub(super) fn container(mut fields: Fields<'_>) -> Option<Container> {
    let place = fields.place.clone();
    let name = label(&mut fields);
    let image = fields.word("image");
    let image = fields.require("image", image);
    let (resources, huge_pages) = resources(&mut fields);
    let container = Container {
        place,
        name: name.clone().unwrap_or_default(),
        image: image.clone().unwrap_or_default(),
        pull: fields.choice("imagePullPolicy", PullPolicy::WORDS),
        command: fields.texts("command"),
        args: fields.texts("args"),
        working_dir: fields.text("workingDir").unwrap_or_default(),
        env: env(&mut fields),
        ports: ports(&mut fields),
        mounts: mounts(&mut fields),
        resources,
        huge_pages,
        security: security::container(fields.fields("securityContext")),
        stdin: fields.flag("stdin").unwrap_or_default(),
        stdin_once: fields.flag("stdinOnce").unwrap_or_default(),
        tty: fields.flag("tty").unwrap_or_default(),
    };
    fields.finish(UNSUPPORTED);
    (name.is_some() && image.is_some()).then_some(container)
}

fn env(fields: &mut Fields<'_>) -> Vec<(String, String)> {
    let mut env = Vec::new();
    for mut variable in fields.objects("env") {
        let name = variable.word("name");
        let value = variable.text("value");
        if let Some(name) = variable.require("name", name) {
            if name.contains(['=', '\0']) {
                let place = variable.place.clone();
                variable.problem(&place, "has an impossible name");
            }
            env.push((name, value.unwrap_or_default()));
        }
        variable.finish(&["valueFrom"]);
    }
    env
}

fn ports(fields: &mut Fields<'_>) -> Vec<v1::PortMapping> {
    let protocols =
        [("TCP", v1::Protocol::Tcp), ("UDP", v1::Protocol::Udp), ("SCTP", v1::Protocol::Sctp)];
    let mut ports = Vec::new();
    for mut port in fields.objects("ports") {
        let number = port.within("containerPort", 1..=65535);
        let number = port.require("containerPort", number);
        let host = port.within("hostPort", 0..=65535).unwrap_or_default();
        let protocol = port.choice("protocol", &protocols).unwrap_or(v1::Protocol::Tcp);
        let host_ip = port.text("hostIP").unwrap_or_default();
        port.word("name");
        port.finish(&[]);
        ports.push(v1::PortMapping {
            protocol: protocol.into(),
            container_port: small(number.unwrap_or_default()),
            host_port: small(host),
            host_ip,
        });
    }
    ports
}

/// A number that was checked to be a port.
fn small(number: i64) -> i32 {
    i32::try_from(number).unwrap_or_default()
}

fn mounts(fields: &mut Fields<'_>) -> Vec<VolumeMount> {
    let propagations = [
        ("None", v1::MountPropagation::PropagationPrivate),
        ("HostToContainer", v1::MountPropagation::PropagationHostToContainer),
        ("Bidirectional", v1::MountPropagation::PropagationBidirectional),
    ];
    let mut mounts = Vec::new();
    for mut mount in fields.objects("volumeMounts") {
        let place = mount.place.clone();
        let volume = mount.word("name");
        let volume = mount.require("name", volume);
        let path = mount.word("mountPath");
        let path = mount.require("mountPath", path);
        let readonly = mount.flag("readOnly").unwrap_or_default();
        // Every kernel that knarr runs on can, so what is possible is done.
        let words = [("Disabled", false), ("IfPossible", true), ("Enabled", true)];
        let recursive = mount.choice("recursiveReadOnly", &words);
        let propagation = mount.choice("mountPropagation", &propagations);
        if let Some(path) = path.as_deref().filter(|path| !is_plain_absolute(path)) {
            let at = Place { path: format!("{}.mountPath", place.path), ..place.clone() };
            mount.problem(&at, format!("`{path}` must be absolute and without `..`"));
        }
        if recursive == Some(true) && !readonly {
            mount.problem(&place, "has recursiveReadOnly without readOnly");
        }
        let sub_path = mount.word("subPath").unwrap_or_default();
        if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
            let at = Place { path: format!("{}.subPath", place.path), ..place.clone() };
            mount.problem(&at, format!("`{sub_path}` must be relative and without `..`"));
        }
        mount.finish(&["subPathExpr"]);
        if let (Some(volume), Some(path)) = (volume, path) {
            let propagation = propagation.unwrap_or(v1::MountPropagation::PropagationPrivate);
            let recursive = recursive.unwrap_or_default();
            mounts.push(VolumeMount {
                place,
                volume,
                path,
                sub_path,
                readonly,
                recursive,
                propagation,
            });
        }
    }
    mounts
}

fn resources(fields: &mut Fields<'_>) -> (Resources, Vec<HugePages>) {
    let Some(mut resources) = fields.fields("resources") else { return Default::default() };
    let limits = Amounts::read(resources.fields("limits"));
    let requests = Amounts::read(resources.fields("requests"));
    for (name, request, limit) in
        [("cpu", requests.cpu, limits.cpu), ("memory", requests.memory, limits.memory)]
    {
        if limit.is_some_and(|limit| request.is_some_and(|request| request > limit)) {
            let place = resources.place.clone();
            resources.problem(&place, format!("requests more {name} than its limit"));
        }
    }
    // Huge pages cannot be overcommitted.
    for (name, request) in &requests.huge {
        if limits.huge.get(name).map(|limit| limit.limit) != Some(request.limit) {
            let place = resources.place.clone();
            resources.problem(&place, format!("requests another amount of {name} than its limit"));
        }
    }
    resources.finish(&["claims"]);
    let converted = Resources {
        cpu_limit: limits.cpu,
        cpu_request: requests.cpu,
        memory_limit: limits.memory,
        memory_request: requests.memory,
    };
    (converted, limits.huge.into_values().collect())
}

/// One list of amounts; every other resource is refused by name.
#[derive(Default)]
struct Amounts {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
    huge: BTreeMap<String, HugePages>,
}

impl Amounts {
    fn read(fields: Option<Fields<'_>>) -> Self {
        let mut amounts = Self::default();
        let Some(mut fields) = fields else { return amounts };
        for (place, name, node) in fields.drain() {
            let quantity = Quantity::from_value(&node.value);
            let page = name.strip_prefix("hugepages-").map(|size| {
                Quantity::from_value(&Value::Text(size.to_owned()))
                    .filter(|page| page_name(*page).is_some())
            });
            match (name, page, quantity) {
                ("cpu", _, Some(quantity)) => amounts.cpu = Some(quantity),
                ("memory", _, Some(quantity)) => amounts.memory = Some(quantity),
                (_, Some(Some(page)), Some(limit)) => {
                    amounts.huge.insert(name.to_owned(), HugePages { page, limit });
                }
                ("cpu" | "memory", _, None) | (_, Some(Some(_)), None) => {
                    fields.problem(&place, "is not a quantity such as `500m` or `64Mi`");
                }
                (_, Some(None), _) => {
                    fields.problem(&place, "has no page size such as `2Mi`");
                }
                (_, None, _) => fields.problem(&place, "is not supported by knarr run"),
            }
        }
        amounts
    }
}
