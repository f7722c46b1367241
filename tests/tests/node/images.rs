//! Images: pulling, names, identity, removal; what a hostile or broken registry brings about.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use serde_json::json;
use test_support::cri::{refused, spec};
use test_support::images::{Compression, ImageBuilder, LayerBuilder, OciImage, catalog};
use test_support::node::{on_a_node, on_a_node_with, registry};
use test_support::registry::{DebianRegistry, Fault};
use tonic::{Code, Request, Status};

fn text<T>(result: &Result<T, Status>) -> String {
    result.as_ref().err().map(|status| status.message().to_owned()).unwrap_or_default()
}

/// A small image that no other test uses.
fn tiny(name: &str) -> Result<OciImage> {
    let layer = LayerBuilder::new().file("name", 0o644, name).finish(Compression::Gzip)?;
    let second = LayerBuilder::new().file("second", 0o644, name).finish(Compression::Zstd)?;
    let image = ImageBuilder::new(&format!("own/{name}:1"))?.layer(layer).layer(second);
    Ok(image.config("Cmd", json!(["/name"])).build())
}

#[test]
fn a_pulled_image_is_listed_under_its_names() -> Result<()> {
    on_a_node(async |node| {
        let image = tiny("names")?;
        let reference = node.offer(&image)?;
        let id = node.cri.pull(&reference).await?;
        ensure!(id == image.id, "{id} is not {}", image.id);
        let found = node.cri.image(&reference).await?.context("pulled")?;
        ensure!(found.id == id && found.size > 0, "{found:?}");
        ensure!(found.repo_tags == [reference.clone()], "{found:?}");
        let name = reference.trim_end_matches(":1");
        let digest = format!("{name}@{}", image.top()?.digest);
        ensure!(found.repo_digests == [digest.clone()], "{found:?}");
        for other in [&digest, &id, &id.replace("sha256:", ""), &id["sha256:".len()..][..20].into()]
        {
            let same = node.cri.image(other).await?.with_context(|| format!("by {other}"))?;
            ensure!(same.id == id, "by {other}: {same:?}");
        }
        let listed = node.cri.image_list().await?;
        ensure!(listed.len() == 1 && listed[0].id == id, "{listed:?}");
        Ok(())
    })
}

#[test]
fn a_pull_by_digest_has_no_tag() -> Result<()> {
    on_a_node(async |node| {
        let image = tiny("digest")?;
        let name = node.offer(&image)?;
        let reference = format!("{}@{}", name.trim_end_matches(":1"), image.top()?.digest);
        node.cri.pull(&reference).await?;
        let found = node.cri.image(&reference).await?.context("pulled")?;
        ensure!(found.repo_tags.is_empty() && found.repo_digests == [reference], "{found:?}");
        Ok(())
    })
}

#[test]
fn one_image_of_many_names_is_one_entry_and_goes_by_any_of_them() -> Result<()> {
    on_a_node(async |node| {
        let image = tiny("many")?;
        let names = [
            node.offer(&image)?,
            node.offer(&image.clone().named("own/many", "2"))?,
            node.offer(&image.clone().named("mirror/many", "1"))?,
        ];
        for name in &names {
            ensure!(node.cri.pull(name).await? == image.id);
        }
        let listed = node.cri.image_list().await?;
        ensure!(listed.len() == 1, "{listed:?}");
        let mut tags = listed[0].repo_tags.clone();
        tags.sort();
        let mut want = names.to_vec();
        want.sort();
        ensure!(tags == want, "{tags:?}");
        node.cri.remove_image(&names[1]).await?;
        ensure!(node.cri.image_list().await?.is_empty());
        for name in &names {
            ensure!(node.cri.image(name).await?.is_none(), "{name} is still there");
        }
        Ok(())
    })
}

