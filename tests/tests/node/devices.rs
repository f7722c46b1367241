//! Devices: nodes of the host, who may open them how, CDI, classes that annotations name.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use serde_json::{Value, json};
use test_support::cri::refused;
use test_support::node::{Node, on_a_node, on_a_node_with};
use test_support::pods::ContainerBuilder;
use tonic::Code;

/// A device that every kernel has, that is not given to every container, and that root may open.
const HOST_DEVICE: &str = "/dev/cpu_dma_latency";

fn device(host: &Path, container: &str, permissions: &str) -> v1::Device {
    v1::Device {
        container_path: container.to_owned(),
        host_path: host.display().to_string(),
        permissions: permissions.to_owned(),
    }
}

fn with(container: ContainerBuilder, device: v1::Device) -> ContainerBuilder {
    container.with(|config| config.devices.push(device))
}

fn host_has_it() -> bool {
    let there = Path::new(HOST_DEVICE).exists();
    if !there {
        test_support::skip(&format!("the host has no {HOST_DEVICE}"));
    }
    there
}

/// Its numbers.
fn numbers() -> Result<(u32, u32)> {
    let device = fs::metadata(HOST_DEVICE)?.rdev();
    Ok((rustix::fs::major(device), rustix::fs::minor(device)))
}

/// Whether a container may open a path in this way (`<` or `>>`).
async fn opens(node: &Node, id: &str, path: &str, how: &str) -> Result<bool> {
    let output = node.cri.exec(id, &["sh", "-c", &format!(": {how} {path}")], 10).await?;
    let denied = output.stderr.contains("not permitted");
    ensure!(denied != (output.code == 0), "{path}: {output:?}");
    Ok(!denied)
}

#[test]
fn a_device_is_opened_as_its_permissions_say() -> Result<()> {
    if !host_has_it() {
        return Ok(());
    }
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let dir = node.scratch.dir().join("links");
        fs::create_dir(&dir)?;
        symlink(HOST_DEVICE, dir.join("link"))?;
        let pod = node.pod("devices");
        let pod_id = node.cri.run_pod(&pod).await?;
        for (permissions, read, write) in
            [("rwm", true, true), ("r", true, false), ("w", false, true), ("", true, true)]
        {
            let name = format!("c{permissions}");
            let container = with(
                pod.container(&name, &image).sleeper(),
                device(&dir.join("link"), "/dev/mine", permissions),
            );
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            node.cri.start(&id).await?;
            let kind = node.cri.shell(&id, "stat -c '%F %t:%T' /dev/mine").await?;
            let (major, minor) = numbers()?;
            ensure!(kind == format!("character special file {major:x}:{minor:x}"), "{kind}");
            ensure!(
                opens(node, &id, "/dev/mine", "<").await? == read,
                "reading with {permissions}"
            );
            ensure!(
                opens(node, &id, "/dev/mine", ">>").await? == write,
                "writing with {permissions}"
            );
        }
        // Without a place of its own it is where the host has it.
        let same =
            with(pod.container("same", &image).sleeper(), device(Path::new(HOST_DEVICE), "", "r"));
        let id = node.cri.create(&pod_id, &pod, &same).await?;
        node.cri.start(&id).await?;
        ensure!(opens(node, &id, HOST_DEVICE, "<").await?);
        // Nobody gets it by making a node of its own.
        let container = pod.container("none", &image).sleeper();
        let id = node.cri.create(&pod_id, &pod, &container).await?;
        node.cri.start(&id).await?;
        let (major, minor) = numbers()?;
        node.cri.shell(&id, &format!("mknod /tmp/own c {major} {minor}")).await?;
        ensure!(!opens(node, &id, "/tmp/own", "<").await?);
        ensure!(opens(node, &id, "/dev/null", ">>").await?);
        Ok(())
    })
}

