//! From YAML to a [`Manifest`]: the pod's own fields.

use super::{
    fields::{Fields, Place, Problem, Problems},
    manifest::{Dns, DnsPolicy, Manifest, RestartPolicy},
    node, read_container, read_volume, security,
};

/// Annotations that `knarr run` itself gives meaning to.
const RESERVED: &str = "knarr.io/";

const METADATA_UNSUPPORTED: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
];

const SPEC_UNSUPPORTED: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostUsers",
    "hostnameOverride",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "schedulerName",
    "schedulingGates",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "subdomain",
    "tolerations",
    "topologySpreadConstraints",
];

/// Reads one Pod.
pub(super) fn read(text: &str) -> Result<Manifest, Vec<Problem>> {
    let tree = node::parse(text).map_err(|problem| vec![problem])?;
    let problems = Problems::default();
    let root = Place { line: tree.line, path: String::new() };
    let manifest = Fields::open(root, &tree, &problems).and_then(pod);
    let problems = problems.into_sorted();
    match manifest {
        Some(manifest) if problems.is_empty() => Ok(manifest),
        _ => Err(problems),
    }
}

fn pod(mut root: Fields<'_>) -> Option<Manifest> {
    let version = root.word("apiVersion");
    let kind = root.word("kind");
    let metadata = root.fields("metadata");
    let metadata = root.require("metadata", metadata);
    let spec = root.fields("spec");
    let spec = root.require("spec", spec);
    let is_pod = version.as_deref() == Some("v1") && kind.as_deref() == Some("Pod");
    if !is_pod {
        let place = Place { line: root.place.line, path: String::new() };
        root.problem(&place, "the manifest must say `apiVersion: v1` and `kind: Pod`");
    }
    root.finish(&["status"]);
    let mut metadata = metadata?;
    let name = metadata.word("name");
    let name = metadata.require("name", name);
    let namespace = metadata.word("namespace").unwrap_or_else(|| "default".to_owned());
    let uid = metadata.word("uid");
    let labels = metadata.text_map("labels");
    let annotations = metadata.text_map("annotations");
    check_names(&metadata, name.as_deref(), &namespace, uid.as_deref());
    for key in annotations.keys().filter(|key| key.starts_with(RESERVED)) {
        let text = format!("has `{key}`, which only knarr itself may set");
        let place = Place { path: "metadata.annotations".into(), ..metadata.place.clone() };
        metadata.problem(&place, text);
    }
    metadata.finish(METADATA_UNSUPPORTED);
    let mut manifest = self::spec(spec?)?;
    manifest.name = name?;
    manifest.namespace = namespace;
    manifest.uid = uid;
    manifest.labels = labels;
    manifest.annotations = annotations;
    Some(manifest)
}

fn spec(mut spec: Fields<'_>) -> Option<Manifest> {
    let restart = [
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ];
    let dns_policies = [
        ("ClusterFirst", DnsPolicy::ClusterFirst),
        ("ClusterFirstWithHostNet", DnsPolicy::ClusterFirstWithHostNet),
        ("Default", DnsPolicy::Default),
        ("None", DnsPolicy::None),
    ];
    let init_containers = spec.objects("initContainers");
    let containers = spec.objects("containers");
    if containers.is_empty() {
        spec.require::<()>("containers", None);
    }
    let read_all = |containers: Vec<Fields<'_>>| -> Vec<_> {
        containers.into_iter().map(read_container::container).collect()
    };
    let init_containers = read_all(init_containers);
    let containers = read_all(containers);
    let volumes: Vec<_> = spec.objects("volumes").into_iter().map(read_volume::volume).collect();
    let manifest = Manifest {
        name: String::new(),
        namespace: String::new(),
        uid: None,
        labels: Default::default(),
        annotations: Default::default(),
        init_containers: init_containers.into_iter().collect::<Option<_>>().unwrap_or_default(),
        containers: containers.into_iter().collect::<Option<_>>().unwrap_or_default(),
        volumes: volumes.into_iter().collect::<Option<_>>().unwrap_or_default(),
        host_network: spec.flag("hostNetwork").unwrap_or_default(),
        host_pid: spec.flag("hostPID").unwrap_or_default(),
        host_ipc: spec.flag("hostIPC").unwrap_or_default(),
        share_pid: spec.flag("shareProcessNamespace").unwrap_or_default(),
        hostname: hostname(&mut spec),
        dns_policy: spec.choice("dnsPolicy", &dns_policies),
        dns: dns(&mut spec),
        security: security::pod(spec.fields("securityContext")),
        restart_policy: spec.choice("restartPolicy", &restart),
        grace_seconds: spec.within("terminationGracePeriodSeconds", 0..=i64::from(i32::MAX)),
        runtime_class: spec.word("runtimeClassName"),
    };
    if manifest.share_pid && manifest.host_pid {
        let place = spec.place.clone();
        spec.problem(&place, "has both hostPID and shareProcessNamespace");
    }
    spec.finish(SPEC_UNSUPPORTED);
    Some(manifest)
}

fn hostname(spec: &mut Fields<'_>) -> Option<String> {
    let name = spec.word("hostname")?;
    if !is_label(&name) {
        let place = Place { path: format!("{}.hostname", spec.place.path), ..spec.place.clone() };
        spec.problem(&place, format!("`{name}` is not a host name"));
    }
    Some(name)
}

fn dns(spec: &mut Fields<'_>) -> Option<Dns> {
    let mut dns = spec.fields("dnsConfig")?;
    let servers = dns.texts("nameservers");
    let searches = dns.texts("searches");
    let mut options = Vec::new();
    for mut option in dns.objects("options") {
        let name = option.word("name");
        let value = option.word("value");
        if let Some(name) = option.require("name", name) {
            options.push(value.map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
        option.finish(&[]);
    }
    let place = dns.place.clone();
    dns.finish(&[]);
    for text in servers.iter().chain(&searches).chain(&options) {
        // They become lines of a file; white space would begin another entry or line.
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            spec.problem(&place, format!("has the impossible entry `{}`", text.escape_debug()));
        }
    }
    Some(Dns { servers, searches, options })
}

/// Names become parts of paths and labels: what Kubernetes would not accept is refused.
fn check_names(metadata: &Fields<'_>, name: Option<&str>, namespace: &str, uid: Option<&str>) {
    let bad = |key: &str, value: &str, expected: &str| {
        let place = Place { path: format!("metadata.{key}"), ..metadata.place.clone() };
        metadata.problem(&place, format!("`{}` is not {expected}", value.escape_debug()));
    };
    if let Some(name) = name.filter(|name| !is_subdomain(name)) {
        bad("name", name, "a lower-case DNS name");
    }
    if !is_label(namespace) {
        bad("namespace", namespace, "a lower-case DNS label");
    }
    let fits = |uid: &&str| {
        uid.len() <= 128 && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if let Some(uid) = uid.filter(|uid| !fits(uid)) {
        bad("uid", uid, "made of letters, digits and `-`");
    }
}

/// The name of a container or a volume, which becomes that of a directory.
pub(super) fn label(fields: &mut Fields<'_>) -> Option<String> {
    let name = fields.word("name");
    let name = fields.require("name", name);
    if let Some(name) = name.as_deref().filter(|name| !is_label(name)) {
        let place = fields.place.clone();
        fields.problem(
            &place,
            format!("has the name `{}`, which is not a DNS label", name.escape_debug()),
        );
    }
    name
}

/// A DNS label by RFC 1123.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}