#[test]
fn a_tag_that_moved_takes_its_name_along() -> Result<()> {
    on_a_node(async |node| {
        let first = tiny("moving-a")?.named("own/moving", "1");
        let second = tiny("moving-b")?.named("own/moving", "1");
        let name = node.offer(&first)?;
        ensure!(node.cri.pull(&name).await? == first.id);
        node.offer(&second)?;
        ensure!(node.cri.pull(&name).await? == second.id);
        ensure!(node.cri.image(&name).await?.context("moved")?.id == second.id);
        let old = node.cri.image(&first.id).await?.context("the old one stays")?;
        ensure!(old.repo_tags.is_empty() && !old.repo_digests.is_empty(), "{old:?}");
        Ok(())
    })
}

#[test]
fn removing_is_repeatable_and_concurrent() -> Result<()> {
    on_a_node(async |node| {
        node.cri.remove_image(&format!("sha256:{}", "0".repeat(64))).await?;
        let name = node.offer(&tiny("remove")?)?;
        let id = node.cri.pull(&name).await?;
        let cri = &node.cri;
        let (a, b, c) =
            tokio::join!(cri.remove_image(&id), cri.remove_image(&id), cri.remove_image(&name));
        a?;
        b?;
        c?;
        ensure!(node.cri.image(&name).await?.is_none());
        ensure!(node.cri.image_list().await?.is_empty());
        let layers = node.scratch.root().join("layers");
        let left = std::fs::read_dir(&layers).map(Iterator::count).unwrap_or_default();
        ensure!(left == 0, "{left} layers are left in {}", layers.display());
        Ok(())
    })
}

#[test]
fn an_image_removed_under_a_container_serves_it_to_the_end() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("holder").await?;
        let before = node.cri.container(&id).await?;
        node.cri.remove_image(&node.image("busybox")?).await?;
        for round in ["now", "after a crash"] {
            ensure!(node.cri.image_list().await?.is_empty(), "{round}");
            ensure!(node.cri.shell(&id, "ls /bin/busybox").await? == "/bin/busybox", "{round}");
            ensure!(node.cri.container(&id).await? == before, "{round}");
            node.crash_and_restart()?;
        }
        let layers = node.scratch.root().join("layers");
        let left = || std::fs::read_dir(&layers).map(Iterator::count).unwrap_or_default();
        ensure!(left() > 0, "its layers are gone");
        node.cri.remove_pod(&pod).await?;
        ensure!(left() == 0, "{} layers are left in {}", left(), layers.display());
        Ok(())
    })
}

#[test]
fn the_image_for_this_machine_is_chosen_from_an_index() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("platforms").await?;
        let pod = node.pod("platform");
        let (_, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let arch = node.cri.shell(&id, "cat /arch").await?;
        let want = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        ensure!(arch == want, "{arch}");
        Ok(())
    })
}

#[test]
fn no_image_for_this_machine_is_a_clear_error() -> Result<()> {
    on_a_node(async |node| {
        let result = node.cri.pull(&node.image("foreign")?).await;
        let text = text(&result);
        ensure!(result.is_err() && text.contains("linux/") && text.contains("s390x"), "{result:?}");
        Ok(())
    })
}

#[test]
fn an_unknown_image_is_named_in_the_error() -> Result<()> {
    on_a_node(async |node| {
        let name = format!("{}/test/nowhere:9", registry()?.host());
        let result = node.cri.pull(&name).await;
        ensure!(result.is_err() && text(&result).contains("nowhere"), "{result:?}");
        ensure!(node.cri.image(&name).await?.is_none());
        Ok(())
    })
}

#[test]
fn an_unreachable_registry_is_said_to_be_unreachable() -> Result<()> {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let plain = closed.clone();
    on_a_node_with(
        move |settings, _| settings.plain_registries.push(plain),
        async |node| {
            let result = node.cri.pull(&format!("{closed}/any/thing:1")).await;
            // The code and the first word are what kubelet looks at.
            let text = text(&result);
            let code = result.err().map(|status| status.code());
            ensure!(code == Some(Code::Unknown), "{code:?}: {text}");
            ensure!(text.starts_with("RegistryUnavailable") && text.contains(&closed), "{text}");
            Ok(())
        },
    )
}

