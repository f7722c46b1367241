//! One pod's start, step by step: for Chrome's or Perfetto's viewer, and as text.

use serde_json::{Value, json};

use anyhow::{Context, Result};

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
        Ok(Self {
            begin: begin.parse().context("begin of a span")?,
            end: end.parse().context("end of a span")?,
            lane: lane.to_owned(),
            name: name.to_owned(),
        })
    }

    fn holds(&self, other: &Self) -> bool {
        self.begin <= other.begin && other.end <= self.end
    }
}

/// Trace events in JSON: <https://ui.perfetto.dev> and `chrome://tracing` show them.
pub(super) fn chrome(spans: &[Span]) -> Value {
    let origin = spans.iter().map(|span| span.begin).min().unwrap_or_default();
    let mut lanes: Vec<&str> = Vec::new();
    for span in spans {
        if !lanes.contains(&span.lane.as_str()) {
            lanes.push(&span.lane);
        }
    }
    let number = |lane: &str| lanes.iter().position(|known| *known == lane);
    let names = lanes.iter().map(|lane| {
        json!({
            "ph": "M", "name": "process_name", "pid": number(lane), "tid": 0,
            "args": {"name": lane},
        })
    });
    let events = spans.iter().map(|span| {
        json!({
            "ph": "X", "name": span.name, "cat": span.lane, "pid": number(&span.lane), "tid": 0,
            "ts": micros(span.begin - origin), "dur": micros(span.end - span.begin),
        })
    });
    json!({ "displayTimeUnit": "ms", "traceEvents": names.chain(events).collect::<Vec<_>>() })
}

fn micros(nanos: u64) -> f64 {
    u32::try_from(nanos).map_or(f64::INFINITY, f64::from) / 1000.0
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
        assert_eq!((&events[1]["ts"], &events[1]["dur"]), (&json!(0.0), &json!(2.5)));
    }
}
