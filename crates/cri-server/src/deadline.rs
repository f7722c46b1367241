//! The caller's deadline, answered as gRPC has it.
//!
//! tonic drops a request whose `grpc-timeout` has passed and answers CANCELLED. Clients expect
//! DEADLINE_EXCEEDED, and see ours whenever it overtakes their own clock.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

/// tonic's own clock starts later with the same time and is coarse to a millisecond: this much
/// less is always earlier.
const AHEAD: Duration = Duration::from_millis(1);

/// A gRPC service that keeps its callers' deadlines.
#[derive(Debug, Clone)]
pub struct Deadlines<S>(pub(crate) S);

impl<S: NamedService> NamedService for Deadlines<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Deadlines<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let header = request.headers().get("grpc-timeout");
        let within = header.and_then(|value| value.to_str().ok()).and_then(duration);
        let answer = self.0.call(request);
        let Some(within) = within else { return Box::pin(answer) };
        let answer = tokio::time::timeout(within.saturating_sub(AHEAD), answer);
        Box::pin(async move {
            answer.await.unwrap_or_else(|_elapsed| {
                let text = format!("the caller's deadline of {within:?} has passed");
                Ok(Status::deadline_exceeded(text).into_http())
            })
        })
    }
}

/// gRPC over HTTP/2: at most eight digits and a unit. What is malformed is no deadline.
fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Pending;

    #[derive(Clone)]
    struct Silent;

    impl Service<http::Request<()>> for Silent {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Pending<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _request: http::Request<()>) -> Self::Future {
            std::future::pending()
        }
    }

    #[test]
    fn a_passed_deadline_is_deadline_exceeded() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let answer = runtime.block_on(async {
            let request = http::Request::builder().header("grpc-timeout", "3m").body(()).unwrap();
            Deadlines(Silent).call(request).await.unwrap()
        });
        assert_eq!(answer.headers().get("grpc-status").unwrap(), "4");
    }

    #[test]
    fn deadlines_are_read_in_every_unit() {
        let cases = [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("100000000m", None),
            ("+1m", None),
            ("m", None),
            ("1", None),
            ("1é", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(duration(text), want, "{text:?}");
        }
    }
}
