//! A registry that wants to know who asks: credentials by the command line, by the CRI, by Docker's
//! configuration file and by a credential helper.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::spec;
use test_support::daemon::Settings;
use test_support::images::{Compression, ImageBuilder, LayerBuilder, OciImage};
use test_support::node::{Node, on_a_node_with};
use test_support::registry::{DebianRegistry, PASSWORD, USER};
use tonic::{Code, Status};

/// `USER:PASSWORD` in base64.
const BOTH: &str = "bWU6b3BlbiBzZXNhbWU=";

/// A guarded registry with one image.
struct Guarded {
    registry: DebianRegistry,
    image: OciImage,
    dir: tempfile::TempDir,
}

impl Guarded {
    /// `None`: Debian's registry is not installed.
    fn start() -> Result<Option<Self>> {
        if !Path::new("/usr/bin/docker-registry").exists() {
            test_support::skip("docker-registry is not installed");
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        let registry = DebianRegistry::guarded(dir.path())?;
        let layer = LayerBuilder::new().file("secret", 0o600, "x").finish(Compression::Gzip)?;
        let image = ImageBuilder::new("own/guarded:1")?.layer(layer).build();
        registry.push(&image)?;
        Ok(Some(Self { registry, image, dir }))
    }

    fn reference(&self) -> String {
        self.registry.reference(&self.image)
    }

    /// Runs `test` on a node that may talk to this registry, with `lines` in its table `registry`
    /// and this directory's programs in reach.
    fn on_a_node(
        &self,
        lines: &str,
        test: impl AsyncFnOnce(&mut Node) -> Result<()>,
    ) -> Result<()> {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.dir.path().display());
        let change = |settings: &mut Settings, _: &_| {
            settings.plain_registries.push(self.registry.host());
            settings.registry.push_str(lines);
            settings.environment.insert("PATH".to_owned(), path);
        };
        on_a_node_with(change, test)
    }

    /// Docker's configuration file with these entries; the line of ours that names it.
    fn docker_config(&self, entries: &serde_json::Value) -> Result<String> {
        let path = self.dir.path().join("config.json");
        fs::write(&path, entries.to_string())?;
        Ok(format!("docker_config = {path:?}\n"))
    }
}

fn knarr(node: &Node, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(node.daemon.program());
    command.arg("--address").arg(node.scratch.socket()).args(args);
    command.output().context("run knarr")
}

async fn pull_as(node: &Node, image: &str, auth: v1::AuthConfig) -> Result<String, Status> {
    let request = v1::PullImageRequest {
        image: Some(spec(image)),
        auth: Some(auth),
        ..v1::PullImageRequest::default()
    };
    Ok(node.cri.images.clone().pull_image(request).await?.into_inner().image_ref)
}

#[test]
fn who_has_no_credentials_or_wrong_ones_is_told_and_gets_nothing() -> Result<()> {
    let Some(guarded) = Guarded::start()? else { return Ok(()) };
    let reference = guarded.reference();
    let host = guarded.registry.host();
    guarded.on_a_node("", async |node| {
        for more in [&[][..], &["--creds", "me:wrong"], &["--creds", "nobody:open sesame"]] {
            let args = [&["pull", "--quiet", &reference], more].concat();
            let output = knarr(node, &args)?;
            let text = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success(), "{args:?} was let in");
            ensure!(
                text.contains(&host) && text.contains("authentication required"),
                "{args:?}: {text}"
            );
            ensure!(!text.contains("sesame") && !text.contains("wrong"), "tells secrets: {text}");
        }
        ensure!(node.cri.image_list().await?.is_empty());
        Ok(())
    })
}

#[test]
fn credentials_of_one_pull_serve_that_pull_alone() -> Result<()> {
    let Some(guarded) = Guarded::start()? else { return Ok(()) };
    let reference = guarded.reference();
    let file = guarded.dir.path().join("creds");
    fs::write(&file, format!("{USER}:{PASSWORD}\n"))?;
    guarded.on_a_node("", async |node| {
        let both = format!("{USER}:{PASSWORD}");
        for given in [both.as_str(), &file.display().to_string()] {
            let output = knarr(node, &["pull", "--quiet", "--creds", given, &reference])?;
            let text = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{text}");
            ensure!(String::from_utf8_lossy(&output.stdout).trim() == guarded.image.id);
            // Even with every layer here, the name is asked for again, as whoever asks.
            for _ in 0..2 {
                let refused = node.cri.pull(&reference).await;
                let code = refused.as_ref().err().map(Status::code);
                ensure!(code.is_some_and(|code| code != Code::Ok), "{refused:?}");
                node.cri.remove_image(&guarded.image.id).await?;
            }
        }
        let text = node.daemon.log_text();
        ensure!(!text.contains(PASSWORD) && !text.contains(BOTH), "the log tells the password");
        Ok(())
    })
}

#[test]
fn every_form_of_the_cris_credentials_is_understood() -> Result<()> {
    let Some(guarded) = Guarded::start()? else { return Ok(()) };
    let reference = guarded.reference();
    let host = guarded.registry.host();
    guarded.on_a_node("", async |node| {
        let named = v1::AuthConfig {
            username: USER.to_owned(),
            password: PASSWORD.to_owned(),
            ..v1::AuthConfig::default()
        };
        let joined = v1::AuthConfig { auth: BOTH.to_owned(), ..v1::AuthConfig::default() };
        let addressed = v1::AuthConfig { server_address: host.clone(), ..named.clone() };
        for auth in [named.clone(), joined, addressed] {
            let id = pull_as(node, &reference, auth).await?;
            ensure!(id == guarded.image.id, "{id}");
            node.cri.remove_image(&id).await?;
        }
        // Credentials for another server are not for this one.
        let other = v1::AuthConfig { server_address: "elsewhere.example".to_owned(), ..named };
        let refused = pull_as(node, &reference, other).await;
        ensure!(refused.is_err(), "sent what was meant for another server");
        Ok(())
    })
}

#[test]
fn the_nodes_own_credentials_serve_pulls_that_bring_none() -> Result<()> {
    let Some(guarded) = Guarded::start()? else { return Ok(()) };
    let reference = guarded.reference();
    let host = guarded.registry.host();
    let line = guarded.docker_config(&serde_json::json!({"auths": {&host: {"auth": BOTH}}}))?;
    guarded.on_a_node(&line, async |node| {
        ensure!(node.cri.pull(&reference).await? == guarded.image.id);
        Ok(())
    })
}

#[test]
fn a_credential_helper_is_asked_for_its_registry() -> Result<()> {
    let Some(guarded) = Guarded::start()? else { return Ok(()) };
    let reference = guarded.reference();
    let host = guarded.registry.host();
    let helper = guarded.dir.path().join("docker-credential-keeper");
    let asked = guarded.dir.path().join("asked");
    let answer = serde_json::json!({"ServerURL": host, "Username": USER, "Secret": PASSWORD});
    let script = format!("#!/bin/sh\n(echo $1; cat) >{asked:?}\necho '{answer}'\n");
    fs::write(&helper, script)?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    let entries = serde_json::json!({"credHelpers": {&host: "keeper"}});
    let line = guarded.docker_config(&entries)?;
    guarded.on_a_node(&line, async |node| {
        ensure!(node.cri.pull(&reference).await? == guarded.image.id);
        let text = fs::read_to_string(&asked)?;
        ensure!(text.trim_end() == format!("get\n{host}"), "{text:?}");
        Ok(())
    })
}
