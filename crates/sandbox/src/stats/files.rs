//! The kernel's small text files.

use std::collections::HashMap;
use std::path::Path;

use model::{Pressure, PressureLine};

/// A file that holds one number; `max` is the largest.
pub(super) fn number(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    match text.trim() {
        "max" => Some(u64::MAX),
        digits => digits.parse().ok(),
    }
}

/// A whole file; one that cannot be read is empty.
pub(super) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A file of `key value` lines.
pub(super) fn keyed(path: &Path) -> HashMap<String, u64> {
    text(path)
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
        .collect()
}

/// A pressure file.
pub(super) fn pressure(path: &Path) -> Option<Pressure> {
    parse_pressure(&std::fs::read_to_string(path).ok()?)
}

fn parse_pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let target = match words.next()? {
            "some" => &mut pressure.some,
            "full" => &mut pressure.full,
            _later_kinds => continue,
        };
        *target = PressureLine::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => target.avg10 = value.parse().ok()?,
                "avg60" => target.avg60 = value.parse().ok()?,
                "avg300" => target.avg300 = value.parse().ok()?,
                "total" => target.total_ns = value.parse::<u64>().ok()?.saturating_mul(1000),
                _later_fields => {}
            }
        }
    }
    Some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_in_percent_and_nanoseconds() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=12\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let pressure = parse_pressure(text).unwrap();
        assert!((pressure.some.avg10 - 1.5).abs() < f64::EPSILON);
        assert_eq!((pressure.some.total_ns, pressure.full.total_ns), (12_000, 3_000));
        assert_eq!(parse_pressure("some avg10=x"), None);
    }
}
