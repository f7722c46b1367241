//! `knarr image tag`

use cri_api::knarr::TagImageRequest;

use crate::{
    Error, Io,
    client::{Client, Limit},
};

/// Give an image one more name
#[derive(Debug, clap::Args)]
pub(super) struct Tag {
    /// Image: name, digest, id or beginning of an id
    image: String,
    /// The new name: NAME[:TAG]
    name: String,
}

impl Tag {
    pub(super) async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let doing = format!("tag image {}", self.image);
        let request = TagImageRequest { image: self.image, name: self.name };
        let mut service = client.knarr_images();
        let answer = client.call(doing, Limit::Standard, service.tag_image(request)).await?;
        io.line(answer.name)?;
        Ok(0)
    }
}
