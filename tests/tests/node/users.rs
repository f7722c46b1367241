//! Pods with a user namespace of their own, and who shares which PID namespace.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::{Node, on_a_node, texts};
use test_support::pods::{ContainerBuilder, PodBuilder};
use test_support::proc::status_field;
use tonic::Code;

const FIRST: u32 = 131_072;
const LENGTH: u32 = 65_536;

fn pod(node: &Node, name: &str) -> PodBuilder {
    node.pod(name).users(FIRST, LENGTH)
}

/// A mount that shows the host's ids as the pod's, as kubelet asks for them.
fn mapped(container: ContainerBuilder, host: &Path, place: &str) -> ContainerBuilder {
    container.mount(host, place, false).with(|config| {
        if let Some(mount) = config.mounts.last_mut() {
            let map = vec![v1::IdMapping { host_id: FIRST, container_id: 0, length: LENGTH }];
            mount.uid_mappings = map.clone();
            mount.gid_mappings = map;
        }
    })
}

/// The host's number of a container's first process.
async fn host_pid(node: &Node, id: &str) -> Result<i64> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let answer = node.cri.runtime.clone().container_status(request).await?.into_inner();
    let info = answer.info.get("info").context("verbose info")?;
    let info: serde_json::Value = serde_json::from_str(info)?;
    info["pid"].as_i64().context("a pid")
}

#[test]
fn root_of_a_pod_with_users_of_its_own_is_nobody_on_the_host() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = pod(node, "users");
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        node.wait_log(&id, "asleep").await?;
        let map = node.cri.shell(&id, "cat /proc/self/uid_map /proc/self/gid_map").await?;
        let words: Vec<&str> = map.split_whitespace().collect();
        ensure!(words == ["0", "131072", "65536", "0", "131072", "65536"], "{map}");
        ensure!(node.cri.shell(&id, "id -u; id -g; hostname").await? == "0\n0\nusers");
        let own =
            node.cri.shell(&id, "stat -c %u /proc/1 /bin/sh /etc/hosts /etc/hostname").await?;
        ensure!(own == "0\n0\n0\n0", "{own}");
        ensure!(
            node.cri.shell(&id, "echo 10.0.0.9 more >> /etc/hosts; tail -n 1 /etc/hosts").await?
                == "10.0.0.9 more"
        );

        let status =
            std::fs::read_to_string(format!("/proc/{}/status", host_pid(node, &id).await?))?;
        let uid = status_field(&status, "Uid").context("Uid")?;
        ensure!(uid.starts_with("131072"), "{uid}");
        let log = std::fs::metadata(node.log_path(&id).await?)?;
        ensure!(log.uid() == 0, "the log is the host's");

        // What the namespaces that belong to it allow, and what the host's do not.
        let shm = "stat -c %u:%a /dev/shm; echo x > /dev/shm/x && cat /dev/shm/x";
        ensure!(node.cri.shell(&id, shm).await? == "0:1777\nx");
        let ports = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
        ensure!(node.cri.shell(&id, ports).await? == "0");
        let mknod = node.cri.exec(&id, &["mknod", "/tmp/null", "c", "1", "3"], 10).await?;
        ensure!(mknod.code != 0 && mknod.stderr.contains("not permitted"), "{mknod:?}");
        ensure!(
            node.cri.shell(&id, "echo x > /dev/null; head -c 2 /dev/zero | wc -c").await? == "2"
        );

        let echoed = node.cri.pod(&pod_id).await?.linux.and_then(|linux| linux.namespaces);
        let asked = pod.config.linux.and_then(|linux| linux.security_context);
        ensure!(
            echoed.and_then(|echoed| echoed.options)
                == asked.and_then(|asked| asked.namespace_options)
        );
        Ok(())
    })
}

