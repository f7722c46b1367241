//! CRI `Status`.

use std::collections::BTreeMap;

use cni::NetworkStatus;
use cri_api::v1;
use model::CgroupDriver;

use crate::Server;

/// What lies below containers' writable layers, as containerd names it.
pub(super) const SNAPSHOTTER: &str = "overlayfs";

/// Which runtime runs pods.
pub(super) const RUNTIME_TYPE: &str = "knarr";

/// Conditions, handlers and features; must be cheap.
pub(crate) async fn status(server: &Server, request: &v1::StatusRequest) -> v1::StatusResponse {
    let status = server.sandboxes.network_status();
    let network = match &status {
        NetworkStatus::Ready => condition("NetworkReady", None),
        NetworkStatus::NotReady { message } => condition(
            "NetworkReady",
            Some(("NetworkPluginNotReady", format!("Network plugin returns error: {message}"))),
        ),
    };
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![
                condition("RuntimeReady", None),
                network,
                records(server),
                current_records(server),
                usable_handlers(server),
            ],
        }),
        info: if request.verbose { info(server, status).await } else { BTreeMap::new() },
        runtime_handlers: handlers(server),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            mount_options: true,
            user_namespaces_host_network: server.sandboxes.has_user_namespaces(),
        }),
    }
}

/// Ours: a node works without what cannot be used any more, but somebody should look.
fn records(server: &Server) -> v1::RuntimeCondition {
    let quarantined = server.sandboxes.quarantined();
    let told = |it: &sandbox::Quarantined| format!("{} {}: {}", it.kind(), it.id(), it.reason);
    let images = server.images.unusable().into_iter();
    let images = images.map(|image| format!("image {}: {}", image.id, image.reason));
    let texts: Vec<_> = quarantined.iter().map(told).chain(images).collect();
    let problem = (!texts.is_empty())
        .then(|| ("RecordsUnusable", format!("{} (see `knarr doctor`)", texts.join("; "))));
    condition("KnarrHasUsableRecords", problem)
}

/// Ours: everything works, but a daemon that starts now would know less.
fn current_records(server: &Server) -> v1::RuntimeCondition {
    let told = |it: sandbox::Behind| format!("{} {}: {}", it.kind(), it.id(), it.reason);
    let texts: Vec<_> = server.sandboxes.behind().into_iter().map(told).collect();
    let problem = (!texts.is_empty()).then(|| ("RecordsBehind", texts.join("; ")));
    condition("KnarrHasCurrentRecords", problem)
}

/// Ours: pods of other handlers run all the same.
fn usable_handlers(server: &Server) -> v1::RuntimeCondition {
    let told = |state: sandbox::HandlerState| {
        state.features.err().map(|reason| format!("{}: {reason}", state.name))
    };
    let texts: Vec<_> = server.sandboxes.handlers().into_iter().filter_map(told).collect();
    let problem = (!texts.is_empty()).then(|| ("HandlersUnusable", texts.join("; ")));
    condition("KnarrHasUsableHandlers", problem)
}

fn condition(kind: &str, problem: Option<(&str, String)>) -> v1::RuntimeCondition {
    let status = problem.is_none();
    let (reason, message) = problem.unwrap_or_default();
    v1::RuntimeCondition { r#type: kind.into(), status, reason: reason.into(), message }
}

/// CRI: the default handler is listed as `""` and under its own name.
fn handlers(server: &Server) -> Vec<v1::RuntimeHandler> {
    let handlers = server.sandboxes.handlers();
    let default = handlers.first().map(|default| (String::new(), default));
    let named = handlers.iter().map(|handler| (handler.name.clone(), handler));
    default
        .into_iter()
        .chain(named)
        .map(|(name, handler)| {
            let features = handler.features.clone().unwrap_or_default();
            let features = v1::RuntimeHandlerFeatures {
                recursive_read_only_mounts: features.recursive_read_only,
                user_namespaces: features.user_namespaces,
            };
            v1::RuntimeHandler { name, features: Some(features) }
        })
        .collect()
}

/// The keys that tools read from containerd's answer.
async fn info(server: &Server, status: NetworkStatus) -> BTreeMap<String, String> {
    let sandboxes = &server.sandboxes;
    let network = sandboxes.network_config().await;
    let handlers = sandboxes.handlers();
    let runtime = |handler: &sandbox::HandlerState| {
        serde_json::json!({
            "runtimeType": RUNTIME_TYPE,
            "snapshotter": SNAPSHOTTER,
            "runtimePath": handler.path,
            "version": handler.version,
            "problem": handler.features.as_ref().err(),
            "unfilteredExec": handler.unfiltered_exec,
            "options": { "SystemdCgroup": server.cgroup_driver == CgroupDriver::Systemd },
        })
    };
    let runtimes: serde_json::Map<_, _> =
        handlers.iter().map(|handler| (handler.name.clone(), runtime(handler))).collect();
    let config = serde_json::json!({
        "rootDir": sandboxes.root_dir(),
        "stateDir": sandboxes.state_dir(),
        "enableSelinux": sandboxes.host().selinux.is_some(),
        "cni": { "binDirs": network["PluginDirs"], "confDir": network["PluginConfDir"] },
        "containerd": {
            "snapshotter": SNAPSHOTTER,
            "defaultRuntimeName": handlers.first().map(|default| &default.name),
            "runtimes": runtimes,
        },
    });
    let loaded = match status {
        NetworkStatus::Ready => "OK".to_owned(),
        NetworkStatus::NotReady { message } => message,
    };
    BTreeMap::from([
        ("config".to_owned(), config.to_string()),
        ("cniconfig".to_owned(), network.to_string()),
        ("lastCNILoadStatus".to_owned(), loaded.clone()),
        ("lastCNILoadStatus.default".to_owned(), loaded),
    ])
}
