//! Measuring by turns: what disturbs the machine meanwhile disturbs everybody.

use std::time::Duration;

use anyhow::{Context, Result};
use test_support::bench::{Sheet, Standing};
use tokio::time::timeout;

use crate::Section;
use crate::subject::Subject;

/// No round takes so long, whatever a runtime does: one that hangs must not hang us.
const ROUND: Duration = Duration::from_secs(900);

/// What one round of one subject brought.
pub(crate) type Measured = Vec<(&'static str, f64)>;

/// One round of each subject in turn, so many times, after one that is not counted: what is made
/// once (bridge, caches) is no pod's. A round that fails is counted as failed and cleared away;
/// who fails again and again is left out of the rest.
pub(crate) async fn alternate(
    subjects: &mut [Subject],
    sheet: &mut Sheet,
    section: Section,
    rounds: usize,
    round: impl AsyncFn(&mut Subject) -> Result<Measured>,
) {
    let mut standing = Standing::default();
    for number in 0..=rounds {
        for subject in subjects.iter_mut().filter(|subject| !subject.is_out) {
            if !standing.is_in(&subject.name) {
                continue;
            }
            sheet.tries(section.name(), &subject.name);
            let ended = timeout(ROUND, Box::pin(round(subject))).await;
            let measured = ended.context("the round did not end").flatten();
            let done = measured.is_ok();
            match measured {
                Ok(measured) if number > 0 => {
                    for (quantity, value) in measured {
                        sheet.note(section.name(), quantity, &subject.name, value);
                    }
                }
                Ok(_warm_up) => {}
                Err(error) => {
                    sheet.failed(section.name(), &subject.name, &format!("{error:#}"));
                    clear(subject, sheet, section).await;
                }
            }
            standing.note(sheet, section.name(), &subject.name, done);
        }
    }
}

/// Removes all of a subject's pods. Where that cannot be done nothing more is asked of it.
pub(crate) async fn clear(subject: &mut Subject, sheet: &mut Sheet, section: Section) {
    if let Err(error) = subject.clear().await {
        let why = format!("left out of all that follows: its pods do not go: {error:#}");
        sheet.failed(section.name(), &subject.name, &why);
        subject.is_out = true;
    }
}
