//! `RunPodSandbox`: record, shim, namespaces, network, READY.

use std::path::Path;
use std::sync::Arc;

use failpoint::Point;
use model::{CgroupDriver, NamespaceMode, PodConfig, SandboxId};
use shim_protocol::{Body, PodReady, PodSetup, Response, Sysctl, Warning};
use sys::trace::span;

use super::{Flow, Owner, Reply, Shim, ShimProcess};
use crate::blocking;
use crate::claim::Fresh;
use crate::confinement;
use crate::context::now;
use crate::error::RunError;
use crate::events::EventKind;
use crate::files::{self, FileError};
use crate::link::{LinkError, ShimLink};
use crate::record::{NetworkRecord, PodPhase, ProcessRecord};
use crate::scopes::{self, ScopeError};
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
        self.prepare().await?;
        self.start_shim().await?;
        let ready = self.set_up().await?;
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

    /// Directories, files, and the record of intent.
    async fn prepare(&mut self) -> Result<(), RunError> {
        let _span = span("daemon: directories, files, intent");
        let cx = Arc::clone(&self.cx);
        let record = Arc::clone(&self.record);
        let label = self.file_label()?;
        let made = blocking::run(move || {
            let state = cx.paths().pod_state(&record.id);
            files::reach(Point::PodDirectories, "create directory", &state)?;
            files::make_dir(&cx.paths().containers(&record.id))?;
            files::make_dir(&state.join("exits"))?;
            files::reach(Point::PodFiles, "write files in", &state)?;
            files::write_pod_files(&state, &record.config)?;
            let users = record.config.security.namespaces.own_users();
            if record.runtime.program.is_some()
                && let Some(group) = users.and_then(|users| users.host_gid(0))
            {
                files::let_pass(cx.paths(), &record.id, group)?;
            }
            Ok(label.map_or(Ok(()), |label| confinement::label_pod_files(&state, &label)))
        });
        let (made, logs) = tokio::join!(made, self.make_pod_log_dir());
        logs.and(made)
            .map_err(|source| RunError::Files { sandbox: self.id().clone(), source })?
            .map_err(|source| RunError::Label { sandbox: self.id().clone(), source })?;
        // Written before the first namespace or address exists.
        Arc::make_mut(&mut self.record).attached = !self.host_network();
        self.store_pod(Point::PodIntent)
            .await
            .map_err(|source| RunError::Record { sandbox: self.id().clone(), source })
    }

    /// It may be on a file system that is dead, and the pod is not.
    async fn make_pod_log_dir(&self) -> Result<(), FileError> {
        match self.record.config.log_directory.as_str() {
            "" => Ok(()),
            path => self.cx.silent.make_log_dir(Path::new(path)).await,
        }
    }

    /// The SELinux label of the pod's files.
    fn file_label(&self) -> Result<Option<String>, RunError> {
        confinement::pod_file_label(&self.cx.parts.host, &self.record)
            .map_err(|source| InvalidPod::Selinux(Box::new(source)).into())
    }

    async fn start_shim(&mut self) -> Result<(), RunError> {
        let cx = Arc::clone(&self.cx);
        let sandbox = self.id().clone();
        let state = cx.paths().pod_state(&sandbox);
        let dir = state.clone();
        let child = blocking::run(move || crate::spawn::spawn(&cx.parts.shim, &dir))
            .await
            .map_err(|source| RunError::Spawn { sandbox: sandbox.clone(), source })?;
        let number = child.id();
        let process = ShimProcess::Child(child);
        if let Err(source) = self.begin_scope(number).await {
            process.end(&sandbox).await;
            return Err(RunError::Scope { sandbox, source });
        }
        let greeting = span("daemon: greet the shim");
        let connected = match failpoint::reach(Point::PodConnect) {
            Ok(()) => ShimLink::connect(&sandbox, &state).await,
            Err(source) => Err(LinkError::Connect { sandbox: sandbox.clone(), source }),
        };
        drop(greeting);
        let (link, events, hello) = match connected {
            Ok(connected) => connected,
            Err(source) => {
                process.end(&sandbox).await;
                return Err(RunError::Setup { sandbox, source });
            }
        };
        Arc::make_mut(&mut self.record).shim = process_record(hello.pid);
        self.shim = Some(Shim { link: Arc::new(link), events, process, pause_pid: None });
        Ok(())
    }

    /// While systemd works the shim starts by itself.
    async fn begin_scope(&self, shim: u32) -> Result<(), ScopeError> {
        if self.record.cgroup_driver == CgroupDriver::Cgroupfs {
            // Nobody is asked, and nothing blocks.
            return scopes::begin(&self.cx.parts.host.cgroup, &self.record, shim);
        }
        let _span = span("daemon: have systemd make the scope");
        let (cx, record) = (Arc::clone(&self.cx), Arc::clone(&self.record));
        blocking::run(move || scopes::begin(&cx.parts.host.cgroup, &record, shim)).await
    }

    async fn set_up(&self) -> Result<PodReady, RunError> {
        let _span = span("daemon: ask for the namespaces");
        let sandbox = self.id().clone();
        let setup = self.pod_setup()?;
        let fail = |source| RunError::Setup { sandbox: sandbox.clone(), source };
        let link = self.link().ok_or_else(|| fail(LinkError::Gone { sandbox: sandbox.clone() }))?;
        failpoint::reach(Point::PodSetup)
            .map_err(|source| fail(LinkError::Connect { sandbox: sandbox.clone(), source }))?;
        let answer = link.call(Body::SetupPod(Box::new(setup)), Vec::new()).await.map_err(fail)?;
        match answer {
            Response::PodReady(ready) => Ok(ready),
            _other => Err(fail(LinkError::Confused { sandbox: sandbox.clone() })),
        }
    }

    fn pod_setup(&self) -> Result<PodSetup, RunError> {
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

/// What identifies a live process; `None` when it is gone already.
pub(super) fn process_record(pid: i32) -> Option<ProcessRecord> {
    let start_ticks = crate::host::start_ticks(pid)?;
    Some(ProcessRecord { pid, start_ticks })
}
