//! CRI `PodSandboxStatus`.

use std::collections::BTreeMap;

use cri_api::v1;
use model::{NamespaceMode, PodName};
use sandbox::PodView;
use tonic::Status;

use super::status::{RUNTIME_TYPE, SNAPSHOTTER};
use crate::convert::{container, dump, pod};
use crate::{Server, status};

/// From memory; `info` only when asked for.
pub(crate) async fn pod_sandbox_status(
    server: &Server,
    request: &v1::PodSandboxStatusRequest,
) -> Result<v1::PodSandboxStatusResponse, Status> {
    let index = server.sandboxes.index();
    // Before the rest: evented clients take it for the moment all of this was true.
    let timestamp = sandbox::clock().0;
    let view = index.pod(&request.pod_sandbox_id).map_err(status::from_lookup)?;
    let containers = index.containers_of(&view.record.id);
    Ok(v1::PodSandboxStatusResponse {
        status: Some(pod::status(&view)),
        info: if request.verbose { info(server, &view).await } else { BTreeMap::new() },
        containers_statuses: containers.iter().map(|c| container::status(c)).collect(),
        timestamp,
    })
}

/// The keys that tools read from containerd's answer.
async fn info(server: &Server, view: &PodView) -> BTreeMap<String, String> {
    let record = &view.record;
    let network = record.network.as_ref();
    let ready = view.is_ready();
    let resources = |resources: Option<&model::Resources>| {
        resources.map(|of| serde_json::json!({ "linux": dump::resources(of) }))
    };
    // A pod without pause is held by its shim; one that has stopped by nobody.
    let shim = record.shim.filter(|_| ready).map(|shim| shim.pid);
    let netns = match record.config.security.namespaces.network {
        NamespaceMode::Node => String::new(),
        NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Target => {
            server.sandboxes.netns_path(&record.id)
        }
    };
    let info = serde_json::json!({
        "pid": view.pause_pid.filter(|_| ready).or(shim).unwrap_or(0),
        "processStatus": if ready { "running" } else { "stopped" },
        "netNamespaceClosed": view.network_closed,
        // Pods need no image.
        "image": "",
        "snapshotKey": record.id,
        "snapshotter": SNAPSHOTTER,
        "runtimeHandler": record.handler,
        "runtimeType": RUNTIME_TYPE,
        "runtimeOptions": null,
        "config": dump::pod(&record.config),
        "runtimeSpec": server.sandboxes.sandbox_spec(view).await,
        "cniResult": network.map(|network| &network.result),
        "sandboxMetadata": {
            "ID": record.id,
            "Name": pod_name(&record.config.name),
            "Config": dump::pod(&record.config),
            "NetNSPath": netns,
            "IP": network.and_then(|network| network.ips.first()),
            "AdditionalIPs": network.map(|network| network.ips.iter().skip(1).collect::<Vec<_>>()),
            "RuntimeHandler": record.handler,
            "CNIResult": network.map(|network| &network.result),
        },
        "overhead": resources(record.overhead()),
        "resources": resources(record.resources()),
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

/// As the name is reserved.
fn pod_name(name: &PodName) -> String {
    format!("{}_{}_{}_{}", name.name, name.namespace, name.uid, name.attempt)
}
