//! CHECK: whether what ADD made is still there.

use std::path::Path;
use std::sync::PoisonError;

use sys::netlink::netns;

use crate::attachment::Attachment;
use crate::cache::Entry;
use crate::engine::Engine;
use crate::errors::CheckError;
use crate::invoke::{Call, Verb};

impl Engine {
    /// Asks the plugins of a pod's networks whether everything is as they left it. Networks
    /// whose version lacks the verb (before 0.4.0), or whose configuration turns it off, are
    /// passed over.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub fn check(&self, attachment: &Attachment) -> Result<(), CheckError> {
        let _in_use = self.in_use.read().unwrap_or_else(PoisonError::into_inner);
        let container = attachment.sandbox.as_str();
        let entries = self
            .cache
            .of_container(container)
            .map_err(|source| CheckError::Cache { container: container.to_owned(), source })?;
        if entries.is_empty() {
            return Err(CheckError::NotAttached { container: container.to_owned() });
        }
        for entry in &entries {
            self.check_recorded(entry, &attachment.netns_path)?;
        }
        Ok(())
    }

    pub(crate) fn check_recorded(&self, entry: &Entry, path: &Path) -> Result<(), CheckError> {
        let container = || entry.container_id.clone();
        let list = self.recorded_list(entry).map_err(|source| CheckError::Recorded {
            container: container(),
            source: Box::new(source),
        })?;
        if list.disable_check || !list.version.has_check() {
            return Ok(());
        }
        let absent = |source| CheckError::NoNamespace {
            container: container(),
            path: path.to_owned(),
            source,
        };
        netns::open(path).map_err(|error| absent(Some(error)))?.ok_or_else(|| absent(None))?;
        let call = Call {
            verb: Verb::Check,
            container: &entry.container_id,
            netns: Some(path),
            ifname: &entry.if_name,
            arguments: &entry.cni_args,
            built_in_only: list.built_in_only,
            half_made: None,
        };
        for plugin in &list.plugins {
            let conf = self.stdin(&list, plugin, Some(&entry.result), &entry.capability_args);
            self.plugins.call(&plugin.kind, &call, &conf).map_err(|source| CheckError::Plugin {
                container: container(),
                network: list.name.clone(),
                source: Box::new(source),
            })?;
        }
        Ok(())
    }
}
