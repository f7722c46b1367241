//! How often and after how long something transient is tried again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::config::Retry;

/// The waits of one operation.
#[derive(Debug)]
pub(crate) struct Backoff {
    settings: Retry,
    left: u32,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(settings: Retry) -> Self {
        Self { settings, left: settings.repeats, next: settings.first_wait }
    }

    /// How long to wait before the next attempt; `None`: give up. `asked` is what the server
    /// asked for.
    pub(crate) fn next_wait(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let own = jittered(self.next);
        self.next = self.next.saturating_mul(2).min(self.settings.longest_wait);
        match asked {
            Some(asked) if asked > self.settings.longest_wait => None,
            Some(asked) => Some(asked.max(own)),
            None => Some(own),
        }
    }

    /// Progress was made: the next failure is a first one again.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.settings);
    }
}

/// Between half and all of `wait`, so that nodes that failed together do not return together.
/// A fresh `RandomState` is a random number without another dependency.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8);
    let permille = 500 + u32::try_from(random % 501).unwrap_or_default();
    wait.saturating_mul(permille) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Retry {
        Retry {
            repeats: 3,
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(1),
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let mut backoff = Backoff::new(settings());
        for upper in [100, 200, 400] {
            let wait = backoff.next_wait(None).unwrap();
            assert!(wait <= Duration::from_millis(upper), "{wait:?}");
            assert!(wait >= Duration::from_millis(upper / 2), "{wait:?}");
        }
        assert_eq!(backoff.next_wait(None), None);
    }

    #[test]
    fn a_server_may_ask_for_longer_but_not_for_ever() {
        let mut backoff = Backoff::new(settings());
        assert_eq!(backoff.next_wait(Some(Duration::from_secs(1))), Some(Duration::from_secs(1)));
        assert_eq!(backoff.next_wait(Some(Duration::from_secs(2))), None);
    }
}
