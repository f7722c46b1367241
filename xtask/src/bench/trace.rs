//! One pod's start, step by step: for Chrome's or Perfetto's viewer, and as text.

use std::time::Duration;

use serde_json::{Value, json};

use anyhow::{Context, Result, ensure};

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Nanoseconds of the kernel's monotonic clock.
    pub(super) begin: u64,
    pub(super) end: u64,
    /// Which process did it: `client`, `daemon`, `shim`, `child`.
    pub(super) lane: String,
    pub(super) name: String,
}

impl Span {
    /// BEGIN, END, `LANE: NAME`.
    pub(super) fn parse(fields: &[&str]) -> Result<Self> {
        let [begin, end, name] = fields else { anyhow::bail!("not a span: {fields:?}") };
        let (lane, name) = name.split_once(": ").context("a span of nobody")?;
        let (begin, end) =
            (begin.parse().context("begin of a span")?, end.parse().context("end of a span")?);
        ensure!(begin <= end, "a span that ends before it begins: {fields:?}");
        Ok(Self { begin, end, lane: lane.to_owned(), name: name.to_owned() })
    }

    fn holds(&self, other: &Self) -> bool {
        self.begin <= other.begin && other.end <= self.end
    }
}

/// Trace events in JSON: <https://ui.perfetto.dev> and `chrome://tracing` show them.
///
/// A process for each lane. What goes on in it at the same time, without one being part of the other,
/// are threads of it: the viewers take all of one thread's for a stack.
pub(super) fn chrome(spans: &[Span]) -> Value {
    let origin = spans.iter().map(|span| span.begin).min().unwrap_or_default();
    let mut events = Vec::new();
    for (process, lane) in lanes(spans).into_iter().enumerate() {
        // 0 is nobody's number.
        let process = process + 1;
        events.push(named("process_name", process, 1, lane));
        events.push(json!({
            "ph": "M", "name": "process_sort_index", "pid": process, "tid": 1,
            "args": {"sort_index": process},
        }));
        let threads = threads(spans.iter().filter(|span| span.lane == lane).collect());
        for (thread, stacked) in threads.iter().enumerate() {
            let thread = thread + 1;
            let name = if thread == 1 { lane.to_owned() } else { format!("{lane} {thread}") };
            events.push(named("thread_name", process, thread, &name));
            events.extend(stacked.iter().map(|span| {
                json!({
                    "ph": "X", "name": span.name, "cat": lane, "pid": process, "tid": thread,
                    "ts": micros(span.begin - origin), "dur": micros(span.end - span.begin),
                })
            }));
        }
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

fn named(what: &str, process: usize, thread: usize, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name} })
}

/// In the order in which they began.
fn lanes(spans: &[Span]) -> Vec<&str> {
    let mut sorted: Vec<&Span> = spans.iter().collect();
    sorted.sort_by_key(|span| span.begin);
    let mut lanes: Vec<&str> = Vec::new();
    for span in sorted {
        if !lanes.contains(&span.lane.as_str()) {
            lanes.push(&span.lane);
        }
    }
    lanes
}

/// Spans of one process, in as few stacks as they fit into.
fn threads(mut spans: Vec<&Span>) -> Vec<Vec<&Span>> {
    spans.sort_by_key(|span| (span.begin, std::cmp::Reverse(span.end)));
    let mut threads: Vec<Vec<&Span>> = Vec::new();
    for span in spans {
        let fits = |stacked: &Vec<&Span>| {
            stacked.iter().all(|earlier| earlier.holds(span) || earlier.end <= span.begin)
        };
        match threads.iter_mut().find(|stacked| fits(stacked)) {
            Some(stacked) => stacked.push(span),
            None => threads.push(vec![span]),
        }
    }
    threads
}

