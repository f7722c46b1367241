//! The ways out of containers that were found in runtimes over the years.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use test_support::oci::{Runtime, with_runtime};

use super::exec::sleeper;

fn rootfs(runtime: &Runtime, bundle: &str) -> std::path::PathBuf {
    runtime.dir().join(bundle).join("rootfs")
}

/// CVE-2019-5736: the runtime is made to execute itself in the container, where its file can be
/// reached by `/proc/<pid>/exe`.
#[test]
fn the_runtimes_own_program_cannot_be_run_or_written_from_inside() -> Result<()> {
    with_runtime(|runtime| {
        let before = fs::metadata(runtime.program())?;
        for (name, entry) in [("link", None), ("script", Some("#!/proc/self/exe\n"))] {
            let bundle = runtime.bundle(name, "", |spec| {
                spec["process"]["args"] = json!(["/entry", "features"]);
            })?;
            let place = rootfs(runtime, name).join("entry");
            match entry {
                Some(text) => test_support::oci::script(&place, "")
                    .and_then(|()| fs::write(&place, text).context("write the script"))?,
                None => symlink("/proc/self/exe", &place)?,
            }
            let said = runtime.call(&["run", "-b", &bundle, &runtime.id(name)])?;
            ensure!(said.code != 0 && !said.out.contains("ociVersionMin"), "{name}: {said:?}");
            // The same, once somebody is inside.
            let bundle = runtime.bundle(&format!("{name}-exec"), "sleep 100000", |_| {})?;
            fs::rename(&place, rootfs(runtime, &format!("{name}-exec")).join("entry"))?;
            let id = runtime.id(&format!("{name}-exec"));
            runtime.leave(&["run", "-d", "-b", &bundle, &id])?;
            let said = runtime.call(&["exec", &id, "/entry", "features"])?;
            ensure!(said.code != 0 && !said.out.contains("ociVersionMin"), "{name}: {said:?}");
        }
        // Who is exec'd shows its program to the container for a moment; whatever is found in there
        // is on a mount that cannot be written.
        let bundle = runtime.bundle("waits", "true", |_| {})?;
        let id = runtime.id("waits");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let exe = format!("/proc/{}/exe", runtime.state(&id)?["pid"]);
        let mount = rustix::fs::statvfs(exe.as_str())?;
        let read_only = rustix::fs::StatVfsMountFlags::RDONLY;
        ensure!(mount.f_flag.contains(read_only), "{exe} can be written");
        let after = fs::metadata(runtime.program())?;
        ensure!((before.size(), before.mtime()) == (after.size(), after.mtime()));
        Ok(())
    })
}

/// CVE-2024-21626: a working directory that is one of the runtime's own open files.
#[test]
fn a_working_directory_is_never_one_of_the_runtimes_files() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        for number in 0..24 {
            let cwd = format!("/proc/self/fd/{number}");
            let bundle = runtime.bundle(&format!("b{number}"), "pwd; ls ../../..", |spec| {
                spec["process"]["cwd"] = json!(cwd);
            })?;
            let said = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?;
            ensure!(said.code == 1 && said.err.contains("working directory"), "{cwd}: {said:?}");
            let said = runtime.call(&["exec", "--cwd", &cwd, &id, "pwd"])?;
            ensure!(said.code == 255 && said.err.contains("working directory"), "{cwd}: {said:?}");
        }
        Ok(())
    })
}

/// CVE-2019-16884, CVE-2023-27561, CVE-2023-28642: mounts where kernel files are expected, by way of
/// links of the image.
#[test]
fn links_of_the_image_do_not_move_kernel_files() -> Result<()> {
    with_runtime(|runtime| {
        for (name, link, target) in [
            ("proc", "proc", "/tmp/forged"),
            ("sys", "sys", "/tmp/forged"),
            ("into", "data", "/proc"),
            ("below", "data", "/proc/self"),
        ] {
            let bundle = runtime.bundle(name, "cat /proc/self/attr/exec; mount", |spec| {
                let mounts = spec["mounts"].as_array_mut();
                let mount = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"});
                if let Some(mounts) = mounts.filter(|_| link == "data") {
                    mounts.push(mount);
                }
            })?;
            let root = rootfs(runtime, name);
            fs::create_dir_all(root.join("tmp/forged"))?;
            if link != "data" {
                fs::remove_dir(root.join(link))?;
            }
            symlink(target, root.join(link))?;
            let said = runtime.call(&["run", "-b", &bundle, &runtime.id(name)])?;
            ensure!(said.code == 1 && said.err.contains("run failed"), "{name}: {said:?}");
            let words = "must be mounted on ordinary directory";
            ensure!(said.err.contains(words) == (link != "data"), "{name}: {said:?}");
        }
        Ok(())
    })
}

/// CVE-2021-30465: a mount's target is a link out of the root.
#[test]
fn mounts_through_links_stay_in_the_root() -> Result<()> {
    with_runtime(|runtime| {
        let outside = runtime.dir().join("outside");
        fs::create_dir(&outside)?;
        let mark = runtime.dir().join("mark");
        fs::create_dir(&mark)?;
        fs::write(mark.join("file"), "here")?;
        let bundle = runtime.bundle("b", "cat $PLACE/file", |spec| {
            spec["process"]["env"] = json!(["PATH=/bin", format!("PLACE={}", outside.display())]);
            let mounts = spec["mounts"].as_array_mut();
            let mount = json!({
                "destination": "/abs/dir", "source": mark, "options": ["bind"],
            });
            if let Some(mounts) = mounts {
                mounts.push(mount);
            }
        })?;
        symlink(&outside, rootfs(runtime, "b").join("abs"))?;
        fs::create_dir_all(rootfs(runtime, "b").join("up"))?;
        let said = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?;
        ensure!(fs::read_dir(&outside)?.next().is_none(), "something was made outside: {said:?}");
        let inside = rootfs(runtime, "b").join(outside.strip_prefix("/")?).join("dir");
        ensure!(inside.is_dir(), "{said:?}");
        Ok(())
    })
}

/// CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: the device that masks are made of, the console and
/// the runtime's writes to `/proc` are directed elsewhere.
#[test]
fn masks_and_writes_to_proc_are_not_led_elsewhere() -> Result<()> {
    with_runtime(|runtime| {
        let command = "cat /proc/sysrq-trigger /etc/secret; stat -c %t:%T /dev/null";
        let bundle = runtime.bundle("b", command, |spec| {
            spec["linux"]["maskedPaths"] = json!(["/etc/secret"]);
            // No /dev of its own: the image's is what there is.
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts
                    .retain(|m| !m["destination"].as_str().unwrap_or_default().starts_with("/dev"));
            }
            spec["root"]["readonly"] = json!(false);
        })?;
        let root = rootfs(runtime, "b");
        fs::write(root.join("etc/secret"), "secret")?;
        fs::write(root.join("etc/other"), "other")?;
        // What masks are made of must be the host's device, not what the image has in its place.
        symlink("/proc/sysrq-trigger", root.join("dev/null"))?;
        let said = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?;
        ensure!(!said.out.contains("secret"), "{said:?}");
        ensure!(said.code != 0, "{said:?}");
        Ok(())
    })
}
