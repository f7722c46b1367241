//! Images as volumes: what is seen, what is refused, how long their layers stay.

use std::fs;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use serde_json::json;
use test_support::images::{Compression, ImageBuilder, LayerBuilder, OciImage};
use test_support::node::{Node, on_a_node};
use test_support::pods::ContainerBuilder;
use tonic::Code;

/// An image of data alone: `data/{by,base,top}` and links that lead where they should not.
fn data(name: &str, layers: usize) -> Result<OciImage> {
    let base = LayerBuilder::new()
        .owner(1000, 1000)
        .dir("data", 0o755)
        .file("data/base", 0o644, "base\n")
        .file("data/by", 0o644, format!("{name} base\n"))
        .symlink("inside", "data")
        .symlink("outside", "../../../etc")
        .symlink("absolute", "/etc")
        .finish(Compression::Gzip)?;
    let top = LayerBuilder::new()
        .dir("data", 0o755)
        .file("data/by", 0o644, format!("{name} top\n"))
        .file("data/top", 0o644, "top\n")
        .finish(Compression::Zstd)?;
    let image = ImageBuilder::new(&format!("own/{name}:1"))?;
    Ok([base, top].into_iter().take(layers).fold(image, ImageBuilder::layer).build())
}

async fn pulled(node: &Node, image: &OciImage) -> Result<String> {
    Ok(node.cri.pull(&node.offer(image)?).await?)
}

fn volume(image: &str, place: &str, sub_path: &str) -> v1::Mount {
    v1::Mount {
        container_path: place.to_owned(),
        readonly: true,
        image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

fn with(container: ContainerBuilder, mount: v1::Mount) -> ContainerBuilder {
    container.with(|config| config.mounts.push(mount))
}

#[test]
fn an_image_is_seen_read_only_whatever_the_number_of_its_layers() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let one = pulled(node, &data("vol-one", 1)?).await?;
        let two = pulled(node, &data("vol-two", 2)?).await?;
        let none = pulled(node, &data("vol-none", 0)?).await?;
        let pod = node.pod("volumes");
        let mut container = pod.container("main", &image).sleeper();
        for (id, place, sub_path) in [
            (&one, "/one", ""),
            (&two, "/two", "."),
            (&two, "/sub", "data"),
            (&one, "/sub1", "inside"),
            (&none, "/none", ""),
        ] {
            container = with(container, volume(id, place, sub_path));
        }
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let (_, id) = node.run(&pod, &container).await?;
        let text = node
            .cri
            .shell(&id, "cat /one/data/by /two/data/by /sub/by /sub1/by; ls /sub; ls -A /none")
            .await?;
        let want = "vol-one base\nvol-two top\nvol-two top\nvol-one base\nbase\nby\ntop";
        ensure!(text == want, "{text}");
        let owner = node.cri.shell(&id, "stat -c %u:%g /one/data/base /sub/base").await?;
        ensure!(owner == "1000:1000\n1000:1000", "{owner}");
        for path in ["/one/x", "/two/data/x", "/sub/x", "/none/x"] {
            let output = node.cri.exec(&id, &["touch", path], 10).await?;
            ensure!(output.stderr.contains("Read-only"), "{path}: {output:?}");
        }
        let own = |text: &str| {
            let mark = node.scratch.mark();
            text.lines().filter(|line| line.contains(&mark)).count()
        };
        let now = fs::read_to_string("/proc/self/mountinfo")?;
        // The pod's network namespace is pinned; nothing else of it is on the host.
        ensure!(own(&now) <= own(&table) + 1, "mounted on the host:\n{now}");
        // Kubelet's image garbage collection looks at these.
        let echoed = node.cri.container(&id).await?.mounts;
        let images: Vec<&str> =
            echoed.iter().filter_map(|m| Some(m.image.as_ref()?.image.as_str())).collect();
        ensure!(images == [&one, &two, &two, &one, &none], "{images:?}");
        ensure!(echoed[2].image_sub_path == "data" && echoed[2].host_path.is_empty());
        Ok(())
    })
}

#[test]
fn options_and_names_of_images_are_taken_as_for_containers() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let offered = data("vol-name", 2)?;
        let id = pulled(node, &offered).await?;
        let reference = node.offer(&offered)?;
        let pod = node.pod("names");
        let mut noexec = volume(&reference, "/named", "");
        noexec.mount_options = vec!["noexec".to_owned()];
        let container = with(pod.container("main", &image).sleeper(), noexec);
        let container = with(container, volume(&id["sha256:".len()..][..16], "/prefix", "data"));
        let (pod_id, id) = node.run(&pod, &container).await?;
        let line = node.cri.shell(&id, "grep ' /named ' /proc/mounts").await?;
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            ensure!(line.contains(option), "no {option}: {line}");
        }
        node.cri.shell(&id, "cat /prefix/top").await?;
        // A second container of the pod has the same image, and a life of its own.
        let second = with(pod.container("second", &image).sleeper(), volume(&reference, "/v", ""));
        let second = node.cri.create(&pod_id, &pod, &second).await?;
        node.cri.start(&second).await?;
        node.cri.stop(&id, 0).await?;
        node.cri.remove(&id).await?;
        node.cri.shell(&second, "cat /v/data/by").await?;
        Ok(())
    })
}

