//! Whether the handlers' runtimes work, asked anew.

use std::path::Path;

use super::{Area, Examination};
use crate::error::chain;
use crate::external::read_base;
use crate::handler::{Handler, Probed, Program};

/// Every handler but the built-in one. Blocks for as long as the slowest runtime takes to answer.
pub(super) fn all(out: &mut Examination<'_>) {
    let cx = out.cx;
    let known = &cx.parts.handlers.known;
    let others =
        known.iter().filter_map(|(name, handler)| Some((name, handler, handler.program.as_ref()?)));
    let asked: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = others
            .map(|(name, handler, program)| {
                (name, handler, program, scope.spawn(move || cx.probes.ask(name, program)))
            })
            .collect();
        let answers = asking.into_iter().map(|(name, handler, program, answer)| {
            let answer = answer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (name, handler, program, answer)
        });
        answers.collect()
    });
    for (name, handler, program, answer) in asked {
        runtime(out, name, program, answer);
        base_spec(out, name, handler);
    }
}

fn runtime(
    out: &mut Examination<'_>,
    name: &str,
    program: &Program,
    answer: Result<Probed, String>,
) {
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

fn base_spec(out: &mut Examination<'_>, name: &str, handler: &Handler) {
    let Some(Err(error)) = handler.base_spec.as_deref().map(read_base) else { return };
    let remedy = format!("mend the file, or take handlers.{name}.base_spec away");
    let problem = format!("its containers cannot be made: {}", chain(&error));
    out.problem(Area::Handler, &name, problem, &remedy);
}
