//! Manifests and what becomes of them.

use cri_api::v1;

use super::*;

const UID: &str = "11111111-2222-3333-4444-555555555555";

fn facts() -> Facts {
    Facts {
        uid: UID.into(),
        log_root: "/logs".into(),
        volumes_root: "/volumes".into(),
        resolv_conf: "nameserver 192.0.2.1\nsearch a.example b.example\noptions ndots:1 edns0\n"
            .into(),
        memory_bytes: 4 << 30,
        thermal_throttle: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()],
    }
}

fn plan(text: &str) -> Result<PodPlan, String> {
    plan_manifest("pod.yaml", text, &facts()).map_err(|error| error.to_string())
}

/// A pod of one container, with more fields of the pod and of the container.
fn pod(spec: &str, container: &str) -> String {
    let indent = |text: &str, by: &str| -> String {
        text.lines().map(|line| format!("{by}{line}\n")).collect()
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n{}  containers:\n  - name: main\n    image: busybox:1\n{}",
        indent(spec, "  "),
        indent(container, "    ")
    )
}

fn container(text: &str) -> v1::ContainerConfig {
    plan(&pod("", text)).unwrap().containers[0].config.clone()
}

fn security(text: &str) -> v1::LinuxContainerSecurityContext {
    container(text).linux.unwrap().security_context.unwrap()
}

#[test]
fn a_small_pod_gets_what_kubelet_fills_in() {
    let plan = plan(&pod("", "")).unwrap();
    let sandbox = &plan.sandbox;
    let metadata = sandbox.metadata.as_ref().unwrap();
    assert_eq!((metadata.name.as_str(), metadata.namespace.as_str()), ("web", "default"));
    assert_eq!(metadata.uid, UID);
    assert_eq!(sandbox.hostname, "web");
    assert_eq!(sandbox.log_directory, format!("/logs/default_web_{UID}"));
    assert_eq!(sandbox.labels["io.kubernetes.pod.uid"], UID);
    assert!(sandbox.annotations.is_empty());
    assert!(sandbox.dns_config.is_none());
    let linux = sandbox.linux.as_ref().unwrap();
    assert_eq!(linux.cgroup_parent, "");
    let security = linux.security_context.as_ref().unwrap();
    assert_eq!(security.seccomp.as_ref().unwrap().profile_type(), v1::ProfileType::RuntimeDefault);
    let namespaces = security.namespace_options.as_ref().unwrap();
    assert_eq!(namespaces.pid(), v1::NamespaceMode::Container);
    assert_eq!(namespaces.network(), v1::NamespaceMode::Pod);

    let container = &plan.containers[0].config;
    assert_eq!(container.log_path, "main/0.log");
    assert_eq!(container.labels["io.kubernetes.container.name"], "main");
    let linux = container.linux.as_ref().unwrap();
    assert_eq!(linux.resources.as_ref().unwrap().oom_score_adj, 1000);
    let security = linux.security_context.as_ref().unwrap();
    assert_eq!(security.seccomp.as_ref().unwrap().profile_type(), v1::ProfileType::Unconfined);
    assert!(security.masked_paths.contains(&"/proc/kcore".to_owned()));
    assert!(security.masked_paths.iter().any(|path| path.ends_with("thermal_throttle")));
    assert!(security.readonly_paths.contains(&"/proc/sys".to_owned()));
    assert!(!security.no_new_privs && !security.privileged);
    assert_eq!((plan.volumes.len(), plan.volumes_dir, plan.notes.len()), (0, None, 0));
}

#[test]
fn json_is_yaml_too() {
    let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},
        "spec":{"containers":[{"name":"main","image":"busybox"}]},"status":{}}"#;
    assert_eq!(plan(text).unwrap().containers[0].image, "busybox");
}

