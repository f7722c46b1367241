//! What a runtime can do, asked of itself, and remembered until there is another file in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::{ANSWERS_WITHIN, Features, PATH, Program, RuntimeKind};
use crate::blocking;
use crate::context::Context;

/// What a runtime that works has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probed {
    pub(crate) features: Features,
    /// The first line of `--version`.
    pub(crate) version: String,
    /// Why `features` told nothing, where it should have: what it can do then is unknown, and not used.
    pub(crate) unknown: Option<String>,
}

impl Program {
    /// Asks the runtime what it can do. Blocks, for a bounded time.
    ///
    /// # Errors
    /// One sentence: it cannot be run.
    pub(crate) fn probe(&self) -> Result<Probed, String> {
        let version = self.ask("--version")?;
        let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().into();
        let told = match self.kind {
            RuntimeKind::Processes => self.ask("features").and_then(|text| {
                let path = self.path.display();
                parse(&text).ok_or_else(|| format!("{path} features: that is no list of features"))
            }),
            // gVisor has no such command.
            RuntimeKind::Sandbox => Ok(Features::default()),
        };
        let unknown = told.as_ref().err().cloned();
        Ok(Probed { features: told.unwrap_or_default(), version, unknown })
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
}

/// Reads what `features` says: OCI runtime specification, features document.
fn parse(text: &[u8]) -> Option<Features> {
    let told: serde_json::Value = serde_json::from_slice(text).ok()?;
    let has = |list: &serde_json::Value, word: &str| {
        list.as_array().is_some_and(|all| all.iter().any(|one| one == word))
    };
    let enabled = |what: &str| told.pointer(what).and_then(serde_json::Value::as_bool);
    let idmap = enabled("/linux/mountExtensions/idmap/enabled");
    Some(Features {
        recursive_read_only: has(told.get("mountOptions")?, "rro"),
        user_namespaces: has(told.pointer("/linux/namespaces")?, "user")
            && idmap.unwrap_or_default(),
        without_seccomp: !enabled("/linux/seccomp/enabled").unwrap_or_default(),
    })
}

/// The file that was asked, as far as one can tell without reading it: device, inode, and when either its
/// contents or its mode were last changed. `None`: there was none.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let file = match std::fs::metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        // Asking it tells what is wrong; this only compares.
        Err(_) => return Some((0, 0, 0, 0)),
    };
    Some((file.dev(), file.ino(), file.ctime(), file.ctime_nsec()))
}

#[derive(Debug, Clone)]
struct Probe {
    of: Stamp,
    probed: Result<Probed, String>,
}

/// When a runtime that was asked before is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// If there is another file in its place.
    IfReplaced,
    /// Also if it did not work: what it lacked may be there now.
    IfBroken,
    /// In any case.
    Always,
}

/// How long an answer is waited for: of two questions to a runtime, and for its processes to be ended.
const TURN: Duration = ANSWERS_WITHIN.saturating_mul(3);

/// What is known of the handlers' runtimes.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    known: RwLock<BTreeMap<String, Probe>>,
    /// Who is being asked: one at a time each, for a program that hangs takes a thread along.
    asked: Mutex<BTreeSet<String>>,
    answered: Condvar,
}

/// The right to ask one handler's runtime.
struct Turn<'a>(&'a Probes, &'a str);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(self.1);
        self.0.answered.notify_all();
    }
}

impl Probes {
    /// Waits until nobody else asks this one. `None`: somebody does all the time.
    fn turn<'a>(&'a self, name: &'a str) -> Option<Turn<'a>> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_asked = |asked: &mut BTreeSet<String>| asked.contains(name);
        let waited = self.answered.wait_timeout_while(asked, TURN, is_asked);
        let (mut asked, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        asked.insert(name.to_owned());
        Some(Turn(self, name))
    }

    pub(crate) fn get(&self, name: &str) -> Option<Result<Probed, String>> {
        self.known(name).map(|probe| probe.probed)
    }

    fn known(&self, name: &str) -> Option<Probe> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Asks a runtime, and tells the log when the answer is another than before. Blocks for as long as
    /// that takes.
    fn ask(&self, name: &str, program: &Program) -> Result<Probed, String> {
        // Before: a file that is replaced meanwhile is asked again.
        let of = stamp(&program.path);
        let probed = program.probe();
        let probe = Probe { of, probed: probed.clone() };
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(name.to_owned(), probe);
        drop(all);
        let before = before.map(|probe| probe.probed);
        match (&probed, before) {
            (Err(reason), before) if before.as_ref() != Some(&probed) => {
                tracing::error!(handler = name, reason, "this handler's pods cannot run");
            }
            (Ok(Probed { version, .. }), Some(Err(_))) => {
                tracing::info!(handler = name, version, "this handler's pods can run again");
            }
            (Ok(_) | Err(_), _) => {}
        }
        probed
    }

    /// What a runtime says, now or when it was last asked. Who is being asked is not asked twice, but waited for,
    /// as long as an answer may take: `None` when there is none by then. Blocks, on a file system that does not
    /// answer for ever.
    fn renew(&self, name: &str, program: &Program, again: Again) -> Option<Result<Probed, String>> {
        let _turn = self.turn(name)?;
        let known = self.known(name).filter(|probe| match again {
            Again::IfReplaced => probe.of == stamp(&program.path),
            Again::IfBroken => probe.probed.is_ok() && probe.of == stamp(&program.path),
            Again::Always => false,
        });
        Some(known.map_or_else(|| self.ask(name, program), |probe| probe.probed))
    }
}

