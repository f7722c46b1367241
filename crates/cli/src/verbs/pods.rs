//! `knarr pods`

use cri_api::v1;

use crate::{
    Error, Io,
    client::{Client, Limit},
    human::{age, now_ns, short_id},
    output::FormatArg,
    table::Table,
};

/// List pods
#[derive(Debug, clap::Args)]
pub struct Pods {
    /// Only pods of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only pods that are ready
    #[arg(long)]
    ready: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    output: FormatArg,
}

impl Pods {
    /// Lists pods, the newest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let state = v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() };
        let filter =
            v1::PodSandboxFilter { state: self.ready.then_some(state), ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let mut answer = client
            .call("list pods", Limit::Standard, client.runtime().list_pod_sandbox(request))
            .await?;
        if let Some(namespace) = &self.namespace {
            answer.items.retain(|pod| {
                pod.metadata.as_ref().is_some_and(|metadata| metadata.namespace == *namespace)
            });
        }
        answer.items.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
        if self.quiet {
            answer.items.iter().try_for_each(|pod| io.line(&pod.id))?;
            return Ok(0);
        }
        io.emit(self.output.format, &answer, table)?;
        Ok(0)
    }
}

fn table(answer: &v1::ListPodSandboxResponse) -> Table {
    let header = ["POD ID", "NAMESPACE", "NAME", "STATE", "AGE", "ATTEMPT", "HANDLER"];
    let mut table = Table::new(&header, &[0, 3, 4]);
    let now = now_ns();
    for pod in &answer.items {
        let metadata = pod.metadata.clone().unwrap_or_default();
        let state = match pod.state() {
            v1::PodSandboxState::SandboxReady => "Ready",
            v1::PodSandboxState::SandboxNotready => "NotReady",
        };
        let handler = match pod.runtime_handler.as_str() {
            "" => "(default)",
            name => name,
        };
        table.row(vec![
            short_id(&pod.id).to_owned(),
            metadata.namespace,
            metadata.name,
            state.to_owned(),
            age(now, pod.created_at),
            metadata.attempt.to_string(),
            handler.to_owned(),
        ]);
    }
    table
}
