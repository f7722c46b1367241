//! Which request a pod or container may still take: pure, because kubelet repeats and races its
//! calls by design and the answer must not depend on timing.

use crate::record::{ContainerState, PodPhase};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The pod is not READY.
    #[error("its pod sandbox is not ready")]
    PodNotReady,
    /// The container has been started before.
    #[error("it has been started already")]
    AlreadyStarted,
    /// The container has ended.
    #[error("it has exited")]
    Exited,
    /// The container has not been started.
    #[error("it has not been started")]
    NotStarted,
    /// The container is being removed.
    #[error("it is being removed")]
    Removing,
    /// The container whose PID namespace it was to join.
    #[error("the container whose processes it was to share has ended")]
    TargetEnded,
}

/// What to do with a request that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Do it.
    Go,
    /// It is so already: success.
    AlreadySo,
}

/// CRI: containers are created in READY pods only.
pub(crate) fn create(pod: PodPhase) -> Result<(), Refusal> {
    match pod {
        PodPhase::Ready => Ok(()),
        PodPhase::Creating | PodPhase::Stopped => Err(Refusal::PodNotReady),
    }
}

/// CRI: CREATED → RUNNING once, in a READY pod.
pub(crate) fn start(
    pod: PodPhase,
    container: &ContainerState,
    removing: bool,
) -> Result<(), Refusal> {
    match container {
        ContainerState::Running { .. } => Err(Refusal::AlreadyStarted),
        ContainerState::Exited(_) => Err(Refusal::Exited),
        ContainerState::Created if removing => Err(Refusal::Removing),
        ContainerState::Created => create(pod),
    }
}

/// CRI: stopping what does not run is success.
pub(crate) fn stop(container: &ContainerState) -> Admission {
    match container {
        ContainerState::Running { .. } => Admission::Go,
        ContainerState::Created | ContainerState::Exited(_) => Admission::AlreadySo,
    }
}

/// Exec and log reopening need a running container.
pub(crate) fn use_running(container: &ContainerState) -> Result<(), Refusal> {
    match container {
        ContainerState::Running { .. } => Ok(()),
        ContainerState::Created => Err(Refusal::NotStarted),
        ContainerState::Exited(_) => Err(Refusal::Exited),
    }
}

/// Limits can be changed until the container has ended; whether there is something in force to
/// change already.
pub(crate) fn update(container: &ContainerState, removing: bool) -> Result<bool, Refusal> {
    match container {
        ContainerState::Exited(_) => Err(Refusal::Exited),
        ContainerState::Created | ContainerState::Running { .. } if removing => {
            Err(Refusal::Removing)
        }
        ContainerState::Created => Ok(false),
        ContainerState::Running { .. } => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ExitReason, ExitRecord};
    use model::UnixNanos;
    use proptest::prelude::*;

    fn exited() -> ContainerState {
        ContainerState::Exited(ExitRecord {
            started_at: None,
            finished_at: UnixNanos(1),
            code: 0,
            reason: ExitReason::Completed,
            message: String::new(),
        })
    }

    fn running() -> ContainerState {
        ContainerState::Running { pid: 2, started_at: UnixNanos(1) }
    }

    #[derive(Debug, Clone, Copy)]
    enum Call {
        Start,
        Stop,
        Exit,
        StopPod,
        Remove,
    }

    fn calls() -> impl Strategy<Value = Vec<Call>> {
        let one = prop_oneof![
            Just(Call::Start),
            Just(Call::Stop),
            Just(Call::Exit),
            Just(Call::StopPod),
            Just(Call::Remove)
        ];
        proptest::collection::vec(one, 0..40)
    }

    proptest! {
        /// Whatever the order of calls: a container starts at most once, never in a pod that has
        /// stopped, and stopping always converges.
        #[test]
        fn a_container_runs_at_most_once(calls in calls()) {
            let (mut pod, mut state, mut removing) =
                (PodPhase::Ready, ContainerState::Created, false);
            let mut starts = 0;
            for call in calls {
                match call {
                    Call::Start => {
                        if start(pod, &state, removing).is_ok() {
                            prop_assert_eq!(pod, PodPhase::Ready);
                            starts += 1;
                            state = running();
                        }
                    }
                    Call::Stop => {
                        if stop(&state) == Admission::Go {
                            state = exited();
                        }
                        prop_assert_eq!(stop(&state), Admission::AlreadySo);
                    }
                    Call::Exit => {
                        if use_running(&state).is_ok() {
                            state = exited();
                        }
                    }
                    Call::StopPod => {
                        pod = PodPhase::Stopped;
                        if use_running(&state).is_ok() {
                            state = exited();
                        }
                    }
                    Call::Remove => removing = true,
                }
            }
            prop_assert!(starts <= 1);
        }
    }
}
