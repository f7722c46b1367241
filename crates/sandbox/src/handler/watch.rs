//! Whether handlers' runtimes still are what they were. `Status` tells it and asks nobody: a runtime that was replaced is
//! asked here, each by a task of its own. A program that hangs, or lies on a file system that does, keeps nothing
//! else from its work.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Program;
use super::probe::Again;
use crate::context::Context;

/// How often a file is looked at; what `docs/operate/handlers.md` promises.
const EVERY: Duration = Duration::from_secs(10);

/// Asks every runtime before the daemon serves. One that has not answered by the time all must have cannot run pods
/// until it is asked again: no file system that hangs keeps the daemon from its other pods.
pub(crate) async fn ask_all(cx: &Arc<Context>) {
    let mut asking = JoinSet::new();
    for (name, handler) in &cx.parts.handlers.known {
        let Some(program) = handler.program.clone() else { continue };
        let (cx, name) = (Arc::clone(cx), name.clone());
        asking.spawn(async move {
            if cx.ask_in_time(&name, &program, Again::IfReplaced).await.is_none() {
                tracing::error!(
                    handler = %name,
                    "its runtime has not answered what it can do, and does not end even when it is killed"
                );
            }
        });
    }
    asking.join_all().await;
}

/// Looks again and again until the daemon drains.
pub(crate) async fn run(
    cx: Arc<Context>,
    name: String,
    program: Program,
    draining: CancellationToken,
) {
    loop {
        let round = async {
            tokio::time::sleep(EVERY).await;
            cx.ask_in_time(&name, &program, Again::IfReplaced).await;
        };
        // What has begun to be asked then is told to nobody.
        tokio::select! {
            () = draining.cancelled() => return,
            () = round => {}
        }
    }
}
