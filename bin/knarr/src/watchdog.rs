//! The service manager's watchdog. It is fed only while somebody who connects to the socket is
//! answered: a daemon that is stuck is restarted, which no pod notices.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

/// How often it is looked within the time after which a silent daemon is restarted.
const LOOKS: u32 = 3;

/// Looks and feeds, for ever; ends at once where nobody watches.
pub(crate) async fn feed(socket: PathBuf) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let address = socket.to_string_lossy().into_owned();
    let pause = patience / LOOKS;
    let mut next = tokio::time::interval(pause);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        next.tick().await;
        match is_answered(&address, pause).await {
            Ok(()) => crate::serve::notify(&[sd_notify::NotifyState::Watchdog]),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "this daemon does not answer; the watchdog is not fed");
            }
        }
    }
}

/// As a client sees it, from the connection on.
async fn is_answered(address: &str, limit: Duration) -> Result<()> {
    let asked = async {
        let client = cli::client::Client::connect(address, Some(limit)).await?;
        client.greet().await?;
        anyhow::Ok(())
    };
    tokio::time::timeout(limit, asked).await.context("no answer in time")?
}
