//! Other OCI runtimes behind RuntimeClasses: what is particular to them, and, in `table`, what is the same. That
//! pods live under them as under the built-in one is shown by the other tests, too: `cargo xtask test
//! --handler NAME` runs them again.

mod scopes;
mod statistics;
mod table;
mod unwanted;
mod users;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::handlers::Runtime;
use test_support::node::{Node, PATIENCE, log_lines, on_a_node_with, texts};
use test_support::scratch::Scratch;
use test_support::skip;
use tonic::Code;

/// Runs `test` under each of `runtimes` that this host has.
fn under(
    runtimes: &[Runtime],
    test: &impl AsyncFn(&mut Node, Runtime) -> Result<()>,
) -> Result<()> {
    for runtime in runtimes {
        if let Err(why) = runtime.find() {
            skip(&why);
            continue;
        }
        let mut configured = Ok(());
        let configure = |_: &mut _, scratch: &_| configured = runtime.make_default(scratch);
        let name = runtime.name();
        on_a_node_with(configure, async |node| test(node, *runtime).await)
            .with_context(|| format!("under {name}"))?;
        configured?;
    }
    Ok(())
}

#[test]
fn a_shared_pid_namespace_and_memory_reach_other_runtimes() -> Result<()> {
    under(&[Runtime::Runc, Runtime::Crun, Runtime::KnarrOci], &async |node, _| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("shared").namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
        let (pod_id, first) = node.run(&pod, &pod.container("first", &image).sleeper()).await?;
        node.wait_log(&first, "asleep").await?;
        node.cri.shell(&first, "echo shared > /dev/shm/word").await?;
        let script = "cat /dev/shm/word; tr '\\0' ' ' < /proc/1/cmdline; echo";
        let second = pod.container("second", &image).script(script);
        let second = node.cri.create(&pod_id, &pod, &second).await?;
        node.cri.start(&second).await?;
        node.wait_exited(&second).await?;
        let lines = log_lines(&node.log_path(&second).await?)?;
        let said = texts(&lines, "stdout");
        ensure!(said.len() == 2 && said[0] == "shared" && said[1].contains("pause"), "{said:?}");
        Ok(())
    })
}

/// The condition that tells which handlers do not work.
async fn condition(node: &Node) -> Result<v1::RuntimeCondition> {
    let request = v1::StatusRequest { verbose: false };
    let answer = node.cri.runtime.clone().status(request).await?.into_inner();
    let conditions = answer.status.unwrap_or_default().conditions;
    let found = conditions.into_iter().find(|one| one.r#type == "KnarrHasUsableHandlers");
    found.context("no such condition")
}

/// What `knarr doctor` finds of handlers: severity, object, problem and remedy in one text each.
fn found(node: &Node) -> Result<Vec<String>> {
    let output = Command::new(node.daemon.program())
        .arg("--address")
        .arg(node.scratch.socket())
        .args(["doctor", "-o", "json"])
        .output()?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let findings = answer["findings"].as_array().cloned().unwrap_or_default();
    let ours = findings.into_iter().filter(|finding| finding["area"] == "handler");
    // What is a problem is not said: it is the default.
    let text = |finding: serde_json::Value| {
        format!("{} {finding}", finding["severity"].as_str().unwrap_or("PROBLEM"))
    };
    Ok(ours.map(text).collect())
}

/// Puts a program of this text in its place, whole, and with this mode.
fn put(path: &Path, text: &str, mode: u32) -> Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)?;
    fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    Ok(fs::rename(&fresh, path)?)
}

/// A node with a handler `fragile` whose runtime is `runtime` in the node's directory.
fn on_a_fragile_node(test: impl AsyncFnOnce(&mut Node, &Path) -> Result<()>) -> Result<()> {
    let place = |scratch: &Scratch| scratch.dir().join("runtime");
    let configure = |settings: &mut test_support::daemon::Settings, scratch: &Scratch| {
        let path = place(scratch);
        let table = format!("\n[handlers.fragile]\npath = \"{}\"\n", path.display());
        settings.extra_config += &table;
    };
    on_a_node_with(configure, async |node| {
        let path = place(&node.scratch);
        test(node, &path).await
    })
}

/// runc, if it is installed.
fn runc() -> Option<PathBuf> {
    Runtime::Runc.find().inspect_err(|why| skip(why)).ok()
}

/// A program that does as runc does, if that is installed.
fn calling_runc() -> Option<String> {
    runc().map(|runc| format!("#!/bin/sh\nexec {} \"$@\"\n", runc.display()))
}

#[test]
fn a_handler_that_does_not_work_is_told_and_harms_nobody_else() -> Result<()> {
    on_a_fragile_node(async |node, path| {
        let told = condition(node).await?;
        ensure!(!told.status && told.message.contains("fragile"), "{told:?}");
        node.sleeper("others").await?;
        let mut pod = node.pod("fragile");
        pod.handler = "fragile".into();
        let wanted = ["fragile", "No such file"];
        refused(node.cri.run_pod(&pod).await, Code::FailedPrecondition, &wanted)?;
        // Once it is there it is used, without a restart.
        put(path, "#!/bin/sh\n[ \"$1\" = --version ]\n", 0o755)?;
        let pod_id = node.cri.run_pod(&pod).await?;
        ensure!(condition(node).await?.status);
        ensure!(node.cri.pod(&pod_id).await?.runtime_handler == "fragile");
        Ok(())
    })
}

