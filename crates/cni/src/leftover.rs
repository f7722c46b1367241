//! Links that outlive their pods.
//!
//! DEL leaves a pod's link to the end of the pod's namespace, which costs nothing. A namespace can
//! be held, though: by a connection whose peer has vanished, for minutes; by somebody who entered
//! it, for as long as they like. Its link has no address by then, but is a port of the bridge that
//! nobody can account for.

use std::sync::PoisonError;
use std::time::Instant;

use sys::netlink::Rtnetlink;

use crate::builtin::{BuiltInError, ENODEV, host_end, tolerate};
use crate::cache::Entry;
use crate::engine::{Engine, chain};

/// The link of a pod that was detached.
#[derive(Debug, Clone)]
pub(crate) struct LeavingLink {
    container: String,
    ifname: String,
    since: Instant,
}

impl Engine {
    /// Remembers a detached pod's link until it is gone. A daemon that dies forgets it; then it
    /// goes when its namespace does.
    pub(crate) fn expect_link_to_go(&self, entry: &Entry) {
        let link = LeavingLink {
            container: entry.container_id.clone(),
            ifname: entry.if_name.clone(),
            since: Instant::now(),
        };
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(link);
    }

    /// Deletes links of detached pods that are still there after `links_linger`, in the calling
    /// thread's network namespace. Blocks for 10 to 20 ms a link; does nothing at all while there
    /// is none to look for. A failure is logged.
    pub fn delete_leftover_links(&self) {
        let due: Vec<LeavingLink> = {
            let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = |link: &mut LeavingLink| link.since.elapsed() >= self.config.links_linger;
            leaving.extract_if(.., is_due).collect()
        };
        if let Err(error) = delete(&due) {
            tracing::warn!(error = chain(&error), "links of pods that are gone were not deleted");
        }
    }
}

fn delete(due: &[LeavingLink]) -> Result<(), BuiltInError> {
    if due.is_empty() {
        return Ok(());
    }
    let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
    for link in due {
        let (name, mac) = host_end(&link.container, &link.ifname);
        // The name is short, another pod may have it by now; the hardware address tells. Links of
        // plugins that are binaries have other names, and were deleted by them.
        if host.link(&name)?.is_none_or(|present| present.mac != Some(mac)) {
            continue;
        }
        tracing::info!(
            sandbox = link.container,
            link = name,
            "somebody holds the network namespace of a pod that is gone: deleting its link"
        );
        tolerate(host.delete_link(&name), ENODEV)?;
    }
    Ok(())
}
