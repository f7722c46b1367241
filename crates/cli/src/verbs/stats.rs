//! `knarr stats`

use std::{collections::HashMap, time::Duration};

use cri_api::v1;

use crate::{
    Error, Io,
    client::{Client, Limit},
    human::{bytes, cpu_percent, parse_duration, short_id},
    output::{Format, FormatArg},
    resolve::Inventory,
    table::Table,
};

/// Between two samples where the runtime does not compute CPU usage itself.
const SAMPLE: Duration = Duration::from_secs(1);

/// Show the CPU, memory and disk usage of containers
#[derive(Debug, clap::Args)]
pub struct Stats {
    /// Only this container: id, beginning of an id, or name
    container: Option<String>,
    /// Only containers of this pod
    #[arg(short, long, conflicts_with = "container")]
    pod: Option<String>,
    /// Show again and again, so often
    #[arg(short, long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s",
          value_parser = parse_duration)]
    watch: Option<Duration>,
    #[command(flatten)]
    output: FormatArg,
}

impl Stats {
    /// Prints usage once, or with `--watch` until interrupted.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let mut before = None;
        loop {
            let (answer, inventory) = self.sample(client).await?;
            let lacking = answer.stats.iter().any(|stats| nano_cores(stats, None).is_none());
            if before.is_none() && lacking && self.output.format == Format::Table {
                before = Some(answer);
                tokio::time::sleep(SAMPLE).await;
                continue;
            }
            if self.watch.is_some() && io.width.is_some() {
                // Home and clear, as `watch` does.
                io.out.write_all(b"\x1b[H\x1b[2J").map_err(Error::Output)?;
            }
            io.emit(self.output.format, &answer, |answer| {
                table(answer, before.as_ref(), &inventory)
            })?;
            let Some(interval) = self.watch else { return Ok(0) };
            io.out.flush().map_err(Error::Output)?;
            before = Some(answer);
            tokio::time::sleep(interval).await;
        }
    }

    async fn sample(
        &self,
        client: &Client,
    ) -> Result<(v1::ListContainerStatsResponse, Inventory), Error> {
        let inventory = Inventory::fetch(client).await?;
        let mut filter = v1::ContainerStatsFilter::default();
        if let Some(container) = &self.container {
            filter.id = inventory.container(container)?.id;
        }
        if let Some(pod) = &self.pod {
            filter.pod_sandbox_id = inventory.pod(pod)?.id;
        }
        let request = v1::ListContainerStatsRequest { filter: Some(filter) };
        let mut service = client.runtime();
        let request = service.list_container_stats(request);
        let mut answer =
            client.call("read the containers' usage", Limit::Standard, request).await?;
        if self.container.is_none() {
            // What does not run uses nothing; asked for by name, its disk is shown all the same.
            answer.stats.retain(|stats| stats.cpu.is_some());
        }
        answer.stats.sort_by(|a, b| name(a).cmp(name(b)));
        Ok((answer, inventory))
    }
}

fn name(stats: &v1::ContainerStats) -> &str {
    let metadata = stats.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref());
    metadata.map_or("", |metadata| &metadata.name)
}

fn id(stats: &v1::ContainerStats) -> &str {
    stats.attributes.as_ref().map_or("", |attributes| &attributes.id)
}

fn table(
    answer: &v1::ListContainerStatsResponse,
    before: Option<&v1::ListContainerStatsResponse>,
    inventory: &Inventory,
) -> Table {
    let header = ["CONTAINER ID", "NAME", "POD", "CPU %", "MEMORY", "DISK", "INODES", "SWAP"];
    let mut table = Table::new(&header, &[0, 3, 4, 5, 6, 7]);
    let earlier: HashMap<&str, &v1::ContainerStats> =
        before.iter().flat_map(|answer| &answer.stats).map(|stats| (id(stats), stats)).collect();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for stats in &answer.stats {
        let pod = inventory
            .containers
            .iter()
            .find(|container| container.id == id(stats))
            .and_then(|container| inventory.pod_of(&container.pod_sandbox_id));
        let memory = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes);
        let disk = stats.writable_layer.as_ref();
        let swap = stats.swap.as_ref().and_then(|swap| swap.swap_usage_bytes);
        let cpu = nano_cores(stats, earlier.get(id(stats)).copied());
        table.row(vec![
            short_id(id(stats)).to_owned(),
            name(stats).to_owned(),
            or_dash(pod.map(|pod| format!("{}/{}", pod.namespace, pod.name))),
            or_dash(cpu.map(cpu_percent)),
            or_dash(memory.map(|memory| bytes(memory.value))),
            or_dash(disk.and_then(|disk| disk.used_bytes).map(|used| bytes(used.value))),
            or_dash(disk.and_then(|disk| disk.inodes_used).map(|used| used.value.to_string())),
            or_dash(swap.map(|swap| bytes(swap.value))),
        ]);
    }
    table
}

/// CPU usage: between two samples where there are two, else as the runtime computed it.
fn nano_cores(stats: &v1::ContainerStats, before: Option<&v1::ContainerStats>) -> Option<u64> {
    let cpu = stats.cpu.as_ref()?;
    let between = || {
        let earlier = before?.cpu.as_ref()?;
        let elapsed = u64::try_from(cpu.timestamp.checked_sub(earlier.timestamp)?).ok()?;
        let used = cpu
            .usage_core_nano_seconds?
            .value
            .checked_sub(earlier.usage_core_nano_seconds?.value)?;
        let rate = (u128::from(used) * 1_000_000_000).checked_div(u128::from(elapsed))?;
        u64::try_from(rate).ok()
    };
    between().or_else(|| Some(cpu.usage_nano_cores?.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(timestamp: i64, used: u64, rate: Option<u64>) -> v1::ContainerStats {
        let cpu = v1::CpuUsage {
            timestamp,
            usage_core_nano_seconds: Some(v1::UInt64Value { value: used }),
            usage_nano_cores: rate.map(|value| v1::UInt64Value { value }),
            ..Default::default()
        };
        v1::ContainerStats { cpu: Some(cpu), ..Default::default() }
    }

    #[test]
    fn cpu_usage_is_taken_between_samples_or_from_the_runtime() {
        let (first, second) = (stats(1_000, 500, None), stats(3_000, 1_500, Some(7)));
        assert_eq!(nano_cores(&second, Some(&first)), Some(500_000_000));
        assert_eq!(nano_cores(&second, None), Some(7));
        assert_eq!(nano_cores(&first, None), None);
        // The same sample twice: no time has passed.
        assert_eq!(nano_cores(&second, Some(&second)), Some(7));
        // A restarted container counts from nothing.
        assert_eq!(nano_cores(&first, Some(&second)), None);
    }
}
