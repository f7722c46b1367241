//! One request: redirects, silence, and repeats of what may pass.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode, Url};

use crate::config::Config;
use crate::endpoint::{Endpoint, authority};
use crate::error::{RegistryError, Subject};
use crate::retry::Backoff;

const REDIRECTS_MAX: usize = 10;
/// How much of an error page is read.
const ERROR_BODY_MAX: u64 = 16 * 1024;
/// How much of a server's words reaches a message.
const DETAIL_MAX: usize = 256;

/// What is asked. Not `Debug`: forms hold secrets.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) what: Subject,
    pub(crate) accept: Option<&'static str>,
    /// First byte wanted.
    pub(crate) from: u64,
    /// URL-encoded form.
    pub(crate) form: Option<String>,
    /// The answer is checked against a digest, so even a redirect out of TLS can do no harm.
    pub(crate) pinned: bool,
}

impl Request {
    pub(crate) fn get(url: Url, what: Subject) -> Self {
        Self { method: Method::GET, url, what, accept: None, from: 0, form: None, pinned: false }
    }
}

/// What came back, and from where.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// The host that answered after redirects.
    pub(crate) host: String,
    /// Whether it is the host that was asked.
    pub(crate) direct: bool,
}

/// Sends `request` until it is answered by something that will not pass by itself.
pub(crate) async fn send(
    config: &Config,
    endpoint: &Endpoint,
    request: &Request,
    authorization: Option<&HeaderValue>,
) -> Result<Answer, RegistryError> {
    let mut backoff = Backoff::new(config.retry);
    loop {
        let outcome = follow(config, endpoint, request, authorization).await;
        let asked = match &outcome {
            Ok(answer) if passes(answer.response.status()) => retry_after(&answer.response),
            Err(RegistryError::Stalled { .. }) => None,
            Err(RegistryError::Unavailable { source, .. })
                if !endpoint.guess && is_transient(source) =>
            {
                None
            }
            Ok(_) | Err(_) => return outcome,
        };
        match backoff.next_wait(asked) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return outcome,
        }
    }
}

/// Statuses that a later attempt may not meet.
fn passes(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    wait_of(text.trim(), jiff::Timestamp::now())
}

/// RFC 9110: seconds, or the date from which on it may be tried again.
fn wait_of(text: &str, now: jiff::Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    // A date that has passed asks for no wait.
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// A refused connection or an unknown name is final (the caller comes back later anyway); a
/// connection that broke is not.
fn is_transient(error: &reqwest::Error) -> bool {
    if !error.is_connect() {
        return error.is_request() || error.is_body() || error.is_timeout();
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && matches!(
                io.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
            )
        {
            return true;
        }
        cause = inner.source();
    }
    false
}

async fn follow(
    config: &Config,
    endpoint: &Endpoint,
    request: &Request,
    authorization: Option<&HeaderValue>,
) -> Result<Answer, RegistryError> {
    let mut url = request.url.clone();
    // Secrets stay with the host they were meant for: once left, they do not come back.
    let mut direct = true;
    for _ in 0..=REDIRECTS_MAX {
        let host = authority(&url);
        let authorization = authorization.filter(|_| direct);
        let response = once(config, endpoint, request, &url, direct, authorization).await?;
        let location = response.headers().get(LOCATION);
        let (true, Some(location)) = (response.status().is_redirection(), location) else {
            return Ok(Answer { response, host, direct });
        };
        let refuse = |problem| RegistryError::Redirect {
            what: request.what.clone(),
            host: host.clone(),
            problem,
        };
        let next = location
            .to_str()
            .ok()
            .and_then(|location| url.join(location).ok())
            .filter(|next| matches!(next.scheme(), "http" | "https"))
            .ok_or_else(|| refuse("to something that is no web address"))?;
        if request.method == Method::POST {
            return Err(refuse("although it was sent a secret"));
        }
        if url.scheme() == "https" && next.scheme() == "http" && !request.pinned {
            return Err(refuse("from TLS to plain http"));
        }
        direct = direct && next.origin() == request.url.origin();
        url = next;
    }
    let host = authority(&url);
    Err(RegistryError::Redirect { what: request.what.clone(), host, problem: "in a circle" })
}

async fn once(
    config: &Config,
    endpoint: &Endpoint,
    request: &Request,
    url: &Url,
    direct: bool,
    authorization: Option<&HeaderValue>,
) -> Result<Response, RegistryError> {
    let mut builder = endpoint.client_for(url).request(request.method.clone(), url.clone());
    if direct && endpoint.is_home(url) {
        builder = builder.headers(endpoint.headers.clone());
    }
    if let Some(authorization) = authorization {
        builder = builder.header(AUTHORIZATION, authorization.clone());
    }
    if let Some(accept) = request.accept {
        builder = builder.header(ACCEPT, accept);
    }
    if request.from > 0 {
        builder = builder.header(RANGE, format!("bytes={}-", request.from));
    }
    if let Some(form) = &request.form {
        builder =
            builder.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone());
    }
    match tokio::time::timeout(config.stall_timeout, builder.send()).await {
        Ok(Ok(response)) => Ok(response),
        // URLs of object stores carry signatures: they stay out of messages.
        Ok(Err(error)) => {
            Err(RegistryError::Unavailable { host: authority(url), source: error.without_url() })
        }
        Err(_) => Err(stalled(config, &request.what, &authority(url))),
    }
}

