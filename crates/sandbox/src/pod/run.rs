//! `RunPodSandbox`: what the pod begins with, namespaces, network, READY.

use std::sync::Arc;

use failpoint::Point;
use model::{NamespaceMode, PodConfig, SandboxId};
use shim_protocol::{PodSetup, Sysctl, Warning};
use sys::trace::span;

use super::{Flow, Owner, Reply};
use crate::blocking;
use crate::claim::Fresh;
use crate::context::now;
use crate::error::RunError;
use crate::events::EventKind;
use crate::files;
use crate::record::{NetworkRecord, PodPhase};
use crate::validate::InvalidPod;

/// CRI: `/dev/shm` of a pod holds 64 MiB.
const SHM_BYTES: u64 = 64 << 20;

impl Owner {
    pub(super) async fn on_run(&mut self, reply: Reply<Fresh<SandboxId>, RunError>) -> Flow {
        let error = match self.run().await {
            Ok(()) => {
                let id = self.id().clone();
                tracing::info!(
                    sandbox = %id, pod = %self.record.config.name.name,
                    namespace = %self.record.config.name.namespace, "pod sandbox ready"
                );
                drop(reply.send(Ok(self.claim.answer(id))));
                return Flow::Continue;
            }
            Err(error) => error,
        };
        match self.remove_pod().await {
            Ok(()) => {
                drop(reply.send(Err(error)));
                Flow::Gone
            }
            Err(left) => {
                // CRI: it stays listed as NOTREADY, so that Stop and Remove can finish the job.
                self.set_phase(PodPhase::Stopped).await;
                self.announce();
                let sandbox = self.id().clone();
                let error = RunError::LeftBehind { sandbox, left, source: Box::new(error) };
                drop(reply.send(Err(error)));
                Flow::Continue
            }
        }
    }

    /// Kubelet asks again when its first call timed out: it gets that call's result, once, if it
    /// asks for the same.
    pub(super) fn on_rejoin(
        &mut self,
        config: &PodConfig,
        handler: &str,
        reply: Reply<Fresh<SandboxId>, RunError>,
    ) {
        let id = self.id().clone();
        let same = *self.record.config == *config && self.record.handler == handler;
        if same && self.record.phase == PodPhase::Ready && self.claim.take() {
            drop(reply.send(Ok(self.claim.answer(id))));
            return;
        }
        let name = &self.record.config.name;
        let name = format!("{}_{}_{}_{}", name.name, name.namespace, name.uid, name.attempt);
        drop(reply.send(Err(RunError::NameTaken { name, holder: id })));
    }

    async fn run(&mut self) -> Result<(), RunError> {
        let _span = span("daemon: run the sandbox");
        let ready = self.begin().await?;
        warn(self.id(), &ready.warnings);
        if let Some(shim) = &mut self.shim {
            shim.pause_pid = ready.pause_pid;
        }
        self.attach().await?;
        self.start_sandbox_container().await?;
        let _span = span("daemon: record that it is ready");
        let record = Arc::make_mut(&mut self.record);
        record.phase = PodPhase::Ready;
        record.created_at = now();
        self.store_pod(Point::PodReady)
            .await
            .map_err(|source| RunError::Record { sandbox: self.id().clone(), source })?;
        self.announce();
        failpoint::pass(Point::PodAnswer);
        let id = self.id().as_str();
        self.tell(EventKind::Created, id);
        self.tell(EventKind::Started, id);
        Ok(())
    }

    /// What its shim is to make of it.
    pub(super) fn pod_setup(&self) -> Result<PodSetup, RunError> {
        let config = &self.record.config;
        let options = &config.security.namespaces;
        let new_net = options.network != NamespaceMode::Node;
        let new_ipc = options.ipc != NamespaceMode::Node;
        // The sandbox container is PID 1 of a sandbox.
        let has_first = self.record.runtime.sandbox_program().is_some();
        let shared_pid = options.pid == NamespaceMode::Pod && !has_first;
        let sandbox = self.id();
        let paths = self.cx.paths();
        let sysctls =
            bundle::pod_sysctls(config).map_err(|source| InvalidPod::Sysctl(Box::new(source)))?;
        let pause_plan = if shared_pid {
            let plan =
                crate::plan::pause(&self.cx.parts.host, paths, &self.record, &self.cgroup_parent)
                    .map_err(|source| RunError::Pause { sandbox: sandbox.clone(), source })?;
            Some(plan.encode())
        } else {
            None
        };
        Ok(PodSetup {
            sandbox: sandbox.to_string(),
            new_net,
            new_ipc,
            // CRI: the UTS namespace follows the network.
            new_uts: new_net,
            shared_pid,
            hostname: new_net.then(|| files::hostname(config)),
            sysctls: sysctls.into_iter().map(|(name, value)| Sysctl { name, value }).collect(),
            netns_path: new_net.then(|| paths.netns(sandbox).to_string_lossy().into_owned()),
            shm_bytes: new_ipc.then_some(SHM_BYTES),
            shm_path: new_ipc.then(|| crate::plan::shm_path(paths, sandbox)),
            pause_plan,
            users: options.own_users().cloned(),
            shm_label: self.file_label()?.filter(|_| new_ipc),
        })
    }

    async fn attach(&mut self) -> Result<(), RunError> {
        if self.host_network() {
            return Ok(());
        }
        let _span = span("daemon: network");
        let cx = Arc::clone(&self.cx);
        let attachment = self.attachment();
        let result = blocking::run(move || cx.parts.network.add(&attachment))
            .await
            .map_err(|source| RunError::Network { sandbox: self.id().clone(), source })?;
        let network = NetworkRecord { ips: result.ips, result: result.raw };
        Arc::make_mut(&mut self.record).network = Some(network);
        Ok(())
    }

    pub(super) fn host_network(&self) -> bool {
        self.record.config.security.namespaces.network == NamespaceMode::Node
    }

    pub(super) fn attachment(&self) -> cni::Attachment {
        let config = &self.record.config;
        cni::Attachment {
            sandbox: self.id().clone(),
            pod: config.name.clone(),
            netns_path: self.cx.paths().netns(self.id()),
            port_mappings: config.port_mappings.clone(),
            dns: config.dns.clone(),
            annotations: config.annotations.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
        }
    }
}

pub(super) fn warn(sandbox: &SandboxId, warnings: &[Warning]) {
    for Warning { what, why } in warnings {
        tracing::warn!(%sandbox, what, why, "not applied");
    }
}
