//! `pause` and `resume`

use launch::Options;

use super::Context;
use crate::container::Status;
use crate::error::OciError;
use crate::launching::{self, Host};

pub(crate) fn run(cx: &Context<'_>, id: &str, frozen: bool) -> Result<(), OciError> {
    let container = cx.store.open(id)?;
    let _lock = container.lock()?;
    let record = container.record()?;
    let host = Host::look()?;
    let status = host.status(&container, &record)?;
    let fits = match status {
        Status::Created | Status::Running => frozen,
        Status::Paused => !frozen,
        Status::Creating | Status::Stopped => false,
    };
    if !fits {
        let verb = if frozen { "pause" } else { "resume" };
        return Err(OciError::WrongStatus { verb, id: id.to_owned(), status });
    }
    let launcher = launching::launcher(&container, Options::default())?;
    Ok(launcher.set_frozen(&host.cgroup(&container.spec()?, &record)?, frozen)?)
}
