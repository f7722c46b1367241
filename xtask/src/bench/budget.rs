//! What knarr promises: medians on a machine of two processors.

use super::series::Series;

/// A promise about one quantity.
#[derive(Debug, Clone, Copy)]
pub(super) enum Budget {
    AtMost(f64),
    AtLeast(f64),
}

/// A promise about one quantity, whatever its parameter is or at one value of it.
struct Promise {
    section: &'static str,
    quantity: &'static str,
    at: Option<u64>,
    budget: Budget,
}

const fn promise(section: &'static str, quantity: &'static str, budget: Budget) -> Promise {
    Promise { section, quantity, at: None, budget }
}

impl Promise {
    const fn at(self, at: u64) -> Self {
        Self { at: Some(at), ..self }
    }
}

const PROMISES: &[Promise] = &[
    promise("pods", "start of a pod", Budget::AtMost(12.0)),
    promise("pods", "StopContainer and RemoveContainer", Budget::AtMost(3.0)),
    promise("pods", "StopPodSandbox and RemovePodSandbox", Budget::AtMost(5.0)),
    promise("pods", "whole lives, 8 callers", Budget::AtLeast(60.0)),
    promise("exec", "ExecSync of `true`", Budget::AtMost(2.5)),
    promise("memory", "daemon", Budget::AtMost(15.0)).at(30),
    promise("memory", "supervisors, pause and helpers", Budget::AtMost(307.2)).at(30),
    promise("memory", "idle", Budget::AtMost(0.1)).at(100),
    promise("memory", "wake-ups of all supervisors", Budget::AtMost(0.0)).at(100),
    promise("list", "ListContainers", Budget::AtMost(5.0)).at(500),
    promise("restart", "kill -9 to a correct list", Budget::AtMost(200.0)).at(100),
    promise("scale", "ListContainers", Budget::AtMost(5.0)),
    promise("scale", "restart to first list", Budget::AtMost(200.0)),
    promise("oci", "OCI run of `true`", Budget::AtMost(5.0)),
    promise("pull", "gzip: time", Budget::AtMost(10.0)),
];

impl Budget {
    pub(super) fn of(series: &Series) -> Option<Self> {
        let fits = |promise: &&Promise| {
            series.who == "knarr"
                && series.section == promise.section
                && series.quantity == promise.quantity
                && promise.at.is_none_or(|at| series.at == Some(at))
        };
        PROMISES.iter().find(fits).map(|promise| promise.budget)
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
