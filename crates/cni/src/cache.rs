//! The result cache: one file per attachment, in the form and place that libcni uses, so that
//! other CNI tools can read and detach what knarr attached.
//!
//! A file here is the proof that ADD completed. DEL works from it alone: the configuration and
//! the result of that time, not those of today.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use failpoint::Point;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::builtin::fnv;

const KIND: &str = "cniCacheV1";

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} CNI cache entry {}", path.display())]
pub struct CacheError {
    /// `read`, `write` or `remove`.
    pub operation: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The errno, or where the file is malformed.
    #[source]
    pub source: io::Error,
}

impl CacheError {
    /// Whether the file can be read and does not hold what it should.
    fn is_damage(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
    }
}

/// What is known about one attachment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    kind: String,
    pub(crate) container_id: String,
    config: String,
    pub(crate) if_name: String,
    pub(crate) network_name: String,
    /// Where the pod's network namespace was; libcni writes the key since specification 1.1.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) netns: String,
    #[serde(default)]
    pub(crate) cni_args: Vec<(String, String)>,
    #[serde(default)]
    pub(crate) capability_args: Map<String, Value>,
    pub(crate) result: Value,
    /// Who made it. Other runtimes keep theirs in the same directory; libcni ignores the key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    owner: String,
}

impl Entry {
    /// Whether ADD came to its end.
    pub(crate) fn is_complete(&self) -> bool {
        !self.result.is_null()
    }

    /// The configuration list the pod was attached with.
    pub(crate) fn config(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.config).ok()
    }
}

/// The directory of entries.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    dir: PathBuf,
    owner: String,
    /// The start of names of files that are being written: another daemon's are none of ours.
    unfinished: String,
}

impl Cache {
    /// The cache in `results` below `dir`. Daemons that share it are told apart by `place`, which
    /// each has to itself.
    pub(crate) fn new(dir: &Path, place: &Path) -> Self {
        let owner = format!("knarr {}", place.display());
        let unfinished = format!(".{:016x}.", fnv(&owner, ""));
        Self { dir: dir.join("results"), owner, unfinished }
    }

    /// An entry of this daemon's, not written yet.
    pub(crate) fn entry(
        &self,
        network: &str,
        config: &Value,
        container: &str,
        ifname: &str,
    ) -> Entry {
        Entry {
            kind: KIND.to_owned(),
            container_id: container.to_owned(),
            config: STANDARD.encode(config.to_string()),
            if_name: ifname.to_owned(),
            network_name: network.to_owned(),
            netns: String::new(),
            cni_args: Vec::new(),
            capability_args: Map::new(),
            result: Value::Null,
            owner: self.owner.clone(),
        }
    }

    /// Whether this daemon made the entry, or one before it in the same place.
    pub(crate) fn is_ours(&self, entry: &Entry) -> bool {
        self.owner == entry.owner
    }

    pub(crate) fn path(&self, network: &str, container: &str, ifname: &str) -> PathBuf {
        self.dir.join(format!("{network}-{container}-{ifname}"))
    }

