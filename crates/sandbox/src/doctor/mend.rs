//! Removing what belongs to nobody.

use std::sync::Arc;

use super::Mend;
use crate::blocking;
use crate::cgroups::{self, ENDS_WITHIN};
use crate::error::chain;
use crate::files::remove_tree;
use crate::manager::Sandboxes;
use crate::pins;
use crate::pod::end_adopted;
use crate::shims;

impl Sandboxes {
    /// Does it; in words why not.
    pub(super) async fn mend(&self, mend: Mend) -> Result<(), String> {
        let cx = Arc::clone(&self.cx);
        match mend {
            Mend::EndShim(process, sandbox) => {
                self.ask_shim_to_end(&sandbox).await;
                let end = move || {
                    shims::end_with_all(process).and_then(|()| end_adopted(process, ENDS_WITHIN))
                };
                blocking::run(end).await.map_err(|error| error.to_string())
            }
            Mend::EndLeftovers(container) => {
                self.end_leftovers(&container).await.map_err(|error| chain(&error))
            }
            Mend::RemoveCgroup(path) => {
                blocking::run(move || cgroups::remove(&cx.parts.host.cgroup, &path))
                    .await
                    .map_err(|error| chain(&error))
            }
            Mend::Unpin(sandbox) => blocking::run(move || pins::unpin(&cx.paths().netns(&sandbox)))
                .await
                .map_err(|error| chain(&error)),
            Mend::RemoveState(sandbox) => {
                blocking::run(move || remove_tree(&cx.paths().pod_state(&sandbox)))
                    .await
                    .map_err(|error| chain(&error))
            }
            Mend::Unmount(path) => blocking::run(move || {
                rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH)
            })
            .await
            .map_err(|errno| errno.to_string()),
            Mend::CollectNetworks => {
                let report = self.collect_networks().await.map_err(|error| chain(&error))?;
                report.failures.first().map_or(Ok(()), |failure| Err(chain(failure)))
            }
            Mend::RemoveStray(stray) => {
                blocking::run(move || cx.parts.network.remove_stray(&stray))
                    .await
                    .map_err(|error| chain(&error))
            }
            Mend::CollectLayers => {
                cx.parts.images.collect().await.map(drop).map_err(|error| chain(&error))
            }
            Mend::RemoveIngest(name) => {
                blocking::run(move || cx.parts.layers.remove_abandoned(&name))
                    .await
                    .map_err(|error| chain(&error))
            }
        }
    }
}