#[test]
fn files_belong_to_the_pods_users_in_layers_volumes_and_mounts() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("volumes").await?;
        let share = node.scratch.dir().join("share");
        std::fs::create_dir_all(&share)?;
        std::fs::write(share.join("file"), "of the host")?;
        std::os::unix::fs::chown(share.join("file"), Some(7), Some(8))?;
        let pod = pod(node, "files");
        let container = mapped(pod.container("main", &image).sleeper(), &share, "/share")
            .mount(&share, "/plain", false);
        let (pod_id, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "asleep").await?;

        let owners = "stat -c %u:%g / /share/file /plain/file /data /data/seed; cat /data/seed";
        let found = node.cri.shell(&id, owners).await?;
        ensure!(found == "0:0\n7:8\n65534:65534\n1000:1000\n1000:1000\nseed", "{found}");
        node.cri.shell(&id, "touch /share/new; chown 9:9 /share/new; touch /data/new /new").await?;
        node.cri.shell(&id, "echo more >> /etc/passwd").await?;
        let new = std::fs::metadata(share.join("new"))?;
        ensure!((new.uid(), new.gid()) == (9, 9), "{}:{}", new.uid(), new.gid());
        let dir = node.scratch.root().join("pods").join(&pod_id).join("containers").join(&id);
        for (file, uid) in [("upper/new", FIRST), ("upper/etc/passwd", FIRST), ("volumes/0/new", 0)]
        {
            let found =
                std::fs::symlink_metadata(dir.join(file)).with_context(|| file.to_owned())?;
            ensure!(found.uid() == uid, "{file}: {}", found.uid());
        }
        let status = node.cri.container(&id).await?;
        ensure!(status.mounts == container.config.mounts, "{:?}", status.mounts);
        Ok(())
    })
}

#[test]
fn an_ordinary_user_of_a_pod_with_users_of_its_own_can_do_what_it_ever_could() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = pod(node, "ordinary");
        let script =
            "id -u; echo out > /dev/stdout; echo err > /dev/stderr; grep CapEff /proc/self/status";
        let container = pod.container("main", &image).script(script).security(|security| {
            security.run_as_user = Some(v1::Int64Value { value: 1000 });
            security.supplemental_groups = vec![5678];
        });
        let (status, lines) = node.run_to_end(&pod, &container).await?;
        ensure!(status.exit_code == 0, "{status:?} {lines:?}");
        let want = ["1000", "out", "CapEff:\t0000000000000000"];
        ensure!(texts(&lines, "stdout") == want, "{lines:?}");
        ensure!(texts(&lines, "stderr") == ["err"], "{lines:?}");

        let again = pod.clone().with(|config| {
            config.metadata.get_or_insert_default().attempt = 1;
        });
        let terminal = again.container("tty", &image).sleeper().with(|config| config.tty = true);
        let (_, id) = node.run(&again, &terminal).await?;
        node.wait_log(&id, "asleep").await?;
        ensure!(
            node.cri.shell(&id, "stat -c %t:%T /dev/console; stat -c %u /dev/pts/0").await?
                == "88:0\n0"
        );
        Ok(())
    })
}

#[test]
fn pods_with_users_of_their_own_have_a_network_and_may_share_processes() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let web = pod(node, "web").namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
        // It goes into the background after it listens.
        let script = "mkdir /www; echo page > /www/index.html; httpd -p 80 -h /www; echo up; \
                      trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";
        let (web_id, server) =
            node.run(&web, &web.container("main", &image).script(script)).await?;
        node.wait_log(&server, "up").await?;
        let ip = node.cri.pod_ip(&web_id).await?;
        ensure!(crate::network::get(&format!("{ip}:80"), "/")?.contains("page"));

        let second = web.container("second", &image).sleeper();
        let second = node.cri.create(&web_id, &web, &second).await?;
        node.cri.start(&second).await?;
        node.wait_log(&second, "asleep").await?;
        let seen = node.cri.shell(&second, "cat /proc/1/comm; ps -o comm | grep -c httpd").await?;
        ensure!(seen == "pause\n1", "{seen}");
        ensure!(node.cri.shell(&second, "ip link | grep -c eth0").await? == "1");
        let up = node.cri.exec(&second, &["ip", "link", "set", "eth0", "mtu", "1400"], 10).await?;
        ensure!(up.code != 0, "NET_ADMIN was not asked for");
        let admin = web.container("admin", &image).sleeper().security(|security| {
            let capabilities = security.capabilities.get_or_insert_default();
            capabilities.add_capabilities = vec!["NET_ADMIN".into(), "SYS_ADMIN".into()];
            security.seccomp = None;
            // The default profile lets nobody mount.
            security.apparmor = Some(v1::SecurityProfile {
                profile_type: v1::ProfileType::Unconfined.into(),
                ..Default::default()
            });
        });
        let admin = node.cri.create(&web_id, &web, &admin).await?;
        node.cri.start(&admin).await?;
        node.wait_log(&admin, "asleep").await?;
        let can =
            "ip link set eth0 mtu 1400 && mount -t tmpfs x /mnt && hostname inside && hostname";
        let can = node.cri.shell(&admin, &format!("mkdir -p /mnt; {can}")).await?;
        ensure!(can == "inside", "the network, mounts and the host name are the pod's: {can}");
        Ok(())
    })
}

