//! What a container finds inside: process, environment, files, mounts.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use cri_api::v1;
use test_support::node::{Node, on_a_node, texts};

#[test]
fn the_images_entrypoint_arguments_environment_and_directory_are_used() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("entrypoint").await?;
        let pod = node.pod("plain");
        let (status, log) = node.run_to_end(&pod, &pod.container("main", &image)).await?;
        ensure!(status.exit_code == 0, "{status:?}");
        let said = texts(&log, "stdout");
        ensure!(said == ["args=from-cmd dir=/srv/here a=image b=image"], "{said:?}");
        Ok(())
    })
}

#[test]
fn what_the_pod_asks_for_wins_over_the_image() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("entrypoint").await?;
        let pod = node.pod("override");
        let pod_id = node.cri.run_pod(&pod).await?;
        let cases = [
            ("args", &[][..], &["own", "words"][..], "args=own words dir=/tmp a=pod b=image"),
            ("both", &["/entry", "x"][..], &["y"][..], "args=x y dir=/tmp a=pod b=image"),
            ("command", &["/entry"][..], &[][..], "args= dir=/tmp a=pod b=image"),
        ];
        for (name, command, args, want) in cases {
            let container = pod.container(name, &image).command(command).with(|config| {
                config.args = args.iter().map(|&word| word.to_owned()).collect();
                config.working_dir = "/tmp".into();
                config.envs = vec![v1::KeyValue { key: "A".into(), value: b"pod".to_vec() }];
            });
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            node.cri.start(&id).await?;
            let status = node.wait_exited(&id).await?;
            let log = test_support::node::log_lines(Path::new(&status.log_path))?;
            ensure!(texts(&log, "stdout") == [want], "{name}: {log:?}");
        }
        Ok(())
    })
}

#[test]
fn path_and_hostname_are_in_every_environment() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("envhost").await?;
        let found =
            node.cri.shell(&id, "echo $PATH $HOSTNAME $(hostname) $(cat /etc/hostname)").await?;
        let want = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                    envhost envhost envhost";
        ensure!(found == want, "{found}");
        Ok(())
    })
}

#[test]
fn an_environment_value_that_is_not_text_reaches_the_process_byte_by_byte() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("bytes");
        let container = pod.container("main", &image).sleeper().with(|config| {
            config.envs = vec![v1::KeyValue { key: "RAW".into(), value: vec![0xff, b'x', 0xfe] }];
        });
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "asleep").await?;
        let own = "tr '\\0' '\\n' </proc/1/environ | sed -n s/^RAW=//p";
        for script in ["echo $RAW", own] {
            let request = v1::ExecSyncRequest {
                container_id: id.clone(),
                cmd: ["sh", "-c", script].map(str::to_owned).into(),
                timeout: 10,
            };
            let answer = node.cri.runtime.clone().exec_sync(request).await?.into_inner();
            ensure!(answer.stdout == [0xff, b'x', 0xfe, b'\n'], "{script}: {answer:?}");
        }
        Ok(())
    })
}

#[test]
fn the_resolver_is_the_pods_own_or_the_hosts() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("dns").with(|config| {
            config.dns_config = Some(v1::DnsConfig {
                servers: vec!["10.10.10.10".into()],
                searches: vec!["a.example".into(), "b.example".into()],
                options: vec!["ndots:8".into()],
            });
        });
        let (_, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let own = node.cri.shell(&id, "cat /etc/resolv.conf").await?;
        for line in ["nameserver 10.10.10.10", "search a.example b.example", "options ndots:8"] {
            ensure!(own.lines().any(|l| l == line), "no `{line}` in:\n{own}");
        }
        let (_, other) = node.sleeper("nodns").await?;
        let copied = node.cri.shell(&other, "cat /etc/resolv.conf").await?;
        ensure!(copied.trim() == fs::read_to_string("/etc/resolv.conf")?.trim(), "{copied}");
        ensure!(node.cri.shell(&other, "cat /etc/hosts").await?.contains("localhost"));
        Ok(())
    })
}

#[test]
fn the_pods_shared_memory_is_shared_by_its_containers() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("shm");
        let (pod_id, first) = node.run(&pod, &pod.container("a", &image).sleeper()).await?;
        let second = node.cri.create(&pod_id, &pod, &pod.container("b", &image).sleeper()).await?;
        node.cri.start(&second).await?;
        node.cri.shell(&first, "echo shared >/dev/shm/x").await?;
        ensure!(node.cri.shell(&second, "cat /dev/shm/x").await? == "shared");
        let line = node.cri.shell(&first, "grep ' /dev/shm ' /proc/mounts").await?;
        for option in ["tmpfs", "nosuid", "nodev", "noexec", "size=65536k"] {
            ensure!(line.contains(option), "no {option}: {line}");
        }
        Ok(())
    })
}

