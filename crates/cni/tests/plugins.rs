//! How the engine calls plugins, and what it makes of those that misbehave.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use cni::{ExecError, NetworkStatus, PluginError};
use model::{PortMapping, PortProtocol};
use serde_json::{Map, Value, json};
use support::{Node, Pod, chain, is_root};

const RESULT: &str = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}"#;

/// Installs a plugin that writes down what it was given, call by call, and prints `answer`.
fn recorder(node: &Node, name: &str, answer: &str) {
    let log = node.path("calls");
    std::fs::create_dir_all(&log).unwrap();
    let body = format!(
        "n=$(ls {0} | wc -l); cat > {0}/$n.{name}.$CNI_COMMAND\n\
         env | grep ^CNI_ | sort > {0}/$n.{name}.env.tmp; mv {0}/$n.{name}.env.tmp {1}\n\
         [ $CNI_COMMAND = ADD ] && echo '{answer}'; exit 0",
        log.display(),
        node.path("environment").display(),
    );
    node.plugin(name, &body);
}

/// The calls in order: their names, and what was on standard input.
fn calls(node: &Node) -> (Vec<String>, Vec<Value>) {
    let mut paths: Vec<_> =
        std::fs::read_dir(node.path("calls")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let read = |path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    (paths.iter().map(name).collect(), paths.iter().map(read).collect())
}

fn list(version: &str, plugins: &[&str]) -> Value {
    let entry = |kind: &&str| json!({"type": kind, "capabilities": {"portMappings": true}});
    let plugins: Vec<Value> = plugins.iter().map(entry).collect();
    json!({"cniVersion": version, "name": "net", "plugins": plugins})
}

#[test]
fn plugins_are_chained_on_add_and_replayed_backwards_on_del() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure(&list("1.1.0", &["one", "two"]));
    recorder(&node, "one", r#"{"cniVersion":"1.1.0","interfaces":[]}"#);
    recorder(&node, "two", RESULT);
    let mut pod = Pod::new(1);
    pod.attachment.port_mappings = vec![PortMapping {
        protocol: PortProtocol::Tcp,
        container_port: 80,
        host_port: 8080,
        host_ip: String::new(),
    }];
    assert_eq!(node.add(&pod).unwrap().ips.len(), 1);
    // The configuration of today is another; DEL uses that of the time of ADD.
    node.configure(&json!({"name": "other", "plugins": [{"type": "nosuch"}]}));
    pod.lose_netns();
    node.del(&pod).unwrap();

    let (names, inputs) = calls(&node);
    assert_eq!(names, ["0.one.ADD", "1.two.ADD", "2.two.DEL", "3.one.DEL"]);
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
    for input in &inputs {
        assert_eq!(input["name"], "net");
        assert_eq!(input["runtimeConfig"], json!({"portMappings": ports}));
    }
    assert_eq!(inputs[0].get("prevResult"), None);
    assert_eq!(inputs[1]["prevResult"], json!({"cniVersion": "1.1.0", "interfaces": []}));
    let result: Value = serde_json::from_str(RESULT).unwrap();
    assert_eq!(inputs[2]["prevResult"], result);
    assert_eq!(inputs[3]["prevResult"], result);

    let environment = std::fs::read_to_string(node.path("environment")).unwrap();
    let id = "01".repeat(32);
    let want = format!(
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-1;\
         K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-1\n\
         CNI_COMMAND=DEL\nCNI_CONTAINERID={id}\nCNI_IFNAME=eth0\nCNI_NETNS=\nCNI_PATH={}\n",
        node.path("bin").display()
    );
    assert_eq!(environment, want);
}

#[test]
fn plugins_are_told_what_they_declare_and_nothing_else() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    node.config.pod_networks = vec!["net".to_owned()];
    node.engine().set_pod_ranges("10.244.1.0/24,fd00:1::/64").unwrap();
    let mut pod = Pod::new(1);
    pod.attachment.port_mappings = vec![PortMapping {
        protocol: PortProtocol::Udp,
        container_port: 53,
        host_port: 5353,
        host_ip: "192.0.2.1".to_owned(),
    }];
    pod.attachment.dns = Some(model::DnsConfig {
        servers: vec!["192.0.2.53".to_owned()],
        searches: vec!["a.example".to_owned()],
        options: vec!["ndots:2".to_owned()],
    });
    pod.attachment.cgroup_parent = "/kubepods/pod1".to_owned();
    let wanted = r#"[{"name":"net","ips":["10.1.0.9"],"mac":"02:00:00:00:00:09"}]"#;
    for (key, value) in [
        ("kubernetes.io/ingress-bandwidth", "1M"),
        ("kubernetes.io/egress-bandwidth", "2M"),
        ("v1.multus-cni.io/default-network", wanted),
    ] {
        pod.attachment.annotations.insert(key.to_owned(), value.to_owned());
    }
    let want = json!({
        "portMappings":
            [{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"}],
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": u32::MAX,
                      "egressRate": 2_000_000, "egressBurst": u32::MAX},
        "dns": {"servers": ["192.0.2.53"], "searches": ["a.example"], "options": ["ndots:2"]},
        "ipRanges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:1::/64"}]],
        "ips": ["10.1.0.9"],
        "mac": "02:00:00:00:00:09",
        "cgroupPath": "/kubepods/pod1",
        "io.kubernetes.cri.pod-annotations": pod.attachment.annotations,
    });
    let names = want.as_object().unwrap().keys();
    let all: Map<String, Value> = names.map(|key| (key.clone(), true.into())).collect();
    node.configure(&json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "all", "capabilities": all},
        {"type": "none", "capabilities": {"mac": false}},
        {"type": "one", "capabilities": {"mac": true}},
    ]}));
    for name in ["all", "none", "one"] {
        recorder(&node, name, RESULT);
    }
    node.add(&pod).unwrap();
    node.on_host(|| node.engine().check(&pod.attachment)).unwrap();
    node.del(&pod).unwrap();
    let (names, inputs) = calls(&node);
    assert_eq!(names.len(), 9, "{names:?}");
    for (name, input) in names.iter().zip(&inputs) {
        let expected = match name.split('.').nth(1) {
            Some("all") => Some(want.clone()),
            Some("one") => Some(json!({"mac": "02:00:00:00:00:09"})),
            _none => None,
        };
        assert_eq!(input.get("runtimeConfig"), expected.as_ref(), "{name}");
    }
}

