//! DEL: the plugins of a list backwards, with the configuration and the result of the cache
//! entry, which goes last.

use std::net::IpAddr;
use std::path::Path;
use std::sync::PoisonError;

use failpoint::Point;
use serde_json::Value;
use sys::netlink::{IpPrefix, netns};

use crate::attachment::Attachment;
use crate::builtin::{Owner, Reservations, explicit_data_dir};
use crate::cache::Entry;
use crate::conf::{self, NetworkList};
use crate::engine::{Engine, chain};
use crate::errors::DelError;
use crate::invoke::{Call, PluginError, Verb};
use crate::networks::Planned;
use crate::result;

impl Engine {
    /// Detaches a pod from all its networks and releases its addresses. Idempotent; the network
    /// namespace may be gone.
    ///
    /// Works from what was recorded when the pod was attached. Without a record (never attached
    /// completely, or detached already), or with one that is damaged, the current configuration is
    /// tried, and a failure is only logged: there is nothing that could succeed later.
    ///
    /// # Errors
    /// See [`DelError`]. One network's failure does not keep the others attached.
    pub fn del(&self, attachment: &Attachment) -> Result<(), DelError> {
        let _in_use = self.in_use.read().unwrap_or_else(PoisonError::into_inner);
        let container = attachment.sandbox.as_str();
        failpoint::reach(Point::PodStopDetach).map_err(|source| DelError::Namespace {
            container: container.to_owned(),
            path: attachment.netns_path.clone(),
            source,
        })?;
        let failed = |source| DelError::Cache { container: container.to_owned(), source };
        let (entries, damaged) = self.cache.whole_and_damaged(container).map_err(failed)?;
        self.cache.remove_unfinished(|id| id != container).map_err(failed)?;
        let detached = entries.iter().rev();
        let mut failures: Vec<DelError> = detached
            .filter_map(|entry| self.del_recorded(entry, Some(&attachment.netns_path)).err())
            .collect();
        if entries.is_empty() || !damaged.is_empty() {
            self.del_unrecorded(attachment);
        }
        for error in damaged {
            let text = chain(&error);
            tracing::warn!(sandbox = %attachment.sandbox, error = text, "detached without it");
            failures.extend(self.cache.remove_file(error.path).map_err(failed).err());
        }
        DelError::all(container, failures)
    }

    pub(crate) fn del_recorded(
        &self,
        entry: &Entry,
        netns_path: Option<&Path>,
    ) -> Result<(), DelError> {
        let container = || entry.container_id.clone();
        let list = self.recorded_list(entry)?;
        let netns = match netns_path {
            Some(path) => netns::open(path)
                .map_err(|source| DelError::Namespace {
                    container: container(),
                    path: path.to_owned(),
                    source,
                })?
                .and(Some(path)),
            None => None,
        };
        let previous = list.version.passes_result_to_del().then_some(&entry.result);
        self.detach(&list, entry, netns, previous).map_err(|source| DelError::Plugin {
            container: container(),
            network: list.name.clone(),
            source: Box::new(source),
        })?;
        self.release_own(&list.name, entry)?;
        self.expect_link_to_go(entry);
        self.cache
            .remove(entry)
            .map_err(|source| DelError::Cache { container: container(), source })
    }

    /// The configuration an attachment was made with.
    pub(crate) fn recorded_list(&self, entry: &Entry) -> Result<NetworkList, DelError> {
        let path = self.cache.path(&entry.network_name, &entry.container_id, &entry.if_name);
        let bytes = entry.config().unwrap_or_default();
        conf::parse_cached(&bytes, &path)
            .map_err(|source| DelError::Recorded { container: entry.container_id.clone(), source })
    }

    /// Attached by a built-in, detached by a binary installed since: that one knows nothing of
    /// the address in our directory.
    fn release_own(&self, network: &str, entry: &Entry) -> Result<(), DelError> {
        let owner = Owner { container: &entry.container_id, ifname: &entry.if_name };
        let addresses: Vec<IpAddr> =
            result::all_addresses(&entry.result).iter().map(IpPrefix::address).collect();
        let release = || match Reservations::lock_existing(&self.config.data_dir, network)? {
            Some(held) => held.release(&addresses, &owner).map(drop),
            None => Ok(()),
        };
        release().map_err(|source| DelError::Release {
            container: entry.container_id.clone(),
            network: network.to_owned(),
            source,
        })
    }

    fn del_unrecorded(&self, attachment: &Attachment) {
        let sandbox = &attachment.sandbox;
        let planned = match self.plan(attachment) {
            Ok(planned) => planned,
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(%sandbox, error, "no configuration to detach a pod with");
                return;
            }
        };
        for network in planned.iter().rev() {
            self.del_planned(attachment, network);
        }
    }

    fn del_planned(&self, attachment: &Attachment, network: &Planned) {
        // What cannot be asked for was not attached.
        let Ok(entry) = self.entry(attachment, network) else { return };
        let netns = netns::open(&attachment.netns_path).ok().flatten();
        let path = netns.as_ref().map(|_| attachment.netns_path.as_path());
        if let Err(error) = self.detach(&network.list, &entry, path, None) {
            let error = chain(&error);
            tracing::warn!(sandbox = %attachment.sandbox, network = network.list.name, error,
                "cannot detach a pod that was never attached completely");
        }
    }

    /// DEL, last plugin first. Stops at the first failure: an earlier plugin's address must not
    /// be given to the next pod while a later one's forwarded ports still lead to it. After an ADD
    /// that was not completed it goes on, and the first failure is the result: nobody tries again,
    /// and the plugin that failed ADD is the one that is likely to fail.
    pub(crate) fn detach(
        &self,
        list: &NetworkList,
        entry: &Entry,
        netns: Option<&Path>,
        previous: Option<&Value>,
    ) -> Result<(), PluginError> {
        let half_made = previous.is_none().then(|| self.half_made(list, entry));
        let call = Call {
            verb: Verb::Del,
            container: &entry.container_id,
            netns,
            ifname: &entry.if_name,
            arguments: &entry.cni_args,
            built_in_only: list.built_in_only,
            half_made: half_made.as_ref(),
        };
        let mut failed = None;
        for plugin in list.plugins.iter().rev() {
            let conf = self.stdin(list, plugin, previous, &entry.capability_args);
            if let Err(error) = self.plugins.call(&plugin.kind, &call, &conf) {
                if entry.is_complete() {
                    return Err(error);
                }
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The addresses that are reserved for an interface, in the form of a result.
    fn half_made(&self, list: &NetworkList, entry: &Entry) -> Value {
        let owner = Owner { container: &entry.container_id, ifname: &entry.if_name };
        let mut ips: Vec<Value> = Vec::new();
        for plugin in &list.plugins {
            let explicit = explicit_data_dir(&plugin.object);
            let dir = explicit.as_deref().unwrap_or(&self.config.data_dir);
            let held = Reservations::lock_existing(dir, &list.name)
                .and_then(|held| held.map_or(Ok(Vec::new()), |held| held.of_owner(&owner)));
            match held {
                Ok(held) => ips.extend(held.into_iter().map(
                    |address| serde_json::json!({ "address": IpPrefix::host(address).to_string() }),
                )),
                // Whoever releases them says so again.
                Err(error) => tracing::warn!(error = chain(&error), "reservations not read"),
            }
        }
        serde_json::json!({ "ips": ips })
    }
}
