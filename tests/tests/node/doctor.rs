//! `knarr doctor` finds what does not match, says so, and removes what belongs to nobody.

mod starting;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use serde_json::Value;
use test_support::node::{Node, on_a_node};
use test_support::scratch::systemd_driver;

/// What `knarr doctor` finds besides the host's own troubles and those of other daemons, and its exit
/// code if that is all.
pub(crate) fn doctor(node: &Node, fix: bool) -> Result<(Vec<Value>, i32)> {
    let mut command = Command::new(node.daemon.program());
    command.arg("--address").arg(node.scratch.socket()).args(["doctor", "-o", "json"]);
    if fix {
        command.arg("--fix");
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(&text)
        .with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
    let all = answer["findings"].as_array().cloned().unwrap_or_default();
    ensure!(output.status.code() == Some(code_for(&all)), "{}: {all:#?}", output.status);
    let ours = ours(node, &answer);
    let code = code_for(&ours);
    Ok((ours, code))
}

/// With what `knarr doctor` ends that finds these.
fn code_for(findings: &[Value]) -> i32 {
    let is_left = |it: &Value| it["severity"] == "PROBLEM" && it["mended"] != true;
    i32::from(findings.iter().any(is_left))
}

/// The findings that are not the host's own troubles or another daemon's.
fn ours(node: &Node, answer: &Value) -> Vec<Value> {
    let findings = answer["findings"].as_array().cloned().unwrap_or_default();
    let ours = findings.into_iter().filter(|finding| finding["area"] != "host");
    // Other daemons of this host run their tests: what is theirs is not ours to find.
    let mark = node.scratch.mark();
    let concerns = |finding: &Value| {
        let text = finding.to_string();
        finding["area"] != "network namespace" && finding["area"] != "cgroup"
            || text.contains(&mark)
            || test_support::leaks::Leaks::of(&node.scratch).knows(&text)
    };
    ours.filter(concerns).collect()
}

/// `knarr doctor` while no daemon runs.
fn doctor_alone(node: &Node, more: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new(node.daemon.program());
    command.arg("--address").arg(node.scratch.socket()).args(["doctor", "-o", "json"]);
    command.arg("--config").arg(node.daemon.config()).arg("--root").arg(node.scratch.root());
    Ok(command.arg("--state").arg(node.scratch.state()).args(more).output()?)
}

/// All that it finds then; there is always that nobody serves.
fn found_alone(node: &Node) -> Result<Vec<Value>> {
    let output = doctor_alone(node, &[])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(&text)
        .with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(text.contains("knarr does not run"), "{text}");
    Ok(ours(node, &answer))
}

/// The findings of one kind.
pub(crate) fn of<'a>(findings: &'a [Value], area: &str) -> Vec<&'a Value> {
    findings.iter().filter(|finding| finding["area"] == area).collect()
}

/// The state of the condition about records, and its message.
pub(crate) async fn records(node: &Node) -> Result<(bool, String)> {
    let request = v1::StatusRequest { verbose: false };
    let status = node.cri.runtime.clone().status(request).await?.into_inner();
    let conditions = status.status.unwrap_or_default().conditions;
    let condition = conditions.into_iter().find(|it| it.r#type == "KnarrHasUsableRecords");
    let condition = condition.context("no condition")?;
    Ok((condition.status, condition.message))
}

/// Makes a record one of a later version, whose checksum is right.
fn of_a_later_version(record: &Path) -> Result<()> {
    let text = std::fs::read_to_string(record)?.replacen("\"version\":1", "\"version\":9", 1);
    ensure!(text.contains("\"version\":9"), "{text}");
    Ok(std::fs::write(record, text)?)
}

#[test]
fn a_node_where_nothing_is_wrong_has_no_findings() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("sound");
        node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let (ended, container) =
            (node.pod("ended"), pod.container("main", &image).script("exit 3"));
        node.wait_exited(&node.run(&ended, &container).await?.1).await?;
        let stopped = node.cri.run_pod(&node.pod("stopped")).await?;
        node.cri.stop_pod(&stopped).await?;
        let (findings, _) = doctor(node, false)?;
        ensure!(findings.is_empty(), "{findings:#?}");
        ensure!(records(node).await? == (true, String::new()));
        Ok(())
    })
}