#[test]
fn what_a_verifier_refuses_is_told_in_kubelets_words() -> Result<()> {
    on_a_node_with(
        |settings, scratch| {
            // There is no such directory: nobody consents.
            let dir = scratch.dir().join("verifiers");
            settings.extra_config = format!("[image]\nverifier_dir = \"{}\"\n", dir.display());
        },
        async |node| {
            let name = node.image("busybox")?;
            let result = node.cri.pull(&name).await;
            let text = text(&result);
            ensure!(
                text.starts_with("SignatureValidationFailed") && text.contains(&name),
                "{text}"
            );
            refused(result, Code::Unknown, &["verifiers"])?;
            let dir = node.scratch.dir().join("verifiers");
            std::fs::create_dir(&dir)?;
            let verifier = |name: &str, code: u8| {
                let path = dir.join(name);
                std::fs::write(&path, format!("#!/bin/sh\nexit {code}\n"))?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
            };
            verifier("consents", 0)?;
            node.cri.pull(&name).await?;
            verifier("refuses", 1)?;
            refused(node.cri.pull(&name).await, Code::Unknown, &["refuses", "gave no reason"])?;
            Ok(())
        },
    )
}

#[test]
fn a_malformed_name_is_refused() -> Result<()> {
    on_a_node(async |node| {
        for name in ["", "UPPER/case", "a b", "name:", "name@sha256:short"] {
            refused(node.cri.pull(name).await, Code::InvalidArgument, &[])
                .with_context(|| format!("`{name}`"))?;
        }
        Ok(())
    })
}

#[test]
fn a_blob_of_other_content_than_its_digest_is_refused() -> Result<()> {
    on_a_node(async |node| {
        let image = tiny("corrupt")?;
        let name = node.offer(&image)?;
        registry()?.break_blob(&image.repository, &image.blobs[0].digest, Fault::Corrupt);
        let result = node.cri.pull(&name).await;
        ensure!(result.is_err() && text(&result).contains(&image.blobs[0].digest), "{result:?}");
        ensure!(node.cri.image(&name).await?.is_none());
        Ok(())
    })
}

#[test]
fn a_layer_of_other_content_than_its_diff_id_is_refused() -> Result<()> {
    on_a_node(async |node| {
        let name = node.image("wrong-diff-id")?;
        let result = node.cri.pull(&name).await;
        ensure!(result.is_err() && text(&result).contains(&"0".repeat(64)), "{result:?}");
        ensure!(node.cri.image(&name).await?.is_none());
        Ok(())
    })
}

#[test]
fn an_interrupted_download_goes_on_and_a_broken_one_is_an_error() -> Result<()> {
    on_a_node(async |node| {
        let resumed = tiny("resumed")?;
        let name = node.offer(&resumed)?;
        let digest = &resumed.blobs[0].digest;
        registry()?.break_blob(&resumed.repository, digest, Fault::TruncateOnce(40));
        ensure!(node.cri.pull(&name).await? == resumed.id);

        let broken = tiny("broken")?;
        let name = node.offer(&broken)?;
        registry()?.break_blob(&broken.repository, &broken.blobs[0].digest, Fault::Truncate(40));
        let result = node.cri.pull(&name).await;
        ensure!(result.is_err(), "{result:?}");
        ensure!(node.cri.image(&name).await?.is_none());
        Ok(())
    })
}

#[test]
fn layers_are_fetched_once_and_shared() -> Result<()> {
    on_a_node(async |node| {
        let shared = LayerBuilder::new().file("shared", 0o644, "s").finish(Compression::Gzip)?;
        let digest = shared.blob.digest.clone();
        for name in ["own/sharer-a:1", "own/sharer-b:1"] {
            let own = LayerBuilder::new().file("own", 0o644, name).finish(Compression::Gzip)?;
            let image = ImageBuilder::new(name)?.layer(shared.clone()).layer(own).build();
            node.cri.pull(&node.offer(&image)?).await?;
        }
        let fetched = |repository: &str| -> Result<usize> {
            let want = format!("GET /v2/{repository}/blobs/{digest}");
            Ok(registry()?.requests(repository).iter().filter(|r| **r == want).count())
        };
        let counts = (fetched("own/sharer-a")?, fetched("own/sharer-b")?);
        ensure!(counts == (1, 0), "{counts:?}");
        Ok(())
    })
}

