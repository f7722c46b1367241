//! Results as pictures: bars with their spread, and curves over what a quantity depends on.

use std::fmt::Write as _;

use super::series::{Series, by_quantity};
use super::table::short;

const COLOURS: [&str; 4] = ["#1f6f8b", "#c2703d", "#7a8450", "#7b5e7b"];
const TEXT: &str = "font-family=\"sans-serif\" font-size=\"12\"";

/// Who is drawn in which colour: in the order of their first series.
fn everybody(all: &[Series]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for series in all {
        if !names.contains(&series.who.as_str()) {
            names.push(&series.who);
        }
    }
    names
}

fn colour(names: &[&str], who: &str) -> &'static str {
    let place = names.iter().position(|name| *name == who).unwrap_or_default();
    COLOURS[place % COLOURS.len()]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn number(place: usize) -> f64 {
    u32::try_from(place).map_or(f64::MAX, f64::from)
}

/// A picture of this size with everybody's colour at its top.
fn picture(width: f64, height: f64, names: &[&str], content: &str) -> String {
    let mut legend = String::new();
    let mut x = 16.0;
    for name in names {
        let fill = colour(names, name);
        write!(legend, "<rect x=\"{x}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{fill}\"/>")
            .ok();
        let name_at = x + 18.0;
        let text = escape(name);
        write!(legend, "<text x=\"{name_at}\" y=\"22\" {TEXT}>{text}</text>").ok();
        x += 40.0 + 8.0 * number(name.chars().count());
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n{legend}\n{content}</svg>\n"
    )
}

/// What most people ask first: section, quantity, and the number of pods where it depends on that.
const HEADLINES: [(&str, &str, Option<u64>); 7] = [
    ("pods", "start of a pod", None),
    ("pods", "StopPodSandbox and RemovePodSandbox", None),
    ("pods", "processor time of a pod's life", None),
    ("exec", "ExecSync of `true`", None),
    ("memory", "everything but the containers", Some(100)),
    ("restart", "kill -9 to a correct list", Some(100)),
    ("oci", "OCI run of `true`", None),
];

/// Those that [`curves`] does not draw: what depends on nothing, or was measured at one place.
pub(super) fn once(all: &[Series]) -> Vec<Series> {
    let alone = |one: &&Series| {
        let same = |other: &&Series| other.quantity == one.quantity;
        all.iter().filter(same).all(|other| other.at == one.at)
    };
    all.iter().filter(alone).cloned().collect()
}

/// The bars of those that were measured of somebody else as well.
pub(super) fn headline(all: &[Series]) -> Option<String> {
    let wanted = |one: &&Series| HEADLINES.contains(&(&one.section, &one.quantity, one.at));
    let of: Vec<Series> = all.iter().filter(wanted).cloned().collect();
    let several = by_quantity(&of).into_iter().filter(|group| group.len() > 1);
    let of: Vec<Series> = several.flatten().cloned().collect();
    (!of.is_empty()).then(|| bars(&of))
}

/// A row of bars per quantity, each row on its own scale from zero: the median, and a line from the
/// 5th to the 95th of a hundred.
pub(super) fn bars(all: &[Series]) -> String {
    const LEFT: f64 = 380.0;
    const WIDE: f64 = 340.0;
    const BAR: f64 = 14.0;
    let names = everybody(all);
    let mut content = String::new();
    let mut y = 40.0;
    for group in by_quantity(all) {
        let largest = group.iter().map(|one| one.quantile(0.95)).fold(f64::MIN_POSITIVE, f64::max);
        let Some(first) = group.first() else { continue };
        let at = first.at.map(|at| format!(" at {at}")).unwrap_or_default();
        let label = escape(&format!("{}{at}, {}", first.quantity, first.unit));
        let middle = y + BAR * number(group.len()) / 2.0 + 4.0;
        let label_at = LEFT - 10.0;
        writeln!(
            content,
            "<text x=\"{label_at}\" y=\"{middle:.1}\" text-anchor=\"end\" {TEXT}>{label}</text>"
        )
        .ok();
        for one in group {
            content.push_str(&bar(one, y, WIDE / largest, colour(&names, &one.who), LEFT, BAR));
            y += BAR;
        }
        y += 12.0;
    }
    picture(LEFT + WIDE + 90.0, y + 4.0, &names, &content)
}

fn bar(one: &Series, y: f64, scale: f64, fill: &str, left: f64, height: f64) -> String {
    let [low, median, high] = [0.05, 0.5, 0.95].map(|q| one.quantile(q) * scale);
    let (inner, middle, baseline) = (height - 2.0, y + height / 2.0 - 1.0, y + height - 3.0);
    let [from, to] = [low, high].map(|x| left + x);
    let text_at = left + high.max(median) + 6.0;
    let value = short(one.median());
    format!(
        "<rect x=\"{left}\" y=\"{y:.1}\" width=\"{median:.1}\" height=\"{inner}\" fill=\"{fill}\"/>\
         <line x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\" stroke=\"black\"/>\
         <text x=\"{text_at:.1}\" y=\"{baseline:.1}\" {TEXT}>{value}</text>\n"
    )
}

