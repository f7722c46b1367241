//! Users, groups, capabilities, seccomp, masked and read-only paths.

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::{Node, on_a_node};
use test_support::proc::status_field;
use tonic::Code;

fn int(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

/// Starts a sleeping container with the given security settings and returns its id.
async fn secured(
    node: &Node,
    name: &str,
    image: &str,
    change: impl FnOnce(&mut v1::LinuxContainerSecurityContext),
) -> Result<String> {
    let pod = node.pod(name);
    let container = pod.container("main", image).sleeper().security(change);
    Ok(node.run(&pod, &container).await?.1)
}

/// A line of the status of the container's own processes.
async fn own_status(node: &Node, id: &str, field: &str) -> Result<String> {
    let status = node.cri.shell(id, "cat /proc/self/status").await?;
    Ok(status_field(&status, field).with_context(|| format!("no {field}"))?.to_owned())
}

#[test]
fn users_and_groups_are_the_requested_ones() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        // web is 1000:1000 and a member of `extra` (50000) in the image.
        type Change = fn(&mut v1::LinuxContainerSecurityContext);
        let cases: [(&str, Change, &str); 5] = [
            ("nothing", |_| {}, "0 0 0,10"),
            ("uid", |s| s.run_as_user = int(1000), "1000 1000 1000,50000"),
            ("unlisted", |s| s.run_as_user = int(4321), "4321 0 0"),
            (
                "both",
                |s| {
                    s.run_as_user = int(1000);
                    s.run_as_group = int(1234);
                    s.supplemental_groups = vec![5678];
                },
                "1000 1234 1234,5678,50000",
            ),
            (
                "strict",
                |s| {
                    s.run_as_username = "web".into();
                    s.supplemental_groups = vec![5678];
                    s.set_supplemental_groups_policy(v1::SupplementalGroupsPolicy::Strict);
                },
                "1000 1000 1000,5678",
            ),
        ];
        for (name, change, want) in cases {
            let id = secured(node, name, &image, change).await?;
            let found = node.cri.shell(&id, "echo $(id -u) $(id -g); id -G | tr ' ' '\\n'").await?;
            let mut lines = found.lines();
            let ids = lines.next().unwrap_or_default();
            let mut groups: Vec<u32> = lines.filter_map(|line| line.parse().ok()).collect();
            groups.sort_unstable();
            groups.dedup();
            let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
            let got = format!("{ids} {}", groups.join(","));
            ensure!(got == want, "{name}: {got}, want {want}");
            let user = node.cri.container(&id).await?.user.and_then(|user| user.linux);
            let user = user.context("the status has no user")?;
            let reported = format!("{} {}", user.uid, user.gid);
            ensure!(want.starts_with(&reported), "{name}: {user:?}");
        }
        Ok(())
    })
}

#[test]
fn the_images_user_is_used_and_reported() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("user-web").await?;
        let id = secured(node, "image-user", &image, |_| {}).await?;
        ensure!(node.cri.shell(&id, "id -un; id -u").await? == "web\n1000");
        for (name, uid, username) in [
            ("user-uid", Some(1002), ""),
            ("user-name", None, "web"),
            ("user-uid-group", Some(1003), ""),
            ("user-name-group", None, "web"),
        ] {
            let reference = node.pulled(name).await?;
            let image = node.cri.image(&reference).await?.context("pulled")?;
            ensure!(image.uid.map(|uid| uid.value) == uid, "{name}: {image:?}");
            ensure!(image.username == username, "{name}: {image:?}");
        }
        Ok(())
    })
}

#[test]
fn a_group_without_a_user_is_refused() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("group");
        let pod_id = node.cri.run_pod(&pod).await?;
        let container =
            pod.container("main", &image).sleeper().security(|s| s.run_as_group = int(1000));
        let result = node.cri.create(&pod_id, &pod, &container).await;
        refused(result, Code::InvalidArgument, &["group"])
    })
}

#[test]
fn capabilities_are_added_and_dropped() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let caps = |add: &[&str], drop: &[&str]| {
            let words = |list: &[&str]| list.iter().map(|&w| w.to_owned()).collect();
            Some(v1::Capability {
                add_capabilities: words(add),
                drop_capabilities: words(drop),
                ..Default::default()
            })
        };
        const CHOWN: u64 = 1;
        const NET_ADMIN: u64 = 1 << 12;
        let cases = [
            ("default", None),
            ("add", caps(&["NET_ADMIN"], &[])),
            ("drop-all", caps(&[], &["ALL"])),
            ("only", caps(&["CAP_CHOWN"], &["all"])),
        ];
        for (name, capabilities) in cases {
            let id = secured(node, name, &image, |s| s.capabilities = capabilities).await?;
            let bounding = u64::from_str_radix(&own_status(node, &id, "CapBnd").await?, 16)?;
            let effective = u64::from_str_radix(&own_status(node, &id, "CapEff").await?, 16)?;
            let fits = match name {
                "default" => bounding & CHOWN != 0 && bounding & NET_ADMIN == 0,
                "add" => bounding & CHOWN != 0 && bounding & NET_ADMIN != 0,
                "drop-all" => bounding == 0,
                _ => bounding == CHOWN,
            };
            ensure!(fits && effective == bounding, "{name}: {bounding:x} {effective:x}");
            for field in ["CapInh", "CapAmb"] {
                let set = own_status(node, &id, field).await?;
                ensure!(set.trim_start_matches('0').is_empty(), "{name}: {field} {set}");
            }
        }
        Ok(())
    })
}