#[test]
fn a_pod_with_users_of_its_own_may_use_the_hosts_namespaces() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = pod(node, "hosts").with(|config| config.hostname.clear()).namespaces(|n| {
            n.set_network(v1::NamespaceMode::Node);
            n.set_pid(v1::NamespaceMode::Node);
            n.set_ipc(v1::NamespaceMode::Node);
        });
        let container = pod.container("main", &image).sleeper();
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "asleep").await?;
        let link = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}"));
        for kind in ["net", "pid", "ipc", "uts"] {
            let inside = node.cri.shell(&id, &format!("readlink /proc/self/ns/{kind}")).await?;
            ensure!(link(kind)?.display().to_string() == inside, "{kind}");
        }
        let inside = node.cri.shell(&id, "readlink /proc/self/ns/user; id -u").await?;
        ensure!(!inside.starts_with(&link("user")?.display().to_string()), "{inside}");
        ensure!(inside.ends_with("\n0"), "{inside}");
        let sys = node
            .cri
            .shell(&id, "grep -c ' /sys sysfs ro' /proc/self/mounts; ls /sys/class/net")
            .await?;
        ensure!(sys.starts_with("1\n") && sys.contains("lo"), "{sys}");
        let own = std::process::id();
        let seen = node.cri.shell(&id, &format!("test -d /proc/{own} && echo seen")).await?;
        ensure!(seen == "seen");
        let kill = node.cri.exec(&id, &["kill", "-0", &own.to_string()], 10).await?;
        ensure!(kill.code != 0, "seen, not touched");
        Ok(())
    })
}

#[test]
fn a_pod_with_users_of_its_own_outlives_its_daemon_and_leaves_nothing() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = pod(node, "steady").namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        node.wait_log(&id, "asleep").await?;
        let later =
            node.cri.create(&pod_id, &pod, &pod.container("later", &image).sleeper()).await?;

        node.crash_and_restart()?;

        ensure!(
            node.cri.shell(&id, "id -u; tr -s ' ' < /proc/self/uid_map").await?
                == "0\n 0 131072 65536"
        );
        node.cri.start(&later).await?;
        node.wait_log(&later, "asleep").await?;
        ensure!(node.cri.shell(&later, "cat /proc/1/comm").await? == "pause");
        node.cri.stop(&id, 10).await?;
        ensure!(node.cri.container(&id).await?.exit_code == 0);
        node.cri.remove_pod(&pod_id).await?;
        Ok(())
    })
}

#[test]
fn a_privileged_container_is_privileged_in_its_pods_users_only() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = pod(node, "privileged").security(|security| security.privileged = true);
        let container = pod.container("main", &image).sleeper().security(|security| {
            security.privileged = true;
            security.masked_paths.clear();
            security.readonly_paths.clear();
        });
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "asleep").await?;
        let status = node.cri.shell(&id, "cat /proc/self/status").await?;
        let own = std::fs::read_to_string("/proc/self/status")?;
        ensure!(status_field(&status, "CapEff") == status_field(&own, "CapBnd"), "{status}");
        let panic =
            node.cri.exec(&id, &["sh", "-c", "echo 1 > /proc/sys/kernel/panic"], 10).await?;
        ensure!(panic.code != 0, "the kernel is the host's: {panic:?}");
        ensure!(
            node.cri.shell(&id, "mkdir /m; mount -t tmpfs x /m && echo mounted").await?
                == "mounted"
        );
        Ok(())
    })
}

