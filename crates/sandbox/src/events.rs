//! What happens to pods and containers, for whoever subscribes. CRI `GetContainerEvents`.
//!
//! Every subscriber gets every event, in the order the owners publish them. One that falls behind
//! loses its subscription, not just events: it is told, and looks at everything anew.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::{SandboxId, UnixNanos};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::context::now;
use crate::view::{ContainerView, Index, PodView};

/// How far a subscriber may fall behind.
const BACKLOG: usize = 1024;

/// What happened. CRI: `ContainerEventType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was made.
    Created,
    /// It runs.
    Started,
    /// It ended.
    Stopped,
    /// It was removed.
    Deleted,
}

/// One event of a container, or of a pod sandbox (then `id` is the sandbox's).
#[derive(Debug, Clone)]
pub struct LifecycleEvent {
    /// Container or sandbox id.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: UnixNanos,
    /// The pod as it is now; none once it is removed.
    pub pod: Option<Arc<PodView>>,
    /// Its containers as they are now.
    pub containers: Vec<Arc<ContainerView>>,
}

/// How long after its start a daemon tells new subscribers what ended while it was away: whoever
/// watched the one before it has come back by then.
const TOLD_FOR: Duration = Duration::from_secs(300);

/// A subscriber that did not keep up; its subscription is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the subscriber did not keep up: {events} events were lost")]
pub struct Lost {
    /// How many.
    pub events: u64,
}

/// One subscriber's events.
#[derive(Debug)]
pub struct Subscription {
    earlier: std::vec::IntoIter<Arc<LifecycleEvent>>,
    live: broadcast::Receiver<Arc<LifecycleEvent>>,
}

impl Subscription {
    /// The next event; none when there will be no more.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn next(&mut self) -> Result<Option<Arc<LifecycleEvent>>, Lost> {
        if let Some(event) = self.earlier.next() {
            return Ok(Some(event));
        }
        match self.live.recv().await {
            Ok(event) => Ok(Some(event)),
            Err(RecvError::Closed) => Ok(None),
            Err(RecvError::Lagged(events)) => Err(Lost { events }),
        }
    }
}

/// Where owners publish and callers subscribe.
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<Arc<LifecycleEvent>>,
    /// What was found to have ended while no daemon watched: id, pod, when.
    found: Mutex<Vec<(String, SandboxId, UnixNanos)>>,
    begun: Instant,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(BACKLOG),
            found: Mutex::default(),
            begun: Instant::now(),
        }
    }
}

impl Events {
    /// Everything from now on, and before it what was found at the start.
    pub(crate) fn subscribe(&self, index: &Index) -> Subscription {
        // First, so that nothing falls between the two.
        let live = self.sender.subscribe();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if self.begun.elapsed() > TOLD_FOR {
            *found = Vec::new();
        }
        let tell = |(id, pod, at): &(String, SandboxId, UnixNanos)| {
            let event = event(EventKind::Stopped, id, pod.as_str(), *at, index);
            // One that was removed since is not told of.
            event.pod.is_some().then(|| Arc::new(event))
        };
        let earlier: Vec<_> = found.iter().filter_map(tell).collect();
        Subscription { earlier: earlier.into_iter(), live }
    }

    /// Takes note of something that had ended when this daemon started.
    pub(crate) fn found_ended(&self, id: &str, sandbox: &SandboxId, at: UnixNanos) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.push((id.to_owned(), sandbox.clone(), at));
    }

    /// Tells what happened to `id` in the pod `sandbox`. Costs nothing when nobody listens.
    pub(crate) fn publish(&self, kind: EventKind, id: &str, sandbox: &str, index: &Index) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        // The last subscriber may have left in this moment.
        drop(self.sender.send(Arc::new(event(kind, id, sandbox, now(), index))));
    }
}

fn event(kind: EventKind, id: &str, sandbox: &str, at: UnixNanos, index: &Index) -> LifecycleEvent {
    let pod = index.pod(sandbox).ok();
    let containers =
        pod.as_ref().map(|pod| index.containers_of(&pod.record.id)).unwrap_or_default();
    LifecycleEvent { id: id.to_owned(), kind, at, pod, containers }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::test_pod;

    #[tokio::test]
    async fn what_ended_while_nobody_watched_is_told_to_every_subscriber_first() {
        let (events, index) = (Events::default(), Index::default());
        let pod = test_pod();
        let id = pod.record.id.clone();
        index.put_pod(pod);
        events.found_ended("c", &id, UnixNanos(7));
        events.found_ended("gone", &SandboxId::from_random([9; 32]), UnixNanos(8));
        let mut subscribers = [events.subscribe(&index), events.subscribe(&index)];
        events.publish(EventKind::Started, "d", id.as_str(), &index);
        for subscriber in &mut subscribers {
            let first = subscriber.next().await.unwrap().unwrap();
            assert_eq!((first.id.as_str(), first.kind), ("c", EventKind::Stopped));
            assert_eq!(first.at, UnixNanos(7));
            assert!(first.pod.is_some());
            let second = subscriber.next().await.unwrap().unwrap();
            assert_eq!((second.id.as_str(), second.kind), ("d", EventKind::Started));
        }
    }

    #[tokio::test]
    async fn who_falls_behind_is_told_and_the_others_are_not_held_up() {
        let (events, index) = (Events::default(), Index::default());
        let (mut slow, mut quick) = (events.subscribe(&index), events.subscribe(&index));
        for number in 0..BACKLOG + 5 {
            events.publish(EventKind::Created, &number.to_string(), "p", &index);
            let event = quick.next().await.unwrap().unwrap();
            assert_eq!(event.id, number.to_string(), "in order");
        }
        assert_eq!(slow.next().await.unwrap_err(), Lost { events: 5 });
    }
}
