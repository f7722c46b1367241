//! Debian's podman and buildah run their containers with the program in runc's place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use test_support::oci::{Runtime, Said, busybox_root, script, with_runtime};

/// A place of its own for the images, containers and locks of both programs.
#[derive(Debug)]
struct Place<'a> {
    runtime: &'a Runtime,
    dir: PathBuf,
    program: String,
}

impl<'a> Place<'a> {
    fn new(runtime: &'a Runtime) -> Result<Self> {
        let dir = runtime.dir().join("store");
        fs::create_dir(&dir)?;
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{0}/graph\"\nrunroot = \"{0}/run\"\n",
            dir.display()
        );
        fs::write(dir.join("storage.conf"), storage)?;
        let engine =
            "cgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"";
        let containers = format!("[containers]\nlog_driver = \"k8s-file\"\n[engine]\n{engine}\n");
        fs::write(dir.join("containers.conf"), containers)?;
        // By an option of theirs they would name the root in some calls and not in others.
        let path = dir.join("runtime");
        let (program, root) = (runtime.program().display(), runtime.root());
        script(&path, &format!("exec {program} --root {} \"$@\"", root.display()))?;
        let program = path.to_str().context("a path of text")?.to_owned();
        let place = Self { runtime, dir, program };
        place.import()?;
        Ok(place)
    }

    /// An image with busybox's programs.
    fn import(&self) -> Result<()> {
        let root = self.dir.join("image");
        busybox_root(&root)?;
        let archive = self.dir.join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
        Said::of_command(&mut tar)?.ok()?;
        let archive = archive.to_str().context("a path of text")?;
        self.podman(&["import", archive, "localhost/box"])?.ok()?;
        Ok(())
    }

    fn call(&self, program: &str, words: &[&str]) -> Result<Said> {
        let mut command = Command::new(program);
        command
            .args(words)
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"))
            .stdin(Stdio::null());
        Said::of_command(&mut command)
    }

    fn podman(&self, words: &[&str]) -> Result<Said> {
        let tmp = self.dir.join("tmp");
        let before = ["--tmpdir", &*tmp.to_string_lossy(), "--runtime", &*self.program];
        self.call("podman", &[&before[..], words].concat())
    }

    fn buildah(&self, container: &str, words: &[&str]) -> Result<Said> {
        let isolated = ["run", "--isolation", "oci", "--network", "none", "--runtime"];
        let last = [&*self.program, container, "--"];
        self.call("buildah", &[&isolated[..], &last, words].concat())
    }

    /// The cgroup above the containers', which is not theirs to remove.
    fn parent(&self) -> String {
        format!("/{}", self.runtime.id("above"))
    }

    fn remove_parent(&self) -> Result<()> {
        let parent = self.parent();
        for group in self.runtime.cgroups() {
            if group.ends_with(parent.trim_start_matches('/')) {
                fs::remove_dir(&group).with_context(|| group.display().to_string())?;
            }
        }
        Ok(())
    }
}

fn is_missing(program: &str) -> bool {
    let missing = !Path::new("/usr/bin").join(program).exists();
    if missing {
        test_support::skip(&format!("{program} is not installed"));
    }
    missing
}

#[test]
fn debians_podman_runs_containers_with_it() -> Result<()> {
    if is_missing("podman") {
        return Ok(());
    }
    with_runtime(|runtime| {
        let place = Place::new(runtime)?;
        let parent = place.parent();
        let run = ["run", "--cgroups=no-conmon", "--cgroup-parent", &*parent];
        let image = "localhost/box";
        let once = |words: &[&str]| {
            let mut call = [&run[..], &["--rm", "--network", "none"]].concat();
            call.extend(words);
            place.podman(&call)
        };
        let said = once(&[image, "sh", "-c", "id -u; cat /proc/self/cgroup; exit 7"])?;
        ensure!(said.code == 7 && said.out.starts_with("0\n"), "{said:?}");
        ensure!(said.out.contains(&parent), "not in the cgroup podman names: {said:?}");
        let said = once(&["-t", image, "tty"])?;
        ensure!(said.code == 0 && said.out.trim() == "/dev/pts/0", "{said:?}");
        let said = once(&[image, "/nowhere"])?;
        ensure!(said.code == 127, "{said:?}");
        let list = runtime.call(&["list"])?.ok()?;
        ensure!(list.lines().count() == 1, "{list}");

        let waits = "trap 'exit 3' TERM; while :; do sleep 0.1; done";
        let mut call = [&run[..], &["-d", "--name", "one", "--network", "host"]].concat();
        call.extend([image, "sh", "-c", waits]);
        place.podman(&call)?.ok()?;
        let id = place.podman(&["inspect", "--format", "{{.Id}}", "one"])?.ok()?;
        let status = || runtime.status(id.trim());
        ensure!(status()? == "running", "the state is not in this runtime's directory");
        let said = place.podman(&["exec", "one", "sh", "-c", "echo in; exit 5"])?;
        ensure!(said.code == 5 && said.out == "in\n", "{said:?}");
        place.podman(&["pause", "one"])?.ok()?;
        ensure!(status()? == "paused");
        place.podman(&["unpause", "one"])?.ok()?;
        place.podman(&["stop", "-t", "60", "one"])?.ok()?;
        let code = place.podman(&["inspect", "--format", "{{.State.ExitCode}}", "one"])?.ok()?;
        ensure!(code == "3\n", "it was not asked to end: {code}");
        place.podman(&["rm", "one"])?.ok()?;
        ensure!(place.podman(&["ps", "-aq"])?.ok()?.is_empty());
        place.remove_parent()
    })
}

#[test]
fn debians_buildah_runs_commands_with_it() -> Result<()> {
    if is_missing("podman") || is_missing("buildah") {
        return Ok(());
    }
    with_runtime(|runtime| {
        let place = Place::new(runtime)?;
        let container = place.call("buildah", &["from", "--pull-never", "localhost/box"])?.ok()?;
        let container = container.trim();
        let said = place.buildah(container, &["sh", "-c", "id -u; echo made > /file"])?;
        ensure!(said.code == 0 && said.out == "0\n", "{said:?}");
        let said = place.buildah(container, &["sh", "-c", "cat /file; exit 9"])?;
        ensure!(said.code == 9 && said.out == "made\n", "{said:?}");
        place.call("buildah", &["rm", container])?.ok()?;
        Ok(())
    })
}
