//! CRI `Version`.

use cri_api::v1;

use crate::Server;

/// Answers before anything else is ready; the request's version is ignored.
pub(crate) fn version(server: &Server) -> v1::VersionResponse {
    v1::VersionResponse {
        version: "0.1.0".into(),
        runtime_name: "knarr".into(),
        runtime_version: server.version.into(),
        runtime_api_version: "v1".into(),
    }
}
