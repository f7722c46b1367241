//! One `hosts.toml`. Keys that are not known are ignored: the file is shared with other runtimes.

use std::path::Path;
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;

use super::{Capabilities, DOCKER_HUB, HostEntry, HostsError, default_entries};
use crate::tls::TlsSettings;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: OneOrMany,
    client: Option<ClientFiles>,
    skip_verify: bool,
    override_path: bool,
    dial_timeout: String,
    header: toml::map::Map<String, toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// `"both.pem"`, `["both.pem", …]` or `[["cert.pem", "key.pem"], …]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ClientFiles {
    One(String),
    Many(Vec<OneOrMany>),
}

pub(crate) fn parse(text: &str, path: &Path, host: &str) -> Result<Vec<HostEntry>, HostsError> {
    let syntax = |source| HostsError::Syntax { path: path.to_owned(), source: Box::new(source) };
    let mut root: toml::Table = toml::from_str(text).map_err(syntax)?;
    let server = root.remove("server");
    let hosts: toml::Table = match root.remove("host") {
        Some(hosts) => hosts.try_into().map_err(syntax)?,
        None => toml::Table::new(),
    };
    let mut entries = Vec::new();
    for (url, table) in hosts {
        let table: HostTable = table.try_into().map_err(syntax)?;
        entries.extend(with_tls_first(entry(&url, &table, path)?));
    }
    let table: HostTable = toml::Value::Table(root).try_into().map_err(syntax)?;
    match server {
        Some(toml::Value::String(url)) if !url.is_empty() => {
            entries.extend(with_tls_first(entry(&url, &table, path)?));
        }
        Some(toml::Value::String(_)) | None => {
            let common = Common::new(&table, path)?;
            let default = default_entries(host, common.tls)?;
            entries.extend(default.into_iter().map(|entry| HostEntry {
                headers: common.headers.clone(),
                dial_timeout: common.dial_timeout,
                ..entry
            }));
        }
        Some(other) => {
            return Err(HostsError::Value {
                path: path.to_owned(),
                value: other.to_string(),
                problem: "is not a URL",
            });
        }
    }
    Ok(entries)
}

/// What does not depend on the URL.
struct Common {
    tls: TlsSettings,
    headers: Vec<(String, String)>,
    dial_timeout: Option<Duration>,
}

impl Common {
    fn new(table: &HostTable, path: &Path) -> Result<Self, HostsError> {
        let mut headers = Vec::new();
        for (name, value) in &table.header {
            let values = value.clone().try_into::<OneOrMany>();
            let values = values.map_err(|source| HostsError::Syntax {
                path: path.to_owned(),
                source: Box::new(source),
            })?;
            headers.extend(values.into_vec().into_iter().map(|value| (name.clone(), value)));
        }
        let dial_timeout = match table.dial_timeout.as_str() {
            "" => None,
            text => Some(duration(text).ok_or_else(|| HostsError::Value {
                path: path.to_owned(),
                value: text.to_owned(),
                problem: "is no duration such as \"10s\" or \"1m30s\"",
            })?),
        };
        Ok(Self { tls: tls(table, path)?, headers, dial_timeout })
    }
}

fn entry(text: &str, table: &HostTable, path: &Path) -> Result<HostEntry, HostsError> {
    let Common { tls, headers, dial_timeout } = Common::new(table, path)?;
    Ok(HostEntry {
        base: base_url(text, table.override_path, path)?,
        capabilities: capabilities(table.capabilities.as_deref(), path)?,
        headers,
        tls,
        dial_timeout,
        guess: false,
    })
}

/// Who writes `http://` and then how TLS is to be done is taken to mean: with TLS if it is there.
fn with_tls_first(plain: HostEntry) -> Vec<HostEntry> {
    let says_tls = plain.tls != TlsSettings::default();
    if plain.base.scheme() != "http" || plain.base.port().is_none() || !says_tls {
        return vec![plain];
    }
    let mut secure = HostEntry { guess: true, ..plain.clone() };
    match secure.base.set_scheme("https") {
        Ok(()) => vec![secure, plain],
        Err(()) => vec![plain],
    }
}