#[test]
fn a_layer_cannot_write_outside_its_root() -> Result<()> {
    on_a_node(async |node| {
        for name in ["escape-dots", "escape-link", "escape-hard-link"] {
            let result = node.cri.pull(&node.image(name)?).await;
            for path in ["/tmp/escaped", "/escaped", "/var/tmp/escaped"] {
                let escaped = std::path::Path::new(path).exists();
                ensure!(!escaped, "{name} wrote {path}");
            }
            if name != "escape-link" {
                ensure!(result.is_err(), "{name} was accepted: {result:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_pulls_deadline_is_kept_and_leaves_nothing_broken() -> Result<()> {
    on_a_node(async |node| {
        let name = node.image("busybox")?;
        let mut request =
            Request::new(v1::PullImageRequest { image: Some(spec(&name)), ..Default::default() });
        request.set_timeout(std::time::Duration::from_millis(1));
        let result = node.cri.images.clone().pull_image(request).await;
        // tonic's client reports its own deadline as Cancelled.
        let code = result.err().map(|status| status.code());
        ensure!(matches!(code, Some(Code::DeadlineExceeded | Code::Cancelled)), "{code:?}");
        node.cri.pull(&name).await?;
        Ok(())
    })
}

#[test]
fn the_image_file_system_is_known() -> Result<()> {
    on_a_node(async |node| {
        node.pulled("busybox").await?;
        let request = v1::ImageFsInfoRequest {};
        let info = node.cri.images.clone().image_fs_info(request).await?.into_inner();
        ensure!(info.image_filesystems.len() == 1, "{info:?}");
        let fs = &info.image_filesystems[0];
        let place = fs.fs_id.clone().unwrap_or_default().mountpoint;
        ensure!(std::path::Path::new(&place).is_dir(), "{info:?}");
        ensure!(fs.timestamp > 0, "{info:?}");
        Ok(())
    })
}

#[test]
fn images_survive_a_restart_and_a_half_pulled_one_does_not_show() -> Result<()> {
    on_a_node(async |node| {
        let name = node.pulled("layers").await?;
        let before = node.cri.image(&name).await?;
        let half = tiny("half")?;
        let half_name = node.offer(&half)?;
        registry()?.break_blob(&half.repository, &half.blobs[1].digest, Fault::Truncate(10));
        ensure!(node.cri.pull(&half_name).await.is_err());
        node.crash_and_restart()?;
        ensure!(node.cri.image(&name).await? == before);
        ensure!(node.cri.image(&half_name).await?.is_none());
        let pod = node.pod("after");
        let (_, id) = node.run(&pod, &pod.container("main", &name).sleeper()).await?;
        ensure!(node.cri.shell(&id, "cat /data/replace").await? == "new");
        Ok(())
    })
}

#[test]
fn debians_registry_serves_the_demos_images() -> Result<()> {
    if test_support::node::dist().is_err() {
        test_support::skip("run `cargo xtask test` as root");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let registry = DebianRegistry::start(dir.path())?;
    let host = registry.host();
    on_a_node_with(
        move |settings, _| settings.plain_registries.push(host),
        async |node| {
            for image in [catalog::web()?, catalog::client()?] {
                registry.push(&image)?;
                let id = node.cri.pull(&registry.reference(&image)).await?;
                ensure!(id == image.id, "{id}");
            }
            let web = registry.reference(&catalog::web()?);
            let pod = node.pod("web");
            let (pod_id, id) = node.run(&pod, &pod.container("web", &web)).await?;
            node.wait_log(&id, "start worker process").await?;
            let ip = node.cri.pod_ip(&pod_id).await?;
            let page = super::network::get(&format!("{ip}:8080"), "/")?;
            ensure!(page.contains("the image's own page"), "{page}");
            let draft = super::network::get(&format!("{ip}:8080"), "/draft.html")?;
            ensure!(draft.contains("404"), "{draft}");
            node.cri.stop(&id, 10).await?;
            let status = node.cri.container(&id).await?;
            ensure!(status.exit_code == 0, "nginx obeys the image's SIGQUIT: {status:?}");
            Ok(())
        },
    )
}
