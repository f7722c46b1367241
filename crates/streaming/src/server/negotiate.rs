//! Which protocol a session is to speak: the upgrade's headers.

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Response, StatusCode};

use crate::protocol::{
    ACCEPTED_STREAM_PROTOCOLS, FORWARD_SPDY, FORWARD_TUNNEL, SPDY, STREAM_PROTOCOL, V1, V1_BASE64,
    V2, V3, V4, V4_BASE64, V5, WEBSOCKET_ACCEPT, WEBSOCKET_KEY, WEBSOCKET_PROTOCOL,
    WEBSOCKET_VERSION,
};
use crate::session::status::StatusFormat;
use crate::session::{
    ForwardArrival, Forwarding, ProcessArrival, ProcessRequest, ProcessSession, Request, Session,
    Version,
};
use crate::spdy::Endpoint;
use crate::websocket::{Channels, Encoding, Tunnel, handshake};
use crate::wire::{Role, Wire};

/// What was agreed.
pub(super) struct Agreed {
    pub(super) answer: Response<String>,
    pub(super) wire: Wire,
    pub(super) session: Session,
}

/// The answer that ends the attempt.
pub(super) type Refusal = Box<Response<String>>;

/// An answer with a text for people.
pub(super) fn refusal(status: StatusCode, text: &str) -> Refusal {
    let mut answer = Response::new(format!("{text}\n"));
    *answer.status_mut() = status;
    // Only here: Go's HTTP client takes every `Connection` away from an answer that says `close`, and
    // then misses the `Upgrade` of a 101.
    answer.headers_mut().insert(CONNECTION, const { HeaderValue::from_static("close") });
    Box::new(answer)
}

/// Agrees on a protocol for `request`.
pub(super) fn negotiate(
    method: &Method,
    headers: &HeaderMap,
    request: Request,
) -> Result<Agreed, Refusal> {
    if !tokens(headers, CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(bad("unable to upgrade: the request has no `Connection: Upgrade`"));
    }
    let upgrades = |name: &str| tokens(headers, UPGRADE).any(|t| t.eq_ignore_ascii_case(name));
    if upgrades("websocket") {
        return websocket(method, headers, request);
    }
    if upgrades(SPDY) {
        return spdy(headers, request);
    }
    Err(bad("unable to upgrade: the request has no `Upgrade: SPDY/3.1` or `Upgrade: websocket`"))
}

fn bad(text: &str) -> Refusal {
    refusal(StatusCode::BAD_REQUEST, text)
}

/// The members of a header's list, over all its lines.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn switching(upgrade: &'static str, more: &[(HeaderName, &str)]) -> Response<String> {
    let mut answer = Response::new(String::new());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
    for (name, value) in more {
        // Ours, or found in a header: always a header's value.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    answer
}

/// The client's first protocol that we know wins.
fn spdy(headers: &HeaderMap, request: Request) -> Result<Agreed, Refusal> {
    let mut offered = tokens(headers, STREAM_PROTOCOL).peekable();
    if offered.peek().is_none() {
        return Err(bad("unable to upgrade: the request has no `X-Stream-Protocol-Version`"));
    }
    let (name, session) = match request {
        Request::PortForward(request) => {
            let name = offered.find(|name| *name == FORWARD_SPDY);
            let name = name.ok_or_else(|| no_common_version(&[FORWARD_SPDY]))?;
            (name, Session::Forward(Forwarding::new(request, ForwardArrival::Opened)))
        }
        Request::Process(request) => {
            let common = offered.find_map(|name| Some((name, version(name)?)));
            let (name, version) = common.ok_or_else(|| no_common_version(&[V4, V3, V2, V1]))?;
            let arrival = ProcessArrival::Opened(version);
            (name, Session::Process(ProcessSession::new(request, arrival)))
        }
    };
    let answer = switching(SPDY, &[(STREAM_PROTOCOL, name)]);
    Ok(Agreed { answer, wire: Wire::Spdy(Endpoint::new(Role::Server)), session })
}

fn version(name: &str) -> Option<Version> {
    match name {
        V4 => Some(Version::V4),
        V3 => Some(Version::V3),
        V2 => Some(Version::V2),
        V1 => Some(Version::V1),
        _ => None,
    }
}

