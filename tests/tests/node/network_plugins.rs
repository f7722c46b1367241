//! Pod networks of somebody else's plugins: what the daemon tells them, whatever happens to it or
//! to the pod, and what becomes of pods whose plugins misbehave.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use test_support::daemon::Settings;
use test_support::leaks::Leaks;
use test_support::node::{Node, PATIENCE, on_a_node, on_a_node_with};
use test_support::pods::PodBuilder;
use test_support::proc;
use test_support::scratch::Scratch;

/// Runs the text that lies beside the link by which it is called.
const PLUGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/cni/tests/fixtures/plugin");
/// Passes on the result of the plugin before. Standard input is in alphabetical order.
const PASS_ON: &str = r#"sed 's/^.*"prevResult"://; s/,"type":"last"}$//'"#;

/// The built-in bridge, and behind it a plugin `last` of the test's own. Of a version that does not
/// ask plugins for their status: such a process would be taken for one that is left behind.
fn with_last_plugin(settings: &mut Settings, scratch: &Scratch) {
    let plugins = scratch.dir().join("plugins");
    let conf = format!(
        r#"{{"cniVersion": "1.0.0", "name": "net", "plugins": [
            {{"type": "bridge", "bridge": "{}", "isDefaultGateway": true,
              "ipam": {{"type": "host-local", "subnet": "{}"}}}},
            {{"type": "last"}}]}}"#,
        scratch.mark(),
        scratch.subnet(),
    );
    let made = fs::create_dir(&plugins)
        .and_then(|()| symlink(PLUGIN, plugins.join("last")))
        .and_then(|()| fs::write(plugins.join("last.body"), passing_on()))
        .and_then(|()| fs::write(scratch.dir().join("cni.d/10-net.conflist"), conf));
    made.unwrap_or_else(|error| eprintln!("cannot install the plugin: {error}"));
    settings.cni_bin_dir = Some(plugins);
}

fn passing_on() -> String {
    format!("[ $CNI_COMMAND = ADD ] || exit 0; {PASS_ON}")
}

fn body(node: &Node) -> PathBuf {
    node.scratch.dir().join("plugins/last.body")
}

