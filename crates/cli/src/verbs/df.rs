//! `knarr df`

use std::collections::HashSet;

use cri_api::{
    knarr::{DiskUsageRequest, DiskUsageResponse},
    v1,
};

use crate::{
    Error, Io,
    client::{Client, Limit},
    human::bytes,
    table::Table,
};

/// Show what images and containers take on disk, and what could be freed
#[derive(Debug, clap::Args)]
pub struct Df {}

impl Df {
    /// Prints one row for each kind of thing.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let (mut runtime, mut images) = (client.runtime(), client.knarr_images());
        let request = images.disk_usage(DiskUsageRequest {});
        let usage = client.call("measure images", Limit::Standard, request).await?;
        let request = runtime.list_containers(v1::ListContainersRequest::default());
        let containers = client.call("list containers", Limit::Standard, request).await?;
        let request = runtime.list_container_stats(v1::ListContainerStatsRequest::default());
        let stats = client.call("measure containers", Limit::Standard, request).await?;
        let text = table(&usage, &containers.containers, &stats.stats).render(io.width);
        io.out.write_all(text.as_bytes()).map_err(Error::Output)?;
        Ok(0)
    }
}

fn table(
    usage: &DiskUsageResponse,
    containers: &[v1::Container],
    stats: &[v1::ContainerStats],
) -> Table {
    let used: HashSet<&str> = containers.iter().map(|one| one.image_id.as_str()).collect();
    let images: HashSet<&str> =
        usage.layers.iter().flat_map(|layer| &layer.images).map(String::as_str).collect();
    let layers: u64 = usage.layers.iter().map(|layer| layer.disk_bytes).sum();
    // A layer is freed with the last image that has it.
    let free = usage
        .layers
        .iter()
        .filter(|layer| layer.images.iter().all(|image| !used.contains(image.as_str())));
    let free: u64 = free.map(|layer| layer.disk_bytes).sum();
    let in_use = images.iter().filter(|image| used.contains(*image)).count();
    let written: u64 = stats
        .iter()
        .filter_map(|one| one.writable_layer.as_ref()?.used_bytes.as_ref())
        .map(|value| value.value)
        .sum();
    let running =
        containers.iter().filter(|one| one.state() == v1::ContainerState::ContainerRunning).count();
    let mut table = Table::new(&["WHAT", "COUNT", "IN USE", "SIZE", "COULD BE FREED"], &[0]);
    let mut row = |what: &str, count: usize, used: usize, size, free| {
        table.row(vec![
            what.to_owned(),
            count.to_string(),
            used.to_string(),
            bytes(size),
            bytes(free),
        ]);
    };
    row("images", images.len(), in_use, layers, free);
    row("downloads", 0, 0, usage.partial_bytes, usage.partial_bytes);
    row("containers", containers.len(), running, written, 0);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::knarr::LayerUsage;

    #[test]
    fn layers_that_only_unused_images_have_could_be_freed() {
        let layer = |disk_bytes, images: &[&str]| LayerUsage {
            disk_bytes,
            images: images.iter().map(|&image| image.to_owned()).collect(),
            ..Default::default()
        };
        let usage = DiskUsageResponse {
            layers: vec![layer(1 << 20, &["a", "b"]), layer(2 << 20, &["b"]), layer(4 << 20, &[])],
            ..Default::default()
        };
        let container = v1::Container { image_id: "a".into(), ..Default::default() };
        let text = table(&usage, &[container], &[]).render(None);
        let images = text.lines().nth(1).unwrap();
        assert!(images.contains(&bytes(7 << 20)), "{text}");
        assert!(images.ends_with(&bytes(6 << 20)), "{text}");
    }
}