#[test]
fn a_runtime_that_breaks_while_pods_run_is_told_and_used_again_once_it_is_mended() -> Result<()> {
    let Some(works) = calling_runc() else { return Ok(()) };
    on_a_fragile_node(async |node, path| {
        put(path, &works, 0o755)?;
        let image = node.pulled("busybox").await?;
        let pod = |name: &str| {
            let mut pod = node.pod(name);
            pod.handler = "fragile".into();
            pod
        };
        let before = pod("before");
        let (pod_id, id) = node.run(&before, &before.container("main", &image).sleeper()).await?;
        node.wait_log(&id, "asleep").await?;
        for (text, mode, said) in [
            (works.as_str(), 0o644, "Permission denied"),
            (
                "#!/bin/sh\necho libseccomp.so.2 is missing >&2; exit 127\n",
                0o755,
                "libseccomp.so.2",
            ),
            ("#!/no/such/interpreter\n", 0o755, "No such file"),
            ("\u{7f}ELF that is torn", 0o755, "Exec format error"),
        ] {
            put(path, text, mode)?;
            let other = pod("other");
            let wanted = ["fragile", said];
            refused(node.cri.run_pod(&other).await, Code::FailedPrecondition, &wanted)?;
            let told = condition(node).await?;
            ensure!(!told.status && told.message.contains(said), "{told:?}");
            let findings = found(node)?;
            ensure!(findings.len() == 1 && findings[0].contains(said), "{findings:?}");
            // What runs already runs on, and its logs and its end are the shim's.
            let status = node.cri.container(&id).await?;
            ensure!(status.state() == v1::ContainerState::ContainerRunning, "{status:?}");
            let inside = node.cri.exec(&id, &["true"], 10).await;
            let text = inside.err().map(|error| error.message().to_owned()).unwrap_or_default();
            ensure!(text.contains(&path.display().to_string()), "{text}");
        }
        put(path, &works, 0o755)?;
        let after = pod("after");
        let (_, again) = node.run(&after, &after.container("main", &image).sleeper()).await?;
        node.wait_log(&again, "asleep").await?;
        ensure!(condition(node).await?.status);
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        node.cri.stop_pod(&pod_id).await?;
        node.cri.remove_pod(&pod_id).await?;
        Ok(())
    })
}

#[test]
fn what_a_runtime_prints_before_it_fails_is_told() -> Result<()> {
    on_a_fragile_node(async |node, path| {
        let script = |create: &str| {
            format!(
                "#!/bin/sh\ncase \" $* \" in *' --version '*) echo fragile 1.0;; *' create '*) {create};; esac\n"
            )
        };
        put(path, &script("echo first >&2; echo libseccomp.so.2 is missing >&2; exit 127"), 0o755)?;
        let image = node.pulled("busybox").await?;
        let mut pod = node.pod("speechless");
        pod.handler = "fragile".into();
        let pod_id = node.cri.run_pod(&pod).await?;
        let start = async |name: &str| {
            let container = pod.container(name, &image).sleeper();
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            node.cri.start(&id).await
        };
        refused(start("words").await, Code::Unknown, &["create: libseccomp.so.2 is missing"])?;
        put(path, &script("exit 9"), 0o755)?;
        refused(start("none").await, Code::Unknown, &["without a word: exit status 9"])
    })
}

#[test]
fn a_pod_can_be_removed_while_its_runtime_is_gone() -> Result<()> {
    let Some(works) = calling_runc() else { return Ok(()) };
    on_a_fragile_node(async |node, path| {
        put(path, &works, 0o755)?;
        let image = node.pulled("busybox").await?;
        let mut pod = node.pod("stranded");
        pod.handler = "fragile".into();
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        node.wait_log(&id, "asleep").await?;
        fs::remove_file(path)?;
        node.cri.stop(&id, 1).await?;
        ensure!(node.cri.container(&id).await?.exit_code == 0);
        // What the runtime keeps cannot be given up without it: it is told, and tried again.
        let removed = node.cri.remove_pod(&pod_id).await;
        let text = removed.err().map(|error| error.message().to_owned()).unwrap_or_default();
        ensure!(text.contains(&path.display().to_string()), "{text:?}");
        put(path, &works, 0o755)?;
        node.cri.remove_pod(&pod_id).await?;
        Ok(())
    })
}

