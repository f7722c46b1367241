//! `list`

use super::state::{State, to_line};
use super::{Context, answer};
use crate::args::{ListArgs, ListFormat};
use crate::error::OciError;
use crate::launching::Host;

pub(crate) fn run(cx: &Context<'_>, args: &ListArgs) -> Result<(), OciError> {
    let ids = cx.store.ids()?;
    if args.quiet {
        return answer(&ids.iter().map(|id| format!("{id}\n")).collect::<String>());
    }
    let host = Host::look()?;
    let mut states = Vec::new();
    for id in ids {
        match cx.store.open(&id).and_then(|container| State::of(&host, &container)) {
            Ok(state) => states.push(state),
            // It has gone meanwhile.
            Err(OciError::NotFound { .. }) => {}
            // One that is damaged must not hide the others.
            Err(error) => cx.log.warning(&format!("{id}: {}", model::chain(&error))),
        }
    }
    match args.format {
        ListFormat::Json => answer(&to_line(&states)),
        ListFormat::Table => answer(&table(&states)),
    }
}

fn table(states: &[State]) -> String {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let row = |state: &State| {
        let State { id, pid, status, bundle, created, owner, .. } = state;
        [
            id.clone(),
            pid.to_string(),
            (*status).to_owned(),
            bundle.clone(),
            created.clone(),
            owner.clone(),
        ]
    };
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(states.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}   "));
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}
