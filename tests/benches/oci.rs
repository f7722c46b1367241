//! `cargo xtask bench oci`: `run` of `true` from one bundle, by knarr as an OCI runtime and by
//! others, in turns. Prints what it measured; failures are shown, and those of knarr are an error.
//!
//! crun 1.8 refuses hosts with cgroup v1 controllers beside a v2 tree. There all of them run in a
//! mount namespace in which the v2 tree is not mounted, so that everybody does the same work.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its output is the interface")]
#![allow(clippy::large_futures, reason = "a program has the stack to itself")]

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use test_support::account::{Account, born_in};
use test_support::bench::{self, Sheet, Standing, millis};
use test_support::deadline::Deadline;
use test_support::oci::busybox_root;
use test_support::scratch::Scratch;

const SECTION: &str = "oci";
/// Beside knarr; those that are not installed are left out.
const OTHERS: [&str; 3] = ["crun", "runc", "youki"];
const UNIFIED: &str = "/sys/fs/cgroup/unified";
/// Set in the mount namespace without [`UNIFIED`].
const ALONE: &str = "KNARR_BENCH_WITHOUT_V2";
/// Runs whose processor time is counted together.
const IN_A_ROW: u16 = 10;
/// Whoever takes longer for one run will not end: youki 0.7 now and then waits for itself for ever.
const LIMIT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let measures = std::env::args().any(|argument| argument == "--bench");
    if measures && Path::new(UNIFIED).exists() && std::env::var_os(ALONE).is_none() {
        return Err(without_v2()?);
    }
    bench::main(compare)
}

/// Becomes this program again, in that mount namespace.
fn without_v2() -> Result<anyhow::Error> {
    let script = format!("umount {UNIFIED} && exec \"$0\" \"$@\"");
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(std::env::current_exe().context("this program's file")?)
        .args(std::env::args_os().skip(1))
        .env(ALONE, "1")
        .exec();
    Ok(anyhow::Error::from(error).context("start unshare"))
}

/// One of those that are compared.
struct Runtime {
    who: &'static str,
    program: PathBuf,
    scratch: Scratch,
    runs: usize,
}

impl Runtime {
    fn new(who: &'static str, program: PathBuf) -> Result<Self> {
        let (scratch, runs) = (Scratch::claim()?, 0);
        Ok(Self { who, program, scratch, runs })
    }

    fn arguments(&mut self, bundle: &Path) -> Vec<String> {
        self.runs += 1;
        let root = self.scratch.state().join("containers").display().to_string();
        let id = format!("{}-{}", self.scratch.mark(), self.runs);
        let words = ["--root", &root, "run", "--bundle", &bundle.display().to_string(), &id];
        words.map(str::to_owned).into()
    }

    fn run(&mut self, bundle: &Path) -> Result<f64> {
        let arguments = self.arguments(bundle);
        let id = arguments.last().cloned().unwrap_or_default();
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(millis(Deadline::new(LIMIT, id).run(&mut command)?.took))
    }

    /// Milliseconds of the processor for one run, with everything it starts.
    fn processor(&mut self, bundle: &Path) -> Result<f64> {
        let account = Account::open(&self.scratch)?;
        let calls = (0..IN_A_ROW).map(|_| {
            let words = self.arguments(bundle).join(" ");
            format!("{} {words} </dev/null >/dev/null || exit 1\n", self.program.display())
        });
        let script: String = calls.collect();
        let mut shell = born_in(Some(account.group()), Path::new("/bin/sh"));
        shell.args(["-c", &script]).stdin(Stdio::null());
        Deadline::new(LIMIT * 3, format!("{}-", self.scratch.mark()))
            .run(&mut shell)
            .with_context(|| format!("{IN_A_ROW} in a row"))?;
        Ok(account.cpu_seconds()? * 1000.0 / f64::from(IN_A_ROW))
    }

    fn version(&self) -> Result<String> {
        let mut command = Command::new("timeout");
        let command = command.arg("10").arg(&self.program).arg("--version");
        let output = command.output().context("--version")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(said.lines().next().unwrap_or_default().to_owned())
    }
}

fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// The specification is what `knarr oci spec` makes, which is what `runc spec` makes.
fn bundle(dir: &Path, knarr: &Path) -> Result<()> {
    busybox_root(&dir.join("rootfs"))?;
    let status = Command::new(knarr).args(["spec", "--bundle"]).arg(dir).status()?;
    ensure!(status.success(), "knarr oci spec: {status}");
    let path = dir.join("config.json");
    let mut spec: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/bin/true"]);
    std::fs::write(&path, spec.to_string()).context("config.json")
}

async fn compare(dist: &Path) -> Result<()> {
    let place = tempfile::Builder::new().prefix("knarr-bench-").tempdir_in("/var/tmp")?;
    let knarr = place.path().join("knarr-oci");
    // Where that was not built, the same code in the daemon's program.
    let own = Some(dist.join("knarr-oci")).filter(|own| own.exists());
    let target = std::fs::canonicalize(own.unwrap_or_else(|| dist.join("knarr")))?;
    symlink(target, &knarr).context("link the program")?;
    let shared = place.path().join("bundle");
    bundle(&shared, &knarr)?;
    let mut runtimes = vec![Runtime::new("knarr", knarr)?];
    for name in OTHERS {
        if let Some(program) = installed(name) {
            runtimes.push(Runtime::new(name, program)?);
        }
    }
    for runtime in &runtimes {
        println!("version\t{}\t{}", runtime.who, runtime.version()?);
    }
    let mut sheet = Sheet::default();
    let rounds = bench::runs(40);
    let quantity = "OCI run of `true`, ms";
    alternate(&mut runtimes, &mut sheet, quantity, rounds, |one| one.run(&shared)).await;
    let quantity = "processor time of an OCI run, ms";
    let few = rounds.div_ceil(8);
    alternate(&mut runtimes, &mut sheet, quantity, few, |one| one.processor(&shared)).await;
    sheet.print();
    let failures = sheet.failures_of("knarr");
    if failures > 0 {
        bail!("knarr failed {failures} times");
    }
    Ok(())
}

/// One of each in turn, so many times; the first of all does not count.
async fn alternate(
    runtimes: &mut [Runtime],
    sheet: &mut Sheet,
    quantity: &'static str,
    rounds: usize,
    measure: impl Fn(&mut Runtime) -> Result<f64>,
) {
    let mut standing = Standing::default();
    for number in 0..=rounds {
        for runtime in &mut *runtimes {
            if !standing.is_in(runtime.who) {
                continue;
            }
            sheet.tries(SECTION, runtime.who);
            let measured = measure(runtime);
            let done = measured.is_ok();
            match measured {
                Ok(value) if number > 0 => sheet.note(SECTION, quantity, runtime.who, value),
                Ok(_warm_up) => {}
                Err(error) => sheet.failed(SECTION, runtime.who, &format!("{error:#}")),
            }
            standing.note(sheet, SECTION, runtime.who, done);
            // An interruption is noticed here.
            tokio::task::yield_now().await;
        }
    }
}
