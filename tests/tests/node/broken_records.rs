//! Files of the daemon's that are damaged, one kind after the other: it starts, what is whole works, what
//! is not is told, and goes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::node::{Node, PATIENCE, on_a_node};
use test_support::proc;

use crate::doctor::{doctor, of, records};

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Emptied,
    /// As by a write that was cut off.
    Torn,
    /// Bytes of something else.
    Overwritten,
    /// A record, and of something else.
    OtherKind,
    /// A record of a version that is yet to come.
    Later,
    /// Something by that name that cannot be read.
    Directory,
}

impl Damage {
    /// What can become of a record.
    const OF_RECORDS: [Self; 6] = [
        Self::Emptied,
        Self::Torn,
        Self::Overwritten,
        Self::OtherKind,
        Self::Later,
        Self::Directory,
    ];
    /// What can become of any file.
    const OF_FILES: [Self; 3] = [Self::Emptied, Self::Torn, Self::Overwritten];

    fn strikes(self, path: &Path) -> Result<()> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let replaced = |from: &str, to: &str| -> Result<Vec<u8>> {
            let text = String::from_utf8(bytes.clone())?;
            ensure!(text.contains(from), "{text}");
            Ok(text.replacen(from, to, 1).into_bytes())
        };
        let new = match self {
            Self::Emptied => Vec::new(),
            Self::Torn => bytes[..bytes.len() / 2].to_owned(),
            Self::Overwritten => b"\xff\x00{\n".repeat(1000),
            Self::OtherKind => replaced("{\"knarr\":\"", "{\"knarr\":\"other-")?,
            Self::Later => replaced("\"version\":1", "\"version\":9")?,
            Self::Directory => {
                std::fs::remove_file(path)?;
                return Ok(std::fs::create_dir(path)?);
            }
        };
        Ok(std::fs::write(path, new)?)
    }
}

/// The daemon is killed, the file damaged, and the daemon started again.
fn strike(node: &mut Node, damage: Damage, path: &Path) -> Result<()> {
    node.daemon.kill9()?;
    damage.strikes(path)?;
    node.daemon.launch(&node.scratch)
}

/// A pod that has nothing to do with it.
struct Whole {
    pod: String,
    container: String,
}

impl Whole {
    async fn run(node: &Node) -> Result<Self> {
        let (pod, container) = node.sleeper("whole").await?;
        Ok(Self { pod, container })
    }

    async fn works(&self, node: &Node) -> Result<()> {
        let status = node.cri.pod(&self.pod).await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxReady, "{status:?}");
        ensure!(node.cri.shell(&self.container, "echo alive").await? == "alive");
        Ok(())
    }
}

/// Status and `knarr doctor` tell of one record, and of nothing else.
async fn is_told(node: &Node, id: &str, code: i32) -> Result<()> {
    let (sound, message) = records(node).await?;
    ensure!(!sound && message.contains(id), "{message}");
    let (findings, exit) = doctor(node, false)?;
    let told = of(&findings, "record");
    let about = told.iter().all(|it| it.to_string().contains(id));
    ensure!(told.len() == 1 && about && findings.len() == 1, "{findings:#?}");
    ensure!(exit == code, "exit code {exit}");
    Ok(())
}

async fn nothing_is_told(node: &Node) -> Result<()> {
    ensure!(records(node).await? == (true, String::new()));
    let (findings, code) = doctor(node, false)?;
    ensure!(findings.is_empty() && code == 0, "exit code {code}: {findings:#?}");
    Ok(())
}

fn none_lives(container: &str) -> Result<()> {
    let lives = |it: proc::Process| it.cgroups.contains(container) && !it.zombie;
    ensure!(!proc::all().into_iter().any(lives), "its processes are left");
    Ok(())
}

fn pod_dir(node: &Node, pod: &str) -> PathBuf {
    node.scratch.root().join("pods").join(pod)
}

