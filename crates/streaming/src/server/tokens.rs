//! Tokens: who knows one may start the session it stands for, once and soon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use crate::random;
use crate::session::Request;

/// Kubelet connects at once.
const LIFE: Duration = Duration::from_secs(60);
/// More at a time are refused.
const MOST: usize = 1000;

/// Too many sessions were asked for and not begun. CRI: `ResourceExhausted`; kubelet answers its
/// client with 429 and tells it to try again after a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("1000 streaming sessions were asked for and not begun: try again in a minute")]
pub struct TooManyRequests;

/// Requests by token; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tokens(Arc<Mutex<HashMap<String, Waiting>>>);

#[derive(Debug)]
struct Waiting {
    request: Request,
    until: Instant,
}

impl Tokens {
    /// Keeps `request` for a minute. The token is 8 characters of URL-safe base64.
    pub(crate) fn add(&self, request: Request) -> Result<String, TooManyRequests> {
        let now = Instant::now();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MOST {
            waiting.retain(|_, waiting| waiting.until > now);
        }
        if waiting.len() >= MOST {
            return Err(TooManyRequests);
        }
        loop {
            let token = URL_SAFE_NO_PAD.encode(random::bytes::<6>());
            // With 48 bits this happens to nobody, but one must not get another's session.
            if !waiting.contains_key(&token) {
                waiting.insert(token.clone(), Waiting { request, until: now + LIFE });
                return Ok(token);
            }
        }
    }

    /// What the token stands for. It is used up, whatever comes of it.
    pub(crate) fn take(&self, token: &str) -> Option<Request> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = waiting.remove(token)?;
        (found.until > Instant::now()).then_some(found.request)
    }

    /// How many are kept, the overdue among them.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use model::SandboxId;

    use super::*;
    use crate::backend::PortForwardRequest;

    fn request() -> Request {
        let sandbox = SandboxId::from_random([7; 32]);
        Request::PortForward(PortForwardRequest { sandbox, ports: vec![80] })
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_once_and_for_a_minute() {
        let tokens = Tokens::default();
        let token = tokens.add(request()).unwrap();
        assert_eq!(token.len(), 8);
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_eq!(tokens.take("AAAAAAAA"), None);
        assert_eq!(tokens.take(&token), Some(request()));
        assert_eq!(tokens.take(&token), None);
        let late = tokens.add(request()).unwrap();
        tokio::time::advance(LIFE).await;
        assert_eq!(tokens.take(&late), None);
        assert_eq!(tokens.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_wait_and_the_next_is_told_to_come_later() {
        let tokens = Tokens::default();
        let all: HashSet<_> = (0..MOST).map(|_| tokens.add(request()).unwrap()).collect();
        assert_eq!(all.len(), MOST);
        assert_eq!(tokens.add(request()), Err(TooManyRequests));
        tokio::time::advance(LIFE).await;
        assert!(tokens.add(request()).is_ok());
        assert_eq!(tokens.count(), 1);
    }
}
