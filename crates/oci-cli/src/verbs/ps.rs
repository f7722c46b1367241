//! `ps`: a container's processes, in the words of the host's `ps`.

use std::process::Command;

use launch::Options;

use super::state::to_text;
use super::{Context, answer};
use crate::args::{ListFormat, PsArgs};
use crate::error::{At as _, OciError};
use crate::launching::{self, Host};

pub(crate) fn run(cx: &Context<'_>, args: &PsArgs) -> Result<(), OciError> {
    let container = cx.store.open(&args.id)?;
    let record = container.record()?;
    let host = Host::look()?;
    let cgroup = host.cgroup(&container.spec()?, &record)?;
    let launcher = launching::launcher(&container, Options::default())?;
    let mut pids: Vec<i32> =
        launcher.pids(&cgroup)?.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    pids.sort_unstable();
    match args.format {
        ListFormat::Json => answer(&format!("{}\n", to_text(&pids))),
        ListFormat::Table => answer(&table(&args.options, &pids)?),
    }
}

fn table(options: &[String], pids: &[i32]) -> Result<String, OciError> {
    let usual = ["-ef".to_owned()];
    let options = if options.is_empty() { &usual[..] } else { options };
    let output = Command::new("ps").args(options).output().at("run", "ps")?;
    if !output.status.success() {
        return Err(OciError::Program { program: "ps", how: output.status.to_string() });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    rows(&text, pids).ok_or_else(|| OciError::BadOption {
        option: "options for ps",
        value: options.join(" "),
        want: "what makes ps show a column PID",
    })
}

/// The head of a table and its rows about these processes.
fn rows(table: &str, pids: &[i32]) -> Option<String> {
    let head = table.lines().next()?;
    let column = head.split_ascii_whitespace().position(|name| name == "PID")?;
    let ours = |line: &&str| {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let rows = table.lines().skip(1).filter(ours);
    Some(std::iter::once(head).chain(rows).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_the_column_called_pid() {
        let table = "UID  PID  CMD\nroot   1  init 7\nroot   7  seven\n";
        assert_eq!(rows(table, &[7]).unwrap(), "UID  PID  CMD\nroot   7  seven\n");
        assert_eq!(rows(table, &[]).unwrap(), "UID  PID  CMD\n");
        assert_eq!(rows("UID CMD\nroot init\n", &[1]), None);
    }
}