#[test]
fn a_pods_record_costs_its_pod_however_it_is_damaged() -> Result<()> {
    on_a_node(async |node| {
        let whole = Whole::run(node).await?;
        for damage in Damage::OF_RECORDS {
            let (pod, id) = node.sleeper("damaged").await?;
            strike(node, damage, &pod_dir(node, &pod).join("pod.json"))?;
            whole.works(node).await.with_context(|| format!("{damage:?}"))?;
            is_told(node, &pod, 1).await.with_context(|| format!("{damage:?}"))?;
            // It may run: only who insists removes it.
            let rm = |force: &[&str]| -> Result<bool> {
                let mut command = Command::new(node.daemon.program());
                command.arg("--address").arg(node.scratch.socket()).arg("rm").args(force);
                Ok(command.arg(&pod).output()?.status.success())
            };
            ensure!(!rm(&[])?, "{damage:?}: removed without asking");
            ensure!(rm(&["--force"])?, "{damage:?}: not removed");
            none_lives(&id)?;
            nothing_is_told(node).await.with_context(|| format!("{damage:?}"))?;
            let listed: Vec<_> = node.cri.pods(None).await?.into_iter().map(|it| it.id).collect();
            ensure!(listed == [whole.pod.as_str()], "{damage:?}: {listed:?}");
        }
        Ok(())
    })
}

#[test]
fn a_containers_record_costs_its_pod_nothing_however_it_is_damaged() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let whole = Whole::run(node).await?;
        for damage in Damage::OF_RECORDS {
            let pod = node.pod("partly");
            let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
            let torn = pod.container("torn", &image).sleeper();
            let torn = node.cri.create(&pod_id, &pod, &torn).await?;
            node.cri.start(&torn).await?;
            let dir = pod_dir(node, &pod_id).join("containers").join(&torn);
            strike(node, damage, &dir.join("container.json"))?;
            whole.works(node).await.with_context(|| format!("{damage:?}"))?;
            is_told(node, &torn, 1).await.with_context(|| format!("{damage:?}"))?;
            Whole { pod: pod_id.clone(), container: id }.works(node).await?;
            // It goes with its pod.
            node.cri.stop_pod(&pod_id).await?;
            node.cri.remove_pod(&pod_id).await?;
            none_lives(&torn)?;
            nothing_is_told(node).await.with_context(|| format!("{damage:?}"))?;
        }
        Ok(())
    })
}

