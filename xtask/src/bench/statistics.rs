//! What is said about measured values: robust against the odd one, and honest about how sure it is.

/// Resamples that an interval is taken from.
const RESAMPLES: usize = 2000;
/// Fewer values say nothing about how they vary.
const ENOUGH: usize = 5;

/// The value below which a share `q` of all values lies, between neighbours in proportion.
pub(super) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q * (as_f64(sorted.len()) - 1.0);
    for (number, neighbours) in sorted.windows(2).enumerate() {
        let &[below, above] = neighbours else { continue };
        let part = place - as_f64(number);
        if part < 1.0 {
            return below + (above - below) * part;
        }
    }
    sorted.last().copied().unwrap_or(f64::NAN)
}

pub(super) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

fn as_f64(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

/// How much larger the median of `other` is than that of `base`, with the interval that holds 95 %
/// of what other draws of the same values would say (a bootstrap); none where there are too few.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ratio {
    pub(super) value: f64,
    pub(super) interval: Option<(f64, f64)>,
}

impl Ratio {
    pub(super) fn of(other: &[f64], base: &[f64]) -> Self {
        let value = median(other) / median(base);
        if other.len() < ENOUGH || base.len() < ENOUGH {
            return Self { value, interval: None };
        }
        let mut draws = Draws(0x9e37_79b9_7f4a_7c15);
        let ratios: Vec<f64> = (0..RESAMPLES)
            .map(|_| median(&draws.resample(other)) / median(&draws.resample(base)))
            .collect();
        Self { value, interval: Some((quantile(&ratios, 0.025), quantile(&ratios, 0.975))) }
    }

    /// The other way round.
    pub(super) fn inverse(self) -> Self {
        let interval = self.interval.map(|(low, high)| (1.0 / high, 1.0 / low));
        Self { value: 1.0 / self.value, interval }
    }
}

/// A sequence that is the same each time: a report must not change when nothing was measured.
struct Draws(u64);

impl Draws {
    fn resample(&mut self, values: &[f64]) -> Vec<f64> {
        let length = values.len().max(1) as u64;
        let one = |_: &f64| {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            // The upper bits: the lower ones of this generator are the worse ones.
            let place = usize::try_from((self.0 >> 11) % length).unwrap_or_default();
            values.get(place).copied().unwrap_or(f64::NAN)
        };
        values.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn medians_are_those_in_the_middle() {
        assert!(close(median(&[3.0, 1.0, 2.0]), 2.0));
        assert!(close(median(&[4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn quantiles_lie_between_their_neighbours() {
        let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        for (q, want) in [(0.0, 0.0), (0.25, 25.0), (0.95, 95.0), (1.0, 100.0)] {
            assert!(close(quantile(&values, q), want), "{q}");
        }
        assert!(close(quantile(&[1.0, 2.0], 0.75), 1.75));
        assert!(close(quantile(&[7.0], 0.95), 7.0));
    }

    #[test]
    fn a_ratio_knows_how_sure_it_is() {
        let base: Vec<f64> = (0..50).map(|n| 10.0 + f64::from(n % 5)).collect();
        let other: Vec<f64> = base.iter().map(|value| value * 3.0).collect();
        let ratio = Ratio::of(&other, &base);
        let (low, high) = ratio.interval.unwrap();
        assert!(
            close(ratio.value, 3.0) && low <= 3.0 && high >= 3.0 && high - low < 1.0,
            "{ratio:?}"
        );
        assert_eq!(ratio, Ratio::of(&other, &base));
        assert_eq!(Ratio::of(&[3.0], &[1.0]).interval, None);
        let inverse = ratio.inverse();
        assert!(close(inverse.value, 1.0 / 3.0) && inverse.interval.unwrap().0 < 1.0 / 3.0 + 1e-9);
    }
}
