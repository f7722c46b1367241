//! The systemd cgroup driver, where systemd runs the machine: scopes under kubelet's slices, and that nothing
//! systemd does by itself changes a pod.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::{Node, on_a_node};
use test_support::oci::with_runtime;
use test_support::scratch::systemd_driver;
use tonic::Code;

/// Runs where the daemons of these tests have systemd make control groups.
fn with_systemd(test: impl AsyncFnOnce(&mut Node) -> Result<()>) -> Result<()> {
    if systemd_driver() {
        on_a_node(test)
    } else {
        test_support::skip("systemd does not run this host");
        Ok(())
    }
}

pub(crate) fn systemctl(words: &[&str]) -> Result<String> {
    let output = Command::new("systemctl").args(words).output().context("run systemctl")?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(
        output.status.success(),
        "systemctl {words:?}: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

pub(crate) fn property(unit: &str, name: &str) -> Result<String> {
    systemctl(&["show", "--property", name, "--value", unit])
}

pub(crate) fn scope(pod: &str) -> String {
    format!("knarr-{pod}.scope")
}

pub(crate) fn group(unit: &str) -> Result<PathBuf> {
    let path = property(unit, "ControlGroup")?;
    Ok(PathBuf::from(format!("/sys/fs/cgroup{path}")))
}

/// A limited container that sleeps, in a slice as kubelet names them.
pub(crate) async fn limited(node: &Node, parent: &str) -> Result<(String, String)> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod("limited").with(|config| {
        parent.clone_into(&mut config.linux.get_or_insert_default().cgroup_parent);
    });
    let container = pod.container("main", &image).sleeper().resources(|r| {
        r.memory_limit_in_bytes = 64 << 20;
        r.cpu_quota = 50_000;
        r.cpu_period = 100_000;
    });
    let (pod, id) = node.run(&pod, &container).await?;
    node.wait_log(&id, "asleep").await?;
    Ok((pod, id))
}

/// `kubepods.slice/kubepods-burstable.slice/…`, but of this test's mark.
fn kubelets_slice(node: &Node) -> String {
    let mark = node.scratch.mark();
    let uid = "0f_e1";
    format!("/{mark}.slice/{mark}-burstable.slice/{mark}-burstable-pod{uid}.slice")
}

pub(crate) async fn holds(node: &Node, pod: &str, id: &str, when: &str) -> Result<()> {
    let group = group(&scope(pod))?;
    let read = |file: &str| -> Result<String> {
        let text = fs::read_to_string(group.join(id).join(file));
        Ok(text.with_context(|| format!("{when}: {file}"))?.trim().to_owned())
    };
    ensure!(read("memory.max")? == (64 << 20).to_string(), "{when}: {}", read("memory.max")?);
    ensure!(read("cpu.max")? == "50000 100000", "{when}: {}", read("cpu.max")?);
    ensure!(node.cri.shell(id, "cat /proc/self/cgroup").await?.contains("0::/"), "{when}");
    let kmsg = "rm -f /tmp/k; { mknod /tmp/k c 1 11 && head -c 1 /tmp/k; } 2>&1; true";
    let said = node.cri.shell(id, kmsg).await?;
    ensure!(said.contains("not permitted"), "{when}: the device filter: {said}");
    ensure!(property(&scope(pod), "ActiveState")? == "active", "{when}");
    Ok(())
}

#[test]
fn a_pod_is_a_delegated_scope_in_kubelets_slice() -> Result<()> {
    with_systemd(async |node| {
        let slice = kubelets_slice(node);
        let (pod, id) = limited(node, &slice).await?;
        let unit = scope(&pod);
        ensure!(property(&unit, "Delegate")? == "yes");
        ensure!(property(&unit, "ControlGroup")? == format!("{slice}/{unit}"));
        ensure!(property(&unit, "TasksMax")? == "infinity");
        let group = group(&unit)?;
        let procs = |name: &str| fs::read_to_string(group.join(name).join("cgroup.procs"));
        ensure!(!procs(&id)?.is_empty() && !procs("shim")?.is_empty());
        ensure!(procs("")?.is_empty(), "the scope itself has no process");
        holds(node, &pod, &id, "at first").await?;
        node.cri.stop_pod(&pod).await?;
        ensure!(!group.exists(), "{} is left", group.display());
        Ok(())
    })
}

#[test]
fn reloading_and_executing_systemd_anew_changes_no_pod() -> Result<()> {
    with_systemd(async |node| {
        let parent = node.scratch.cgroup_parent();
        let (pod, id) = limited(node, &parent).await?;
        for verb in ["daemon-reload", "daemon-reexec"] {
            systemctl(&[verb])?;
            holds(node, &pod, &id, verb).await?;
        }
        let unit = scope(&pod);
        systemctl(&["set-property", "--runtime", &unit, "CPUWeight=33", "MemoryMax=500M"])?;
        holds(node, &pod, &id, "set-property").await?;
        let limits =
            v1::LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
        node.cri.update(&id, limits).await?;
        systemctl(&["daemon-reload"])?;
        let limit = fs::read_to_string(group(&unit)?.join(&id).join("memory.max"))?;
        ensure!(limit.trim() == (96 << 20).to_string(), "an update outlives a reload: {limit}");
        node.crash_and_restart()?;
        ensure!(node.cri.shell(&id, "echo alive").await?.contains("alive"));
        Ok(())
    })
}

#[test]
fn pods_start_while_systemd_executes_itself_anew() -> Result<()> {
    with_systemd(async |node| {
        let again = std::thread::Builder::new().spawn(|| -> Result<()> {
            (0..5).try_for_each(|_| systemctl(&["daemon-reexec"]).map(drop))
        })?;
        for round in 0..5 {
            node.sleeper(&format!("round{round}")).await?;
        }
        again.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })
}

#[test]
fn kubelet_is_told_the_driver_and_refused_the_other() -> Result<()> {
    with_systemd(async |node| {
        let request = v1::RuntimeConfigRequest {};
        let config = node.cri.runtime.clone().runtime_config(request).await?.into_inner();
        ensure!(config.linux.unwrap_or_default().cgroup_driver() == v1::CgroupDriver::Systemd);
        for (parent, wanted) in [
            ("/kubepods/burstable/pod1", "cgroup.driver"),
            ("/elsewhere.slice/kubepods.slice", "/kubepods.slice"),
            ("/kube--pods.slice", "kube--pods.slice"),
        ] {
            let pod = node.pod("refused").with(|config| {
                parent.clone_into(&mut config.linux.get_or_insert_default().cgroup_parent);
            });
            refused(node.cri.run_pod(&pod).await, Code::InvalidArgument, &[wanted])?;
        }
        // The last that was of the other driver is what the doctor tells, until one is as it should be.
        let told = || -> Result<bool> { Ok(doctor(node)?.contains("/kubepods/burstable/pod1")) };
        ensure!(told()?, "{}", doctor(node)?);
        let slice = kubelets_slice(node);
        let pod = node.pod("as-it-should-be").with(|config| {
            slice.clone_into(&mut config.linux.get_or_insert_default().cgroup_parent);
        });
        node.cri.run_pod(&pod).await?;
        ensure!(!told()?, "{}", doctor(node)?);
        Ok(())
    })
}

/// A scope as a pod's, whose pod nobody knows, with a process in it. It goes with this.
struct Nobodys(String);

impl Nobodys {
    fn begin(slice: &str) -> Result<Self> {
        let id: String = format!("{:016x}", std::process::id()).repeat(4);
        let unit = scope(&id);
        let begun = Command::new("systemd-run")
            .args(["--scope", "--no-ask-password", "--unit", &unit, "--slice", slice])
            .args(["sh", "-c", "sleep 1000 >/dev/null 2>&1 &"])
            .output()
            .context("run systemd-run")?;
        let made = Self(unit);
        ensure!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
        Ok(made)
    }
}

impl Drop for Nobodys {
    fn drop(&mut self) {
        if let Err(error) = systemctl(&["stop", &self.0]) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn scopes_of_nobody_are_found_with_and_without_a_daemon() -> Result<()> {
    with_systemd(async |node| {
        let parent = kubelets_slice(node);
        let (pod, _) = limited(node, &parent).await?;
        let slice = parent.rsplit('/').next().context("no slice")?;
        let nobodys = Nobodys::begin(slice)?;
        let tells_nobodys = |said: &str| -> Result<()> {
            let told = said.contains(&nobodys.0) && said.contains("processes of a pod");
            ensure!(told && !said.contains(&scope(&pod)), "{said}");
            Ok(())
        };
        tells_nobodys(&doctor(node)?)?;
        node.daemon.kill9()?;
        let mut alone = Command::new(node.daemon.program());
        alone.arg("--address").arg(node.scratch.socket()).arg("doctor");
        alone.arg("--root").arg(node.scratch.root()).arg("--state").arg(node.scratch.state());
        let said = alone.arg("--config").arg(node.daemon.config()).output()?;
        tells_nobodys(&String::from_utf8_lossy(&said.stdout))?;
        let unit = nobodys.0.clone();
        drop(nobodys);
        node.launch()?;
        ensure!(!doctor(node)?.contains(&unit), "{}", doctor(node)?);
        Ok(())
    })
}

/// What `knarr doctor` says.
fn doctor(node: &Node) -> Result<String> {
    let mut doctor = Command::new(node.daemon.program());
    doctor.arg("--address").arg(node.scratch.socket()).arg("doctor");
    let output = doctor.output().context("run the doctor")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_killed_scope_is_a_pod_that_has_ended() -> Result<()> {
    with_systemd(async |node| {
        let (pod, id) = node.sleeper("stopped").await?;
        systemctl(&["kill", "--signal", "KILL", &scope(&pod)])?;
        let status = node.wait_exited(&id).await?;
        ensure!(status.exit_code != 0, "{status:?}");
        node.cri.stop_pod(&pod).await?;
        ensure!(property(&scope(&pod), "LoadState")? == "not-found");
        Ok(())
    })
}

#[test]
fn an_oci_container_is_a_scope_whose_limits_systemd_knows() -> Result<()> {
    if !systemd_driver() {
        test_support::skip("systemd does not run this host");
        return Ok(());
    }
    with_runtime(|runtime| {
        let id = runtime.id("a");
        let bundle = runtime.bundle("b", "sleep 1000", |spec| {
            spec["linux"]["cgroupsPath"] = format!("ktoci-x.slice:test:{id}").into();
            spec["linux"]["resources"]["memory"] = serde_json::json!({"limit": 64 << 20});
            spec["linux"]["resources"]["cpu"] =
                serde_json::json!({"quota": 50_000, "period": 100_000, "cpus": "0"});
        })?;
        runtime.leave(&["--systemd-cgroup", "create", "--bundle", &bundle, &id])?;
        let unit = format!("test-{id}.scope");
        ensure!(property(&unit, "MemoryMax")? == (64 << 20).to_string());
        ensure!(property(&unit, "CPUQuotaPerSecUSec")? == "500ms");
        ensure!(property(&unit, "AllowedCPUs")? == "0");
        let group = group(&unit)?;
        ensure!(group.ends_with(format!("ktoci.slice/ktoci-x.slice/{unit}")), "{group:?}");
        runtime.call(&["start", &id])?.ok()?;
        runtime.call(&["update", "--memory", "100663296", &id])?.ok()?;
        systemctl(&["daemon-reload"])?;
        let limit = || fs::read_to_string(group.join("memory.max"));
        ensure!(limit()?.trim() == "100663296", "after an update: {}", limit()?);
        ensure!(property(&unit, "MemoryMax")? == "100663296");
        ensure!(fs::read_to_string(group.join("cpu.max"))?.trim() == "50000 100000");
        ensure!(runtime.status(&id)? == "running");
        runtime.call(&["delete", "--force", &id])?.ok()?;
        ensure!(!group.exists(), "{} is left", group.display());
        ensure!(property(&unit, "LoadState")? == "not-found");
        systemctl(&["stop", "ktoci.slice"]).map(drop)
    })
}
