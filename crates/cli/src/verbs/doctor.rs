//! `knarr doctor`

use std::path::{Path, PathBuf};

use cri_api::knarr;

use crate::{
    Error, Io,
    client::{Client, Limit},
    output::{Format, FormatArg},
    table::Table,
};

/// Compare the records with the kernel and look at the host; exit code 1 when there is a problem
///
/// Looks at processes, mounts, network namespaces, links, addresses, host ports, cgroups, layers,
/// ingests and records, both ways. What belongs to no pod can be removed (--fix); what only a person
/// can decide is told with what to do. Advice alone leaves the exit code 0.
///
/// When knarr does not run, records and kernel are read as they are, and nothing can be mended.
#[derive(Debug, Clone, clap::Args)]
pub struct Doctor {
    /// Remove what belongs to nobody
    #[arg(long)]
    fix: bool,
    /// Its directory of records, to look into when knarr does not run
    #[arg(long, value_name = "DIR", default_value = "/var/lib/knarr")]
    root: PathBuf,
    /// Its directory of sockets, to look into when knarr does not run
    #[arg(long, value_name = "DIR", default_value = "/run/knarr")]
    state: PathBuf,
    /// Its configuration, to know its networks by when knarr does not run [default:
    /// /etc/knarr/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    output: FormatArg,
}

impl Doctor {
    /// Prints what does not match; 1 when a problem is left.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let mut service = client.health();
        let request = service.examine(knarr::ExamineRequest { fix: self.fix });
        // Given up by us, the daemon would stop half-way.
        let limit = if self.fix { Limit::None } else { Limit::Standard };
        let answer = client.call("examine the node", limit, request).await?;
        self.tell(&answer, io)
    }

    /// Where to look when knarr does not run: its root and its state.
    #[must_use]
    pub fn places(&self) -> (&Path, &Path) {
        (&self.root, &self.state)
    }

    /// What it is configured by when it does not run, if that is not the usual file.
    #[must_use]
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Whether something is to be mended.
    #[must_use]
    pub fn mends(&self) -> bool {
        self.fix
    }

    /// Prints what does not match; 1 when a problem is left.
    ///
    /// # Errors
    /// The output's.
    pub fn tell(&self, answer: &knarr::ExamineResponse, io: &mut Io<'_>) -> Result<u8, Error> {
        let left = answer.findings.iter().any(is_left);
        if self.output.format == Format::Table {
            if answer.findings.is_empty() {
                io.line("nothing is wrong")?;
                return Ok(0);
            }
            io.line(table(answer).render(io.width))?;
            for finding in &answer.findings {
                io.note(sentence(finding))?;
            }
        } else {
            io.emit(self.output.format, answer, table)?;
        }
        Ok(u8::from(left))
    }
}

fn is_left(finding: &knarr::Finding) -> bool {
    finding.severity() == knarr::Severity::Problem && !finding.mended
}

fn table(answer: &knarr::ExamineResponse) -> Table {
    let mut table = Table::new(&["", "AREA", "OBJECT", "FINDING"], &[0, 1]);
    for finding in &answer.findings {
        table.row(vec![
            mark(finding).to_owned(),
            finding.area.clone(),
            finding.object.clone(),
            finding.problem.clone(),
        ]);
    }
    table
}

fn mark(finding: &knarr::Finding) -> &'static str {
    match finding.severity() {
        _ if finding.mended => "mended",
        knarr::Severity::Problem => "problem",
        knarr::Severity::Advice => "advice",
    }
}

/// What to do about it.
fn sentence(finding: &knarr::Finding) -> String {
    let knarr::Finding { area, object, remedy, failure, .. } = finding;
    if finding.mended {
        format!("{area} {object}: done: {remedy}")
    } else if !failure.is_empty() {
        format!("{area} {object}: cannot {remedy}: {failure}")
    } else if finding.mendable {
        format!("{area} {object}: --fix: {remedy}")
    } else {
        format!("{area} {object}: {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_and_what_to_do_about_it_is_told() {
        let finding = knarr::Finding {
            area: "cgroup".into(),
            object: "/knarr/x".into(),
            remedy: "remove it".into(),
            mendable: true,
            ..Default::default()
        };
        assert!(is_left(&finding));
        assert_eq!(sentence(&finding), "cgroup /knarr/x: --fix: remove it");
        let mended = knarr::Finding { mended: true, ..finding.clone() };
        assert!(!is_left(&mended));
        assert_eq!(
            (mark(&mended), sentence(&mended)),
            ("mended", "cgroup /knarr/x: done: remove it".into())
        );
        let failed = knarr::Finding { failure: "busy".into(), ..finding.clone() };
        assert!(is_left(&failed));
        assert_eq!(sentence(&failed), "cgroup /knarr/x: cannot remove it: busy");
        let advice = knarr::Finding { severity: knarr::Severity::Advice.into(), ..finding };
        assert!(!is_left(&advice));
        assert_eq!(mark(&advice), "advice");
    }
}
