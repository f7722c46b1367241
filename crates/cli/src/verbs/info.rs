//! `knarr info`

use cri_api::v1;
use serde_json::{Map, Value};

use crate::{
    Error, Io,
    client::{Client, Limit},
    output::{Format, FormatArg},
    table::Table,
};

/// Show the runtime's conditions, handlers and features
#[derive(Debug, clap::Args)]
pub struct Info {
    #[command(flatten)]
    output: FormatArg,
}

impl Info {
    /// Prints the runtime's status.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let verbose = self.output.format != Format::Table;
        let request = v1::StatusRequest { verbose };
        let answer = client
            .call("ask for the runtime's status", Limit::Standard, client.runtime().status(request))
            .await?;
        match self.output.format {
            Format::Table => {
                io.line(conditions(&answer).render(io.width))?;
                io.emit(Format::Table, &answer, handlers)?;
            }
            Format::Json => io.json(&unfolded(&answer)?)?,
            Format::Yaml => io.yaml(&unfolded(&answer)?)?,
        }
        Ok(0)
    }
}

fn unfolded(answer: &v1::StatusResponse) -> Result<Value, Error> {
    let mut value = serde_json::to_value(answer).map_err(Error::Json)?;
    unfold_info(&mut value);
    Ok(value)
}

/// Verbose answers carry JSON documents as strings; people want to read them as documents.
pub(super) fn unfold_info(answer: &mut Value) {
    let Some(info) = answer.get_mut("info").and_then(Value::as_object_mut) else { return };
    let unfolded: Map<String, Value> = std::mem::take(info)
        .into_iter()
        .map(|(key, value)| {
            let document = value.as_str().and_then(|text| serde_json::from_str(text).ok());
            (key, document.unwrap_or(value))
        })
        .collect();
    *info = unfolded;
}

fn conditions(answer: &v1::StatusResponse) -> Table {
    let mut table = Table::new(&["CONDITION", "STATUS", "REASON", "MESSAGE"], &[0, 1]);
    for condition in answer.status.iter().flat_map(|status| &status.conditions) {
        let status = if condition.status { "true" } else { "false" };
        table.row(vec![
            condition.r#type.clone(),
            status.into(),
            condition.reason.clone(),
            condition.message.clone(),
        ]);
    }
    table
}

fn handlers(answer: &v1::StatusResponse) -> Table {
    let mut table = Table::new(&["HANDLER", "USER NAMESPACES", "RECURSIVE READ-ONLY"], &[0]);
    let word = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    for handler in &answer.runtime_handlers {
        let name = if handler.name.is_empty() { "(default)" } else { &handler.name };
        let features = handler.features.unwrap_or_default();
        table.row(vec![
            name.to_owned(),
            word(features.user_namespaces),
            word(features.recursive_read_only_mounts),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::unfold_info;

    #[test]
    fn documents_inside_strings_are_unfolded_and_other_strings_kept() {
        let mut answer = serde_json::json!({"info": {"config": "{\"a\":1}", "note": "plain"}});
        unfold_info(&mut answer);
        assert_eq!(answer, serde_json::json!({"info": {"config": {"a": 1}, "note": "plain"}}));
    }
}
