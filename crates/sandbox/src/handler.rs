//! Runtime handlers (RuntimeClass): which OCI runtime runs a pod's containers, and what it can do.

mod choice;
mod probe;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::StringMap;
use serde::{Deserialize, Serialize};

pub(crate) use self::probe::{Again, Probed, Probes};
use crate::session::enter;

/// How long a runtime may take to say what it can do.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Where runtimes look for their helpers.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an OCI runtime is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuntimeKind {
    /// As runc, crun and youki: a container's processes are the host's.
    Processes,
    /// As gVisor's runsc: containers live in a sandbox that the host sees as one program.
    Sandbox,
}

/// An OCI runtime of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Absolute path.
    pub path: PathBuf,
    /// What it is like.
    pub kind: RuntimeKind,
    /// Where it keeps what it knows of its containers.
    pub root: PathBuf,
    /// Words before the verb.
    pub options: Vec<String>,
    /// Whether a pod begins with a container that stands for the pod itself.
    pub sandbox_container: bool,
}

/// A handler. Pods keep the one they were made with, whatever the configuration says later.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Handler {
    /// The runtime; absent: the built-in one.
    pub program: Option<Program>,
    /// Annotations of pods and containers that its specs get: names, or their beginnings with a
    /// `*` behind.
    pub annotations: Vec<String>,
    /// A spec that those of its containers begin with.
    pub base_spec: Option<PathBuf>,
}

/// All handlers by name.
#[derive(Debug, Clone)]
pub struct Handlers {
    /// The handler of pods that name none.
    pub default: String,
    /// Every handler.
    pub known: BTreeMap<String, Handler>,
}

/// What a handler's containers may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Mounts that are read-only with all below them.
    pub recursive_read_only: bool,
    /// User namespaces, with mounts that are mapped into them.
    pub user_namespaces: bool,
    /// It says that it applies no seccomp profiles. One that says nothing is taken to.
    pub without_seccomp: bool,
}

/// One handler as it is now.
#[derive(Debug, Clone)]
pub struct HandlerState {
    /// Its name.
    pub name: String,
    /// Its runtime's path, unless that is the built-in one.
    pub path: Option<PathBuf>,
    /// What it calls itself: the first line of what it prints for `--version`. Unknown of the built-in one,
    /// whose version is knarr's, and of one that cannot be run.
    pub version: Option<String>,
    /// Whether commands that are exec'd in its containers have no seccomp filter, whatever the profile: gVisor
    /// filters a container's first process and what that starts.
    pub unfiltered_exec: bool,
    /// What it can do, or one sentence that says why it cannot do anything.
    pub features: Result<Features, String>,
}

impl Handler {
    /// Those of `annotations` that specs get.
    pub(crate) fn passed(&self, annotations: &StringMap) -> StringMap {
        let passes = |key: &str| {
            self.annotations.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => key.starts_with(beginning),
                None => key == pattern,
            })
        };
        let passed = annotations.iter().filter(|(key, _)| passes(key));
        passed.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The program, if a container of its stands for the pod itself.
    pub(crate) fn sandbox_program(&self) -> Option<&Program> {
        self.program.as_ref().filter(|program| program.sandbox_container)
    }
}

impl Program {
    /// What a container of a sandbox uses, in the runtime's own words (`events --stats`). The runtime
    /// is reached from the pod's network namespace, `netns`. Blocks, until `limit` at the most.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) fn events(
        &self,
        container: &str,
        netns: Option<&Path>,
        limit: Duration,
    ) -> Result<serde_json::Value, String> {
        let root = self.root.to_string_lossy();
        let mut words: Vec<&str> = self.options.iter().map(String::as_str).collect();
        words.extend(["--root", &root, "events", "--stats", container]);
        let run = || {
            netns.map_or(Ok(()), enter).map_err(|error| error.to_string())?;
            let environment = [("PATH", PATH.to_owned())];
            sys::program::run(&self.path, &words, &environment, b"", limit)
                .map_err(|error| model::chain(&error))
        };
        // A thread that has been in a pod's network must end.
        let ran = std::thread::scope(|scope| scope.spawn(run).join());
        let ran = ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let path = self.path.display();
        let finished = ran.map_err(|why| format!("{path} events: {why}"))?;
        if !finished.status.success() {
            let said = String::from_utf8_lossy(&finished.stderr).trim().to_owned();
            return Err(format!("{path} events: {said}"));
        }
        serde_json::from_slice(&finished.stdout).map_err(|error| format!("{path} events: {error}"))
    }

    /// Has the runtime give up a container whose shim has died, running or not. Blocks, for a
    /// bounded time.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) fn delete(&self, container: &str) -> Result<(), String> {
        let state = self.root.join(container);
        if !state.exists() && self.kind == RuntimeKind::Processes {
            return Ok(());
        }
        let root = self.root.to_string_lossy();
        let mut words: Vec<&str> = self.options.iter().map(String::as_str).collect();
        words.extend(["--root", &root, "delete", "--force", container]);
        let environment = [("PATH", PATH.to_owned())];
        let limit = ANSWERS_WITHIN * 2;
        let ran = sys::program::run(&self.path, &words, &environment, b"", limit);
        let failed = match ran {
            Ok(finished) if finished.status.success() => return Ok(()),
            Ok(finished) => String::from_utf8_lossy(&finished.stderr).trim().to_owned(),
            Err(error) => model::chain(&error),
        };
        Err(format!("{} delete --force {container}: {failed}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_pass_by_name_or_beginning() {
        let handler = Handler {
            annotations: vec!["a.example/*".into(), "exact".into()],
            ..Handler::default()
        };
        let of = |keys: &[&str]| -> StringMap {
            keys.iter().map(|&key| (key.to_owned(), "v".to_owned())).collect()
        };
        let passed = handler.passed(&of(&["a.example/x", "exact", "exactly", "other"]));
        assert_eq!(passed, of(&["a.example/x", "exact"]));
    }
}