pub(crate) fn stalled(config: &Config, what: &Subject, host: &str) -> RegistryError {
    RegistryError::Stalled {
        what: what.clone(),
        host: host.to_owned(),
        after: config.stall_timeout,
    }
}

/// The whole body, if it has at most `limit` bytes.
pub(crate) async fn read_all(
    config: &Config,
    answer: &mut Answer,
    what: &Subject,
    limit: u64,
) -> Result<Bytes, RegistryError> {
    let too_large =
        |host: &str| RegistryError::TooLarge { what: what.clone(), host: host.to_owned(), limit };
    if answer.response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large(&answer.host));
    }
    let mut body = BytesMut::new();
    loop {
        let chunk = match tokio::time::timeout(config.stall_timeout, answer.response.chunk()).await
        {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Ok(body.freeze()),
            Ok(Err(error)) => {
                return Err(RegistryError::Unavailable {
                    host: answer.host.clone(),
                    source: error.without_url(),
                });
            }
            Err(_) => return Err(stalled(config, what, &answer.host)),
        };
        body.extend_from_slice(&chunk);
        if u64::try_from(body.len()).unwrap_or(u64::MAX) > limit {
            return Err(too_large(&answer.host));
        }
    }
}

/// The error an unsuccessful answer stands for, with the server's own words where it has some.
pub(crate) async fn refusal(config: &Config, mut answer: Answer, what: &Subject) -> RegistryError {
    let status = answer.response.status();
    let detail = match read_all(config, &mut answer, what, ERROR_BODY_MAX).await {
        Ok(body) => detail(&body),
        // The status alone says enough when its explanation cannot be read.
        Err(_) => String::new(),
    };
    let (what, host) = (what.clone(), answer.host);
    match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound { what, host },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            RegistryError::Unauthorized { what, host, detail }
        }
        status => RegistryError::Status { what, host, status: status.as_u16(), detail },
    }
}

#[derive(serde::Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
    /// Token services.
    #[serde(default)]
    details: String,
}

#[derive(serde::Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Readable words of an error body: the distribution-spec's form, or a short plain text.
fn detail(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(parsed) => match parsed.errors.first() {
            Some(first) if first.message.is_empty() => first.code.clone(),
            Some(first) => first.message.clone(),
            None => parsed.details,
        },
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            if text.trim_start().starts_with('<') { String::new() } else { text.into_owned() }
        }
    };
    text.trim().chars().filter(|c| !c.is_control()).take(DETAIL_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_seconds_or_dates() {
        let now = jiff::Timestamp::from_second(784_111_777).unwrap();
        for (text, want) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("soon", None),
        ] {
            assert_eq!(wait_of(text, now), want.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn an_error_body_becomes_a_short_sentence() {
        for (body, want) in [
            (r#"{"errors":[{"code":"DENIED","message":"pay first"}]}"#, "pay first"),
            (r#"{"errors":[{"code":"DENIED"}]}"#, "DENIED"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            ("<html>long</html>", ""),
            (" slow\ndown\u{1b}[0m ", "slowdown[0m"),
            ("", ""),
        ] {
            assert_eq!(detail(body.as_bytes()), want, "{body}");
        }
        assert_eq!(detail("x".repeat(9999).as_bytes()).len(), DETAIL_MAX);
    }
}
