//! `knarr rmi`

use cri_api::v1;

use super::each::Each;
use crate::{
    Error, Io,
    client::{Client, Limit},
    verbs::pull::image_status,
};

/// Remove images
#[derive(Debug, clap::Args)]
pub struct Rmi {
    /// Images: name, digest, id or beginning of an id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Rmi {
    /// Of these images, perhaps none.
    pub(crate) fn of(images: Vec<String>) -> Self {
        Self { images }
    }

    /// Removes each image; goes on after a failure.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let mut each = Each::new(self.images.len(), "removed");
        for image in self.images {
            match remove(client, &image).await {
                Ok(true) => io.line(&image)?,
                Ok(false) => each.failed(format_args!("no image is called `{image}`"), io)?,
                Err(error) => each.failed(error, io)?,
            }
        }
        each.end()
    }
}

/// False: there is no such image. (RemoveImage itself takes that for success.)
async fn remove(client: &Client, image: &str) -> Result<bool, Error> {
    if image_status(client, image).await?.is_none() {
        return Ok(false);
    }
    let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    let request = v1::RemoveImageRequest { image: Some(spec) };
    let doing = format!("remove image {image}");
    client.call(doing, Limit::Standard, client.images().remove_image(request)).await?;
    Ok(true)
}
