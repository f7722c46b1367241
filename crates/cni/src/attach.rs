//! ADD: the plugins of each list in order, each with the result of the one before, and then the
//! cache entry. Whatever fails, DEL of all lists follows.

use std::path::Path;
use std::sync::PoisonError;

use failpoint::Point;
use serde_json::Value;
use sys::netlink::netns;

use crate::attachment::Attachment;
use crate::cache::Entry;
use crate::engine::{Engine, NetworkResult, OtherNetwork};
use crate::errors::AddError;
use crate::invoke::{Call, Verb};
use crate::networks::Planned;
use crate::result;

impl Engine {
    /// Attaches a pod to its networks. On failure everything that was made is undone.
    ///
    /// # Errors
    /// See [`AddError`]; its source names the plugin and quotes what it said.
    pub fn add(&self, attachment: &Attachment) -> Result<NetworkResult, AddError> {
        let _in_use = self.in_use.read().unwrap_or_else(PoisonError::into_inner);
        let planned = self.plan(attachment)?;
        let path = &attachment.netns_path;
        let absent = |source| AddError::NoNamespace {
            sandbox: attachment.sandbox.clone(),
            path: path.clone(),
            source,
        };
        failpoint::reach(Point::PodAttach).map_err(|error| absent(Some(error)))?;
        netns::open(path).map_err(|error| absent(Some(error)))?.ok_or_else(|| absent(None))?;

        self.installed(attachment, &planned)?;

        let mut out: Option<NetworkResult> = None;
        for (at, network) in planned.iter().enumerate() {
            let mut entry = self.entry(attachment, network)?;
            match self.attach(attachment, network, &mut entry) {
                Ok(raw) => {
                    let ips = result::pod_addresses(&raw, &network.ifname);
                    match &mut out {
                        None => out = Some(NetworkResult { ips, raw, others: Vec::new() }),
                        Some(out) => out.others.push(OtherNetwork {
                            name: network.list.name.clone(),
                            interface: network.ifname.clone(),
                            ips,
                        }),
                    }
                }
                Err(error) => {
                    self.undo(network, &entry, path);
                    self.undo_attached(attachment, &planned[..at]);
                    return Err(error);
                }
            }
        }
        // A plan names one network at least.
        out.ok_or_else(|| AddError::NoAddress {
            sandbox: attachment.sandbox.clone(),
            network: String::new(),
            interface: String::new(),
        })
    }

    /// A plugin that is not there is found out before anything is made.
    fn installed(&self, attachment: &Attachment, planned: &[Planned]) -> Result<(), AddError> {
        for list in planned.iter().map(|network| &network.list) {
            for plugin in &list.plugins {
                self.plugins.find(&plugin.kind, list.built_in_only).map_err(|source| {
                    AddError::Plugin {
                        sandbox: attachment.sandbox.clone(),
                        network: list.name.clone(),
                        source: Box::new(source),
                    }
                })?;
            }
        }
        Ok(())
    }

    /// What will be recorded of an attachment: all but its result.
    pub(crate) fn entry(
        &self,
        attachment: &Attachment,
        network: &Planned,
    ) -> Result<Entry, AddError> {
        let refused = |source| AddError::Request { sandbox: attachment.sandbox.clone(), source };
        let id = attachment.sandbox.as_str();
        let list = &network.list;
        let mut entry = self.cache.entry(&list.name, &list.document, id, &network.ifname);
        entry.netns = attachment.netns_path.display().to_string();
        entry.cni_args = attachment.arguments().map_err(refused)?;
        entry.capability_args = self.capabilities(attachment, network).map_err(refused)?;
        Ok(entry)
    }

    fn attach(
        &self,
        attachment: &Attachment,
        network: &Planned,
        entry: &mut Entry,
    ) -> Result<Value, AddError> {
        let sandbox = || attachment.sandbox.clone();
        let list = &network.list;
        let call = Call {
            verb: Verb::Add,
            container: attachment.sandbox.as_str(),
            netns: Some(&attachment.netns_path),
            ifname: &network.ifname,
            arguments: &entry.cni_args,
            built_in_only: list.built_in_only,
            half_made: None,
        };
        let mut raw: Option<Value> = None;
        for plugin in &list.plugins {
            let conf = self.stdin(list, plugin, raw.as_ref(), &entry.capability_args);
            let result = self.plugins.call(&plugin.kind, &call, &conf).map_err(|source| {
                let source = Box::new(source);
                AddError::Plugin { sandbox: sandbox(), network: list.name.clone(), source }
            })?;
            let object = result.as_object().cloned().unwrap_or_default();
            raw = Some(result::normalise(object, list.version));
        }
        let raw = raw.unwrap_or_else(result::empty);
        // Further networks may be bare links.
        if network.is_first && result::pod_addresses(&raw, &network.ifname).is_empty() {
            return Err(AddError::NoAddress {
                sandbox: sandbox(),
                network: list.name.clone(),
                interface: network.ifname.clone(),
            });
        }
        entry.result = raw.clone();
        self.cache.write(entry).map_err(|source| AddError::Cache { sandbox: sandbox(), source })?;
        Ok(raw)
    }

    /// Runs DEL of the whole list after a failed ADD. The ADD's error is the one to report.
    fn undo(&self, network: &Planned, entry: &Entry, netns: &Path) {
        if let Err(error) = self.detach(&network.list, entry, Some(netns), None) {
            tracing::warn!(
                sandbox = entry.container_id,
                network = network.list.name,
                error = crate::engine::chain(&error),
                "cannot undo a failed network attachment completely"
            );
        }
        if let Err(error) = self.cache.remove(entry) {
            tracing::warn!(
                sandbox = entry.container_id,
                error = crate::engine::chain(&error),
                "stale CNI cache entry"
            );
        }
    }

    /// Detaches from the networks before the one that failed.
    fn undo_attached(&self, attachment: &Attachment, networks: &[Planned]) {
        for network in networks.iter().rev() {
            // Made before: it was recorded.
            let Ok(entry) = self.entry(attachment, network) else { continue };
            self.undo(network, &entry, &attachment.netns_path);
        }
    }
}
