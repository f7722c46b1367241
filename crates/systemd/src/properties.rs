//! What a cgroup's files say, in systemd's words: it writes the files of its units again now and
//! then, and must write the same.

use std::time::Duration;

use crate::error::SystemdError;
use crate::wire::Value;

/// No limit.
const INFINITY: u64 = u64::MAX;
/// systemd keeps a quota as whole percents of a CPU: microseconds per second.
const PERCENT: u64 = 10_000;
const SECOND: u64 = 1_000_000;

/// A unit's property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    pub(crate) name: &'static str,
    pub(crate) value: Value,
}

impl Property {
    pub(crate) fn flag(name: &'static str, value: bool) -> Self {
        Self { name, value: Value::Bool(value) }
    }

    pub(crate) fn number(name: &'static str, value: u64) -> Self {
        Self { name, value: Value::U64(value) }
    }

    pub(crate) fn text(name: &'static str, value: &str) -> Self {
        Self { name, value: Value::Text(value.to_owned()) }
    }

    /// As many processes as the host bears: by default a unit gets a share of them.
    pub fn any_number_of_tasks() -> Self {
        Self::number("TasksMax", INFINITY)
    }

    /// How long what is in the unit has from SIGTERM to SIGKILL when it is stopped.
    pub fn stops_within(time: Duration) -> Self {
        Self::number("TimeoutStopUSec", u64::try_from(time.as_micros()).unwrap_or(INFINITY))
    }

    /// What it sets.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// The properties of a unit whose cgroup has these files with these values. Files that systemd does
/// not write itself have none.
///
/// # Errors
/// [`SystemdError::Setting`]: a value that the file would not take either.
pub fn of_settings<'a>(
    settings: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<Property>, SystemdError> {
    let mut properties = Vec::new();
    for (file, value) in settings {
        let refused = || SystemdError::Setting { file: file.to_owned(), value: value.to_owned() };
        let value = value.trim();
        let single = |name| number(value).map(|value| vec![Property::number(name, value)]);
        let set = |name| bits(value).map(|value| vec![Property { name, value }]);
        let found = match file {
            "cpu.weight" => single("CPUWeight"),
            "cpu.max" => quota(value),
            "cpuset.cpus" => set("AllowedCPUs"),
            "cpuset.mems" => set("AllowedMemoryNodes"),
            "memory.min" => single("MemoryMin"),
            "memory.low" => single("MemoryLow"),
            "memory.high" => single("MemoryHigh"),
            "memory.max" => single("MemoryMax"),
            "memory.swap.max" => single("MemorySwapMax"),
            "pids.max" => single("TasksMax"),
            // `default 100`, or the number alone.
            "io.weight" => match value.strip_prefix("default ").unwrap_or(value) {
                // Of one device: systemd leaves those it does not know alone.
                of_device if of_device.contains(':') => Some(Vec::new()),
                weight => number(weight).map(|value| vec![Property::number("IOWeight", value)]),
            },
            _of_no_concern_to_it => Some(Vec::new()),
        };
        properties.extend(found.ok_or_else(refused)?);
    }
    Ok(properties)
}

fn number(value: &str) -> Option<u64> {
    if value == "max" { Some(INFINITY) } else { value.parse().ok() }
}

/// `cpu.max`: quota and period, or the quota alone.
fn quota(value: &str) -> Option<Vec<Property>> {
    let mut words = value.split_whitespace();
    let quota = number(words.next()?)?;
    let period = words.next().map(|word| word.parse::<u64>().ok().filter(|period| *period > 0));
    let per_second = if quota == INFINITY {
        INFINITY
    } else {
        let exact = quota.checked_mul(SECOND)?.checked_div(period.flatten().unwrap_or(100_000))?;
        exact.checked_next_multiple_of(PERCENT)?
    };
    let mut properties = vec![Property::number("CPUQuotaPerSecUSec", per_second)];
    if let Some(period) = period {
        properties.push(Property::number("CPUQuotaPeriodUSec", period?));
    }
    Some(properties)
}

/// `0-2,7`: a bit for each, the lowest first. Empty: all.
fn bits(value: &str) -> Option<Value> {
    /// More than any kernel has.
    const MOST: usize = 1 << 16;
    let mut bytes = Vec::new();
    for range in value.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        for bit in first..=last {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0_u8);
            }
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    Some(Value::Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: &str, value: &str, want: &[(&'static str, Value)]) {
        let want: Vec<Property> =
            want.iter().map(|(name, value)| Property { name, value: value.clone() }).collect();
        assert_eq!(of_settings([(file, value)]).unwrap(), want, "{file} {value}");
    }

    #[test]
    fn files_have_their_counterparts() {
        check("cpu.weight", "59", &[("CPUWeight", Value::U64(59))]);
        check("memory.max", "67108864", &[("MemoryMax", Value::U64(64 << 20))]);
        check("memory.max", "max", &[("MemoryMax", Value::U64(u64::MAX))]);
        check("pids.max", "max", &[("TasksMax", Value::U64(u64::MAX))]);
        check("memory.oom.group", "1", &[]);
        check("io.weight", "default 200", &[("IOWeight", Value::U64(200))]);
        check("io.weight", "8:0 200", &[]);
    }

    #[test]
    fn a_quota_is_per_second_and_never_less_than_asked() {
        let quota = |per_second, period| {
            [
                ("CPUQuotaPerSecUSec", Value::U64(per_second)),
                ("CPUQuotaPeriodUSec", Value::U64(period)),
            ]
        };
        check("cpu.max", "50000 100000", &quota(500_000, 100_000));
        check("cpu.max", "33333 100000", &quota(340_000, 100_000));
        check("cpu.max", "max 100000", &quota(u64::MAX, 100_000));
        check("cpu.max", "150000", &[("CPUQuotaPerSecUSec", Value::U64(1_500_000))]);
    }

    #[test]
    fn sets_are_bits() {
        check("cpuset.cpus", "0-2,9", &[("AllowedCPUs", Value::Bytes(vec![0b111, 0b10]))]);
        check("cpuset.mems", "", &[("AllowedMemoryNodes", Value::Bytes(Vec::new()))]);
    }

    #[test]
    fn what_no_file_takes_is_refused() {
        for (file, value) in [
            ("cpu.weight", "many"),
            ("cpu.max", "5 0"),
            ("cpu.max", ""),
            ("cpuset.cpus", "3-1"),
            ("cpuset.cpus", "99999999"),
        ] {
            let refused = of_settings([(file, value)]).unwrap_err();
            assert!(matches!(refused, SystemdError::Setting { .. }), "{file} {value}");
        }
    }
}
