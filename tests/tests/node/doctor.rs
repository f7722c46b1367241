//! Records that cannot be used cost their own object, and `knarr doctor` finds what does not match.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use serde_json::Value;
use test_support::node::{Node, on_a_node};

/// What `knarr doctor` finds besides the host's own troubles, and its exit code.
fn doctor(node: &Node, fix: bool) -> Result<(Vec<Value>, i32)> {
    let mut command = Command::new(node.daemon.program());
    command.arg("--address").arg(node.scratch.socket()).args(["doctor", "-o", "json"]);
    if fix {
        command.arg("--fix");
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(&text)
        .with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
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
    let ours = ours.filter(concerns).collect();
    Ok((ours, output.status.code().unwrap_or(-1)))
}

/// The findings of one kind.
fn of<'a>(findings: &'a [Value], area: &str) -> Vec<&'a Value> {
    findings.iter().filter(|finding| finding["area"] == area).collect()
}

/// The state of the condition about records, and its message.
async fn records(node: &Node) -> Result<(bool, String)> {
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
fn a_broken_record_is_told_and_its_pod_can_be_removed() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let (whole, _) = node.sleeper("whole").await?;
        let pod = node.pod("torn");
        let (torn, _) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        node.daemon.kill9()?;
        let record = node.scratch.root().join("pods").join(&torn).join("pod.json");
        let bytes = std::fs::read(&record)?;
        std::fs::write(&record, &bytes[..bytes.len() / 2])?;
        node.daemon.launch(&node.scratch)?;

        let (sound, message) = records(node).await?;
        ensure!(!sound && message.contains(&torn), "{message}");
        let (findings, code) = doctor(node, false)?;
        let told = of(&findings, "record");
        ensure!(told.len() == 1 && findings.len() == 1, "{findings:#?}");
        ensure!(told[0]["problem"].as_str().is_some_and(|it| it.contains(&torn)), "{told:?}");
        ensure!(code == 1, "exit code {code}");

        // It may run: only who insists removes it.
        let rm = |force: &[&str]| -> Result<bool> {
            let mut command = Command::new(node.daemon.program());
            command.arg("--address").arg(node.scratch.socket()).arg("rm").args(force).arg(&torn);
            Ok(command.output()?.status.success())
        };
        ensure!(!rm(&[])?, "removed without asking");
        ensure!(rm(&["--force"])?, "not removed");
        let (findings, _) = doctor(node, false)?;
        ensure!(findings.is_empty(), "{findings:#?}");
        ensure!(records(node).await? == (true, String::new()));
        let listed: Vec<_> = node.cri.pods(None).await?.into_iter().map(|pod| pod.id).collect();
        ensure!(listed == [whole], "{listed:?}");
        // Its name and its address are free again.
        node.cri.run_pod(&pod).await?;
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
        for area in ["process", "cgroup"] {
            let found = of(&findings, area);
            ensure!(!found.is_empty(), "no {area} among {findings:#?}");
        }
        let (findings, code) = doctor(node, true)?;
        for area in ["process", "cgroup", "network namespace"] {
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

/// What nobody is known by.
const NOBODY: &str = "00000000000000000000000000000000000000000000000000000000deadbeef";

/// Runs a program that has to succeed.
fn tool(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().context(program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(())
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
        node.cri.run_pod(&pod).await?;
        // An address, in the network that the pod is on.
        let networks = node.scratch.root().join("networks");
        let network = std::fs::read_dir(&networks)?
            .filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_dir()))
            .next()
            .context("no network")?;
        std::fs::write(network.join(format!("{prefix}200")), format!("{NOBODY}\r\neth0"))?;
        // A link, a host port, volatile state with a mount in it.
        let bridge = node.scratch.mark();
        let link = format!("veth{}", &NOBODY[56..]);
        let peer = format!("p{bridge}");
        tool("ip", &["link", "add", &link, "master", &bridge, "type", "veth", "peer", &peer])?;
        let element = format!("{{ {prefix}1 . tcp . 9 comment \"{NOBODY}\" : {prefix}200 . 80 }}");
        tool("nft", &["add", "element", "ip", "knarr", "ports_on", &element])?;
        let state = node.scratch.state().join("pods").join(NOBODY);
        let inner = state.join("mounted");
        std::fs::create_dir_all(&inner)?;
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("planted", &inner, "tmpfs", flags, None::<&std::ffi::CStr>)?;

        let planted = ["address", "link", "packet filter", "state", "mount"];
        let concerns = |it: &Value| {
            let text = it.to_string();
            text.contains(NOBODY) || text.contains(&link) || text.contains(&prefix)
        };
        let (findings, code) = doctor(node, false)?;
        for area in planted {
            let found = of(&findings, area).into_iter().any(concerns);
            ensure!(found, "no {area} among {findings:#?}");
        }
        ensure!(code == 1, "exit code {code}");
        let (findings, code) = doctor(node, true)?;
        for area in planted {
            let mended = of(&findings, area).into_iter().filter(|it| concerns(it));
            let mended = mended.into_iter().any(|it| it["mended"] == true);
            ensure!(mended, "no {area} mended of {findings:#?}, exit code {code}");
        }
        let (findings, _) = doctor(node, false)?;
        ensure!(findings.is_empty(), "{findings:#?}");
        ensure!(!Path::new("/sys/class/net").join(&link).exists() && !state.exists());
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

        let doctor = |fix: &[&str]| {
            let mut command = Command::new(node.daemon.program());
            command.arg("--address").arg(node.scratch.socket()).args(["doctor", "-o", "json"]);
            command.arg("--root").arg(node.scratch.root());
            command.arg("--state").arg(node.scratch.state()).args(fix).output()
        };
        let output = doctor(&[])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let answer: Value = serde_json::from_str(&text)
            .with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
        ensure!(output.status.code() == Some(1), "{}", output.status);
        let findings = answer["findings"].as_array().cloned().unwrap_or_default();
        let about = |area: &str, what: &str| {
            of(&findings, area).into_iter().any(|it| it.to_string().contains(what))
        };
        ensure!(about("host", "knarr does not run"), "{findings:#?}");
        ensure!(about("process", &lost) && about("record", &torn), "{findings:#?}");
        ensure!(!findings.iter().any(|it| it.to_string().contains(&whole)), "{findings:#?}");
        ensure!(!doctor(&["--fix"])?.status.success(), "it mends without knowing");
        ensure!(record.exists(), "it was set aside");

        std::fs::write(&record, bytes)?;
        node.daemon.launch(&node.scratch)?;
        let (findings, _) = self::doctor(node, false)?;
        ensure!(findings.is_empty(), "{findings:#?}");
        Ok(())
    })
}

