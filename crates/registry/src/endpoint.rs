//! One host of a session: where it is, how it is reached, and what it has been asked so far.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url, redirect};
use tokio::sync::Mutex;

use crate::auth::AuthState;
use crate::config::Config;
use crate::hosts::{Capabilities, HostEntry, HostsError, is_loopback};
use crate::tls::{SystemRoots, TlsSettings, client_config};

/// One host that may be asked.
#[derive(Debug)]
pub(crate) struct Endpoint {
    base: Url,
    /// Host, and port where it is not the scheme's own: for messages.
    pub(crate) host: String,
    pub(crate) capabilities: Capabilities,
    /// Extra headers of `hosts.toml`; they go to this host only.
    pub(crate) headers: HeaderMap,
    pub(crate) guess: bool,
    pub(crate) auth: Mutex<AuthState>,
    own: Client,
    /// For redirects and token services elsewhere.
    foreign: Client,
    /// `ns=` query of mirrors: the registry whose content is meant.
    namespace: Option<String>,
    unreachable: AtomicBool,
}

impl Endpoint {
    /// Blocks on the disk (certificates).
    pub(crate) fn new(
        entry: HostEntry,
        registry: &str,
        config: &Config,
        system: &SystemRoots,
    ) -> Result<Self, HostsError> {
        let host = authority(&entry.base);
        let dial = entry.dial_timeout.unwrap_or(config.connect_timeout);
        let own = client(&entry.tls, is_loopback(&entry.base), dial, system)?;
        // A guess skips verification for this machine only, not for where it sends us.
        let foreign = if entry.guess {
            client(&TlsSettings::default(), false, dial, system)?
        } else {
            own.clone()
        };
        let is_hub = registry == "docker.io" && host == "registry-1.docker.io";
        Ok(Self {
            namespace: (host != registry && !is_hub).then(|| registry.to_owned()),
            headers: headers(&entry.headers)?,
            base: entry.base,
            host,
            capabilities: entry.capabilities,
            guess: entry.guess,
            auth: Mutex::new(AuthState::default()),
            own,
            foreign,
            unreachable: AtomicBool::new(false),
        })
    }

    /// Whether it is the same host, spoken to in another way.
    pub(crate) fn is_twin_of(&self, other: &Self) -> bool {
        self.host == other.host && self.base.scheme() != other.base.scheme()
    }

    /// The URL of `tail` (`<repository>/manifests/<tag>`) at this host.
    pub(crate) fn url(&self, tail: &str) -> Url {
        let mut url = self.base.clone();
        let path = format!("{}{tail}", self.base.path());
        url.set_path(&path);
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// Whether `url` is this very host by the same scheme.
    pub(crate) fn is_home(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }

    /// Whether this host is reached without TLS: an operator wrote so, or it is this machine.
    pub(crate) fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    pub(crate) fn client_for(&self, url: &Url) -> &Client {
        if self.is_home(url) { &self.own } else { &self.foreign }
    }

    /// Not asked again in this session while another host is left.
    pub(crate) fn mark_unreachable(&self) {
        self.unreachable.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreachable.load(Ordering::Relaxed)
    }
}

/// Host and explicit port of a URL.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, HostsError> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let refuse =
            |problem| HostsError::Value { path: "hosts.toml".into(), value: name.clone(), problem };
        let key =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse("is not a header name"))?;
        let mut value =
            HeaderValue::from_str(value).map_err(|_| refuse("has no valid header value"))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    Ok(headers)
}

fn client(
    tls: &TlsSettings,
    loopback: bool,
    connect_timeout: Duration,
    system: &SystemRoots,
) -> Result<Client, HostsError> {
    let mut builder = Client::builder()
        .tls_backend_preconfigured(client_config(tls, system)?)
        .user_agent(concat!("knarr/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect_timeout)
        // Redirects are followed by hand: what goes along depends on where they lead.
        .redirect(redirect::Policy::none())
        .referer(false);
    if loopback {
        builder = builder.no_proxy();
    }
    builder.build().map_err(HostsError::Client)
}