/// A small graph for each quantity that was measured at several values of its parameter.
pub(super) fn curves(all: &[Series], axis: &str) -> Option<String> {
    const WIDE: f64 = 360.0;
    const HIGH: f64 = 230.0;
    let names = everybody(all);
    let mut quantities: Vec<&str> = Vec::new();
    for one in all {
        if one.at.is_some() && !quantities.contains(&one.quantity.as_str()) {
            quantities.push(&one.quantity);
        }
    }
    let graphs = quantities.iter().filter_map(|quantity| {
        let of: Vec<&Series> = all.iter().filter(|one| one.quantity == *quantity).collect();
        let several = of.iter().any(|one| one.at != of.first().and_then(|first| first.at));
        several.then_some(of)
    });
    let mut content = String::new();
    let mut count = 0;
    for (place, of) in graphs.enumerate() {
        let (x, y) = (number(place % 2) * WIDE, 36.0 + number(place / 2) * HIGH);
        let graph = graph(&of, &names, axis);
        writeln!(content, "<g transform=\"translate({x} {y})\">{graph}</g>").ok();
        count = place + 1;
    }
    (count > 0)
        .then(|| picture(WIDE * 2.0, 44.0 + number(count.div_ceil(2)) * HIGH, &names, &content))
}

/// One graph, 340 by 210: from zero in both directions.
fn graph(of: &[&Series], names: &[&str], axis: &str) -> String {
    const LEFT: f64 = 56.0;
    const BOTTOM: f64 = 176.0;
    const WIDE: f64 = 270.0;
    const HIGH: f64 = 146.0;
    let at = |one: &Series| one.at.and_then(|at| u32::try_from(at).ok()).map_or(0.0, f64::from);
    let most = of.iter().map(|one| at(one)).fold(1.0, f64::max);
    let largest = of.iter().map(|one| one.median()).fold(f64::MIN_POSITIVE, f64::max);
    let point =
        |one: &Series| (LEFT + at(one) / most * WIDE, BOTTOM - one.median() / largest * HIGH);
    let title = of.first().map(|one| escape(&format!("{}, {}", one.quantity, one.unit)));
    let (title, largest) = (title.unwrap_or_default(), short(largest));
    let (right, top, below) = (LEFT + WIDE, BOTTOM - HIGH, BOTTOM + 16.0);
    let mut text = format!(
        "<text x=\"{LEFT}\" y=\"16\" {TEXT}>{title}</text>\
         <path d=\"M{LEFT} {top}V{BOTTOM}H{right}\" fill=\"none\" stroke=\"#888\"/>\
         <text x=\"50\" y=\"{top}\" text-anchor=\"end\" {TEXT}>{largest}</text>\
         <text x=\"50\" y=\"{BOTTOM}\" text-anchor=\"end\" {TEXT}>0</text>\
         <text x=\"{right}\" y=\"{below}\" text-anchor=\"end\" {TEXT}>{most} {axis}</text>"
    );
    for name in names {
        let mut points: Vec<(f64, f64)> =
            of.iter().filter(|one| one.who == *name).map(|one| point(one)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (line, stroke) = (line.join(" "), colour(names, name));
        write!(
            text,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\"/>"
        )
        .ok();
        for (x, y) in &points {
            write!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{stroke}\"/>").ok();
        }
        if let Some((x, y)) = points.last() {
            let last = of.iter().filter(|one| one.who == *name).max_by_key(|one| one.at);
            let value = last.map(|one| short(one.median())).unwrap_or_default();
            // Above the last point where there is no room behind it.
            let (x, y, anchor) =
                if *x < right - 50.0 { (x + 7.0, y + 4.0, "start") } else { (*x, y - 7.0, "end") };
            write!(
                text,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{stroke}\" {TEXT}>{value}</text>"
            )
            .ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(quantity: &str, at: &str, who: &str, values: &str) -> Series {
        Series::parse(&["s", quantity, at, who, values]).unwrap()
    }

    #[test]
    fn bars_are_as_long_as_their_medians() {
        let all = [series("a <b>, ms", "", "x", "10 10"), series("a <b>, ms", "", "y", "40 40")];
        let svg = bars(&all);
        assert!(svg.contains("width=\"85.0\"") && svg.contains("width=\"340.0\""), "{svg}");
        assert!(svg.contains("a &lt;b&gt;, ms") && svg.matches("<line").count() == 2, "{svg}");
    }

    #[test]
    fn each_is_a_bar_or_a_curve() {
        let all = [
            series("a, ms", "10", "x", "1"),
            series("a, ms", "100", "x", "4"),
            series("b, ms", "100", "x", "4"),
            series("c, ms", "", "x", "4"),
        ];
        let bars: Vec<String> = once(&all).into_iter().map(|one| one.quantity).collect();
        assert_eq!(bars, ["b", "c"]);
    }

    #[test]
    fn only_what_was_measured_at_several_places_is_a_curve() {
        let once = [series("a, ms", "10", "x", "1")];
        assert_eq!(curves(&once, "pods"), None);
        let twice = [series("a, ms", "10", "x", "1"), series("a, ms", "100", "x", "4")];
        let svg = curves(&twice, "pods").unwrap();
        assert!(svg.contains("83.0,139.5 326.0,30.0") && svg.contains("100 pods"), "{svg}");
    }
}