#[test]
fn mappings_that_cannot_be_are_refused_by_field() -> Result<()> {
    on_a_node(async |node| {
        let range = |container_id, host_id, length| v1::IdMapping { host_id, container_id, length };
        let fine = vec![range(0, FIRST, LENGTH)];
        let with = |mode: v1::NamespaceMode, uids: &[v1::IdMapping], gids: &[v1::IdMapping]| {
            node.pod("bad").namespaces(|namespaces| {
                namespaces.userns_options = Some(v1::UserNamespace {
                    mode: mode.into(),
                    uids: uids.to_vec(),
                    gids: gids.to_vec(),
                });
            })
        };
        use v1::NamespaceMode::{Container, Node, Pod, Target};
        let cases = [
            (with(Pod, &[], &fine), vec!["uids", "exactly one mapping"]),
            (with(Pod, &fine, &[]), vec!["gids", "exactly one mapping"]),
            (
                with(Pod, &[range(0, 1000, 10), range(10, 2000, 10)], &fine),
                vec!["uids", "0:1000:10"],
            ),
            (with(Pod, &[range(1, 1000, 10)], &fine), vec!["uids", "1:1000:10", "id 0"]),
            (with(Pod, &fine, &[range(0, 1000, 0)]), vec!["gids", "length"]),
            (with(Pod, &[range(0, u32::MAX - 5, 10)], &fine), vec!["uids", "4294967295"]),
            (with(Container, &fine, &fine), vec!["Container", "user"]),
            (with(Target, &fine, &fine), vec!["Target", "user"]),
            (with(Node, &fine, &fine), vec!["NODE"]),
        ];
        for (pod, words) in cases {
            refused(node.cri.run_pod(&pod).await, Code::InvalidArgument, &words)?;
        }
        ensure!(node.cri.pods(None).await?.is_empty());
        Ok(())
    })
}

#[test]
fn containers_must_fit_into_the_users_of_their_pod() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("small").users(FIRST, 1000);
        let pod_id = node.cri.run_pod(&pod).await?;
        let plain = || pod.container("main", &image).sleeper();
        let other = node.pod("other").users(FIRST, 2000).container("main", &image).sleeper();
        let none = node.pod("none").container("main", &image).sleeper();
        let unknown = plain().security(|s| s.run_as_user = Some(v1::Int64Value { value: 1000 }));
        let group = plain().security(|s| s.supplemental_groups = vec![70_000]);
        let dir = node.scratch.dir();
        let half = plain().mount(dir, "/x", false).with(|config| {
            config.mounts[0].uid_mappings =
                vec![v1::IdMapping { host_id: 1, container_id: 0, length: 1 }];
        });
        let shared = plain().mount(dir, "/x", false).with(|config| {
            config.mounts[0].set_propagation(v1::MountPropagation::PropagationBidirectional);
        });
        for (container, words) in [
            (other, vec!["userns_options", "0:131072:2000", "0:131072:1000"]),
            (none, vec!["userns_options", "none"]),
            (unknown, vec!["user", "1000"]),
            (group, vec!["group", "70000"]),
            (half, vec!["gidMappings"]),
            (shared, vec!["user namespace"]),
        ] {
            let result = node.cri.create(&pod_id, &pod, &container).await;
            refused(result, Code::InvalidArgument, &words)?;
        }
        // What only the kernel can tell, it tells at the start.
        let proc = mapped(plain(), Path::new("/proc/sys"), "/x");
        let id = node.cri.create(&pod_id, &pod, &proc).await?;
        refused(
            node.cri.start(&id).await,
            Code::Unknown,
            &["/x", "/proc/sys", "file system proc"],
        )?;
        let status = node.cri.container(&id).await?;
        ensure!(status.reason == "StartError" && status.exit_code == 128, "{status:?}");
        Ok(())
    })
}