fn micros(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

/// Nanoseconds in which at least one of the steps that have no steps of their own was under way.
fn explained(spans: &[Span]) -> u64 {
    let is_leaf = |one: &&Span| !spans.iter().any(|other| one.holds(other) && other != *one);
    let mut leaves: Vec<&Span> = spans.iter().filter(is_leaf).collect();
    leaves.sort_by_key(|span| span.begin);
    let (mut sum, mut until) = (0, 0);
    for leaf in leaves {
        sum += leaf.end.saturating_sub(leaf.begin.max(until));
        until = until.max(leaf.end);
    }
    sum
}

/// A line per span, in the order in which they began: when, how long, and a bar.
pub(super) fn waterfall(spans: &[Span]) -> String {
    const WIDE: u64 = 60;
    let mut sorted: Vec<&Span> = spans.iter().collect();
    sorted.sort_by_key(|span| (span.begin, std::cmp::Reverse(span.end)));
    let origin = sorted.first().map_or(0, |span| span.begin);
    let whole = sorted.iter().map(|span| span.end - origin).max().unwrap_or(1).max(1);
    let mut text = format!("{:>8} {:>8}  {:60}  what\n", "at, ms", "for, ms", "");
    for (place, span) in sorted.iter().enumerate() {
        let depth = sorted.iter().take(place).filter(|earlier| earlier.holds(span)).count();
        let from = (span.begin - origin) * WIDE / whole;
        let to = ((span.end - origin) * WIDE).div_ceil(whole).max(from + 1);
        let bar: String =
            (0..WIDE).map(|x| if (from..to).contains(&x) { '█' } else { ' ' }).collect();
        let at = micros(span.begin - origin) / 1000.0;
        let took = micros(span.end - span.begin) / 1000.0;
        let indent = "  ".repeat(depth);
        let line = format!("{at:>8.3} {took:>8.3}  {bar}  {indent}{}: {}", span.lane, span.name);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let (whole, told) = (micros(whole) / 1000.0, micros(explained(spans)) / 1000.0);
    let rest = whole - told;
    text.push_str(&format!(
        "\n{whole:.3} ms in all: {told:.3} in the innermost steps, {rest:.3} between them, on the way from one \
         process\nto the next and back, and in what is too small to be a step.\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(begin: &str, end: &str, name: &str) -> Span {
        Span::parse(&[begin, end, name]).unwrap()
    }

    #[test]
    fn a_span_within_another_is_below_it() {
        let spans = [
            span("2000000", "3000000", "shim: inner"),
            span("1000000", "5000000", "daemon: outer"),
        ];
        let text = waterfall(&spans);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].starts_with("   0.000    4.000  █") && lines[1].ends_with("  daemon: outer")
        );
        assert!(
            lines[2].starts_with("   1.000    1.000 ") && lines[2].ends_with("    shim: inner")
        );
        assert_eq!(lines[2].matches('█').count(), 15);
    }

    #[test]
    fn the_viewer_gets_microseconds_of_named_processes() {
        let value = chrome(&[span("1000000", "1002500", "daemon: plan")]);
        let events = value["traceEvents"].as_array().unwrap();
        assert_eq!(events[0]["args"]["name"], "daemon");
        let plan = events.last().unwrap();
        assert_eq!((&plan["ts"], &plan["dur"]), (&json!(0.0), &json!(2.5)));
        assert!(micros(5_000_000_000).is_finite(), "a start on a machine that is very busy");
    }

    #[test]
    fn what_goes_on_at_the_same_time_is_on_threads_of_its_own() {
        let spans = [
            span("0", "10", "daemon: outer"),
            span("2", "6", "daemon: one"),
            span("4", "8", "daemon: at the same time"),
            span("6", "7", "daemon: after one"),
        ];
        let value = chrome(&spans);
        let thread = |name: &str| {
            let events = value["traceEvents"].as_array().unwrap();
            events.iter().find(|event| event["name"] == name).unwrap()["tid"].clone()
        };
        assert_eq!(
            [thread("outer"), thread("one"), thread("after one")],
            [1, 1, 1].map(|n| json!(n))
        );
        assert_eq!(thread("at the same time"), 2);
    }

    #[test]
    fn what_no_step_tells_of_is_told() {
        let spans = [
            span("0", "10000000", "client: whole"),
            span("1000000", "3000000", "daemon: one"),
            span("2000000", "4000000", "shim: at the same time"),
        ];
        let text = waterfall(&spans);
        assert!(text.contains("10.000 ms in all: 3.000 in the innermost steps, 7.000"), "{text}");
        assert!(Span::parse(&["2", "1", "shim: backwards"]).is_err());
    }
}
