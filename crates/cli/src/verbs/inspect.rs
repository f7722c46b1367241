//! `knarr inspect`

use cri_api::v1;
use serde::Serialize;

use super::info::unfold_info;
use crate::{
    Error, Io,
    client::{Client, Limit},
    resolve::{Inventory, Kind, ResolveError},
};

/// Show everything about a container, pod or image
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Id, beginning of an id, or name of a container, pod or image
    #[arg(required = true, value_name = "OBJECT")]
    objects: Vec<String>,
    /// Output form
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Form,
}

/// Form of a document.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Form {
    /// Proto3 JSON, as the CRI defines it.
    #[default]
    Json,
    /// The same as YAML.
    Yaml,
}

impl Inspect {
    /// Prints each object's status with the runtime's verbose information.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let inventory = Inventory::fetch(client).await?;
        for query in &self.objects {
            match inventory.either(query) {
                Ok(object) if object.kind == Kind::Pod => {
                    let request =
                        v1::PodSandboxStatusRequest { pod_sandbox_id: object.id, verbose: true };
                    let mut service = client.runtime();
                    let request = service.pod_sandbox_status(request);
                    let answer = client.call(doing(query), Limit::Standard, request).await?;
                    self.print(&answer, io)?;
                }
                Ok(object) => {
                    let request =
                        v1::ContainerStatusRequest { container_id: object.id, verbose: true };
                    let mut service = client.runtime();
                    let request = service.container_status(request);
                    let answer = client.call(doing(query), Limit::Standard, request).await?;
                    self.print(&answer, io)?;
                }
                Err(ResolveError::Unknown { .. }) => self.image(client, query, io).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(0)
    }

    async fn image(&self, client: &Client, query: &str, io: &mut Io<'_>) -> Result<(), Error> {
        let image = v1::ImageSpec { image: query.to_owned(), ..Default::default() };
        let request = v1::ImageStatusRequest { image: Some(image), verbose: true };
        let mut service = client.images();
        let answer =
            client.call(doing(query), Limit::Standard, service.image_status(request)).await;
        match answer {
            Ok(answer) if answer.image.is_some() => self.print(&answer, io),
            // A word that is no image reference at all is as unknown as any other.
            Ok(_) => Err(unknown(query)),
            Err(error) if error.code() == Some(tonic::Code::InvalidArgument) => Err(unknown(query)),
            Err(error) => Err(error.into()),
        }
    }

    fn print<M: Serialize>(&self, answer: &M, io: &mut Io<'_>) -> Result<(), Error> {
        let mut value = serde_json::to_value(answer).map_err(Error::Json)?;
        unfold_info(&mut value);
        match self.output {
            Form::Json => io.json(&value),
            Form::Yaml => io.yaml(&value),
        }
    }
}

fn doing(query: &str) -> String {
    format!("inspect {query}")
}

fn unknown(query: &str) -> Error {
    ResolveError::Unknown { query: query.to_owned(), wanted: "container, pod or image" }.into()
}
