//! Which hosts serve a registry's images: the directories containerd's `config_path` names.
//!
//! The first that exists of `<dir>/<host>/` (also `<host>_<port>_` and `<host>:<port>`) and
//! `<dir>/_default/` decides, by its `hosts.toml`: `[host."URL"]` tables are tried in file order,
//! then `server`. A directory without that file may hold `*.crt` authorities and
//! `*.cert`/`*.key` pairs, or nothing.
//! Without any directory: https at the registry itself, and on the loopback interface plain http
//! where https does not answer.

pub(crate) mod file;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::tls::TlsSettings;

/// `docker.io` is a name; this machine serves it.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// Why the settings of a registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not TOML, or a value of the wrong kind.
    #[error("{} is not a valid hosts file", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be used.
    #[error("{}: `{value}` {problem}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A certificate or key file without a usable certificate or key.
    #[error("{} holds no usable {want}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        want: &'static str,
    },
    /// TLS cannot be set up with these files.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
    /// The reference's host makes no URL.
    #[error("`{host}` makes no URL")]
    Url {
        /// The host.
        host: String,
    },
}

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Content by digest.
    pub(crate) pull: bool,
    /// What a tag means now.
    pub(crate) resolve: bool,
}

impl Capabilities {
    const ALL: Self = Self { pull: true, resolve: true };
}

/// One host to ask, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostEntry {
    /// Ends in `/v2/` or what `override_path` put there, always with a slash.
    pub(crate) base: Url,
    pub(crate) capabilities: Capabilities,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) tls: TlsSettings,
    /// Longest wait for a connection, if another than usual.
    pub(crate) dial_timeout: Option<Duration>,
    /// A guess that TLS is spoken: failing to connect is no finding, the next entry is tried.
    pub(crate) guess: bool,
}

/// The hosts to ask for images of `host`, best first. Blocks on the disk.
pub(crate) fn load(dirs: &[PathBuf], host: &str) -> Result<Vec<HostEntry>, HostsError> {
    for dir in dirs {
        for name in directory_names(host) {
            let dir = dir.join(name);
            let path = dir.join("hosts.toml");
            match fs::read_to_string(&path) {
                Ok(text) => return file::parse(&text, &path, host),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(HostsError::Read { path, source }),
            }
            if let Some(tls) = bare_certificates(&dir)? {
                return default_entries(host, tls);
            }
        }
    }
    default_entries(host, TlsSettings::default())
}

/// Directory names for a host, most specific first.
fn directory_names(host: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((name, port)) = split_port(host) {
        names.push(format!("{name}_{port}_"));
    }
    names.push(host.to_owned());
    names.push("_default".to_owned());
    names
}

/// Name and port; the colons of an IPv6 literal are no port.
fn split_port(host: &str) -> Option<(&str, &str)> {
    host.rsplit_once(':').filter(|(_, port)| !port.is_empty() && !port.contains(']'))
}

/// The certificates of a directory in Docker's older layout, perhaps none; `None` if there is no
/// such directory.
fn bare_certificates(dir: &Path) -> Result<Option<TlsSettings>, HostsError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(HostsError::Read { path: dir.to_owned(), source }),
    };
    let mut tls = TlsSettings::default();
    for entry in entries {
        let path =
            entry.map_err(|source| HostsError::Read { path: dir.to_owned(), source })?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => tls.clients.push((path.clone(), path.with_extension("key"))),
            Some(_) | None => {}
        }
    }
    tls.ca.sort();
    tls.clients.sort();
    Ok(Some(tls))
}