#[test]
fn seccomp_filters_as_the_profile_says() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let profile = node.scratch.dir().join("no-chmod.json");
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"}]}"#;
        std::fs::write(&profile, text)?;
        let kind = |profile_type: v1::ProfileType, file: &str| {
            Some(v1::SecurityProfile {
                profile_type: profile_type.into(),
                localhost_ref: file.to_owned(),
            })
        };
        let file = profile.display().to_string();
        let cases = [
            ("default", kind(v1::ProfileType::RuntimeDefault, ""), "2"),
            ("unconfined", kind(v1::ProfileType::Unconfined, ""), "0"),
            ("none", None, "0"),
            ("own", kind(v1::ProfileType::Localhost, &file), "2"),
        ];
        for (name, seccomp, mode) in cases {
            let id = secured(node, name, &image, |s| s.seccomp = seccomp).await?;
            let found = own_status(node, &id, "Seccomp").await?;
            ensure!(found == mode, "{name}: mode {found}");
            let chmod = node.cri.exec(&id, &["chmod", "700", "/tmp"], 10).await?;
            ensure!((chmod.code != 0) == (name == "own"), "{name}: {chmod:?}");
            let unshare = node.cri.exec(&id, &["unshare", "-m", "true"], 10).await?;
            ensure!(unshare.code != 0, "{name}: a container may not unshare: {unshare:?}");
        }
        Ok(())
    })
}

#[test]
fn a_missing_seccomp_profile_is_refused() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("no-profile");
        let pod_id = node.cri.run_pod(&pod).await?;
        let container = pod.container("main", &image).sleeper().security(|s| {
            s.seccomp = Some(v1::SecurityProfile {
                profile_type: v1::ProfileType::Localhost.into(),
                localhost_ref: "/nowhere/profile.json".into(),
            });
        });
        let result = node.cri.create(&pod_id, &pod, &container).await;
        ensure!(result.is_err(), "{result:?}");
        let text = result.err().map(|status| status.message().to_owned()).unwrap_or_default();
        ensure!(text.contains("/nowhere/profile.json"), "{text}");
        Ok(())
    })
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_cannot_be_written() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let id = secured(node, "masks", &image, |security| {
            security.masked_paths =
                ["/etc/group", "/home", "/proc/version", "/nowhere"].map(str::to_owned).to_vec();
            security.readonly_paths = ["/tmp", "/proc/sys"].map(str::to_owned).to_vec();
        })
        .await?;
        ensure!(node.cri.shell(&id, "cat /etc/group /proc/version; ls -A /home").await? == "");
        let tmp = node.cri.exec(&id, &["touch", "/tmp/x"], 10).await?;
        ensure!(tmp.stderr.contains("Read-only"), "{tmp:?}");
        let sysctl = node.cri.shell(&id, "echo 1 2>&1 >/proc/sys/vm/swappiness; true").await?;
        ensure!(
            !sysctl.is_empty() || node.cri.shell(&id, "[ -w /proc/sys ] || echo ro").await? == "ro"
        );
        Ok(())
    })
}

#[test]
fn new_privileges_are_as_asked() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        for (name, value, want) in [("off", false, "0"), ("on", true, "1")] {
            let id = secured(node, name, &image, |s| s.no_new_privs = value).await?;
            ensure!(own_status(node, &id, "NoNewPrivs").await? == want, "{name}");
        }
        Ok(())
    })
}