#[test]
fn a_directory_gives_every_node_below_it_and_what_is_no_device_is_refused() -> Result<()> {
    if !host_has_it() {
        return Ok(());
    }
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let dir = node.scratch.dir().join("nodes");
        fs::create_dir_all(dir.join("below"))?;
        let make = |name: &str, major, minor| {
            let device = rustix::fs::makedev(major, minor);
            let mode = rustix::fs::Mode::from_raw_mode(0o640);
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(rustix::fs::CWD, dir.join(name), kind, mode, device)
        };
        let (major, minor) = numbers()?;
        make("control", major, minor)?;
        make("below/zero", 1, 5)?;
        fs::write(dir.join("file"), "no device")?;
        let pod = node.pod("tree");
        let container =
            with(pod.container("main", &image).sleeper(), device(&dir, "/dev/tree", "rw"));
        let (pod_id, id) = node.run(&pod, &container).await?;
        let found = node.cri.shell(&id, "cd /dev/tree; find . -type c | sort").await?;
        ensure!(found == "./below/zero\n./control", "{found}");
        ensure!(node.cri.shell(&id, "stat -c %a /dev/tree/control").await? == "640");
        ensure!(opens(node, &id, "/dev/tree/control", "<").await?);
        for (path, word) in [("none", "No such file"), ("file", "not a device node")] {
            let container =
                with(pod.container("c", &image), device(&dir.join(path), "/dev/x", "r"));
            let result = node.cri.create(&pod_id, &pod, &container).await;
            refused(result, Code::InvalidArgument, &[path, word])?;
        }
        let wrong = with(pod.container("c", &image), device(&dir, "/dev/x", "rx"));
        let result = node.cri.create(&pod_id, &pod, &wrong).await;
        refused(result, Code::InvalidArgument, &["permissions", "rx"])
    })
}

#[test]
fn a_privileged_container_has_every_device_of_the_host() -> Result<()> {
    if !host_has_it() {
        return Ok(());
    }
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("all").security(|security| security.privileged = true);
        let privileged = |security: &mut v1::LinuxContainerSecurityContext| {
            security.privileged = true;
        };
        let container = pod.container("main", &image).sleeper().security(privileged);
        let (_, id) = node.run(&pod, &container).await?;
        ensure!(opens(node, &id, HOST_DEVICE, "<").await?);
        let (major, minor) = numbers()?;
        node.cri.shell(&id, &format!("mknod /tmp/own c {major} {minor}")).await?;
        ensure!(opens(node, &id, "/tmp/own", "<").await?);
        // Its terminals and shared memory are its own.
        ensure!(node.cri.shell(&id, "ls /dev/pts").await? == "ptmx");
        Ok(())
    })
}

/// A node whose CDI directories are `low` and `high` of its scratch place.
fn with_cdi(test: impl AsyncFnOnce(&mut Node) -> Result<()>) -> Result<()> {
    on_a_node_with(
        |settings, scratch| {
            let dir = |name: &str| scratch.dir().join(name).display().to_string();
            settings.extra_config = format!(
                "[cdi]\nspec_dirs = [{:?}, {:?}]\n[blockio]\nconfig_file = {:?}\n",
                dir("low"),
                dir("high"),
                dir("blockio.yaml")
            );
        },
        test,
    )
}

fn spec_file(node: &Node, dir: &str, name: &str, text: &str) -> Result<PathBuf> {
    let dir = node.scratch.dir().join(dir);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), text)?;
    Ok(dir.join(name))
}

fn asks_for(container: ContainerBuilder, devices: &[&str]) -> ContainerBuilder {
    container.with(|config| {
        let device = |name: &&str| v1::CdiDevice { name: (*name).to_owned() };
        config.cdi_devices = devices.iter().map(device).collect();
    })
}

