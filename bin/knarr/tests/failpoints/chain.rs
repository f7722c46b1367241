//! A chain of plugins in a network of its own, point to point, with every packet filter done by
//! `iptables` and a program at its end. The daemon dies before each of them, and each of them fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::agreement::agrees;
use test_support::daemon::Settings;
use test_support::leaks::Leaks;
use test_support::matrix::{Act, Table};
use test_support::node::{Node, PATIENCE, block_on};
use test_support::scratch::Scratch;

use crate::program;

/// Runs the text that lies beside the link by which it is called.
const PLUGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/cni/tests/fixtures/plugin");

/// Passes on the result of the plugin before. Standard input is in alphabetical order.
const PASS_ON: &str =
    r#"[ $CNI_COMMAND = ADD ] || exit 0; sed 's/^.*"prevResult"://; s/,"type":"last"}$//'"#;

/// The plugins, without the `ipam` of the first.
const PLUGINS: usize = 6;

/// A network namespace, for the daemon.
struct Namespace(String);

impl Namespace {
    fn make(scratch: &Scratch) -> Result<Self> {
        let made = Self(format!("{}-chain", scratch.mark()));
        run("ip", &["netns", "add", &made.0])?;
        run("ip", &["-n", &made.0, "link", "set", "lo", "up"])?;
        Ok(made)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    /// What is there besides `lo` and chains without rules for pods.
    fn is_empty(&self, scratch: &Scratch) -> Result<()> {
        // A pod's link goes after its namespace, in the kernel's own time.
        let begun = Instant::now();
        loop {
            let links = run("ip", &["-n", &self.0, "-o", "link"])?;
            if links.lines().count() == 1 {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "left behind: {links}");
            std::thread::yield_now();
        }
        for tool in ["iptables-save", "ip6tables-save"] {
            let rules = run("ip", &["netns", "exec", &self.0, tool])?;
            let address = format!("{}2", scratch.subnet_prefix());
            let of_pod = |rule: &&str| rule.contains(&address) || rule.contains("--dport 8080");
            let left: Vec<_> = rules.lines().filter(of_pod).collect();
            ensure!(left.is_empty(), "left behind: {left:?}");
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "del", &self.0]) {
            eprintln!("{error:#}");
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().context(program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn configure(settings: &mut Settings, scratch: &Scratch, namespace: &Namespace) -> Result<()> {
    let conf = format!(
        r#"{{"cniVersion": "1.0.0", "name": "chain", "plugins": [
            {{"type": "ptp", "ipMasq": true, "ipMasqBackend": "iptables",
              "ipam": {{"type": "host-local", "subnet": "{}"}}}},
            {{"type": "bandwidth", "ingressRate": 800000000, "ingressBurst": 80000000,
              "egressRate": 800000000, "egressBurst": 80000000}},
            {{"type": "tuning", "sysctl": {{"net.ipv4.conf.all.log_martians": "1"}}}},
            {{"type": "firewall", "backend": "iptables"}},
            {{"type": "portmap", "backend": "iptables", "capabilities": {{"portMappings": true}}}},
            {{"type": "last"}}]}}"#,
        scratch.subnet(),
    );
    let plugins = scratch.dir().join("plugins");
    fs::create_dir(&plugins)?;
    symlink(PLUGIN, plugins.join("last"))?;
    fs::write(plugins.join("last.body"), PASS_ON)?;
    fs::write(scratch.dir().join("cni.d/10-chain.conflist"), conf)?;
    settings.cni_bin_dir = Some(plugins);
    settings.netns = Some(namespace.path());
    "info".clone_into(&mut settings.log_level);
    Ok(())
}

/// Every place of ADD and DEL, each time that it is come by.
pub(crate) fn walk() -> Result<()> {
    let Some(dist) = program::dist()? else { return Ok(()) };
    block_on(async {
        let mut namespace = None;
        let mut configured = Ok(());
        let mut node = Node::begin(&dist, |settings, scratch| {
            configured = Namespace::make(scratch).and_then(|made| {
                let made = namespace.insert(made);
                configure(settings, scratch, made)
            });
        })?;
        configured?;
        let namespace = namespace.context("no network namespace")?;
        let mut table = Table::default();
        for place in program::places()?.into_iter().filter(|it| it.name.starts_with("cni.")) {
            for act in place.acts {
                let mut time = 1;
                let case = |time| Case { place: &place.name, act, time };
                while case(time)
                    .run(&mut node, &namespace, &mut table)
                    .await
                    .with_context(|| format!("{:?}", case(time)))?
                {
                    time += 1;
                }
                let reached = time - 1;
                let least = if place.name.ends_with(".plugin") { PLUGINS } else { 1 };
                ensure!(reached >= least, "{} {act:?} is reached {reached} times", place.name);
            }
        }
        table.publish(&program::tables(), "daemon-chain")?;
        node.finish().await
    })
}

#[derive(Debug)]
struct Case<'a> {
    place: &'a str,
    act: Act,
    /// Which time that it is come by.
    time: usize,
}

impl Case<'_> {
    /// False when it is not come by as often.
    async fn run(&self, node: &mut Node, namespace: &Namespace, table: &mut Table) -> Result<bool> {
        let prefix = node.scratch.subnet_prefix();
        let pod = node.pod("chain").with(|config| {
            config.port_mappings = vec![v1::PortMapping {
                protocol: v1::Protocol::Tcp.into(),
                container_port: 80,
                host_port: 8080,
                ..Default::default()
            }];
        });
        let adds = self.place.starts_with("cni.add.");
        let from = node.daemon.log_text().len();
        node.daemon.kill9()?;
        let spec = format!("{}@{}", self.act.spec(self.place), self.time);
        let variable = failpoint::VARIABLE.to_owned();
        node.daemon.settings().environment.insert(variable.clone(), spec);
        node.launch()?;
        let answer = match node.cri.run_pod(&pod).await {
            Ok(id) if !adds => node.cri.stop_pod(&id).await,
            other => other.map(drop),
        };
        let log = node.daemon.log_text();
        let reached = log.get(from..).is_some_and(|log| log.contains(&self.act.said(self.place)));
        if reached && self.act == Act::Kill {
            ensure!(answer.is_err(), "{answer:?}");
            node.daemon.await_end()?;
        } else {
            ensure!(reached || answer.is_ok(), "{answer:?}");
            node.daemon.kill9()?;
        }
        node.daemon.settings().environment.remove(&variable);
        let begun = Instant::now();
        node.launch().context("come back")?;
        let back = begun.elapsed();
        agrees(node).await.context("after it came back")?;
        if adds {
            // As kubelet: what there is of the pod goes, and the next one comes.
            node.cri.remove_everything().await?;
            namespace.is_empty(&node.scratch)?;
        } else {
            for pod in node.cri.pods(None).await? {
                node.cri.stop_pod(&pod.id).await?;
                node.cri.remove_pod(&pod.id).await?;
            }
        }
        let id = node.cri.run_pod(&pod).await.context("the next one")?;
        ensure!(node.cri.pod_ip(&id).await?.starts_with(&prefix), "no address");
        agrees(node).await?;
        node.cri.remove_everything().await.context("remove everything")?;
        namespace.is_empty(&node.scratch)?;
        Leaks::of(&node.scratch).assert_none()?;
        if reached {
            table.enter(&format!("{} ({})", self.place, self.time), self.act, back);
        }
        Ok(reached)
    }
}