#[test]
fn what_this_node_can_is_said_in_its_status() -> Result<()> {
    on_a_node(async |node| {
        let request = v1::StatusRequest { verbose: true };
        let status = node.cri.runtime.clone().status(request).await?.into_inner();
        ensure!(status.runtime_handlers.iter().any(|handler| handler.name.is_empty()));
        for handler in &status.runtime_handlers {
            let features = handler.features.context("features")?;
            ensure!(features.user_namespaces, "{handler:?}");
        }
        let features = status.features.context("features")?;
        ensure!(features.user_namespaces_host_network, "{features:?}");
        let config: serde_json::Value =
            serde_json::from_str(status.info.get("config").context("config")?)?;
        let state = node.scratch.state().display().to_string();
        ensure!(config["stateDir"].as_str() == Some(state.as_str()), "{config}");
        Ok(())
    })
}

#[test]
fn a_container_may_join_the_processes_of_another_that_runs() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        for (name, pod) in [("plain", node.pod("plain")), ("users", pod(node, "users"))] {
            let (pod_id, first) = node.run(&pod, &pod.container("first", &image).sleeper()).await?;
            node.wait_log(&first, "asleep").await?;
            let beside = |container: &str, target: &str| {
                pod.container(container, &image).sleeper().security(|security| {
                    let namespaces = security.namespace_options.get_or_insert_default();
                    namespaces.set_pid(v1::NamespaceMode::Target);
                    namespaces.target_id = target.to_owned();
                })
            };
            let debug = node.cri.create(&pod_id, &pod, &beside("debug", &first)).await?;
            node.cri.start(&debug).await?;
            node.wait_log(&debug, "asleep").await?;
            let ns = "readlink /proc/self/ns/pid";
            ensure!(
                node.cri.shell(&debug, ns).await? == node.cri.shell(&first, ns).await?,
                "{name}"
            );
            ensure!(node.cri.shell(&debug, "test $$ != 1 && echo not first").await? == "not first");

            let nobody = node.cri.create(&pod_id, &pod, &beside("lost", &"0".repeat(64))).await;
            refused(nobody, Code::InvalidArgument, &["0000"])?;
            let late = node.cri.create(&pod_id, &pod, &beside("late", &first)).await?;
            node.cri.stop(&first, 10).await?;
            ensure!(node.wait_exited(&debug).await?.exit_code == 137, "its PID 1 is gone");
            let result = node.cri.start(&late).await;
            refused(result, Code::FailedPrecondition, &["has ended"])?;
            let ended = node.cri.create(&pod_id, &pod, &beside("ended", &first)).await;
            refused(ended, Code::InvalidArgument, &[&first])?;
        }
        Ok(())
    })
}

#[test]
fn a_containers_namespaces_must_be_what_its_pod_can_give() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("own");
        let pod_id = node.cri.run_pod(&pod).await?;
        use v1::NamespaceMode::{Container, Node, Pod, Target};
        let with = |change: &dyn Fn(&mut v1::NamespaceOption)| {
            pod.container("main", &image).sleeper().security(|security| {
                change(security.namespace_options.get_or_insert_default());
            })
        };
        for (container, word) in [
            (with(&|n| n.set_pid(Pod)), "namespace_options.pid"),
            (with(&|n| n.set_pid(Node)), "namespace_options.pid"),
            (with(&|n| n.set_network(Container)), "namespace_options.network"),
            (with(&|n| n.set_ipc(Target)), "namespace_options.ipc"),
        ] {
            let result = node.cri.create(&pod_id, &pod, &container).await;
            refused(result, Code::InvalidArgument, &[word])?;
        }
        // Unset options mean what the pod has, the host's included.
        let host = node.pod("host").namespaces(|n| n.set_pid(Node));
        let container = host
            .container("main", &image)
            .sleeper()
            .security(|security| security.namespace_options = None);
        let (_, id) = node.run(&host, &container).await?;
        let inside = node.cri.shell(&id, "readlink /proc/self/ns/pid").await?;
        ensure!(std::fs::read_link("/proc/self/ns/pid")?.display().to_string() == inside);
        Ok(())
    })
}