#[test]
fn cdi_devices_change_the_container_as_their_vendor_says() -> Result<()> {
    if !host_has_it() {
        return Ok(());
    }
    with_cdi(async |node| {
        let image = node.pulled("busybox").await?;
        let library = node.scratch.dir().join("library");
        fs::create_dir(&library)?;
        fs::write(library.join("lib.so"), "library\n")?;
        let edits = json!({
            "env": ["GPU=json"],
            "deviceNodes": [{"path": "/dev/gpu0", "hostPath": HOST_DEVICE, "permissions": "r"}],
            "mounts": [{
                "hostPath": library.display().to_string(), "containerPath": "/usr/lib/vendor",
                "options": ["ro", "nosuid", "nodev", "rbind"],
            }],
            "additionalGids": [4242],
        });
        let json = json!({
            "cdiVersion": "0.7.0", "kind": "vendor.com/gpu",
            "containerEdits": {"env": ["COMMON=1"]},
            "devices": [{"name": "0", "containerEdits": edits}],
        });
        let yaml = "cdiVersion: 0.3.0\nkind: other.org/net\ndevices:\n\
                    - name: fast\n  containerEdits: {env: [NET=fast, GPU=yaml]}\n";
        // Written after the daemon's start: the directories are read when asked.
        spec_file(node, "low", "gpu.json", &json.to_string())?;
        spec_file(node, "high", "net.yaml", yaml)?;
        spec_file(node, "high", "broken.yaml", "cdiVersion: 9.9.9\n")?;
        let pod = node.pod("cdi");
        let container = asks_for(pod.container("main", &image).sleeper(), &["vendor.com/gpu=0"])
            .with(|c| {
                let annotation = "other.org/net=fast,vendor.com/gpu=0".to_owned();
                c.annotations.insert("cdi.k8s.io/plugin_x".to_owned(), annotation);
            });
        let (_, id) = node.run(&pod, &container).await?;
        let env = node.cri.shell(&id, "echo $COMMON $GPU $NET").await?;
        ensure!(env == "1 yaml fast", "fields first, then annotations: {env}");
        ensure!(opens(node, &id, "/dev/gpu0", "<").await?);
        ensure!(!opens(node, &id, "/dev/gpu0", ">>").await?);
        ensure!(node.cri.shell(&id, "cat /usr/lib/vendor/lib.so").await? == "library");
        let output = node.cri.exec(&id, &["touch", "/usr/lib/vendor/x"], 10).await?;
        ensure!(output.stderr.contains("Read-only"), "{output:?}");
        let groups = node.cri.shell(&id, "id -G").await?;
        ensure!(groups.split(' ').any(|gid| gid == "4242"), "{groups}");
        Ok(())
    })
}

