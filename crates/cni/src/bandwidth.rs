//! Kubernetes' bandwidth annotations: quantities in bits per second.

/// Why a bandwidth annotation cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: `{value}` is not a bandwidth between 1k and 1P")]
pub struct BandwidthError {
    /// The annotation's key.
    pub annotation: &'static str,
    /// Its value.
    pub value: String,
}

const LEAST: u128 = 1_000;
const MOST: u128 = 1_000_000_000_000_000;

/// Bits per second of an annotation's value.
pub(crate) fn parse(annotation: &'static str, value: &str) -> Result<u64, BandwidthError> {
    quantity(value)
        .filter(|rate| (LEAST..=MOST).contains(rate))
        .and_then(|rate| u64::try_from(rate).ok())
        .ok_or_else(|| BandwidthError { annotation, value: value.to_owned() })
}

/// A Kubernetes quantity (`10M`, `1.5Gi`, `1e6`), rounded up to a whole number.
fn quantity(text: &str) -> Option<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || number.len() > 18 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (factor, scale) = multiplier(suffix)?;
    Some(digits.checked_mul(factor)?.div_ceil(divisor.checked_mul(scale)?))
}

/// What a suffix multiplies by, as a fraction.
fn multiplier(suffix: &str) -> Option<(u128, u128)> {
    let binary = |power: u32| Some((1_u128 << power, 1));
    let decimal = |power: u32| Some((10_u128.checked_pow(power)?, 1));
    match suffix {
        "" => Some((1, 1)),
        "m" => Some((1, 1_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| *power <= 18)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bits_per_second() {
        let table = [
            ("1k", 1_000),
            ("10M", 10_000_000),
            ("1.5M", 1_500_000),
            ("1Gi", 1 << 30),
            ("1e6", 1_000_000),
            ("1000000m", 1_000),
            ("1P", 1_000_000_000_000_000),
            ("1000.1", 1_001),
        ];
        for (text, want) in table {
            assert_eq!(parse("a", text), Ok(want), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = "9".repeat(60);
        for text in ["", "abc", "999", "2P", "1Pi", "-1M", "1.2.3M", "1 M", "1Mb", ".", &long] {
            assert!(parse("a", text).is_err(), "{text}");
        }
    }
}
