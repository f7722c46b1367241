//! `knarr net`

use cri_api::knarr;
use serde::Serialize;
use serde_json::Value;

use crate::{
    Error, Io,
    client::{Client, Limit},
    human::short_id,
    output::FormatArg,
    resolve::{Inventory, ResolveError},
    table::Table,
};

/// Show who holds which address, and release what nobody does
#[derive(Debug, clap::Subcommand)]
pub enum Net {
    /// List the pods' networks and addresses, and what was left behind
    Ls(Ls),
    /// Show a pod's networks in full and what is wrong with them
    Inspect(InspectNetwork),
    /// Release what belongs to pods that are gone
    Gc,
}

/// List the pods' networks and addresses, and what was left behind
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// Only what belongs to no pod
    #[arg(long)]
    left: bool,
    #[command(flatten)]
    output: FormatArg,
}

/// Show a pod's networks in full and what is wrong with them
#[derive(Debug, clap::Args)]
pub struct InspectNetwork {
    /// Id, beginning of an id, or name of a pod
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
}

impl Net {
    /// Does it; `inspect` fails with 1 when something is wrong.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        match self {
            Self::Ls(verb) => verb.run(client, io).await,
            Self::Inspect(verb) => verb.run(client, io).await,
            Self::Gc => collect(client, io).await,
        }
    }
}

impl Ls {
    async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let mut service = client.networks();
        let request = service.list_holdings(knarr::ListHoldingsRequest {});
        let mut answer = client.call("list addresses", Limit::Standard, request).await?;
        if self.left {
            answer.holdings.retain(|holding| holding.state() == knarr::HoldingState::Left);
        }
        io.emit(self.output.format, &answer, table)?;
        Ok(0)
    }
}

fn table(answer: &knarr::ListHoldingsResponse) -> Table {
    let header = ["NETWORK", "ADDRESSES", "POD ID", "NAMESPACE", "NAME", "INTERFACE", "STATE"];
    let mut table = Table::new(&header, &[0, 1, 2, 6]);
    for holding in &answer.holdings {
        let state = match holding.state() {
            knarr::HoldingState::Attached => "Attached",
            knarr::HoldingState::Underway => "Underway",
            knarr::HoldingState::Left => "Left",
        };
        table.row(vec![
            holding.network.clone(),
            holding.addresses.join(","),
            short_id(&holding.pod_sandbox_id).to_owned(),
            holding.pod_namespace.clone(),
            holding.pod_name.clone(),
            holding.interface.clone(),
            state.to_owned(),
        ]);
    }
    table
}

/// An attachment with its documents unfolded.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    network: String,
    interface: String,
    netns: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
    result: Value,
    configuration: Value,
}

impl InspectNetwork {
    async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let inventory = Inventory::fetch(client).await?;
        let mut code = 0;
        for query in &self.pods {
            let id = match inventory.pod(query) {
                Ok(object) => object.id,
                // What was left behind has an id that no pod has.
                Err(ResolveError::Unknown { .. }) if query.len() == 64 => query.clone(),
                Err(error) => return Err(error.into()),
            };
            let mut service = client.networks();
            let request = knarr::InspectAttachmentsRequest { pod_sandbox_id: id };
            let request = service.inspect_attachments(request);
            let doing = format!("inspect the network of {query}");
            let answer = client.call(doing, Limit::Standard, request).await?;
            let document = |text: &str| serde_json::from_str(text).map_err(Error::Json);
            let mut shown = Vec::with_capacity(answer.attachments.len());
            for attachment in answer.attachments {
                if !attachment.problem.is_empty() {
                    io.note(&attachment.problem)?;
                    code = 1;
                }
                shown.push(Shown {
                    result: document(&attachment.result)?,
                    configuration: document(&attachment.configuration)?,
                    network: attachment.network,
                    interface: attachment.interface,
                    netns: attachment.netns,
                    problem: attachment.problem,
                });
            }
            io.json(&shown)?;
        }
        Ok(code)
    }
}

async fn collect(client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
    let mut service = client.networks();
    let request = service.collect_networks(knarr::CollectNetworksRequest {});
    let answer = client.call("clean up networks", Limit::Standard, request).await?;
    let (detached, released) = (answer.detached, answer.released);
    io.line(format!("{detached} attachments and {released} further addresses released"))?;
    if answer.busy {
        io.note("pods were coming or going: plugins were not asked, try again")?;
    }
    for failure in &answer.failures {
        io.note(failure)?;
    }
    Ok(u8::from(!answer.failures.is_empty()))
}
