//! Where commands are run, by container: probes need not wait until a pod's owner is free.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use launch::plan::ExecPlan;
use model::ContainerId;
use oci_spec::runtime::Process;

use crate::external;
use crate::link::ShimLink;

/// What it takes to run commands in a container.
#[derive(Debug, Clone)]
pub(crate) struct ExecTarget {
    pub(crate) link: Arc<ShimLink>,
    /// The container's identity and limits; the command is filled in per call.
    pub(crate) plan: Arc<ExecPlan>,
    /// The same in the words of other runtimes, for a container of one.
    pub(crate) process: Option<Arc<Process>>,
}

impl ExecTarget {
    /// A command as the container's runtime reads it, if it has one.
    pub(crate) fn process_for(&self, command: &[String], terminal: bool) -> Option<Vec<u8>> {
        let process = self.process.as_ref()?;
        // What was read from JSON can be written.
        external::process(process, command.to_vec(), terminal).ok()
    }
}

/// Those of the running containers in which a command has been run before. Owners put them in, and
/// take them out when the container ends. Whoever was faster than that is refused by the shim.
#[derive(Debug, Default)]
pub(crate) struct ExecTargets(RwLock<HashMap<ContainerId, ExecTarget>>);

impl ExecTargets {
    pub(crate) fn get(&self, id: &ContainerId) -> Option<ExecTarget> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn put(&self, id: ContainerId, target: ExecTarget) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, target);
    }

    pub(crate) fn remove(&self, id: &ContainerId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}