/// The registry itself, where no file says otherwise.
pub(super) fn default_entries(host: &str, tls: TlsSettings) -> Result<Vec<HostEntry>, HostsError> {
    let entry = |scheme: &str, host: &str, tls: TlsSettings, guess: bool| {
        let base = Url::parse(&format!("{scheme}://{host}/v2/"))
            .map_err(|_| HostsError::Url { host: host.to_owned() })?;
        Ok(HostEntry {
            base,
            capabilities: Capabilities::ALL,
            headers: Vec::new(),
            tls,
            dial_timeout: None,
            guess,
        })
    };
    if host == "docker.io" {
        return Ok(vec![entry("https", DOCKER_HUB, tls, false)?]);
    }
    let https = entry("https", host, tls.clone(), false)?;
    if !is_loopback(&https.base) || tls != TlsSettings::default() {
        return Ok(vec![https]);
    }
    // Traffic to this machine itself cannot be listened to: a certificate proves nothing there,
    // and development registries speak either protocol on any port.
    let unverified = TlsSettings { skip_verify: true, ..TlsSettings::default() };
    let plain = entry("http", host, TlsSettings::default(), false)?;
    match split_port(host).map(|(_, port)| port) {
        Some("80") => Ok(vec![plain]),
        Some("443") => Ok(vec![entry("https", host, unverified, false)?]),
        Some(_) | None => Ok(vec![entry("https", host, unverified, true)?, plain]),
    }
}

/// Whether a URL's host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(host: &str) -> Vec<String> {
        let entries = load(&[], host).unwrap();
        entries.iter().map(|entry| entry.base.to_string()).collect()
    }

    #[test]
    fn without_files_the_registry_itself_is_asked_by_https() {
        assert_eq!(bases("quay.io"), ["https://quay.io/v2/"]);
        assert_eq!(bases("quay.io:8443"), ["https://quay.io:8443/v2/"]);
        assert_eq!(bases("docker.io"), ["https://registry-1.docker.io/v2/"]);
        assert_eq!(bases("10.0.0.1:5000"), ["https://10.0.0.1:5000/v2/"]);
    }

    #[test]
    fn on_loopback_plain_http_follows() {
        for host in ["localhost:5000", "127.0.0.1:5000", "127.3.2.1:5000", "[::1]:5000"] {
            assert_eq!(
                bases(host),
                [format!("https://{host}/v2/"), format!("http://{host}/v2/")],
                "{host}"
            );
        }
        assert_eq!(bases("localhost:80"), ["http://localhost/v2/"]);
        assert_eq!(bases("localhost:443"), ["https://localhost/v2/"]);
    }

    #[test]
    fn directories_are_found_in_each_spelling_and_by_default() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, server: &str| {
            let dir = root.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("hosts.toml"), format!("server = \"https://{server}\"\n")).unwrap();
        };
        write("a.example_5000_", "a");
        write("b.example:5000", "b");
        write("c.example", "c");
        write("_default", "other");
        let dirs = [root.path().join("absent"), root.path().to_owned()];
        for (host, want) in [
            ("a.example:5000", "https://a/v2/"),
            ("b.example:5000", "https://b/v2/"),
            ("c.example", "https://c/v2/"),
            ("d.example", "https://other/v2/"),
        ] {
            let entries = load(&dirs, host).unwrap();
            assert_eq!(entries.last().unwrap().base.as_str(), want, "{host}");
        }
    }

    #[test]
    fn an_empty_directory_exempts_its_host_from_the_default() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("plain.example")).unwrap();
        fs::create_dir(root.path().join("_default")).unwrap();
        let mirror = "[host.\"https://mirror.example\"]\n";
        fs::write(root.path().join("_default/hosts.toml"), mirror).unwrap();
        let dirs = [root.path().to_owned()];
        let first = |host: &str| load(&dirs, host).unwrap()[0].base.to_string();
        assert_eq!(first("plain.example"), "https://plain.example/v2/");
        assert_eq!(first("other.example"), "https://mirror.example/v2/");
    }

    #[test]
    fn a_directory_of_certificates_alone_is_understood() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a.example");
        fs::create_dir(&dir).unwrap();
        for name in ["own.crt", "me.cert", "me.key"] {
            fs::write(dir.join(name), "").unwrap();
        }
        let entries = load(&[root.path().to_owned()], "a.example").unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].tls.ca, [dir.join("own.crt")]);
        assert_eq!(entries[0].tls.clients, [(dir.join("me.cert"), dir.join("me.key"))]);
    }
}