#[test]
fn records_of_a_later_version_are_refused_without_damage() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("later");
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let partly = node.pod("partly");
        let (partly_id, part) =
            node.run(&partly, &partly.container("main", &image).sleeper()).await?;
        node.daemon.kill9()?;
        let pods = node.scratch.root().join("pods");
        let of_pod = pods.join(&pod_id).join("pod.json");
        let of_container =
            pods.join(&partly_id).join("containers").join(&part).join("container.json");
        let before = [std::fs::read(&of_pod)?, std::fs::read(&of_container)?];
        of_a_later_version(&of_pod)?;
        of_a_later_version(&of_container)?;
        let later = [std::fs::read(&of_pod)?, std::fs::read(&of_container)?];
        node.daemon.launch(&node.scratch)?;

        let (sound, message) = records(node).await?;
        ensure!(!sound && message.contains(&pod_id) && message.contains(&part), "{message}");
        ensure!(message.contains("version 9"), "{message}");
        ensure!(node.cri.pod(&partly_id).await?.state() == v1::PodSandboxState::SandboxReady);
        ensure!([std::fs::read(&of_pod)?, std::fs::read(&of_container)?] == later);
        // Back to the version that wrote them: all is as it was.
        node.daemon.kill9()?;
        std::fs::write(&of_pod, &before[0])?;
        std::fs::write(&of_container, &before[1])?;
        node.daemon.launch(&node.scratch)?;
        for id in [&id, &part] {
            ensure!(node.cri.shell(id, "echo alive").await? == "alive");
        }
        ensure!(records(node).await? == (true, String::new()));
        Ok(())
    })
}

#[test]
fn what_belongs_to_nobody_is_found_and_removed() -> Result<()> {
    on_a_node(async |node| {
        let (kept, _) = node.sleeper("kept").await?;
        let (pod_id, id) = node.sleeper("forgotten").await?;
        node.daemon.kill9()?;
        let record = node.scratch.root().join("pods").join(&pod_id);
        std::fs::remove_dir_all(&record)?;
        node.daemon.launch(&node.scratch)?;

        let (findings, code) = doctor(node, false)?;
        ensure!(code == 1, "exit code {code}: {findings:#?}");
        // With systemd they are in the scope of that process, and it removes the scope after them.
        let groups: &[&str] = if systemd_driver() { &[] } else { &["cgroup"] };
        for area in ["process"].iter().chain(groups) {
            let found = of(&findings, area);
            ensure!(!found.is_empty(), "no {area} among {findings:#?}");
        }
        let (findings, code) = doctor(node, true)?;
        for area in ["process", "network namespace"].iter().chain(groups) {
            let mended = of(&findings, area).iter().any(|it| it["mended"] == true);
            ensure!(mended, "no {area} mended of {findings:#?}, exit code {code}");
        }
        let lives = |it: test_support::proc::Process| it.cgroups.contains(&id) && !it.zombie;
        ensure!(!test_support::proc::all().into_iter().any(lives), "its processes are left");
        let (findings, _) = doctor(node, false)?;
        ensure!(findings.iter().all(|it| it["severity"] == "ADVICE"), "{findings:#?}");
        ensure!(node.cri.pod(&kept).await?.state() == v1::PodSandboxState::SandboxReady);
        Ok(())
    })
}

