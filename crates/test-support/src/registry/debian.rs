//! Debian's `docker-registry` as a child process on a port of the kernel's choice.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::http::{Reply, request};
use crate::images::OciImage;

/// A running registry. Killed when dropped; its storage belongs to the caller's directory.
#[derive(Debug)]
pub struct DebianRegistry {
    child: Child,
    address: SocketAddr,
    login: Option<&'static str>,
}

/// The one who may talk to a guarded registry.
pub const USER: &str = "me";
/// Their password.
pub const PASSWORD: &str = "open sesame";
/// The password as `htpasswd -B` writes it.
const HASH: &str = "$2a$05$osOnhT1GPw2a2b5b5ELGR.yIG9.V4iGbJEyegEknL98RBkP6WfWFK";
/// Both as HTTP's Basic scheme sends them.
const LOGIN: &str = "Basic bWU6b3BlbiBzZXNhbWU=";

impl DebianRegistry {
    /// Starts a registry that stores below `dir` and returns once it listens.
    ///
    /// # Errors
    /// `docker-registry` is not installed or refuses to start.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::run(dir, "", None)
    }

    /// As [`DebianRegistry::start`], for [`USER`] with [`PASSWORD`] alone.
    ///
    /// # Errors
    /// As for [`DebianRegistry::start`].
    pub fn guarded(dir: &Path) -> Result<Self> {
        let file = dir.join("htpasswd");
        std::fs::write(&file, format!("{USER}:{HASH}\n"))
            .with_context(|| file.display().to_string())?;
        let guard = format!("auth:\n  htpasswd: {{realm: guarded, path: {}}}\n", file.display());
        Self::run(dir, &guard, Some(LOGIN))
    }

    fn run(dir: &Path, guard: &str, login: Option<&'static str>) -> Result<Self> {
        let config = dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n  secret: scratch\n{guard}",
            dir.join("registry").display()
        );
        std::fs::write(&config, text).with_context(|| config.display().to_string())?;
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            // Ctrl-C is for us: what we started is ended in its turn.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start docker-registry")?;
        let log = child.stderr.take().context("docker-registry's log")?;
        match listening(log) {
            Ok(address) => Ok(Self { child, address, login }),
            Err(e) => {
                child.kill().ok();
                child.wait().ok();
                Err(e)
            }
        }
    }

    /// `127.0.0.1:<port>`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The image's full name on this registry.
    pub fn reference(&self, image: &OciImage) -> String {
        format!("{}/{}:{}", self.address, image.repository, image.tag)
    }

    /// Uploads what the registry lacks and sets the tag.
    ///
    /// # Errors
    /// The registry refuses a step.
    pub fn push(&self, image: &OciImage) -> Result<()> {
        let base = format!("/v2/{}", image.repository);
        for blob in &image.blobs {
            let there = self.call("HEAD", &format!("{base}/blobs/{}", blob.digest), &[], &[])?;
            if there.status != 200 {
                self.upload(&base, &blob.digest, &blob.bytes)?;
            }
        }
        let top = &image.top()?.digest;
        for manifest in &image.manifests {
            let name = if manifest.digest == *top { &image.tag } else { &manifest.digest };
            let target = format!("{base}/manifests/{name}");
            let kind = [("Content-Type", manifest.media_type)];
            let reply = self.call("PUT", &target, &kind, &manifest.bytes)?;
            ensure!(reply.status == 201, "PUT {target}: {}", describe(&reply));
        }
        Ok(())
    }

    fn upload(&self, base: &str, digest: &str, bytes: &[u8]) -> Result<()> {
        let begun = self.call("POST", &format!("{base}/blobs/uploads/"), &[], &[])?;
        ensure!(begun.status == 202, "begin an upload: {}", describe(&begun));
        let place = begun.header("location").context("the upload has no location")?;
        let target = place.split_once("/v2/").context("the location is no path")?.1;
        let joint = if target.contains('?') { '&' } else { '?' };
        let target = format!("/v2/{target}{joint}digest={digest}");
        let kind = [("Content-Type", "application/octet-stream")];
        let reply = self.call("PUT", &target, &kind, bytes)?;
        ensure!(reply.status == 201, "upload {digest}: {}", describe(&reply));
        Ok(())
    }

    fn call(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply> {
        let login = self.login.map(|login| ("Authorization", login));
        let headers: Vec<_> = headers.iter().copied().chain(login).collect();
        request(self.address, method, target, &headers, body)
    }
}

fn describe(reply: &Reply) -> String {
    format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body))
}

/// Waits for the line that names the port, then keeps the log flowing into nothing: a full pipe
/// would stop the registry.
fn listening(log: impl std::io::Read + Send + 'static) -> Result<SocketAddr> {
    let mut lines = BufReader::new(log).lines();
    let mut seen = String::new();
    for line in lines.by_ref() {
        let line = line.context("docker-registry's log")?;
        if let Some((_, rest)) = line.split_once("listening on ") {
            let text = rest.split(['"', ' ']).next().unwrap_or_default();
            let address = text.parse().with_context(|| format!("address `{text}`"))?;
            std::thread::Builder::new()
                .name("registry-log".into())
                .spawn(move || lines.for_each(drop))
                .context("drain docker-registry's log")?;
            return Ok(address);
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    bail!("docker-registry ended:\n{seen}");
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::catalog;

    #[test]
    fn a_pushed_image_can_be_fetched_by_tag_and_by_digest() {
        for program in ["/usr/bin/docker-registry", "/usr/sbin/nginx", "/bin/busybox"] {
            if !Path::new(program).exists() {
                crate::skip(&format!("{program} is not installed"));
                return;
            }
        }
        let dir = std::env::temp_dir().join(format!("knarr-registry-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let image = catalog::web().unwrap();
        let registry = DebianRegistry::start(&dir).unwrap();
        registry.push(&image).unwrap();
        let top = image.top().unwrap();
        for name in [&image.tag, &top.digest] {
            let target = format!("/v2/demo/web/manifests/{name}");
            let accept = [("Accept", top.media_type)];
            let reply = registry.call("GET", &target, &accept, &[]).unwrap();
            assert_eq!((reply.status, &reply.body), (200, &top.bytes), "{name}");
        }
        drop(registry);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
