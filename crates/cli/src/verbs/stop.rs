//! `knarr stop`

use std::time::Duration;

use cri_api::v1;

use super::each::Each;
use crate::{
    Error, Io,
    client::{Client, Limit},
    human::parse_duration,
    pod::GRACE_ANNOTATION,
    resolve::{Inventory, Kind, Object},
};

/// Grace where neither the caller nor the pod names one.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// Stop pods or containers
#[derive(Debug, clap::Args)]
pub struct Stop {
    /// Pods or containers: id, beginning of an id, or name
    #[arg(required = true, value_name = "OBJECT")]
    objects: Vec<String>,
    /// How long a container may take to end by itself before it is killed
    /// [default: the pod's termination grace period, else 10s]
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

impl Stop {
    /// Stops each; goes on after a failure.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let inventory = Inventory::fetch(client).await?;
        let mut each = Each::new(self.objects.len(), "stopped");
        for query in &self.objects {
            let stopped = match inventory.either(query) {
                Ok(object) => stop(client, &inventory, &object, self.timeout).await,
                Err(error) => Err(error.into()),
            };
            each.went(query, stopped, io)?;
        }
        each.end()
    }
}

/// Stops a container, or a pod after its containers (each with its grace).
pub(super) async fn stop(
    client: &Client,
    inventory: &Inventory,
    object: &Object,
    timeout: Option<Duration>,
) -> Result<(), Error> {
    match object.kind {
        Kind::Container => stop_container(client, &object.id, grace(object, timeout)).await,
        Kind::Pod => {
            let running = crate::resolve::container_objects(&inventory.containers, &inventory.pods)
                .into_iter()
                .zip(&inventory.containers)
                .filter(|(_, container)| container.pod_sandbox_id == object.id)
                .filter(|(object, _)| object.live);
            // Side by side: the graces of a pod's containers do not add up.
            let mut stopping = tokio::task::JoinSet::new();
            for (container, _) in running {
                let client = client.clone();
                let grace = grace(&container, timeout);
                stopping.spawn(async move { stop_container(&client, &container.id, grace).await });
            }
            let mut first = None;
            while let Some(stopped) = stopping.join_next().await {
                if let Ok(Err(error)) = stopped {
                    first.get_or_insert(error);
                }
            }
            if let Some(error) = first {
                return Err(error);
            }
            stop_pod(client, &object.id).await
        }
    }
}

/// Stops a pod at once, its containers with it.
pub(crate) async fn stop_pod(client: &Client, id: &str) -> Result<(), Error> {
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let doing = format!("stop pod {id}");
    client.call(doing, Limit::Standard, client.runtime().stop_pod_sandbox(request)).await?;
    Ok(())
}

async fn stop_container(client: &Client, id: &str, grace: Duration) -> Result<(), Error> {
    let timeout = whole_seconds(grace);
    let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
    let doing = format!("stop container {id}");
    client.call(doing, Limit::After(grace), client.runtime().stop_container(request)).await?;
    Ok(())
}

/// Rounded up, as the CRI knows whole seconds only: 0 means to kill at once, which nobody means who
/// grants half a second.
fn whole_seconds(grace: Duration) -> i64 {
    let begun = u64::from(grace.subsec_nanos() > 0);
    i64::try_from(grace.as_secs().saturating_add(begun)).unwrap_or(i64::MAX)
}

fn grace(container: &Object, asked: Option<Duration>) -> Duration {
    let annotated = || container.annotations.get(GRACE_ANNOTATION)?.parse().ok();
    asked.or_else(|| annotated().map(Duration::from_secs)).unwrap_or(DEFAULT_GRACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_no_grace_at_all_kills_at_once() {
        for (grace, seconds) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(500), 1),
            (Duration::from_secs(1), 1),
            (Duration::from_millis(1001), 2),
            (Duration::MAX, i64::MAX),
        ] {
            assert_eq!(whole_seconds(grace), seconds, "{grace:?}");
        }
    }
}