#[test]
fn what_cannot_be_mounted_is_refused_in_kubelets_words() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let one = pulled(node, &data("bad-one", 1)?).await?;
        let two = pulled(node, &data("bad-two", 2)?).await?;
        let none = pulled(node, &data("bad-none", 0)?).await?;
        let pod = node.pod("bad");
        let pod_id = node.cri.run_pod(&pod).await?;
        let mut cases = vec![
            (volume("own/never-pulled:1", "/v", ""), Code::NotFound, "own/never-pulled:1"),
            (volume("In Valid", "/v", ""), Code::InvalidArgument, "In Valid"),
            (volume(&none, "/v", "data"), Code::InvalidArgument, "has no `data`"),
        ];
        for id in [&one, &two] {
            for (sub_path, word) in [
                ("none", "has no `none`"),
                ("data/none", "has no `data/none`"),
                ("data/by", "not a directory"),
                ("/data", "must be relative"),
                ("../etc", "must be relative"),
                ("data/../../etc", "must be relative"),
                ("outside", "leads out"),
                ("absolute", "leads out"),
            ] {
                cases.push((volume(id, "/v", sub_path), Code::InvalidArgument, word));
            }
        }
        let mut both = volume(&one, "/v", "");
        both.host_path = "/etc".to_owned();
        cases.push((both, Code::InvalidArgument, "/etc"));
        let mut propagates = volume(&one, "/v", "");
        propagates.propagation = v1::MountPropagation::PropagationHostToContainer.into();
        cases.push((propagates, Code::InvalidArgument, "private"));
        for (mount, code, word) in cases {
            let container = with(pod.container("c", &image), mount.clone());
            let result = node.cri.create(&pod_id, &pod, &container).await;
            let status = result.err().with_context(|| format!("{mount:?} was accepted"))?;
            let text = status.message();
            ensure!(text.starts_with("ImageVolumeMountFailed"), "{mount:?}: {text}");
            ensure!(status.code() == code && text.contains(word), "{mount:?}: {status}");
        }
        ensure!(node.cri.containers(None).await?.is_empty());
        Ok(())
    })
}

/// How many layers are on disk.
fn layers(node: &Node) -> Result<usize> {
    Ok(fs::read_dir(node.scratch.root().join("layers"))?.count())
}

#[test]
fn layers_of_a_mounted_image_stay_over_removal_and_restart_until_the_container_goes() -> Result<()>
{
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let before = layers(node)?;
        let reference = pulled(node, &data("vol-keep", 2)?).await?;
        ensure!(layers(node)? == before + 2);
        let pod = node.pod("keep");
        let container = with(pod.container("main", &image).sleeper(), volume(&reference, "/v", ""));
        let (pod_id, id) = node.run(&pod, &container).await?;
        let created = with(pod.container("later", &image).sleeper(), volume(&reference, "/v", ""));
        let later = node.cri.create(&pod_id, &pod, &created).await?;
        node.cri.remove_image(&reference).await?;
        ensure!(node.cri.image(&reference).await?.is_none());
        node.crash_and_restart()?;
        node.cri.shell(&id, "cat /v/data/top").await?;
        ensure!(layers(node)? == before + 2, "freed under a container");
        // One that was only created before the restart starts with them.
        node.cri.start(&later).await?;
        node.cri.shell(&later, "cat /v/data/by").await?;
        node.cri.stop(&id, 0).await?;
        node.cri.remove(&id).await?;
        ensure!(layers(node)? == before + 2, "freed under the other container");
        node.cri.remove_pod(&pod_id).await?;
        ensure!(layers(node)? == before, "not freed with the pod");
        Ok(())
    })
}

#[test]
fn a_pod_manifest_can_mount_images() -> Result<()> {
    on_a_node(async |node| {
        let offered = data("vol-cli", 2)?;
        let (model, busybox) = (node.offer(&offered)?, node.image("busybox")?);
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cli-volume"},
            "spec": {
                "containers": [{
                    "name": "main", "image": busybox,
                    "command": ["sleep", "1000"],
                    "volumeMounts": [{"name": "model", "mountPath": "/model", "subPath": "data"}],
                }],
                "volumes": [{"name": "model", "image": {"reference": model}}],
            }
        });
        let file = node.scratch.dir().join("pod.json");
        fs::write(&file, manifest.to_string())?;
        let output = std::process::Command::new(node.daemon.program())
            .arg("--address")
            .arg(node.scratch.socket())
            .arg("run")
            .arg("--log-dir")
            .arg(node.scratch.logs())
            .arg(&file)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let containers = node.cri.containers(None).await?;
        let [container] = containers.as_slice() else { anyhow::bail!("{containers:?}") };
        ensure!(node.cri.shell(&container.id, "cat /model/top").await? == "top");
        let mounts = node.cri.container(&container.id).await?.mounts;
        let spec = mounts[0].image.clone().unwrap_or_default();
        ensure!((spec.image, spec.user_specified_image) == (offered.id, model), "by id");
        Ok(())
    })
}
