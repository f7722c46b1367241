//! `knarr image inspect` and `knarr image history`

use cri_api::knarr::{InspectImageRequest, InspectImageResponse};
use serde_json::{Value, json};

use crate::{
    Error, Io,
    client::{Client, Limit},
    human::bytes,
    output::{Format, FormatArg},
    table::Table,
};

/// Show an image's names, layers, manifest and configuration
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// Image: name, digest, id or beginning of an id
    image: String,
}

/// Show how an image was built, newest step first
#[derive(Debug, clap::Args)]
pub(super) struct History {
    /// Image: name, digest, id or beginning of an id
    image: String,
    #[command(flatten)]
    output: FormatArg,
}

async fn fetch(client: &Client, image: &str) -> Result<InspectImageResponse, Error> {
    let request = InspectImageRequest { image: image.to_owned() };
    let mut service = client.knarr_images();
    let doing = format!("inspect image {image}");
    Ok(client.call(doing, Limit::Standard, service.inspect_image(request)).await?)
}

/// A document of the image, as it is.
fn document(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

impl Inspect {
    pub(super) async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let image = fetch(client, &self.image).await?;
        let layers = image.layers.iter().map(|layer| {
            json!({
                "diffId": layer.diff_id,
                "digest": layer.digest,
                "compressedBytes": layer.compressed_bytes,
                "diskBytes": layer.disk_bytes,
                "inodes": layer.inodes,
            })
        });
        let shown = json!({
            "id": image.id,
            "tags": image.tags,
            "digests": image.digests,
            "platform": image.platform,
            "created": image.created,
            "pinned": image.pinned,
            "layers": layers.collect::<Vec<_>>(),
            "manifestDigest": image.manifest_digest,
            "manifest": document(&image.manifest),
            "config": document(&image.config),
        });
        io.json(&shown)?;
        Ok(0)
    }
}

impl History {
    pub(super) async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let image = fetch(client, &self.image).await?;
        let config = document(&image.config);
        let steps = config["history"].as_array().cloned().unwrap_or_default();
        match self.output.format {
            Format::Table => io.emit(self.output.format, &steps, |steps| table(steps, &image))?,
            Format::Json | Format::Yaml => {
                io.emit(self.output.format, &steps, |_| Table::new(&[], &[]))?;
            }
        }
        Ok(0)
    }
}

/// Steps that changed no file have no layer; the others have theirs in order.
fn table(steps: &[Value], image: &InspectImageResponse) -> Table {
    let mut layers = image.layers.iter();
    let mut rows = Vec::new();
    for step in steps {
        let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
        let empty = step["empty_layer"].as_bool().unwrap_or(false);
        let size = if empty { None } else { layers.next().map(|layer| layer.disk_bytes) };
        let size = size.map_or_else(|| "-".to_owned(), bytes);
        rows.push(vec![text("created"), size, text("created_by"), text("comment")]);
    }
    let mut table = Table::new(&["CREATED", "ON DISK", "CREATED BY", "COMMENT"], &[0, 1]);
    rows.into_iter().rev().for_each(|row| table.row(row));
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::knarr::ImageLayer;

    #[test]
    fn layers_go_to_the_steps_that_made_them() {
        let layer = |disk_bytes| ImageLayer { disk_bytes, ..Default::default() };
        let image =
            InspectImageResponse { layers: vec![layer(4096), layer(8192)], ..Default::default() };
        let steps = [
            json!({"created_by": "ADD"}),
            json!({"created_by": "ENV", "empty_layer": true}),
            json!({"created_by": "RUN"}),
        ];
        let text = table(&steps, &image).render(None);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].contains("RUN") && lines[1].contains(&bytes(8192)), "{text}");
        assert!(lines[2].contains("ENV") && lines[2].contains('-'), "{text}");
        assert!(lines[3].contains("ADD") && lines[3].contains(&bytes(4096)), "{text}");
    }
}
