//! `knarr.v1.Health/Examine`: what `knarr doctor` tells.

use cri_api::knarr;
use sandbox::{Outcome, Severity};

use crate::Server;

pub(crate) async fn examine(server: &Server, fix: bool) -> knarr::ExamineResponse {
    let findings = server.sandboxes.examine(fix).await;
    told(findings)
}

/// Findings as the service tells them.
pub fn told(findings: Vec<sandbox::Finding>) -> knarr::ExamineResponse {
    knarr::ExamineResponse { findings: findings.into_iter().map(finding).collect() }
}

fn finding(finding: sandbox::Finding) -> knarr::Finding {
    let (mendable, mended, failure) = match finding.outcome {
        Outcome::Found { mendable } => (mendable, false, String::new()),
        Outcome::Mended => (true, true, String::new()),
        Outcome::Failed(reason) => (true, false, reason),
    };
    let severity = match finding.severity {
        Severity::Problem => knarr::Severity::Problem,
        Severity::Advice => knarr::Severity::Advice,
    };
    knarr::Finding {
        area: finding.area.name().to_owned(),
        severity: severity.into(),
        object: finding.object,
        problem: finding.problem,
        remedy: finding.remedy,
        mendable,
        mended,
        failure,
    }
}
