//! `knarr ps`

use cri_api::v1;

use crate::{
    Error, Io,
    client::{Client, Limit},
    human::{age, now_ns, short_id},
    output::FormatArg,
    resolve::Inventory,
    table::Table,
};

/// List containers
#[derive(Debug, clap::Args)]
pub struct Ps {
    /// Not only running containers
    #[arg(short, long)]
    all: bool,
    /// Only containers of this pod: id, beginning of an id, NAME or NAMESPACE/NAME
    #[arg(short, long)]
    pod: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    output: FormatArg,
}

impl Ps {
    /// Lists containers, the newest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let inventory = Inventory::fetch(client).await?;
        let pod = self.pod.map(|pod| inventory.pod(&pod)).transpose()?;
        let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
        let filter = v1::ContainerFilter {
            state: (!self.all).then_some(state),
            pod_sandbox_id: pod.map(|pod| pod.id).unwrap_or_default(),
            ..Default::default()
        };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let mut answer = client
            .call("list containers", Limit::Standard, client.runtime().list_containers(request))
            .await?;
        answer.containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        if self.quiet {
            answer.containers.iter().try_for_each(|container| io.line(&container.id))?;
            return Ok(0);
        }
        io.emit(self.output.format, &answer, |answer| table(answer, &inventory))?;
        Ok(0)
    }
}

/// A container's state for people.
pub(super) fn state_word(state: v1::ContainerState) -> &'static str {
    match state {
        v1::ContainerState::ContainerCreated => "Created",
        v1::ContainerState::ContainerRunning => "Running",
        v1::ContainerState::ContainerExited => "Exited",
        v1::ContainerState::ContainerUnknown => "Unknown",
    }
}

fn table(answer: &v1::ListContainersResponse, inventory: &Inventory) -> Table {
    let header = ["CONTAINER ID", "NAME", "POD", "STATE", "AGE", "ATTEMPT", "IMAGE"];
    let mut table = Table::new(&header, &[0, 3, 4]);
    let now = now_ns();
    for container in &answer.containers {
        let metadata = container.metadata.clone().unwrap_or_default();
        let pod = inventory.pod_of(&container.pod_sandbox_id).map_or_else(
            || short_id(&container.pod_sandbox_id).to_owned(),
            |pod| format!("{}/{}", pod.namespace, pod.name),
        );
        table.row(vec![
            short_id(&container.id).to_owned(),
            metadata.name,
            pod,
            state_word(container.state()).to_owned(),
            age(now, container.created_at),
            metadata.attempt.to_string(),
            image_name(container),
        ]);
    }
    table
}

/// What the pod's author called the image, else the runtime's word for it.
fn image_name(container: &v1::Container) -> String {
    let spec = container.image.clone().unwrap_or_default();
    let name =
        if spec.user_specified_image.is_empty() { spec.image } else { spec.user_specified_image };
    if name.starts_with("sha256:") { short_id(&name).to_owned() } else { name }
}
