//! `knarr rm`

use cri_api::v1;

use super::{each::Each, stop};
use crate::{
    Error, Io,
    client::{Client, Limit},
    pod::VOLUMES_ANNOTATION,
    resolve::{Inventory, Kind, Object},
    volumes,
};

/// Digits of an id that is written out.
const FULL_ID: usize = 64;

/// The condition by which knarr tells which records it cannot use.
const RECORDS: &str = "KnarrHasUsableRecords";

/// Remove pods or containers
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Pods or containers: id, beginning of an id, or name
    #[arg(required = true, value_name = "OBJECT")]
    objects: Vec<String>,
    /// Stop what is running first
    #[arg(short, long)]
    force: bool,
}

impl Rm {
    /// Removes each; goes on after a failure.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let inventory = Inventory::fetch(client).await?;
        let mut each = Each::new(self.objects.len(), "removed");
        for query in &self.objects {
            let removed = match inventory.either(query) {
                Ok(object) => remove(client, &inventory, &object, self.force).await,
                Err(error) => match set_aside(client, query).await {
                    Ok(true) if self.force => remove_pod(client, query).await,
                    Ok(true) => Err(Error::Running { kind: "pod", name: query.clone() }),
                    Ok(false) => Err(error.into()),
                    Err(error) => Err(error),
                },
            };
            each.went(query, removed, io)?;
        }
        each.end()
    }
}

/// Whether it is a pod whose record the daemon cannot use. It may run: nobody knows.
async fn set_aside(client: &Client, id: &str) -> Result<bool, Error> {
    if id.len() != FULL_ID {
        return Ok(false);
    }
    let mut service = client.runtime();
    let request = service.status(v1::StatusRequest { verbose: false });
    let answer = client.call("ask for the runtime's status", Limit::Standard, request).await?;
    let conditions = answer.status.unwrap_or_default().conditions;
    let told = |it: &v1::RuntimeCondition| it.r#type == RECORDS && it.message.contains(id);
    Ok(conditions.iter().any(told))
}

async fn remove(
    client: &Client,
    inventory: &Inventory,
    object: &Object,
    force: bool,
) -> Result<(), Error> {
    if object.live {
        if !force {
            let name = object.full_name().to_owned();
            return Err(Error::Running { kind: object.kind.word(), name });
        }
        stop::stop(client, inventory, object, None).await?;
    }
    match object.kind {
        Kind::Container => {
            let request = v1::RemoveContainerRequest { container_id: object.id.clone() };
            let doing = format!("remove container {}", object.full_name());
            client.call(doing, Limit::Standard, client.runtime().remove_container(request)).await?;
        }
        Kind::Pod => {
            remove_pod(client, &object.id).await?;
            let uid = inventory
                .pods
                .iter()
                .find(|pod| pod.id == object.id)
                .and_then(|pod| pod.metadata.as_ref())
                .map(|metadata| metadata.uid.as_str());
            if let (Some(dir), Some(uid)) = (object.annotations.get(VOLUMES_ANNOTATION), uid) {
                volumes::remove(dir.as_ref(), uid)?;
            }
        }
    }
    Ok(())
}

/// Removes a pod and what is left of its containers.
pub(crate) async fn remove_pod(client: &Client, id: &str) -> Result<(), Error> {
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let doing = format!("remove pod {id}");
    client.call(doing, Limit::Standard, client.runtime().remove_pod_sandbox(request)).await?;
    Ok(())
}
