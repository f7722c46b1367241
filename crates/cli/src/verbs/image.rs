//! `knarr image …`: what the CRI has no words for.

mod archive;
mod inspect;
mod remove;
mod tag;
mod unpack;
mod verify;

use cri_api::knarr::Login;

pub use unpack::Unpack;

use crate::{Error, Io, client::Client, verbs::pull::credentials};

/// Work with images: inspect, tag, save, load, verify, unpack
#[derive(Debug, clap::Args)]
pub struct Image {
    #[command(subcommand)]
    verb: ImageVerb,
}

#[derive(Debug, clap::Subcommand)]
enum ImageVerb {
    Inspect(inspect::Inspect),
    History(inspect::History),
    Tag(tag::Tag),
    Save(archive::Save),
    #[command(visible_alias = "import")]
    Load(archive::Load),
    Rm(remove::Remove),
    Verify(verify::Verify),
    Unpack(Unpack),
}

impl Image {
    /// What is asked of the program itself and of no runtime.
    #[must_use]
    pub fn as_unpack(&self) -> Option<&Unpack> {
        match &self.verb {
            ImageVerb::Unpack(verb) => Some(verb),
            ImageVerb::Inspect(_)
            | ImageVerb::History(_)
            | ImageVerb::Tag(_)
            | ImageVerb::Save(_)
            | ImageVerb::Load(_)
            | ImageVerb::Rm(_)
            | ImageVerb::Verify(_) => None,
        }
    }

    /// Does what the sub-verb says.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        match self.verb {
            ImageVerb::Inspect(verb) => Box::pin(verb.run(client, io)).await,
            ImageVerb::History(verb) => Box::pin(verb.run(client, io)).await,
            ImageVerb::Tag(verb) => Box::pin(verb.run(client, io)).await,
            ImageVerb::Save(verb) => Box::pin(verb.run(client, io)).await,
            ImageVerb::Load(verb) => Box::pin(verb.run(client, io)).await,
            ImageVerb::Rm(verb) => Box::pin(verb.run(client, io)).await,
            ImageVerb::Verify(verb) => Box::pin(verb.run(client, io)).await,
            // Taken out by the program before a runtime is spoken to.
            ImageVerb::Unpack(_) => Err(Error::NotOfARuntime { verb: "image unpack" }),
        }
    }
}

/// `--creds`, as `pull` takes it.
fn login(given: Option<&str>) -> Result<Option<Login>, Error> {
    let auth = given.map(credentials).transpose()?;
    Ok(auth.map(|auth| Login { user: auth.username, password: auth.password }))
}
