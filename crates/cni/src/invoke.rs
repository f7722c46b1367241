//! Calling one plugin: a binary if one is installed, else the built-in of that name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use failpoint::Point;
use serde_json::Value;
use sys::program::{self, ExecError, Finished};

use crate::builtin::{self, BuiltIn, BuiltInError, PacketFilter};
use crate::{plugin, result};

/// How much of what a plugin said is quoted in an error.
const EXCERPT: usize = 600;

/// Why a plugin did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No binary, and no built-in of that name.
    #[error(
        "CNI plugin `{plugin}` is not installed: it is not in {}",
        searched.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NotInstalled {
        /// The plugin's type.
        plugin: String,
        /// The directories looked in.
        searched: Vec<PathBuf>,
    },
    /// The binary did not run to its end.
    #[error("CNI plugin `{plugin}` ({}) failed", path.display())]
    Exec {
        /// The plugin's type.
        plugin: String,
        /// The binary.
        path: PathBuf,
        /// Why.
        #[source]
        source: ExecError,
    },
    /// The plugin reported an error in the specification's form.
    #[error("CNI plugin `{plugin}` failed: {message} (code {code}){stderr}")]
    Reported {
        /// The plugin's type.
        plugin: String,
        /// The specification's error code.
        code: u64,
        /// `msg` and `details`.
        message: String,
        /// Standard error, in parentheses, or empty.
        stderr: String,
    },
    /// The plugin failed without an error object.
    #[error("CNI plugin `{plugin}` ended with {status} and said `{said}`")]
    Failed {
        /// The plugin's type.
        plugin: String,
        /// Exit code or signal.
        status: String,
        /// The start of what it printed.
        said: String,
    },
    /// The plugin succeeded, but its result is none.
    #[error("CNI plugin `{plugin}` printed no result but `{said}`")]
    Garbage {
        /// The plugin's type.
        plugin: String,
        /// The start of what it printed.
        said: String,
        /// Where it stops being JSON.
        #[source]
        source: serde_json::Error,
    },
    /// A built-in plugin failed.
    #[error("built-in CNI plugin `{plugin}` failed")]
    BuiltIn {
        /// The plugin's type.
        plugin: &'static str,
        /// Why.
        #[source]
        source: Box<BuiltInError>,
    },
}

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Status,
    Gc,
}

impl Verb {
    pub(crate) fn named(text: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc]
            .into_iter()
            .find(|verb| verb.as_str() == text)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }
}

/// Where plugins are, and how long they may take.
#[derive(Debug, Clone)]
pub(crate) struct Plugins {
    pub(crate) bin_dirs: Vec<PathBuf>,
    pub(crate) data_dir: PathBuf,
    pub(crate) add_limit: Duration,
    pub(crate) other_limit: Duration,
    pub(crate) status_limit: Duration,
    pub(crate) packet_filter: PacketFilter,
    /// Where `iptables` is.
    pub(crate) tool_dirs: Vec<PathBuf>,
    /// Called as a plugin binary by whatever runtime. Then DEL deletes the pod's links, which
    /// waits for the kernel, rather than leave them to the end of the pod's namespace, and
    /// nothing is taken for granted that this engine sees to.
    pub(crate) standalone: bool,
}

/// What all plugins of one request are told besides their configuration.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) verb: Verb,
    pub(crate) container: &'a str,
    /// `None`: gone already, or the verb has none.
    pub(crate) netns: Option<&'a Path>,
    pub(crate) ifname: &'a str,
    pub(crate) arguments: &'a [(String, String)],
    /// Installed binaries are passed over.
    pub(crate) built_in_only: bool,
    /// DEL without a result: what an ADD that was not completed is known to have got, in the form
    /// of a result. For built-in plugins only; the specification has no such thing.
    pub(crate) half_made: Option<&'a Value>,
}

impl<'a> Call<'a> {
    /// A call about the node rather than about one container.
    pub(crate) fn of_node(verb: Verb, built_in_only: bool) -> Self {
        Self {
            verb,
            container: "",
            netns: None,
            ifname: "",
            arguments: &[],
            built_in_only,
            half_made: None,
        }
    }
}

/// What a plugin type stands for on this node.
pub(crate) enum Found {
    Binary(PathBuf),
    BuiltIn(BuiltIn),
}

impl Plugins {
    pub(crate) fn find(&self, kind: &str, built_in_only: bool) -> Result<Found, PluginError> {
        let dirs = if built_in_only { &[][..] } else { &self.bin_dirs };
        let mut candidates = dirs.iter().map(|dir| dir.join(kind));
        if let Some(path) = candidates.find(|path| path.is_file()) {
            // A link to this program is the built-in without running it.
            let itself = self.standalone && plugin::is_itself(&path);
            if !itself || BuiltIn::named(kind).is_none() {
                return Ok(Found::Binary(path));
            }
        }
        BuiltIn::named(kind).map(Found::BuiltIn).ok_or_else(|| PluginError::NotInstalled {
            plugin: kind.to_owned(),
            searched: self.bin_dirs.clone(),
        })
    }