#[test]
fn an_address_that_a_later_plugin_reports_otherwise_is_released() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure(&json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.8.0.0/24"}},
        {"type": "liar"},
    ]}));
    node.plugin("liar", &format!("[ $CNI_COMMAND = ADD ] && echo '{RESULT}'; exit 0"));
    let pod = Pod::new(1);
    assert_eq!(node.add(&pod).unwrap().ips[0].to_string(), "10.0.0.2");
    assert_eq!(node.reserved("net"), ["10.8.0.2"]);
    node.del(&pod).unwrap();
    assert!(node.reserved("net").is_empty());
}

#[test]
fn old_versions_get_no_result_on_del() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure(&list("0.3.1", &["one"]));
    recorder(&node, "one", r#"{"cniVersion":"0.3.1","ips":[{"address":"10.0.0.2/24"}]}"#);
    let pod = Pod::new(1);
    node.add(&pod).unwrap();
    node.del(&pod).unwrap();
    let (names, inputs) = calls(&node);
    assert_eq!(names, ["0.one.ADD", "1.one.DEL"]);
    assert_eq!(inputs[1].get("prevResult"), None);
}

#[test]
fn a_failing_plugin_is_quoted_and_everything_is_undone() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure(&list("1.0.0", &["one", "bad"]));
    recorder(&node, "one", RESULT);
    let error = r#"{"code": 100, "msg": "no backend", "details": "10.0.0.1 refused"}"#;
    node.plugin("bad", &format!("[ $CNI_COMMAND = DEL ] && exit 0; echo '{error}'; exit 1"));
    let text = chain(&node.add(&Pod::new(1)).unwrap_err());
    assert!(text.contains("to network `net`"), "{text}");
    let want = "CNI plugin `bad` failed: no backend: 10.0.0.1 refused (code 100)";
    assert!(text.ends_with(want), "{text}");
    assert_eq!(calls(&node).0, ["0.one.ADD", "1.one.DEL"]);
    assert_eq!(node.cached(), 0);
}

