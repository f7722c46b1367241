//! Results as a table: on the terminal and in Markdown.

use super::budget::Budget;
use super::series::{Series, by_quantity};
use super::statistics::Ratio;

const HEADS: [&str; 8] =
    ["what", "at", "who", "values", "median", "quartiles", "p95", "knarr is better by"];

/// One row per series. The first of those that have a quantity is what the others are compared to.
fn rows(all: &[Series]) -> Vec<[String; 8]> {
    let mut rows = Vec::new();
    for group in by_quantity(all) {
        let Some((first, _)) = group.split_first() else { continue };
        for series in &group {
            let what = format!("{}, {}", series.quantity, series.unit);
            let at = series.at.map(|at| at.to_string()).unwrap_or_default();
            let last = if std::ptr::eq(*series, *first) {
                promise(series)
            } else {
                advantage(first.better_than(series))
            };
            let quartiles = [0.25, 0.75].map(|q| short(series.quantile(q))).join(" – ");
            rows.push([
                what,
                at,
                series.who.clone(),
                series.values.len().to_string(),
                short(series.median()),
                quartiles,
                short(series.quantile(0.95)),
                last,
            ]);
        }
    }
    rows
}

/// What is promised, what was measured, and what others measured: one row for each promise.
pub(super) fn promises(all: &[Series]) -> String {
    let mut text =
        String::from("| what | promised | knarr | | others, and knarr is better by |\n|");
    text.push_str(&" --- |".repeat(5));
    text.push('\n');
    for group in by_quantity(all) {
        let ours = group.iter().find_map(|one| Budget::of(one).map(|budget| (one, budget)));
        let Some((ours, budget)) = ours else { continue };
        let others = group.iter().filter(|one| one.who != ours.who).map(|other| {
            let ratio = advantage(ours.better_than(other));
            format!("{} {}: {ratio}", other.who, short(other.median()))
        });
        let others: Vec<String> = others.collect();
        let at = ours.at.map(|at| format!(", {at} pods")).unwrap_or_default();
        let met = if budget.is_met_by(ours.median()) { "met" } else { "**not met**" };
        text.push_str(&format!(
            "| {}: {}{at}, {} | {} {} | {} | {met} | {} |\n",
            ours.section,
            ours.quantity,
            ours.unit,
            budget.sign(),
            budget.limit(),
            short(ours.median()),
            others.join("; "),
        ));
    }
    text
}

/// Three digits that count.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn promise(series: &Series) -> String {
    Budget::of(series).map_or_else(String::new, |budget| {
        let met = if budget.is_met_by(series.median()) { "met" } else { "NOT met" };
        format!("budget {} {}: {met}", budget.sign(), budget.limit())
    })
}

fn advantage(ratio: Ratio) -> String {
    if !ratio.value.is_finite() {
        return String::new();
    }
    let interval = ratio.interval.map(|(low, high)| format!(" ({} – {})", short(low), short(high)));
    format!("{}×{}", short(ratio.value), interval.unwrap_or_default())
}

/// For the terminal.
pub(super) fn text(all: &[Series]) -> String {
    let rows = rows(all);
    let lines = || std::iter::once(HEADS.map(str::to_owned)).chain(rows.iter().cloned());
    let width = |column: usize| {
        lines().filter_map(|row| row.get(column).map(|cell| cell.chars().count())).max()
    };
    let widths: Vec<usize> = (0..HEADS.len()).filter_map(width).collect();
    let mut text = String::new();
    for row in lines() {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// For a page.
pub(super) fn markdown(all: &[Series]) -> String {
    let mut text = format!("| {} |\n|{}\n", HEADS.join(" | "), " --- |".repeat(HEADS.len()));
    for row in rows(all) {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(who: &str, values: &str) -> Series {
        Series::parse(&["pods", "start of a pod, ms", "", who, values]).unwrap()
    }

    #[test]
    fn others_are_compared_and_promises_judged() {
        let page = markdown(&[series("knarr", "10 10 10"), series("other", "150 150 150")]);
        let lines: Vec<&str> = page.lines().collect();
        assert!(lines[2].contains("budget ≤ 12: met"), "{page}");
        assert!(lines[3].contains("| 15.0× |"), "{page}");
        let late = text(&[series("knarr", "13")]);
        assert!(late.contains("budget ≤ 12: NOT met"), "{late}");
    }

    #[test]
    fn a_promise_stands_with_what_others_do() {
        let page = promises(&[series("knarr", "13"), series("other", "130")]);
        let row = page.lines().nth(2).unwrap();
        assert_eq!(
            row,
            "| pods: start of a pod, ms | ≤ 12 | 13.0 | **not met** | other 130: 10.0× |"
        );
        let unpromised = Series::parse(&["pods", "else, ms", "", "knarr", "1"]).unwrap();
        assert_eq!(promises(&[unpromised]).lines().count(), 2);
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        let all = [1234.5, 12.34, 1.234, 0.0123, 0.0].map(short);
        assert_eq!(all, ["1234", "12.3", "1.23", "0.0123", "0.00"]);
    }
}
