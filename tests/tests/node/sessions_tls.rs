//! The streaming server with TLS: who may come, and certificates that change.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use streaming::ClientTls;
use streaming::client::{ClientProcess, ConnectError, Options, Transport, Verdict};
use test_support::node::{Node, on_a_node_with};

use crate::live::{Live, TRANSPORTS, exec_url, streams};

/// Signs certificates; its own is the file NAME.pem.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn make(dir: &Path, name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(dir.join(name).with_extension("pem"), params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key) })
    }

    /// Writes a certificate and its key as NAME.pem and NAME.key.
    fn sign(&self, dir: &Path, name: &str, host: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![host.to_owned()])?;
        let certificate = certificate.signed_by(&key, &self.issuer)?;
        for (ending, text) in [("pem", certificate.pem()), ("key", key.serialize_pem())] {
            // As a renewal does it: each file is whole at any time.
            let path = dir.join(name).with_extension(ending);
            let fresh = dir.join("fresh");
            std::fs::write(&fresh, text)?;
            std::fs::rename(&fresh, &path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

/// How a client comes: whom it believes, and whether it can say who it is.
fn options(dir: &Path, transport: Transport, authority: &str, known: bool) -> Options {
    let file = |name: &str| dir.join(name);
    let identity = known.then(|| (file("us.pem"), file("us.key")));
    Options { transport, tls: Some(ClientTls { authorities: file(authority), identity }) }
}

async fn connect(node: &Node, id: &str, options: Options) -> Result<Result<Live, ConnectError>> {
    let url = exec_url(node, id, "cat; exit 3", false).await?;
    ensure!(url.starts_with("https://127.0.0.1:"), "{url}");
    Ok(ClientProcess::connect(&url, options, streams(false)?).await.map(Live::of))
}

#[test]
fn sessions_are_encrypted_for_clients_that_are_known_and_certificates_are_renewed() -> Result<()> {
    let mut place = PathBuf::new();
    let configure = |settings: &mut test_support::daemon::Settings,
                     scratch: &test_support::scratch::Scratch| {
        place = scratch.dir().to_owned();
        let file = |name: &str| place.join(name).display().to_string();
        settings.extra_config = format!(
            "[streaming]\ntls_cert = {:?}\ntls_key = {:?}\nclient_ca = {:?}\n",
            file("server.pem"),
            file("server.key"),
            file("clients.pem"),
        );
        let made = Authority::make(&place, "servers")
            .and_then(|authority| authority.sign(&place, "server", "127.0.0.1"))
            .and_then(|()| Authority::make(&place, "clients"))
            .and_then(|authority| authority.sign(&place, "us", "somebody"));
        assert!(made.is_ok(), "{made:?}");
    };
    on_a_node_with(configure, async |node| {
        let dir = node.scratch.dir().to_owned();
        let (_, id) = node.sleeper("tls").await?;
        for transport in TRANSPORTS {
            let mut live =
                connect(node, &id, options(&dir, transport, "servers.pem", true)).await??;
            live.send(&"hello ".repeat(100_000)).await?;
            live.finish();
            let (out, _, verdict) = live.rest().await?;
            ensure!(out.len() == 600_000 && verdict == Verdict::ExitCode(3), "{verdict:?}");
            let unknown =
                connect(node, &id, options(&dir, transport, "servers.pem", false)).await?;
            ensure!(unknown.is_err(), "a client without a certificate");
            let wary = connect(node, &id, options(&dir, transport, "clients.pem", true)).await?;
            ensure!(matches!(wary, Err(ConnectError::Handshake { .. })), "another authority");
        }
        by_hand(node, &id, &dir)?;
        Authority::make(&dir, "renewed")?.sign(&dir, "server", "127.0.0.1")?;
        let transport = Transport::Spdy;
        let old = connect(node, &id, options(&dir, transport, "servers.pem", true)).await?;
        ensure!(matches!(old, Err(ConnectError::Handshake { .. })), "the old certificate");
        let mut live = connect(node, &id, options(&dir, transport, "renewed.pem", true)).await??;
        live.finish();
        ensure!(live.rest().await?.2 == Verdict::ExitCode(3));
        Ok(())
    })
}

/// The command line against it.
fn by_hand(node: &Node, id: &str, dir: &Path) -> Result<()> {
    let exec = |more: &[&str]| {
        let mut command = Command::new(node.daemon.program());
        command.arg("--address").arg(node.scratch.socket()).arg("exec");
        command.args(more).current_dir(dir).args([id, "--", "sh", "-c", "echo hello; exit 4"]);
        command.output().context("knarr exec")
    };
    let known = ["--tls-ca", "servers.pem", "--tls-cert", "us.pem", "--tls-key", "us.key"];
    let output = exec(&known)?;
    ensure!(output.stdout == b"hello\n" && output.status.code() == Some(4), "{output:?}");
    let output = exec(&[])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("--tls-ca"), "{said}");
    let output = exec(&["--tls-ca", "missing.pem"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("missing.pem"), "{said}");
    Ok(())
}