#[test]
fn garbage_and_results_without_an_address_are_errors() {
    if !is_root() {
        return;
    }
    let table = [
        ("echo hello", "CNI plugin `one` printed no result but `hello`"),
        ("echo '{}'", "network `net` gave sandbox"),
        ("exit 3", "ended with exit status: 3"),
        ("kill -9 $$", "ended with signal: 9"),
        (r#"printf '{"ips":[{"addre'"#, r#"printed no result but `{"ips":[{"addre`: EOF"#),
        ("while :; do echo 0123456789012345678901234567890; done", "more than 4194304 bytes"),
        (r#"echo '{"ips":[{"address":"nonsense"}]}'"#, "no address on eth0"),
        (r#"echo '{"code":1,"msg":"old"}'; echo why >&2; exit 1"#, "old (code 1) (why)"),
    ];
    for (body, want) in table {
        let node = Node::new();
        node.configure(&list("1.0.0", &["one"]));
        node.plugin("one", &format!("[ $CNI_COMMAND = DEL ] && exit 0; {body}"));
        let text = chain(&node.add(&Pod::new(1)).unwrap_err());
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn a_plugin_that_hangs_is_given_up() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    node.config.add_limit = Duration::from_millis(300);
    node.configure(&list("1.0.0", &["one"]));
    node.plugin("one", "[ $CNI_COMMAND = DEL ] && exit 0; sleep 600");
    let error = node.add(&Pod::new(1)).unwrap_err();
    let cni::AddError::Plugin { source, .. } = error else { panic!("{error:?}") };
    let PluginError::Exec { source, .. } = *source else { panic!("{source:?}") };
    assert!(matches!(source, ExecError::TimedOut { .. }), "{source:?}");
}

#[test]
fn a_missing_plugin_is_named_with_the_places_looked_in() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure(&list("1.0.0", &["bridge", "cilium-cni"]));
    let want = format!(
        "CNI plugin `cilium-cni` is not installed: it is not in {}",
        node.path("bin").display()
    );
    let NetworkStatus::NotReady { message } = node.engine().status() else { panic!("ready") };
    assert_eq!(message, format!("cni plugin not initialized: {want}"));
    let node_text = chain(&node.add(&Pod::new(1)).unwrap_err());
    assert!(node_text.contains("plugin"), "{node_text}");
}

#[test]
fn a_failed_del_keeps_the_record_and_is_repeated() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure(&list("1.0.0", &["one"]));
    let broken = node.path("broken");
    node.plugin("one", &format!("[ -e {} ] && exit 1; echo '{RESULT}'", broken.display()));
    let pod = Pod::new(1);
    node.add(&pod).unwrap();
    std::fs::write(&broken, "").unwrap();
    node.del(&pod).unwrap_err();
    assert_eq!(node.cached(), 1);
    std::fs::remove_file(&broken).unwrap();
    node.del(&pod).unwrap();
    assert_eq!(node.cached(), 0);
}

#[test]
fn a_broken_configuration_is_not_ready_but_pods_can_still_be_detached() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new(1);
    node.add(&pod).unwrap();
    std::fs::write(node.path("net.d/00-broken.conflist"), "{").unwrap();
    let NetworkStatus::NotReady { message } = node.engine().status() else { panic!("ready") };
    assert!(message.starts_with("cni plugin not initialized: CNI configuration "), "{message}");
    assert!(message.contains("00-broken.conflist is not valid JSON: EOF"), "{message}");
    let text = chain(&node.add(&Pod::new(2)).unwrap_err());
    assert!(text.contains("00-broken.conflist"), "{text}");
    node.del(&pod).unwrap();
    assert!(node.reserved("knarr").is_empty());
    node.del(&Pod::new(3)).unwrap();
}

#[test]
fn probing_asks_the_plugins_of_new_configurations() {
    let node = Node::new();
    node.configure(&list("1.1.0", &["one"]));
    node.plugin("one", r#"echo '{"code": 50, "msg": "not up yet"}'; exit 1"#);
    assert_eq!(node.engine().status(), NetworkStatus::Ready);
    let NetworkStatus::NotReady { message } = node.engine().probe() else { panic!("ready") };
    assert!(message.ends_with("CNI plugin `one` failed: not up yet (code 50)"), "{message}");
    node.configure(&list("1.0.0", &["one"]));
    assert_eq!(node.engine().probe(), NetworkStatus::Ready);
}

#[test]
fn gc_tells_plugins_which_attachments_are_valid() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure(&list("1.1.0", &["one"]));
    recorder(&node, "one", RESULT);
    let (kept, lost) = (Pod::new(1), Pod::new(2));
    node.add(&kept).unwrap();
    node.add(&lost).unwrap();
    let live = HashSet::from([kept.attachment.sandbox.clone()]);
    let report = node.on_host(|| node.engine().gc(&live).unwrap());
    assert!(report.failures.is_empty(), "{report:?}");
    let (names, inputs) = calls(&node);
    assert_eq!(names[2..], ["2.one.DEL", "3.one.GC"]);
    let valid = json!([{"containerID": "01".repeat(32), "ifname": "eth0"}]);
    assert_eq!(inputs[3]["cni.dev/valid-attachments"], valid);
    assert_eq!(inputs[3]["cni.dev/attachments"], valid);
}

#[test]
fn a_file_that_is_no_program_is_said_to_be_none() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.configure(&list("1.0.0", &["one"]));
    std::fs::write(node.path("bin/one"), "not a program").unwrap();
    let text = chain(&node.add(&Pod::new(1)).unwrap_err());
    assert!(text.contains("CNI plugin `one`") && text.contains("it could not be run"), "{text}");
}