#[test]
fn hooks_of_cdi_devices_run_and_one_that_fails_fails_the_start() -> Result<()> {
    with_cdi(async |node| {
        let image = node.pulled("busybox").await?;
        let dir = node.scratch.dir().display().to_string();
        let script = node.scratch.dir().join("hook.sh");
        // As vendors' tools do: find the root by the bundle's specification and change it.
        let text = "#!/bin/sh\nset -e\nstate=$(cat)\n\
            bundle=${state#*\\\"bundle\\\":\\\"}; bundle=${bundle%%\\\"*}\n\
            test -s $bundle/config.json\n\
            root=$(tr -d ' \\n' <$bundle/config.json | \
                sed 's/.*\"root\":{\\([^}]*\\)}.*/\\1/; s/.*\"path\":\"//; s/\".*//')\n\
            case $root in /*) ;; *) root=$bundle/$root;; esac\n\
            case $1 in\n\
            inside) ln -s real.so $root/usr-lib-link;;\n\
            fail) echo no card >&2; exit 7;;\n\
            *) echo $1 $state >>$2/hooks.log;;\nesac\n";
        fs::write(&script, text)?;
        let hook = |name: &str, word: &str| {
            let path = "/bin/sh";
            let args = ["sh", &script.display().to_string(), word, &dir].map(str::to_owned);
            json!({"hookName": name, "path": path, "args": args, "env": ["PATH=/usr/bin:/bin"]})
        };
        let file = |hooks: Vec<Value>| {
            let devices = json!([{"name": "d", "containerEdits": {"hooks": hooks}}]);
            json!({"cdiVersion": "0.5.0", "kind": "v.com/c", "devices": devices}).to_string()
        };
        let hooks = vec![
            hook("createRuntime", "made"),
            hook("createContainer", "inside"),
            hook("poststart", "started"),
            hook("poststop", "gone"),
        ];
        spec_file(node, "low", "a.json", &file(hooks))?;
        let pod = node.pod("hooks");
        let container = asks_for(pod.container("main", &image).sleeper(), &["v.com/c=d"]);
        let (pod_id, id) = node.run(&pod, &container).await?;
        ensure!(node.cri.shell(&id, "readlink /usr-lib-link").await? == "real.so");
        let log = || fs::read_to_string(node.scratch.dir().join("hooks.log"));
        let pid = |word: &str| -> Result<String> {
            let log = log()?;
            let line = log.lines().find(|line| line.starts_with(word)).context("no such line")?;
            let after = line.rsplit("\"pid\":").next().unwrap_or_default();
            Ok(after.chars().take_while(char::is_ascii_digit).collect())
        };
        ensure!(pid("made")? == pid("started")?, "{}", log()?);
        ensure!(Path::new("/proc").join(pid("made")?).exists(), "{}", log()?);
        ensure!(!log()?.contains("gone"), "{}", log()?);
        node.cri.stop(&id, 0).await?;
        node.cri.remove(&id).await?;
        ensure!(log()?.contains("gone"), "{}", log()?);

        // Also when the program runs already: it does not stay.
        for name in ["createRuntime", "poststart"] {
            spec_file(node, "low", "a.json", &file(vec![hook(name, "fail")]))?;
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            let status = node.cri.start(&id).await.err().context("it started")?;
            let words = ["/bin/sh", "exit status 7", "no card"];
            ensure!(words.iter().all(|word| status.message().contains(word)), "{status}");
            ensure!(node.cri.container(&id).await?.reason == "StartError");
            node.cri.remove(&id).await?;
        }
        Ok(())
    })
}

#[test]
fn cdi_devices_that_cannot_be_had_are_named_with_the_reason() -> Result<()> {
    with_cdi(async |node| {
        let image = node.pulled("busybox").await?;
        let with = |edits: Value| {
            let devices = json!([{"name": "d", "containerEdits": edits}]);
            json!({"cdiVersion": "1.1.0", "kind": "v.com/c", "devices": devices}).to_string()
        };
        let pod = node.pod("nocdi");
        let pod_id = node.cri.run_pod(&pod).await?;
        let create = async |device: &str| {
            let container = asks_for(pod.container("c", &image), &[device]);
            node.cri.create(&pod_id, &pod, &container).await
        };
        let low = node.scratch.dir().join("low").display().to_string();
        let high = node.scratch.dir().join("high").display().to_string();
        refused(create("v.com/c=d").await, Code::InvalidArgument, &["v.com/c=d", &low, &high])?;
        refused(create("no name").await, Code::InvalidArgument, &["no name"])?;
        spec_file(node, "low", "a.json", "{")?;
        refused(create("v.com/c=d").await, Code::InvalidArgument, &["a.json"])?;
        for (edits, words) in [
            (json!({"deviceNodes": [{"path": "/dev/no-such"}]}), ["v.com/c=d", "/dev/no-such"]),
            (
                json!({"mounts": [{"hostPath": "/no/such", "containerPath": "/x"}]}),
                ["v.com/c=d", "/no/such"],
            ),
            (
                json!({"netDevices": [{"hostInterfaceName": "eth9", "name": "n"}]}),
                ["v.com/c=d", "netDevices"],
            ),
        ] {
            spec_file(node, "low", "a.json", &with(edits))?;
            refused(create("v.com/c=d").await, Code::InvalidArgument, &words)?;
        }
        let edits = json!({"env": ["A=1"]});
        spec_file(node, "low", "a.json", &with(edits.clone()))?;
        let twin = spec_file(node, "low", "b.json", &with(edits))?;
        refused(create("v.com/c=d").await, Code::InvalidArgument, &["a.json", "b.json"])?;
        fs::remove_file(twin)?;
        create("v.com/c=d").await?;
        Ok(())
    })
}

