//! What a container's process finds: environment, mounts, identity.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use test_support::oci::{Runtime, with_runtime};

use super::exec::sleeper;

/// The output of a container that runs a command.
fn output(
    runtime: &Runtime,
    name: &str,
    command: &str,
    change: impl FnOnce(&mut Value),
) -> Result<String> {
    let bundle = runtime.bundle(name, command, change)?;
    runtime.call(&["run", "-b", &bundle, &runtime.id(name)])?.ok()
}

#[test]
fn a_home_is_given_where_the_environment_names_none() -> Result<()> {
    with_runtime(|runtime| {
        let path = "PATH=/bin";
        for (name, env, uid, want) in [
            ("root", json!([path]), 0, "/root"),
            ("empty", json!([path, "HOME="]), 0, "/root"),
            ("own", json!(["HOME=/own", path]), 0, "/own"),
            ("unknown", json!([path]), 4711, "/"),
        ] {
            let out = output(runtime, name, "env", |spec| {
                spec["process"]["env"] = env.clone();
                spec["process"]["user"]["uid"] = json!(uid);
            })?;
            let homes: Vec<&str> =
                out.lines().filter_map(|line| line.strip_prefix("HOME=")).collect();
            ensure!(homes == [want], "{name}: {out}");
        }
        let id = sleeper(runtime, |_| {})?;
        let out = runtime.call(&["exec", &id, "sh", "-c", "echo $HOME"])?.ok()?;
        ensure!(out == "/root\n", "{out}");
        Ok(())
    })
}

/// A table of users that is a device or a link out of the root is none.
#[test]
fn a_hostile_table_of_users_is_not_read() -> Result<()> {
    with_runtime(|runtime| {
        for (name, target) in [("zero", "/dev/zero"), ("proc", "/proc/self/environ")] {
            let bundle = runtime.bundle(name, "echo $HOME", |_| {})?;
            let table = runtime.dir().join(name).join("rootfs/etc/passwd");
            fs::remove_file(&table)?;
            std::os::unix::fs::symlink(target, &table)?;
            let out = runtime.call(&["run", "-b", &bundle, &runtime.id(name)])?.ok()?;
            ensure!(out == "/\n", "{name}: {out}");
        }
        Ok(())
    })
}

#[test]
fn of_entries_with_the_same_name_the_last_holds_and_is_the_only_one() -> Result<()> {
    with_runtime(|runtime| {
        let out = output(runtime, "a", "", |spec| {
            spec["process"]["args"] = json!(["/bin/env"]);
            spec["process"]["env"] = json!(["A=1", "PATH=/bin", "A=2", "B=x\ny", "A=3"]);
        })?;
        ensure!(out.lines().filter(|line| line.starts_with("A=")).eq(["A=3"]), "{out}");
        ensure!(out.contains("B=x\ny\n"), "{out}");
        Ok(())
    })
}

#[test]
fn start_hooks_without_an_environment_have_the_processs() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "cat /tmp/told", |spec| {
            spec["root"]["readonly"] = json!(false);
            spec["process"]["env"] = json!(["PATH=/bin", "MARK=here"]);
            let hook = |env: Value| json!({"path": "/bin/sh", "args": ["sh", "-c", "echo $MARK >> /tmp/told"], "env": env});
            spec["hooks"]["startContainer"] = json!([hook(json!(null)), hook(json!(["MARK=own"]))]);
        })?;
        let out = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?.ok()?;
        ensure!(out == "here\nown\n", "{out}");
        Ok(())
    })
}

#[test]
fn hooks_in_the_container_before_its_root_is_entered_start_in_that_root() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "cat /tmp/told", |spec| {
            let script = "pwd > tmp/told";
            spec["hooks"]["createContainer"] =
                json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        })?;
        let out = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?.ok()?;
        ensure!(out == format!("{bundle}/rootfs\n"), "{out}");
        Ok(())
    })
}

#[test]
fn capabilities_nobody_knows_are_passed_over_with_a_warning() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "grep CapBnd /proc/self/status", |spec| {
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_NONE_SUCH"]);
            }
        })?;
        let said = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?;
        ensure!(said.out == "CapBnd:\t0000000000000020\n", "{said:?}");
        ensure!(
            said.err.contains("level=warning") && said.err.contains("CAP_NONE_SUCH"),
            "{said:?}"
        );
        Ok(())
    })
}

/// CVE-2022-29162: what is inheritable is what the specification says, nothing by default.
#[test]
fn nothing_is_inheritable_that_was_not_asked_for() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        let sets = "grep -E 'CapInh|CapAmb' /proc/self/status";
        let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
        for words in [
            &["exec", &id, "sh", "-c", sets][..],
            &["exec", "--cap", "CAP_SYSLOG", &id, "sh", "-c", sets],
        ] {
            let out = runtime.call(words)?.ok()?;
            ensure!(out == none, "{words:?}: {out}");
        }
        // Where it is inheritable, whoever is given it has it without being root.
        let bundle = runtime.bundle("asked", "sleep 100000", |spec| {
            for set in ["bounding", "inheritable", "permitted"] {
                spec["process"]["capabilities"][set] = json!(["CAP_CHOWN", "CAP_SYSLOG"]);
            }
            spec["process"]["capabilities"]["ambient"] = json!(["CAP_CHOWN"]);
        })?;
        let id = runtime.id("asked");
        runtime.leave(&["run", "-d", "-b", &bundle, &id])?;
        let ambient = "grep CapAmb /proc/self/status";
        let out = runtime.call(&["exec", "--cap", "CAP_SYSLOG", &id, "sh", "-c", ambient])?.ok()?;
        ensure!(out == "CapAmb:\t0000000400000001\n", "{out}");
        // What may never be gained cannot be handed on either.
        let bundle = runtime.bundle("bounded", "grep CapInh /proc/self/status", |spec| {
            spec["process"]["capabilities"]["bounding"] = json!(["CAP_CHOWN"]);
            spec["process"]["capabilities"]["inheritable"] = json!(["CAP_CHOWN", "CAP_KILL"]);
        })?;
        let said = runtime.call(&["run", "-b", &bundle, &runtime.id("bounded")])?;
        ensure!(said.out == "CapInh:\t0000000000000001\n", "{said:?}");
        ensure!(said.err.contains("not applied: inheritable capabilities CAP_KILL"), "{said:?}");
        Ok(())
    })
}