    pub(crate) fn write(&self, entry: &Entry) -> Result<(), CacheError> {
        let path = self.path(&entry.network_name, &entry.container_id, &entry.if_name);
        let temporary = path.with_file_name(format!(
            "{}{}-{}.tmp",
            self.unfinished, entry.container_id, entry.if_name
        ));
        let write = || -> io::Result<()> {
            failpoint::reach(Point::CniAddCache)?;
            std::fs::create_dir_all(&self.dir)?;
            let bytes = serde_json::to_vec(entry)?;
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&temporary)?.write_all(&bytes)?;
            // Not synced: after a power cut the pod is gone, and DEL copes without an entry.
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|source| CacheError { operation: "write", path: path.clone(), source })
    }

    /// The entries of a container, whatever its networks are called, by interface.
    pub(crate) fn of_container(&self, container: &str) -> Result<Vec<Entry>, CacheError> {
        let (found, damaged) = self.whole_and_damaged(container)?;
        damaged.into_iter().next().map_or(Ok(found), Err)
    }

    /// As [`Self::of_container`], and those of its files that hold no entry.
    pub(crate) fn whole_and_damaged(
        &self,
        container: &str,
    ) -> Result<(Vec<Entry>, Vec<CacheError>), CacheError> {
        let part = format!("-{container}-");
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        for path in self.paths()? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.contains(&part) {
                continue;
            }
            match read(&path) {
                Ok(entry) => found.extend(entry.filter(|entry| entry.container_id == container)),
                Err(error) if error.is_damage() => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        // eth0, eth1, …, eth10
        found.sort_by(|a, b| (a.if_name.len(), &a.if_name).cmp(&(b.if_name.len(), &b.if_name)));
        Ok((found, damaged))
    }

    /// Every readable entry. Those of other runtimes may have a form that is not ours: skipped.
    pub(crate) fn all(&self) -> Result<Vec<Entry>, CacheError> {
        let mut found = Vec::new();
        for path in self.paths()? {
            match read(&path) {
                Ok(entry) => found.extend(entry),
                Err(error) => tracing::warn!(path = %error.path.display(), cause = %error.source,
                    "skipping an unreadable CNI cache entry"),
            }
        }
        Ok(found)
    }

    /// Forgets an attachment; success if there is none.
    pub(crate) fn remove(&self, entry: &Entry) -> Result<(), CacheError> {
        self.remove_file(self.path(&entry.network_name, &entry.container_id, &entry.if_name))
    }

    /// Removes an entry's file; gone already is success.
    pub(crate) fn remove_file(&self, path: PathBuf) -> Result<(), CacheError> {
        let gone = failpoint::reach(Point::CniDelCache).and_then(|()| std::fs::remove_file(&path));
        match gone {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(CacheError { operation: "remove", path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes entries that were being written when a daemon died, for containers that are not
    /// kept.
    pub(crate) fn remove_unfinished(&self, keep: impl Fn(&str) -> bool) -> Result<(), CacheError> {
        for path in self.listed()? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let rest =
                name.strip_prefix(&self.unfinished).and_then(|rest| rest.strip_suffix(".tmp"));
            let Some((container, _)) = rest.and_then(|rest| rest.rsplit_once('-')) else {
                continue;
            };
            if keep(container) {
                continue;
            }
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(CacheError { operation: "remove", path, source });
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn paths(&self) -> Result<Vec<PathBuf>, CacheError> {
        let mut found = self.listed()?;
        // An entry that was being written when the daemon died.
        found.retain(|path| {
            path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
        });
        Ok(found)
    }

    fn listed(&self) -> Result<Vec<PathBuf>, CacheError> {
        let failed = |source| CacheError { operation: "read", path: self.dir.clone(), source };
        match std::fs::read_dir(&self.dir) {
            Ok(entries) => {
                entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(error)),
        }
    }
}

fn read(path: &Path) -> Result<Option<Entry>, CacheError> {
    let failed = |source| CacheError { operation: "read", path: path.to_owned(), source };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| failed(e.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_reads_back_and_has_libcnis_form() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), Path::new("/one"));
        let other = Cache::new(dir.path(), Path::new("/other"));
        assert!(cache.of_container("id1").unwrap().is_empty());
        let mut entry = cache.entry("net-a", &json!({"name": "net-a"}), "id1", "eth0");
        entry.cni_args = vec![("IgnoreUnknown".to_owned(), "1".to_owned())];
        entry.result = json!({"ips": []});
        cache.write(&entry).unwrap();

        let path = dir.path().join("results/net-a-id1-eth0");
        let raw: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(raw["kind"], "cniCacheV1");
        assert_eq!(raw["containerId"], "id1");
        assert_eq!(raw["config"], "eyJuYW1lIjoibmV0LWEifQ==");
        assert_eq!(raw["ifName"], "eth0");
        assert_eq!(raw["networkName"], "net-a");
        assert_eq!(raw["cniArgs"], json!([["IgnoreUnknown", "1"]]));

        let unfinished = dir.path().join(format!("results/{}id2-eth0.tmp", cache.unfinished));
        std::fs::write(&unfinished, "{").unwrap();
        assert_eq!(cache.all().unwrap().len(), 1);
        cache.remove_unfinished(|id| id == "id2").unwrap();
        other.remove_unfinished(|_| false).unwrap();
        assert!(unfinished.exists());
        cache.remove_unfinished(|_| false).unwrap();
        assert!(!unfinished.exists());

        let found = cache.of_container("id1").unwrap().remove(0);
        assert_eq!(found.config().unwrap(), br#"{"name":"net-a"}"#);
        assert!(cache.is_ours(&found));
        assert!(!other.is_ours(&found));
        cache.remove(&found).unwrap();
        cache.remove(&found).unwrap();
        assert!(cache.of_container("id1").unwrap().is_empty());
    }

    #[test]
    fn entries_of_other_runtimes_are_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let results = dir.path().join("results");
        std::fs::create_dir(&results).unwrap();
        let text = r#"{"kind":"cniCacheV1","containerId":"c","config":"e30=","ifName":"eth0",
            "networkName":"n","result":{}}"#;
        std::fs::write(results.join("n-c-eth0"), text).unwrap();
        std::fs::write(results.join("n-torn-eth0"), "{").unwrap();
        let cache = Cache::new(dir.path(), Path::new("/one"));
        let all = cache.all().unwrap();
        assert_eq!(all.len(), 1);
        let (whole, damaged) = cache.whole_and_damaged("torn").unwrap();
        assert_eq!((whole.len(), damaged.len()), (0, 1));
        cache.of_container("torn").unwrap_err();
        assert!(!cache.is_ours(&all[0]));
    }
}
