//! `knarr images`

use std::collections::HashMap;

use cri_api::{knarr::DiskUsageRequest, v1};

use crate::{
    Error, Io,
    client::{Client, Limit},
    human::{bytes, short_id},
    output::FormatArg,
    table::Table,
};

/// List images
#[derive(Debug, clap::Args)]
pub struct Images {
    /// Only the image of this name, digest or id
    image: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    output: FormatArg,
}

impl Images {
    /// Lists images.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let image = self.image.map(|image| v1::ImageSpec { image, ..Default::default() });
        let filter = image.map(|image| v1::ImageFilter { image: Some(image) });
        let request = v1::ListImagesRequest { filter };
        let mut answer = client
            .call("list images", Limit::Standard, client.images().list_images(request))
            .await?;
        answer.images.sort_by(|a, b| a.repo_tags.cmp(&b.repo_tags).then_with(|| a.id.cmp(&b.id)));
        if self.quiet {
            answer.images.iter().try_for_each(|image| io.line(&image.id))?;
            return Ok(0);
        }
        let on_disk = on_disk(client).await;
        io.emit(self.output.format, &answer, |answer| table(answer, on_disk.as_ref()))?;
        Ok(0)
    }
}

/// What the layers of each image take, by its id; `None` from a runtime that does not tell.
async fn on_disk(client: &Client) -> Option<HashMap<String, u64>> {
    let mut service = client.knarr_images();
    let request = service.disk_usage(DiskUsageRequest {});
    let usage = client.call("measure images", Limit::Standard, request).await.ok()?;
    let mut images = HashMap::new();
    for layer in usage.layers {
        for image in layer.images {
            *images.entry(image).or_default() += layer.disk_bytes;
        }
    }
    Some(images)
}

fn table(answer: &v1::ListImagesResponse, on_disk: Option<&HashMap<String, u64>>) -> Table {
    let mut header = vec!["IMAGE", "TAG", "ID", "SIZE"];
    header.extend(on_disk.map(|_| "ON DISK"));
    let mut table = Table::new(&header, &[1, 2, 3]);
    for image in &answer.images {
        for (name, tag) in names(image) {
            let mut row = vec![name, tag, short_id(&image.id).to_owned(), bytes(image.size)];
            row.extend(on_disk.map(|sizes| bytes(sizes.get(&image.id).copied().unwrap_or(0))));
            table.row(row);
        }
    }
    table
}

/// Every name of an image with its tag; one that lost its tags is known by its digest.
fn names(image: &v1::Image) -> Vec<(String, String)> {
    let tagged: Vec<_> = image.repo_tags.iter().map(|reference| split_tag(reference)).collect();
    if !tagged.is_empty() {
        return tagged;
    }
    let name = image.repo_digests.first().and_then(|reference| reference.split_once('@'));
    vec![(name.map_or("<none>", |(name, _)| name).to_owned(), "<none>".to_owned())]
}

/// The colon of a port is not that of a tag.
fn split_tag(reference: &str) -> (String, String) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name.to_owned(), tag.to_owned()),
        _ => (reference.to_owned(), "<none>".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_is_a_row_and_untagged_images_are_shown_too() {
        let tagged = v1::Image {
            repo_tags: vec!["localhost:5000/a:1".into(), "localhost:5000/a".into()],
            ..Default::default()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            names(&tagged),
            [pair("localhost:5000/a", "1"), pair("localhost:5000/a", "<none>")]
        );
        let digest =
            v1::Image { repo_digests: vec!["x.io/b@sha256:00".into()], ..Default::default() };
        assert_eq!(names(&digest), [pair("x.io/b", "<none>")]);
        assert_eq!(names(&v1::Image::default()), [pair("<none>", "<none>")]);
    }
}
