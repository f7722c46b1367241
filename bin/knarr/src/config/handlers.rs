//! `[handlers.NAME]`: runtimes by the names of RuntimeClasses.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use sandbox::{Program, RuntimeKind};

use super::{BUILT_IN, Config, Problem, file::Settings};

/// One handler.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Handler {
    /// None: knarr's own runtime.
    pub(crate) binary: Option<Binary>,
    pub(crate) annotations: Vec<String>,
    pub(crate) base_spec: Option<PathBuf>,
}

/// A runtime with runc's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) kind: RuntimeKind,
    /// None: below the state directory.
    pub(crate) root: Option<PathBuf>,
    pub(crate) options: Vec<String>,
    pub(crate) sandbox_container: bool,
}

/// The handlers that settings make. The built-in one is always there.
pub(super) fn handlers(
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Handler> {
    let name = |key: &String| {
        key.strip_prefix("handlers.")?.rsplit_once('.').map(|(name, _)| name.to_owned())
    };
    let names: BTreeSet<String> = settings.keys().filter_map(name).collect();
    let mut handlers = BTreeMap::from([(BUILT_IN.to_owned(), Handler::default())]);
    for name in names {
        let handler = one(&name, settings, problems);
        handlers.insert(name, handler);
    }
    handlers
}

fn one(name: &str, settings: &Settings, problems: &mut Vec<Problem>) -> Handler {
    let setting = |key: &str| settings.get(&format!("handlers.{name}.{key}"));
    let list = |key: &str| setting(key).map(|setting| setting.value.clone()).unwrap_or_default();
    let text = |key: &str| list(key).into_iter().next().filter(|text| !text.is_empty());
    let path = text("path");
    let mut refuse = |key: &str, said: String| {
        if let Some(setting) = setting(key) {
            problems.push(Problem { origin: setting.origin.clone(), text: said });
        }
    };
    if name == BUILT_IN && path.is_some() {
        refuse("path", format!("handler `{BUILT_IN}` is the built-in one and has no path"));
    }
    if path.is_none() {
        for key in ["type", "root", "options", "sandbox_container"] {
            refuse(key, format!("handler `{name}` has no path: `{key}` means nothing for it"));
        }
    }
    let sandbox = text("type").as_deref() == Some("gvisor");
    if list("options").iter().any(|word| is_flag(word, "systemd-cgroup")) {
        refuse(
            "options",
            format!(
                "handler `{name}`: --systemd-cgroup would have the runtime ask systemd for scopes of its own: a \
                 pod's control groups are knarr's with either driver; leave it out"
            ),
        );
    }
    let binary = path.map(|path| {
        Binary {
            path: path.into(),
            kind: if sandbox { RuntimeKind::Sandbox } else { RuntimeKind::Processes },
            root: text("root").map(PathBuf::from),
            options: options(list("options"), sandbox),
            sandbox_container: match text("sandbox_container").as_deref() {
                Some("true") => true,
                Some("false") => false,
                // Only a sandbox needs one.
                _ => sandbox,
            },
        }
    });
    let base_spec = text("base_spec").map(PathBuf::from);
    Handler { binary, annotations: list("annotations"), base_spec }
}

/// Whether a word before the verb is this flag, with one dash or two, with a value or without.
fn is_flag(word: &str, flag: &str) -> bool {
    let name = word.trim_start_matches('-').split('=').next();
    word.starts_with('-') && name == Some(flag)
}

/// What gVisor is told unless the file says otherwise.
///
/// A container's writable layer is knarr's, which measures and removes it: by itself gVisor keeps what a
/// container writes in a file in there, and finds that no more when it deletes the container. And by
/// itself it passes over seccomp profiles, without a word.
fn options(mut given: Vec<String>, sandbox: bool) -> Vec<String> {
    let told =
        |flags: &[&str]| given.iter().any(|word| flags.iter().any(|flag| is_flag(word, flag)));
    let (layers, profiles) = (told(&["overlay2", "overlay"]), told(&["oci-seccomp"]));
    if sandbox && !layers {
        given.push("--overlay2=none".to_owned());
    }
    if sandbox && !profiles {
        given.push("--oci-seccomp".to_owned());
    }
    given
}

impl Config {
    /// For the pods. Runtimes keep what they know of their containers below `state` unless they are
    /// told where.
    pub(crate) fn handlers(&self, state: &Path) -> BTreeMap<String, sandbox::Handler> {
        let program = |name: &str, binary: &Binary| Program {
            path: binary.path.clone(),
            kind: binary.kind,
            root: binary.root.clone().unwrap_or_else(|| state.join("handlers").join(name)),
            options: binary.options.clone(),
            sandbox_container: binary.sandbox_container,
        };
        let handler = |(name, handler): (&String, &Handler)| {
            let Handler { binary, annotations, base_spec } = handler.clone();
            let program = binary.map(|binary| program(name, &binary));
            (name.clone(), sandbox::Handler { program, annotations, base_spec })
        };
        self.handlers.iter().map(handler).collect()
    }
}
