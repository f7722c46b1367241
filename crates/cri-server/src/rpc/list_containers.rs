//! CRI `ListContainers` and `StreamContainers`.

use cri_api::{server, v1};
use prost::bytes::Bytes;
use tonic::Status;

use super::streamed::{Messages, messages};
use crate::convert::container;
use crate::{Server, status};

/// From memory, without waiting for anything.
pub(crate) fn list_containers(
    server: &Server,
    request: v1::ListContainersRequest,
) -> Result<server::ListContainersResponse, Status> {
    Ok(server::ListContainersResponse { containers: fitting(server, request.filter)?.collect() })
}

/// The same, in several messages.
pub(crate) fn stream_containers(
    server: &Server,
    request: v1::StreamContainersRequest,
) -> Result<Messages<server::StreamContainersResponse>, Status> {
    Ok(messages(fitting(server, request.filter)?, |containers| server::StreamContainersResponse {
        containers,
    }))
}

fn fitting(
    server: &Server,
    filter: Option<v1::ContainerFilter>,
) -> Result<impl Iterator<Item = Bytes> + Send + use<>, Status> {
    let index = server.sandboxes.index();
    let filter = container::Filter::new(filter, index).map_err(status::from_filter)?;
    let fitting = index.containers().into_iter().filter(move |view| filter.fits(view));
    Ok(fitting.map(|view| container::listed(&view)))
}

#[cfg(test)]
mod tests {
    use cri_api::{server, v1};
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use prost::Message;
    use prost::bytes::Bytes;

    fn containers() -> impl Strategy<Value = Vec<v1::Container>> {
        let one = ("[a-f0-9]{0,8}", btree_map(".{0,9}", ".{0,200}", 0..4), 0..4, any::<i64>());
        let one = one.prop_map(|(id, labels, state, created_at)| v1::Container {
            id,
            labels,
            state,
            created_at,
            ..Default::default()
        });
        vec(one, 0..5)
    }

    proptest! {
        #[test]
        fn a_list_of_encoded_items_is_the_list_on_the_wire(containers in containers()) {
            let encoded: Vec<Bytes> =
                containers.iter().map(|container| container.encode_to_vec().into()).collect();
            let list = server::ListContainersResponse { containers: encoded.clone() };
            let want = v1::ListContainersResponse { containers: containers.clone() };
            prop_assert_eq!(list.encode_to_vec(), want.encode_to_vec());
            let list = server::StreamContainersResponse { containers: encoded };
            let want = v1::StreamContainersResponse { containers };
            prop_assert_eq!(list.encode_to_vec(), want.encode_to_vec());
        }
    }
}