fn capabilities(names: Option<&[String]>, path: &Path) -> Result<Capabilities, HostsError> {
    let Some(names) = names.filter(|names| !names.is_empty()) else {
        return Ok(Capabilities::ALL);
    };
    let mut found = Capabilities { pull: false, resolve: false };
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "pull" => found.pull = true,
            "resolve" => found.resolve = true,
            "push" => {}
            _ => {
                return Err(HostsError::Value {
                    path: path.to_owned(),
                    value: name.clone(),
                    problem: "is no capability: there are pull, resolve and push",
                });
            }
        }
    }
    Ok(found)
}

/// As Go writes them: numbers with units, one after the other.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let behind = &rest[digits..];
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let seconds = match &behind[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &behind[unit..];
    }
    (total > Duration::ZERO).then_some(total)
}

/// The URL below which the API lives: `/v2` is appended unless it is there or overridden.
fn base_url(text: &str, override_path: bool, path: &Path) -> Result<Url, HostsError> {
    let refuse =
        |problem| HostsError::Value { path: path.to_owned(), value: text.to_owned(), problem };
    let with_scheme =
        if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&with_scheme).map_err(|_| refuse("is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("is neither http nor https"));
    }
    if url.host_str() == Some("docker.io") {
        url.set_host(Some(DOCKER_HUB)).map_err(|_| refuse("is not a URL"))?;
    }
    let mut below = url.path().trim_end_matches('/').to_owned();
    if !override_path && !below.ends_with("/v2") {
        below.push_str("/v2");
    }
    below.push('/');
    url.set_path(&below);
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn tls(table: &HostTable, path: &Path) -> Result<TlsSettings, HostsError> {
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    let ca = match &table.ca {
        OneOrMany::One(one) => vec![dir.join(one)],
        OneOrMany::Many(many) => many.iter().map(|file| dir.join(file)).collect(),
    };
    let refuse = |value: &str| HostsError::Value {
        path: path.to_owned(),
        value: value.to_owned(),
        problem: "is not one client certificate with its key",
    };
    let one = |files: &OneOrMany| match files {
        OneOrMany::One(both) => Ok((dir.join(both), dir.join(both))),
        OneOrMany::Many(pair) => match pair.as_slice() {
            [cert, key] if key.is_empty() => Ok((dir.join(cert), dir.join(cert))),
            [cert, key] => Ok((dir.join(cert), dir.join(key))),
            other => Err(refuse(&other.join(", "))),
        },
    };
    let clients = match &table.client {
        None => Vec::new(),
        Some(ClientFiles::One(both)) => vec![(dir.join(both), dir.join(both))],
        Some(ClientFiles::Many(pairs)) => pairs.iter().map(one).collect::<Result<_, _>>()?,
    };
    Ok(TlsSettings { ca, clients, skip_verify: table.skip_verify })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<HostEntry> {
        parse(text, Path::new("/etc/certs.d/quay.io/hosts.toml"), "quay.io").unwrap()
    }

    #[test]
    fn hosts_are_tried_in_file_order_and_the_server_last() {
        let entries = check(
            r#"
            server = "https://quay.io"
            [host."https://z.example"]
            capabilities = ["pull"]
            [host."http://a.example:5000/proxy"]
            [host."m.example/v2/"]
            capabilities = ["pull", "resolve", "push"]
            [host."https://o.example/api/quay"]
            override_path = true
            "#,
        );
        let bases: Vec<_> = entries.iter().map(|entry| entry.base.as_str()).collect();
        assert_eq!(
            bases,
            [
                "https://z.example/v2/",
                "http://a.example:5000/proxy/v2/",
                "https://m.example/v2/",
                "https://o.example/api/quay/",
                "https://quay.io/v2/",
            ]
        );
        assert_eq!(entries[0].capabilities, Capabilities { pull: true, resolve: false });
        assert_eq!(entries[1].capabilities, Capabilities::ALL);
    }

    #[test]
    fn files_are_relative_to_the_hosts_file() {
        let entries = check(
            r#"
            [host."https://a.example"]
            ca = "ca.pem"
            skip_verify = true
            client = [["cert.pem", "/abs/key.pem"]]
            future_key = 7
            [host."https://a.example".header]
            x-one = "1"
            x-two = ["2", "3"]
            [host."https://b.example"]
            ca = ["/x.pem", "y.pem"]
            client = "both.pem"
            "#,
        );
        let dir = Path::new("/etc/certs.d/quay.io");
        assert_eq!(entries[0].tls.ca, [dir.join("ca.pem")]);
        assert!(entries[0].tls.skip_verify);
        assert_eq!(entries[0].tls.clients, [(dir.join("cert.pem"), "/abs/key.pem".into())]);
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            entries[0].headers,
            [header("x-one", "1"), header("x-two", "2"), header("x-two", "3")]
        );
        assert_eq!(entries[1].tls.ca, [Path::new("/x.pem").to_owned(), dir.join("y.pem")]);
        assert_eq!(entries[1].tls.clients, [(dir.join("both.pem"), dir.join("both.pem"))]);
        assert_eq!(entries[2].base.as_str(), "https://quay.io/v2/");
    }

    #[test]
    fn plain_hosts_with_tls_settings_are_asked_by_tls_first() {
        let entries = check("[host.\"http://m.example:5000\"]\nskip_verify = true\n");
        let bases: Vec<_> = entries.iter().map(|entry| entry.base.as_str()).collect();
        let want =
            ["https://m.example:5000/v2/", "http://m.example:5000/v2/", "https://quay.io/v2/"];
        assert_eq!(bases, want);
        assert!(entries[0].guess && !entries[1].guess);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(
            keys in proptest::collection::vec(
                "(server|host|ca|client|header|dial_timeout|capabilities|skip_verify)( = |\\.)[ -~]{0,30}",
                0..5,
            ),
        ) {
            let text = keys.join("\n");
            if let Ok(entries) = parse(&text, Path::new("/d/hosts.toml"), "quay.io") {
                proptest::prop_assert!(entries.iter().all(|entry| entry.base.path().ends_with('/')));
            }
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, want) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1500)),
            ("300ms", Some(300)),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("0s", None),
            ("1x", None),
        ] {
            assert_eq!(duration(text), want.map(Duration::from_millis), "{text}");
        }
        let entries = check("dial_timeout = \"3s\"\n[header]\nx-a = \"1\"\n");
        assert_eq!(entries[0].dial_timeout, Some(Duration::from_secs(3)));
        assert_eq!(entries[0].headers.len(), 1);
    }

    #[test]
    fn settings_at_the_top_are_those_of_the_server() {
        let entries = check("ca = \"top.pem\"\n");
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].base.as_str(), "https://quay.io/v2/");
        assert_eq!(entries[0].tls.ca.len(), 1);
        assert_eq!(
            check("server = \"https://docker.io\"")[0].base.as_str(),
            "https://registry-1.docker.io/v2/"
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_file() {
        for text in [
            "server = 7",
            "server = \"ftp://x\"",
            "host = 3",
            "[host.\"https://a\"]\nskip_verify = \"yes\"",
            "[host.\"https://a\"]\nclient = [[\"a\", \"b\", \"c\"]]",
            "[host.\"http://[bad\"]",
            "capabilities = [\"pul\"]\nserver = \"https://a\"",
            "dial_timeout = \"soon\"",
            "not toml",
        ] {
            let refused = parse(text, Path::new("/d/hosts.toml"), "quay.io").unwrap_err();
            assert!(refused.to_string().contains("/d/hosts.toml"), "{text}: {refused}");
        }
    }
}
