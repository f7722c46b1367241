//! Commands that nobody wants any more while their runtime is still bringing them into the container: it is slow,
//! or never comes to its end. Nothing of them stays, whoever gave them up and when.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use streaming::client::Transport;
use test_support::cri::refused;
use test_support::files::wait_for;
use test_support::handlers::Runtime;
use test_support::node::{Node, PATIENCE, on_a_node_with};
use test_support::proc;
use test_support::scratch::Scratch;
use test_support::skip;
use tonic::Code;

use crate::hanging::LONG;
use crate::live::{Live, exec_url};

/// What the runtime does with commands, besides running them. Each longer than a command may take.
#[derive(Debug, Clone, Copy)]
enum Slow {
    Before,
    After,
    NeverBegins,
    NeverEnds,
}

impl Slow {
    const ALL: [Self; 4] = [Self::Before, Self::After, Self::NeverBegins, Self::NeverEnds];

    /// In the shell, where `$0` is the runtime.
    fn script(self) -> &'static str {
        match self {
            Self::Before => "reached; sleep 3; exec $0 \"$@\"",
            Self::After => "$0 \"$@\"; status=$?; reached; sleep 3; exit $status",
            Self::NeverBegins => "reached; sleep 100000; exec $0 \"$@\"",
            Self::NeverEnds => "$0 \"$@\"; reached; sleep 100000",
        }
    }
}

/// What nobody waits for until it ends, and what it is found by: not itself by this text.
const COMMAND: &str = "sleep 98765; true";
const FOUND: &str = "ps | grep 9876[5]";

fn dir(scratch: &Scratch) -> PathBuf {
    scratch.dir().join("slow")
}

/// The runtime, slow with the commands of containers that have a file of their name.
fn make_slow(runtime: Runtime, scratch: &Scratch) -> Result<()> {
    runtime.make_default(scratch)?;
    let file = scratch.dir().join("conf.d/handler.toml");
    let text = fs::read_to_string(&file)?;
    let (before, after) = text.split_once("path = \"").context("no path")?;
    let (path, after) = after.split_once('"').context("no path")?;
    let dir = dir(scratch);
    fs::create_dir_all(&dir)?;
    let slow = dir.join("runtime");
    let script = format!(
        "#!/bin/sh\nverb=; for word in \"$@\"; do [ \"$word\" = exec ] && verb=exec; done\n\
         [ \"$verb\" = exec ] && [ -e {dir}/\"$word\" ] || exec {path} \"$@\"\n\
         exec sh -c \"reached() {{ echo \\$\\$ > {dir}/$word.pid; }}; $(cat {dir}/\"$word\")\" {path} \"$@\"\n",
        dir = dir.display()
    );
    fs::write(&slow, script)?;
    fs::set_permissions(&slow, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::write(&file, format!("{before}path = \"{}\"{after}", slow.display()))?;
    Ok(())
}

fn under(runtime: Runtime, test: impl AsyncFnOnce(&mut Node) -> Result<()>) -> Result<()> {
    if let Err(why) = runtime.find() {
        skip(&why);
        return Ok(());
    }
    let mut configured = Ok(());
    let configure = |_: &mut _, scratch: &_| configured = make_slow(runtime, scratch);
    on_a_node_with(configure, test)?;
    configured
}

/// A container of a pod of its own, and how slow its commands are from now on.
struct Patient {
    id: String,
    dir: PathBuf,
}

impl Patient {
    async fn new(node: &Node, slow: Slow) -> Result<Self> {
        let image = node.pulled("busybox").await?;
        let pod = node.pod(&format!("{slow:?}").to_lowercase());
        // One whose runtime has no seccomp is not what this is about.
        let container = pod.container("main", &image).sleeper().security(|security| {
            security.seccomp = None;
        });
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "asleep").await?;
        let dir = dir(&node.scratch);
        fs::write(dir.join(&id), slow.script())?;
        Ok(Self { id, dir })
    }

    /// The process that is slow, once it is.
    fn reached(&self) -> Result<i32> {
        let path = self.dir.join(format!("{}.pid", self.id));
        tokio::task::block_in_place(|| wait_for(&path, PATIENCE, |text| text.trim().parse().ok()))
    }

    /// From now on commands are as quick as they can be.
    fn healed(&self) -> Result<()> {
        Ok(fs::remove_file(self.dir.join(&self.id))?)
    }

    fn no_runtime_is_left(&self) -> Result<()> {
        let of_it = |it: &proc::Process| {
            !it.zombie && it.cmdline.contains(" exec ") && it.cmdline.contains(&self.id)
        };
        let left: Vec<_> = proc::all().into_iter().filter(of_it).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    }
}