#[test]
fn a_container_whose_record_is_torn_costs_its_pod_nothing() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("partly");
        let (pod_id, whole) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let torn = node.cri.create(&pod_id, &pod, &pod.container("torn", &image).sleeper()).await?;
        node.cri.start(&torn).await?;
        node.daemon.kill9()?;
        let containers = node.scratch.root().join("pods").join(&pod_id).join("containers");
        let record = containers.join(&torn).join("container.json");
        let bytes = std::fs::read(&record)?;
        std::fs::write(&record, &bytes[..bytes.len() / 2])?;
        node.daemon.launch(&node.scratch)?;

        let (sound, message) = records(node).await?;
        ensure!(!sound && message.contains(&torn), "{message}");
        let (findings, code) = doctor(node, false)?;
        let told = of(&findings, "record");
        ensure!(told.len() == 1 && code == 1, "exit code {code}: {findings:#?}");
        ensure!(node.cri.pod(&pod_id).await?.state() == v1::PodSandboxState::SandboxReady);
        ensure!(node.cri.shell(&whole, "echo alive").await? == "alive");
        // It goes with its pod.
        node.cri.stop_pod(&pod_id).await?;
        node.cri.remove_pod(&pod_id).await?;
        let lives = |it: test_support::proc::Process| it.cgroups.contains(&torn) && !it.zombie;
        ensure!(!test_support::proc::all().into_iter().any(lives), "its processes are left");
        ensure!(records(node).await? == (true, String::new()));
        Ok(())
    })
}

#[test]
fn an_image_whose_record_is_torn_is_told_until_it_is_pulled_again() -> Result<()> {
    on_a_node(async |node| {
        let reference = node.pulled("busybox").await?;
        let image = node.cri.image(&reference).await?.context("no image")?;
        node.daemon.kill9()?;
        let name = image.id.trim_start_matches("sha256:");
        let record = node.scratch.root().join("images").join(format!("{name}.json"));
        let bytes = std::fs::read(&record)?;
        std::fs::write(&record, &bytes[..bytes.len() / 2])?;
        node.daemon.launch(&node.scratch)?;

        let (sound, message) = records(node).await?;
        ensure!(!sound && message.contains(&image.id), "{message}");
        let (findings, code) = doctor(node, false)?;
        ensure!(of(&findings, "record").len() == 1 && code == 0, "exit code {code}: {findings:#?}");
        node.pulled("busybox").await?;
        ensure!(records(node).await? == (true, String::new()));
        let (findings, _) = doctor(node, false)?;
        ensure!(findings.is_empty(), "{findings:#?}");
        Ok(())
    })
}
