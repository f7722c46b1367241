//! Mounts: propagation, recursive read-only, options, order, sources that are not there yet.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use test_support::cri::refused;
use test_support::node::on_a_node;
use test_support::pods::ContainerBuilder;
use tonic::Code;

/// A tmpfs of the host, gone when dropped with everything mounted in it.
pub(crate) struct HostMount(PathBuf);

impl HostMount {
    fn new(path: PathBuf, propagation: MountPropagationFlags) -> Result<Self> {
        Self::with_options(path, propagation, None)
    }

    /// One that holds no more than 64 KiB.
    pub(crate) fn small(path: PathBuf) -> Result<Self> {
        Self::with_options(path, MountPropagationFlags::PRIVATE, Some(c"size=64k"))
    }

    fn with_options(
        path: PathBuf,
        propagation: MountPropagationFlags,
        options: Option<&CStr>,
    ) -> Result<Self> {
        fs::create_dir_all(&path)?;
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), options)
            .with_context(|| format!("mount {}", path.display()))?;
        let this = Self(path);
        rustix::mount::mount_change(&this.0, propagation)?;
        Ok(this)
    }

    fn shared(path: PathBuf) -> Result<Self> {
        Self::new(path, MountPropagationFlags::SHARED)
    }

    fn private(path: PathBuf) -> Result<Self> {
        Self::new(path, MountPropagationFlags::PRIVATE)
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

fn mount(host: &Path, container: &str, change: impl FnOnce(&mut v1::Mount)) -> v1::Mount {
    let mut mount = v1::Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        ..Default::default()
    };
    change(&mut mount);
    mount
}

fn with(container: ContainerBuilder, mount: v1::Mount) -> ContainerBuilder {
    container.with(|config| config.mounts.push(mount))
}

fn propagating(host: &Path, how: v1::MountPropagation) -> v1::Mount {
    mount(host, "/data", |mount| mount.propagation = how.into())
}

#[test]
fn later_mounts_propagate_as_asked_and_status_echoes_it() -> Result<()> {
    use v1::MountPropagation::{
        PropagationBidirectional, PropagationHostToContainer, PropagationPrivate,
    };
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let volume = HostMount::shared(node.scratch.dir().join("volume"))?;
        for sub in ["late", "own"] {
            fs::create_dir(volume.0.join(sub))?;
        }
        let pod = node.pod("propagation").security(|security| security.privileged = true);
        let pod_id = node.cri.run_pod(&pod).await?;
        let mut ids = Vec::new();
        for (name, how) in [
            ("private", PropagationPrivate),
            ("slave", PropagationHostToContainer),
            ("shared", PropagationBidirectional),
        ] {
            let container =
                with(pod.container(name, &image).sleeper(), propagating(&volume.0, how))
                    .security(|security| security.privileged = true);
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            node.cri.start(&id).await?;
            let echoed = node.cri.container(&id).await?.mounts;
            ensure!(echoed[0].propagation() == how, "{echoed:?}");
            ensure!(Path::new(&echoed[0].host_path) == volume.0, "{echoed:?}");
            ids.push((name, id));
        }
        let late = HostMount::private(volume.0.join("late"))?;
        fs::write(late.0.join("file"), "")?;
        for (name, id) in &ids {
            let seen = node.cri.shell(id, "ls /data/late").await?;
            ensure!(seen == if *name == "private" { "" } else { "file" }, "{name}: {seen}");
        }
        for (name, id) in &ids {
            node.cri.shell(id, "mount -t tmpfs none /data/own && touch /data/own/x").await?;
            let on_host = volume.0.join("own/x").exists();
            ensure!(on_host == (*name == "shared"), "{name}");
        }
        rustix::mount::unmount(volume.0.join("own"), UnmountFlags::DETACH)?;
        Ok(())
    })
}

#[test]
fn a_source_that_does_not_propagate_as_asked_is_refused() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let volume = HostMount::private(node.scratch.dir().join("private"))?;
        let pod = node.pod("alone").security(|security| security.privileged = true);
        let pod_id = node.cri.run_pod(&pod).await?;
        for how in [
            v1::MountPropagation::PropagationHostToContainer,
            v1::MountPropagation::PropagationBidirectional,
        ] {
            let container = with(pod.container("c", &image), propagating(&volume.0, how));
            let result = node.cri.create(&pod_id, &pod, &container).await;
            let path = volume.0.display().to_string();
            refused(result, Code::InvalidArgument, &[path.as_str(), "not shared", "/data"])?;
        }
        Ok(())
    })
}

#[test]
fn read_only_stops_at_submounts_unless_it_is_recursive() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let volume = HostMount::private(node.scratch.dir().join("volume"))?;
        let _below = HostMount::private(volume.0.join("below"))?;
        let pod = node.pod("rro");
        let container = pod.container("main", &image).sleeper();
        let container = with(container, mount(&volume.0, "/plain", |mount| mount.readonly = true));
        let container = with(
            container,
            mount(&volume.0, "/deep", |mount| {
                (mount.readonly, mount.recursive_read_only) = (true, true);
            }),
        );
        let (_, id) = node.run(&pod, &container).await?;
        node.cri.shell(&id, "touch /plain/below/x").await?;
        for path in ["/plain/x", "/deep/x", "/deep/below/y"] {
            let output = node.cri.exec(&id, &["touch", path], 10).await?;
            ensure!(output.stderr.contains("Read-only"), "{path}: {output:?}");
        }
        let echoed = node.cri.container(&id).await?.mounts;
        ensure!(echoed[1].recursive_read_only && !echoed[0].recursive_read_only, "{echoed:?}");
        Ok(())
    })
}

