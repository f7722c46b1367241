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
        let request = v1::StatusRequest { verbose: true };
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
    let columns = ["HANDLER", "USER NAMESPACES", "RECURSIVE READ-ONLY", "RUNTIME"];
    let mut table = Table::new(&columns, &[0]);
    let word = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    let config: Value = answer
        .info
        .get("config")
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    for handler in &answer.runtime_handlers {
        let containerd = &config["containerd"];
        let is_default = handler.name.is_empty();
        let name = if is_default { "(default)" } else { &handler.name };
        let named = if is_default { containerd["defaultRuntimeName"].as_str() } else { Some(name) };
        let features = handler.features.unwrap_or_default();
        table.row(vec![
            name.to_owned(),
            word(features.user_namespaces),
            word(features.recursive_read_only_mounts),
            runtime(&containerd["runtimes"][named.unwrap_or_default()]),
        ]);
    }
    table
}

/// What a handler's runtime calls itself, or that it does not work: the conditions say why.
fn runtime(about: &Value) -> String {
    let text = |key: &str| about[key].as_str().map(str::to_owned);
    let broken = || text("problem").map(|_reason| "does not work".to_owned());
    text("version").or_else(broken).unwrap_or_else(|| "built in".to_owned())
}

#[cfg(test)]
mod tests {
    use cri_api::v1;

    use super::{handlers, unfold_info};

    #[test]
    fn handlers_are_told_with_what_their_runtimes_call_themselves() {
        let config = serde_json::json!({"containerd": {"defaultRuntimeName": "knarr", "runtimes": {
            "knarr": {"version": null, "problem": null},
            "runc": {"version": "runc version 1.1.5", "problem": null},
            "absent": {"version": null, "problem": "No such file"},
        }}});
        let named = ["", "knarr", "runc", "absent"];
        let runtime_handlers = named
            .map(|name| v1::RuntimeHandler { name: name.into(), ..v1::RuntimeHandler::default() });
        let answer = v1::StatusResponse {
            info: [("config".to_owned(), config.to_string())].into(),
            runtime_handlers: runtime_handlers.into(),
            ..v1::StatusResponse::default()
        };
        let text = handlers(&answer).render(None);
        for (name, runtime) in [
            ("(default)", "built in"),
            ("knarr", "built in"),
            ("runc", "runc version 1.1.5"),
            ("absent", "does not work"),
        ] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            assert!(line.ends_with(runtime), "{text}");
        }
    }

    #[test]
    fn documents_inside_strings_are_unfolded_and_other_strings_kept() {
        let mut answer = serde_json::json!({"info": {"config": "{\"a\":1}", "note": "plain"}});
        unfold_info(&mut answer);
        assert_eq!(answer, serde_json::json!({"info": {"config": {"a": 1}, "note": "plain"}}));
    }
}
