//! Bringing up a planned pod: images, sandbox, init containers, containers; and taking it down
//! again where that fails.

use std::{collections::BTreeMap, future::Future, path::PathBuf, pin::Pin, time::Duration};

use cri_api::v1;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::{Code, Response, Status};

use crate::{
    Error, Io,
    client::{Client, Limit, RpcError},
    pod::{ContainerPlan, PodPlan, PullPolicy, VolumeImage},
    verbs::{
        self,
        pull::{image_status, pull},
    },
    volumes,
};

/// How often an init container is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How long a pod that is to be removed may still take to come up: what it had from the start.
const LAST_PATIENCE: Duration = Duration::from_secs(240);
/// How much of a failed container's log is shown.
const SHOWN_LINES: usize = 20;

/// Why a pod was not brought up.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// One of that name is there.
    #[error("pod {name} runs already; remove it with `knarr rm --force {name}`")]
    Exists {
        /// `NAMESPACE/NAME`.
        name: String,
    },
    /// The policy forbids pulling.
    #[error("image {image} is not there, and its pull policy is Never")]
    NoImage {
        /// The image.
        image: String,
    },
    /// The image's user is root, or may be.
    #[error(
        "container {container} must not run as root, but image {image} runs as {user}; \
         set runAsUser"
    )]
    Root {
        /// The container.
        container: String,
        /// Its image.
        image: String,
        /// The image's word for its user.
        user: String,
    },
    /// An init container failed.
    #[error("init container {container} ended with exit code {code} ({reason})")]
    Init {
        /// The container.
        container: String,
        /// Its exit code.
        code: i32,
        /// The runtime's word for it.
        reason: String,
    },
    /// An init container was removed meanwhile.
    #[error("init container {container} vanished")]
    Vanished {
        /// The container.
        container: String,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// A pod that runs.
#[derive(Debug, Default)]
pub struct Running {
    /// Its id.
    pub pod: String,
    /// Its first address, if it has one.
    pub ip: String,
    /// Its containers: name and id.
    pub containers: Vec<(String, String)>,
}

/// What exists already, to be undone.
#[derive(Default)]
struct Made {
    volumes: Option<(PathBuf, String)>,
    /// What has no answer yet. It outlives whoever waited for it: runtimes go on making a pod when
    /// its caller goes away, and nobody would know the id of what comes of it.
    asked: Option<Asked>,
    pod: Option<String>,
}

/// A request for a pod.
type Asked =
    Pin<Box<dyn Future<Output = Result<Response<v1::RunPodSandboxResponse>, Status>> + Send>>;

/// Brings the pod up. On failure, also by Ctrl-C, removes what it made unless `keep`.
///
/// # Errors
/// The first failure. Failures of the clean-up are told on stderr.
pub async fn run(
    client: &Client,
    plan: PodPlan,
    keep: bool,
    io: &mut Io<'_>,
) -> Result<Running, Error> {
    let mut made = Made::default();
    let mut interrupts = Interrupts::watch();
    let name = full_name(&plan.sandbox.metadata.clone().unwrap_or_default());
    let outcome = tokio::select! {
        outcome = bring_up(client, plan, &mut made, io) => outcome,
        () = interrupts.next() => Err(RunError::Interrupted.into()),
    };
    if outcome.is_err() {
        if !keep {
            take_down(client, made, &name, &mut interrupts, io).await?;
        } else if let Some(pod) = &made.pod {
            io.note(format_args!("pod {pod} is kept"))?;
        } else if made.asked.is_some() {
            io.note(format_args!("pod {name} may still come up, and is kept"))?;
        }
    }
    outcome
}

/// Ctrl-C from the beginning on, so that none is missed between two waits.
struct Interrupts(Option<Signal>);

impl Interrupts {
    fn watch() -> Self {
        // Without a handler there is no interrupt to wait for: the default action ends us.
        Self(signal(SignalKind::interrupt()).ok())
    }

    async fn next(&mut self) {
        let next = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if next.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

fn full_name(pod: &v1::PodSandboxMetadata) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

async fn bring_up(
    client: &Client,
    mut plan: PodPlan,
    made: &mut Made,
    io: &mut Io<'_>,
) -> Result<Running, Error> {
    let metadata = plan.sandbox.metadata.clone().unwrap_or_default();
    refuse_second(client, &metadata).await?;
    provide_images(client, &mut plan, io.progress).await?;
    if let Some(dir) = &plan.volumes_dir {
        made.volumes = Some((dir.clone(), metadata.uid));
    }
    volumes::make(plan.volumes_dir.as_deref(), &plan.volumes)?;

    let pod = run_sandbox(client, &plan, made).await?;
    for container in &plan.init_containers {
        let id = create(client, &pod, &plan.sandbox, container).await?;
        start(client, container, &id).await?;
        await_success(client, container, &id, io).await?;
    }
    let mut running = Running { ip: address(client, &pod).await?, pod, containers: Vec::new() };
    for container in &plan.containers {
        let id = create(client, &running.pod, &plan.sandbox, container).await?;
        start(client, container, &id).await?;
        running.containers.push((name_of(container).to_owned(), id));
    }
    Ok(running)
}

async fn run_sandbox(client: &Client, plan: &PodPlan, made: &mut Made) -> Result<String, RpcError> {
    let request = v1::RunPodSandboxRequest {
        config: Some(plan.sandbox.clone()),
        runtime_handler: plan.handler.clone(),
    };
    let limit = Limit::After(Duration::from_secs(120));
    let name = plan.sandbox.metadata.as_ref().map_or("", |metadata| &metadata.name);
    let mut service = client.runtime();
    let asked: Asked = Box::pin(async move { service.run_pod_sandbox(request).await });
    let asked = made.asked.insert(asked).as_mut();
    let answer = client.call(format!("run pod {name}"), limit, asked).await;
    match &answer {
        Ok(_) | Err(RpcError::Refused { .. }) => made.asked = None,
        // The answer is still to come.
        Err(RpcError::Silent { .. }) => {}
    }
    let pod = answer?.pod_sandbox_id;
    made.pod = Some(pod.clone());
    Ok(pod)
}

/// Two pods of one name would be told apart by nobody.
async fn refuse_second(client: &Client, wanted: &v1::PodSandboxMetadata) -> Result<(), Error> {
    let state = v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() };
    let filter = v1::PodSandboxFilter { state: Some(state), ..Default::default() };
    let request = v1::ListPodSandboxRequest { filter: Some(filter) };
    let mut service = client.runtime();
    let pods =
        client.call("list pods", Limit::Standard, service.list_pod_sandbox(request)).await?.items;
    let same = |pod: &v1::PodSandbox| {
        pod.metadata
            .as_ref()
            .is_some_and(|it| it.name == wanted.name && it.namespace == wanted.namespace)
    };
    if pods.iter().any(same) {
        return Err(RunError::Exists { name: full_name(wanted) }.into());
    }
    Ok(())
}

/// Sees to it that an image is there.
async fn provide(
    client: &Client,
    name: &str,
    policy: PullPolicy,
    draw: bool,
) -> Result<v1::Image, Error> {
    let present = match policy {
        PullPolicy::Always => None,
        PullPolicy::IfNotPresent | PullPolicy::Never => image_status(client, name).await?,
    };
    match (present, policy) {
        (Some(image), _) => Ok(image),
        (None, PullPolicy::Never) => Err(RunError::NoImage { image: name.to_owned() }.into()),
        (None, PullPolicy::Always | PullPolicy::IfNotPresent) => {
            let id = pull(client, name, None, draw).await?;
            let incomplete = Error::Incomplete { rpc: "ImageStatus", field: "image" };
            image_status(client, &id).await?.ok_or(incomplete)
        }
    }
}

/// Every image of the pod. A container's may name the user where the manifest does not.
async fn provide_images(client: &Client, plan: &mut PodPlan, draw: bool) -> Result<(), Error> {
    let mut volumes = BTreeMap::new();
    for VolumeImage { reference, pull } in &plan.volume_images {
        let image = provide(client, reference, *pull, draw).await?;
        volumes.insert(reference.clone(), image.id);
    }
    for container in plan.init_containers.iter_mut().chain(&mut plan.containers) {
        let image = provide(client, &container.image, container.pull, draw).await?;
        apply_image(container, &image)?;
        let mounted = container.config.mounts.iter_mut().filter_map(|mount| mount.image.as_mut());
        for spec in mounted {
            if let Some(id) = volumes.get(&spec.user_specified_image) {
                spec.image.clone_from(id);
            }
        }
    }
    Ok(())
}

/// Kubelet's rule for the user: the manifest's, else the image's number, else its name.
fn apply_image(container: &mut ContainerPlan, image: &v1::Image) -> Result<(), RunError> {
    container.config.image = Some(v1::ImageSpec {
        image: image.id.clone(),
        user_specified_image: container.image.clone(),
        image_ref: image.id.clone(),
        ..Default::default()
    });
    let name = name_of(container).to_owned();
    let security = container.config.linux.as_mut().and_then(|it| it.security_context.as_mut());
    let Some(security) = security else { return Ok(()) };
    if security.run_as_user.is_some() {
        return Ok(());
    }
    let by_number = image.uid.as_ref().filter(|_| image.username.is_empty());
    if container.non_root && by_number.is_none_or(|uid| uid.value == 0) {
        let user = match by_number {
            Some(_) => "root".to_owned(),
            None if image.username.is_empty() => "root".to_owned(),
            None => format!("`{}`, whose number is not known", image.username),
        };
        return Err(RunError::Root { container: name, image: container.image.clone(), user });
    }
    match by_number {
        Some(uid) => security.run_as_user = Some(*uid),
        None => security.run_as_username.clone_from(&image.username),
    }
    Ok(())
}

fn name_of(container: &ContainerPlan) -> &str {
    container.config.metadata.as_ref().map_or("", |metadata| &metadata.name)
}

async fn create(
    client: &Client,
    pod: &str,
    sandbox: &v1::PodSandboxConfig,
    container: &ContainerPlan,
) -> Result<String, Error> {
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(container.config.clone()),
        sandbox_config: Some(sandbox.clone()),
    };
    let doing = format!("create container {}", name_of(container));
    let mut service = client.runtime();
    let answer = client.call(doing, Limit::Standard, service.create_container(request)).await?;
    Ok(answer.container_id)
}

async fn start(client: &Client, container: &ContainerPlan, id: &str) -> Result<(), Error> {
    let request = v1::StartContainerRequest { container_id: id.to_owned() };
    let doing = format!("start container {}", name_of(container));
    let mut service = client.runtime();
    client.call(doing, Limit::Standard, service.start_container(request)).await?;
    Ok(())
}

async fn await_success(
    client: &Client,
    container: &ContainerPlan,
    id: &str,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let name = name_of(container).to_owned();
    let status = loop {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let mut service = client.runtime();
        let doing = format!("wait for init container {name}");
        let answer = client.call(doing, Limit::Standard, service.container_status(request)).await;
        match answer {
            Ok(v1::ContainerStatusResponse { status: Some(status), .. }) => {
                if status.state() == v1::ContainerState::ContainerExited {
                    break status;
                }
            }
            Ok(_) => return Err(RunError::Vanished { container: name }.into()),
            Err(error) if error.code() == Some(Code::NotFound) => {
                return Err(RunError::Vanished { container: name }.into());
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(POLL).await;
    };
    if status.exit_code == 0 {
        return Ok(());
    }
    io.note(format_args!("last lines of init container {name}:"))?;
    if let Err(error) = verbs::logs::show_tail(client, id, SHOWN_LINES, io).await {
        io.note(format_args!("({error})"))?;
    }
    Err(RunError::Init { container: name, code: status.exit_code, reason: status.reason }.into())
}

async fn address(client: &Client, pod: &str) -> Result<String, Error> {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
    let mut service = client.runtime();
    let request = service.pod_sandbox_status(request);
    let answer = client.call("read the pod's status", Limit::Standard, request).await?;
    let network = answer.status.and_then(|status| status.network);
    Ok(network.map(|network| network.ip).unwrap_or_default())
}

/// Undoes what was made, as far as it goes; failures are told, not returned.
async fn take_down(
    client: &Client,
    made: Made,
    name: &str,
    interrupts: &mut Interrupts,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    // Whoever reads what we tell may have got the same Ctrl-C: that stops nothing from being undone.
    let mut told = Ok(());
    let pod = match made.asked {
        None => made.pod,
        Some(asked) => {
            told = io.note(format_args!(
                "waiting for pod {name} to come up, to remove it; Ctrl-C leaves it"
            ));
            match late_answer(asked, interrupts).await {
                Late::Made(pod) => Some(pod),
                Late::Undone => None,
                Late::Unknown => {
                    // Its containers are not to run without their volumes.
                    return told.and_then(|()| {
                        io.note(format_args!(
                            "pod {name} may still come up; \
                             `knarr rm --force {name}` removes it with its volumes"
                        ))
                    });
                }
            }
        }
    };
    if let Some(pod) = pod {
        for outcome in [verbs::stop_pod(client, &pod).await, verbs::remove_pod(client, &pod).await]
        {
            if let Err(error) = outcome {
                told = told.and_then(|()| io.note(format_args!("clean-up: {error}")));
            }
        }
    }
    if let Some((dir, uid)) = made.volumes
        && let Err(error) = volumes::remove(&dir, &uid)
    {
        told = told.and_then(|()| io.note(format_args!("clean-up: {error}")));
    }
    told
}

/// What came of a pod that nobody wants any more.
enum Late {
    Made(String),
    /// The runtime says that it failed: it keeps nothing.
    Undone,
    Unknown,
}

async fn late_answer(asked: Asked, interrupts: &mut Interrupts) -> Late {
    tokio::select! {
        answer = tokio::time::timeout(LAST_PATIENCE, asked) => match answer {
            Ok(Ok(answer)) => Late::Made(answer.into_inner().pod_sandbox_id),
            Ok(Err(_status)) => Late::Undone,
            Err(_elapsed) => Late::Unknown,
        },
        () = interrupts.next() => Late::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(non_root: bool) -> ContainerPlan {
        let linux = v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext::default()),
            ..Default::default()
        };
        let metadata = v1::ContainerMetadata { name: "c".into(), attempt: 0 };
        ContainerPlan {
            config: v1::ContainerConfig {
                metadata: Some(metadata),
                linux: Some(linux),
                ..Default::default()
            },
            image: "img:1".into(),
            pull: PullPolicy::Never,
            non_root,
        }
    }

    fn image(uid: Option<i64>, username: &str) -> v1::Image {
        v1::Image {
            id: "sha256:aa".into(),
            uid: uid.map(|value| v1::Int64Value { value }),
            username: username.into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_image_names_the_user_where_the_manifest_does_not() {
        let mut container = plan(false);
        apply_image(&mut container, &image(Some(1000), "")).unwrap();
        let spec = container.config.image.as_ref().unwrap();
        assert_eq!(
            (spec.image.as_str(), spec.user_specified_image.as_str()),
            ("sha256:aa", "img:1")
        );
        let security = container.config.linux.unwrap().security_context.unwrap();
        assert_eq!(security.run_as_user.unwrap().value, 1000);

        let mut container = plan(false);
        apply_image(&mut container, &image(None, "app")).unwrap();
        let security = container.config.linux.unwrap().security_context.unwrap();
        assert_eq!(security.run_as_username, "app");
    }

    #[test]
    fn run_as_non_root_refuses_images_that_are_or_may_be_root() {
        for (image, refused) in [
            (image(Some(1000), ""), false),
            (image(Some(0), ""), true),
            (image(None, ""), true),
            (image(None, "app"), true),
        ] {
            assert_eq!(apply_image(&mut plan(true), &image).is_err(), refused, "{image:?}");
        }
    }
}
