//! Node-wide credentials: Docker's `config.json` and the helpers it names. They serve pulls that
//! bring none of their own, and only if an operator has said where the file is.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use sys::program::{self, ExecError};

use crate::config::Config;
use crate::credentials::Credentials;

/// No helper has more to say.
const ANSWER_MAX: usize = 64 * 1024;
/// What a helper calls the user of a token.
const TOKEN_USER: &str = "<token>";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Why a helper gave no credentials. Its output is never repeated: it may be a secret.
#[derive(Debug, thiserror::Error)]
enum HelperError {
    #[error("its name is not one a program can have")]
    Name,
    #[error(transparent)]
    Run(#[from] ExecError),
    #[error("it ended with {0}")]
    Failed(std::process::ExitStatus),
    #[error("its answer is not what the protocol says")]
    Answer,
}

/// The credentials of the node for images of `host`. What is wrong with the file or a helper is
/// logged, and the pull goes on without. Blocks, at most for the helper's time limit.
pub(crate) fn credentials(config: &Config, host: &str) -> Credentials {
    let Some(path) = &config.docker_config else { return Credentials::Anonymous };
    let file = match read(path) {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "node-wide credentials cannot be read");
            return Credentials::Anonymous;
        }
    };
    let names = names(host);
    let helper = names.iter().find_map(|name| Some((file.cred_helpers.get(name)?, name.clone())));
    if let Some((helper, server)) = helper {
        return from_helper(helper, &server, config.helper_timeout);
    }
    let entry = file.auths.iter().find(|(server, _)| names.iter().any(|name| is(server, name)));
    let stored = entry.map_or(Credentials::Anonymous, |(_, auth)| stored(auth));
    if stored != Credentials::Anonymous || file.creds_store.is_empty() {
        return stored;
    }
    let server = entry.map_or_else(|| host.to_owned(), |(server, _)| server.clone());
    from_helper(&file.creds_store, &server, config.helper_timeout)
}

fn read(path: &Path) -> io::Result<File> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            // The text around the fault may be a password.
            let place = format!("it is not Docker's JSON, line {}", error.line());
            io::Error::new(io::ErrorKind::InvalidData, place)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(File::default()),
        Err(error) => Err(error),
    }
}

/// What a registry may be called in the file.
fn names(host: &str) -> Vec<String> {
    let mut names = vec![host.to_owned()];
    if host == "docker.io" {
        names.extend(
            ["https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"]
                .map(str::to_owned),
        );
    }
    names
}

/// Whether a key of `auths`, a host or a URL with any path, means a registry.
fn is(key: &str, name: &str) -> bool {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    key == name || bare.split('/').next() == Some(name)
}

fn stored(auth: &Auth) -> Credentials {
    if !auth.identitytoken.is_empty() {
        return Credentials::IdentityToken(auth.identitytoken.clone());
    }
    if !auth.registrytoken.is_empty() {
        return Credentials::RegistryToken(auth.registrytoken.clone());
    }
    if !auth.username.is_empty() {
        let (user, password) = (auth.username.clone(), auth.password.clone());
        return Credentials::Basic { user, password };
    }
    let decoded = BASE64_STANDARD.decode(auth.auth.trim()).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    match text.trim_end_matches('\0').split_once(':') {
        Some((user, password)) => {
            Credentials::Basic { user: user.to_owned(), password: password.to_owned() }
        }
        None => Credentials::Anonymous,
    }
}

fn from_helper(helper: &str, server: &str, limit: Duration) -> Credentials {
    match ask(helper, server, limit) {
        Ok(Answer { username, secret }) if username == TOKEN_USER => {
            Credentials::IdentityToken(secret)
        }
        Ok(Answer { username, secret }) => Credentials::Basic { user: username, password: secret },
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(helper, server, error, "a credential helper gave no credentials");
            Credentials::Anonymous
        }
    }
}

/// Docker's credential helper protocol: `docker-credential-NAME get`, the server on stdin.
fn ask(helper: &str, server: &str, limit: Duration) -> Result<Answer, HelperError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if helper.is_empty() || !helper.chars().all(is_plain) {
        return Err(HelperError::Name);
    }
    ask_program(Path::new(&format!("docker-credential-{helper}")), server, limit)
}

fn ask_program(program: &Path, server: &str, limit: Duration) -> Result<Answer, HelperError> {
    // It finds its own settings by the environment.
    let ended = program::run_inheriting(program, &["get"], server.as_bytes(), limit)?;
    if !ended.status.success() {
        return Err(HelperError::Failed(ended.status));
    }
    if ended.stdout.len() > ANSWER_MAX {
        return Err(HelperError::Answer);
    }
    serde_json::from_slice(&ended.stdout).map_err(|_| HelperError::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let config = Config { docker_config: Some(path), ..Config::default() };
        (dir, config)
    }

    #[test]
    fn entries_are_found_by_every_spelling_of_their_host() {
        let (_dir, config) = config(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},
                "r.example:5000":{"username":"a","password":"b"},
                "https://t.example/v2/":{"identitytoken":"t"}}}"#,
        );
        let basic = |user: &str, password: &str| Credentials::Basic {
            user: user.into(),
            password: password.into(),
        };
        assert_eq!(credentials(&config, "docker.io"), basic("u", "p"));
        assert_eq!(credentials(&config, "r.example:5000"), basic("a", "b"));
        assert_eq!(credentials(&config, "t.example"), Credentials::IdentityToken("t".into()));
        assert_eq!(credentials(&config, "r.example"), Credentials::Anonymous);
    }

    #[test]
    fn what_cannot_be_read_gives_no_credentials() {
        let (_dir, broken) = config("{\"auths\": secret");
        assert_eq!(credentials(&broken, "docker.io"), Credentials::Anonymous);
        let (_dir, strange) = config(r#"{"credHelpers":{"a.example":"../../bin/sh"}}"#);
        assert_eq!(credentials(&strange, "a.example"), Credentials::Anonymous);
        let absent = Config { docker_config: Some("/nonexistent".into()), ..Config::default() };
        assert_eq!(credentials(&absent, "docker.io"), Credentials::Anonymous);
        assert_eq!(credentials(&Config::default(), "docker.io"), Credentials::Anonymous);
    }

    #[test]
    fn a_helper_is_asked_and_not_waited_for_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-some");
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/helper");
        std::os::unix::fs::symlink(fixture, &program).unwrap();
        let run = |script: &str, limit: Duration| {
            std::fs::write(dir.path().join(".docker-credential-some.body"), script).unwrap();
            ask_program(&program, "r.example", limit)
        };
        let long = Duration::from_secs(60);
        let script = r#"read host; echo "{\"Username\":\"$1\",\"Secret\":\"for $host\"}""#;
        let answer = run(script, long).unwrap();
        assert_eq!((answer.username.as_str(), answer.secret.as_str()), ("get", "for r.example"));
        assert!(matches!(run("exit 3", long), Err(HelperError::Failed(_))));
        assert!(matches!(run("echo hush", long), Err(HelperError::Answer)));
        let silent = run("sleep 600 & wait", Duration::from_millis(300));
        assert!(matches!(silent, Err(HelperError::Run(ExecError::TimedOut { .. }))));
    }
}
