//! Kubernetes quantities: `500m`, `0.5`, `64Mi`, `1e3`.

use super::node::Value;

/// A quantity in thousandths, rounded up. Thousandths hold every CPU amount Kubernetes accepts
/// exactly, and every amount of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity {
    milli: i64,
}

impl Quantity {
    /// Reads a quantity from a text or a number; `None` if it is none, or too large.
    pub(super) fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Self::parse(text),
            Value::Integer(number) => Self::parse(&number.to_string()),
            Value::Float(number) => Self::parse(&number.to_string()),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
        let (factor, exponent) = scale(suffix)?;
        let exponent = exponent + 3 - i32::try_from(fraction.len()).ok()?;
        let scaled = mantissa.checked_mul(factor)?;
        let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
        let milli = if exponent >= 0 {
            scaled.checked_mul(power)?
        } else {
            scaled.checked_add(power - 1)? / power
        };
        Some(Self { milli: i64::try_from(milli).ok()? })
    }

    /// Thousandths.
    pub(super) fn milli(self) -> i64 {
        self.milli
    }

    /// Whole units, rounded up.
    pub(super) fn whole(self) -> i64 {
        self.milli.div_euclid(1000) + i64::from(self.milli.rem_euclid(1000) > 0)
    }
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let decimal = |exponent| Some((1, exponent));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => Some((1 << 10, 0)),
        "Mi" => Some((1 << 20, 0)),
        "Gi" => Some((1 << 30, 0)),
        "Ti" => Some((1 << 40, 0)),
        "Pi" => Some((1 << 50, 0)),
        "Ei" => Some((1 << 60, 0)),
        _ => decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|e: &i32| e.abs() < 30)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, milli) in [
            ("1", 1000),
            ("0", 0),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1000),
            ("1.5k", 1_500_000),
            ("64Mi", 64 * 1024 * 1024 * 1000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("2E-1", 200),
            ("1Gi", 1024 * 1024 * 1024 * 1000),
            // Rounded up: nothing that was asked for becomes nothing.
            ("1u", 1),
            ("100n", 1),
        ] {
            assert_eq!(Quantity::parse(text), Some(Quantity { milli }), "{text}");
        }
        for text in ["", "m", "-1", "1 Gi", "1gi", "1.2.3", "0x10", "1e", "99999999999Ei", "1e99"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_are_rounded_up() {
        let whole = |text| Quantity::parse(text).unwrap().whole();
        assert_eq!((whole("1001m"), whole("1000m"), whole("0")), (2, 1, 0));
    }
}
