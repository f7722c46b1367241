//! Names that clients and servers agree by.

use http::HeaderName;

/// The upgrade's name.
pub(crate) const SPDY: &str = "SPDY/3.1";

/// Exec and attach, over SPDY and WebSocket.
pub(crate) const V1: &str = "channel.k8s.io";
pub(crate) const V2: &str = "v2.channel.k8s.io";
pub(crate) const V3: &str = "v3.channel.k8s.io";
pub(crate) const V4: &str = "v4.channel.k8s.io";
/// Over WebSocket only.
pub(crate) const V5: &str = "v5.channel.k8s.io";
pub(crate) const V1_BASE64: &str = "base64.channel.k8s.io";
pub(crate) const V4_BASE64: &str = "v4.base64.channel.k8s.io";

/// Port-forward over SPDY.
pub(crate) const FORWARD_SPDY: &str = "portforward.k8s.io";
/// The same within WebSocket.
pub(crate) const FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What a client offers and a server picks.
pub(crate) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What the server would have taken.
pub(crate) const ACCEPTED_STREAM_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

pub(crate) const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
pub(crate) const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
pub(crate) const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
pub(crate) const WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