#[test]
fn the_doctor_tells_what_handlers_lack() -> Result<()> {
    on_a_fragile_node(async |node, path| {
        let say = |features: &str| {
            format!("#!/bin/sh\ncase $1 in --version) echo fragile 1.0;; *) {features};; esac\n")
        };
        let (problem, advice) = ("PROBLEM ", "ADVICE ");
        for (text, mode, wanted) in [
            (None, 0, [problem, "No such file", "install it"]),
            (Some(say("echo {}")), 0o644, [problem, "Permission denied", "chmod +x"]),
            (Some("#!/bin/sh\nexit 9\n".into()), 0o755, [problem, "exit status: 9", "--version"]),
            (Some(say("echo no such verb >&2; exit 1")), 0o755, [advice, "no such verb", "1.0"]),
            (Some(say("echo old")), 0o755, [advice, "no list of features", "fragile 1.0"]),
        ] {
            if let Some(text) = text {
                put(path, &text, mode)?;
            }
            let findings = found(node)?;
            ensure!(findings.len() == 1, "{findings:?}");
            for word in wanted {
                ensure!(findings[0].contains(word), "{word} in {findings:?}");
            }
        }
        put(path, &say("echo '{\"mountOptions\":[],\"linux\":{\"namespaces\":[]}}'"), 0o755)?;
        ensure!(found(node)?.is_empty());
        let request = v1::StatusRequest { verbose: true };
        let answer = node.cri.runtime.clone().status(request).await?.into_inner();
        let config: serde_json::Value =
            serde_json::from_str(answer.info.get("config").context("no configuration")?)?;
        let told = &config["containerd"]["runtimes"]["fragile"];
        ensure!(told["version"] == "fragile 1.0" && told["problem"].is_null(), "{told}");
        Ok(())
    })
}

#[test]
fn features_are_those_of_each_runtime() -> Result<()> {
    under(&[Runtime::Runc, Runtime::KnarrOci], &async |node, runtime| {
        let request = v1::StatusRequest { verbose: false };
        let answer = node.cri.runtime.clone().status(request).await?.into_inner();
        let features = |name: &str| {
            let handler = answer.runtime_handlers.iter().find(|handler| handler.name == name);
            handler.and_then(|handler| handler.features)
        };
        let own = features("knarr").context("no built-in handler")?;
        let other = features(runtime.name()).context("no such handler")?;
        ensure!(features("") == Some(other), "the default's are another's");
        if runtime == Runtime::KnarrOci {
            ensure!(other == own, "{other:?}, built in {own:?}");
        }
        Ok(())
    })
}

#[test]
fn annotations_and_a_base_spec_reach_the_runtime() -> Result<()> {
    let Some(runc) = runc() else { return Ok(()) };
    let configure = |settings: &mut test_support::daemon::Settings, scratch: &_| {
        let scratch: &test_support::scratch::Scratch = scratch;
        let base = scratch.dir().join("base.json");
        let text = r#"{"ociVersion":"1.0.2","process":{"cwd":"/","user":{"uid":0,"gid":0},
            "rlimits":[{"type":"RLIMIT_NOFILE","soft":77,"hard":99}]}}"#;
        fs::write(&base, text).ok();
        settings.extra_config += &format!(
            "\n[handlers.special]\npath = \"{}\"\nannotations = [\"dev.example/*\"]\nbase_spec = \"{}\"\n",
            runc.display(),
            base.display()
        );
    };
    on_a_node_with(configure, async |node| {
        let image = node.pulled("busybox").await?;
        let mut pod = node.pod("special").with(|config| {
            config.annotations.insert("dev.example/a".into(), "1".into());
            config.annotations.insert("other/b".into(), "2".into());
        });
        pod.handler = "special".into();
        let (pod_id, id) =
            node.run(&pod, &pod.container("main", &image).script("ulimit -n; sleep 1000")).await?;
        node.wait_log(&id, "77").await?;
        let spec = node.scratch.root().join("pods").join(&pod_id).join("containers").join(&id);
        let spec: serde_json::Value = serde_json::from_slice(&fs::read(spec.join("config.json"))?)?;
        let annotations = &spec["annotations"];
        ensure!(annotations["dev.example/a"] == "1" && annotations["other/b"].is_null());
        Ok(())
    })
}

#[test]
fn a_pod_keeps_its_handler_when_the_configuration_changes() -> Result<()> {
    under(&[Runtime::Runc], &async |node, _| {
        let (pod_id, id) = node.sleeper("kept").await?;
        node.daemon.kill9()?;
        fs::remove_file(node.scratch.dir().join("conf.d/handler.toml"))?;
        node.daemon.launch(&node.scratch)?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        let image = node.image("busybox")?;
        let pod = node.pod("kept");
        let second = pod.container("second", &image).sleeper();
        let second = node.cri.create(&pod_id, &pod, &second).await?;
        node.cri.start(&second).await?;
        node.wait_log(&second, "asleep").await?;
        let root = node.scratch.state().join("handlers/runc");
        ensure!(root.join(&second).exists(), "another runtime runs it");
        let found = tokio::time::timeout(PATIENCE, node.cri.stop(&second, 20)).await?;
        found.context("stop")?;
        Ok(())
    })
}
