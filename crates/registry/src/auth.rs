//! Log-in: Basic, and bearer tokens from the service that a 401 answer names.
//!
//! The state belongs to one endpoint of one session, so a token serves only the pull and the
//! credentials it was obtained with.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use serde::Deserialize;

use crate::config::Config;
use crate::credentials::Credentials;
use crate::endpoint::{Endpoint, authority};
use crate::error::{Malformed, RegistryError, Subject};
use crate::hosts::is_loopback;
use crate::transport::{self, Request};

/// Token answers are small; Harbor's with many scopes reach some KiB.
const TOKEN_BODY_MAX: u64 = 256 * 1024;
/// What the token specification assumes where the service does not say.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is renewed this long before its end.
const RENEWAL_MARGIN: Duration = Duration::from_secs(5);
const CLIENT_ID: &str = "knarr";

/// How a host wants to be talked to, as learnt from its 401 answers.
#[derive(Debug, Default)]
pub(crate) enum AuthState {
    /// Nothing was asked for so far.
    #[default]
    Unknown,
    /// User and password with each request.
    Basic,
    /// A token with each request.
    Bearer { service: TokenService, token: Option<Token> },
}

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenService {
    realm: Url,
    service: Option<String>,
    scope: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Token {
    header: HeaderValue,
    renew_at: Instant,
}

/// Everything a log-in needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Login<'a> {
    pub(crate) config: &'a Config,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) credentials: &'a Credentials,
    pub(crate) repository: &'a str,
}

impl Login<'_> {
    /// The `Authorization` to send now; `None` before any was asked for.
    pub(crate) async fn header(self) -> Result<Option<HeaderValue>, RegistryError> {
        if let Credentials::RegistryToken(token) = self.credentials {
            return Ok(secret(&format!("Bearer {token}")));
        }
        // Held over the token request, so that parallel layers share one.
        let mut state = self.endpoint.auth.lock().await;
        match &mut *state {
            AuthState::Unknown => Ok(None),
            AuthState::Basic => Ok(basic(self.credentials)),
            AuthState::Bearer { token: Some(token), .. } if Instant::now() < token.renew_at => {
                Ok(Some(token.header.clone()))
            }
            AuthState::Bearer { service, token } => {
                let fresh = self.fetch(service).await?;
                Ok(Some(token.insert(fresh).header.clone()))
            }
        }
    }

    /// Learns from the headers of a 401 answer to a request sent with `used`. `false`: there is
    /// nothing more to try.
    pub(crate) async fn challenged(
        self,
        headers: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<bool, RegistryError> {
        if matches!(self.credentials, Credentials::RegistryToken(_)) {
            return Ok(false);
        }
        let mut state = self.endpoint.auth.lock().await;
        if let AuthState::Bearer { token: Some(token), .. } = &*state
            && used != Some(&token.header)
        {
            // Another request of this session has logged in meanwhile.
            return Ok(true);
        }
        match challenge(headers) {
            Some(Challenge::Bearer(service)) => {
                let fresh = self.fetch(&service).await?;
                *state = AuthState::Bearer { service, token: Some(fresh) };
                Ok(true)
            }
            Some(Challenge::Basic) => {
                let again = matches!(*state, AuthState::Basic);
                *state = AuthState::Basic;
                Ok(!again && basic(self.credentials).is_some())
            }
            None => Ok(false),
        }
    }

    async fn fetch(self, service: &TokenService) -> Result<Token, RegistryError> {
        let (request, authorization) = self.token_request(service)?;
        match self.exchange(&request, authorization.as_ref()).await {
            // Some services only know the OAuth2 way, even for passwords.
            Err(
                RegistryError::NotFound { .. } | RegistryError::Status { status: 405 | 501, .. },
            ) if let Some(request) = self.password_grant(service) => {
                self.exchange(&request, None).await
            }
            token => token,
        }
    }

    async fn exchange(
        self,
        request: &Request,
        authorization: Option<&HeaderValue>,
    ) -> Result<Token, RegistryError> {
        let what = request.what.clone();
        let sent = Instant::now();
        let mut answer =
            transport::send(self.config, self.endpoint, request, authorization).await?;
        if !answer.response.status().is_success() {
            return Err(transport::refusal(self.config, answer, &what).await);
        }
        let body = transport::read_all(self.config, &mut answer, &what, TOKEN_BODY_MAX).await?;
        parse_token(&body, sent).map_err(|source| RegistryError::Malformed {
            what,
            host: answer.host,
            source,
        })
    }

    /// User and password in the body of a POST.
    fn password_grant(self, service: &TokenService) -> Option<Request> {
        let Credentials::Basic { user, password } = self.credentials else { return None };
        let scope = self.scope(service);
        let mut parameters = vec![
            ("grant_type", "password"),
            ("username", user.as_str()),
            ("password", password.as_str()),
            ("client_id", CLIENT_ID),
            ("scope", &scope),
        ];
        if let Some(service) = &service.service {
            parameters.push(("service", service));
        }
        let mut request = Request::get(service.realm.clone(), Subject::Token);
        request.method = Method::POST;
        request.form = Some(form(&service.realm, &parameters));
        Some(request)
    }

    fn scope(self, service: &TokenService) -> String {
        let default = || format!("repository:{}:pull", self.repository);
        service.scope.clone().unwrap_or_else(default)
    }

    fn token_request(
        self,
        service: &TokenService,
    ) -> Result<(Request, Option<HeaderValue>), RegistryError> {
        let realm = &service.realm;
        let has_secret = !matches!(self.credentials, Credentials::Anonymous);
        // A registry reached without TLS by the operator's will may have such a token service.
        let plain_is_fine = self.endpoint.is_plain() || is_loopback(realm);
        if has_secret && realm.scheme() != "https" && !plain_is_fine {
            return Err(RegistryError::PlainTextCredentials { host: authority(realm) });
        }
        let scope = self.scope(service);
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        if let Some(service) = &service.service {
            parameters.push(("service", service));
        }
        parameters.push(("scope", &scope));
        let mut request = Request::get(realm.clone(), Subject::Token);
        if let Credentials::IdentityToken(token) = self.credentials {
            parameters.extend([
                ("grant_type", "refresh_token"),
                ("refresh_token", token),
                ("client_id", CLIENT_ID),
            ]);
            request.method = Method::POST;
            request.form = Some(form(realm, &parameters));
            return Ok((request, None));
        }
        request.url.query_pairs_mut().extend_pairs(parameters);
        Ok((request, basic(self.credentials)))
    }
}

