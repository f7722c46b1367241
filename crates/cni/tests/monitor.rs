//! NetworkReady comes and goes with the configuration, by itself.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use cni::{Engine, EngineConfig, Monitor, NetworkStatus};
use serde_json::json;
use support::Node;

fn monitor(config: EngineConfig) -> Monitor {
    Monitor::start(Engine::new(config)).unwrap()
}

/// Waits until the status is such; the monitor looks at least once a second while it is not.
#[track_caller]
fn until(monitor: &Monitor, what: &str, wanted: impl Fn(&NetworkStatus) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !wanted(&monitor.status()) {
        assert!(Instant::now() < deadline, "never {what}: {:?}", monitor.status());
        std::thread::yield_now();
    }
}

fn ready(status: &NetworkStatus) -> bool {
    *status == NetworkStatus::Ready
}

fn says(text: &str) -> impl Fn(&NetworkStatus) -> bool {
    move |status| matches!(status, NetworkStatus::NotReady { message } if message.contains(text))
}

fn list(plugin: &str) -> String {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": plugin}]}).to_string()
}

/// Without the built-in network, so that a missing configuration shows.
fn node() -> Node {
    let mut node = Node::new();
    node.config.built_in_network = false;
    node
}

#[test]
fn no_configuration_is_said_in_words_that_operators_grep_for() {
    let node = node();
    let monitor = monitor(node.config.clone());
    let want = format!(
        "cni plugin not initialized: no CNI configuration file in {}/. \
         Has your network provider started?",
        node.config.conf_dir.display()
    );
    assert_eq!(monitor.status(), NetworkStatus::NotReady { message: want });
}

#[test]
fn files_that_are_written_moved_in_broken_and_removed_are_noticed() {
    let node = node();
    let monitor = monitor(node.config.clone());
    let file = node.path("net.d/10.conflist");
    std::fs::write(&file, list("loopback")).unwrap();
    until(&monitor, "ready", ready);
    std::fs::write(&file, "{").unwrap();
    until(&monitor, "broken", says("is not valid JSON"));
    let elsewhere = node.path("elsewhere");
    std::fs::write(&elsewhere, list("loopback")).unwrap();
    std::fs::rename(&elsewhere, &file).unwrap();
    until(&monitor, "ready again", ready);
    std::fs::remove_file(&file).unwrap();
    until(&monitor, "without configuration", says("Has your network provider started?"));
    std::fs::write(&elsewhere, list("loopback")).unwrap();
    symlink(&elsewhere, &file).unwrap();
    until(&monitor, "ready by a link", ready);
}

#[test]
fn a_directory_that_is_removed_and_made_again_is_noticed() {
    let mut node = node();
    node.config.conf_dir = node.path("a/b/net.d");
    let monitor = monitor(node.config.clone());
    let make = |dir: &Path| {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("10.conflist"), list("loopback")).unwrap();
    };
    for top in ["a/b/net.d", "a/b", "a"] {
        make(&node.config.conf_dir);
        until(&monitor, "ready", ready);
        std::fs::remove_dir_all(node.path(top)).unwrap();
        until(&monitor, "gone", says("Has your network provider started?"));
        make(&node.config.conf_dir);
        until(&monitor, "ready", ready);
        std::fs::rename(node.path(top), node.path("away")).unwrap();
        until(&monitor, "moved away", says("Has your network provider started?"));
        std::fs::rename(node.path("away"), node.path(top)).unwrap();
        until(&monitor, "moved back", ready);
    }
}

#[test]
fn a_plugin_that_is_installed_later_and_one_that_comes_up_later_are_noticed() {
    let node = node();
    node.configure(&json!({"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "late"}]}));
    let monitor = monitor(node.config.clone());
    until(&monitor, "missing", says("CNI plugin `late` is not installed"));
    let up = node.path("up");
    node.plugin(
        "late",
        &format!(
            "[ -e {} ] || {{ echo '{{\"code\":50,\"msg\":\"no agent\"}}'; exit 1; }}",
            up.display()
        ),
    );
    until(&monitor, "not up", says("CNI plugin `late` failed: no agent (code 50)"));
    std::fs::write(up, "").unwrap();
    until(&monitor, "ready", ready);
}

#[test]
fn a_plugin_that_hangs_keeps_nobody_waiting() {
    let mut node = node();
    node.config.status_limit = Duration::from_secs(1);
    node.configure(&json!({"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "slow"}]}));
    node.plugin("slow", "sleep 600");
    let monitor = monitor(node.config.clone());
    // The plugin is installed; what it says comes later.
    assert_eq!(monitor.status(), NetworkStatus::Ready);
    until(&monitor, "timed out", says("it was killed after 1s"));
    // Ends although a plugin may be asked at this moment.
    drop(monitor);
}
