//! What knarr promises: medians on a machine of two processors.

use super::series::Series;

/// A promise about one quantity.
#[derive(Debug, Clone, Copy)]
pub(super) enum Budget {
    AtMost(f64),
    AtLeast(f64),
}

/// Section, quantity, the promise. Whatever the parameter is.
const BUDGETS: &[(&str, &str, Budget)] = &[
    ("pods", "start of a pod", Budget::AtMost(12.0)),
    ("pods", "StopContainer and RemoveContainer", Budget::AtMost(3.0)),
    ("pods", "StopPodSandbox and RemovePodSandbox", Budget::AtMost(5.0)),
    ("pods", "whole lives, 8 callers", Budget::AtLeast(60.0)),
    ("exec", "ExecSync of `true`", Budget::AtMost(2.5)),
    ("memory", "daemon", Budget::AtMost(15.0)),
    ("memory", "supervisors, pause and helpers", Budget::AtMost(307.0)),
    ("memory", "idle", Budget::AtMost(0.1)),
    ("memory", "wake-ups of all supervisors", Budget::AtMost(0.0)),
    ("list", "ListContainers", Budget::AtMost(5.0)),
    ("restart", "kill -9 to a correct list", Budget::AtMost(200.0)),
    ("scale", "ListContainers", Budget::AtMost(5.0)),
    ("scale", "restart to first list", Budget::AtMost(200.0)),
    ("pull", "gzip: time", Budget::AtMost(10.0)),
];

impl Budget {
    pub(super) fn of(series: &Series) -> Option<Self> {
        let fits = |(section, quantity, _): &&(&str, &str, Self)| {
            series.who == "knarr" && series.section == *section && series.quantity == *quantity
        };
        BUDGETS.iter().find(fits).map(|(_, _, budget)| *budget)
    }

    pub(super) fn limit(self) -> f64 {
        match self {
            Self::AtMost(limit) | Self::AtLeast(limit) => limit,
        }
    }

    pub(super) fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::AtMost(_) => "≤",
            Self::AtLeast(_) => "≥",
        }
    }
}