#[test]
fn recursive_read_only_that_cannot_be_is_refused_in_kubelets_words() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let volume = HostMount::shared(node.scratch.dir().join("volume"))?;
        let pod = node.pod("norro").security(|security| security.privileged = true);
        let pod_id = node.cri.run_pod(&pod).await?;
        for (readonly, how) in [
            (false, v1::MountPropagation::PropagationPrivate),
            (true, v1::MountPropagation::PropagationHostToContainer),
            (true, v1::MountPropagation::PropagationBidirectional),
        ] {
            let wrong = mount(&volume.0, "/data", |mount| {
                (mount.readonly, mount.recursive_read_only) = (readonly, true);
                mount.propagation = how.into();
            });
            let container = with(pod.container("c", &image), wrong);
            let Err(status) = node.cri.create(&pod_id, &pod, &container).await else {
                anyhow::bail!("{readonly} {how:?} was accepted");
            };
            ensure!(status.message().starts_with("RROUnsupported"), "{status}");
            ensure!(status.code() == Code::InvalidArgument, "{status}");
        }
        Ok(())
    })
}

#[test]
fn mount_options_protect_and_others_are_refused() -> Result<()> {
    on_a_node(async |node| {
        let status = node.cri.runtime.clone().status(v1::StatusRequest::default()).await?;
        let features = status.into_inner().features.context("features")?;
        ensure!(features.mount_options, "{features:?}");
        let image = node.pulled("busybox").await?;
        let volume = node.scratch.dir().join("volume");
        fs::create_dir(&volume)?;
        fs::write(volume.join("script"), "#!/bin/sh\necho ran\n")?;
        fs::set_permissions(volume.join("script"), fs::Permissions::from_mode(0o755))?;
        let pod = node.pod("options");
        let options = |options: &[&str]| {
            mount(&volume, "/data", |mount| {
                mount.mount_options = options.iter().map(|&option| option.to_owned()).collect();
            })
        };
        let container =
            with(pod.container("main", &image).sleeper(), options(&["noexec", "nodev", "nosuid"]));
        let (pod_id, id) = node.run(&pod, &container).await?;
        let line = node.cri.shell(&id, "grep ' /data ' /proc/mounts").await?;
        for option in ["noexec", "nodev", "nosuid", "rw"] {
            ensure!(line.contains(option), "no {option}: {line}");
        }
        let output = node.cri.exec(&id, &["/data/script"], 10).await;
        let text = format!("{output:?}");
        ensure!(text.contains("ermission denied") && !text.contains("ran"), "{text}");
        for wrong in ["suid", "exec", "size=1", "ro", ""] {
            let container = with(pod.container("c", &image), options(&["nodev", wrong]));
            let result = node.cri.create(&pod_id, &pod, &container).await;
            refused(result, Code::InvalidArgument, &["mount_options", wrong])?;
        }
        Ok(())
    })
}

#[test]
fn missing_sources_become_directories_by_way_of_dangling_links_too() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let dir = node.scratch.dir().join("sources");
        fs::create_dir(&dir)?;
        symlink(dir.join("target"), dir.join("link"))?;
        symlink("parent", dir.join("up"))?;
        let pod = node.pod("missing");
        let container = pod
            .container("main", &image)
            .sleeper()
            .mount(&dir.join("plain/deep"), "/plain", false)
            .mount(&dir.join("link"), "/link", false)
            .mount(&dir.join("up/below"), "/below", false);
        let (_, id) = node.run(&pod, &container).await?;
        node.cri.shell(&id, "touch /plain/x /link/x /below/x").await?;
        for made in ["plain/deep", "target", "parent/below"] {
            ensure!(dir.join(made).join("x").exists(), "{made}");
            let mode = dir.join(made).metadata()?.permissions().mode() & 0o7777;
            ensure!(mode == 0o755, "{made}: {mode:o}");
        }
        Ok(())
    })
}

#[test]
fn mounts_are_made_parents_first_and_replace_the_defaults() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let dir = node.scratch.dir().join("sources");
        for name in ["outer/inner", "middle", "inner", "dev"] {
            fs::create_dir_all(dir.join(name))?;
            fs::write(dir.join(name).join("by"), name)?;
        }
        fs::write(dir.join("hosts"), "192.0.2.9 mine\n")?;
        fs::create_dir_all(dir.join("outer/middle/inner"))?;
        fs::create_dir_all(dir.join("middle/inner"))?;
        let pod = node.pod("order");
        let container = pod
            .container("main", &image)
            .sleeper()
            .mount(&dir.join("inner"), "/outer/middle/inner", true)
            .mount(&dir.join("outer"), "/outer", true)
            .mount(&dir.join("middle"), "/outer/middle/", true)
            .mount(&dir.join("hosts"), "/etc/hosts", true);
        let (pod_id, id) = node.run(&pod, &container).await?;
        let seen = node.cri.shell(&id, "cat /outer/middle/inner/by /outer/middle/by").await?;
        ensure!(seen == "innermiddle", "{seen}");
        ensure!(node.cri.shell(&id, "cat /etc/hosts").await? == "192.0.2.9 mine");
        let count = node.cri.shell(&id, "grep -c ' /etc/hosts ' /proc/mounts").await?;
        ensure!(count == "1", "{count}");

        // What is mounted on /dev is what the container has there.
        let own = pod.container("dev", &image).sleeper().mount(&dir.join("dev"), "/dev", false);
        let id = node.cri.create(&pod_id, &pod, &own).await?;
        node.cri.start(&id).await?;
        ensure!(node.cri.shell(&id, "ls /dev").await? == "by");
        let below = node.cri.shell(&id, "grep -c ' /dev/' /proc/mounts; true").await?;
        ensure!(below == "0", "{below}");
        Ok(())
    })
}
