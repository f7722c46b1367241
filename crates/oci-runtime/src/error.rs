//! Why there is no plan, and what a plan leaves out.

use std::fmt;

use crate::seccomp::SeccompError;

/// Why a spec cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The launcher cannot do this.
    #[error("`{field}` is not supported by this runtime")]
    Unsupported {
        /// Path of the field in `config.json`.
        field: String,
    },
    /// A field the specification requires.
    #[error("`{field}` is missing")]
    Missing {
        /// Path of the field in `config.json`.
        field: &'static str,
    },
    /// A value nothing can be made of.
    #[error("`{field}` is `{value}`: want {want}")]
    Invalid {
        /// Path of the field in `config.json`.
        field: String,
        /// The refused value.
        value: String,
        /// What would be right.
        want: &'static str,
    },
    /// The seccomp profile.
    #[error("`linux.seccomp` cannot be compiled")]
    Seccomp(#[from] SeccompError),
}

impl PlanError {
    pub(crate) fn unsupported(field: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into() }
    }

    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl fmt::Display,
        want: &'static str,
    ) -> Self {
        Self::Invalid { field: field.into(), value: value.to_string(), want }
    }
}

/// Something a plan leaves out because this host lacks what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// No hierarchy offers the controller.
    ControllerMissing {
        /// E.g. `memory`.
        controller: &'static str,
        /// The field of the spec that is not applied.
        field: &'static str,
    },
    /// The cgroup version has no counterpart of the setting.
    NoCounterpart {
        /// The field of the spec that is not applied.
        field: &'static str,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControllerMissing { controller, field } => {
                write!(f, "`{field}` is not applied: this host has no {controller} controller")
            }
            Self::NoCounterpart { field } => {
                write!(f, "`{field}` is not applied: this cgroup version has no such setting")
            }
        }
    }
}