async fn timed_out_commands_leave_nothing(node: &mut Node) -> Result<()> {
    let mut asked = Vec::new();
    for slow in Slow::ALL {
        let patient = Patient::new(node, slow).await?;
        let cri = node.cri.clone();
        asked.push(tokio::spawn(async move {
            let answer = cri.exec(&patient.id, &["sh", "-c", COMMAND], 1).await;
            (slow, patient, answer)
        }));
    }
    for asked in asked {
        let (slow, patient, answer) = tokio::time::timeout(LONG, asked).await??;
        refused(answer, Code::DeadlineExceeded, &[]).with_context(|| format!("{slow:?}"))?;
        patient.no_runtime_is_left()?;
        patient.healed()?;
        let left = node.cri.shell(&patient.id, &format!("{FOUND} || echo none")).await?;
        ensure!(left == "none", "{slow:?}: {left}");
    }
    Ok(())
}

/// Once the runtime has come to its end.
async fn none_stays(node: &Node, patient: &Patient, runtime: i32) -> Result<()> {
    tokio::task::block_in_place(|| proc::wait_gone(runtime, PATIENCE))?;
    patient.healed()?;
    node.cri.shell(&patient.id, &format!("while {FOUND}; do sleep 0.05; done")).await?;
    patient.no_runtime_is_left()
}

async fn commands_whose_client_has_gone_leave_nothing(node: &mut Node) -> Result<()> {
    for slow in [Slow::Before, Slow::NeverEnds] {
        let patient = Patient::new(node, slow).await?;
        let url = exec_url(node, &patient.id, COMMAND, false).await?;
        let client = tokio::spawn(async move {
            let _live = Live::connect(&url, Transport::WebSocket, false).await?;
            std::future::pending::<Result<()>>().await
        });
        let runtime = patient.reached()?;
        client.abort();
        none_stays(node, &patient, runtime).await.with_context(|| format!("{slow:?}"))?;
    }
    Ok(())
}

async fn commands_whose_daemon_has_died_leave_nothing(node: &mut Node) -> Result<()> {
    let patient = Patient::new(node, Slow::Before).await?;
    let (cri, id) = (node.cri.clone(), patient.id.clone());
    let asked = tokio::spawn(async move { cri.exec(&id, &["sh", "-c", COMMAND], 0).await });
    let runtime = patient.reached()?;
    node.crash_and_restart()?;
    ensure!(asked.await?.is_err(), "answered by nobody");
    none_stays(node, &patient, runtime).await
}

macro_rules! tests_of {
    ($($module:ident: $runtime:ident)+) => {
        $(mod $module {
            use super::*;

            #[test]
            fn timed_out_commands_leave_nothing() -> Result<()> {
                under(Runtime::$runtime, super::timed_out_commands_leave_nothing)
            }

            #[test]
            fn commands_whose_client_has_gone_leave_nothing() -> Result<()> {
                under(Runtime::$runtime, super::commands_whose_client_has_gone_leave_nothing)
            }

            #[test]
            fn commands_whose_daemon_has_died_leave_nothing() -> Result<()> {
                under(Runtime::$runtime, super::commands_whose_daemon_has_died_leave_nothing)
            }
        })+
    };
}

tests_of!(runc: Runc  crun: Crun  youki: Youki  runsc: Runsc  knarr_oci: KnarrOci);
