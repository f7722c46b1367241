//! What a runtime makes or writes in a container's root, and images, mounts and others who change them
//! meanwhile that want it to happen elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, RenameFlags};
use serde_json::{Value, json};
use test_support::oci::{ConsoleSocket, with_runtime};

fn push_mount(spec: &mut Value, mount: Value) {
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.push(mount);
    }
}

/// CVE-2025-31133: `/dev/null` of the container is something else, and masks are made of it.
#[test]
fn masks_are_made_of_the_hosts_null_whatever_the_containers_is() -> Result<()> {
    with_runtime(|runtime| {
        for (name, null) in
            [("link", Some("/proc/sysrq-trigger")), ("file", None), ("gone", Some(""))]
        {
            // A directory of somebody else's in the place of /dev.
            let dev = runtime.dir().join(format!("dev-{name}"));
            fs::create_dir_all(dev.join("pts"))?;
            match null {
                Some("") => {}
                Some(target) => symlink(target, dev.join("null"))?,
                None => fs::write(dev.join("null"), "forged")?,
            }
            let command = "stat -c '%t:%T %F' /etc/secret; cat /etc/secret; ls -A /etc/private";
            let bundle = runtime.bundle(name, command, |spec| {
                spec["linux"]["maskedPaths"] = json!(["/etc/secret", "/etc/private"]);
                if let Some(mounts) = spec["mounts"].as_array_mut() {
                    mounts.retain(|m| {
                        !m["destination"].as_str().unwrap_or_default().starts_with("/dev")
                    });
                }
                push_mount(
                    spec,
                    json!({"destination": "/dev", "source": dev, "options": ["bind"]}),
                );
            })?;
            let root = runtime.dir().join(name).join("rootfs");
            fs::write(root.join("etc/secret"), "secret")?;
            fs::create_dir(root.join("etc/private"))?;
            fs::write(root.join("etc/private/key"), "secret")?;
            let out = runtime.call(&["run", "-b", &bundle, &runtime.id(name)])?.ok()?;
            ensure!(out == "1:3 character special file\n", "{name}: {out}");
        }
        Ok(())
    })
}

/// CVE-2025-52565: the place of the console, or of the terminals, leads elsewhere.
#[test]
fn a_console_that_leads_elsewhere_is_not_put_there() -> Result<()> {
    with_runtime(|runtime| {
        let outside = runtime.dir().join("outside");
        fs::write(&outside, "untouched")?;
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
        for (name, target) in [
            ("kernel", "/proc/sys/kernel/core_pattern".to_owned()),
            ("trigger", "/proc/sysrq-trigger".to_owned()),
            ("up", format!("../../../../../../../../..{}", outside.display())),
        ] {
            let dev = runtime.dir().join(format!("dev-{name}"));
            fs::create_dir_all(dev.join("pts"))?;
            symlink(&target, dev.join("console"))?;
            let command = "echo changed > /dev/console; cat /proc/sys/kernel/core_pattern";
            let bundle = runtime.bundle(name, command, |spec| {
                spec["process"]["terminal"] = json!(true);
                if let Some(mounts) = spec["mounts"].as_array_mut() {
                    mounts.retain(|m| m["destination"] != "/dev");
                    mounts.insert(
                        0,
                        json!({"destination": "/dev", "source": dev, "options": ["bind"]}),
                    );
                }
            })?;
            let socket = ConsoleSocket::listen(runtime.dir().join(format!("socket-{name}")))?;
            let id = runtime.id(name);
            let said = runtime.leave_with(&[
                "create",
                "-b",
                &bundle,
                "--console-socket",
                socket.path(),
                &id,
            ])?;
            if said.code == 0 {
                let pid = runtime.state(&id)?["pid"].clone();
                let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
                ensure!(
                    !mounts.contains(" /proc/sys/") && !mounts.contains("core_pattern"),
                    "{name}: mounted over the kernel's: {mounts}"
                );
                runtime.call(&["delete", "--force", &id])?.ok()?;
            } else {
                ensure!(
                    said.err.contains("/dev/console") || said.err.contains("terminal"),
                    "{name}: {said:?}"
                );
            }
            ensure!(fs::read_to_string(&outside)? == "untouched", "{name}: written outside");
            ensure!(fs::read_to_string("/proc/sys/kernel/core_pattern")? == pattern, "{name}");
        }
        Ok(())
    })
}

