//! CRI `PullImage`.

use base64::Engine;
use cri_api::v1;
use image::Credentials;
use model::Reference;
use tonic::Status;

use crate::{Server, status};

/// Returns the image's id. A dropped call aborts the pull and leaves nothing half-made.
pub(crate) async fn pull_image(
    server: &Server,
    request: v1::PullImageRequest,
) -> Result<v1::PullImageResponse, Status> {
    let name = request.image.map(|spec| spec.image).unwrap_or_default();
    let reference = Reference::parse(&name).map_err(|error| status::from_reference(&error))?;
    let credentials = credentials(request.auth, &reference)?;
    let image = server
        .images
        .pull(&reference, credentials)
        .await
        .map_err(|error| status::from_pull(&error))?;
    Ok(v1::PullImageResponse { image_ref: image.id.to_string() })
}

/// CRI: user and password, else identity token, else `auth`, else a ready bearer token; all of
/// it only for the registry it is meant for.
fn credentials(auth: Option<v1::AuthConfig>, reference: &Reference) -> Result<Credentials, Status> {
    let Some(auth) = auth else { return Ok(Credentials::Anonymous) };
    if !auth.server_address.is_empty() && host(&auth.server_address) != reference.host() {
        return Ok(Credentials::Anonymous);
    }
    if !auth.username.is_empty() || !auth.password.is_empty() {
        return Ok(Credentials::Basic { user: auth.username, password: auth.password });
    }
    if !auth.identity_token.is_empty() {
        return Ok(Credentials::IdentityToken(auth.identity_token));
    }
    if !auth.auth.is_empty() {
        return basic(&auth.auth);
    }
    if !auth.registry_token.is_empty() {
        return Ok(Credentials::RegistryToken(auth.registry_token));
    }
    Ok(Credentials::Anonymous)
}

/// The `auth` field of a Docker configuration: base64 of `user:password`. What is wrong with it is
/// said without showing it.
fn basic(auth: &str) -> Result<Credentials, Status> {
    let refuse = |what| Status::invalid_argument(format!("auth of the pull request {what}"));
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(auth.trim())
        .map_err(|_| refuse("is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| refuse("is not text"))?;
    match text.trim_end_matches('\0').split_once(':') {
        Some((user, password)) => {
            Ok(Credentials::Basic { user: user.to_owned(), password: password.to_owned() })
        }
        None => Err(refuse("is not `user:password` in base64")),
    }
}

/// The host of `https://host/v1/`, with Docker Hub's other names folded into one.
fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(auth: v1::AuthConfig) -> Credentials {
        credentials(Some(auth), &Reference::parse("r.example/a").unwrap()).unwrap()
    }

    #[test]
    fn credentials_for_another_registry_are_not_sent() {
        let auth = v1::AuthConfig {
            username: "u".into(),
            password: "p".into(),
            server_address: "https://other.example/v1/".into(),
            ..Default::default()
        };
        assert!(matches!(of(auth), Credentials::Anonymous));
    }

    #[test]
    fn user_and_password_beat_tokens() {
        let auth = v1::AuthConfig {
            username: "u".into(),
            password: "p".into(),
            identity_token: "t".into(),
            server_address: "r.example".into(),
            ..Default::default()
        };
        assert!(matches!(of(auth), Credentials::Basic { .. }));
    }
}