#[test]
fn namespaces_follow_the_pod() {
    use v1::NamespaceMode::{Container, Node, Pod};
    for (spec, network, pid, ipc) in [
        ("hostNetwork: true", Node, Container, Pod),
        ("hostPID: true", Pod, Node, Pod),
        ("hostIPC: true", Pod, Container, Node),
        ("shareProcessNamespace: true", Pod, Pod, Pod),
    ] {
        let plan = plan(&pod(spec, "")).unwrap();
        let of_pod = plan.sandbox.linux.unwrap().security_context.unwrap().namespace_options;
        let of_container = plan.containers[0].config.linux.clone().unwrap();
        let of_container = of_container.security_context.unwrap().namespace_options;
        assert_eq!(of_pod, of_container, "{spec}");
        let options = of_pod.unwrap();
        assert_eq!((options.network(), options.pid(), options.ipc()), (network, pid, ipc));
        assert_eq!(plan.sandbox.hostname.is_empty(), network == Node, "{spec}");
    }
}

#[test]
fn variables_are_expanded_in_their_order() {
    let config = container(
        "command: [echo, $(A), $(C), $$(A)]\nargs: [\"$(B)\"]\n\
         env:\n- {name: A, value: one}\n- {name: B, value: $(A)-$(C)}\n- {name: C}",
    );
    assert_eq!(config.command, ["echo", "one", "", "$(A)"]);
    // C came after B, so B kept it as it was written.
    assert_eq!(config.args, ["one-$(C)"]);
    let values: Vec<_> = config.envs.iter().map(|env| env.value.as_slice()).collect();
    assert_eq!(values, [b"one".as_slice(), b"one-$(C)", b""]);
}

#[test]
fn resources_follow_requests_limits_and_the_class_of_the_pod() {
    for (resources, shares, quota, memory, oom) in [
        ("{}", 2, 0, 0, 1000),
        ("{limits: {cpu: 500m, memory: 64Mi}}", 512, 50_000, 64 << 20, -997),
        (
            "{limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 1000m, memory: 1024Mi}}",
            1024,
            100_000,
            1 << 30,
            -997,
        ),
        ("{limits: {cpu: 1}, requests: {cpu: 250m}}", 256, 100_000, 0, 999),
        ("{requests: {memory: 1Gi}}", 2, 0, 0, 750),
        ("{requests: {cpu: 0.1}}", 102, 0, 0, 999),
    ] {
        let config = container(&format!("resources: {resources}"));
        let found = config.linux.unwrap().resources.unwrap();
        assert_eq!(found.cpu_period, 100_000);
        assert_eq!(
            (found.cpu_shares, found.cpu_quota, found.memory_limit_in_bytes, found.oom_score_adj),
            (shares, quota, memory, oom),
            "{resources}"
        );
    }
}

#[test]
fn a_containers_security_context_beats_the_pods() {
    let text = pod(
        "securityContext:\n  runAsUser: 1000\n  runAsGroup: 100\n  supplementalGroups: [5]\n  \
         fsGroup: 7\n  seccompProfile: {type: RuntimeDefault}\n  \
         sysctls: [{name: net.core.somaxconn, value: \"1024\"}]",
        "securityContext:\n  runAsUser: 0\n  allowPrivilegeEscalation: false\n  \
         readOnlyRootFilesystem: true\n  capabilities: {add: [NET_ADMIN], drop: [ALL]}\n  \
         seccompProfile: {type: Localhost, localhostProfile: my/p.json}",
    );
    let plan = plan(&text).unwrap();
    let linux = plan.sandbox.linux.unwrap();
    assert_eq!(linux.sysctls["net.core.somaxconn"], "1024");
    assert_eq!(linux.security_context.unwrap().run_as_user.unwrap().value, 1000);
    let security = plan.containers[0].config.linux.clone().unwrap().security_context.unwrap();
    assert_eq!(security.run_as_user.unwrap().value, 0);
    assert_eq!(security.run_as_group.unwrap().value, 100);
    assert_eq!(security.supplemental_groups, [5, 7]);
    assert!(security.no_new_privs && security.readonly_rootfs);
    let capabilities = security.capabilities.unwrap();
    assert_eq!(capabilities.add_capabilities, ["NET_ADMIN"]);
    assert_eq!(capabilities.drop_capabilities, ["ALL"]);
    let seccomp = security.seccomp.unwrap();
    assert_eq!(seccomp.profile_type(), v1::ProfileType::Localhost);
    assert_eq!(seccomp.localhost_ref, "/var/lib/kubelet/seccomp/my/p.json");
}

