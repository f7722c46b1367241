//! The parent half's work with `resctrl`: classes of cache and memory bandwidth. Paths are the
//! host's.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{At, LaunchError, Step};
use crate::plan::ResctrlPlan;

/// Opens what the child joins the group by, making the group first if the plan says what it is to
/// be. Tells whether it was made.
pub(crate) fn make(plan: &ResctrlPlan) -> Result<(bool, OwnedFd), LaunchError> {
    let made = if plan.schemata.is_empty() { false } else { make_group(plan)? };
    let tasks = open(plan).inspect_err(|_| {
        if made {
            // The failure to join is the one to report; an empty group harms nobody.
            remove(plan).ok();
        }
    })?;
    Ok((made, tasks))
}

/// Opens what a process joins the group by.
pub(crate) fn open(plan: &ResctrlPlan) -> Result<OwnedFd, LaunchError> {
    let tasks = format!("{}/tasks", plan.path);
    rustix::fs::open(tasks.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .at(Step::ResctrlJoin, &plan.path)
}

fn make_group(plan: &ResctrlPlan) -> Result<bool, LaunchError> {
    match rustix::fs::mkdir(plan.path.as_str(), Mode::from_raw_mode(0o755)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return compare(plan).map(|()| false),
        Err(errno) => return Err(LaunchError::new(Step::ResctrlMake, &plan.path, errno.into())),
    }
    // An empty group harms nobody: the failure to set it is the one to report.
    set(plan).inspect_err(|_| drop(remove(plan)))?;
    Ok(true)
}

/// Writes the lines of a plan into its group, which is there.
pub(crate) fn set(plan: &ResctrlPlan) -> Result<(), LaunchError> {
    for line in &plan.schemata {
        let file = format!("{}/schemata", plan.path);
        let written = sys::fs::write_value(CWD, file.as_str(), format!("{line}\n").as_bytes());
        written.at(Step::ResctrlSet, &format!("{file} to {line}"))?;
    }
    Ok(())
}

/// OCI: a class that exists already must be the one that is asked for.
fn compare(plan: &ResctrlPlan) -> Result<(), LaunchError> {
    let file = format!("{}/schemata", plan.path);
    let text = std::fs::read_to_string(&file).at(Step::ResctrlSet, &file)?;
    match plan.schemata.iter().find(|line| !holds(&text, line)) {
        None => Ok(()),
        Some(line) => {
            let differs = io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the group is there already, with another value",
            );
            Err(LaunchError::new(Step::ResctrlSet, format!("{file} to {line}"), differs))
        }
    }
}

/// Whether every domain of a line (`L3:0=f;1=f`) has that value in a schemata file.
fn holds(schemata: &str, line: &str) -> bool {
    let Some((resource, wanted)) = domains(line) else { return false };
    let Some((_, there)) = schemata.lines().filter_map(domains).find(|(name, _)| *name == resource)
    else {
        return false;
    };
    wanted.iter().all(|domain| there.contains(domain))
}

/// The resource, and the value of each of its domains without leading zeros.
fn domains(line: &str) -> Option<(&str, Vec<(&str, String)>)> {
    let (resource, list) = line.trim().split_once(':')?;
    let mut domains = Vec::new();
    for text in list.split(';').filter(|text| !text.trim().is_empty()) {
        let (id, value) = text.split_once('=')?;
        let value = value.trim().trim_start_matches("0x").trim_start_matches('0');
        domains.push((id.trim(), value.to_ascii_lowercase()));
    }
    Some((resource.trim(), domains))
}

/// Removes a group; one that is gone is success.
pub(crate) fn remove(plan: &ResctrlPlan) -> Result<(), LaunchError> {
    match rustix::fs::rmdir(plan.path.as_str()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(LaunchError::new(Step::ResctrlMake, &plan.path, errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_when_all_its_domains_have_their_value() {
        let there = "    MB:0=100;1=100\n    L3:0=00ff;1=000f\n";
        for (line, want) in [
            ("L3:0=ff", true),
            ("L3:0=ff;1=f", true),
            ("L3:1=0xF", true),
            ("MB:1=100;", true),
            ("L3:0=f", false),
            ("L3:2=f", false),
            ("L2:0=ff", false),
            ("nonsense", false),
        ] {
            assert_eq!(holds(there, line), want, "{line}");
        }
    }
}