/// CVE-2025-52881: what the runtime writes to `/proc` (kernel parameters, security labels, the process's
/// own settings) is caught by something that is mounted there.
#[test]
fn what_is_written_to_proc_goes_to_the_kernel_also_where_others_are_in_the_way() -> Result<()> {
    with_runtime(|runtime| {
        let forged = runtime.dir().join("forged");
        for file in ["ip_unprivileged_port_start", "exec", "oom_score_adj"] {
            fs::create_dir_all(forged.join("ipv4"))?;
            fs::create_dir_all(forged.join("attr"))?;
            for dir in ["", "ipv4", "attr"] {
                fs::write(forged.join(dir).join(file), "forged")?;
            }
        }
        let before = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
        let bundle = runtime.bundle("b", "cat /proc/1/oom_score_adj; sleep 100000", |spec| {
            spec["process"]["oomScoreAdj"] = json!(500);
            spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
            push_mount(spec, json!({
                "destination": "/proc/sys/net/ipv4", "source": forged.join("ipv4"), "options": ["bind"],
            }));
            push_mount(spec, json!({
                "destination": "/proc/1/attr", "source": forged.join("attr"), "options": ["bind"],
            }));
        })?;
        let id = runtime.id("a");
        runtime.leave(&["run", "-d", "-b", &bundle, &id])?;
        let pid = runtime.state(&id)?["pid"].to_string();
        let words = ["-t", &pid, "-n", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"];
        let real = Command::new("nsenter").args(words).output().context("run nsenter")?;
        ensure!(real.stdout == b"77\n", "{real:?}");
        ensure!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))? == "500\n");
        runtime.call(&["exec", &id, "true"])?.ok()?;
        for path in ["ipv4/ip_unprivileged_port_start", "attr/exec", "oom_score_adj"] {
            ensure!(fs::read_to_string(forged.join(path))? == "forged", "{path} was written");
        }
        ensure!(fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")? == before);
        Ok(())
    })
}

/// As above, where the whole of `/proc` is a forgery.
#[test]
fn a_forged_proc_gets_nothing_of_the_runtimes() -> Result<()> {
    with_runtime(|runtime| {
        let forged = runtime.dir().join("forged");
        for (dir, file) in [
            ("sys/net/ipv4", "ip_unprivileged_port_start"),
            ("self/attr", "exec"),
            ("thread-self/attr", "exec"),
            ("self", "oom_score_adj"),
            ("thread-self", "oom_score_adj"),
        ] {
            fs::create_dir_all(forged.join(dir))?;
            fs::write(forged.join(dir).join(file), "forged")?;
        }
        let bundle = runtime.bundle("b", "sleep 100000", |spec| {
            spec["process"]["oomScoreAdj"] = json!(500);
            spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
            for list in ["maskedPaths", "readonlyPaths"] {
                spec["linux"][list] = json!([]);
            }
            for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
                if mount["destination"] == "/proc" {
                    *mount =
                        json!({"destination": "/proc", "source": forged, "options": ["rbind"]});
                }
            }
        })?;
        let id = runtime.id("a");
        runtime.leave(&["run", "-d", "-b", &bundle, &id])?;
        let pid = runtime.state(&id)?["pid"].to_string();
        ensure!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))? == "500\n");
        runtime.call(&["exec", &id, "true"])?.ok()?;
        for path in [
            "sys/net/ipv4/ip_unprivileged_port_start",
            "self/attr/exec",
            "thread-self/oom_score_adj",
        ] {
            ensure!(fs::read_to_string(forged.join(path))? == "forged", "{path} was written");
        }
        Ok(())
    })
}

/// CVE-2024-45310, CVE-2021-30465: a component of a mount's target is a directory one moment and a link
/// out of the root the next.
#[test]
fn a_target_whose_components_change_all_the_time_stays_in_the_root() -> Result<()> {
    with_runtime(|runtime| {
        let outside = runtime.dir().join("outside");
        fs::create_dir(&outside)?;
        let mark = runtime.dir().join("mark");
        fs::create_dir(&mark)?;
        let bundle = runtime.bundle("b", "true", |spec| {
            for name in ["deep/dir", "deep/file"] {
                let source: &Path = if name.ends_with("dir") { &mark } else { Path::new("/bin/busybox") };
                push_mount(spec, json!({
                    "destination": format!("/data/{name}"), "source": source, "options": ["bind", "ro"],
                }));
            }
        })?;
        let root = runtime.dir().join("b/rootfs");
        let (real, link) = (root.join("data"), root.join("other"));
        fs::create_dir(&real)?;
        symlink(&outside, &link)?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let swaps = scope.spawn(|| {
                let mut count = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    if rustix::fs::renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE)
                        .is_ok()
                    {
                        count += 1;
                    }
                }
                count
            });
            let run = || -> Result<()> {
                for turn in 0..25 {
                    runtime.call(&["run", "-b", &bundle, &runtime.id(&format!("r{turn}"))])?;
                    let left: Vec<_> =
                        fs::read_dir(&outside)?.flatten().map(|e| e.path()).collect();
                    ensure!(left.is_empty(), "made outside: {left:?}");
                }
                Ok(())
            };
            let outcome = run();
            done.store(true, Ordering::Relaxed);
            let count =
                swaps.join().map_err(|_| anyhow::anyhow!("the swapping thread panicked"))?;
            outcome?;
            ensure!(count > 0, "nothing was swapped");
            Ok(())
        })
    })
}

/// CVE-2024-21626 and its like: a process that waits to be started has nothing of the host's open that
/// somebody could get in by.
#[test]
fn a_container_that_waits_holds_no_files_of_the_host() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "true", |_| {})?;
        let id = runtime.id("a");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let pid = runtime.state(&id)?["pid"].clone();
        let streams = runtime.dir().join("streams");
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let target = fs::read_link(entry?.path())?;
            let shown = target.to_string_lossy().into_owned();
            let known = target == streams
                || matches!(shown.as_str(), "/dev/null" | "/")
                || shown.starts_with("socket:");
            ensure!(known, "it holds {shown}");
        }
        runtime.call(&["start", &id])?.ok()?;
        Ok(())
    })
}