/// Runs a program that has to succeed.
fn tool(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().context(program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(())
}

/// Things of a pod that nobody knows, on a node that has another.
struct Planted {
    /// The pod.
    id: String,
    link: String,
    prefix: String,
}

impl Planted {
    /// An address, a link, a host port, and volatile state with a socket and a mount in it.
    fn on_the_network_and_in_state(node: &Node) -> Result<Self> {
        let (bridge, prefix) = (node.scratch.mark(), node.scratch.subnet_prefix());
        // Of this node alone: others' doctors mend at the same time.
        let id = format!("{:0>56}beef0{}", "", &bridge[2..]);
        let link = format!("veth{}", &id[56..]);
        let networks = node.scratch.root().join("networks");
        let network = std::fs::read_dir(&networks)?
            .filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_dir()))
            .next()
            .context("no network")?;
        std::fs::write(network.join(format!("{prefix}200")), format!("{id}\r\neth0"))?;
        let peer = format!("p{bridge}");
        tool("ip", &["link", "add", &link, "master", &bridge, "type", "veth", "peer", &peer])?;
        let element = format!("{{ {prefix}1 . tcp . 9 comment \"{id}\" : {prefix}200 . 80 }}");
        tool("nft", &["add", "element", "ip", "knarr", "ports_on", &element])?;
        let planted = Self { id, link, prefix };
        let inner = planted.state(node).join("mounted");
        std::fs::create_dir_all(&inner)?;
        drop(UnixListener::bind(planted.state(node).join("shim.sock"))?);
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("planted", &inner, "tmpfs", flags, None::<&std::ffi::CStr>)?;
        Ok(planted)
    }

    fn state(&self, node: &Node) -> PathBuf {
        node.scratch.state().join("pods").join(&self.id)
    }

    /// Where the network namespace of such a pod is pinned.
    fn pin(&self) -> PathBuf {
        Path::new("/run/netns").join(format!("knarr-{}", self.id))
    }

    /// A network namespace under that name.
    fn pin_a_namespace(&self) -> Result<()> {
        tool("ip", &["netns", "add", &format!("knarr-{}", self.id)])
    }

    /// A control group among those of the node's pods.
    fn make_a_group(&self, node: &Node) -> Result<()> {
        let parent = node.scratch.cgroup_parent();
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"];
        let parents = roots.map(|root| Path::new(root).join(parent.trim_start_matches('/')));
        let parent = parents.iter().find(|path| path.is_dir()).context("no parent group")?;
        let name =
            if systemd_driver() { format!("knarr-{}.scope", self.id) } else { self.id.clone() };
        Ok(std::fs::create_dir(parent.join(name))?)
    }

    fn concerns(&self, finding: &Value) -> bool {
        let text = finding.to_string();
        [&self.id, &self.link, &self.prefix].iter().any(|part| text.contains(part.as_str()))
    }
}

#[test]
fn each_kind_of_thing_that_is_planted_is_found_and_removed() -> Result<()> {
    on_a_node(async |node| {
        let prefix = node.scratch.subnet_prefix();
        let pod = node.pod("publishes").with(|config| {
            config.port_mappings = vec![v1::PortMapping {
                protocol: v1::Protocol::Tcp.into(),
                container_port: 80,
                host_port: 8080,
                host_ip: format!("{prefix}1"),
            }];
        });
        let image = node.pulled("busybox").await?;
        node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let planted = Planted::on_the_network_and_in_state(node)?;
        planted.pin_a_namespace()?;
        planted.make_a_group(node)?;
        let areas = ["address", "link", "packet filter", "state", "mount", "cgroup"];
        let (findings, code) = doctor(node, false)?;
        for area in &areas {
            let found = of(&findings, area).into_iter().find(|it| planted.concerns(it));
            let found = found.with_context(|| format!("no {area} among {findings:#?}"))?;
            let told = |key: &str| found[key].as_str().is_some_and(|text| !text.is_empty());
            ensure!(told("object") && told("problem") && told("remedy"), "{found:#?}");
            ensure!(found["mendable"] == true && found["mended"] != true, "{found:#?}");
        }
        ensure!(code == 1, "exit code {code}");
        // Another node's doctor may have been faster: that of pins is a directory of the host.
        let pin = planted.pin();
        let pinned = of(&findings, "network namespace").into_iter().any(|it| planted.concerns(it));
        ensure!(pinned || !pin.exists(), "{findings:#?}");
        let (findings, code) = doctor(node, true)?;
        for area in &areas {
            let mended = of(&findings, area).into_iter().filter(|it| planted.concerns(it));
            let mended = mended.into_iter().any(|it| it["mended"] == true);
            ensure!(mended, "no {area} mended of {findings:#?}, exit code {code}");
        }
        let (findings, code) = doctor(node, false)?;
        ensure!(findings.is_empty() && code == 0, "exit code {code}: {findings:#?}");
        ensure!(!Path::new("/sys/class/net").join(&planted.link).exists());
        ensure!(!planted.state(node).exists() && !pin.exists());
        Ok(())
    })
}