#[test]
fn a_pod_whose_plugin_misbehaves_leaves_nothing_and_starts_when_the_plugin_is_well() -> Result<()> {
    on_a_node_with(with_last_plugin, async |node| {
        let pod = published(node);
        let table = [
            ("exit 3", "exit status: 3"),
            ("kill -9 $$", "signal: 9"),
            ("echo hello", "printed no result but `hello`"),
            (r#"printf '{"ips":[{"addre'"#, "EOF"),
            ("echo '{}'", "no address"),
            (r#"echo '{"code":11,"msg":"busy"}'; echo why >&2; exit 1"#, "busy (code 11) (why)"),
        ];
        for (misbehaviour, want) in table {
            // At its end, too: the next pod is not to pay for it.
            for guard in ["", "[ $CNI_COMMAND = ADD ] || exit 0; "] {
                fs::write(body(node), format!("{guard}{misbehaviour}"))?;
                refused(node, want).await?;
            }
            fs::write(body(node), passing_on())?;
            let id = node.cri.run_pod(&pod).await?;
            node.cri.remove_pod(&id).await?;
        }
        let (plugin, away) = (body(node).with_extension(""), node.scratch.dir().join("away"));
        fs::rename(&plugin, &away)?;
        refused(node, "CNI plugin `last` is not installed").await?;
        fs::rename(&away, &plugin)?;
        node.cri.run_pod(&pod).await?;
        Ok(())
    })
}

/// With a host port, which is knarr's to serve here: `last` does not say that it would.
fn published(node: &Node) -> PodBuilder {
    node.pod("again").with(|config| {
        config.port_mappings = vec![v1::PortMapping {
            protocol: v1::Protocol::Tcp.into(),
            container_port: 80,
            host_port: 41_001,
            host_ip: format!("{}1", node.scratch.subnet_prefix()),
        }];
    })
}

async fn refused(node: &Node, want: &str) -> Result<()> {
    let refused = node.cri.run_pod(&published(node)).await;
    let Err(status) = refused else { anyhow::bail!("{want}: the pod started") };
    ensure!(status.message().contains(want), "{want}: {}", status.message());
    let listed = node.cri.pods(None).await?;
    ensure!(listed.is_empty(), "{want}: the pod is listed: {}", status.message());
    Leaks::of(&node.scratch).assert_none().context(want.to_owned())
}

/// What happens to a pod between its start and its end.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Its network namespace is taken away under it.
    NoNamespace,
    /// The daemon and the pod's supervisor die.
    Crash,
    /// Everything but the disk is gone.
    Reboot,
}

#[test]
fn plugins_are_told_once_of_a_pods_end_whatever_happened_to_it() -> Result<()> {
    on_a_node_with(with_last_plugin, async |node| {
        let calls = node.scratch.dir().join("calls");
        let record = format!(
            "if [ $CNI_COMMAND = ADD ]; then {PASS_ON}; exit; fi; [ $CNI_COMMAND = DEL ] || exit 0\n\
             env | grep ^CNI_ >>{0}; cat >>{0}",
            calls.display()
        );
        fs::write(body(node), record)?;
        for fate in [Fate::NoNamespace, Fate::Crash, Fate::Reboot] {
            let id = node.cri.run_pod(&node.pod(&format!("{fate:?}").to_lowercase())).await?;
            let ip = node.cri.pod_ip(&id).await?;
            suffer(node, &id, fate)?;
            node.cri.stop_pod(&id).await?;
            node.cri.stop_pod(&id).await?;
            node.cri.remove_pod(&id).await?;
            let told = fs::read_to_string(&calls).with_context(|| format!("{fate:?}"))?;
            ensure!(told.matches("CNI_COMMAND=DEL").count() == 1, "{fate:?}: {told}");
            ensure!(told.contains(&format!("CNI_CONTAINERID={id}\n")), "{fate:?}: {told}");
            ensure!(told.contains("\"prevResult\":") && told.contains(&ip), "{fate:?}: {told}");
            let path = told.lines().find_map(|line| line.strip_prefix("CNI_NETNS="));
            let is_gone = !matches!(fate, Fate::Crash);
            ensure!(path.is_some_and(|path| path.is_empty() == is_gone), "{fate:?}: {told}");
            Leaks::of(&node.scratch).assert_none().with_context(|| format!("{fate:?}"))?;
            fs::remove_file(&calls)?;
        }
        Ok(())
    })
}

fn suffer(node: &mut Node, pod: &str, fate: Fate) -> Result<()> {
    match fate {
        Fate::NoNamespace => lose_namespace(pod),
        Fate::Crash => {
            node.daemon.kill9()?;
            kill_supervisors(node)?;
            node.daemon.launch(&node.scratch)
        }
        Fate::Reboot => {
            node.daemon.kill9()?;
            kill_supervisors(node)?;
            lose_namespace(pod)?;
            forget_state(node.scratch.state())?;
            node.daemon.launch(&node.scratch)
        }
    }
}

fn lose_namespace(pod: &str) -> Result<()> {
    let pin = Path::new("/run/netns").join(format!("knarr-{pod}"));
    unmount(&pin, UnmountFlags::DETACH).context("unmount the namespace's pin")?;
    fs::remove_file(&pin).context("remove the namespace's pin")
}

fn kill_supervisors(node: &Node) -> Result<()> {
    let state = node.scratch.state().display().to_string();
    for process in proc::all().iter().filter(|process| process.cmdline.contains(&state)) {
        proc::signal(process.pid, Signal::KILL)?;
        proc::wait_gone(process.pid, PATIENCE)?;
    }
    Ok(())
}

/// What lies in memory, with what is mounted there.
fn forget_state(state: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().rev().filter_map(|line| line.split(' ').nth(4));
    for point in points.filter(|point| Path::new(point).starts_with(state)) {
        unmount(point, UnmountFlags::DETACH).with_context(|| point.to_owned())?;
    }
    for entry in fs::read_dir(state)? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}

/// An address and an attachment of a pod that is no more, as a crash at the wrong moment leaves.
fn plant(node: &Node) -> Result<[PathBuf; 2]> {
    let gone = "7".repeat(64);
    let results = node.scratch.root().join("cni/results");
    let present = fs::read_dir(&results)?.next().context("no pod is attached")??.path();
    let text = fs::read_to_string(&present)?;
    let name = present.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let id = name.split('-').find(|part| part.len() == 64).context("no sandbox in the name")?;
    let entry = results.join(name.replace(id, &gone));
    fs::write(&entry, text.replace(id, &gone))?;
    let reserved = node.scratch.root().join("networks/knarr/192.0.2.77");
    fs::write(&reserved, format!("{gone}\r\neth0"))?;
    Ok([entry, reserved])
}

async fn gone(node: &Node, paths: &[PathBuf]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Some(path) = paths.iter().find(|path| path.exists()) {
        ensure!(Instant::now() < deadline, "{} is still there", path.display());
        // Lets the daemon work meanwhile.
        node.cri.pods(None).await?;
    }
    Ok(())
}

#[test]
fn what_pods_that_are_no_more_hold_is_released_at_the_start_and_from_time_to_time() -> Result<()> {
    on_a_node_with(
        |settings, _| settings.cni = "gc_interval = \"1s\"".to_owned(),
        async |node| {
            let pod = node.cri.run_pod(&node.pod("kept")).await?;
            let ip = node.cri.pod_ip(&pod).await?;
            gone(node, &plant(node)?).await?;
            node.daemon.kill9()?;
            let planted = plant(node)?;
            node.daemon.launch(&node.scratch)?;
            gone(node, &planted).await?;
            ensure!(node.cri.pod_ip(&pod).await? == ip);
            ensure!(node.scratch.root().join("networks/knarr").join(ip).exists());
            Ok(())
        },
    )
}

#[test]
fn pods_are_on_the_networks_of_the_configuration_and_on_those_they_ask_for() -> Result<()> {
    let configure = |settings: &mut Settings, scratch: &Scratch| {
        settings.cni = "networks = [\"main\", \"second\"]\npod_networks = [\"third\"]".to_owned();
        for (at, name) in (0_u8..).zip(["main", "second", "third"]) {
            let conf = format!(
                r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [{{"type": "ptp",
                    "ipam": {{"type": "host-local", "subnet": "{}{}/26"}}}}]}}"#,
                scratch.subnet_prefix(),
                at * 64,
            );
            fs::write(scratch.dir().join(format!("cni.d/{name}.conflist")), conf).ok();
        }
    };
    on_a_node_with(configure, async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("many").with(|config| {
            let wanted = "third@fast0".to_owned();
            config.annotations.insert("k8s.v1.cni.cncf.io/networks".to_owned(), wanted);
        });
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let prefix = node.scratch.subnet_prefix();
        ensure!(node.cri.pod_ip(&pod_id).await? == format!("{prefix}2"));
        let links = node.cri.shell(&id, "ip -o -4 addr").await?;
        let listed = super::cli::on(node, &["net", "ls"])?;
        for (link, last) in [("eth0", 2), ("eth1", 66), ("fast0", 130)] {
            let address = format!("{prefix}{last}");
            let has = |text: &str| {
                let mut lines = text.lines();
                lines.any(|line| line.contains(link) && line.contains(&address))
            };
            ensure!(has(&links), "{link} {address}: {links}");
            ensure!(has(&listed), "{link} {address}: {listed}");
        }
        let pod = node.pod("greedy").with(|config| {
            let wanted = "second".to_owned();
            config.annotations.insert("k8s.v1.cni.cncf.io/networks".to_owned(), wanted);
        });
        let refused = node.cri.run_pod(&pod).await;
        test_support::cri::refused(refused, tonic::Code::Unknown, &["`cni.pod_networks`"])
    })
}