#[test]
fn a_privileged_container_needs_a_privileged_sandbox() {
    let plan = plan(&pod("", "securityContext: {privileged: true}")).unwrap();
    assert!(plan.sandbox.linux.unwrap().security_context.unwrap().privileged);
    assert!(security("securityContext: {privileged: true}").privileged);
}

#[test]
fn unmasked_proc_hides_nothing() {
    let security = security("securityContext: {procMount: Unmasked}");
    assert!(security.masked_paths.is_empty() && security.readonly_paths.is_empty());
}

#[test]
fn volumes_become_steps_and_mounts() {
    let text = pod(
        "securityContext: {fsGroup: 7}\nvolumes:\n- {name: cache, emptyDir: {}}\n\
         - {name: data, hostPath: {path: /srv/data, type: DirectoryOrCreate}}",
        "volumeMounts:\n- {name: cache, mountPath: /cache}\n\
         - {name: data, mountPath: /data, readOnly: true, mountPropagation: HostToContainer}",
    );
    let plan = plan(&text).unwrap();
    let dir = PathBuf::from("/volumes").join(UID);
    assert_eq!(plan.volumes_dir.as_deref(), Some(dir.as_path()));
    assert_eq!(plan.sandbox.annotations[VOLUMES_ANNOTATION], dir.display().to_string());
    assert_eq!(
        plan.volumes,
        [
            VolumeStep::EmptyDir { path: dir.join("cache"), group: Some(7) },
            VolumeStep::HostPath {
                path: "/srv/data".into(),
                kind: HostPathKind::DirectoryOrCreate
            },
        ]
    );
    let mounts = &plan.containers[0].config.mounts;
    assert_eq!(mounts[0].host_path, dir.join("cache").display().to_string());
    assert!(!mounts[0].readonly);
    assert!(mounts[1].readonly);
    assert_eq!(mounts[1].propagation(), v1::MountPropagation::PropagationHostToContainer);
}

#[test]
fn an_image_volume_is_mounted_read_only_with_its_sub_path() {
    let text = pod(
        "volumes:\n- {name: model, image: {reference: models/a, pullPolicy: Never}}\n\
         - {name: tools, image: {reference: \"tools:1\"}}",
        "volumeMounts:\n- {name: model, mountPath: /model, subPath: weights/v1}\n\
         - {name: tools, mountPath: /tools, readOnly: true, recursiveReadOnly: IfPossible}",
    );
    let plan = plan(&text).unwrap();
    assert_eq!(
        plan.volume_images,
        [
            VolumeImage { reference: "models/a".into(), pull: PullPolicy::Never },
            VolumeImage { reference: "tools:1".into(), pull: PullPolicy::IfNotPresent },
        ]
    );
    assert_eq!((plan.volumes.len(), plan.volumes_dir), (0, None));
    let mounts = &plan.containers[0].config.mounts;
    let image = mounts[0].image.as_ref().unwrap();
    assert_eq!((image.image.as_str(), mounts[0].host_path.as_str()), ("models/a", ""));
    assert_eq!(mounts[0].image_sub_path, "weights/v1");
    assert!(mounts[0].readonly && mounts[1].readonly && mounts[1].recursive_read_only);
}

#[test]
fn huge_pages_are_limited_by_their_size() {
    let config = container(
        "resources: {limits: {memory: 1Gi, hugepages-2Mi: 64Mi, hugepages-1Gi: 2Gi}, \
         requests: {hugepages-2Mi: 64Mi}}",
    );
    let limits = config.linux.unwrap().resources.unwrap().hugepage_limits;
    let limits: Vec<_> = limits.iter().map(|it| (it.page_size.as_str(), it.limit)).collect();
    assert_eq!(limits, [("1GB", 2 << 30), ("2MB", 64 << 20)]);
}

#[test]
fn cdi_annotations_of_the_pod_reach_its_containers() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  annotations:\n    \
                cdi.k8s.io/gpu: v.com/gpu=0\n    other: x\nspec:\n  containers:\n  - {name: a, image: b}\n";
    let plan = plan(text).unwrap();
    let annotations = &plan.containers[0].config.annotations;
    assert_eq!(annotations["cdi.k8s.io/gpu"], "v.com/gpu=0");
    assert!(!annotations.contains_key("other"));
}

