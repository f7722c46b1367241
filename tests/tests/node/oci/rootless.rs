//! The runtime in the hands of an ordinary user.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use test_support::files::wait_for;
use test_support::node::PATIENCE;
use test_support::oci::{Runtime, Said, adapt_spec, busybox_root, wait_ended, with_runtime};

/// Nobody in particular.
const USER: &str = "47110";

/// A user with a directory of its own in that of a runtime.
struct User {
    dir: PathBuf,
    program: PathBuf,
}

impl User {
    fn of(runtime: &Runtime) -> Result<Self> {
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(runtime.dir(), open.clone())?;
        let dir = runtime.dir().join("user");
        fs::create_dir(&dir)?;
        // The user may not go where the program was built.
        let program = runtime.dir().join("bin/knarr-oci");
        fs::create_dir(runtime.dir().join("bin"))?;
        fs::copy(runtime.program(), &program).context("copy the program")?;
        fs::set_permissions(&program, open)?;
        let user = Self { dir, program };
        user.take(&user.dir)?;
        Ok(user)
    }

    fn take(&self, path: &Path) -> Result<()> {
        let owner = format!("{USER}:{USER}");
        let status = Command::new("chown").arg("-R").arg(owner).arg(path).status()?;
        ensure!(status.success(), "chown of {}", path.display());
        Ok(())
    }

    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--inh-caps=-all"]);
        command.arg(program).args(words).current_dir(&self.dir).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", &self.dir);
        command
    }

    fn call(&self, words: &[&str]) -> Result<Said> {
        let output = self.command(&self.program, words).output().context("run setpriv")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(256);
        Ok(Said { code, out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// A bundle of the user's.
    fn bundle(&self, name: &str, command: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
        let dir = self.dir.join(name);
        busybox_root(&dir.join("rootfs"))?;
        self.take(&dir)?;
        let place = dir.to_str().context("a path of text")?.to_owned();
        self.call(&["spec", "--rootless", "--bundle", &place])?.ok()?;
        adapt_spec(&dir, command, change)?;
        Ok(place)
    }
}

/// Runs a test as a user, where users may make namespaces.
fn with_user(test: impl FnOnce(&User) -> Result<()>) -> Result<()> {
    with_runtime(|runtime| {
        let user = User::of(runtime)?;
        let may = user.command(Path::new("unshare"), &["-Ur", "true"]).output()?.status.success();
        if !may {
            test_support::skip("users may not make namespaces on this host");
            return Ok(());
        }
        test(&user)
    })
}

#[test]
fn a_user_runs_a_container_as_root_of_its_own_namespace() -> Result<()> {
    with_user(|user| {
        let command = "id -u; cat /proc/self/uid_map; echo x > /dev/null && hostname; exit 7";
        let bundle = user.bundle("b", command, |_| {})?;
        let said = user.call(&["run", "-b", &bundle, "a"])?;
        let lines: Vec<&str> = said.out.lines().collect();
        ensure!(said.code == 7 && lines.len() == 3, "{said:?}");
        let map: Vec<&str> = lines[1].split_whitespace().collect();
        ensure!(lines[0] == "0" && map == ["0", USER, "1"] && lines[2] == "knarr", "{said:?}");
        // By default its state is where the user's files for a session are.
        ensure!(fs::read_dir(user.dir.join("knarr-oci"))?.count() == 0, "something is left");
        Ok(())
    })
}

#[test]
fn every_verb_is_for_users_too() -> Result<()> {
    with_user(|user| {
        let bundle = user.bundle("b", "echo up; sleep 100000", |spec| {
            spec["process"]["oomScoreAdj"] = json!(300);
        })?;
        let streams = user.dir.join("streams");
        let file = fs::File::create(&streams)?;
        let status = user
            .command(&user.program, &["create", "-b", &bundle, "a"])
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()?;
        ensure!(status.success(), "{}", fs::read_to_string(&streams)?);
        let state = |user: &User| -> Result<Value> {
            Ok(serde_json::from_str(&user.call(&["state", "a"])?.ok()?)?)
        };
        ensure!(state(user)?["status"] == "created" && state(user)?["owner"] == USER);
        user.call(&["start", "a"])?.ok()?;
        wait_for(&streams, PATIENCE, |text| text.contains("up").then_some(()))?;
        ensure!(state(user)?["status"] == "running");
        let words =
            ["exec", "a", "sh", "-c", "id -u; hostname; cat /proc/self/oom_score_adj; exit 3"];
        let said = user.call(&words)?;
        ensure!(said.code == 3 && said.out == "0\nknarr\n300\n", "{said:?}");
        let list = user.call(&["list"])?.ok()?;
        ensure!(list.contains("running"), "{list}");
        let pid = state(user)?["pid"].clone();
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}"))?);
        ensure!(owner.to_string() == USER, "it is run by {owner}");
        user.call(&["kill", "a", "KILL"])?.ok()?;
        wait_ended(&pid)?;
        ensure!(state(user)?["status"] == "stopped");
        user.call(&["delete", "a"])?.ok()?;
        ensure!(fs::read_dir(user.dir.join("knarr-oci"))?.count() == 0, "something is left");
        Ok(())
    })
}

#[test]
fn what_a_user_cannot_have_is_named() -> Result<()> {
    with_user(|user| {
        let none = |spec: &mut Value| {
            if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                list.retain(|namespace| namespace["type"] != "user");
            }
        };
        let others = |spec: &mut Value| {
            spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 10}]);
        };
        let groups = |spec: &mut Value| spec["process"]["user"]["additionalGids"] = json!([0]);
        type Change<'a> = &'a dyn Fn(&mut Value);
        let cases: [(&str, Change<'_>, &str); 3] = [
            ("none", &none, "user namespace"),
            ("others", &others, "user namespace"),
            ("groups", &groups, "become user 0:0"),
        ];
        for (name, change, word) in cases {
            let bundle = user.bundle(name, "echo ran", change)?;
            let said = user.call(&["run", "-b", &bundle, name])?;
            ensure!(said.code == 1 && said.err.contains(word), "{name}: {said:?}");
            ensure!(said.out.is_empty(), "{name}: {said:?}");
        }
        Ok(())
    })
}