/// Rules are made by netlink: no program is needed for them.
#[test]
fn host_ports_and_masquerading_need_no_program() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let mut pod = Pod::new(1);
    pod.attachment.port_mappings = vec![PortMapping {
        protocol: PortProtocol::Sctp,
        container_port: 80,
        host_port: 8080,
        host_ip: String::new(),
    }];
    node.add(&pod).unwrap();
    node.del(&pod).unwrap();
}

#[test]
fn the_next_pod_is_attached_after_any_of_these() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    node.config.add_limit = Duration::from_millis(300);
    let broken = node.path("broken");
    node.configure(&json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "bridge", "bridge": "br0", "isGateway": true,
         "ipam": {"type": "host-local", "dataDir": node.config.data_dir, "subnet": "10.8.0.0/30"}},
        {"type": "last"},
    ]}));
    node.plugin(
        "last",
        &format!(
            "[ $CNI_COMMAND = ADD ] || exit 0; [ -e {0} ] && . {0}; \
             echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.8.0.2/30\"}}]}}'",
            broken.display()
        ),
    );
    // One address is all there is: whatever is not given back is missing.
    for body in ["exit 1", "kill -9 $$", "echo '{'; exit 0", "sleep 600"] {
        std::fs::write(&broken, body).unwrap();
        let pod = Pod::new(1);
        node.add(&pod).unwrap_err();
        assert!(!pod.has_link("eth0") && node.reserved("net").is_empty(), "{body}");
        std::fs::remove_file(&broken).unwrap();
        node.add(&pod).unwrap();
        node.del(&pod).unwrap();
    }
}
