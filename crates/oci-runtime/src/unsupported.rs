//! What a spec may say and the launcher cannot do.

use oci_spec::runtime::{Process, Spec};

use crate::PlanError;

/// Refuses every field that would otherwise be silently left out. Fields that other modules
/// read refuse there.
pub(crate) fn check(spec: &Spec) -> Result<(), PlanError> {
    refuse(&[
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ])?;
    spec.process().as_ref().map_or(Ok(()), process)
}

fn process(process: &Process) -> Result<(), PlanError> {
    refuse(&[
        ("process.commandLine", process.command_line().is_some()),
        ("process.user.username", process.user().username().is_some()),
    ])
}

fn refuse(fields: &[(&str, bool)]) -> Result<(), PlanError> {
    match fields.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(PlanError::unsupported(*field)),
        None => Ok(()),
    }
}