#[test]
fn a_process_that_says_little_is_root_in_the_root() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        let path = runtime.dir().join("process.json");
        let process = json!({
            "args": ["/bin/sh", "-c", "id -u; pwd"], "cwd": "/",
            "scheduler": {"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
        });
        fs::write(&path, process.to_string())?;
        let path = path.to_str().unwrap_or_default();
        let out = runtime.call(&["exec", "--process", path, &id])?.ok()?;
        ensure!(out == "0\n/\n", "{out}");
        Ok(())
    })
}

#[test]
fn a_tmpfs_looks_like_the_directory_it_covers() -> Result<()> {
    with_runtime(|runtime| {
        let command = "stat -c %a /covers /says /new";
        let bundle = runtime.bundle("b", command, |spec| {
            let mount = |to: &str, options: Value| json!({"destination": to, "type": "tmpfs", "source": "tmpfs", "options": options});
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts.push(mount("/covers", json!(["nosuid"])));
                mounts.push(mount("/says", json!(["mode=1500"])));
                mounts.push(mount("/new", json!([])));
            }
        })?;
        for name in ["covers", "says"] {
            let dir = runtime.dir().join("b/rootfs").join(name);
            fs::create_dir(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o2710))?;
        }
        let out = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?.ok()?;
        ensure!(out == "2710\n1500\n1777\n", "{out}");
        Ok(())
    })
}

#[test]
fn a_read_only_dev_is_filled_first() -> Result<()> {
    with_runtime(|runtime| {
        let command = "echo x > /dev/null && [ -d /dev/pts ] && ! touch /dev/new";
        let out = output(runtime, "a", command, |spec| {
            for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
                if mount["destination"] == "/dev" {
                    mount["options"] = json!(["nosuid", "mode=755", "ro"]);
                }
            }
        })?;
        ensure!(out.is_empty(), "{out}");
        Ok(())
    })
}

#[test]
fn a_path_that_is_to_be_protected_twice_is_so_once() -> Result<()> {
    with_runtime(|runtime| {
        let command = "grep -c ' /tmp/a ' /proc/mounts; grep -c ' /etc ' /proc/mounts";
        let out = output(runtime, "a", command, |spec| {
            spec["linux"]["maskedPaths"] = json!(["/tmp/a", "/none", "/tmp/a"]);
            spec["linux"]["readonlyPaths"] = json!(["/etc", "/etc"]);
            let mount = json!({"destination": "/tmp/a", "type": "tmpfs", "source": "x"});
            spec["root"]["readonly"] = json!(false);
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts.push(mount);
            }
        })?;
        // The tmpfs, and one mask on it.
        ensure!(out == "2\n1\n", "{out}");
        Ok(())
    })
}

#[test]
fn a_user_namespace_is_joined_without_being_described() -> Result<()> {
    with_runtime(|runtime| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        let owned = |spec: &mut Value| {
            spec["linux"]["uidMappings"] = map.clone();
            spec["linux"]["gidMappings"] = map.clone();
            if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                list.push(json!({"type": "user"}));
            }
        };
        let first = runtime.bundle("first", "sleep 100000", owned)?;
        let status =
            std::process::Command::new("chown").args(["-R", "100000:100000", &first]).status()?;
        ensure!(status.success());
        let id = runtime.id("first");
        runtime.leave(&["run", "-d", "-b", &first, &id])?;
        let place = format!("/proc/{}/ns/user", runtime.state(&id)?["pid"]);
        let bundle = runtime.bundle(
            "second",
            "cat /proc/self/uid_map; readlink /proc/self/ns/user; sleep 100000",
            |spec| {
                if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                    list.push(json!({"type": "user", "path": place}));
                }
            },
        )?;
        let status =
            std::process::Command::new("chown").args(["-R", "100000:100000", &bundle]).status()?;
        ensure!(status.success());
        let second = runtime.id("second");
        runtime.leave(&["run", "-d", "-b", &bundle, &second])?;
        let joined = fs::read_link(&place)?;
        let streams = runtime.dir().join("streams");
        test_support::files::wait_for(&streams, test_support::node::PATIENCE, |text| {
            text.contains(&*joined.to_string_lossy()).then_some(())
        })?;
        // Later verbs know it too, also when the one whose namespace it was is gone.
        runtime.call(&["delete", "--force", &id])?.ok()?;
        let out = runtime.call(&["exec", &second, "id", "-u"])?.ok()?;
        ensure!(out == "0\n", "{out}");
        runtime.call(&["delete", "--force", &second])?.ok()?;
        Ok(())
    })
}
