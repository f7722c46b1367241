//! Numbers, times and ids as people read and write them.

use std::time::Duration;

/// Length of a shortened id in tables.
const SHORT_ID: usize = 13;

/// An id short enough for a table, still unique in practice.
#[must_use]
pub fn short_id(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..SHORT_ID).unwrap_or(id)
}

/// Bytes with a binary unit and at most one decimal: `4.2MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut scale = 1024_u64;
    let mut unit = 0;
    while count / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    let tenths = u128::from(count) * 10 / u128::from(scale);
    if tenths >= 100 {
        format!("{}{}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// How long before `now_ns` something happened, in the largest fitting unit; `-` if it did not.
#[must_use]
pub fn age(now_ns: i64, then_ns: i64) -> String {
    if then_ns <= 0 {
        return "-".to_owned();
    }
    let seconds = now_ns.saturating_sub(then_ns).max(0) / 1_000_000_000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Nanoseconds since the epoch, now.
#[must_use]
pub fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Percent of one CPU with two decimals, from billionths of a CPU.
#[must_use]
pub fn cpu_percent(nano_cores: u64) -> String {
    let hundredths = nano_cores / 100_000;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// A length of time as typed: `90`, `90s`, `1m30s`, `2h`.
///
/// # Errors
/// A sentence for the person who typed it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| format!("`{text}` is not a length of time such as `30s`, `5m` or `1h30m`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_get_the_unit_that_keeps_them_short() {
        for (count, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (10 * 1024 * 1024, "10MiB"),
            (4_509_715_661, "4.2GiB"),
            (u64::MAX, "15EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn ages_are_coarse_and_never_negative() {
        let second = 1_000_000_000;
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200_000, "2d"), (-5, "0s")]
        {
            assert_eq!(age(1_000_000 * second, (1_000_000 - seconds) * second), text);
        }
        assert_eq!(age(5, 0), "-");
    }

    #[test]
    fn durations_are_read_as_typed() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(parse_duration("soon").unwrap_err().contains("`soon`"));
        assert!(parse_duration("-3s").is_err());
    }

    #[test]
    fn ids_shorten_without_their_algorithm() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789abc");
        assert_eq!(short_id("abc"), "abc");
    }

    #[test]
    fn cpu_is_a_percentage_of_one_core() {
        assert_eq!(cpu_percent(1_000_000_000), "100.00");
        assert_eq!(cpu_percent(12_345_678), "1.23");
    }
}
