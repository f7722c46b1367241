//! CRI `GetContainerEvents`.

use std::pin::Pin;
use std::sync::Arc;

use cri_api::v1;
use futures_util::Stream;
use sandbox::{EventKind, LifecycleEvent};
use tonic::Status;

use crate::Server;
use crate::convert::{container, pod};

type Events = Pin<Box<dyn Stream<Item = Result<v1::ContainerEventResponse, Status>> + Send>>;

/// What had ended when the daemon started, then every event from now on, until the client leaves
/// or the daemon drains. A client that does not keep up is cut off with Aborted: it subscribes
/// again and relists.
pub(crate) fn get_container_events(server: &Server) -> Events {
    let state = Some((server.sandboxes.events(), server.sandboxes.clone()));
    Box::pin(futures_util::stream::unfold(state, |state| async {
        let (mut events, sandboxes) = state?;
        let next = tokio::select! {
            () = sandboxes.draining() => return None,
            next = events.next() => next,
        };
        match next {
            Ok(event) => Some((Ok(to_cri(&event?)), Some((events, sandboxes)))),
            Err(lost) => Some((Err(Status::aborted(lost.to_string())), None)),
        }
    }))
}

fn to_cri(event: &Arc<LifecycleEvent>) -> v1::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    v1::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at.0,
        pod_sandbox_status: event.pod.as_ref().map(|view| pod::status(view)),
        containers_statuses: event.containers.iter().map(|c| container::status(c)).collect(),
    }
}
