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
    status::room()?;
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
    fn each_form_of_credentials_is_understood_and_the_first_of_several_taken() {
        let secret = |text: &str| text.to_owned();
        let basic = |user: &str, password: &str| Credentials::Basic {
            user: secret(user),
            password: secret(password),
        };
        let registry_token = v1::AuthConfig { registry_token: "r".into(), ..Default::default() };
        // `u:p:q` with the NULs that some tools pad it with.
        let auth = v1::AuthConfig { auth: "dTpwOnEAAA==".into(), ..registry_token.clone() };
        let identity = v1::AuthConfig { identity_token: "i".into(), ..auth.clone() };
        let user =
            v1::AuthConfig { username: "u".into(), password: "p".into(), ..identity.clone() };
        for (form, want) in [
            (v1::AuthConfig::default(), Credentials::Anonymous),
            (registry_token, Credentials::RegistryToken(secret("r"))),
            (auth, basic("u", "p:q")),
            (identity, Credentials::IdentityToken(secret("i"))),
            (user.clone(), basic("u", "p")),
            (v1::AuthConfig { server_address: "http://r.example".into(), ..user }, basic("u", "p")),
        ] {
            assert!(of(form.clone()) == want, "{form:?}");
        }
    }

    #[test]
    fn hubs_names_are_one_and_nonsense_is_refused_without_showing_it() {
        let pull = |server: &str, auth: &str| {
            let auth = v1::AuthConfig {
                auth: auth.into(),
                server_address: server.into(),
                ..Default::default()
            };
            credentials(Some(auth), &Reference::parse("busybox").unwrap())
        };
        let given = Credentials::Basic { user: "u".into(), password: "p".into() };
        for server in ["docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"] {
            assert!(pull(server, "dTpw").unwrap() == given, "{server}");
        }
        for auth in ["hush!", "aHVzaA==", "//8="] {
            let refused = pull("", auth).unwrap_err();
            assert!(!refused.message().contains("hush"), "{refused}");
        }
    }
}