#[test]
fn without_a_configuration_pods_have_an_address_of_each_family() -> Result<()> {
    let dual = |settings: &mut Settings, scratch: &Scratch| {
        // One more element of the list.
        let v6 = format!("fd6b:6e61:7272:{}::/64", &scratch.mark()[2..]);
        settings.subnet = Some(format!("{}\", \"{v6}", scratch.subnet()));
    };
    if fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").unwrap_or_default() != "0\n" {
        test_support::skip("this host has no IPv6");
        return Ok(());
    }
    on_a_node_with(dual, async |node| {
        let (first, _) = node.sleeper("first").await?;
        let (_, other) = node.sleeper("other").await?;
        let network = node.cri.pod(&first).await?.network.unwrap_or_default();
        ensure!(network.ip.starts_with(&node.scratch.subnet_prefix()), "{network:?}");
        let [v1::PodIp { ip: v6 }] = &network.additional_ips[..] else {
            anyhow::bail!("want one address besides: {network:?}");
        };
        ensure!(v6.starts_with("fd6b:6e61:7272:"), "{network:?}");
        for address in [&network.ip, v6] {
            node.cri.shell(&other, &format!("ping -c 1 -W 10 {address}")).await?;
        }
        Ok(())
    })
}

/// Other CNI tools find what knarr attached where libcni keeps it.
#[test]
fn an_attachment_is_recorded_in_libcnis_form() -> Result<()> {
    on_a_node(async |node| {
        let pod = node.cri.run_pod(&node.pod("recorded")).await?;
        let path = node.scratch.root().join(format!("cni/results/knarr-{pod}-eth0"));
        let entry: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
        ensure!(entry["kind"] == "cniCacheV1" && entry["containerId"] == pod, "{entry}");
        ensure!(entry["ifName"] == "eth0" && entry["networkName"] == "knarr", "{entry}");
        let ip = node.cri.pod_ip(&pod).await?;
        ensure!(entry["result"].to_string().contains(&ip), "{entry}");
        Ok(())
    })
}
