//! Runtime handlers (RuntimeClass): which OCI runtime runs a pod's containers, and what it can do.

mod choice;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use model::StringMap;
use serde::{Deserialize, Serialize};

use crate::session::enter;

/// How long a runtime may take to say what it can do.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

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
}

/// One handler as it is now.
#[derive(Debug, Clone)]
pub struct HandlerState {
    /// Its name.
    pub name: String,
    /// Its runtime's path, unless that is the built-in one.
    pub path: Option<PathBuf>,
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
    /// Asks the runtime what it can do. Blocks, for a bounded time.
    ///
    /// # Errors
    /// One sentence: it cannot be run.
    pub(crate) fn probe(&self) -> Result<Features, String> {
        // gVisor has no such command, and crun before 1.9: of those nothing is expected.
        if self.kind == RuntimeKind::Processes
            && let Ok(text) = self.ask("features")
            && let Some(features) = parse(&text)
        {
            return Ok(features);
        }
        self.ask("--version").map(|_version| Features::default())
    }

    fn ask(&self, word: &str) -> Result<Vec<u8>, String> {
        let mut words: Vec<&str> = self.options.iter().map(String::as_str).collect();
        words.push(word);
        let path = self.path.display();
        let environment = [("PATH", PATH.to_owned())];
        let ran = sys::program::run(&self.path, &words, &environment, b"", ANSWERS_WITHIN);
        let finished =
            ran.map_err(|error| format!("{path} cannot be run: {}", model::chain(&error)))?;
        if finished.status.success() {
            return Ok(finished.stdout);
        }
        let said = String::from_utf8_lossy(&finished.stderr);
        let said = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nothing");
        Err(format!("{path} {word} ended with {}, and said: {said}", finished.status))
    }

    /// What a container of a sandbox uses, in the runtime's own words (`events --stats`). The runtime
    /// is reached from the pod's network namespace, `netns`. Blocks, for a bounded time.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) fn events(
        &self,
        container: &str,
        netns: Option<&Path>,
    ) -> Result<serde_json::Value, String> {
        let root = self.root.to_string_lossy();
        let mut words: Vec<&str> = self.options.iter().map(String::as_str).collect();
        words.extend(["--root", &root, "events", "--stats", container]);
        let run = || {
            netns.map_or(Ok(()), enter).map_err(|error| error.to_string())?;
            let environment = [("PATH", PATH.to_owned())];
            sys::program::run(&self.path, &words, &environment, b"", ANSWERS_WITHIN)
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

/// Reads what `features` says: OCI runtime specification, features document.
fn parse(text: &[u8]) -> Option<Features> {
    let told: serde_json::Value = serde_json::from_slice(text).ok()?;
    let has = |list: &serde_json::Value, word: &str| {
        list.as_array().is_some_and(|all| all.iter().any(|one| one == word))
    };
    let idmap = told.pointer("/linux/mountExtensions/idmap/enabled");
    Some(Features {
        recursive_read_only: has(told.get("mountOptions")?, "rro"),
        user_namespaces: has(told.pointer("/linux/namespaces")?, "user")
            && idmap.and_then(serde_json::Value::as_bool).unwrap_or_default(),
    })
}

/// What is known of the handlers' runtimes; those that could not be run are asked again when
/// somebody wants them.
#[derive(Debug, Default)]
pub(crate) struct Probes(RwLock<BTreeMap<String, Result<Features, String>>>);

impl Probes {
    pub(crate) fn get(&self, name: &str) -> Option<Result<Features, String>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn put(&self, name: &str, probed: Result<Features, String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), probed);
    }

    /// Asks every runtime, side by side. Blocks for as long as the slowest takes.
    pub(crate) fn ask_all(&self, handlers: &Handlers) {
        std::thread::scope(|scope| {
            for (name, handler) in &handlers.known {
                let Some(program) = &handler.program else { continue };
                scope.spawn(move || {
                    let probed = program.probe();
                    if let Err(reason) = &probed {
                        tracing::error!(handler = name, reason, "this handler's pods cannot run");
                    }
                    self.put(name, probed);
                });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_what_the_runtime_says() {
        let told = br#"{"ociVersionMin":"1.0.0","mountOptions":["ro","rro"],"linux":
            {"namespaces":["mount","user"],"mountExtensions":{"idmap":{"enabled":true}}}}"#;
        let all = Features { recursive_read_only: true, user_namespaces: true };
        assert_eq!(parse(told), Some(all));
        let old = br#"{"mountOptions":["ro"],"linux":{"namespaces":["mount","user"]}}"#;
        assert_eq!(parse(old), Some(Features::default()));
        assert_eq!(parse(b"no such command"), None);
    }

    #[test]
    fn a_runtime_that_cannot_be_run_is_named() {
        let program = Program {
            path: "/no/such/runtime".into(),
            kind: RuntimeKind::Processes,
            root: "/nowhere".into(),
            options: Vec::new(),
            sandbox_container: false,
        };
        let reason = program.probe().unwrap_err();
        assert!(reason.contains("/no/such/runtime") && reason.contains("No such file"), "{reason}");
    }

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
