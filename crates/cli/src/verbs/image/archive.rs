//! `knarr image save` and `knarr image load`

use std::{io::Write as _, path::PathBuf};

use cri_api::knarr::{LoadImagesRequest, SaveImagesRequest};

use super::login;
use crate::{
    Error, Io,
    client::{Client, Limit},
};

/// Write images to an archive for `image load`, `docker load` and OCI tools
///
/// Layers come from the store, as plain tars: the image keeps its id, its manifest gets another
/// digest. No registry is asked, but for layers that the store cannot pack again.
#[derive(Debug, clap::Args)]
pub(super) struct Save {
    /// Images: name, digest, id or beginning of an id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The archive, a tar; standard output if not given
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Manifests and layers as they were pulled, fetched from the registry
    #[arg(long)]
    from_registry: bool,
    /// Credentials for the registry; a word without a colon names a file that holds them
    #[arg(long, value_name = "USER:PASSWORD|FILE")]
    creds: Option<String>,
}

/// Store the images of an archive: an OCI layout or what `docker save` writes, as tar or directory
///
/// The tar may be compressed by gzip or zstd.
#[derive(Debug, clap::Args)]
pub(super) struct Load {
    /// The tar or directory
    archive: PathBuf,
}

impl Save {
    pub(super) async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let login = login(self.creds.as_deref())?;
        let request =
            SaveImagesRequest { images: self.images, login, from_registry: self.from_registry };
        let mut service = client.knarr_images();
        let request = service.save_images(request);
        let mut stream = client.call("save images", Limit::None, request).await?;
        let Some(path) = self.output else {
            while let Some(chunk) = client.next("save images", &mut stream).await? {
                io.out.write_all(&chunk.data).map_err(Error::Output)?;
            }
            return Ok(0);
        };
        let write = |source| Error::Write { path: path.clone(), source };
        // Whoever finds the file finds all of it.
        let partial = path.with_added_extension("partial");
        let mut file = std::fs::File::create(&partial).map_err(write)?;
        let written = loop {
            match client.next("save images", &mut stream).await {
                Ok(Some(chunk)) => file.write_all(&chunk.data).map_err(write)?,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = written {
            std::fs::remove_file(&partial).map_err(write)?;
            return Err(error.into());
        }
        file.sync_all().and_then(|()| std::fs::rename(&partial, &path)).map_err(write)?;
        Ok(0)
    }
}

impl Load {
    pub(super) async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        // The daemon has another working directory.
        let path = std::path::absolute(&self.archive)
            .map_err(|source| Error::Read { path: self.archive.clone(), source })?;
        let doing = format!("load {}", self.archive.display());
        let request = LoadImagesRequest { path: path.to_string_lossy().into_owned() };
        let mut service = client.knarr_images();
        let answer = client.call(doing, Limit::None, service.load_images(request)).await?;
        for image in &answer.images {
            if image.names.is_empty() {
                io.line(&image.id)?;
            }
            image.names.iter().try_for_each(|name| io.line(name))?;
        }
        Ok(0)
    }
}