/// What `knarr doctor` says to a person.
fn said_by_doctor(node: &Node, more: &[&str]) -> Result<(String, Option<i32>)> {
    let mut command = Command::new(node.daemon.program());
    command.arg("--address").arg(node.scratch.socket()).arg("doctor").args(more);
    let output = command.output()?;
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok((text.concat(), output.status.code()))
}

#[test]
fn layers_and_ingests_of_nobody_are_found_and_removed() -> Result<()> {
    on_a_node(async |node| {
        let reference = node.pulled("volumes").await?;
        let root = node.scratch.root();
        let layers = || -> Result<usize> { Ok(std::fs::read_dir(root.join("layers"))?.count()) };
        let all = layers()?;
        node.daemon.kill9()?;
        // A pull that was cut off, in a place that resists.
        let ingest = root.join("ingest/77");
        let inner = ingest.join("fs");
        std::fs::create_dir_all(&inner)?;
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("planted", &inner, "tmpfs", flags, None::<&std::ffi::CStr>)?;
        node.daemon.launch(&node.scratch)?;
        let (findings, code) = doctor(node, false)?;
        let path = ingest.display().to_string();
        let about = |area: &str, findings: &[Value]| {
            of(findings, area).into_iter().any(|it| it.to_string().contains(&path))
        };
        ensure!(about("ingest", &findings) && about("mount", &findings), "{findings:#?}");
        ensure!(code == 1, "exit code {code}");
        let (said, code) = said_by_doctor(node, &[])?;
        ensure!(said.contains(&path) && said.contains("--fix: remove it"), "{said}");
        ensure!(said.contains("unmount it, unless you know better"), "{said}");
        ensure!(code == Some(1), "{code:?}");
        // Somebody else's mount is not taken away, and so what it is in stays.
        let (findings, code) = doctor(node, true)?;
        let left = of(&findings, "ingest").into_iter().find(|it| it.to_string().contains(&path));
        let failure = left.and_then(|it| it["failure"].as_str()).unwrap_or_default();
        ensure!(!failure.is_empty() && code == 1, "exit code {code}: {findings:#?}");
        rustix::mount::unmount(&inner, rustix::mount::UnmountFlags::empty())?;
        let (findings, code) = doctor(node, true)?;
        let mended = of(&findings, "ingest").into_iter().any(|it| it["mended"] == true);
        ensure!(mended && code == 0, "exit code {code}: {findings:#?}");
        ensure!(!ingest.exists());

        // Layers that could not go when their image did.
        let mut held = Vec::new();
        for entry in std::fs::read_dir(root.join("layers"))? {
            let layer = entry?.path();
            rustix::mount::mount_bind(&layer, &layer)?;
            held.push(layer);
        }
        node.cri.remove_image(&reference).await?;
        ensure!(layers()? == all, "they are gone already");
        for layer in held {
            rustix::mount::unmount(&layer, rustix::mount::UnmountFlags::empty())?;
        }
        let (findings, code) = doctor(node, false)?;
        ensure!(of(&findings, "layer").len() == all, "{findings:#?}");
        // It works like this: advice.
        ensure!(code == 0, "exit code {code}: {findings:#?}");
        let (findings, _) = doctor(node, true)?;
        ensure!(of(&findings, "layer").iter().any(|it| it["mended"] == true), "{findings:#?}");
        ensure!(layers()? == 0);
        let (findings, code) = doctor(node, false)?;
        ensure!(findings.is_empty() && code == 0, "exit code {code}: {findings:#?}");
        let (said, code) = said_by_doctor(node, &["-o", "json"])?;
        let answer: Value = serde_json::from_str(&said).context(said)?;
        let all = answer["findings"].as_array().cloned().unwrap_or_default();
        ensure!(code == Some(code_for(&all)), "{code:?}: {answer:#?}");
        Ok(())
    })
}