impl Context {
    /// What a runtime says, now or when it was last asked. `None`: it does not answer, be it only to be looked at, as
    /// a file of a dead file system. Nobody waits for that, and nobody else is sent after it.
    pub(crate) async fn ask_in_time(
        self: &Arc<Self>,
        name: &str,
        program: &Program,
        again: Again,
    ) -> Option<Result<Probed, String>> {
        let (cx, name, program) = (Arc::clone(self), name.to_owned(), program.clone());
        let asked = blocking::run(move || cx.probes.renew(&name, &program, again));
        tokio::time::timeout(TURN, asked).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(path: &Path) -> Program {
        Program {
            path: path.to_owned(),
            kind: RuntimeKind::Processes,
            root: "/nowhere".into(),
            options: Vec::new(),
            sandbox_container: false,
        }
    }

    fn version(answer: Option<Result<Probed, String>>) -> Result<String, String> {
        answer.unwrap().map(|probed| probed.version)
    }

    /// A program that answers `--version` and, with a status of its own, `features`.
    fn runtime(path: &Path, version: &str, features: &str) {
        let fresh = path.with_extension("new");
        let text =
            format!("#!/bin/sh\ncase \"$1\" in --version) echo {version};; *) {features};; esac\n");
        fs::write(&fresh, text).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&fresh, path).unwrap();
    }

    #[test]
    fn features_are_what_the_runtime_says() {
        let told = br#"{"ociVersionMin":"1.0.0","mountOptions":["ro","rro"],"linux":
            {"namespaces":["mount","user"],"mountExtensions":{"idmap":{"enabled":true}},
            "seccomp":{"enabled":true}}}"#;
        let all =
            Features { recursive_read_only: true, user_namespaces: true, without_seccomp: false };
        assert_eq!(parse(told), Some(all));
        // As youki says it where it was built without libseccomp.
        for seccomp in ["", r#","seccomp":null"#, r#","seccomp":{"enabled":false}"#] {
            let old = format!(
                r#"{{"mountOptions":["ro"],"linux":{{"namespaces":["mount","user"]{seccomp}}}}}"#
            );
            let without = Features { without_seccomp: true, ..Features::default() };
            assert_eq!(parse(old.as_bytes()), Some(without), "{old}");
        }
        assert_eq!(parse(b"no such command"), None);
    }

    #[test]
    fn a_runtime_that_cannot_be_run_is_named() {
        let reason = program(Path::new("/no/such/runtime")).probe().unwrap_err();
        assert!(reason.contains("/no/such/runtime") && reason.contains("No such file"), "{reason}");
    }

    #[test]
    fn features_that_fail_are_told_and_do_not_keep_it_from_working() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runtime");
        for (features, said) in
            [("echo no such command >&2; exit 3", "no such command"), ("echo text", "no list")]
        {
            runtime(&path, "old 1.0", features);
            let probed = program(&path).probe().unwrap();
            assert_eq!(
                (probed.version.as_str(), probed.features),
                ("old 1.0", Features::default())
            );
            assert!(probed.unknown.as_ref().is_some_and(|why| why.contains(said)), "{probed:?}");
        }
    }

    #[test]
    fn who_was_asked_is_asked_again_when_the_file_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runtime");
        let (probes, program) = (Probes::default(), program(&path));
        let renewed = || version(probes.renew("one", &program, Again::IfReplaced));
        assert!(renewed().unwrap_err().contains("No such file"));
        runtime(&path, "one", "exit 1");
        assert_eq!(renewed().as_deref(), Ok("one"));
        runtime(&path, "two", "exit 1");
        assert_eq!(renewed().as_deref(), Ok("two"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(renewed().unwrap_err().contains("Permission denied"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(renewed().as_deref(), Ok("two"));
        assert_eq!(probes.get("one"), probes.renew("one", &program, Again::IfReplaced));
    }

    #[test]
    fn two_who_need_it_ask_once() {
        let dir = tempfile::tempdir().unwrap();
        let (path, count) = (dir.path().join("runtime"), dir.path().join("count"));
        runtime(&path, &format!("one; echo asked >> {}", count.display()), "echo {}");
        let (probes, program) = (Probes::default(), program(&path));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| probes.renew("one", &program, Again::IfBroken));
            }
        });
        assert_eq!(fs::read_to_string(&count).unwrap(), "asked\n");
        probes.renew("one", &program, Again::Always).unwrap().unwrap();
        assert_eq!(fs::read_to_string(&count).unwrap(), "asked\nasked\n");
        assert!(probes.turn("one").is_some(), "nobody asks any more");
    }

    #[test]
    fn what_a_runtime_lacked_is_looked_for_when_somebody_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, part) = (dir.path().join("runtime"), dir.path().join("part"));
        let (probes, program) = (Probes::default(), program(&path));
        let text = format!("#!/bin/sh\ncat {}\n", part.display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let renewed = |again| version(probes.renew("one", &program, again));
        assert!(renewed(Again::IfBroken).is_err());
        fs::write(&part, "whole\n").unwrap();
        assert!(renewed(Again::IfReplaced).is_err(), "nobody needs it");
        assert_eq!(renewed(Again::IfBroken).as_deref(), Ok("whole"));
    }
}
