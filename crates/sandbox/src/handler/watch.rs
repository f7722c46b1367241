//! Whether handlers' runtimes still are what they were. `Status` tells it and asks nobody: a runtime that was replaced is
//! asked here, each by a task of its own. A program that hangs, or lies on a file system that does, keeps nothing
//! else from its work.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Program;
use super::probe::TURN;
use crate::blocking;
use crate::context::Context;

/// How often a file is looked at; what `docs/operate/handlers.md` promises.
const EVERY: Duration = Duration::from_secs(10);

/// Asks every runtime before the daemon serves. One that has not answered by the time all must have cannot run pods
/// until it is asked again: no file system that hangs keeps the daemon from its other pods.
pub(crate) async fn ask_all(cx: &Arc<Context>) {
    let asking = Arc::clone(cx);
    let asked = blocking::run(move || asking.probes.renew_all(&asking.parts.handlers));
    if tokio::time::timeout(TURN, asked).await.is_err() {
        let known = cx.parts.handlers.known.iter().filter(|(_, handler)| handler.program.is_some());
        for (name, _) in known.filter(|(name, _)| cx.probes.get(name).is_none()) {
            tracing::error!(
                handler = %name,
                "its runtime has not answered what it can do, and does not end even when it is killed"
            );
        }
    }
}

/// Looks again and again until the daemon drains.
pub(crate) async fn run(
    cx: Arc<Context>,
    name: String,
    program: Program,
    draining: CancellationToken,
) {
    loop {
        let (asking, name, program) = (Arc::clone(&cx), name.clone(), program.clone());
        let round = async move {
            tokio::time::sleep(EVERY).await;
            blocking::run(move || asking.probes.renew(&name, &program, false)).await;
        };
        // What has begun to be asked then is told to nobody.
        tokio::select! {
            () = draining.cancelled() => return,
            () = round => {}
        }
    }
}
