//! Forgetting pods that no longer exist.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use model::SandboxId;
use serde_json::{Map, Value, json};

use crate::builtin::{BuiltInError, Reservations, holder};
use crate::cache::{CacheError, Entry};
use crate::conf::NetworkList;
use crate::engine::{Engine, IFNAME};
use crate::errors::DelError;
use crate::invoke::{Call, PluginError, Verb};

/// What was cleaned up, and what could not be.
#[derive(Debug, Default)]
pub struct GcReport {
    /// Attachments of unknown pods that were detached.
    pub detached: usize,
    /// Reserved addresses that were released besides.
    pub released: usize,
    /// Whether plugins were not asked because pods were being attached or detached: call again
    /// soon.
    pub busy: bool,
    /// What failed; the rest was done all the same. The next run tries again.
    pub failures: Vec<GcFailure>,
}

/// One thing that could not be cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum GcFailure {
    /// A pod could not be detached.
    #[error(transparent)]
    Detach(#[from] DelError),
    /// Reservations could not be read or removed.
    #[error("cannot release the unused addresses of network `{network}`")]
    Release {
        /// The network.
        network: String,
        /// Why.
        #[source]
        source: BuiltInError,
    },
    /// A plugin failed to clean up.
    #[error("cannot clean up network `{network}`")]
    Plugin {
        /// The network.
        network: String,
        /// The plugin and its error.
        #[source]
        source: Box<PluginError>,
    },
}

/// Why nothing could be cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The result cache cannot be listed.
    #[error("cannot list the network attachments")]
    Cache(#[source] CacheError),
    /// The reservations cannot be listed.
    #[error("cannot list the address reservations in {}", path.display())]
    Reservations {
        /// Their directory.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// A network's reservations cannot be read.
    #[error("cannot read who holds which address")]
    Held(#[source] BuiltInError),
}

/// Who may hold addresses.
pub trait Live {
    /// Whether this sandbox exists, from before its ADD until after its DEL.
    fn is_live(&self, container: &str) -> bool;
    /// All of them.
    fn all(&self) -> Vec<SandboxId>;
}

impl Live for HashSet<SandboxId> {
    fn is_live(&self, container: &str) -> bool {
        self.contains(container)
    }

    fn all(&self) -> Vec<SandboxId> {
        self.iter().cloned().collect()
    }
}

impl Engine {
    /// Detaches every pod this runtime attached that is not in `live`, releases addresses that
    /// no such pod holds, and runs GC of plugins that have it. Other runtimes' attachments in
    /// the shared cache are left alone. `live` is asked anew for every find, and must say yes
    /// for a sandbox from before its ADD until after its DEL; so pods may come and go meanwhile.
    ///
    /// # Errors
    /// Only what prevents looking; single failures are in the report.
    pub fn gc(&self, live: &impl Live) -> Result<GcReport, GcError> {
        let mut report = GcReport::default();
        let is_live = |container: &str| live.is_live(container);
        let mut kept: Vec<Entry> = Vec::new();
        for entry in self.cache.all().map_err(GcError::Cache)? {
            if !self.cache.is_ours(&entry) || is_live(&entry.container_id) {
                kept.push(entry);
                continue;
            }
            match self.del_recorded(&entry, None) {
                Ok(()) => report.detached += 1,
                Err(error) => {
                    report.failures.push(error.into());
                    kept.push(entry);
                }
            }
        }
        self.cache.remove_unfinished(is_live).map_err(GcError::Cache)?;
        let known: HashSet<&str> = kept.iter().map(|entry| entry.container_id.as_str()).collect();
        self.release_reservations(|id| known.contains(id) || is_live(id), &mut report)?;
        // Nobody is attached while plugins decide by a list who is. Pods are not made to wait
        // for that: the next run will find a quiet moment.
        let Ok(_quiet) = self.in_use.try_write() else {
            report.busy = true;
            return Ok(report);
        };
        let kept = self.cache.all().map_err(GcError::Cache)?;
        for list in self.known_lists() {
            self.gc_plugins(&list, &kept, &live.all(), &mut report);
        }
        Ok(report)
    }

    /// Every network that pods of this daemon may be on.
    pub(crate) fn known_lists(&self) -> Vec<NetworkList> {
        let mut lists = self.lists().unwrap_or_default();
        let asked = self.config.pod_networks.iter().filter_map(|name| self.list_named(name).ok());
        for list in asked {
            if lists.iter().all(|known| known.name != list.name) {
                lists.push(list);
            }
        }
        lists
    }

    /// Our own data directory: whatever is there was reserved by this engine.
    fn release_reservations(
        &self,
        keep: impl Fn(&str) -> bool,
        report: &mut GcReport,
    ) -> Result<(), GcError> {
        let dir = self.data_dir();
        for network in subdirectories(dir)
            .map_err(|source| GcError::Reservations { path: dir.to_owned(), source })?
        {
            let released = Reservations::lock(dir, &network)
                .and_then(|held| held.retain(|text| keep(holder(text))));
            match released {
                Ok(count) => report.released += count,
                Err(source) => report.failures.push(GcFailure::Release { network, source }),
            }
        }
        Ok(())
    }

    fn gc_plugins(
        &self,
        list: &NetworkList,
        kept: &[Entry],
        live: &[SandboxId],
        report: &mut GcReport,
    ) {
        if !list.version.has_status_and_gc() || list.disable_gc {
            return;
        }
        let of_network = kept.iter().filter(|entry| entry.network_name == list.name);
        let recorded = of_network.map(|e| (e.container_id.as_str(), e.if_name.as_str()));
        // A pod that is being attached right now has no entry yet.
        let starting = live.iter().map(|id| (id.as_str(), IFNAME));
        let valid: HashSet<(&str, &str)> = recorded.chain(starting).collect();
        let valid: Value = valid
            .into_iter()
            .map(|(container, ifname)| json!({"containerID": container, "ifname": ifname}))
            .collect();
        let call = Call::of_node(Verb::Gc, list.built_in_only);
        for plugin in &list.plugins {
            let mut conf = self.stdin(list, plugin, None, &Map::new());
            conf["cni.dev/valid-attachments"] = valid.clone();
            conf["cni.dev/attachments"] = valid.clone();
            if let Err(source) = self.plugins.call(&plugin.kind, &call, &conf) {
                let source = Box::new(source);
                report.failures.push(GcFailure::Plugin { network: list.name.clone(), source });
            }
        }
    }
}

pub(crate) fn subdirectories(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(found)
}