/// Clients read from the header what they should have offered.
fn no_common_version(known: &[&'static str]) -> Refusal {
    let text = format!("unable to upgrade: no stream protocol in common; known: {known:?}");
    let mut answer = refusal(StatusCode::FORBIDDEN, &text);
    for name in known {
        answer.headers_mut().append(ACCEPTED_STREAM_PROTOCOLS, HeaderValue::from_static(name));
    }
    answer
}

/// RFC 6455, 4.2.
fn websocket(method: &Method, headers: &HeaderMap, request: Request) -> Result<Agreed, Refusal> {
    if method != Method::GET {
        return Err(bad("unable to upgrade: WebSocket begins with GET"));
    }
    if tokens(headers, WEBSOCKET_VERSION).all(|version| version != "13") {
        let mut answer =
            refusal(StatusCode::UPGRADE_REQUIRED, "unable to upgrade: want version 13");
        answer.headers_mut().insert(WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(answer);
    }
    let key = headers.get(&WEBSOCKET_KEY).and_then(|value| value.to_str().ok());
    let Some(key) = key.filter(|key| handshake::is_key(key)) else {
        return Err(bad("unable to upgrade: `Sec-WebSocket-Key` is not 16 bytes in base64"));
    };
    let mut offered = tokens(headers, WEBSOCKET_PROTOCOL).peekable();
    let offers_nothing = offered.peek().is_none();
    let (name, wire, session) = match request {
        Request::PortForward(request) if offers_nothing => forward(request, V4)?,
        Request::PortForward(request) => {
            let name = offered.find(|name| [V4, V4_BASE64, FORWARD_TUNNEL].contains(name));
            forward(request, name.unwrap_or_default())?
        }
        Request::Process(request) if offers_nothing => process(request, V1)?,
        Request::Process(request) => {
            let known = [V5, V4, V4_BASE64, V1, V1_BASE64];
            let name = offered.find(|name| known.contains(name));
            process(request, name.unwrap_or_default())?
        }
    };
    let accept = handshake::accept(key);
    let more = [(WEBSOCKET_ACCEPT, accept.as_str()), (WEBSOCKET_PROTOCOL, name)];
    let answer = switching("websocket", if offers_nothing { &more[..1] } else { &more });
    Ok(Agreed { answer, wire, session })
}

type Choice = (&'static str, Wire, Session);

fn process(request: ProcessRequest, name: &str) -> Result<Choice, Refusal> {
    let (name, encoding, format, can_close) = match name {
        V5 => (V5, Encoding::Binary, StatusFormat::Json, true),
        V4 => (V4, Encoding::Binary, StatusFormat::Json, false),
        V4_BASE64 => (V4_BASE64, Encoding::Base64, StatusFormat::Json, false),
        V1 => (V1, Encoding::Binary, StatusFormat::Text, false),
        V1_BASE64 => (V1_BASE64, Encoding::Base64, StatusFormat::Text, false),
        _ => return Err(no_common_protocol(&[V5, V4, V4_BASE64, V1, V1_BASE64])),
    };
    let wire = Wire::Channels(Channels::new(Role::Server, encoding, can_close));
    let session = ProcessSession::new(request, ProcessArrival::Channels(format));
    Ok((name, wire, Session::Process(session)))
}

fn forward(request: crate::PortForwardRequest, name: &str) -> Result<Choice, Refusal> {
    let (name, encoding) = match name {
        FORWARD_TUNNEL => {
            let wire = Wire::Tunnel(Tunnel::new(Role::Server));
            let session = Forwarding::new(request, ForwardArrival::Opened);
            return Ok((FORWARD_TUNNEL, wire, Session::Forward(session)));
        }
        V4 => (V4, Encoding::Binary),
        V4_BASE64 => (V4_BASE64, Encoding::Base64),
        _ => return Err(no_common_protocol(&[FORWARD_TUNNEL, V4, V4_BASE64])),
    };
    if request.ports.is_empty() {
        return Err(bad("unable to upgrade: channels need the ports in the PortForward request"));
    }
    let wire = Wire::Channels(Channels::new(Role::Server, encoding, false));
    Ok((name, wire, Session::Forward(Forwarding::new(request, ForwardArrival::Channels))))
}

fn no_common_protocol(known: &[&str]) -> Refusal {
    let text = format!("unable to upgrade: no sub-protocol in common; known: {known:?}");
    refusal(StatusCode::FORBIDDEN, &text)
}
