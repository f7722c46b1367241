//! v1 CPU shares to v2 CPU weight.

/// The v2 `cpu.weight` (1…10000) for v1 `cpu.shares` (2…262144).
///
/// The newer conversion of runc ≥ 1.4 and crun ≥ 1.23, a quadratic in log2(shares) through
/// (2, 1), (1024, 100) and (262144, 10000):
/// `ceil(10 ^ ((l² + 125·l) / 612 − 7/34))`. The older linear one gave a pod that asks for one
/// CPU (1024 shares) a weight of 39, less than the default 100 of everything beside it.
pub fn weight_of_shares(shares: u64) -> u32 {
    match u32::try_from(shares) {
        Ok(0..=2) => 1,
        Ok(shares @ 3..=262_143) => {
            let log = f64::from(shares).log2();
            let exact = 10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0);
            round_up(exact)
        }
        Ok(_) | Err(_) => 10_000,
    }
}

/// The smallest weight not below `exact`, but for floating point noise.
fn round_up(exact: f64) -> u32 {
    let (mut low, mut high) = (1u32, 10_000u32);
    while low < high {
        let middle = low.midpoint(high);
        if f64::from(middle) >= exact - 1e-9 {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_anchors_of_the_curve_are_met() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (100, 17),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (1 << 40, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn more_shares_never_weigh_less() {
        let weights: Vec<u32> = (0..20_000).map(weight_of_shares).collect();
        assert!(weights.is_sorted());
        assert!(weights.iter().all(|weight| (1..=10_000).contains(weight)));
    }
}