#[test]
fn an_images_files_cost_that_image_until_it_is_pulled_again() -> Result<()> {
    on_a_node(async |node| {
        let whole = Whole::run(node).await?;
        let reference = node.pulled("volumes").await?;
        let id = node.cri.image(&reference).await?.context("no image")?.id;
        let images = node.scratch.root().join("images");
        let name = id.trim_start_matches("sha256:");
        let record = Damage::OF_RECORDS.map(|damage| ("json", damage));
        let config = Damage::OF_FILES.map(|damage| ("config", damage));
        for (extension, damage) in record.into_iter().chain(config) {
            let which = || format!("{extension} {damage:?}");
            strike(node, damage, &images.join(format!("{name}.{extension}")))
                .with_context(which)?;
            whole.works(node).await.with_context(which)?;
            ensure!(node.cri.image(&reference).await?.is_none(), "{}: it is listed", which());
            is_told(node, &id, 0).await.with_context(which)?;
            node.pulled("volumes").await.with_context(which)?;
            nothing_is_told(node).await.with_context(which)?;
            let pod = node.pod("uses");
            let container = pod.container("main", &reference).script("exit 7");
            let (status, _) = node.run_to_end(&pod, &container).await.with_context(which)?;
            ensure!(status.exit_code == 7, "{status:?}");
            for pod in node.cri.pods(None).await?.iter().filter(|it| it.id != whole.pod) {
                node.cri.stop_pod(&pod.id).await?;
                node.cri.remove_pod(&pod.id).await?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_layers_seal_costs_no_container_that_has_the_layer() -> Result<()> {
    on_a_node(async |node| {
        let reference = node.pulled("busybox").await?;
        let id = node.cri.image(&reference).await?.context("no image")?.id;
        let layers = node.scratch.root().join("layers");
        let layer = std::fs::read_dir(&layers)?.next().context("no layer")??.path();
        for damage in Damage::OF_FILES {
            let running = Whole::run(node).await?;
            strike(node, damage, &layer.join("sealed"))?;
            // Its programs are files of that layer.
            running.works(node).await.with_context(|| format!("{damage:?}"))?;
            let (sound, message) = records(node).await?;
            ensure!(!sound && message.contains(&id), "{message}");
            let (findings, code) = doctor(node, false)?;
            let told = of(&findings, "layer").into_iter();
            let told = told.filter(|it| it.to_string().contains(&running.container)).count();
            ensure!(told == 1 && code == 1, "exit code {code}: {findings:#?}");
            node.pulled("busybox").await?;
            nothing_is_told(node).await.with_context(|| format!("{damage:?}"))?;
            node.crash_and_restart()?;
            running.works(node).await.with_context(|| format!("{damage:?}"))?;
            node.cri.remove_everything().await?;
            node.crash_and_restart()?;
            let retired = node.scratch.root().join("retired");
            let left = test_support::files::wait_until_empty(&retired, PATIENCE)?;
            ensure!(left.is_empty(), "{damage:?}: {left:?}");
        }
        // Of a version that is yet to come: it is there again for who knows it.
        node.daemon.kill9()?;
        let seal = std::fs::read_to_string(layer.join("sealed"))?;
        let later = seal.replacen("knarr-layer 2", "knarr-layer 9", 1);
        std::fs::write(layer.join("sealed"), &later)?;
        node.daemon.launch(&node.scratch)?;
        ensure!(node.cri.image(&reference).await?.is_none());
        ensure!(std::fs::read_to_string(layer.join("sealed"))? == later, "it was changed");
        Ok(())
    })
}

#[test]
fn what_is_kept_of_networks_costs_its_own_pod() -> Result<()> {
    on_a_node(async |node| {
        let whole = Whole::run(node).await?;
        let networks = node.scratch.root().join("networks");
        let cache = node.scratch.root().join("cni/results");
        for damage in Damage::OF_FILES {
            for kind in ["reservation", "attachment", "cursor"] {
                let which = || format!("{kind} {damage:?}");
                let (pod, _) = node.sleeper("damaged").await.with_context(which)?;
                let address = node.cri.pod_ip(&pod).await?;
                let wanted = |path: &PathBuf| match kind {
                    "reservation" => path.ends_with(&address),
                    "attachment" => path.display().to_string().contains(&pod),
                    _ => path.display().to_string().contains("last_reserved_ip"),
                };
                let files =
                    [test_support::leaks::tree(&networks), test_support::leaks::tree(&cache)];
                let path = files.concat().into_iter().find(wanted).with_context(which)?;
                strike(node, damage, &path).with_context(which)?;
                whole.works(node).await.with_context(which)?;
                let (other, _) = node.sleeper("other").await.with_context(which)?;
                for pod in [&pod, &other] {
                    node.cri.stop_pod(pod).await.with_context(which)?;
                    node.cri.remove_pod(pod).await.with_context(which)?;
                }
                let (findings, code) = doctor(node, true)?;
                ensure!(code == 0, "{}: {findings:#?}", which());
                nothing_is_told(node).await.with_context(which)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_containers_specification_costs_that_container() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let whole = Whole::run(node).await?;
        for damage in Damage::OF_FILES {
            let pod = node.pod("damaged");
            let (pod_id, running) =
                node.run(&pod, &pod.container("runs", &image).sleeper()).await?;
            let created =
                node.cri.create(&pod_id, &pod, &pod.container("waits", &image).sleeper()).await?;
            node.daemon.kill9()?;
            for id in [&running, &created] {
                let dir = pod_dir(node, &pod_id).join("containers").join(id);
                damage.strikes(&dir.join("config.json"))?;
            }
            node.daemon.launch(&node.scratch)?;
            whole.works(node).await.with_context(|| format!("{damage:?}"))?;
            let error = node.cri.start(&created).await.expect_err("nobody knows how");
            ensure!(error.message().contains("config.json"), "{error:?}");
            node.cri.stop(&running, 10).await.with_context(|| format!("{damage:?}"))?;
            ensure!(node.cri.container(&running).await?.exit_code == 0);
            node.cri.stop_pod(&pod_id).await?;
            node.cri.remove_pod(&pod_id).await?;
            nothing_is_told(node).await.with_context(|| format!("{damage:?}"))?;
        }
        Ok(())
    })
}

#[test]
fn an_exit_that_cannot_be_read_is_an_exit_that_nobody_saw() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        for damage in [Damage::Emptied, Damage::Torn, Damage::Overwritten, Damage::Directory] {
            let pod = node.pod("damaged");
            let script = "while [ ! -e /end ]; do sleep 0.01; done; exit 7";
            let (pod_id, id) =
                node.run(&pod, &pod.container("main", &image).script(script)).await?;
            let process = |id: &str| {
                let is_it = |it: &proc::Process| it.cgroups.contains(id) && !it.zombie;
                proc::all().into_iter().find(is_it).map(|it| it.pid)
            };
            let first = process(&id).context("no process")?;
            node.cri.shell(&id, "true").await?;
            node.daemon.kill9()?;
            let root = format!("/proc/{first}/root/end");
            std::fs::write(root, "")?;
            let exit = node.scratch.state().join("pods").join(&pod_id).join("exits").join(&id);
            test_support::files::wait_for(&exit, PATIENCE, |it| {
                it.contains("complete").then_some(())
            })?;
            let is_shim = |it: &proc::Process| {
                it.cmdline.starts_with("knarr-shim") && it.cmdline.contains(&pod_id)
            };
            let shim = proc::all().into_iter().find(is_shim).context("no shim")?.pid;
            proc::signal(shim, rustix::process::Signal::KILL)?;
            proc::wait_gone(shim, PATIENCE)?;
            damage.strikes(&exit)?;
            node.daemon.launch(&node.scratch)?;
            let status = node.cri.container(&id).await?;
            ensure!(status.state() == v1::ContainerState::ContainerExited, "{status:?}");
            ensure!((status.exit_code, status.reason.as_str()) == (255, "Unknown"), "{status:?}");
            node.cri.stop_pod(&pod_id).await?;
            node.cri.remove_pod(&pod_id).await?;
        }
        Ok(())
    })
}

#[test]
fn a_configuration_that_cannot_be_read_stops_the_start_and_no_pod() -> Result<()> {
    on_a_node(async |node| {
        let whole = Whole::run(node).await?;
        let config = node.daemon.config().to_owned();
        let text = std::fs::read(&config)?;
        for damage in [Damage::Torn, Damage::Overwritten, Damage::Directory] {
            node.daemon.kill9()?;
            damage.strikes(&config)?;
            let from = node.daemon.log_text().len();
            let status = node.daemon.launch_to_its_end(&node.scratch)?;
            let log = node.daemon.log_text();
            let said = log.get(from..).unwrap_or_default();
            ensure!(status.code() == Some(1), "{damage:?}: {status}: {said}");
            ensure!(said.contains(&config.display().to_string()), "{damage:?}: {said}");
            if damage == Damage::Directory {
                std::fs::remove_dir(&config)?;
            }
            std::fs::write(&config, &text)?;
            std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600))?;
            node.daemon.launch(&node.scratch)?;
            whole.works(node).await?;
        }
        Ok(())
    })
}