    /// Calls a plugin with its complete configuration; ADD returns its result. Blocks.
    pub(crate) fn call(
        &self,
        plugin: &str,
        call: &Call<'_>,
        conf: &Value,
    ) -> Result<Value, PluginError> {
        reach(plugin, call.verb)?;
        match self.find(plugin, call.built_in_only)? {
            Found::Binary(path) => self.execute(plugin, &path, call, conf),
            Found::BuiltIn(built_in) => {
                builtin::run(built_in, self, call, conf).map_err(|source| PluginError::BuiltIn {
                    plugin: built_in.name(),
                    source: Box::new(source),
                })
            }
        }
    }

    fn execute(
        &self,
        plugin: &str,
        path: &Path,
        call: &Call<'_>,
        conf: &Value,
    ) -> Result<Value, PluginError> {
        let limit = match call.verb {
            Verb::Add => self.add_limit,
            Verb::Status => self.status_limit,
            Verb::Del | Verb::Check | Verb::Gc => self.other_limit,
        };
        let input = conf.to_string();
        let finished = program::run(path, &[], &self.environment(call), input.as_bytes(), limit)
            .map_err(|source| PluginError::Exec {
                plugin: plugin.to_owned(),
                path: path.to_owned(),
                source,
            })?;
        interpret(plugin, call.verb, &finished)
    }

    fn environment(&self, call: &Call<'_>) -> Vec<(&'static str, String)> {
        let join = |parts: Vec<String>, by| parts.join(by);
        let dirs = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        let arguments = call.arguments.iter().map(|(key, value)| format!("{key}={value}"));
        let netns = call.netns.map(|path| path.display().to_string());
        // Plugins such as portmap look for iptables by PATH.
        let path = std::env::var("PATH")
            .unwrap_or_else(|_| "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin".to_owned());
        vec![
            ("CNI_COMMAND", call.verb.as_str().to_owned()),
            ("CNI_CONTAINERID", call.container.to_owned()),
            ("CNI_NETNS", netns.unwrap_or_default()),
            ("CNI_IFNAME", call.ifname.to_owned()),
            ("CNI_ARGS", join(arguments.collect(), ";")),
            ("CNI_PATH", join(dirs, ":")),
            ("PATH", path),
        ]
    }
}

fn reach(plugin: &str, verb: Verb) -> Result<(), PluginError> {
    let reached = match verb {
        Verb::Add => failpoint::reach(Point::CniAddPlugin),
        Verb::Del => failpoint::reach(Point::CniDelPlugin),
        Verb::Check | Verb::Status | Verb::Gc => Ok(()),
    };
    reached.map_err(|error| PluginError::Failed {
        plugin: plugin.to_owned(),
        status: "exit status: 1".to_owned(),
        said: error.to_string(),
    })
}

/// Tells a result from an error object from garbage.
fn interpret(plugin: &str, verb: Verb, finished: &Finished) -> Result<Value, PluginError> {
    let plugin = plugin.to_owned();
    let parsed = serde_json::from_slice::<Value>(&finished.stdout);
    if !finished.status.success() {
        let stderr = excerpt(&finished.stderr);
        if let Some((code, message)) = parsed.ok().as_ref().and_then(result::plugin_error) {
            let stderr = if stderr.is_empty() { stderr } else { format!(" ({stderr})") };
            return Err(PluginError::Reported { plugin, code, message, stderr });
        }
        let said = if stderr.is_empty() { excerpt(&finished.stdout) } else { stderr };
        let status = finished.status.to_string();
        return Err(PluginError::Failed { plugin, status, said });
    }
    match (verb, parsed) {
        (Verb::Add, Ok(value)) if value.is_object() => Ok(value),
        (Verb::Add, Ok(_)) => {
            let said = excerpt(&finished.stdout);
            let source = serde::de::Error::custom("want a JSON object");
            Err(PluginError::Garbage { plugin, said, source })
        }
        (Verb::Add, Err(source)) => {
            Err(PluginError::Garbage { plugin, said: excerpt(&finished.stdout), source })
        }
        // Only ADD has a result; what the others print is of no account.
        (Verb::Del | Verb::Check | Verb::Status | Verb::Gc, _) => Ok(result::empty()),
    }
}

fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT)]);
    let mut text = text.trim().to_owned();
    if bytes.len() > EXCERPT {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn check(code: i32, stdout: &str, stderr: &str) -> String {
        let finished = Finished {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        match interpret("p", Verb::Add, &finished) {
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn results_errors_and_garbage_are_told_apart() {
        let error = r#"{"cniVersion":"1.0.0","code":11,"msg":"try again","details":"busy"}"#;
        let table = [
            (0, r#"{"ips":[]}"#, "", r#"{"ips":[]}"#),
            (1, error, "", "CNI plugin `p` failed: try again: busy (code 11)"),
            (1, error, "dbg", "CNI plugin `p` failed: try again: busy (code 11) (dbg)"),
            (2, "oops", "", "CNI plugin `p` ended with exit status: 2 and said `oops`"),
            (2, "", "panic!\n", "CNI plugin `p` ended with exit status: 2 and said `panic!`"),
            (0, "hello", "", "CNI plugin `p` printed no result but `hello`"),
            (0, "", "", "CNI plugin `p` printed no result but ``"),
            (0, "[]", "", "CNI plugin `p` printed no result but `[]`"),
        ];
        for (code, stdout, stderr, want) in table {
            assert_eq!(check(code, stdout, stderr), want);
        }
    }
}
