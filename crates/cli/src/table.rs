//! Plain tables that fit their terminal.

use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table as Grid, presets::NOTHING};

/// A table under construction: a header, then rows of as many cells.
#[derive(Debug)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    whole: Vec<usize>,
}

impl Table {
    /// A table with these column titles. Columns listed in `whole` are never shortened.
    #[must_use]
    pub fn new(header: &[&'static str], whole: &[usize]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new(), whole: whole.to_vec() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as text, each row one line. With a `width` (a terminal's columns) long cells
    /// are shortened to fit; without one nothing is, so that a pipe gets everything.
    #[must_use]
    pub fn render(self, width: Option<u16>) -> String {
        let mut grid = Grid::new();
        grid.load_style(NOTHING).set_header(self.header);
        for cells in self.rows {
            let mut row = Row::from(cells.into_iter().map(printable).collect::<Vec<_>>());
            row.max_height(1);
            grid.add_row(row);
        }
        match width {
            Some(width) => {
                grid.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
                grid.set_truncation_indicator("…");
            }
            None => {
                grid.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        for (index, column) in grid.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.whole.contains(&index) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let mut text = String::new();
        for line in grid.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Control characters in names would move the cursor or colour the screen.
fn printable(cell: String) -> String {
    if cell.chars().any(char::is_control) {
        cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    } else {
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    fn sample() -> Table {
        let mut table = Table::new(&["ID", "NAME", "STATE"], &[0]);
        table.row(vec![
            "0123456789abc".into(),
            "a-container-whose-name-goes-on-and-on-and-on".into(),
            "Running".into(),
        ]);
        table.row(vec!["fedcba9876543".into(), "db".into(), "Exited (1)".into()]);
        table
    }

    #[test]
    fn every_row_is_one_line_within_the_terminal() {
        for width in [30, 40, 60, 80, 200] {
            let text = sample().render(Some(width));
            assert_eq!(text.lines().count(), 3, "{text}");
            for line in text.lines() {
                assert!(line.chars().count() <= usize::from(width), "{width}: {line}");
            }
            assert!(text.contains("0123456789abc"), "{text}");
        }
    }

    #[test]
    fn a_pipe_gets_whole_cells_and_no_trailing_space() {
        let text = sample().render(None);
        assert!(text.contains("a-container-whose-name-goes-on-and-on-and-on"));
        assert!(text.lines().all(|line| line.trim_end() == line));
    }

    #[test]
    fn control_characters_do_not_reach_the_screen() {
        let mut table = Table::new(&["NAME"], &[]);
        table.row(vec!["a\u{1b}[31mb\nc".into()]);
        let text = table.render(None);
        assert!(!text.contains('\u{1b}'));
        assert_eq!(text.lines().count(), 2);
    }
}