/// CVE-2023-25809: the host's cgroups are mounts below `/sys`, and a read-only one above them protects
/// none. What the user may write to, his containers then may.
#[test]
fn the_hosts_cgroups_are_read_only_also_those_that_are_the_users() -> Result<()> {
    with_user(|user| {
        let top = Path::new("/sys/fs/cgroup");
        let one = ["cgroup.controllers", "pids"].map(|name| top.join(name));
        let tree = if one[0].exists() { top } else { &one[1] };
        let mine = tree.join(format!("ktoci-mine-{}", std::process::id()));
        fs::create_dir(&mine).with_context(|| mine.display().to_string())?;
        let tried = std::os::unix::fs::chown(&mine, USER.parse().ok(), None)
            .map_err(Into::into)
            .and_then(|()| write_to_cgroup(user, &mine));
        fs::remove_dir(mine.join("made")).ok();
        fs::remove_dir(&mine)?;
        tried
    })
}

fn write_to_cgroup(user: &User, mine: &Path) -> Result<()> {
    let script = format!("mkdir {0}/made; test -d {0} && echo seen", mine.display());
    // As `spec --rootless` has it, and with cgroups of their own mount, in the host's namespace.
    for name in ["by-default", "mounted"] {
        let bundle = user.bundle(name, &script, |spec| {
            if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                list.retain(|namespace| namespace["type"] != "cgroup");
            }
            let mounts = spec["mounts"].as_array_mut().filter(|_| name == "mounted");
            mounts.into_iter().for_each(|mounts| {
                mounts.push(json!({
                    "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
                }));
            });
        })?;
        let said = user.call(&["run", "-b", &bundle, name])?;
        ensure!(said.out == "seen\n" && said.err.contains("Read-only"), "{name}: {said:?}");
        ensure!(!mine.join("made").exists(), "{name}: it was made");
    }
    Ok(())
}

/// A cgroup that has been given to the user; goes when it is dropped.
struct Given(PathBuf);