#[test]
fn without_a_daemon_records_and_kernel_are_looked_at_as_they_are() -> Result<()> {
    on_a_node(async |node| {
        let (whole, _) = node.sleeper("whole").await?;
        let (lost, _) = node.sleeper("lost").await?;
        let torn = node.cri.run_pod(&node.pod("torn")).await?;
        node.daemon.kill9()?;
        let is_lost = |it: &test_support::proc::Process| {
            it.cmdline.starts_with("knarr-shim") && it.cmdline.contains(&lost)
        };
        let shim = test_support::proc::all().into_iter().find(is_lost).context("no shim")?;
        test_support::proc::signal(shim.pid, rustix::process::Signal::KILL)?;
        test_support::proc::wait_gone(shim.pid, test_support::node::PATIENCE)?;
        let record = node.scratch.root().join("pods").join(&torn).join("pod.json");
        let bytes = std::fs::read(&record)?;
        std::fs::write(&record, &bytes[..bytes.len() / 2])?;

        let findings = found_alone(node)?;
        let about = |area: &str, what: &str| {
            of(&findings, area).into_iter().any(|it| it.to_string().contains(what))
        };
        ensure!(about("process", &lost) && about("record", &torn), "{findings:#?}");
        ensure!(!findings.iter().any(|it| it.to_string().contains(&whole)), "{findings:#?}");
        ensure!(!doctor_alone(node, &["--fix"])?.status.success(), "it mends without knowing");
        ensure!(record.exists(), "it was set aside");

        std::fs::write(&record, bytes)?;
        node.daemon.launch(&node.scratch)?;
        let (findings, _) = doctor(node, false)?;
        ensure!(findings.is_empty(), "{findings:#?}");
        Ok(())
    })
}

#[test]
fn without_a_daemon_what_belongs_to_nobody_is_found_and_left_alone() -> Result<()> {
    on_a_node(async |node| {
        node.sleeper("known").await?;
        let other = node.pulled("volumes").await?;
        let other = node.cri.image(&other).await?.context("no image")?.id;
        let planted = Planted::on_the_network_and_in_state(node)?;
        node.daemon.kill9()?;
        ensure!(found_alone(node)?.iter().all(|it| planted.concerns(it)));

        planted.make_a_group(node)?;
        let root = node.scratch.root();
        std::fs::create_dir_all(root.join("ingest/77/fs"))?;
        let image = other.trim_start_matches("sha256:");
        let record = root.join("images").join(format!("{image}.json"));
        let bytes = std::fs::read(&record)?;
        std::fs::remove_file(&record)?;
        let before = test_support::leaks::tree(&root);
        let findings = found_alone(node)?;
        for area in ["address", "link", "packet filter", "state", "mount", "cgroup"] {
            let told = of(&findings, area).into_iter().any(|it| planted.concerns(it));
            ensure!(told, "no {area} among {findings:#?}");
        }
        for area in ["ingest", "layer"] {
            ensure!(!of(&findings, area).is_empty(), "no {area} among {findings:#?}");
        }
        ensure!(findings.iter().all(|it| it["mendable"] != true), "{findings:#?}");
        // An image that is torn: what it stands on is not known to be nobody's.
        std::fs::write(&record, &bytes[..bytes.len() / 2])?;
        let findings = found_alone(node)?;
        let told = of(&findings, "record").into_iter().any(|it| it.to_string().contains(&other));
        ensure!(told && of(&findings, "layer").is_empty(), "{findings:#?}");
        std::fs::write(&record, bytes)?;
        ensure!(test_support::leaks::tree(&root).len() == before.len() + 1, "it changes things");

        node.daemon.launch(&node.scratch)?;
        doctor(node, true)?;
        let (findings, code) = doctor(node, false)?;
        ensure!(findings.is_empty() && code == 0, "exit code {code}: {findings:#?}");
        Ok(())
    })
}