#[test]
fn volumes_and_pages_that_cannot_be_are_named() {
    for (spec, mount, word) in [
        ("- {name: v, image: {}}", "{name: v, mountPath: /v}", "reference"),
        (
            "- {name: v, image: {reference: a}, emptyDir: {}}",
            "{name: v, mountPath: /v}",
            "two sources",
        ),
        ("- {name: v, emptyDir: {}}", "{name: v, mountPath: /v, subPath: a}", "image volumes only"),
        ("- {name: v, image: {reference: a}}", "{name: v, mountPath: /v, subPath: ../a}", "`..`"),
        (
            "- {name: v, image: {reference: a}}",
            "{name: v, mountPath: /v, mountPropagation: HostToContainer}",
            "mountPropagation",
        ),
    ] {
        let text = pod(&format!("volumes:\n{spec}"), &format!("volumeMounts:\n- {mount}"));
        let error = plan(&text).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
    }
    for (amounts, word) in [
        ("{limits: {hugepages-3Mi: 3Mi}}", "page size"),
        ("{limits: {hugepages-2Mi: x}}", "quantity"),
        ("{limits: {hugepages-2Mi: 4Mi}, requests: {hugepages-2Mi: 2Mi}}", "hugepages-2Mi"),
        ("{requests: {hugepages-2Mi: 2Mi}}", "hugepages-2Mi"),
    ] {
        let error = plan(&pod("", &format!("resources: {amounts}"))).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn names_servers_and_ports_reach_the_sandbox() {
    for (spec, expected) in [
        ("", None),
        ("dnsPolicy: Default", None),
        (
            "dnsPolicy: None\ndnsConfig: {nameservers: [192.0.2.9], options: [{name: ndots, value: \"5\"}]}",
            Some((vec!["192.0.2.9"], vec![], vec!["ndots:5"])),
        ),
        (
            "dnsConfig: {searches: [c.example], options: [{name: ndots, value: \"3\"}]}",
            Some((
                vec!["192.0.2.1"],
                vec!["a.example", "b.example", "c.example"],
                vec!["edns0", "ndots:3"],
            )),
        ),
    ] {
        let dns = plan(&pod(spec, "")).unwrap().sandbox.dns_config;
        let expected = expected.map(|(servers, searches, options)| {
            let own = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
            v1::DnsConfig { servers: own(servers), searches: own(searches), options: own(options) }
        });
        assert_eq!(dns, expected, "{spec}");
    }
    let ports =
        "ports:\n- {containerPort: 80, hostPort: 8080}\n- {containerPort: 53, protocol: UDP}";
    let sandbox = plan(&pod("hostname: other", ports)).unwrap().sandbox;
    assert_eq!(sandbox.hostname, "other");
    let [port] = sandbox.port_mappings.as_slice() else { panic!("{sandbox:?}") };
    assert_eq!((port.container_port, port.host_port), (80, 8080));
}

#[test]
fn pull_policies_follow_the_tag() {
    for (image, policy) in [
        ("busybox", PullPolicy::Always),
        ("busybox:latest", PullPolicy::Always),
        ("localhost:5000/busybox", PullPolicy::Always),
        ("busybox:1.36", PullPolicy::IfNotPresent),
        ("localhost:5000/busybox:1", PullPolicy::IfNotPresent),
        ("busybox@sha256:00", PullPolicy::IfNotPresent),
    ] {
        let text = pod("", "").replace("busybox:1", image);
        assert_eq!(plan(&text).unwrap().containers[0].pull, policy, "{image}");
    }
    let text = pod("", "imagePullPolicy: Never");
    assert_eq!(plan(&text).unwrap().containers[0].pull, PullPolicy::Never);
}

#[test]
fn init_containers_come_first_and_apart() {
    let text =
        pod("initContainers:\n- {name: first, image: a:1}\n- {name: second, image: b:1}", "");
    let plan = plan(&text).unwrap();
    let names: Vec<_> =
        plan.init_containers.iter().map(|it| it.config.metadata.clone().unwrap().name).collect();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(plan.containers.len(), 1);
}

#[test]
fn what_a_cluster_would_do_and_we_do_not_is_noted() {
    let notes = plan(&pod("restartPolicy: Always\ndnsPolicy: ClusterFirst", "")).unwrap().notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("restarts nothing"));
    assert!(plan(&pod("restartPolicy: Never", "")).unwrap().notes.is_empty());
}

#[test]
fn the_grace_period_and_the_runtime_class_are_kept() {
    let plan = plan(&pod("terminationGracePeriodSeconds: 5\nruntimeClassName: runc", "")).unwrap();
    assert_eq!(plan.handler, "runc");
    assert_eq!(plan.containers[0].config.annotations[GRACE_ANNOTATION], "5");
}

#[test]
fn fields_of_a_pod_that_cannot_be_honoured_are_named() {
    for (spec, expected) in [
        ("nodeName: x", "line 5: spec.nodeName is not supported by knarr run"),
        ("hostUsers: false", "spec.hostUsers is not supported"),
        ("hostAliases: [{ip: 192.0.2.1}]", "spec.hostAliases is not supported"),
        ("serviceAccountName: x", "spec.serviceAccountName is not supported"),
        (
            "hostNetwrok: true",
            "spec.hostNetwrok does not exist in a Pod; did you mean `hostNetwork`?",
        ),
        ("hostNetwork: yes please", "spec.hostNetwork must be true or false, not a text"),
        ("restartPolicy: never", "spec.restartPolicy must be one of Always, OnFailure, Never"),
        ("dnsPolicy: None", "dnsPolicy None needs nameservers"),
        ("hostPID: true\nshareProcessNamespace: true", "both hostPID and shareProcessNamespace"),
        ("terminationGracePeriodSeconds: -1", "must be between 0 and"),
        ("hostname: a b", "spec.hostname `a b` is not a host name"),
        ("dnsConfig: {searches: [\"a\\nb\"]}", "has the impossible entry `a\\nb`"),
        (
            "volumes: [{name: v, secret: {secretName: s}}]",
            "spec.volumes[0].secret is not supported",
        ),
        (
            "volumes: [{name: v, configMap: {name: s}}]",
            "spec.volumes[0].configMap is not supported",
        ),
        ("volumes: [{name: v}]", "spec.volumes[0] needs a source"),
        ("volumes: [{name: v, secret: null}]", "spec.volumes[0] needs a source"),
        ("volumes: [{name: v, downwardAPI: {}}]", "spec.volumes[0].downwardAPI is not supported"),
        ("volumes: [{name: ../v, emptyDir: {}}]", "is not a DNS label"),
        (
            "volumes: [{name: v, emptyDir: {medium: Memory}}]",
            "emptyDir.medium `Memory` is not supported",
        ),
        ("volumes: [{name: v, emptyDir: {sizeLimit: 1Gi}}]", "emptyDir.sizeLimit is not supported"),
        ("volumes: [{name: v, hostPath: {path: a}}]", "hostPath.path `a` must be absolute"),
        ("volumes: [{name: v, hostPath: {path: /a/../b}}]", "without `..`"),
        (
            "volumes: [{name: v, emptyDir: {}}, {name: v, emptyDir: {}}]",
            "spec.volumes[1] repeats the name `v`",
        ),
        (
            "securityContext: {fsGroupChangePolicy: Always}",
            "spec.securityContext.fsGroupChangePolicy is not",
        ),
        (
            "securityContext: {sysctls: [{name: a}]}",
            "spec.securityContext.sysctls[0].value is required",
        ),
        ("securityContext: {seccompProfile: {type: Localhost}}", "localhostProfile is required"),
        (
            "securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../x}}",
            "must be relative",
        ),
        ("initContainers: [{name: main, image: a}]", "spec.containers[0] repeats the name `main`"),
        (
            "initContainers: [{name: s, image: a, restartPolicy: Always}]",
            "spec.initContainers[0].restartPolicy is not",
        ),
    ] {
        let error = plan(&pod(spec, "")).unwrap_err();
        assert!(error.contains(expected), "{spec} gives\n{error}\nnot\n{expected}");
    }
}

#[test]
fn fields_of_a_container_that_cannot_be_honoured_are_named() {
    for (text, expected) in [
        (
            "livenessProbe: {tcpSocket: {port: 1}}",
            "line 8: spec.containers[0].livenessProbe is not supported by knarr run",
        ),
        ("lifecycle: {preStop: {}}", "spec.containers[0].lifecycle is not supported"),
        ("envFrom: [{}]", "spec.containers[0].envFrom is not supported"),
        (
            "env: [{name: A, valueFrom: {}}, {name: B, valueFrom: {x: 1}}]",
            "env[1].valueFrom is not supported",
        ),
        (
            "env: [{name: A, value: 1}]",
            "env[0].value must be a text, not a number (put it in quotes)",
        ),
        ("env: [{value: a}]", "env[0].name is required"),
        (
            "comand: [a]",
            "spec.containers[0].comand does not exist in a Pod; did you mean `command`?",
        ),
        ("command: ls", "spec.containers[0].command must be a list, not a text"),
        ("resources: {limits: {cpu: lots}}", "limits.cpu is not a quantity"),
        (
            "resources: {limits: {ephemeral-storage: 1Gi}}",
            "limits.ephemeral-storage is not supported",
        ),
        ("resources: {limits: {cpu: 1}, requests: {cpu: 2}}", "requests more cpu than its limit"),
        ("volumeMounts: [{name: v, mountPath: /v}]", "names the volume `v`, which the pod lacks"),
        (
            "volumeMounts: [{name: v, mountPath: /v, subPathExpr: a}]",
            "volumeMounts[0].subPathExpr is not supported",
        ),
        ("volumeMounts: [{name: v, mountPath: v}]", "mountPath `v` must be absolute"),
        (
            "volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]",
            "only a privileged container",
        ),
        (
            "volumeMounts: [{name: v, mountPath: /v, recursiveReadOnly: Enabled}]",
            "recursiveReadOnly without readOnly",
        ),
        ("ports: [{containerPort: 70000}]", "ports[0].containerPort must be between 1 and 65535"),
        ("securityContext: {runAsNonRoot: true, runAsUser: 0}", "must not run as root"),
        (
            "securityContext: {privileged: true, allowPrivilegeEscalation: false}",
            "forbids privilege escalation",
        ),
        ("securityContext: {runAsUser: -1}", "runAsUser must be between 0 and"),
        ("securityContext: {capabilites: {}}", "did you mean `capabilities`?"),
    ] {
        let error = plan(&pod("", text)).unwrap_err();
        assert!(error.contains(expected), "{text} gives\n{error}\nnot\n{expected}");
    }
}

#[test]
fn what_is_no_pod_is_refused() {
    for (text, expected) in [
        ("", "must be a map"),
        ("[]", "must be a map"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}", "`kind: Pod`"),
        (
            "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: b}]}",
            "metadata is required",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}", "spec is required"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}", "spec.containers is required"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: ../a}\nspec: {containers: [{name: a, image: b}]}",
            "metadata.name",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, uid: a/b}\nspec: {containers: [{name: a, image: b}]}",
            "metadata.uid",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: A}\nspec: {containers: [{name: a, image: b}]}",
            "metadata.namespace",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {knarr.io/volumes-dir: /etc}}\nspec: {containers: [{name: a, image: b}]}",
            "only knarr itself may set",
        ),
        ("a: 1\n---\nb: 2\n", "pod.yaml cannot be run"),
    ] {
        let error = plan(text).unwrap_err();
        assert!(error.contains(expected), "{text} gives\n{error}\nnot\n{expected}");
    }
}

#[test]
fn all_problems_are_named_at_once_in_the_order_of_their_lines() {
    let error = plan(&pod("nodeName: x\nfoo: 1", "bar: 1\nlifecycle: {a: 1}")).unwrap_err();
    let lines: Vec<_> = error
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("line ")?.split(':').next())
        .collect();
    assert_eq!(lines, ["5", "6", "10", "11"], "{error}");
}