impl Given {
    /// None where cgroups are not of version 2 alone.
    fn to(name: &str) -> Result<Option<Self>> {
        let top = Path::new("/sys/fs/cgroup");
        if !top.join("cgroup.controllers").exists() {
            test_support::skip("no cgroup v2 whose groups can be given to users");
            return Ok(None);
        }
        fs::write(top.join("cgroup.subtree_control"), "+memory +pids")?;
        let given = Self(top.join(name));
        fs::create_dir(&given.0)?;
        let id = USER.parse().ok();
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            std::os::unix::fs::chown(given.0.join(file), id, id)?;
        }
        Ok(Some(given))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().to_owned())
    }

    /// The user's command, begun in it or below it.
    fn command(&self, below: &str, user: &User, words: &[&str]) -> Result<Command> {
        let inner = user.command(&user.program, words);
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]).arg(self.0.join(below));
        // Busybox's shell would run its own of that name.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).map(|dir| dir.join(inner.get_program()));
        let program = places.find(|place| place.exists()).context("setpriv is not installed")?;
        command.arg(program).args(inner.get_args());
        command.current_dir(&user.dir).stdin(Stdio::null()).env("XDG_RUNTIME_DIR", &user.dir);
        Ok(command)
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        // What is in it has ended, or is ended here with all below.
        fs::write(self.0.join("cgroup.kill"), "1").ok();
        for group in [self.0.join("knarr-oci-a"), self.0.join("knarr-oci"), self.0.clone()] {
            let deadline = std::time::Instant::now() + PATIENCE;
            while group.exists() && fs::remove_dir(&group).is_err() {
                if std::time::Instant::now() > deadline {
                    eprintln!("{} is left", group.display());
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
}

fn limited(spec: &mut Value) {
    spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    spec["linux"]["resources"]["pids"] = json!({"limit": 50});
}

/// Runs it with its output in a file: what it starts keeps that open.
fn run_apart(user: &User, mut command: Command) -> Result<String> {
    let streams = user.dir.join("streams");
    let file = fs::File::create(&streams)?;
    let status = command.stdout(file.try_clone()?).stderr(file).status()?;
    let said = fs::read_to_string(&streams)?;
    ensure!(status.success(), "{status}: {said}");
    Ok(said)
}

#[test]
fn in_a_cgroup_of_its_own_a_user_limits_containers() -> Result<()> {
    with_user(|user| {
        let Some(given) = Given::to(&format!("ktoci-{}", std::process::id()))? else {
            return Ok(());
        };
        let bundle = user.bundle("b", "sleep 100000", limited)?;
        run_apart(user, given.command("", user, &["create", "-b", &bundle, "a"])?)?;
        let memory = || given.read("knarr-oci-a/memory.max");
        ensure!(memory()? == (64 << 20).to_string(), "{}", memory()?);
        ensure!(given.read("knarr-oci-a/pids.max")? == "50");
        let state: Value = serde_json::from_str(&user.call(&["state", "a"])?.ok()?)?;
        let members = given.read("knarr-oci-a/cgroup.procs")?;
        ensure!(members.parse().ok() == state["pid"].as_i64(), "{members}: {state}");
        user.call(&["start", "a"])?.ok()?;
        user.call(&["update", "--memory", "100663296", "a"])?.ok()?;
        ensure!(memory()? == "100663296", "{}", memory()?);
        user.call(&["pause", "a"])?.ok()?;
        ensure!(given.read("knarr-oci-a/cgroup.freeze")? == "1");
        user.call(&["resume", "a"])?.ok()?;
        let exec = ["exec", "a", "cat", "/proc/self/cgroup"];
        let said = run_apart(user, given.command("knarr-oci", user, &exec)?)?;
        ensure!(said.contains("0::/"), "{said}");
        ensure!(user.call(&["ps", "a"])?.ok()?.contains("sleep"));
        user.call(&["delete", "--force", "a"])?.ok()?;
        ensure!(!given.0.join("knarr-oci-a").exists(), "its cgroup is left");
        Ok(())
    })
}

#[test]
fn a_cgroup_with_others_in_it_is_not_divided() -> Result<()> {
    with_user(|user| {
        let Some(given) = Given::to(&format!("ktoci-others-{}", std::process::id()))? else {
            return Ok(());
        };
        let mut other = Command::new("sh");
        other.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec sleep 1000"]).arg(&given.0);
        let mut other = other.spawn()?;
        while given.read("cgroup.procs")?.is_empty() {
            std::thread::yield_now();
        }
        let bundle = user.bundle("b", "sleep 100000", limited)?;
        let said = run_apart(user, given.command("", user, &["create", "-b", &bundle, "a"])?)?;
        ensure!(said.contains("has other processes"), "{said}");
        ensure!(!given.0.join("knarr-oci-a").exists(), "it has a cgroup");
        user.call(&["start", "a"])?.ok()?;
        let state: Value = serde_json::from_str(&user.call(&["state", "a"])?.ok()?)?;
        ensure!(state["status"] == "running", "{state}");
        user.call(&["delete", "--force", "a"])?.ok()?;
        other.kill()?;
        other.wait().map(drop)?;
        Ok(())
    })
}
