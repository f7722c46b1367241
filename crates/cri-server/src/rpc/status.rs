//! CRI `Status`.

use std::collections::BTreeMap;

use cni::NetworkStatus;
use cri_api::v1;

use crate::Server;

/// Conditions, handlers and features; must be cheap.
pub(crate) fn status(server: &Server, request: &v1::StatusRequest) -> v1::StatusResponse {
    let network = match server.sandboxes.network_status() {
        NetworkStatus::Ready => condition("NetworkReady", None),
        NetworkStatus::NotReady { message } => condition(
            "NetworkReady",
            Some(("NetworkPluginNotReady", format!("Network plugin returns error: {message}"))),
        ),
    };
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![condition("RuntimeReady", None), network],
        }),
        info: if request.verbose { info(server) } else { BTreeMap::new() },
        runtime_handlers: handlers(server),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            mount_options: true,
            ..Default::default()
        }),
    }
}

fn condition(kind: &str, problem: Option<(&str, String)>) -> v1::RuntimeCondition {
    let status = problem.is_none();
    let (reason, message) = problem.unwrap_or_default();
    v1::RuntimeCondition { r#type: kind.into(), status, reason: reason.into(), message }
}

/// CRI: the default handler is listed as `""` and under its own name.
fn handlers(server: &Server) -> Vec<v1::RuntimeHandler> {
    let features = v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: server.sandboxes.host().recursive_read_only,
        user_namespaces: false,
    };
    std::iter::once(String::new())
        .chain(server.sandboxes.handlers())
        .map(|name| v1::RuntimeHandler { name, features: Some(features) })
        .collect()
}

fn info(server: &Server) -> BTreeMap<String, String> {
    let config = serde_json::json!({
        "stateDir": server.sandboxes.state_dir().display().to_string(),
    });
    BTreeMap::from([("config".to_owned(), config.to_string())])
}
