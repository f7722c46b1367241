//! `knarr pull`

use cri_api::{
    knarr::{Login, PullImageForRequest},
    v1,
};

use crate::{
    Error, Io,
    client::{Client, Limit},
    progress,
};

/// Pull an image and print its id
#[derive(Debug, clap::Args)]
pub struct Pull {
    /// The image: NAME[:TAG][@DIGEST]
    image: String,
    /// Credentials for the registry; a word without a colon names a file that holds them
    #[arg(long, value_name = "USER:PASSWORD|FILE")]
    creds: Option<String>,
    /// Another platform than this machine's: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Draw no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Pull {
    /// Pulls the image.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let auth = self.creds.as_deref().map(credentials).transpose()?;
        let draw = io.progress && !self.quiet;
        let id = match self.platform {
            Some(platform) => pull_for(client, &self.image, platform, auth, draw).await?,
            None => pull(client, &self.image, auth, draw).await?,
        };
        io.line(id)?;
        Ok(0)
    }
}

/// Pulls an image; gives its id.
pub(crate) async fn pull(
    client: &Client,
    image: &str,
    auth: Option<v1::AuthConfig>,
    draw: bool,
) -> Result<String, Error> {
    let spec = v1::ImageSpec {
        image: image.to_owned(),
        user_specified_image: image.to_owned(),
        ..Default::default()
    };
    let request = v1::PullImageRequest { image: Some(spec), auth, sandbox_config: None };
    let mut service = client.images();
    let doing = format!("pull {image}");
    let pull = client.call(doing, Limit::None, service.pull_image(request));
    let answer = if draw { progress::drawn(client, image, pull).await? } else { pull.await? };
    if answer.image_ref.is_empty() {
        return Err(Error::Incomplete { rpc: "PullImage", field: "image_ref" });
    }
    Ok(answer.image_ref)
}

/// The same for a platform that is not this machine's, which only knarr knows how to do.
async fn pull_for(
    client: &Client,
    image: &str,
    platform: String,
    auth: Option<v1::AuthConfig>,
    draw: bool,
) -> Result<String, Error> {
    let login = auth.map(|auth| Login { user: auth.username, password: auth.password });
    let request = PullImageForRequest { image: image.to_owned(), platform, login };
    let mut service = client.knarr_images();
    let doing = format!("pull {image}");
    let pull = client.call(doing, Limit::None, service.pull_image_for(request));
    let answer = if draw { progress::drawn(client, image, pull).await? } else { pull.await? };
    Ok(answer.id)
}

/// The image, if the runtime has it.
pub(crate) async fn image_status(client: &Client, image: &str) -> Result<Option<v1::Image>, Error> {
    let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    let request = v1::ImageStatusRequest { image: Some(spec), verbose: false };
    let mut service = client.images();
    let doing = format!("look for image {image}");
    let answer = client.call(doing, Limit::Standard, service.image_status(request)).await?;
    Ok(answer.image)
}

/// Credentials as given, or from a file: an argument can be read by every user of the machine.
pub(crate) fn credentials(given: &str) -> Result<v1::AuthConfig, Error> {
    let text = if given.contains(':') {
        given.to_owned()
    } else {
        std::fs::read_to_string(given)
            .map_err(|source| Error::Read { path: given.into(), source })?
    };
    let (username, password) =
        text.trim_end_matches(['\n', '\r']).split_once(':').ok_or(Error::Credentials)?;
    Ok(v1::AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_the_command_line_or_a_file() {
        let auth = credentials("me:pass:word").unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("me", "pass:word"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("creds");
        std::fs::write(&file, "you:secret\n").unwrap();
        let auth = credentials(file.to_str().unwrap()).unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("you", "secret"));
        std::fs::write(&file, "nothing").unwrap();
        assert!(matches!(credentials(file.to_str().unwrap()), Err(Error::Credentials)));
        assert!(matches!(credentials("/no/such/file"), Err(Error::Read { .. })));
    }
}
