//! `knarr image unpack`: the only verb of images that asks no daemon. The program itself does it.

use std::path::PathBuf;

use super::login;
use crate::Error;

/// Make a bundle for OCI runtimes, config.json and rootfs, of an image; no daemon is asked
///
/// IMAGE is a name in a registry, the path of an archive or OCI layout, which begins with / or ., or one
/// of these with the name of an image in it behind a colon: oci:DIR:NAME, oci-archive:FILE:NAME,
/// docker-archive:FILE:NAME. An ordinary user's bundle belongs to that user, who is root in it.
#[derive(Debug, Clone, clap::Args)]
pub struct Unpack {
    /// The image
    pub image: String,
    /// The directory to make the bundle in; it must be empty or not there
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// Credentials for the registry; a word without a colon names a file that holds them
    #[arg(long, value_name = "USER:PASSWORD|FILE")]
    creds: Option<String>,
    /// Configuration file, for its registries [default: /etc/knarr/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Unpack {
    /// Whom the registry takes the caller for: user and password.
    ///
    /// # Errors
    /// [`Error`]: what is given holds no credentials.
    pub fn login(&self) -> Result<Option<(String, String)>, Error> {
        let login = login(self.creds.as_deref())?;
        Ok(login.map(|login| (login.user, login.password)))
    }
}