#[test]
fn a_privileged_container_needs_a_privileged_pod() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let plain = node.pod("plain");
        let plain_id = node.cri.run_pod(&plain).await?;
        let container = plain.container("main", &image).sleeper().security(|s| s.privileged = true);
        let result = node.cri.create(&plain_id, &plain, &container).await;
        ensure!(result.is_err(), "{result:?}");

        let pod = node.pod("privileged").security(|s| s.privileged = true);
        let container = pod.container("main", &image).sleeper().security(|security| {
            security.privileged = true;
            security.masked_paths.clear();
            security.readonly_paths.clear();
        });
        let (_, id) = node.run(&pod, &container).await?;
        ensure!(own_status(node, &id, "Seccomp").await? == "0");
        let all = std::fs::read_to_string("/proc/self/status")?;
        let all = status_field(&all, "CapBnd").context("our own capabilities")?.to_owned();
        ensure!(own_status(node, &id, "CapEff").await? == all);
        node.cri
            .shell(&id, "ls -d /dev/net/tun /dev/fuse /dev/loop-control 2>/dev/null | head -n1")
            .await?;
        let sys = node.cri.shell(&id, "grep ' /sys ' /proc/mounts").await?;
        ensure!(sys.contains("rw"), "{sys}");
        Ok(())
    })
}

/// Options of cgroup file systems, which all mounts of one share.
fn cgroup_options() -> Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let shared = table.lines().filter_map(|line| line.split_once(" - ")).map(|(_, rest)| rest);
    Ok(shared.filter(|rest| rest.starts_with("cgroup")).map(str::to_owned).collect())
}

#[test]
fn privilege_is_the_containers_that_asked_and_changes_nothing_of_the_host() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let before = cgroup_options()?;
        let pod = node.pod("beside").security(|s| s.privileged = true);
        let pod_id = node.cri.run_pod(&pod).await?;
        for (name, privileged) in [("privileged", true), ("ordinary", false)] {
            let container = pod.container(name, &image).sleeper().security(|security| {
                security.privileged = privileged;
                security.masked_paths = vec!["/proc/version".into()];
                security.readonly_paths = vec!["/proc/sys".into()];
            });
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            node.cri.start(&id).await?;
            let mounts = node.cri.shell(&id, "cat /proc/mounts").await?;
            for place in ["/sys", "/sys/fs/cgroup"] {
                let at = |line: &&str| line.split(' ').nth(1) == Some(place);
                let line = mounts.lines().rfind(at).with_context(|| format!("no {place}"))?;
                let writable = line.split(' ').nth(3).is_some_and(|o| o.starts_with("rw"));
                ensure!(writable == privileged, "{name}: {line}");
            }
            for place in ["/proc/version", "/proc/sys"] {
                let covered = mounts.lines().any(|line| line.split(' ').nth(1) == Some(place));
                ensure!(covered != privileged, "{name}: {place}");
            }
            // The host's hierarchy is seen by the privileged one alone, where it is unified.
            if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
                let seen = node.cri.exec(&id, &["ls", "/sys/fs/cgroup/cgroup.subtree_control"], 10);
                ensure!(seen.await?.code == 0);
                let host = format!("/sys/fs/cgroup{}", node.scratch.cgroup_parent());
                let host = node.cri.exec(&id, &["ls", &host], 10).await?;
                ensure!((host.code == 0) == privileged, "{name}: {host:?}");
            }
        }
        ensure!(cgroup_options()? == before, "{before:?} became {:?}", cgroup_options()?);
        Ok(())
    })
}

#[test]
fn as_many_paths_are_masked_as_a_large_machine_has() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let mut paths = Vec::new();
        for entry in std::fs::read_dir("/sys/module")? {
            let path = entry?.path();
            if path.is_dir() && paths.len() < 120 {
                paths.push(path.display().to_string());
            }
        }
        ensure!(paths.len() > 50, "{paths:?}");
        // Kubelet names one for each processor there might be.
        let absent = |cpu: u32| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
        let masked: Vec<_> = paths.iter().cloned().chain((1000..1100).map(absent)).collect();
        let id = secured(node, "masks", &image, |security| security.masked_paths = masked).await?;
        let list = format!("ls -A {} | grep -v '^/sys'; true", paths.join(" "));
        let seen = node.cri.shell(&id, &list).await?;
        ensure!(seen.trim().is_empty(), "{seen}");
        Ok(())
    })
}

#[test]
fn devices_are_denied_unless_asked_for() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("devices");
        let container = pod.container("main", &image).sleeper().with(|config| {
            config.devices.push(v1::Device {
                host_path: "/dev/zero".into(),
                container_path: "/dev/other-zero".into(),
                permissions: "r".into(),
            });
        });
        let (_, id) = node.run(&pod, &container).await?;
        let bytes = node.cri.shell(&id, "head -c4 /dev/other-zero | wc -c").await?;
        ensure!(bytes == "4", "{bytes}");
        // MKNOD is in the default set: the node can be made, but not opened.
        let script = "mknod /tmp/kmsg c 1 11 && head -c1 /tmp/kmsg";
        let kmsg = node.cri.exec(&id, &["sh", "-c", script], 10).await?;
        ensure!(kmsg.code != 0, "a device that was not asked for was read: {kmsg:?}");
        Ok(())
    })
}
