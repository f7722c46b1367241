//! `knarr image rm`

use std::collections::HashSet;

use cri_api::v1;

use crate::{
    Error, Io,
    client::{Client, Limit},
    verbs::Rmi,
};

/// Remove images, or all that no container uses
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// Images: name, digest, id or beginning of an id
    #[arg(required_unless_present = "unused", conflicts_with = "unused", value_name = "IMAGE")]
    images: Vec<String>,
    /// Every image that no container uses and that is not pinned
    #[arg(long)]
    unused: bool,
}

impl Remove {
    pub(super) async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let images = if self.unused { unused(client).await? } else { self.images };
        Rmi::of(images).run(client, io).await
    }
}

async fn unused(client: &Client) -> Result<Vec<String>, Error> {
    let (mut runtime, mut service) = (client.runtime(), client.images());
    let request = runtime.list_containers(v1::ListContainersRequest::default());
    let containers = client.call("list containers", Limit::Standard, request).await?;
    let request = service.list_images(v1::ListImagesRequest::default());
    let images = client.call("list images", Limit::Standard, request).await?;
    Ok(without(&images.images, &containers.containers))
}

fn without(images: &[v1::Image], containers: &[v1::Container]) -> Vec<String> {
    let used: HashSet<&str> = containers.iter().map(|one| one.image_id.as_str()).collect();
    let free = images.iter().filter(|image| !image.pinned && !used.contains(image.id.as_str()));
    free.map(|image| image.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_and_pinned_images_stay() {
        let image =
            |id: &str, pinned| v1::Image { id: id.to_owned(), pinned, ..Default::default() };
        let container = v1::Container { image_id: "used".into(), ..Default::default() };
        let images = [image("used", false), image("pinned", true), image("free", false)];
        assert_eq!(without(&images, &[container]), ["free"]);
    }
}