#[test]
fn the_usual_file_systems_and_devices_are_there() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("mounts").await?;
        let mounts = node.cri.shell(&id, "cat /proc/mounts").await?;
        for (place, kind) in [
            ("/", "overlay"),
            ("/proc", "proc"),
            ("/dev", "tmpfs"),
            ("/dev/pts", "devpts"),
            ("/dev/mqueue", "mqueue"),
            ("/sys", "sysfs"),
        ] {
            let found = mounts.lines().any(|line| {
                let mut words = line.split(' ').skip(1);
                words.next() == Some(place) && words.next() == Some(kind)
            });
            ensure!(found, "no {kind} at {place}:\n{mounts}");
        }
        let devices = "null zero full random urandom tty ptmx fd stdin stdout stderr";
        for name in devices.split(' ') {
            node.cri.shell(&id, &format!("ls -d /dev/{name}")).await?;
        }
        let host = node.scratch.dir().display().to_string();
        ensure!(!mounts.contains(&host) || !mounts.contains(" /oldroot"), "{mounts}");
        let written = node.cri.shell(&id, "touch /sys/x 2>&1; mkdir /sys/fs/cgroup/x 2>&1; true");
        ensure!(written.await?.matches("Read-only").count() == 2);
        Ok(())
    })
}

#[test]
fn a_directory_of_the_host_is_shared_and_may_be_read_only() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let volume = node.scratch.dir().join("volume");
        fs::create_dir_all(&volume)?;
        fs::write(volume.join("greeting"), "hello from the host\n")?;
        let link = node.scratch.dir().join("link");
        std::os::unix::fs::symlink(&volume, &link)?;
        let pod = node.pod("volumes");
        let container = pod
            .container("main", &image)
            .sleeper()
            .mount(&volume, "/data", false)
            .mount(&volume, "/frozen", true)
            .mount(&link, "/linked", true)
            .mount(&volume.join("greeting"), "/etc/greeting", true);
        let (_, id) = node.run(&pod, &container).await?;
        for path in ["/data/greeting", "/frozen/greeting", "/linked/greeting", "/etc/greeting"] {
            let text = node.cri.shell(&id, &format!("cat {path}")).await?;
            ensure!(text == "hello from the host", "{path}: {text}");
        }
        node.cri.shell(&id, "echo written >/data/answer").await?;
        ensure!(fs::read_to_string(volume.join("answer"))? == "written\n");
        let refused = node.cri.shell(&id, "touch /frozen/x 2>&1; true").await?;
        ensure!(refused.contains("Read-only"), "{refused}");
        let status = node.cri.container(&id).await?;
        let linked = status.mounts.iter().find(|mount| mount.container_path == "/linked");
        let echoed = linked.map(|mount| mount.host_path.as_str());
        ensure!(echoed == link.to_str(), "the requested path is echoed: {echoed:?}");
        Ok(())
    })
}

#[test]
fn a_read_only_root_cannot_be_written_but_volumes_can() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let volume = node.scratch.dir().join("volume");
        fs::create_dir_all(&volume)?;
        let pod = node.pod("frozen");
        let container = pod
            .container("main", &image)
            .sleeper()
            .mount(&volume, "/data", false)
            .security(|security| security.readonly_rootfs = true);
        let (_, id) = node.run(&pod, &container).await?;
        let output = node.cri.exec(&id, &["touch", "/x"], 10).await?;
        ensure!(output.code != 0 && output.stderr.contains("Read-only"), "{output:?}");
        node.cri.shell(&id, "touch /data/x").await?;
        node.cri.shell(&id, "touch /dev/shm/x").await?;
        let hosts = node.cri.exec(&id, &["touch", "/etc/hosts"], 10).await?;
        ensure!(hosts.code != 0, "the injected files are read-only too: {hosts:?}");
        Ok(())
    })
}

#[test]
fn a_layers_content_is_what_its_order_says() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("layers").await?;
        let pod = node.pod("layers");
        let (_, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let cat = async |path: &str| node.cri.shell(&id, &format!("cat {path}")).await;
        ensure!(cat("/data/keep").await? == "keep");
        ensure!(cat("/data/replace").await? == "new");
        ensure!(cat("/data/tree").await? == "a file now");
        ensure!(cat("/data/soft").await? == "linked");
        ensure!(node.cri.shell(&id, "ls -A /data/opaque").await? == "above");
        ensure!(node.cri.exec(&id, &["ls", "/data/remove"], 10).await?.code != 0);
        let inodes = node.cri.shell(&id, "stat -c '%i %h' /data/original /data/hard").await?;
        let lines: Vec<_> = inodes.lines().collect();
        ensure!(lines.len() == 2 && lines[0] == lines[1] && lines[0].ends_with(" 2"), "{inodes}");
        let owned = node.cri.shell(&id, "stat -c '%u:%g %a' /data/owned /data/setuid").await?;
        ensure!(owned == "1000:50000 2770\n0:0 4755", "{owned}");
        Ok(())
    })
}

