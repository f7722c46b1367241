//! What the demo plays on: a registry with images, a daemon in a scratch place, and the `knarr`
//! command pointed at it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use test_support::daemon::{Daemon, Settings};
use test_support::images::catalog;
use test_support::leaks::Leaks;
use test_support::registry::DebianRegistry;
use test_support::scratch::Scratch;

use crate::dist::dist_dir;

/// Set by a signal: no further step is begun.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Everything the demo started, in the order in which it must end.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) daemon: Daemon,
    pub(super) registry: DebianRegistry,
    pub(super) scratch: Scratch,
    program: PathBuf,
}

impl Stage {
    pub(super) fn set_up(root: &Path) -> Result<Self> {
        let scratch = Scratch::claim()?;
        let registry = DebianRegistry::start(scratch.dir())?;
        for image in [catalog::web()?, catalog::client()?] {
            registry.push(&image)?;
        }
        let mut settings = Settings::new(dist_dir(root));
        settings.plain_registries.push(registry.host());
        let daemon = Daemon::start(&scratch, settings)?;
        Ok(Self { program: daemon.program(), daemon, registry, scratch })
    }

    /// Runs `knarr ARGS` as a user would, shows what it says, and returns its standard output.
    pub(super) fn knarr(&self, args: &[&str]) -> Result<String> {
        let begun = Instant::now();
        println!("\n$ knarr {}", args.join(" "));
        // A pull draws its progress on the terminal itself.
        let pulls = args.first() == Some(&"pull");
        let stderr = if pulls { Stdio::inherit() } else { Stdio::piped() };
        let (output, complaints) = self.call(args, stderr)?;
        for line in complaints.lines().chain(output.lines()) {
            println!("  {line}");
        }
        println!("  ({} ms)", begun.elapsed().as_millis());
        Ok(output)
    }

    /// As [`Stage::knarr`], without showing it.
    pub(super) fn quiet(&self, args: &[&str]) -> Result<String> {
        self.call(args, Stdio::inherit()).map(|(output, _)| output)
    }

    fn call(&self, args: &[&str], stderr: Stdio) -> Result<(String, String)> {
        ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        let output = Command::new(&self.program)
            .env("KNARR_ADDRESS", self.scratch.socket())
            .args(args)
            .stdin(Stdio::null())
            .stderr(stderr)
            .output()
            .context("start knarr")?;
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success(),
            "knarr {}: {}\n{complaints}",
            args.join(" "),
            output.status
        );
        Ok((String::from_utf8(output.stdout).context("knarr's output")?, complaints))
    }

    /// Ends the daemon and looks for what it left behind.
    pub(super) fn strike(mut self) -> Result<()> {
        let leaks = Leaks::of(&self.scratch).assert_none();
        self.daemon.terminate()?;
        leaks
    }
}

/// From here on SIGINT, SIGTERM and SIGHUP end the demo between two steps, so that everything it
/// started is taken down in order.
pub(super) fn hold_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.context("start the signal thread")?;
    let watch = move || {
        runtime.block_on(async {
            let signals = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
                signal(SignalKind::hangup()),
            );
            let (Ok(mut int), Ok(mut term), Ok(mut hup)) = signals else { return };
            loop {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                    _ = hup.recv() => {}
                }
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).context("signal thread")?;
    Ok(())
}
