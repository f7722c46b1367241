//! `knarr doctor`: the records compared with the kernel, both ways, and a look at the host. What
//! belongs to nobody can be removed; what is missing can only be told.
//!
//! A pod that is being made or removed is looked at like any other: whoever asks whether an id is
//! known asks those under way too.

mod drivers;
mod files;
mod groups;
mod handlers;
mod host;
mod kernel;
mod mend;
mod network;
mod offline;
mod parts;

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use cni::Live;
use model::{ContainerId, SandboxId};

use crate::context::Context;
use crate::manager::Sandboxes;
use crate::networks::LivePods;
use crate::record::ProcessRecord;

pub use offline::examine_without_a_daemon;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// A record.
    Record,
    /// A process.
    Process,
    /// A mount.
    Mount,
    /// A pinned network namespace.
    Netns,
    /// A network link.
    Link,
    /// A reserved address, or an attachment on record.
    Address,
    /// Rules of the packet filter.
    PacketFilter,
    /// A control group.
    Cgroup,
    /// A layer of an image.
    Layer,
    /// A layer on its way in or out.
    Ingest,
    /// A pod's volatile state: its socket, its exit files.
    State,
    /// A handler's runtime.
    Handler,
    /// The host.
    Host,
}

impl Area {
    /// In a word, for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Process => "process",
            Self::Mount => "mount",
            Self::Netns => "network namespace",
            Self::Link => "link",
            Self::Address => "address",
            Self::PacketFilter => "packet filter",
            Self::Cgroup => "cgroup",
            Self::Layer => "layer",
            Self::Ingest => "ingest",
            Self::State => "state",
            Self::Handler => "handler",
            Self::Host => "host",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Records and kernel do not agree, or pods will fail.
    Problem,
    /// It works; somebody should know.
    Advice,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it was; whether `--fix` would change that.
    Found {
        /// It can be mended without a person.
        mendable: bool,
    },
    /// It was mended.
    Mended,
    /// It could not be.
    Failed(String),
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// How bad it is.
    pub severity: Severity,
    /// Which one: a path, an id, a number.
    pub object: String,
    /// What does not match.
    pub problem: String,
    /// What to do, or what mending does.
    pub remedy: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// How something that belongs to nobody goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mend {
    EndShim(ProcessRecord, SandboxId),
    EndLeftovers(ContainerId),
    RemoveCgroup(String),
    Unpin(SandboxId),
    RemoveState(SandboxId),
    Unmount(PathBuf),
    CollectNetworks,
    RemoveStray(cni::Stray),
    CollectLayers,
    RemoveIngest(String),
}

/// A finding, and how it is mended if it can be.
#[derive(Debug)]
struct Case {
    finding: Finding,
    mend: Option<Mend>,
}

/// Where findings are put together.
#[derive(Debug, Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn problem(&mut self, area: Area, object: &dyn Display, problem: String, remedy: &str) {
        self.add(area, Severity::Problem, object, (problem, remedy), None);
    }

    fn advice(&mut self, area: Area, object: &dyn Display, problem: String, remedy: &str) {
        self.add(area, Severity::Advice, object, (problem, remedy), None);
    }

    fn add(
        &mut self,
        area: Area,
        severity: Severity,
        object: &dyn Display,
        (problem, remedy): (String, &str),
        mend: Option<Mend>,
    ) {
        let (object, remedy) = (object.to_string(), remedy.to_owned());
        let outcome = Outcome::Found { mendable: mend.is_some() };
        let finding = Finding { area, severity, object, problem, remedy, outcome };
        self.0.push(Case { finding, mend });
    }

    /// Where it cannot even be looked.
    fn unseen(&mut self, area: Area, object: &dyn Display, error: &dyn std::error::Error) {
        let problem = format!("cannot be looked at: {}", crate::error::chain(error));
        self.problem(area, object, problem, "see that knarr may read it");
    }
}

/// The daemon's look at its node.
struct Examination<'a> {
    cx: &'a Arc<Context>,
    live: LivePods,
    cases: Cases,
}

impl Examination<'_> {
    fn problem(&mut self, area: Area, object: &dyn Display, problem: String, remedy: &str) {
        self.cases.problem(area, object, problem, remedy);
    }

    fn advice(&mut self, area: Area, object: &dyn Display, problem: String, remedy: &str) {
        self.cases.advice(area, object, problem, remedy);
    }

    fn mendable(&mut self, area: Area, object: &dyn Display, told: (String, &str), mend: Mend) {
        self.cases.add(area, Severity::Problem, object, told, Some(mend));
    }

    /// Whether a pod of that id exists, is being made or removed, or is in quarantine.
    fn knows(&self, id: &str) -> bool {
        self.live.is_live(id)
    }

    fn unseen(&mut self, area: Area, object: &dyn Display, error: &dyn std::error::Error) {
        self.cases.unseen(area, object, error);
    }
}

/// What is mended may bring to light what it held.
const ROUNDS: u32 = 4;

impl Sandboxes {
    /// Compares and looks; mends what can be if `fix` says so. Takes as long as walking the
    /// processes, control groups and directories of the node.
    pub async fn examine(&self, fix: bool) -> Vec<Finding> {
        let mut mended: Vec<Finding> = Vec::new();
        let mut left = Vec::new();
        for _ in 0..ROUNDS {
            left.clear();
            let before = mended.len();
            for Case { mut finding, mend } in self.look().await {
                let Some(mend) = mend.filter(|_| fix) else {
                    left.push(finding);
                    continue;
                };
                match self.mend(mend).await {
                    Ok(()) => {
                        finding.outcome = Outcome::Mended;
                        mended.push(finding);
                    }
                    Err(reason) => {
                        finding.outcome = Outcome::Failed(reason);
                        left.push(finding);
                    }
                }
            }
            if mended.len() == before {
                break;
            }
        }
        left.extend(mended);
        left.sort_by_key(|finding| (finding.severity, finding.area));
        left
    }
}
