//! `UpdateContainerResources`: new limits for a container that is to run or runs.

use std::sync::Arc;

use failpoint::Point;
use model::{ContainerId, Resources};

use super::Owner;
use crate::cgroups::Before;
use crate::context::cgroup_of;
use crate::error::UpdateError;
use crate::handler::RuntimeKind;
use crate::record::ContainerRecord;
use crate::view::LookupError;
use crate::{admission, blocking, cgroups, plan};

impl Owner {
    /// The kernel first: what it refuses is not recorded, and the old limits are put back.
    pub(super) async fn update_resources(
        &mut self,
        id: &ContainerId,
        change: &Resources,
    ) -> Result<(), UpdateError> {
        let container = self.containers.get(id).ok_or_else(|| {
            UpdateError::Lookup(LookupError::NotFound { kind: "container", id: id.to_string() })
        })?;
        let in_force = admission::update(&container.record.state, !container.removals.is_empty())
            .map_err(|source| UpdateError::Refused { container: id.clone(), source })?;
        let old = &container.record.resources;
        let mut record = ContainerRecord::clone(&container.record);
        record.resources = old.changed_by(change);
        let record = Arc::new(record);
        let before = self.set_limits(id, old, &record.resources, in_force).await?;
        if let Err(error) = self.store_limits(&record).await {
            blocking::run(move || before.put_back()).await;
            return Err(error);
        }
        if let Some(container) = self.containers.get_mut(id) {
            container.record = Arc::clone(&record);
        }
        self.publish_container(&record);
        tracing::info!(sandbox = %self.id(), container = %id, "limits changed");
        Ok(())
    }

    /// Writes new limits into the container's spec and its record: both or none.
    async fn store_limits(&self, record: &Arc<ContainerRecord>) -> Result<(), UpdateError> {
        let container = record.id.clone();
        let (cx, of) = (Arc::clone(&self.cx), Arc::clone(record));
        let old_spec = blocking::run(move || plan::rewrite_limits(&cx, &of))
            .await
            .map_err(|source| UpdateError::Spec { container: container.clone(), source })?;
        let stored = self.store_container(Arc::clone(record), Point::UpdateRecord).await;
        let Err(source) = stored else { return Ok(()) };
        let path = self.cx.paths().container_spec(&record.sandbox, &record.id);
        if let Err(error) = blocking::run(move || plan::write_spec(&path, &old_spec)).await {
            let error = crate::error::chain(&error);
            tracing::error!(%container, error, "the spec's limits were not put back");
        }
        Err(UpdateError::Record { container, source })
    }

    /// Limits that are not in force yet are only looked at: `StartContainer` applies them.
    async fn set_limits(
        &self,
        id: &ContainerId,
        from: &Resources,
        to: &Resources,
        in_force: bool,
    ) -> Result<Before, UpdateError> {
        let cgroup = cgroup_of(&self.cgroup_parent, id);
        let planned = plan::limits(&self.cx.parts.host, &cgroup, from, to)
            .map_err(|source| UpdateError::Limits { container: id.clone(), source })?;
        for note in planned.notes {
            tracing::warn!(sandbox = %self.id(), container = %id, %note, "not applied");
        }
        // In a sandbox they are nowhere in force: it has its limits as a whole.
        let program = self.record.runtime.program.as_ref();
        let in_sandbox = program.is_some_and(|program| program.kind == RuntimeKind::Sandbox);
        if !in_force || in_sandbox {
            return Ok(Before::default());
        }
        blocking::run(move || cgroups::set_limits(&planned.plan))
            .await
            .map_err(|source| UpdateError::Apply { container: id.clone(), source })
    }
}