#[test]
fn classes_that_do_not_exist_are_named_with_those_that_do() -> Result<()> {
    with_cdi(async |node| {
        let image = node.pulled("busybox").await?;
        let file = node.scratch.dir().join("blockio.yaml");
        let key = "blockio.resources.beta.kubernetes.io/pod".to_owned();
        let pod = node.pod("classes").with(|config| {
            config.annotations.insert(key, "slow".to_owned());
        });
        let pod_id = node.cri.run_pod(&pod).await?;
        let create = async |annotations: &[(&str, &str)]| {
            let container = pod.container("c", &image).sleeper().with(|config| {
                let own = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
                config.annotations.extend(own);
            });
            node.cri.create(&pod_id, &pod, &container).await
        };
        let path = file.display().to_string();
        refused(create(&[]).await, Code::InvalidArgument, &["slow", &path])?;
        fs::write(&file, "Classes:\n  fast: [{Weight: 900}]\n")?;
        refused(create(&[]).await, Code::InvalidArgument, &["`slow`", "fast"])?;
        let rdt = [("io.kubernetes.cri.rdt-class", "gold")];
        let result = create(&rdt).await;
        refused(result, Code::InvalidArgument, &["gold", "RDT"])
    })
}

/// The controller's file of a container, wherever this host has it.
fn kernel_file(node: &Node, id: &str, controller: &str, file: &str) -> Option<String> {
    let below = format!("{}/{file}", node.scratch.container_cgroup(id));
    let v1 = Path::new("/sys/fs/cgroup").join(controller).join(&below);
    fs::read_to_string(v1).or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup/{below}"))).ok()
}

#[test]
fn a_block_io_class_reaches_the_kernel() -> Result<()> {
    let disks = || -> Result<Option<String>> {
        for entry in fs::read_dir("/sys/block")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if Path::new("/dev").join(&name).exists() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    };
    let Some(disk) = disks()? else {
        test_support::skip("the host has no block device with a node");
        return Ok(());
    };
    with_cdi(async |node| {
        let image = node.pulled("busybox").await?;
        let classes = format!(
            "Classes:\n  slow:\n  - Devices: [/dev/{disk}]\n    ThrottleReadBps: 1M\n    \
             ThrottleWriteIOPS: 100\n"
        );
        fs::write(node.scratch.dir().join("blockio.yaml"), classes)?;
        let number = fs::read_to_string(format!("/sys/block/{disk}/dev"))?.trim().to_owned();
        let pod = node.pod("slow");
        let container = pod.container("main", &image).sleeper().with(|config| {
            let key = "io.kubernetes.cri.blockio-class".to_owned();
            config.annotations.insert(key, "slow".to_owned());
        });
        let pod_id = node.cri.run_pod(&pod).await?;
        let id = match node.cri.create(&pod_id, &pod, &container).await {
            Err(status) if status.message().contains("controller") => {
                test_support::skip("the host has no block IO controller");
                return Ok(());
            }
            created => created?,
        };
        node.cri.start(&id).await?;
        match kernel_file(node, &id, "blkio", "blkio.throttle.read_bps_device") {
            Some(bps) => {
                ensure!(bps.trim() == format!("{number} 1000000"), "{bps}");
                let iops = kernel_file(node, &id, "blkio", "blkio.throttle.write_iops_device")
                    .context("write_iops_device")?;
                ensure!(iops.trim() == format!("{number} 100"), "{iops}");
            }
            None => {
                let max = kernel_file(node, &id, "", "io.max").context("io.max")?;
                ensure!(max.contains("rbps=1000000") && max.contains("wiops=100"), "{max}");
            }
        }
        Ok(())
    })
}
