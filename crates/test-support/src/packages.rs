//! Debian packages, installed when missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Installs those of `names` that are missing. Does nothing, and needs neither root nor network,
/// when all are there. Blocks for as long as apt takes.
///
/// # Errors
/// apt is missing, has no network, or this is not root.
pub fn ensure(names: &[&str]) -> Result<()> {
    let missing = missing(names)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    ensure!(
        rustix::process::geteuid().is_root(),
        "these Debian packages are missing: {list}; install them or run as root"
    );
    let _services = ServicesKeptDown::engage()?;
    apt(&["update", "--quiet"]).context("refresh apt's lists (is the network there?)")?;
    let mut install = vec!["install", "--quiet", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install).with_context(|| format!("install {list}"))
}

fn missing<'a>(names: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(names)
        .output()
        .context("run dpkg-query: knarr's tests run on Debian")?;
    let known = String::from_utf8_lossy(&output.stdout);
    Ok(names
        .iter()
        .filter(|name| !known.lines().any(|line| line == format!("{name} installed")))
        .copied()
        .collect())
}

fn apt(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("start apt-get")?;
    if !status.success() {
        bail!("apt-get {}: {status}", args.join(" "));
    }
    Ok(())
}

/// While alive, a package's service does not start on installation: the web server and the
/// registry are wanted as files, not as daemons on this machine's ports.
struct ServicesKeptDown {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl ServicesKeptDown {
    fn engage() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").context(POLICY)?;
        let this = Self { ours: true };
        std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755)).context(POLICY)?;
        Ok(this)
    }
}

impl Drop for ServicesKeptDown {
    fn drop(&mut self) {
        if self.ours {
            std::fs::remove_file(POLICY).ok();
        }
    }
}
