//! `run`: create and start, and stay with the process to its end unless told otherwise.

use launch::plan::LaunchPlan;
use launch::{Launcher, Running};

use super::Context;
use super::create::New;
use super::delete;
use crate::args::RunArgs;
use crate::console;
use crate::error::OciError;
use crate::foreground::Foreground;
use crate::launching;

pub(crate) fn run(cx: &Context<'_>, args: &RunArgs) -> Result<u8, OciError> {
    let new = New::begin(cx, &args.id, &args.new, !args.detach)?;
    let foreground = if args.detach { None } else { Some(Foreground::begin()?) };
    let running = new.make(|launcher, plan| start(cx, args, &new, launcher, plan))?;
    // Others may work on the container from now on.
    drop(new);
    let Some(foreground) = foreground else { return Ok(0) };
    let code = foreground.wait(running);
    if !args.keep {
        delete::one(cx, &args.id, true)?;
    }
    code
}

fn start(
    cx: &Context<'_>,
    args: &RunArgs,
    new: &New<'_>,
    launcher: &Launcher,
    plan: &LaunchPlan,
) -> Result<Running, OciError> {
    let mut prepared = launcher.prepare(plan, console::io_of(plan.process.terminal))?;
    // If it does not start it is forgotten: the record may say so a moment too early.
    new.note(&prepared, true)?;
    let io = &args.new.io;
    prepared.console = launching::settle_console(io, prepared.console.take())?;
    launching::write_pid_file(io, prepared.pid)?;
    launching::hand_over_process(io, prepared.pidfd())?;
    let running = prepared.start_and(|pid| match &plan.hooks {
        Some(hooks) => launcher.poststart_hooks(hooks, pid),
        None => Ok(()),
    })?;
    launching::log_warnings(&running.warnings, cx.log);
    Ok(running)
}
