//! Clients of other versions of the CRI: later ones say what this daemon has no word for, older
//! ones leave unsaid, or say in deprecated fields, what today's kubelet says.

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use prost::Message;
use test_support::cri::Cri;
use test_support::node::{Node, on_a_node};
use test_support::proc::status_field;
use tonic_prost::ProstCodec;

/// A request of a later version: the known message first, on the wire the same as bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct LaterPodRequest {
    #[prost(bytes, tag = "1")]
    config: Vec<u8>,
    #[prost(string, tag = "2")]
    runtime_handler: String,
    #[prost(message, optional, tag = "900")]
    news: Option<News>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LaterContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(bytes, tag = "2")]
    config: Vec<u8>,
    #[prost(bytes, tag = "3")]
    sandbox_config: Vec<u8>,
    #[prost(message, optional, tag = "900")]
    news: Option<News>,
}

/// Fields of every wire type, by numbers that mean nothing in any of the messages.
#[derive(Clone, PartialEq, prost::Message)]
struct News {
    #[prost(int64, tag = "901")]
    number: i64,
    #[prost(string, repeated, tag = "902")]
    words: Vec<String>,
    #[prost(double, tag = "903")]
    ratio: f64,
    #[prost(fixed32, tag = "904")]
    mark: u32,
    #[prost(message, repeated, tag = "905")]
    more: Vec<News>,
}

fn news() -> News {
    let words = vec!["gpu".to_owned(), "\u{1F6A2}".to_owned()];
    let inner = News { number: -1, ratio: 0.5, ..Default::default() };
    News { number: 7, words, ratio: 1.5, mark: 9, more: vec![inner] }
}

/// The message with fields behind it that nobody knows yet.
fn later(message: &impl Message) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    bytes.extend(news().encode_to_vec());
    bytes
}

async fn call<Q, A>(cri: &Cri, method: &'static str, request: Q) -> Result<A>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut client = tonic::client::Grpc::new(cri.channel.clone());
    client.ready().await?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
    let codec = ProstCodec::<Q, A>::default();
    let answer = client.unary(tonic::Request::new(request), path, codec).await?;
    Ok(answer.into_inner())
}

#[test]
fn fields_of_a_later_version_are_ignored() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("later").with(|config| {
            config.labels.insert("kept".into(), "as it is".into());
        });
        let request = LaterPodRequest {
            config: later(&pod.config),
            runtime_handler: String::new(),
            news: Some(news()),
        };
        let method = "/runtime.v1.RuntimeService/RunPodSandbox";
        let made: v1::RunPodSandboxResponse = call(&node.cri, method, request).await?;
        let pod_id = made.pod_sandbox_id;
        let status = node.cri.pod(&pod_id).await?;
        ensure!(status.labels == pod.config.labels, "{status:?}");

        let container = pod.container("main", &image).sleeper();
        let request = LaterContainerRequest {
            pod_sandbox_id: pod_id,
            config: later(&container.config),
            sandbox_config: later(&pod.config),
            news: Some(news()),
        };
        let method = "/runtime.v1.RuntimeService/CreateContainer";
        let made: v1::CreateContainerResponse = call(&node.cri, method, request).await?;
        node.cri.start(&made.container_id).await?;
        node.wait_log(&made.container_id, "asleep").await?;
        let status = node.cri.container(&made.container_id).await?;
        ensure!(status.labels == container.config.labels, "{status:?}");
        Ok(())
    })
}

/// A container that says no more than the first version of the CRI made it say.
async fn bare(node: &Node, pod: &str, image: &str) -> Result<(String, v1::ContainerStatus)> {
    let metadata = v1::PodSandboxMetadata {
        name: pod.to_owned(),
        uid: format!("uid-{pod}"),
        namespace: "tests".to_owned(),
        attempt: 0,
    };
    let mut builder = node.pod(pod);
    builder.config = v1::PodSandboxConfig {
        metadata: Some(metadata),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: node.scratch.cgroup_parent(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let pod_id = node.cri.run_pod(&builder).await?;
    let mut container = builder.container("main", image).sleeper();
    container.config = v1::ContainerConfig {
        metadata: container.config.metadata,
        image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
        command: container.config.command,
        ..Default::default()
    };
    let id = node.cri.create(&pod_id, &builder, &container).await?;
    node.cri.start(&id).await?;
    let status = node.cri.container(&id).await?;
    Ok((id, status))
}

#[test]
fn what_is_left_unsaid_has_the_meaning_it_ever_had() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let (id, status) = bare(node, "bare", &image).await?;
        // Modes of an unset message are POD: the pod has a first process of its own.
        let first = node.cri.shell(&id, "tr '\\0' ' ' </proc/1/cmdline").await?;
        ensure!(!first.contains("/bin/sh"), "PID 1 is `{first}`");
        let own = node.cri.shell(&id, "cat /proc/self/status").await?;
        ensure!(status_field(&own, "Seccomp") == Some("0"), "{own}");
        ensure!(node.cri.shell(&id, "id -u; echo $HOSTNAME | wc -l").await? == "0\n1");

        let named = status.image.context("an image")?;
        ensure!(named.user_specified_image.is_empty() && !named.image.is_empty(), "{named:?}");
        ensure!(!status.image_ref.is_empty() && status.image_id.starts_with("sha256:"));
        ensure!(status.log_path.is_empty(), "{}", status.log_path);
        let limits = status.resources.and_then(|resources| resources.linux);
        ensure!(limits.is_some(), "limits are told of containers without any too");
        Ok(())
    })
}

#[test]
fn deprecated_fields_count_where_the_new_ones_are_unset() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let file = node.scratch.dir().join("allow.json");
        std::fs::write(&file, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#)?;
        let local = format!("localhost/{}", file.display());
        let unconfined = v1::SecurityProfile {
            profile_type: v1::ProfileType::Unconfined.into(),
            ..Default::default()
        };
        for (name, text, new, mode) in [
            ("default", "runtime/default", None, "2"),
            ("docker", "docker/default", None, "2"),
            ("unconfined", "unconfined", None, "0"),
            ("localhost", local.as_str(), None, "2"),
            ("both", "runtime/default", Some(unconfined), "0"),
        ] {
            let pod = node.pod(name).security(|security| security.seccomp = None);
            #[expect(deprecated, reason = "older clients set only the text form")]
            let container = pod.container("main", &image).sleeper().security(|security| {
                security.seccomp = new;
                security.seccomp_profile_path = text.to_owned();
            });
            let (_, id) = node.run(&pod, &container).await?;
            let own = node.cri.shell(&id, "cat /proc/self/status").await?;
            ensure!(status_field(&own, "Seccomp") == Some(mode), "{name}: {own}");
        }
        Ok(())
    })
}