#[test]
fn an_images_volume_is_writable_and_begins_with_the_images_content() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("volumes").await?;
        let pod = node.pod("anonymous");
        let container = pod
            .container("main", &image)
            .sleeper()
            .security(|security| security.readonly_rootfs = true);
        let (_, id) = node.run(&pod, &container).await?;
        ensure!(node.cri.shell(&id, "cat /data/seed").await? == "seed");
        ensure!(node.cri.shell(&id, "stat -c '%u:%g %a' /data").await? == "1000:1000 750");
        node.cri.shell(&id, "echo more >/data/more").await?;
        Ok(())
    })
}

#[test]
fn what_one_container_writes_no_other_sees() -> Result<()> {
    on_a_node(async |node| {
        let (_, first) = node.sleeper("first").await?;
        let (_, second) = node.sleeper("second").await?;
        node.cri.shell(&first, "echo mine >/etc/passwd; rm /bin/ls").await?;
        ensure!(node.cri.shell(&second, "head -n1 /etc/passwd").await?.starts_with("root:"));
        node.cri.shell(&second, "ls /").await?;
        Ok(())
    })
}

#[test]
fn resource_limits_reach_the_kernel() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("limits");
        let container = pod.container("main", &image).sleeper().resources(|r| {
            r.cpu_quota = 50_000;
            r.cpu_shares = 512;
            r.memory_limit_in_bytes = 64 << 20;
            r.oom_score_adj = 700;
        });
        let (_, id) = node.run(&pod, &container).await?;
        ensure!(node.cri.shell(&id, "cat /proc/1/oom_score_adj").await? == "700");
        let mut seen = Vec::new();
        for (file, want) in [
            ("memory/{}/memory.limit_in_bytes", "67108864"),
            ("cpu/{}/cpu.cfs_quota_us", "50000"),
            ("cpu/{}/cpu.shares", "512"),
            ("{}/memory.max", "67108864"),
            ("{}/cpu.max", "50000 100000"),
        ] {
            let below = node.scratch.container_cgroup(&id);
            let path = Path::new("/sys/fs/cgroup").join(file.replace("{}", &below));
            if let Ok(text) = fs::read_to_string(&path) {
                ensure!(text.trim() == want, "{}: {text}", path.display());
                seen.push(file);
            }
        }
        ensure!(seen.len() >= 2, "no limits were found in the kernel: {seen:?}");
        Ok(())
    })
}

async fn set_memory_limit(node: &Node, id: &str, bytes: i64) -> Result<()> {
    let limits = v1::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() };
    node.cri.update(id, limits).await?;
    Ok(())
}

/// As the kernel holds it.
fn memory_limit(node: &Node, id: &str) -> Result<i64> {
    let below = node.scratch.container_cgroup(id);
    let v1 = format!("/sys/fs/cgroup/memory/{below}/memory.limit_in_bytes");
    let v2 = format!("/sys/fs/cgroup/{below}/memory.max");
    let text = fs::read_to_string(v1).or_else(|_| fs::read_to_string(v2))?;
    Ok(text.trim().parse()?)
}

#[test]
fn changed_limits_reach_kernel_and_status_and_leave_the_others_alone() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("resize");
        let container = pod.container("main", &image).sleeper().resources(|r| {
            r.cpu_quota = 50_000;
            r.memory_limit_in_bytes = 64 << 20;
        });
        let (_, id) = node.run(&pod, &container).await?;
        for limit in [96 << 20, 32 << 20] {
            set_memory_limit(node, &id, limit).await?;
            let status = node.cri.container(&id).await?;
            let now = status.resources.and_then(|r| r.linux).unwrap_or_default();
            ensure!((now.memory_limit_in_bytes, now.cpu_quota) == (limit, 50_000), "{now:?}");
            ensure!(memory_limit(node, &id)? == limit);
        }
        node.cri.stop(&id, 0).await?;
        ensure!(set_memory_limit(node, &id, 64 << 20).await.is_err(), "an ended container");
        Ok(())
    })
}

#[test]
fn limits_changed_before_the_start_hold_from_the_start() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("early");
        let pod_id = node.cri.run_pod(&pod).await?;
        let container = pod.container("main", &image).sleeper();
        let id = node.cri.create(&pod_id, &pod, &container).await?;
        set_memory_limit(node, &id, 48 << 20).await?;
        node.cri.start(&id).await?;
        ensure!(memory_limit(node, &id)? == 48 << 20);
        Ok(())
    })
}
