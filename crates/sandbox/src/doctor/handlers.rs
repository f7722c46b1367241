//! Whether the handlers' runtimes work, asked anew.

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::parts::SILENT;
use super::{Area, Case, Cases};
use crate::context::Context;
use crate::error::chain;
use crate::external::read_base;
use crate::handler::{Again, Probed, Program};

/// Every handler but the built-in one, side by side, for as long as an answer may take.
pub(super) async fn ask(cx: &Arc<Context>) -> Vec<Case> {
    let mut asking = JoinSet::new();
    for (name, handler) in &cx.parts.handlers.known {
        let Some(program) = handler.program.clone() else { continue };
        let (cx, name) = (Arc::clone(cx), name.clone());
        asking.spawn(async move { cases(&cx, name, program).await });
    }
    asking.join_all().await.into_iter().flatten().collect()
}

async fn cases(cx: &Arc<Context>, name: String, program: Program) -> Vec<Case> {
    let place = program.path.to_string_lossy().into_owned();
    let mut silent = Cases::default();
    let problem = format!("its pods cannot run: {place} does not answer, even killed");
    silent.problem(Area::Handler, &name, problem, SILENT);
    let Some(answer) = cx.ask_in_time(&name, &program, Again::Always).await else {
        return silent.0;
    };
    let told = move || {
        let mut out = Cases::default();
        runtime(&mut out, &name, &program, answer);
        out.0
    };
    cx.unseen.work_at(&place, told).await.unwrap_or(silent.0)
}

fn runtime(out: &mut Cases, name: &str, program: &Program, answer: Result<Probed, String>) {
    match answer {
        Err(reason) => {
            let remedy = remedy(name, &program.path);
            out.problem(Area::Handler, &name, format!("its pods cannot run: {reason}"), &remedy);
        }
        Ok(Probed { version, unknown: Some(why), .. }) => {
            let problem = format!(
                "its pods can have no user namespaces and no recursive read-only mounts: {why} ({version})"
            );
            let remedy = "nothing, unless pods ask for them: then take a newer version of it";
            out.advice(Area::Handler, &name, problem, remedy);
        }
        Ok(Probed { unknown: None, .. }) => {}
    }
}

/// What the usual reasons ask for.
fn remedy(name: &str, path: &Path) -> String {
    let path_shown = path.display();
    match std::fs::metadata(path) {
        Err(_) => {
            format!("install it, or set handlers.{name}.path: pods run then without a restart")
        }
        Ok(file) if !file.is_file() => {
            format!("{path_shown} is no file: set handlers.{name}.path to the program")
        }
        Ok(file) if std::os::unix::fs::MetadataExt::mode(&file) & 0o111 == 0 => {
            format!("chmod +x {path_shown}")
        }
        Ok(_) => format!("see what `{path_shown} --version` says, and mend that"),
    }
}

/// Whether a handler's base spec can be read. Blocking.
pub(super) fn base_spec(out: &mut Cases, name: &str, path: &Path) {
    let Err(error) = read_base(path) else { return };
    let remedy = format!("mend the file, or take handlers.{name}.base_spec away");
    let problem = format!("its containers cannot be made: {}", chain(&error));
    out.problem(Area::Handler, &name, problem, &remedy);
}
