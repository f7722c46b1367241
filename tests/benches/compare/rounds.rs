//! Measuring by turns: what disturbs the machine meanwhile disturbs everybody.

use anyhow::Result;
use test_support::bench::Sheet;

use crate::Section;
use crate::subject::Subject;

/// What one round of one subject brought.
pub(crate) type Measured = Vec<(&'static str, f64)>;

/// One round of each subject in turn, so many times, after one that is not counted: what is made
/// once (bridge, caches) is no pod's. A round that fails is counted as failed and cleared away.
pub(crate) async fn alternate(
    subjects: &mut [Subject],
    sheet: &mut Sheet,
    section: Section,
    rounds: usize,
    round: impl AsyncFn(&mut Subject) -> Result<Measured>,
) {
    for number in 0..=rounds {
        for subject in &mut *subjects {
            match Box::pin(round(subject)).await {
                Ok(measured) if number > 0 => {
                    for (quantity, value) in measured {
                        sheet.note(section.name(), quantity, &subject.name, value);
                    }
                }
                Ok(_warm_up) => {}
                Err(error) => {
                    sheet.failed(section.name(), &subject.name, &format!("{error:#}"));
                    if let Err(error) = subject.cri.remove_everything().await {
                        sheet.failed(section.name(), &subject.name, &format!("{error:#}"));
                    }
                }
            }
        }
    }
}
