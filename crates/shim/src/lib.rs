//! The per-pod supervisor: one thread that waits for its daemon, its containers' output and its
//! children, and does what the daemon asks.
//!
//! It makes and holds the pod's namespaces, executes launch plans, writes container logs,
//! reaps, records exits, serves clients that attach. It outlives the daemon: whoever connects next finds everything here.
//!
//! Never here: decisions (plans are complete), the OCI spec, JSON, async, a second thread,
//! calls to the daemon.
//!
//! Main types: [`run`], [`RunError`]. Inside: `Supervisor` (the loop and what it owns),
//! `Container` (a lifecycle as an enum), `Peers` (connections), `Pod` (namespaces), `Runtime`
//! (the only module that touches crate `launch`'s executing half).
#![forbid(unsafe_code)]

mod attach;
mod clock;
mod connection;
mod container;
mod exec;
mod exit;
mod external;
mod failure;
mod journal;
mod launches;
mod leaving;
mod log;
mod oom;
mod partings;
mod peers;
mod pod;
mod poll;
mod process_tree;
mod reaper;
mod requests;
mod runtime;
mod shutdown;
mod startup;
mod state;
mod stdin;
mod stdio;
mod supervisor;
mod tools;

pub use startup::{RunError, run};
