//! Keeping the daemon small: few arenas, and what bursts of work have freed is given back.

use std::time::Duration;

use anyhow::{Context, Result};

/// Requests are short and few at a time: threads may wait for each other's allocations.
const ARENAS: i32 = 2;
/// Freed memory that is kept at the end of an arena.
const SLACK: i32 = 128 << 10;
/// Freed memory that is kept in all: the next request will want some.
const KEPT: usize = 1 << 20;
/// The buffers that downloads arrive in are smaller, some 400 KiB each. Mapped and unmapped one by
/// one they would cost a pull a tenth of its processor time, in page faults.
const MAPPED_ALONE: i32 = 1 << 20;
const OFTEN: Duration = Duration::from_secs(5);

/// Call it before there are threads.
pub(crate) fn limit() -> Result<()> {
    sys::heap::limit_arenas(ARENAS).context("cannot limit the allocator's arenas")?;
    sys::heap::limit_slack(SLACK).context("cannot limit what the allocator keeps")?;
    sys::heap::map_alone_from(MAPPED_ALONE).context("cannot tell the allocator what to keep")
}

/// Looks now and then, for as long as it is polled.
pub(crate) async fn give_back() {
    let mut next = tokio::time::interval(OFTEN);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        next.tick().await;
        if sys::heap::kept() > KEPT {
            let trimmed = tokio::task::spawn_blocking(sys::heap::give_back).await;
            if let Err(error) = trimmed {
                tracing::warn!(%error, "freed memory is kept until the next look");
            }
        }
    }
}