/// URL-encodes a form; a URL's query has the same encoding.
fn form(any: &Url, parameters: &[(&str, &str)]) -> String {
    let mut url = any.clone();
    url.set_query(None);
    url.query_pairs_mut().extend_pairs(parameters);
    url.query().unwrap_or_default().to_owned()
}

fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    match credentials {
        Credentials::Basic { user, password } => {
            secret(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
        }
        Credentials::Anonymous | Credentials::IdentityToken(_) | Credentials::RegistryToken(_) => {
            None
        }
    }
}

/// A header that no log prints; `None` if it holds bytes no header may.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer(TokenService),
}

/// The best challenge offered: tokens before passwords.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        let Ok(offers) = http_auth::parse_challenges(text) else { continue };
        for offer in offers {
            if offer.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
            if !offer.scheme.eq_ignore_ascii_case("bearer") {
                continue;
            }
            let parameter = |name: &str| {
                let found = offer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
            };
            let realm = parameter("realm").and_then(|realm| Url::parse(&realm).ok());
            if let Some(realm) = realm.filter(|url| matches!(url.scheme(), "http" | "https")) {
                return Some(Challenge::Bearer(TokenService {
                    realm,
                    service: parameter("service"),
                    scope: parameter("scope"),
                }));
            }
        }
    }
    basic
}

#[derive(Deserialize)]
struct TokenBody {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

fn parse_token(body: &[u8], sent: Instant) -> Result<Token, Malformed> {
    let body: TokenBody = serde_json::from_slice(body)?;
    // Some name both and leave one empty.
    let given = |token: &String| !token.is_empty();
    let token = body.token.filter(given).or_else(|| body.access_token.filter(given));
    let token = token.ok_or(Malformed::NoToken)?;
    let lifetime = body.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs);
    // Counted from the request, so a slow answer cannot stretch it; capped, so it cannot overflow.
    let usable = lifetime.min(Duration::from_secs(24 * 3600)).saturating_sub(RENEWAL_MARGIN);
    let header = secret(&format!("Bearer {token}")).ok_or(Malformed::NoToken)?;
    Ok(Token { header, renew_at: sent + usable })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
        }
        challenge(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer(TokenService {
            realm: Url::parse(realm).unwrap(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }))
    }

    #[test]
    fn challenges_are_read_and_tokens_preferred() {
        assert_eq!(
            check(&[
                "Bearer realm=\"https://auth.x/token\",service=\"reg.x\",scope=\"repository:a/b:pull,push\""
            ]),
            bearer("https://auth.x/token", Some("reg.x"), Some("repository:a/b:pull,push"))
        );
        assert_eq!(
            check(&["Basic realm=\"x\"", "bearer realm=\"https://a/\""]),
            bearer("https://a/", None, None)
        );
        assert_eq!(check(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(check(&["Bearer realm=\"file:///etc/passwd\""]), None);
        assert_eq!(check(&["Negotiate"]), None);
        assert_eq!(check(&[]), None);
    }

    #[test]
    fn tokens_are_read_in_both_spellings() {
        let now = Instant::now();
        let token = parse_token(br#"{"token":"t","expires_in":300}"#, now).unwrap();
        assert_eq!(token.header, "Bearer t");
        assert_eq!(token.renew_at - now, Duration::from_secs(295));
        let token = parse_token(br#"{"access_token":"a"}"#, now).unwrap();
        assert_eq!(token.header, "Bearer a");
        assert_eq!(token.renew_at - now, Duration::from_secs(55));
        let token = parse_token(br#"{"token":"t","expires_in":18446744073709551615}"#, now);
        assert!(token.is_ok());
        assert!(matches!(parse_token(b"{}", now), Err(Malformed::NoToken)));
        assert!(matches!(parse_token(br#"{"token":"a\nb"}"#, now), Err(Malformed::NoToken)));
    }

    proptest::proptest! {
        #[test]
        fn no_challenge_makes_the_reader_panic(
            text in "(Bearer|Basic|x)?[ -~]{0,60}(realm=\"[ -~]{0,20}\")?[ -~]{0,20}",
        ) {
            drop(check(&[&text]));
        }

        #[test]
        fn no_token_answer_makes_the_reader_panic(
            body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80),
        ) {
            drop(parse_token(&body, Instant::now()));
        }
    }

    #[test]
    fn a_form_is_url_encoded() {
        let any = Url::parse("https://a/?x=y").unwrap();
        assert_eq!(form(&any, &[("a", "b c&"), ("d", "e/f:+")]), "a=b+c%26&d=e%2Ff%3A%2B");
    }
}
